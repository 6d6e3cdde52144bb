"""Series: per predicate the maximal runs of consecutive games that do not match it, and the streak after each.

A run opens at the first game that does not match and ends before the next match; the matches right behind it are its
follow streak, which goes on until the next run opens. A run is *settled* when the next one has opened: nothing that
comes in order changes it any more. So the state of a predicate is its settled runs as columns, and at most one other:
the run that is open, or the one whose streak goes on.
"""

import msgspec
import numpy as np

from projections.columns import Columns, Ints
from projections.delta import Delta, Value, WriteList
from projections.games import END_TIME, ID, Bands, Games
from projections.projection import Moment
from projections.settings import FOLLOW_GAMES_KEPT, SERIES_KEPT, ProjectionSettings
from schemas import keys
from schemas.aggregates import FollowGame, FollowStreak, Series

_START_ID, _START_TIME, _END_ID, _END_TIME, _LENGTH = 0, 1, 2, 3, 4
_FOLLOW = 5
"""How many games the follow streak has."""
_FOLLOW_END = 6
"""How many follow games had been kept, of this run and all before it, when its streak ended."""
_SETTLED_AT = 7
"""The position in the stream of the game that opened the next run."""
_WIDTH = 8
_NONE = np.empty(0, np.int64)

FEW_GAMES = 64
"""Up to so many games a loop over the matches is quicker than numpy."""

_NO_STREAK = FollowStreak(0, [])
_encode = msgspec.json.Encoder().encode


class Open(msgspec.Struct, frozen=True, tag=True):
    """The open run: where it began."""

    ordinal: int
    game_id: int
    time: int


class Followed(msgspec.Struct, frozen=True, tag=True):
    """The run that ended last, while its streak goes on: the first five columns, and the games of the streak."""

    run: tuple[int, int, int, int, int]
    streak: int


class Runs(msgspec.Struct, frozen=True, gc=False):
    """The runs of one predicate. `settled` are the newest of `settled_total`; `follow` holds id, hundredths and time
    of the newest of `follow_total` follow games. `tail` is None before the first run."""

    tail: Open | Followed | None
    settled_total: int
    settled: Columns
    follow_total: int
    follow: Columns


class SeriesState(msgspec.Struct, frozen=True, gc=False):
    """How many games were folded, the newest of them, and the runs of each predicate."""

    total: int
    newest_id: int
    newest_time: int
    newest_band: int
    runs: tuple[Runs, ...]


class SeriesProjection:
    """See docs/rules.md, section 4.3."""

    name = "series"
    version = 1
    aggregates = ("series",)

    def __init__(self, settings: ProjectionSettings, bands: Bands) -> None:
        self._bands = bands
        self._names = [keys.series(predicate) for predicate in settings.predicates]

    def empty(self) -> SeriesState:
        """No runs."""
        none = Runs(None, 0, Columns.empty(_WIDTH), 0, Columns.empty(3))
        return SeriesState(0, 0, 0, -1, tuple(none for _ in self._names))

    def fold(self, state: SeriesState, games: Games) -> SeriesState:
        """The runs with `games` behind them."""
        runs = list(state.runs)
        # A predicate that neither the newest game nor any of these matches has an open run, which just goes on.
        matched_last = self._bands.matching[state.newest_band] if state.total else range(len(runs))
        positions = games.positions()
        touched = {predicate for predicate, matches in enumerate(positions) if len(matches)}
        fold = _fold_few if len(games) <= FEW_GAMES else _fold_runs
        for predicate in touched.union(matched_last):
            runs[predicate] = fold(runs[predicate], state, games, positions[predicate])
        newest = games.columns.cells[:, -1].tolist()
        return SeriesState(
            state.total + len(games), newest[ID], newest[END_TIME], int(games.band_numbers[-1]), tuple(runs)
        )

    def keys(self, moment: Moment[SeriesState]) -> dict[str, Value]:
        """Of every predicate that has a series the list of them."""
        values: dict[str, Value] = {}
        for name, runs in zip(self._names, moment.state.runs, strict=True):
            if listed := _listed(runs, moment.state, since=0):
                values[name] = listed[:SERIES_KEPT]
        return values

    def delta(self, before: Moment[SeriesState], after: Moment[SeriesState], kept: int) -> Delta:
        """The open run, the one whose streak grew, and those settled behind the first `kept` games."""
        delta: Delta = {}
        in_order = kept == before.totals.games
        for name, old, new in zip(self._names, before.state.runs, after.state.runs, strict=True):
            if old is new:
                if in_order and isinstance(new.tail, Open):  # the run goes on; most predicates, with most games
                    delta[name] = WriteList(1, [_open_json(new.tail, after.state)], SERIES_KEPT)
                    continue
                if not isinstance(new.tail, Open):
                    continue
            unsettled = (
                0 if in_order else len(old.settled) - int(np.searchsorted(old.settled[_SETTLED_AT], kept, "right"))
            )
            push = _listed(new, after.state, since=old.settled_total - unsettled)
            if push:
                drop = unsettled + (old.tail is not None)
                delta[name] = WriteList(drop, push[:SERIES_KEPT], SERIES_KEPT)
        return delta


def _fold_few(runs: Runs, before: SeriesState, games: Games, matches: Ints) -> Runs:
    """`_fold_runs` match by match: for a few games quicker than any column.

    `stop` is the position behind the last match; whatever lies between it and the next one is a run.
    """
    tail, follow_total, stop = runs.tail, runs.follow_total, 0
    settled: list[tuple[int, ...]] = []
    follow: list[int] = []
    for position in (*matches.tolist(), len(games)):
        if position > stop and not isinstance(tail, Open):
            opened = _opened(before, games, stop)
            if tail is not None:
                settled.append((*tail.run, tail.streak, follow_total, opened.ordinal))
            tail = opened
        if position == len(games):
            break
        if isinstance(tail, Open):
            tail = Followed(_ended(tail, before, games, position), 0)
        if tail is not None:
            if tail.streak < FOLLOW_GAMES_KEPT:
                follow.append(position)
                follow_total += 1
            tail = Followed(tail.run, tail.streak + 1)
        stop = position + 1
    rows = runs.settled.append(np.array(settled, np.int64).T) if settled else runs.settled
    followers = runs.follow.append(_follow_cells(games, follow)) if follow else runs.follow
    return _trimmed(Runs(tail, runs.settled_total + len(settled), rows, follow_total, followers))


def _fold_runs(runs: Runs, before: SeriesState, games: Games, matches: Ints) -> Runs:
    """One predicate's runs with `games` behind them, of which those at the positions `matches` match.

    The games are seen as a run before the first match, if any, then matches with runs between them wherever two
    matches are not neighbours, then an open run, if any.
    """
    first, last = (int(matches[0]), int(matches[-1])) if len(matches) else (len(games), -1)
    if len(matches):
        if first > 0 or isinstance(runs.tail, Open):
            runs = _end_run(runs, before, games, first)
        # The matches behind which another run begins.
        breaks = np.flatnonzero(np.diff(matches) > 1) if len(matches) > 1 else _NONE
        runs = _more_streak(runs, games, matches[: breaks[0] + 1] if len(breaks) else matches)
        if len(breaks):
            runs = _more_runs(runs, before, games, matches, breaks)
    if last == len(games) - 1 or isinstance(runs.tail, Open):
        return runs
    opened = _opened(before, games, last + 1)
    return _settle(runs, opened.ordinal, opened)


def _opened(before: SeriesState, games: Games, position: int) -> Open:
    """A run that begins with the game at that position."""
    return Open(before.total + position + 1, int(games.ids[position]), int(games.end_times[position]))


def _end_run(runs: Runs, before: SeriesState, games: Games, stop: int) -> Runs:
    """The runs when the first of `games` that matches stands at position `stop`, and a run goes before it."""
    start = runs.tail
    if not isinstance(start, Open):
        start = _opened(before, games, 0)
        runs = _settle(runs, start.ordinal, None)
    run = _ended(start, before, games, stop)
    return Runs(Followed(run, 0), runs.settled_total, runs.settled, runs.follow_total, runs.follow)


def _ended(run: Open, before: SeriesState, games: Games, stop: int) -> tuple[int, int, int, int, int]:
    """The first five columns of the run, which the match at position `stop` ends."""
    if stop:
        end_id, end_time = int(games.ids[stop - 1]), int(games.end_times[stop - 1])
    else:
        end_id, end_time = before.newest_id, before.newest_time
    return run.game_id, run.time, end_id, end_time, before.total + stop + 1 - run.ordinal


def _more_runs(runs: Runs, before: SeriesState, games: Games, matches: Ints, breaks: Ints) -> Runs:
    """The runs with those between matches that are not neighbours: a run begins behind each of `matches[breaks]`."""
    if len(breaks) > SERIES_KEPT:  # of more runs than are listed only the newest matter
        skipped = len(breaks) - SERIES_KEPT
        settled_total = runs.settled_total + skipped + isinstance(runs.tail, Followed)
        runs = Runs(None, settled_total, Columns.empty(_WIDTH), 0, Columns.empty(3))
        breaks = breaks[skipped:]
    starts, ends, follows = matches[breaks] + 1, matches[breaks + 1] - 1, breaks + 1
    ordinals, streaks = starts + before.total + 1, np.diff(follows, append=len(matches))
    runs = _settle(runs, int(ordinals[0]), None)
    rows = np.empty((_WIDTH, len(breaks)), np.int64)
    rows[_START_ID], rows[_START_TIME] = games.ids[starts], games.end_times[starts]
    rows[_END_ID], rows[_END_TIME] = games.ids[ends], games.end_times[ends]
    rows[_LENGTH] = ends + 1 - starts
    rows[_FOLLOW] = streaks
    rows[_FOLLOW_END] = runs.follow_total + np.cumsum(np.minimum(streaks, FOLLOW_GAMES_KEPT))
    rows[_SETTLED_AT, :-1] = ordinals[1:]
    followers = matches[follows[0] :]
    if int(streaks.max()) > FOLLOW_GAMES_KEPT:
        index = np.arange(len(followers)) - np.repeat(follows - follows[0], streaks)
        followers = followers[index < FOLLOW_GAMES_KEPT]
    start_id, start_time, end_id, end_time, length, streak = rows[: _FOLLOW + 1, -1].tolist()
    return _trimmed(
        Runs(
            Followed((start_id, start_time, end_id, end_time, length), streak),
            runs.settled_total + len(breaks) - 1,
            runs.settled.append(rows[:, :-1]),
            runs.follow_total + len(followers),
            runs.follow.append(_follow_cells(games, followers)),
        )
    )


def _more_streak(runs: Runs, games: Games, matches: Ints) -> Runs:
    """The streak of the run that ended last, with `matches` behind it; before the first run they belong to none."""
    if not isinstance(runs.tail, Followed):
        return runs
    streak = runs.tail.streak
    kept = matches[: max(0, FOLLOW_GAMES_KEPT - streak)]
    return Runs(
        Followed(runs.tail.run, streak + len(matches)),
        runs.settled_total,
        runs.settled,
        runs.follow_total + len(kept),
        runs.follow.append(_follow_cells(games, kept)),
    )


def _follow_cells(games: Games, positions: Ints | list[int]) -> Ints:
    """Id, hundredths and end time of the games at `positions`."""
    return games.columns.cells[:3, positions]  # ID, HUNDREDTHS, END_TIME


def _settle(runs: Runs, settled_at: int, tail: Open | None) -> Runs:
    """The runs when the game at position `settled_at` ends the streak of the one that ended last."""
    if not isinstance(runs.tail, Followed):
        return Runs(tail, runs.settled_total, runs.settled, runs.follow_total, runs.follow)
    row = (*runs.tail.run, runs.tail.streak, runs.follow_total, settled_at)
    settled = runs.settled.append(np.array(row, np.int64).reshape(_WIDTH, 1))
    return _trimmed(Runs(tail, runs.settled_total + 1, settled, runs.follow_total, runs.follow))


def _trimmed(runs: Runs) -> Runs:
    """Only as many runs and follow games as are listed."""
    if len(runs.settled) <= SERIES_KEPT:
        return runs
    settled = runs.settled.last(SERIES_KEPT)
    oldest = settled.cells[:, 0]
    dropped = int(oldest[_FOLLOW_END]) - min(int(oldest[_FOLLOW]), FOLLOW_GAMES_KEPT)
    follow = runs.follow.last(runs.follow_total - dropped)
    return Runs(runs.tail, runs.settled_total, settled, runs.follow_total, follow)


def _open_json(run: Open, state: SeriesState) -> bytes:
    """The JSON of an open run."""
    length = state.total + 1 - run.ordinal
    return _encode(Series(run.game_id, run.time, state.newest_id, state.newest_time, length, _NO_STREAK))


def _listed(runs: Runs, state: SeriesState, since: int) -> list[bytes]:
    """The JSON of the series, newest first, without the first `since` of the settled ones."""
    if since == runs.settled_total and isinstance(runs.tail, Open):
        return [_open_json(runs.tail, state)]
    settled = runs.settled.last(max(0, runs.settled_total - since))
    listed: list[bytes] = []
    first_follow = runs.follow_total
    if len(settled):
        oldest = settled.cells[:, 0]
        first_follow = int(oldest[_FOLLOW_END]) - min(int(oldest[_FOLLOW]), FOLLOW_GAMES_KEPT)
    elif isinstance(runs.tail, Followed):
        first_follow -= min(runs.tail.streak, FOLLOW_GAMES_KEPT)
    follow = _follow_games(runs, first_follow)
    match runs.tail:
        case Open() as run:
            listed.append(_open_json(run, state))
        case Followed(run, streak):
            stop = len(follow)
            games = follow[stop - min(streak, FOLLOW_GAMES_KEPT) :] if streak else []
            listed.append(_encode(Series(*run, FollowStreak(streak, games))))
        case None:
            pass
    rows: list[list[int]] = settled.cells.T.tolist() if len(settled) else []
    for start_game, start_time, end_game, end_time, length, streak, follow_end, _ in reversed(rows):
        stop = follow_end - first_follow
        games = follow[stop - min(streak, FOLLOW_GAMES_KEPT) : stop]
        listed.append(_encode(Series(start_game, start_time, end_game, end_time, length, FollowStreak(streak, games))))
    return listed


def _follow_games(runs: Runs, first: int) -> list[FollowGame]:
    """The follow games from number `first` on of all that were kept."""
    if first == runs.follow_total:
        return []
    cells = runs.follow.last(runs.follow_total - first).cells.tolist()
    return [FollowGame(game_id, hundredths / 100, time) for game_id, hundredths, time in zip(*cells, strict=True)]
