"""Measurements of the runtime and of the read side, named by what happened. `engine.adapters.prometheus` counts them.

Imports facts and errors only, so that neither ever imports a metrics library. A meter never raises, never waits. All
durations are in seconds. `Meter` and `ApiMeter` count nothing, so each of them is its own twin for tests: subclasses
override what they count.
"""

from collections.abc import Sequence
from typing import Literal

from crashfold.engine.errors import Unavailable
from crashfold.engine.ports import Bounds, Outcome, ServerUsage

FairnessFault = Literal["hash", "chain"]
"""The crash point does not follow from the hash, or the hash does not lead to the one before."""
Source = Literal["precomputed", "computed", "cached", "replica", "none"]
"""Where an answer came from; `none` when it is no answer to a question."""
Cache = Literal["process", "store"]
Comparison = Literal["equal", "different", "missing"]
Transport = Literal["sse", "websocket"]


class Meter:
    """Measurements of the runtime. Counts nothing: subclasses do."""

    def step_took(self, duration_s: float, games: int) -> None:
        """One turn of the loop is over, which took in so many records."""

    def folded(self, accepted: int, duplicates: int, late: int) -> None:
        """So many games took their place, `late` of them behind newer ones; so many had been folded before."""

    def committed(self, duration_s: float, outcomes: Sequence[Outcome]) -> None:
        """The store answered for one commit per stream."""

    def stands(self, stream: str, newest_end_time_ms: int | None) -> None:
        """The newest game of the stream, as it is committed, ended then; None when it has no game."""

    def moved(self, partition: int, now_ms: int) -> None:
        """A commit of a stream of this partition was made."""

    def commit_failed(self, error: Unavailable) -> None:
        """The store refused, or did not answer, so that the outcome is unknown; it is asked again."""

    def rejected(self, reason: str, count: int = 1) -> None:
        """So many records cannot be folded."""

    def buried(self, reason: str, count: int = 1) -> None:
        """So many dead letters were handed over."""

    def unfair(self, fault: FairnessFault, games: int = 1) -> None:
        """So many games do not fit their hashes."""

    def rebalanced(self) -> None:
        """Partitions were gained or lost."""

    def holding(self, *, partitions: int, streams: int) -> None:
        """So many are held now."""

    def lagging(self, partition: int, next_offset: int, bounds: Bounds, freshness_s: float = 0.0) -> None:
        """The partition is committed up to `next_offset` and the log holds `bounds` of it. `freshness_s` is how long
        ago the last record that is committed was written to the log, and 0 when there is no lag."""

    def store_used(self, servers: Sequence[ServerUsage]) -> None:
        """Take the memory and the hit rates that the store's servers report."""

    def stream_takes(self, stream: str, memory_bytes: int) -> None:
        """The keys of the stream take so much of the store's memory."""

    def released(self, partition: int) -> None:
        """The partition is held no longer: its lag is another engine's."""

    def loop_lagged(self, duration_s: float) -> None:
        """The event loop woke so much later than it was asked to."""


class ApiMeter:
    """Measurements of the read side. Counts nothing: subclasses do."""

    def answered(self, route: str, status: int, source: Source, duration_s: float | None) -> None:
        """A request was answered; `route` is the path with its parameters' names, never what was sent. The duration is
        None of a live client, who stays as long as it likes."""

    def cache_asked(self, cache: Cache, *, hit: bool) -> None:
        """An answer was looked for among those that are kept."""

    def precomputed_missing(self, aggregate: str) -> None:
        """The read model lacked what it should hold; the answer was computed."""

    def compared(self, aggregate: str, comparison: Comparison) -> None:
        """In shadow an answer was compared with the precomputed one."""

    def live_clients(self, transport: Transport, clients: int) -> None:
        """So many live clients are connected now."""

    def live_client_dropped(self, transport: Transport) -> None:
        """A live client did not take what was written in time, and was dropped."""

    def live_client_refused(self, transport: Transport) -> None:
        """A live client came when all places were taken."""


class Meters(Meter):
    """Passes each measurement on to several meters."""

    def __init__(self, *meters: Meter) -> None:
        self._meters = meters

    def step_took(self, duration_s: float, games: int) -> None:
        """Pass on to each meter."""
        for meter in self._meters:
            meter.step_took(duration_s, games)

    def folded(self, accepted: int, duplicates: int, late: int) -> None:
        """Pass on to each meter."""
        for meter in self._meters:
            meter.folded(accepted, duplicates, late)

    def committed(self, duration_s: float, outcomes: Sequence[Outcome]) -> None:
        """Pass on to each meter."""
        for meter in self._meters:
            meter.committed(duration_s, outcomes)

    def stands(self, stream: str, newest_end_time_ms: int | None) -> None:
        """Pass on to each meter."""
        for meter in self._meters:
            meter.stands(stream, newest_end_time_ms)

    def moved(self, partition: int, now_ms: int) -> None:
        """Pass on to each meter."""
        for meter in self._meters:
            meter.moved(partition, now_ms)

    def commit_failed(self, error: Unavailable) -> None:
        """Pass on to each meter."""
        for meter in self._meters:
            meter.commit_failed(error)

    def rejected(self, reason: str, count: int = 1) -> None:
        """Pass on to each meter."""
        for meter in self._meters:
            meter.rejected(reason, count)

    def buried(self, reason: str, count: int = 1) -> None:
        """Pass on to each meter."""
        for meter in self._meters:
            meter.buried(reason, count)

    def unfair(self, fault: FairnessFault, games: int = 1) -> None:
        """Pass on to each meter."""
        for meter in self._meters:
            meter.unfair(fault, games)

    def rebalanced(self) -> None:
        """Pass on to each meter."""
        for meter in self._meters:
            meter.rebalanced()

    def holding(self, *, partitions: int, streams: int) -> None:
        """Pass on to each meter."""
        for meter in self._meters:
            meter.holding(partitions=partitions, streams=streams)

    def lagging(self, partition: int, next_offset: int, bounds: Bounds, freshness_s: float = 0.0) -> None:
        """Pass on to each meter."""
        for meter in self._meters:
            meter.lagging(partition, next_offset, bounds, freshness_s)

    def store_used(self, servers: Sequence[ServerUsage]) -> None:
        """Pass on to each meter."""
        for meter in self._meters:
            meter.store_used(servers)

    def stream_takes(self, stream: str, memory_bytes: int) -> None:
        """Pass on to each meter."""
        for meter in self._meters:
            meter.stream_takes(stream, memory_bytes)

    def released(self, partition: int) -> None:
        """Pass on to each meter."""
        for meter in self._meters:
            meter.released(partition)

    def loop_lagged(self, duration_s: float) -> None:
        """Pass on to each meter."""
        for meter in self._meters:
            meter.loop_lagged(duration_s)
