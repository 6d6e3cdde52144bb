"""The view: what a question is answered from, the games that exist at a moment, and the zone in which to say so.

Imports numpy, schemas and projections. A view is made once for a question; every answer is a pure function of a view
and a question, so the same version, moment and question always get the same answer.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from crashfold.engine.read.fairness import DEFAULT, TableFairness
from crashfold.engine.read.past import NO_PAST, Past
from crashfold.engine.read.times import HOUR_US, Zone
from crashfold.projections.columns import Ints
from crashfold.projections.games import Games
from crashfold.projections.settings import ProjectionSettings
from crashfold.schemas.predicate import Predicate

Mask = NDArray[np.bool_]

DEFAULTS: Final = ProjectionSettings()


class View(msgspec.Struct, frozen=True):
    """The games of the window that exist at the moment asked about, in order of id."""

    games: Games
    zone: Zone
    now_us: int
    """The moment asked about, or the server's clock."""
    at_us: int | None = None
    """The moment asked about, if any."""
    past: Past = NO_PAST
    """The past: the games before the window."""
    fairness: TableFairness = DEFAULT
    """The rules of the table."""
    settings: ProjectionSettings = DEFAULTS
    """The predicates, samples and sizes that the engine keeps."""

    @classmethod
    def of(
        cls,
        window: Games,
        zone: Zone,
        now_us: int,
        at_us: int | None = None,
        past: Past = NO_PAST,
        fairness: TableFairness = DEFAULT,
        settings: ProjectionSettings = DEFAULTS,
    ) -> "View":
        """The view of `window` now or, given `at_us`, as if the games that ended later did not exist."""
        if at_us is None:
            return cls(window, zone, now_us, None, past, fairness, settings)
        return cls(existing(window, at_us), zone, at_us, at_us, past, fairness, settings)

    def exists(self, end_time_ms: int) -> bool:
        """Whether a game that ended then exists at the moment asked about."""
        return self.at_us is None or end_time_ms * 1000 <= self.at_us

    def hours_ago_us(self, hours: int) -> int:
        """The moment so many hours before this one."""
        return self.now_us - hours * HOUR_US

    def within(self, begin_us: int, end_us: int) -> Mask:
        """Which games ended from `begin_us` to `end_us`, both included."""
        times = self.games.end_times
        return (times >= -(-begin_us // 1000)) & (times <= end_us // 1000)


def existing(window: Games, at_us: int) -> Games:
    """The games that had ended by then. Without a copy where end times rise with ids, as they nearly always do."""
    ended = window.end_times <= at_us // 1000
    count = int(np.count_nonzero(ended))
    return window.part(0, count) if ended[:count].all() else window.where(ended)


def matching(hundredths: Ints, predicate: Predicate) -> Mask:
    """Which of the crash points match."""
    high = predicate.high
    if high is None:
        return hundredths >= predicate.low
    if predicate.low <= 0:
        return hundredths < high
    return (hundredths >= predicate.low) & (hundredths < high)


def counts(hundredths: Ints, predicates: Sequence[Predicate]) -> list[int]:
    """How many of the crash points match each predicate."""
    return [int(np.count_nonzero(matching(hundredths, predicate))) for predicate in predicates]


def counts_by_group(hundredths: Ints, predicates: Sequence[Predicate], groups: Ints, group_count: int) -> Ints:
    """How many of the crash points match each predicate in each group: predicates × groups. `groups` tells the group of
    each crash point."""
    masks = (matching(hundredths, predicate) for predicate in predicates)
    return np.array([np.bincount(groups[mask], minlength=group_count) for mask in masks], np.int64)


def percentage(count: int, total_games: int) -> float:
    """Per cent, in the order of the formula; 0 of nothing."""
    return count / total_games * 100 if total_games else 0.0
