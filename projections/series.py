"""Series: per predicate the maximal runs of consecutive games that do not match it, and the streak after each.

A run opens at the first game that does not match and ends before the next match; the matches right behind it are its
follow streak, which goes on until the next run opens. `runs` keeps them; here they become JSON.
"""

import re

import msgspec
import numpy as np

from crashfold.projections.columns import Ints, newest_of_each
from crashfold.projections.delta import Delta, Value, WriteList
from crashfold.projections.games import END_TIME, ID, Games
from crashfold.projections.projection import Moment
from crashfold.projections.runs import (
    END_ID,
    SETTLED_FOLLOW_END,
    SETTLED_PREDICATE,
    START_ID,
    STREAK,
    TAIL_ORDINAL,
    Runs,
    no_runs,
    positions,
    settled_since,
    unlisted_left_out,
    with_games,
)
from crashfold.projections.settings import FOLLOW_GAMES_KEPT, SERIES_KEPT, ProjectionSettings
from crashfold.schemas import keys
from crashfold.schemas.aggregates import FollowGame, FollowStreak, Series

_PRINTED_AT_ONCE = 4096

_encode = msgspec.json.Encoder().encode
_RUN = re.sub(rb"\d", b"%d", _encode(Series(1, 2, 3, 4, 5, FollowStreak(6, [])))).replace(b"[]", b"[%b]")
"""The JSON of a `Series`: its numbers, and the games that follow."""
_COMMA = b","


class SeriesProjection:
    """Keeps the newest runs that do not match, with the streak after each (docs/rules.md, section 4.3)."""

    name = "series"
    version = 2
    aggregates = ("series",)

    def __init__(self, settings: ProjectionSettings) -> None:
        self._names = [keys.series(predicate) for predicate in settings.predicates]

    def empty(self) -> Runs:
        """No runs."""
        return no_runs(len(self._names))

    def fold(self, state: Runs, games: Games) -> Runs:
        """The runs with `games` behind them."""
        return with_games(state, games)

    def trimmed(self, state: Runs, newest: Runs) -> Runs:
        """Without the runs that are no longer listed."""
        return unlisted_left_out(state, newest)

    def keys(self, moment: Moment[Runs]) -> dict[str, Value]:
        """Of every predicate that has a series the list of them."""
        tails, settled = _tails_json(moment.state), _settled_json(moment.state, 0)
        listed = {
            name: tail + settled.get(i, []) for i, (name, tail) in enumerate(zip(self._names, tails, strict=True))
        }
        return {name: series[:SERIES_KEPT] for name, series in listed.items() if series}

    def delta(self, before: Moment[Runs], after: Moment[Runs], kept: int) -> Delta:
        """The tails, and the runs that settled behind the first `kept` games, in place of those known before."""
        delta: Delta = {}
        tails, settled = _tails_json(after.state), _settled_json(after.state, kept)
        dropped, known = _counted(before.state, kept), _lengths(before)
        if kept == before.totals.games:  # nothing came late, so those known before are there still
            after.memo = known - (before.state.tails[TAIL_ORDINAL] > 0) + _counted(after.state, kept)
        listed = np.minimum(known, SERIES_KEPT).tolist()
        written: dict[tuple[int, int, int], WriteList] = {}
        for predicate, (name, drop, push) in enumerate(zip(self._names, dropped.tolist(), tails, strict=True)):
            if predicate in settled:
                delta[name] = WriteList(drop, (push + settled[predicate])[:SERIES_KEPT], SERIES_KEPT, listed[predicate])
            elif push:  # many predicates share the list of their tail
                same = (id(push), drop, listed[predicate])
                if same not in written:
                    written[same] = WriteList(drop, push, SERIES_KEPT, listed[predicate])
                delta[name] = written[same]
        return delta


def _counted(state: Runs, kept: int) -> Ints:
    """Per predicate how many runs there are behind the first `kept` games, the tail included."""
    runs = settled_since(state, kept)[SETTLED_PREDICATE]
    found: Ints = np.bincount(runs, minlength=state.tails.shape[1]) + (state.tails[TAIL_ORDINAL] > 0)
    return found


def _lengths(moment: Moment[Runs]) -> Ints:
    """Per predicate how many runs there are, at least as far as 1,000; counted once."""
    if moment.memo is None:
        moment.memo = _counted(moment.state, 0)
    lengths: Ints = moment.memo
    return lengths


def _tails_json(state: Runs) -> list[list[bytes]]:
    """Per predicate the JSON of its tail, if it has one. Those of equal tails are one list."""
    if not state.total:
        return [[] for _ in state.tails[0]]
    end_id, end_time = state.recent.cells[[ID, END_TIME], -1].tolist()
    recent, listed = _games_json(state.recent.cells), dict[tuple[int, int], list[bytes]]()
    printed: list[list[bytes]] = []
    for predicate, (*run, streak, ordinal) in enumerate(state.tails.T.tolist()):
        tail = ordinal, streak  # where it opened and how many matches follow say all of a tail
        if tail not in listed:
            if not ordinal:
                listed[tail] = []
            elif not streak:
                start_id, start_time, *_ = run
                listed[tail] = [_RUN % (start_id, start_time, end_id, end_time, state.total + 1 - ordinal, 0, b"")]
            else:
                games = recent[-streak:] if streak < FOLLOW_GAMES_KEPT else _games_json(state.long[predicate])
                listed[tail] = [_RUN % (*run, streak, _COMMA.join(games))]
        printed.append(listed[tail])
    return printed


def _settled_json(state: Runs, kept: int) -> dict[int, list[bytes]]:
    """By predicate the JSON of the runs that settled behind the first `kept` games, at most the newest 1,000, newest
    first."""
    runs = settled_since(state, kept).cells[:, ::-1]
    if not runs.shape[1]:
        return {}
    if runs.shape[1] > SERIES_KEPT:
        runs = runs[:, newest_of_each(runs[SETTLED_PREDICATE, ::-1], SERIES_KEPT)[::-1]]
    # Predicates that are close together have many runs in common, which settled together: each is printed once.
    is_other = np.ones(runs.shape[1], np.bool_)
    is_other[1:] = runs[START_ID, 1:] != runs[START_ID, :-1]
    is_other[1:] |= runs[END_ID, 1:] != runs[END_ID, :-1]
    is_other[1:] |= runs[STREAK, 1:] != runs[STREAK, :-1]
    others, printed = runs[:, is_other], list[bytes]()
    for start in range(0, others.shape[1], _PRINTED_AT_ONCE):
        printed += _runs_json(state, others[:, start : start + _PRINTED_AT_ONCE])
    listed: dict[int, list[bytes]] = {}
    for predicate, number in zip(runs[SETTLED_PREDICATE].tolist(), is_other.cumsum().tolist(), strict=True):
        listed.setdefault(predicate, []).append(printed[number - 1])
    return listed


def _runs_json(state: Runs, runs: Ints) -> list[bytes]:
    """The JSON of settled runs."""
    lengths = np.minimum(runs[STREAK], FOLLOW_GAMES_KEPT)
    stops = runs[SETTLED_FOLLOW_END] - (state.follow_total - len(state.follow))
    cells = state.follow.cells[:, positions(stops - lengths, lengths)]
    ids = cells[ID].tolist()
    games = dict(zip(ids, zip(*cells[1:].tolist(), strict=True), strict=True))  # many runs are followed by the same
    printed = {game_id: _encode(FollowGame(game_id, number / 100, time)) for game_id, (number, time) in games.items()}
    follow, ends = [printed[game_id] for game_id in ids], lengths.cumsum().tolist()
    return [
        _RUN % (*run, _COMMA.join(follow[start:end]))
        for run, start, end in zip(runs[: STREAK + 1].T.tolist(), [0, *ends], ends, strict=False)
    ]


def _games_json(cells: Ints) -> list[bytes]:
    """The JSON of games that follow, from their cells."""
    return [
        _encode(FollowGame(game_id, hundredths / 100, time))
        for game_id, hundredths, time in zip(*cells.tolist(), strict=True)
    ]
