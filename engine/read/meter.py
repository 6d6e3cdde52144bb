"""Measurements of the read side, named by what happened. `engine.adapters.prometheus.api` counts them.

Imports nothing of ours. A meter never raises, never waits. All durations are in seconds.
"""

from typing import Literal, Protocol

Source = Literal["precomputed", "computed", "cached", "replica", "none"]
"""Where an answer came from; `none` when it is no answer to a question."""
Cache = Literal["process", "store"]
Comparison = Literal["equal", "different", "missing"]


class ApiMeter(Protocol):
    """Hears of everything worth counting."""

    def answered(self, route: str, status: int, source: Source, duration_s: float | None) -> None:
        """A request was answered; `route` is the path with its parameters' names, never what was sent. The duration is
        None of a live client, who stays as long as it likes."""

    def cache_asked(self, cache: Cache, *, hit: bool) -> None:
        """An answer was looked for among those that are kept."""

    def precomputed_missing(self, aggregate: str) -> None:
        """The read model lacked what it should hold; the answer was computed."""

    def compared(self, aggregate: str, comparison: Comparison) -> None:
        """In shadow an answer was compared with the precomputed one."""


class NullApiMeter:
    """Counts nothing."""

    def answered(self, route: str, status: int, source: Source, duration_s: float | None) -> None:
        """Nothing."""

    def cache_asked(self, cache: Cache, *, hit: bool) -> None:
        """Nothing."""

    def precomputed_missing(self, aggregate: str) -> None:
        """Nothing."""

    def compared(self, aggregate: str, comparison: Comparison) -> None:
        """Nothing."""
