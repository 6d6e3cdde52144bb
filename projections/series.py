"""Series: per predicate the maximal runs of consecutive games that do not match it, and the streak after each.

A run opens at the first game that does not match and ends before the next match; the matches right behind it are its
follow streak, which goes on until the next run opens. A run is *settled* when the next one has opened: nothing that
comes in order changes it any more. So the state of a predicate is its settled runs as columns, and at most one other:
the run that is open, or the one whose streak goes on.
"""

from collections.abc import Sequence

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


class Open(msgspec.Struct, frozen=True, tag=True):
    """The open run: where it began."""

    ordinal: int
    game_id: int
    time: int


class Followed(msgspec.Struct, frozen=True, tag=True):
    """The run that ended last, while its streak goes on: the first five columns, and the games of the streak."""

    run: tuple[int, int, int, int, int]
    streak: int


class Runs(msgspec.Struct, frozen=True):
    """The runs of one predicate. `settled` are the newest of `settled_total`; `follow` holds id, hundredths and time
    of the newest of `follow_total` follow games. `tail` is None before the first run."""

    tail: Open | Followed | None
    settled_total: int
    settled: Columns
    follow_total: int
    follow: Columns


class SeriesState(msgspec.Struct, frozen=True):
    """How many games were folded, the newest of them, and the runs of each predicate."""

    total: int
    newest_id: int
    newest_time: int
    newest_band: int
    runs: tuple[Runs, ...]


class SeriesProjection:
    """See SPEC section 3, item 3."""

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
        for predicate in touched.union(matched_last):
            runs[predicate] = _fold_runs(runs[predicate], state, games, positions[predicate])
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
        pairs = zip(self._names, before.state.runs, after.state.runs, strict=True)
        for name, old, new in pairs:
            if old is new and not isinstance(new.tail, Open):
                continue
            unsettled = len(old.settled) - int(np.searchsorted(old.settled[_SETTLED_AT], kept, "right"))
            push = _listed(new, after.state, since=old.settled_total - unsettled)
            if push:
                drop = unsettled + (old.tail is not None)
                delta[name] = WriteList(drop, push[:SERIES_KEPT], SERIES_KEPT)
        return delta


def _fold_runs(runs: Runs, before: SeriesState, games: Games, matches: Ints) -> Runs:
    """One predicate's runs with `games` behind them, of which those at the positions `matches` match.

    The games are seen as a run before the first match, if any, then matches with runs between them wherever two matches
    are not neighbours, then an open run, if any.
    """
    ids, times = games.ids, games.end_times
    first, last = (int(matches[0]), int(matches[-1])) if len(matches) else (len(games), -1)
    opened = None
    if last < len(games) - 1:
        opened = Open(before.total + last + 2, int(ids[last + 1]), int(times[last + 1]))
    if last < 0:
        return runs if opened is None or isinstance(runs.tail, Open) else _settle(runs, opened.ordinal, opened)

    # The matches behind which a run begins. Of more runs than are listed only the newest matter.
    breaks = np.flatnonzero(np.diff(matches) > 1)
    if len(breaks) > SERIES_KEPT:
        skipped = len(breaks) - SERIES_KEPT
        before_breaks = (runs.tail is not None) + (first > 0 and not isinstance(runs.tail, Open))
        settled_total = runs.settled_total + before_breaks + skipped
        runs = Runs(None, settled_total, Columns.empty(_WIDTH), 0, Columns.empty(3))
        breaks, lead = breaks[skipped:], None
    elif isinstance(runs.tail, Open):
        lead = runs.tail
    elif first > 0:
        lead = Open(before.total + 1, int(ids[0]), int(times[0]))
    else:
        lead = None
        runs = _more_streak(runs, games, matches[: breaks[0] + 1 if len(breaks) else None])
    if lead is None and not len(breaks):
        return runs if opened is None else _settle(runs, opened.ordinal, opened)

    # Where each run starts and ends, and which match follows it.
    starts, ends, follows = matches[breaks] + 1, matches[breaks + 1] - 1, breaks + 1
    ordinals, start_ids, start_times = starts + before.total + 1, ids[starts], times[starts]
    end_ids, end_times = ids[ends], times[ends]
    if lead is not None:
        ordinals = np.append(lead.ordinal, ordinals)
        start_ids, start_times = np.append(lead.game_id, start_ids), np.append(lead.time, start_times)
        end_ids = np.append(ids[first - 1] if first else before.newest_id, end_ids)
        end_times = np.append(times[first - 1] if first else before.newest_time, end_times)
        ends, follows = np.append(first - 1, ends), np.append(0, follows)
    runs = _settle(runs, int(ordinals[0]), None)
    streaks = np.diff(follows, append=len(matches))
    rows = np.empty((_WIDTH, len(ordinals)), np.int64)
    rows[_START_ID], rows[_START_TIME] = start_ids, start_times
    rows[_END_ID], rows[_END_TIME] = end_ids, end_times
    rows[_LENGTH] = ends + before.total + 2 - ordinals
    rows[_FOLLOW] = streaks
    rows[_FOLLOW_END] = runs.follow_total + np.cumsum(np.minimum(streaks, FOLLOW_GAMES_KEPT))
    rows[_SETTLED_AT, :-1] = ordinals[1:]
    rows[_SETTLED_AT, -1] = 0 if opened is None else opened.ordinal

    tail: Open | Followed | None = opened
    if opened is None:
        *newest, streak = rows[: _FOLLOW + 1, -1].tolist()
        tail, rows = Followed(tuple(newest), streak), rows[:, :-1]
    followers = matches[int(follows[0]) :]
    if int(streaks.max()) > FOLLOW_GAMES_KEPT:
        index = np.arange(len(followers)) - np.repeat(follows - follows[0], streaks)
        followers = followers[index < FOLLOW_GAMES_KEPT]
    return _trimmed(
        Runs(
            tail,
            runs.settled_total + rows.shape[1],
            runs.settled.append(rows),
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


def _follow_cells(games: Games, positions: Ints) -> Ints:
    """Id, hundredths and end time of the games at `positions`."""
    return games.columns.cells[:3, positions]  # ID, HUNDREDTHS, END_TIME


def _settle(runs: Runs, settled_at: int, tail: Open | None) -> Runs:
    """The runs when the game at position `settled_at` ends the streak of the one that ended last."""
    if not isinstance(runs.tail, Followed):
        return msgspec.structs.replace(runs, tail=tail)
    row = (*runs.tail.run, runs.tail.streak, runs.follow_total, settled_at)
    settled = runs.settled.append(np.array(row, np.int64).reshape(_WIDTH, 1))
    return _trimmed(Runs(tail, runs.settled_total + 1, settled, runs.follow_total, runs.follow))


def _trimmed(runs: Runs) -> Runs:
    """Only as many runs and follow games as are listed."""
    settled = runs.settled.last(SERIES_KEPT)
    if len(settled):
        first = settled.cells[:, 0]
        dropped = int(first[_FOLLOW_END]) - min(int(first[_FOLLOW]), FOLLOW_GAMES_KEPT)
        follow = runs.follow.last(runs.follow_total - dropped)
    else:
        follow = runs.follow
    return Runs(runs.tail, runs.settled_total, settled, runs.follow_total, follow)


def _listed(runs: Runs, state: SeriesState, since: int) -> list[bytes]:
    """The JSON of the series, newest first, without the first `since` of the settled ones."""
    listed: list[Series] = []
    match runs.tail:
        case Open(ordinal, game_id, time):
            length = state.total + 1 - ordinal
            nothing = FollowStreak(0, [])
            listed.append(Series(game_id, time, state.newest_id, state.newest_time, length, nothing))
        case Followed(run, streak):
            games = _follow_games(runs, runs.follow_total, streak)
            listed.append(Series(*run, FollowStreak(streak, games)))
        case None:
            pass
    if runs.settled_total == since:
        return [msgspec.json.encode(series) for series in listed]
    rows: Sequence[list[int]] = runs.settled.last(max(0, runs.settled_total - since)).cells.T.tolist()
    for start_game, start_time, end_game, end_time, length, streak, follow_end, _ in reversed(rows):
        games = _follow_games(runs, follow_end, streak)
        listed.append(Series(start_game, start_time, end_game, end_time, length, FollowStreak(streak, games)))
    return [msgspec.json.encode(series) for series in listed]


def _follow_games(runs: Runs, end: int, streak: int) -> list[FollowGame]:
    """The follow games that end at number `end` of all that were kept."""
    stop = end - (runs.follow_total - len(runs.follow))
    cells = runs.follow.cells[:, stop - min(streak, FOLLOW_GAMES_KEPT) : stop].tolist()
    return [FollowGame(game_id, hundredths / 100, time) for game_id, hundredths, time in zip(*cells, strict=True)]
