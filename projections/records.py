"""Records: per predicate the longest run of games that do not match it, and the highest game that does, of all time.

Imports numpy, msgspec, columns and blocks. A run counts while it is open. Of two that are equal the older one is the
record.
"""

from typing import Final

import msgspec
import numpy as np

from crashfold.projections.blocks import Blocks, Masks
from crashfold.projections.columns import Ints, firsts
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
_CHUNK: Final = 65_534
"""Games that are looked at together: with one before and one behind them as many as a block can have."""


class RecordsState(msgspec.Struct, frozen=True, gc=False):
    """Tables with a column a predicate: the run that is open, the longest run, the cells of the highest game. A length
    of 0 is no run, hundredths of 0 no game."""

    open: np.ndarray
    longest: np.ndarray
    highest: np.ndarray


class RecordsProjection:
    """Keeps the longest run and the highest game of each predicate (docs/rules.md, section 4.5)."""

    name = "records"
    version = 1
    aggregates = ("records",)

    def __init__(self, settings: ProjectionSettings, bands: Bands) -> None:
        self._names = [keys.records(predicate) for predicate in settings.predicates]
        self._bands = bands
        self._masks = Masks(bands.matches)

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
        matches = self._bands.matches[game.band_numbers[0]]
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
        bands, opened, count = games.band_numbers, state.open[_LENGTH], len(games)
        found, longest = state.longest, state.longest[_RUN_LENGTH]
        predicates, before, behind = Blocks(self._masks, bands).longer(longest)
        # The first run of each predicate goes on with the one that was open.
        predicates = np.concatenate((np.arange(len(opened)), predicates))
        before = np.concatenate((np.zeros_like(opened), before))
        behind = np.concatenate((self._bands.firsts(bands) + 1, behind))
        lengths = behind - before - 1 + np.where(before == 0, opened[predicates], 0)
        better = np.flatnonzero(lengths > longest[predicates])
        if len(better):
            order = better[np.lexsort((before[better], -lengths[better], predicates[better]))]
            best = order[firsts(predicates[order])]
            found, which, ends = found.copy(), predicates[best], behind[best] - 2
            starts = self._starts(state.open[:, which], games, ends, lengths[best])
            found[:, which] = (*starts, games.ids[ends], games.end_times[ends], lengths[best])
        newest = self._bands.lasts(bands)
        last = count - 1 - newest + np.where(newest < 0, opened, 0)
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
        tops = self._bands.highest(games.band_numbers, hundredths)
        better = np.flatnonzero(tops > highest[HUNDREDTHS])
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
