"""Records: per predicate the longest run of games that do not match it, and the highest game that does, of all time.

Imports numpy, msgspec and columns. A run counts while it is open. Of two that are equal the older one is the record.
"""

from typing import Final

import msgspec
import numpy as np

from crashfold.projections.columns import Ints
from crashfold.projections.delta import Delta, Value, WriteHash
from crashfold.projections.games import BAND, END_TIME, HUNDREDTHS, ID, Bands, Games, games_of
from crashfold.projections.projection import Moment
from crashfold.projections.settings import ProjectionSettings
from crashfold.schemas import keys
from crashfold.schemas.aggregates import LongestRun
from crashfold.schemas.game import encode

_START_ID, _START_TIME, _LENGTH = 0, 1, 2
"""Rows of an open run."""
_RUN_LENGTH = 4
"""The last row of a longest run; those before are id and time of its first game, and of its last."""
_NO_END: Final = np.iinfo(np.int64).max
_CHUNK: Final = 16_384
"""Games that are looked at together: predicates × games is the memory it takes."""


class RecordsState(msgspec.Struct, frozen=True, gc=False):
    """Tables with a column a predicate: the run that is open, the longest run, the cells of the highest game. A length
    of 0 is no run, hundredths of 0 no game."""

    open: np.ndarray
    longest: np.ndarray
    highest: np.ndarray


class RecordsProjection:
    """See docs/rules.md, section 4.5."""

    name = "records"
    version = 1
    aggregates = ("records",)

    def __init__(self, settings: ProjectionSettings, bands: Bands) -> None:
        self._names = [keys.records(predicate) for predicate in settings.predicates]
        self._low, self._high = bands.low[:, np.newaxis], bands.high[:, np.newaxis]
        self._matches = bands.matches
        self._least = np.array([predicate.low for predicate in settings.predicates], np.int64)
        ends = [
            np.iinfo(np.int64).max if predicate.high is None else predicate.high for predicate in settings.predicates
        ]
        self._end = np.array(ends, np.int64)

    def empty(self) -> RecordsState:
        """No records."""
        count = len(self._names)
        return RecordsState(*(np.zeros((rows, count), np.int64) for rows in (3, 5, BAND)))

    def fold(self, state: RecordsState, games: Games) -> RecordsState:
        """The records with `games` behind those of before."""
        if len(games) == 1:
            return self._with_one(state, games)
        for start in range(0, len(games), _CHUNK) if self._names else ():
            part = games.part(start, start + _CHUNK)
            state = RecordsState(*self._runs(state, part), self._highest(state.highest, part))
        return state

    def keys(self, moment: Moment[RecordsState]) -> dict[str, Value]:
        """The records of every predicate."""
        fields = _fields(moment.state, np.arange(len(self._names)), np.arange(len(self._names)))
        return {self._names[predicate]: found for predicate, found in fields.items()}

    def delta(self, before: Moment[RecordsState], after: Moment[RecordsState], kept: int) -> Delta:
        """The records that changed. `kept` does not matter, and none is ever lost: a late game ends no record that
        another one does not take the place of."""
        old, new = before.state, after.state
        if new.longest is old.longest and new.highest is old.highest:
            return {}
        longer = np.flatnonzero((old.longest != new.longest).any(axis=0))
        higher = np.flatnonzero((old.highest != new.highest).any(axis=0))
        known = (old.longest[_RUN_LENGTH] > 0).astype(np.int64) + (old.highest[HUNDREDTHS] > 0)
        return {
            self._names[predicate]: WriteHash(found, known=int(known[predicate]))
            for predicate, found in _fields(new, longer, higher).items()
        }

    def _with_one(self, state: RecordsState, game: Games) -> RecordsState:
        """The records with one game behind those of before: as by `_runs` and `_highest`, in a fifth of the time."""
        game_id, hundredths, end_time = game.columns.cells[[ID, HUNDREDTHS, END_TIME], 0].tolist()
        matches = self._matches[game.band_numbers[0]]
        opened, longest, highest = state.open.copy(), state.longest, state.highest
        begins = opened[_LENGTH] == 0
        opened[_START_ID, begins], opened[_START_TIME, begins] = game_id, end_time
        opened[_LENGTH] += 1
        opened[:, matches] = 0
        longer = opened[_LENGTH] > longest[_RUN_LENGTH]
        if longer.any():
            longest = longest.copy()
            longest[:2, longer] = opened[:_LENGTH, longer]
            longest[2, longer], longest[3, longer] = game_id, end_time
            longest[_RUN_LENGTH, longer] = opened[_LENGTH, longer]
        higher = matches & (hundredths > highest[HUNDREDTHS])
        if higher.any():
            highest = highest.copy()
            highest[:, higher] = game.columns.cells[:BAND]
        return RecordsState(opened, longest, highest)

    def _runs(self, state: RecordsState, games: Games) -> tuple[Ints, Ints]:
        """The open and the longest runs."""
        bands, count = games.band_numbers, len(games)
        matches = (bands >= self._low) & (bands < self._high)
        rows = np.arange(count, dtype=np.int32)
        newest = np.maximum.accumulate(np.where(matches, rows, np.int32(-1)), axis=1)
        lengths = rows - newest  # of the run at each game, 0 at a match
        lengths += np.where(newest < 0, state.open[_LENGTH].astype(np.int32)[:, np.newaxis], np.int32(0))
        ends = lengths.argmax(axis=1)
        longest = np.take_along_axis(lengths, ends[:, np.newaxis], axis=1)[:, 0].astype(np.int64)
        better = np.flatnonzero(longest > state.longest[_RUN_LENGTH])
        found = state.longest
        if len(better):
            ends, found = ends[better], found.copy()
            starts = self._starts(state.open[:, better], games, ends, longest[better])
            found[:, better] = (*starts, games.ids[ends], games.end_times[ends], longest[better])
        last = lengths[:, -1].astype(np.int64)
        starts = self._starts(state.open, games, np.full(len(last), count - 1), last)
        return np.where(last > 0, np.stack((*starts, last)), 0), found

    def _starts(self, opened: Ints, games: Games, ends: Ints, lengths: Ints) -> tuple[Ints, Ints]:
        """Id and time of the first game of runs that end in those rows: of `opened` when that lies before them."""
        rows = ends - lengths + 1
        inside = np.clip(rows, 0, len(games) - 1)
        return (
            np.where(rows < 0, opened[_START_ID], games.ids[inside]),
            np.where(rows < 0, opened[_START_TIME], games.end_times[inside]),
        )

    def _highest(self, highest: Ints, games: Games) -> Ints:
        """The cells of the highest games."""
        hundredths = games.hundredths
        rising = np.sort(hundredths)
        at = np.searchsorted(rising, self._end) - 1
        tops = np.where(at >= 0, rising[at], 0)
        better = np.flatnonzero((tops >= self._least) & (tops > highest[HUNDREDTHS]))
        if not len(better):
            return highest
        values, which = np.unique(tops[better], return_inverse=True)
        rows = np.array([int((hundredths == value).argmax()) for value in values.tolist()])
        found = highest.copy()
        found[:, better] = games.columns.cells[:BAND, rows[which]]
        return found


def _fields(state: RecordsState, longer: Ints, higher: Ints) -> dict[int, dict[str, bytes]]:
    """By predicate the fields of its records: the longest runs and the highest games of those predicates."""
    fields: dict[int, dict[str, bytes]] = {}
    for predicate, run in zip(longer.tolist(), state.longest[:, longer].T.tolist(), strict=True):
        if run[_RUN_LENGTH]:
            fields.setdefault(predicate, {})[keys.LONGEST_RUN] = msgspec.json.encode(LongestRun(*run))
    higher = higher[state.highest[HUNDREDTHS, higher] > 0]
    for predicate, game in zip(higher.tolist(), games_of(state.highest[:, higher]), strict=True):
        fields.setdefault(predicate, {})[keys.HIGHEST_GAME] = encode(game)
    return fields
