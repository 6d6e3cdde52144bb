"""The settings of the projections: predicates, samples and sizes. The section `[projections]`.

The fixed sizes of docs/rules.md stand here as constants, with everything else that shapes the read model.
"""

from functools import cached_property
from typing import Final

import msgspec

from crashfold.schemas.predicate import KINDS, Kind, Predicate

SERIES_KEPT: Final = 1000
FOLLOW_GAMES_KEPT: Final = 1000
LAST_GAMES_KEPT: Final = 100
GAPS_KEPT: Final = 10_000

HOUR_MS: Final = 3_600_000
MINUTE_MS: Final = 60_000
DAY_MINUTES: Final = 1440
HOURS_MAX: Final = 168
FUTURE_HOURS_MAX_MAX: Final = 1_000_000
"""As good as any: 114 years."""


ALL_INSTALLED: Final = "*"


class ProjectionSettings(msgspec.Struct, frozen=True, dict=True, forbid_unknown_fields=True):
    """The predicates by kind, the samples and the sizes; the defaults suit a table with a round every half minute.

    Raises ValueError, naming the field, when a value is out of bounds.
    """

    min: tuple[float, ...] = (
        *(1.5, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 25, 30, 40, 50),
        *(75, 100, 150, 200, 250, 300, 400, 500, 1000),
    )
    max: tuple[float, ...] = (1, 1.01, 1.2, 1.5, 2, 3, 5, 10)
    floor: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    range: tuple[str, ...] = ()
    samples_games: tuple[int, ...] = (100, 500, 1000)
    samples_hours: tuple[int, ...] = (1, 6, 24)
    interval_minutes: int = 10
    interval_hours: int = 24
    window_games: int = 50_000
    future_hours_max: int = 24
    """So far may a game's end lie after the timestamp of its record; 0 stands for any distance."""
    own: tuple[str, ...] = (ALL_INSTALLED,)
    """Projections of other packages: names of entry points, `module:object`, or `*` for every entry point."""

    def __post_init__(self) -> None:
        for kind in KINDS:
            printed = [str(predicate) for predicate in self._of_kind(kind)]
            _require(len(set(printed)) == len(printed), kind, "names a value twice")
        _require(1 <= self.window_games <= 10_000_000, "window_games", "is outside 1 to 10000000")
        _require(
            all(1 <= games <= self.window_games for games in self.samples_games),
            "samples_games",
            f"has a size outside 1 to window_games ({self.window_games})",
        )
        _require(
            all(1 <= hours <= HOURS_MAX for hours in self.samples_hours),
            "samples_hours",
            f"has a size outside 1 to {HOURS_MAX}",
        )
        for name, sizes in (("samples_games", self.samples_games), ("samples_hours", self.samples_hours)):
            _require(len(set(sizes)) == len(sizes), name, "names a size twice")
        _require(
            self.interval_minutes >= 1 and DAY_MINUTES % self.interval_minutes == 0,
            "interval_minutes",
            f"is no divisor of {DAY_MINUTES}",
        )
        _require(1 <= self.interval_hours <= HOURS_MAX, "interval_hours", f"is outside 1 to {HOURS_MAX}")

        _require(
            0 <= self.future_hours_max <= FUTURE_HOURS_MAX_MAX,
            "future_hours_max",
            f"is outside 0 to {FUTURE_HOURS_MAX_MAX}",
        )

        _require(len(set(self.own)) == len(self.own), "own", "names a projection twice")

    @cached_property
    def predicates(self) -> tuple[Predicate, ...]:
        """Every predicate, in the order of the settings: min, max, floor, range."""
        return tuple(predicate for kind in KINDS for predicate in self._of_kind(kind))

    @cached_property
    def kept(self) -> frozenset[Predicate]:
        """The predicates of the settings as a set."""
        return frozenset(self.predicates)

    @property
    def intervals_kept(self) -> int:
        """Count the buckets of time that are kept before the newest one."""
        return -(-self.interval_hours * 60 // self.interval_minutes)

    def _of_kind(self, kind: Kind) -> list[Predicate]:
        try:
            return [Predicate.of(kind, value) for value in getattr(self, kind)]
        except ValueError as error:
            raise ValueError(f"{kind}: {error}") from None


def _require(holds: bool, field: str, fault: str) -> None:
    if not holds:
        raise ValueError(f"{field} {fault}")
