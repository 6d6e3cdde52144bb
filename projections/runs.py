"""Runs: per predicate the maximal runs of games that do not match it, and the streak of matches after each, as tables.

Imports numpy, msgspec and columns. A run is *settled* when the next one has opened: nothing that comes in order changes
it any more. So beside its settled runs a predicate has at most one other, its *tail*: the run that is open, or the one
whose streak goes on. The runs of all predicates stand in common tables, and a fold goes through all of them at once,
whether it is of one game or of a million. A streak is of consecutive games: where it begins says which they are.
"""

import msgspec
import numpy as np

from crashfold.projections.columns import LISTED_ENOUGH, Columns, Ints, ascending, newest_of_each
from crashfold.projections.games import END_TIME, ID, Games
from crashfold.projections.settings import FOLLOW_GAMES_KEPT, SERIES_KEPT

_START_ID, _START_TIME, _END_ID, _END_TIME, _LENGTH = 0, 1, 2, 3, 4
STREAK = 5
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

_PAIRS_FEW = 20_000
"""Up to so many pairs of a game and a predicate all are looked at together. Without this way a commit of 20 games takes
1.4 times the CPU; without the other one a rebuild of 300,000 games takes 1.9 times."""
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
    settled, follow_total, follow = state.settled, state.follow_total, state.follow
    if before:
        goes_on = matches & has_run
        ended = (goes_on & ~follows).nonzero()[0]
        tails[_END_ID, ended], tails[_END_TIME, ended] = around[ID, -1], around[END_TIME, -1]
        tails[_LENGTH, ended] = total - tails[TAIL_ORDINAL, ended]
        tails[STREAK] += goes_on
        settles = (follows & ~matches).nonzero()[0]
        if len(settles):
            runs = np.empty((_SETTLED, len(settles)), np.int64)
            runs[:_RUN], runs[SETTLED_PREDICATE], runs[SETTLED_AT] = tails[:_RUN, settles], settles, total
            starts = before - runs[STREAK]
            settled, follow_total, follow = _more_settled(state, runs, starts, around)
    opened = (~matches & (follows | ~has_run)).nonzero()[0]
    if len(opened):
        tails[:, opened] = 0
        tails[_START_ID, opened], tails[_START_TIME, opened] = cells[ID, 0], cells[END_TIME, 0]
        tails[TAIL_ORDINAL, opened] = total
    return _kept(state, game, tails, settled, follow_total, follow)


def _runs(state: Runs, games: Games) -> tuple[Ints, Ints, Ints]:
    """All runs that have a game among `games`, or are open before them: predicate, the position of the first game and
    that behind the last; a predicate's one after the other. Of those that settle, the newest 1,000 or more."""
    end, is_open = len(games), _is_open(state.tails)
    if end * len(is_open) > _PAIRS_FEW:
        return _runs_one_by_one(is_open, games)
    matches = np.ones((end + 1, len(is_open)), np.bool_)  # as if behind the last game every predicate was matched
    matches[:end] = games.bands.matches[games.band_numbers]
    predicates, stops = np.nonzero(matches.T)
    starts = np.empty_like(stops)
    starts[0], starts[1:] = 0, stops[:-1] + 1
    starts[starts > end] = 0
    found = (stops > starts) | (is_open[predicates] & (starts == 0))
    return predicates[found], starts[found], stops[found]


def _runs_one_by_one(is_open: np.ndarray, games: Games) -> tuple[Ints, Ints, Ints]:
    """`_runs`, one predicate after the other."""
    end, counts = len(games), []
    starts: list[Ints] = []
    stops: list[Ints] = []
    for goes_on, matches in zip(is_open.tolist(), games.positions(), strict=True):
        breaks = np.flatnonzero(np.diff(matches) > 1)[-SERIES_KEPT - 1 :]
        first, behind = (int(matches[0]), int(matches[-1]) + 1) if len(matches) else (end, end)
        has_first, has_last = [0] * (first > 0 or goes_on), [behind] * (behind < end)
        starts += (np.array(has_first, np.int64), matches[breaks] + 1, np.array(has_last, np.int64))
        stops += (np.array(has_first, np.int64) + first, matches[breaks + 1], np.array(has_last, np.int64) * 0 + end)
        counts.append(len(has_first) + len(breaks) + len(has_last))
    return np.repeat(np.arange(len(counts)), counts), np.concatenate(starts), np.concatenate(stops)


def _folded(state: Runs, games: Games, predicates: Ints, starts: Ints, stops: Ints) -> Runs:
    """The state with `games` behind it, whose runs (`_runs`) those are."""
    end, before, tails = len(games), len(state.recent), state.tails.copy()
    around = np.concatenate((state.recent.cells, games.columns.cells[:_FOLLOW]), axis=1)
    is_last = np.append(predicates[1:] != predicates[:-1], np.ones(min(1, len(predicates)), np.bool_))
    nexts = np.append(starts[1:], end)[: len(starts)]  # where the next run of the same predicate begins
    nexts[is_last] = end

    runs = np.empty((_SETTLED, len(predicates)), np.int64)
    runs[_START_ID], runs[_START_TIME] = around[ID][before + starts], around[END_TIME][before + starts]
    runs[_END_ID], runs[_END_TIME] = around[ID][before + stops - 1], around[END_TIME][before + stops - 1]
    runs[_LENGTH], runs[STREAK] = stops - starts, nexts - stops
    runs[SETTLED_PREDICATE], runs[SETTLED_AT] = predicates, state.total + nexts + 1
    ordinals = state.total + starts + 1
    joined = np.flatnonzero((starts == 0) & _is_open(tails)[predicates])
    opened = tails[:, predicates[joined]]
    runs[_START_ID, joined], runs[_START_TIME, joined] = opened[_START_ID], opened[_START_TIME]
    runs[_LENGTH, joined] = state.total + stops[joined] + 1 - opened[TAIL_ORDINAL]
    ordinals[joined] = opened[TAIL_ORDINAL]

    # The streaks that went on before: each ends where the first run begins.
    followed = np.flatnonzero(tails[STREAK])
    firsts = np.full(tails.shape[1], end)
    firsts[predicates[::-1]] = starts[::-1]
    follows = before - tails[STREAK]  # where in `around` the streak of each tail begins; below 0 it stands in `long`
    tails[STREAK, followed] += firsts[followed]
    ended = followed[firsts[followed] < end]
    streaks = np.empty((_SETTLED, len(ended)), np.int64)
    streaks[:_RUN], streaks[SETTLED_PREDICATE] = tails[:_RUN, ended], ended
    streaks[SETTLED_AT] = state.total + firsts[ended] + 1

    ends = np.concatenate((streaks, runs[:, ~is_last]), axis=1)
    order = ascending(ends[SETTLED_AT])
    begins = np.concatenate((follows[ended], before + stops[~is_last]))[order]
    settled, follow_total, follow = _more_settled(state, ends[:, order], begins, around)
    newest = predicates[is_last]
    tails[:_RUN, newest], tails[TAIL_ORDINAL, newest] = runs[:_RUN, is_last], ordinals[is_last]
    return _kept(state, games, tails, settled, follow_total, follow)


def _kept(state: Runs, games: Games, tails: np.ndarray, settled: Columns, follow_total: int, follow: Columns) -> Runs:
    """The state with `games` behind it, and of the newest games those that the streaks of the tails have."""
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
    return _trimmed(Runs(state.total + len(games), tails, settled, state.trimmed, follow_total, follow, recent, long))


def _more_settled(state: Runs, runs: Ints, follows: Ints, around: Ints) -> tuple[Columns, int, Columns]:
    """`settled`, `follow_total` and `follow` with these runs, which are in the order in which they settled and whose
    streaks begin at `follows` in `around`."""
    if not len(follows):
        return state.settled, state.follow_total, state.follow
    if len(follows) > SERIES_KEPT:
        is_newest = newest_of_each(runs[SETTLED_PREDICATE], SERIES_KEPT)
        runs, follows = runs[:, is_newest], follows[is_newest]
    pieces, width = [around], around.shape[1]
    for row in (follows < 0).nonzero()[0].tolist():
        pieces.append(state.long[int(runs[SETTLED_PREDICATE, row])])
        follows[row] = width
        width += FOLLOW_GAMES_KEPT
    lengths = np.minimum(runs[STREAK], FOLLOW_GAMES_KEPT)
    runs[SETTLED_FOLLOW_END] = state.follow_total + lengths.cumsum()
    games = (np.concatenate(pieces, axis=1) if len(pieces) > 1 else around)[:, _positions(follows, lengths)]
    return state.settled.append(runs), int(runs[SETTLED_FOLLOW_END, -1]), state.follow.append(games)


def _trimmed(state: Runs) -> Runs:
    """Without the settled runs that are no longer listed, when there may be many of them."""
    if len(state.settled) <= state.trimmed + state.trimmed // 2 + _ROOM:
        return state
    is_listed = newest_of_each(state.settled[SETTLED_PREDICATE], SERIES_KEPT)
    if is_listed.mean() > LISTED_ENOUGH:
        return msgspec.structs.replace(state, trimmed=len(state.settled))
    runs = state.settled.cells[:, is_listed]
    lengths = np.minimum(runs[STREAK], FOLLOW_GAMES_KEPT)
    starts = runs[SETTLED_FOLLOW_END] - lengths - (state.follow_total - len(state.follow))
    games = state.follow.cells[:, _positions(starts, lengths)]
    runs[SETTLED_FOLLOW_END] = state.follow_total - games.shape[1] + np.cumsum(lengths)
    return msgspec.structs.replace(state, settled=Columns.of(runs), trimmed=runs.shape[1], follow=Columns.of(games))


def _positions(starts: Ints, lengths: Ints) -> Ints:
    """The positions from each start on, as many as its length says, one after the other."""
    stops = lengths.cumsum()
    positions: Ints = (starts - stops + lengths).repeat(lengths) + np.arange(stops[-1])
    return positions


def _is_open(tails: np.ndarray) -> np.ndarray:
    """Per predicate whether its tail is an open run."""
    is_open: np.ndarray = (tails[TAIL_ORDINAL] > 0) & (tails[STREAK] == 0)
    return is_open
