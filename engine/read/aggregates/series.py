"""Series: runs of games below a threshold, each with the game that ended it.

Pure functions of a view and a question. Other than the stored series (docs/rules.md, section 4.3) a series opens at any
game when none is open and includes the first game that reaches the threshold, so every game belongs to exactly one. A
stored run and the first game of its streak are one series, and each further game of the streak is a series of its own.
The series that is open when the window begins has its true start if the view's past knows it.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np

from crashfold.engine.ports import Fields, First, Piece, Pieces, Standing
from crashfold.engine.read.aggregate import ANALYTICS, Aggregate, Asked, Lack, PastReader, Route, StoredAnswer
from crashfold.engine.read.past import Opening, Past
from crashfold.engine.read.questions import ITEMS_MAX, Question, Threshold
from crashfold.engine.read.stored import count_of, joined, only
from crashfold.engine.read.times import Instant
from crashfold.engine.read.view import View, matching
from crashfold.projections.columns import Ints
from crashfold.projections.games import Games
from crashfold.projections.settings import SERIES_KEPT
from crashfold.schemas import keys
from crashfold.schemas.aggregates import Series
from crashfold.schemas.predicate import Predicate

SortBy = Literal["time", "length"]

_decode_series = msgspec.json.Decoder(list[Series]).decode


class SeriesQuestion(Question, frozen=True, kw_only=True):
    """The series that have a game among the last `limit` games."""

    limit: int = 1000
    sort_by: SortBy = "time"

    def items(self) -> int:
        """A series has a game at least."""
        return self.limit

    def cost(self, view: View) -> int:
        """A series has a game at least."""
        return min(self.limit, len(view.games))

    def rows(self, view: View) -> Ints:
        """The rows of the sample."""
        return np.arange(max(0, len(view.games) - self.limit), len(view.games))


class SeriesByTimeQuestion(Question, frozen=True, kw_only=True):
    """The series that have a game in the last `hours` hours."""

    hours: int = 24
    sort_by: SortBy = "time"

    @property
    def by_clock(self) -> bool:
        """The hours end now."""
        return True

    def items_in(self, view: View) -> int:
        """As many as the hours have games, each of which may be a series."""
        return len(self.rows(view)) if len(view.games) > ITEMS_MAX else 0

    def cost(self, view: View) -> int:
        """The window's share of a week."""
        return len(view.games) * self.hours // 168

    def rows(self, view: View) -> Ints:
        """The rows of the sample."""
        return np.flatnonzero(view.within(view.hours_ago_us(self.hours), view.now_us))


class SeriesItem(msgspec.Struct, frozen=True, gc=False):
    """One series; the crash point is that of the game which ended it, null while it is open."""

    start_game_id: str
    start_time: Instant
    end_game_id: str
    end_time: Instant
    length: int
    crash_point: float | None


class SeriesAnswer(msgspec.Struct, frozen=True):
    """The series that have a game among the last `limit` games."""

    min_value: float
    limit: int
    sort_by: SortBy
    count: int
    series: list[SeriesItem]


class SeriesByTimeAnswer(msgspec.Struct, frozen=True):
    """The series that have a game in the last `hours` hours."""

    min_value: float
    hours: int
    sort_by: SortBy
    count: int
    series: list[SeriesItem]


class _Runs(msgspec.Struct, frozen=True):
    """All series, oldest first, by the rows of their first and last game; the last one may be open."""

    first: Ints
    last: Ints
    is_open: bool


def series(view: View, threshold: Threshold, question: SeriesQuestion) -> SeriesAnswer:
    """The series of the last games."""
    runs = _runs(view, threshold)
    oldest = max(0, len(view.games) - question.limit)
    chosen = np.arange(np.searchsorted(runs.last, oldest), len(runs.last))
    return _answer(threshold, question, _items(view, threshold, runs, chosen, question.sort_by))


def series_by_time(view: View, threshold: Threshold, question: SeriesByTimeQuestion) -> SeriesByTimeAnswer:
    """The series of the last hours."""
    runs = _runs(view, threshold)
    chosen = np.empty(0, np.int64)
    if len(runs.first):
        inside = view.within(view.hours_ago_us(question.hours), view.now_us)
        chosen = np.flatnonzero(np.logical_or.reduceat(inside, runs.first))
    return _answer_by_time(threshold, question, _items(view, threshold, runs, chosen, question.sort_by))


def _answer(threshold: Threshold, question: SeriesQuestion, items: list[SeriesItem]) -> SeriesAnswer:
    return SeriesAnswer(threshold.value, question.limit, question.sort_by, len(items), items)


def _answer_by_time(
    threshold: Threshold, question: SeriesByTimeQuestion, items: list[SeriesItem]
) -> SeriesByTimeAnswer:
    return SeriesByTimeAnswer(threshold.value, question.hours, question.sort_by, len(items), items)


def _runs(view: View, threshold: Threshold) -> _Runs:
    games = len(view.games)
    ends = np.flatnonzero(view.games.hundredths >= threshold.predicate.low)
    is_open = games > 0 and (not len(ends) or int(ends[-1]) < games - 1)
    last = np.append(ends, games - 1) if is_open else ends
    first = np.empty_like(last)
    first[:1] = 0
    first[1:] = last[:-1] + 1
    return _Runs(first, last, is_open)


def _items(view: View, threshold: Threshold, runs: _Runs, chosen: Ints, sort_by: SortBy) -> list[SeriesItem]:
    """The chosen series as they are shown, in the order asked for."""
    first, last = runs.first[chosen], runs.last[chosen]
    games = view.games
    start_ids, start_times, lengths = games.ids[first], games.end_times[first], last - first + 1
    opening = view.past.openings.get(threshold.predicate)
    if opening is not None and len(first) and first[0] == 0:
        start_ids[0], start_times[0] = opening.start_game, opening.start_time_ms
        lengths[0] += opening.length
    crash_points: list[float | None] = (games.hundredths[last] / 100).tolist()
    if runs.is_open and len(last) and last[-1] == len(games) - 1:
        crash_points[-1] = None
    columns = (start_ids, start_times, games.ids[last], games.end_times[last], lengths)
    return _shown(view, columns, crash_points, sort_by)


def _shown(
    view: View, columns: tuple[Ints, Ints, Ints, Ints, Ints], crash_points: Sequence[float | None], sort_by: SortBy
) -> list[SeriesItem]:
    """Series in the order asked for. The columns, oldest first: id and time of the first game, of the last, length."""
    lengths = columns[-1]
    order = np.argsort(-lengths, kind="stable") if sort_by == "length" else np.arange(len(lengths))[::-1]
    start_ids, start_times, end_ids, end_times, lengths = (column[order] for column in columns)
    printed = view.zone.isoformats(np.concatenate((start_times, end_times)))
    return [
        *map(
            SeriesItem,
            map(str, start_ids.tolist()),
            printed[: len(order)],
            map(str, end_ids.tolist()),
            printed[len(order) :],
            lengths.tolist(),
            [crash_points[row] for row in order.tolist()],
        )
    ]


def _stored(asked: Asked, view: View) -> StoredAnswer | None:
    (threshold,), question = asked.thresholds, asked.question
    predicate, wanted = threshold.predicate, _runs_wanted(view, threshold.predicate, question.rows(view))
    if not 0 < wanted <= SERIES_KEPT:
        return None

    def build(values: Sequence[Any], standing: Standing, view: View) -> SeriesAnswer | SeriesByTimeAnswer | Lack:
        items = _of_stored(view, predicate, question, _decode_series(joined(values[0]))[::-1], wanted)
        if isinstance(items, Lack):
            return items
        by_games = isinstance(question, SeriesQuestion)
        return _answer(threshold, question, items) if by_games else _answer_by_time(threshold, question, items)

    return StoredAnswer((First(keys.series(predicate), wanted),), build)


def _runs_wanted(view: View, predicate: Predicate, rows: Ints) -> int:
    """How many of the newest stored runs have a game of the sample, in the run or in its streak; 0 when they cannot
    tell: the sample is empty, or has holes."""
    if not len(rows) or rows[-1] - rows[0] + 1 != len(rows):
        return 0
    matches = matching(view.games.hundredths[rows[0] :], predicate)
    return int(np.count_nonzero(matches[:-1] & ~matches[1:])) + 1


def _of_stored(
    view: View,
    predicate: Predicate,
    question: SeriesQuestion | SeriesByTimeQuestion,
    stored: Sequence[Series],
    runs_max: int,
) -> list[SeriesItem] | Lack:
    """The series of the sample from the stored runs, oldest first, of which the newest `runs_max` were read."""
    rows, games = question.rows(view), view.games
    if not _runs_wanted(view, predicate, rows):
        return Lack.UNSUITABLE  # a commit has come in between
    low, high = int(games.ids[rows[0]]), int(games.ids[rows[-1]])
    if not stored or stored[0].start_game > low:
        # Matches before the first run belong to none; any other game does.
        until = int(np.searchsorted(games.ids, stored[0].start_game)) if stored else len(games)
        is_lead = bool(matching(games.hundredths[rows[0] : until], predicate).all())
        return Lack.UNSUITABLE if is_lead or len(stored) >= runs_max else Lack.MISSING
    _check_runs(games, stored)
    found: list[tuple[int, int, int, int, int]] = []
    crash_points: list[float | None] = []
    for run in stored:
        streak = run.follow_streak
        if not streak.count:
            found.append((run.start_game, run.start_time, run.end_game, run.end_time, run.length))
            crash_points.append(None)
            continue
        if streak.count > len(streak.games):
            return Lack.UNSUITABLE  # longer than what is kept of it
        first, *more = streak.games
        found.append((run.start_game, run.start_time, first.game_id, first.time, run.length + 1))
        found += [(game.game_id, game.time, game.game_id, game.time, 1) for game in more]
        crash_points += [game.crash_point for game in streak.games]
    table = np.array(found, np.int64).T
    inside = np.flatnonzero((table[2] >= low) & (table[0] <= high))
    start_ids, start_times, end_ids, end_times, lengths = table[:, inside]
    columns = (start_ids, start_times, end_ids, end_times, lengths)
    return _shown(view, columns, [crash_points[row] for row in inside.tolist()], question.sort_by)


def _check_runs(games: Games, runs: Sequence[Series]) -> None:
    """Raise ValueError when runs and streaks do not cover the window's games without a hole, up to the newest one."""
    starts = np.array([run.start_game for run in runs])
    ends = np.array([run.end_game for run in runs])
    lengths = np.array([run.length for run in runs])
    streaks = np.array([run.follow_streak.count for run in runs])
    begin, last = np.searchsorted(games.ids, starts), np.searchsorted(games.ids, ends)
    known = starts >= games.ids[0]
    is_whole = (
        bool((streaks[:-1] > 0).all())
        and bool((last < len(games)).all() and (begin <= last).all())
        and bool((games.ids[begin[known]] == starts[known]).all())
        and bool((last - begin + 1 == lengths)[known].all())
        and bool((last[1:] + 1 + streaks[1:] == np.append(begin[2:], len(games))).all())
    )
    if ends[0] >= games.ids[0]:
        after = int(begin[1]) if len(runs) > 1 else len(games)
        is_whole = is_whole and int(games.ids[last[0]]) == ends[0] and int(last[0]) + 1 + int(streaks[0]) == after
    if not is_whole:
        raise ValueError("the series are spoiled")


def opening_of(window: Games, stored: Sequence[Series]) -> Opening | None:
    """The series open when `window` begins, by the stored series of a `min` predicate, newest first.

    None when a series begins with the window, or when the stored ones do not reach back that far.
    """
    if not len(window):
        return None
    first = int(window.ids[0])
    run = next((run for run in stored if run.start_game < first), None)
    if run is None:
        return None
    ended_by = run.follow_streak.games[0].game_id if run.follow_streak.games else None
    if run.end_game < first and ended_by != first:
        return None
    inside = int(np.searchsorted(window.ids, run.end_game, "right"))
    return Opening(run.start_game, run.start_time, run.length - inside)


def _is_past_wanted(question: SeriesQuestion | SeriesByTimeQuestion, view: View, predicate: Predicate) -> bool:
    """Whether the window does not say where the first series of the sample begins."""
    rows = question.rows(view)
    before = int(rows[0]) if len(rows) else len(view.games)
    return not bool(matching(view.games.hundredths[:before], predicate).any())


def _past_pieces(predicates: Sequence[Predicate]) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    for predicate in predicates:
        pieces += (Fields(keys.occurrences(predicate), ("count",)), First(keys.series(predicate), SERIES_KEPT))
    return tuple(pieces)


def _read_past(predicates: Sequence[Predicate], read: Pieces, window: Games) -> Past:
    values, total = read.values, read.standing.total_games
    openings = {}
    for predicate, counted, stored in zip(predicates, values[::2], values[1::2], strict=True):
        runs = _decode_series(joined(stored))
        if (not runs and count_of(only(counted), total) < total) or not _covers(runs, predicate, window):
            raise ValueError("series are missing")
        opening = opening_of(window, runs)
        if opening is not None:
            openings[predicate] = opening
    return Past(openings=openings)


def _covers(runs: Sequence[Series], predicate: Predicate, window: Games) -> bool:
    """Whether the run that the window's first game belongs to is among them, if it must be."""
    if not len(window) or predicate.matches(int(window.hundredths[0])):
        return True
    first = int(window.ids[0])
    if len(runs) >= SERIES_KEPT and runs[-1].start_game > first:
        return True
    return any(run.start_game <= first <= run.end_game for run in runs)


_ROOT: Final = f"{ANALYTICS}/series/without-min-crash-point/{{value}}"

SERIES: Final = Aggregate(
    name="series",
    routes=(
        Route("GET", _ROOT, SeriesQuestion, series, "min", _stored),
        Route("GET", f"{_ROOT}/time", SeriesByTimeQuestion, series_by_time, "min", _stored),
    ),
    source=lambda settings: settings.source_series,
    past=PastReader(_is_past_wanted, _past_pieces, _read_past),
)
