"""How many games ended in each hour of the last year."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np

from crashfold.projections.delta import Delta, Value, WriteHash
from crashfold.projections.games import Games
from crashfold.projections.projection import Moment

HOUR_MS = 3_600_000
HOURS_KEPT = 366 * 24

Ints = np.ndarray[Any, np.dtype[np.int64]]


def no_ints() -> Ints:
    """Return an empty array."""
    return np.empty(0, np.int64)


class HoursState(msgspec.Struct, frozen=True):
    """The hours in which a game ended, since the epoch and oldest first, and how many did."""

    hours: np.ndarray = msgspec.field(default_factory=no_ints)
    games: np.ndarray = msgspec.field(default_factory=no_ints)


class Hours:
    """The key `hours`: a hash of counts by hour, such as `2026-11-28T10` (UTC)."""

    name = "hours"
    version = 1
    aggregates = ("hours",)

    def empty(self) -> HoursState:
        """Return the state before the first game."""
        return HoursState()

    def fold(self, state: HoursState, games: Games) -> HoursState:
        """Return the state after `games`."""
        new, counts = np.unique(games.end_times // HOUR_MS, return_counts=True)
        hours = np.union1d(state.hours, new)
        totals = np.zeros(len(hours), np.int64)
        totals[np.searchsorted(hours, state.hours)] = state.games
        totals[np.searchsorted(hours, new)] += counts
        kept = hours > hours[-1] - HOURS_KEPT
        return HoursState(hours[kept], totals[kept])

    def keys(self, moment: Moment[HoursState]) -> dict[str, Value]:
        """Return the key, once there is a game."""
        state = moment.state
        return {"hours": fields(state.hours, state.games)} if len(state.hours) else {}

    def delta(self, before: Moment[HoursState], after: Moment[HoursState], kept: int) -> Delta:
        """Return the write of the hours that changed: mostly one, of some 8,800."""
        old, new = before.state, after.state
        known = np.zeros(len(new.hours), np.int64)
        still = np.isin(old.hours, new.hours)
        known[np.searchsorted(new.hours, old.hours[still])] = old.games[still]
        changed = known != new.games
        write = WriteHash(fields(new.hours[changed], new.games[changed]), tuple(map(field, old.hours[~still].tolist())))
        return {"hours": write} if write.set or write.delete else {}


def fields(hours: Ints, games: Ints) -> dict[str, bytes]:
    """Return the fields of the hash for those hours."""
    return {field(hour): b"%d" % count for hour, count in zip(hours.tolist(), games.tolist(), strict=True)}


def field(hour: int) -> str:
    """Return the field's name of an hour since the epoch."""
    return datetime.fromtimestamp(hour * HOUR_MS / 1000, UTC).strftime("%Y-%m-%dT%H")
