"""Runs: per predicate the maximal runs of games that do not match it, and the streak of matches after each, as tables.

Imports numpy, msgspec and columns. A run is *settled* when the next one has opened: nothing that comes in order changes
it any more. So beside its settled runs a predicate has at most one other, its *tail*: the run that is open, or the one
whose streak goes on. The runs of all predicates stand in common tables, and a fold goes through all of them at once,
whether it is of one game or of a million. A streak is of consecutive games: where it begins says which they are.
"""

from itertools import chain
from typing import Final

import msgspec
import numpy as np

from crashfold.projections.columns import LISTED_ENOUGH, Columns, Ints, ascending, newest_of_each
from crashfold.projections.games import END_TIME, ID, Games
from crashfold.projections.settings import FOLLOW_GAMES_KEPT, SERIES_KEPT

START_ID, _START_TIME, END_ID, _END_TIME, _LENGTH, STREAK = 0, 1, 2, 3, 4, 5
"""A run begins with the games it begins and ends with, how many it has, and how many matches follow it."""
_RUN = 6
TAIL_ORDINAL = 6
"""Of a tail: the position in the stream of its first game; 0 where there is no run yet."""
_TAIL = 7
SETTLED_PREDICATE, SETTLED_AT, SETTLED_FOLLOW_END = 6, 7, 8
"""Of a settled run: its predicate, the position of the game that opened the next run, and how many games `follow` had
had in all when those of this run had been appended."""
_SETTLED = 9
_FOLLOW = 3
"""Of a game that follows: id, hundredths and end time, which are a game's first three columns."""

_BEGIN: Final[Ints] = np.zeros(1, np.int64)
_NONE: Final[Ints] = np.empty(0, np.int64)

_Settled = tuple[Columns, int, int, Columns]
"""`settled`, `trimmed`, `follow_total` and `follow` of a state."""

_GAMES_FEW = 16_384
"""Up to so many games all of every predicate are looked at together. Without this way a commit of 20 games takes 1.4
times the CPU; without the other one a rebuild of 400,000 games folds in 1.4 times."""
_ROOM = 1000
"""So many more rows than half as many again may stand in `settled` until it is trimmed."""


class Runs(msgspec.Struct, frozen=True, gc=False):
    """The runs of a stream after `total` games.

    `tails` has a column a predicate. `settled` are the settled runs of all predicates in the order in which they were
    settled, of each at least the newest 1,000 (those beyond are left out now and then: there were `trimmed` rows then).
    `follow` are the first 1,000 games of each of their streaks, one run after the other: the newest of `follow_total`.
    `recent` are the newest games: one, and all of the longest streak of a tail. A streak of 1,000 or more stands in
    `long` instead, by predicate.
    """

    total: int
    tails: np.ndarray
    settled: Columns
    trimmed: int
    follow_total: int
    follow: Columns
    recent: Columns
    long: dict[int, np.ndarray]


def no_runs(predicates: int) -> Runs:
    """The runs of so many predicates before the first game."""
    tails = np.zeros((_TAIL, predicates), np.int64)
    return Runs(0, tails, Columns.empty(_SETTLED), 0, 0, Columns.empty(_FOLLOW), Columns.empty(_FOLLOW), {})


def with_games(runs: Runs, games: Games) -> Runs:
    """The runs with `games` behind them."""
    if not runs.tails.shape[1]:
        return runs
    return _folded_one(runs, games) if len(games) == 1 else _folded(runs, games, *_runs(runs, games))


def unlisted_left_out(runs: Runs, newest: Runs) -> Runs:
    """The runs without those that are no longer listed once the games that lead to `newest` were folded.

    However many games come late among these, no fewer runs settle: a game more never makes one run of two.
    """
    later = np.bincount(settled_since(newest, runs.total)[SETTLED_PREDICATE], minlength=runs.tails.shape[1])
    is_listed = newest_of_each(runs.settled[SETTLED_PREDICATE], np.maximum(SERIES_KEPT - later, 0))
    settled, follow = _chosen(runs, is_listed)
    return msgspec.structs.replace(runs, settled=settled, trimmed=len(settled), follow=follow)


def settled_since(runs: Runs, kept: int) -> Columns:
    """The runs that settled behind the first `kept` games."""
    return runs.settled.part(int(runs.settled[SETTLED_AT].searchsorted(kept, "right")), len(runs.settled))


def _folded_one(state: Runs, game: Games) -> Runs:
    """The state with one game behind it: as `_folded`, in a third of the time.

    Without it a commit of one game takes 1.12 to 1.14 times the CPU (fold, delta and packing). A live table brings one
    game a commit, so it stays, although any other second way has to bring 1.15."""
    tails, total, before = state.tails.copy(), state.total + 1, len(state.recent)
    cells, around = game.columns.cells[:_FOLLOW], state.recent.cells
    matches = game.bands.matches[game.band_numbers[0]]
    has_run, follows = tails[TAIL_ORDINAL] > 0, tails[STREAK] > 0
    more = state.settled, state.trimmed, state.follow_total, state.follow
    if before:
        goes_on = matches & has_run
        ended = (goes_on & ~follows).nonzero()[0]
        tails[END_ID, ended], tails[_END_TIME, ended] = around[ID, -1], around[END_TIME, -1]
        tails[_LENGTH, ended] = total - tails[TAIL_ORDINAL, ended]
        tails[STREAK] += goes_on
        settles = (follows & ~matches).nonzero()[0]
        if len(settles):
            runs = np.empty((_SETTLED, len(settles)), np.int64)
            runs[:_RUN], runs[SETTLED_PREDICATE], runs[SETTLED_AT] = tails[:_RUN, settles], settles, total
            starts = before - runs[STREAK]
            more = _more_settled(state, runs, starts, around)
    opened = (~matches & (follows | ~has_run)).nonzero()[0]
    if len(opened):
        tails[:, opened] = 0
        tails[START_ID, opened], tails[_START_TIME, opened] = cells[ID, 0], cells[END_TIME, 0]
        tails[TAIL_ORDINAL, opened] = total
    return _kept(state, game, tails, *more)


def _runs(state: Runs, games: Games) -> tuple[Ints, Ints, Ints]:
    """All runs that have a game among `games`, or are open before them: predicate, the position of the first game and
    that behind the last; a predicate's one after the other. Of those that settle, the newest 1,000 or more."""
    end, is_open = len(games), _is_open(state.tails)
    if end > _GAMES_FEW:
        return _newest_runs(is_open, games)
    matches = np.ones((len(is_open), end + 2), np.bool_)  # as if every predicate were matched before and behind them
    matches[:, 1:-1] = games.bands.matched[:, games.band_numbers]
    changes = np.flatnonzero(matches[:, 1:] != matches[:, :-1])  # one where a run begins, one where it ends, and so on
    predicates, starts = np.divmod(changes[::2], end + 1)
    stops = changes[1::2] - predicates * (end + 1)
    ended = np.flatnonzero(is_open & matches[:, 1])  # what was open before has no game here
    at = np.searchsorted(predicates, ended)
    return np.insert(predicates, at, ended), np.insert(starts, at, 0), np.insert(stops, at, 0)


def _newest_runs(is_open: np.ndarray, games: Games) -> tuple[Ints, Ints, Ints]:
    """`_runs`, one predicate after the other, each from its newest games on until there are enough of its runs."""
    end, opens = len(games), is_open.tolist()
    starts: list[list[Ints]] = [[]] * len(opens)
    stops: list[list[Ints]] = [[]] * len(opens)

    def take(predicate: int, matches: Ints) -> bool:
        breaks = np.flatnonzero(matches[1:] - matches[:-1] > 1)
        is_enough = len(breaks) > SERIES_KEPT
        breaks = breaks[-SERIES_KEPT - 1 :]
        starts[predicate], stops[predicate] = [matches[breaks] + 1], [matches[breaks + 1]]
        first, behind = (int(matches[0]), int(matches[-1]) + 1) if len(matches) else (end, end)
        if not is_enough and (first > 0 or opens[predicate]):
            starts[predicate].insert(0, _BEGIN)
            stops[predicate].insert(0, np.array([first]))
        if behind < end:
            starts[predicate].append(np.array([behind]))
            stops[predicate].append(np.array([end]))
        return is_enough

    games.each_newest(take)
    counts = [sum(map(len, some)) for some in starts]
    return (
        np.repeat(np.arange(len(counts)), counts),
        np.concatenate([*chain.from_iterable(starts)] or [_NONE]),
        np.concatenate([*chain.from_iterable(stops)] or [_NONE]),
    )


def _folded(state: Runs, games: Games, predicates: Ints, starts: Ints, stops: Ints) -> Runs:
    """The state with `games` behind it, whose runs (`_runs`) those are."""
    end, before, tails = len(games), len(state.recent), state.tails.copy()
    around = np.concatenate((state.recent.cells, games.columns.cells[:_FOLLOW]), axis=1)
    is_last = np.append(predicates[1:] != predicates[:-1], np.ones(min(1, len(predicates)), np.bool_))
    settles, newest = np.flatnonzero(~is_last), np.flatnonzero(is_last)

    # The streaks that went on before: each ends where the first run begins.
    followed = np.flatnonzero(tails[STREAK])
    firsts = np.full(tails.shape[1], end)
    firsts[predicates[::-1]] = starts[::-1]
    begins = before - tails[STREAK]  # where in `around` the streak of each tail begins; below 0 it stands in `long`
    tails[STREAK, followed] += firsts[followed]
    ended = followed[firsts[followed] < end]

    # Those that settle, each where the next of its predicate begins, in that order: runs, and tails whose streak ended.
    which, at = np.append(ended, predicates[settles]), np.append(firsts[ended], starts[settles + 1])
    number = np.append(np.full(len(ended), -1), settles)
    if len(at) > SERIES_KEPT:
        is_newest = newest_of_each(which, SERIES_KEPT)
        which, at, number = which[is_newest], at[is_newest], number[is_newest]
    order = ascending(at)
    which, at, number = which[order], at[order], number[order]
    runs = np.empty((_SETTLED, len(at)), np.int64)
    _describe(runs, state, around, which, starts[number], stops[number], at)
    runs[SETTLED_PREDICATE], runs[SETTLED_AT] = which, at + (state.total + 1)
    follows = stops[number] + before
    of_tails = np.flatnonzero(number < 0)
    runs[:_RUN, of_tails], follows[of_tails] = tails[:_RUN, which[of_tails]], begins[which[of_tails]]

    which, starts, stops = predicates[newest], starts[newest], stops[newest]
    opened = np.where((starts == 0) & _is_open(tails)[which], tails[TAIL_ORDINAL, which], state.total + 1 + starts)
    described = np.empty((_TAIL, len(which)), np.int64)
    _describe(described, state, around, which, starts, stops, np.full(len(which), end))
    described[TAIL_ORDINAL] = opened
    tails[:, which] = described
    return _kept(state, games, tails, *_more_settled(state, runs, follows, around))


def _describe(runs: Ints, state: Runs, around: Ints, which: Ints, starts: Ints, stops: Ints, ends: Ints) -> None:
    """Set the rows that every run has, of runs of these predicates. `starts` and `stops` say where among the games
    behind `state` they begin and end, `ends` where their streaks do; one that begins with those may go on with that
    which was open."""
    before, total, tails = len(state.recent), state.total, state.tails
    runs[START_ID], runs[_START_TIME] = around[ID, before + starts], around[END_TIME, before + starts]
    runs[END_ID], runs[_END_TIME] = around[ID, before + stops - 1], around[END_TIME, before + stops - 1]
    runs[_LENGTH], runs[STREAK] = stops - starts, ends - stops
    joined = np.flatnonzero((starts == 0) & _is_open(tails)[which])
    opened = tails[:, which[joined]]
    runs[START_ID, joined], runs[_START_TIME, joined] = opened[START_ID], opened[_START_TIME]
    runs[_LENGTH, joined] = total + stops[joined] + 1 - opened[TAIL_ORDINAL]


def _kept(state: Runs, games: Games, tails: np.ndarray, *more: *_Settled) -> Runs:
    """The state with `games` behind it, `more` settled runs, and of the newest games those that the streaks of the
    tails have."""
    streaks, cells = tails[STREAK], games.columns.cells[:_FOLLOW]
    longest, long = int(np.maximum.reduce(streaks)), state.long
    if long or longest >= FOLLOW_GAMES_KEPT:
        is_long = streaks >= FOLLOW_GAMES_KEPT
        around = np.concatenate((state.recent.cells, cells), axis=1)
        starts = around.shape[1] - streaks
        long = {
            predicate: long[predicate] if start < 0 else around[:, start : start + FOLLOW_GAMES_KEPT].copy()
            for predicate, start in zip(np.flatnonzero(is_long).tolist(), starts[is_long].tolist(), strict=True)
        }
        longest = int(streaks.max(where=~is_long, initial=0))
    needed = max(1, longest)
    is_anew = needed <= len(games)
    recent = Columns.of(cells[:, -needed:].copy()) if is_anew else state.recent.append(cells).last(needed)
    return Runs(state.total + len(games), tails, *more, recent, long)


def _more_settled(state: Runs, runs: Ints, follows: Ints, around: Ints) -> _Settled:
    """With these runs, which are in the order in which they settled and whose streaks begin at `follows` in
    `around`."""
    if not len(follows):
        return state.settled, state.trimmed, state.follow_total, state.follow
    pieces, width = [around], around.shape[1]
    for row in (follows < 0).nonzero()[0].tolist():
        pieces.append(state.long[int(runs[SETTLED_PREDICATE, row])])
        follows[row] = width
        width += FOLLOW_GAMES_KEPT
    lengths = np.minimum(runs[STREAK], FOLLOW_GAMES_KEPT)
    runs[SETTLED_FOLLOW_END] = state.follow_total + lengths.cumsum()
    games = (np.concatenate(pieces, axis=1) if len(pieces) > 1 else around)[:, positions(follows, lengths)]
    settled, trimmed, follow = _listed(state, runs[SETTLED_PREDICATE])
    return settled.append(runs), trimmed, int(runs[SETTLED_FOLLOW_END, -1]), follow.append(games)


def _listed(state: Runs, more: Ints) -> tuple[Columns, int, Columns]:
    """`settled`, `trimmed` and `follow` without the runs that are no longer listed behind those of the predicates
    `more`, when there may be many of them."""
    settled, count = state.settled, len(state.settled) + len(more)
    if count <= state.trimmed + state.trimmed // 2 + _ROOM:
        return settled, state.trimmed, state.follow
    is_listed = newest_of_each(np.append(settled[SETTLED_PREDICATE], more), SERIES_KEPT)
    if is_listed.mean() > LISTED_ENOUGH:
        return settled, count, state.follow
    settled, follow = _chosen(state, is_listed[: len(settled)])
    return settled, len(settled) + len(more), follow


def _chosen(state: Runs, is_chosen: np.ndarray) -> tuple[Columns, Columns]:
    """`settled` and `follow` with those of the settled runs alone."""
    runs = state.settled.cells[:, is_chosen]
    lengths = np.minimum(runs[STREAK], FOLLOW_GAMES_KEPT)
    starts = runs[SETTLED_FOLLOW_END] - lengths - (state.follow_total - len(state.follow))
    games = state.follow.cells[:, positions(starts, lengths)]
    runs[SETTLED_FOLLOW_END] = state.follow_total - games.shape[1] + np.cumsum(lengths)
    return Columns.of(runs), Columns.of(games)


def positions(starts: Ints, lengths: Ints) -> Ints:
    """The positions from each start on, as many as its length says, one after the other."""
    stops = lengths.cumsum()
    positions: Ints = (starts - stops + lengths).repeat(lengths) + np.arange(stops[-1] if len(stops) else 0)
    return positions


def _is_open(tails: np.ndarray) -> np.ndarray:
    """Per predicate whether its tail is an open run."""
    is_open: np.ndarray = (tails[TAIL_ORDINAL] > 0) & (tails[STREAK] == 0)
    return is_open
