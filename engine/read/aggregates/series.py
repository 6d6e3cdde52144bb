"""Series: runs of games below a threshold, each with the game that ended it.

Pure functions of a view and a question. Other than the stored series (docs/rules.md, section 4.3) a series opens at any
game when none is open and includes the first game that reaches the threshold, so every game belongs to exactly one. A
stored run and the first game of its streak are one series, and each further game of the streak is a series of its own.
The series that is open when the window begins has its true start if the view's past knows it.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal, cast

import msgspec
import numpy as np

from crashfold.engine.ports import Fields, First, Piece, Pieces, Standing
from crashfold.engine.read.aggregate import ANALYTICS, Aggregate, Asked, Lack, PastReader, Route, StoredAnswer
from crashfold.engine.read.past import Opening, Past
from crashfold.engine.read.printing import MANY, hundredths, objects, text, unless, whole
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

_START_ID, _END_ID, _LENGTH, _HUNDREDTHS = 0, 2, 4, 5

_decode_series = msgspec.json.Decoder(list[Series]).decode


class SeriesQuestion(Question, frozen=True, kw_only=True):
    """The series that have a game among the last `limit` games."""

    limit: int = 1000
    sort_by: SortBy = "time"

    def items(self) -> int:
        """The number of games: each may be a series."""
        return self.limit

    def cost(self, view: View) -> int:
        """The number of games: each may be a series."""
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
        """Whether the clock decides: it does, since the hours end now."""
        return True

    def items_in(self, view: View) -> int:
        """Count the games of the hours: each may be a series."""
        return len(self.rows(view)) if len(view.games) > ITEMS_MAX else 0

    def cost(self, view: View) -> int:
        """The games that the hours have, if the window is a week long."""
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
    return _answer(view, threshold, question, _found(view, threshold, runs, chosen))


def series_by_time(view: View, threshold: Threshold, question: SeriesByTimeQuestion) -> SeriesByTimeAnswer:
    """The series of the last hours."""
    runs = _runs(view, threshold)
    chosen = np.empty(0, np.int64)
    if len(runs.first):
        inside = view.within(view.hours_ago_us(question.hours), view.now_us)
        chosen = np.flatnonzero(np.logical_or.reduceat(inside, runs.first))
    return _answer_by_time(view, threshold, question, _found(view, threshold, runs, chosen))


def _answer(view: View, threshold: Threshold, question: SeriesQuestion, found: Ints) -> SeriesAnswer:
    items = _items(view, found, question.sort_by)
    return SeriesAnswer(threshold.value, question.limit, question.sort_by, found.shape[1], items)


def _answer_by_time(
    view: View, threshold: Threshold, question: SeriesByTimeQuestion, found: Ints
) -> SeriesByTimeAnswer:
    items = _items(view, found, question.sort_by)
    return SeriesByTimeAnswer(threshold.value, question.hours, question.sort_by, found.shape[1], items)


def _runs(view: View, threshold: Threshold) -> _Runs:
    games = len(view.games)
    ends = np.flatnonzero(view.games.hundredths >= threshold.predicate.low)
    is_open = games > 0 and (not len(ends) or int(ends[-1]) < games - 1)
    last = np.append(ends, games - 1) if is_open else ends
    first = np.empty_like(last)
    first[:1] = 0
    first[1:] = last[:-1] + 1
    return _Runs(first, last, is_open)


def _found(view: View, threshold: Threshold, runs: _Runs, chosen: Ints) -> Ints:
    """The chosen series, oldest first. Of each id and time of its first game, id and time of its last one, its length,
    and in hundredths the crash point that ended it, 0 while it is open."""
    first, last = runs.first[chosen], runs.last[chosen]
    games = view.games
    starts, ends = (games.ids[first], games.end_times[first]), (games.ids[last], games.end_times[last])
    found = np.stack((*starts, *ends, last - first + 1, games.hundredths[last]))
    opening = view.past.openings.get(threshold.predicate)
    if opening is not None and len(first) and first[0] == 0:
        found[:2, 0] = opening.start_game, opening.start_time_ms
        found[_LENGTH, 0] += opening.length
    if runs.is_open and len(last) and last[-1] == len(games) - 1:
        found[_HUNDREDTHS, -1] = 0
    return found


def _items(view: View, found: Ints, sort_by: SortBy) -> list[SeriesItem]:
    """The series as they are shown, in the order asked for; of many their JSON, since answers are only printed."""
    is_by_length = sort_by == "length"
    order = np.argsort(-found[_LENGTH], kind="stable") if is_by_length else np.arange(found.shape[1])[::-1]
    start_ids, start_times, end_ids, end_times, lengths, points = found[:, order]
    times = np.concatenate((start_times, end_times))
    if len(order) >= MANY:
        begun, ended = map(text, view.zone.characters(times).reshape(2, len(order), -1))
        columns = {
            "start_game_id": text(*whole(start_ids)),
            "start_time": begun,
            "end_game_id": text(*whole(end_ids)),
            "end_time": ended,
            "length": whole(lengths),
            "crash_point": unless(points == 0, hundredths(points)),
        }
        return cast(list[SeriesItem], objects(SeriesItem, columns))
    printed = view.zone.isoformats(times)
    return [
        *map(
            SeriesItem,
            map(str, start_ids.tolist()),
            printed[: len(order)],
            map(str, end_ids.tolist()),
            printed[len(order) :],
            lengths.tolist(),
            [point / 100 or None for point in points.tolist()],
        )
    ]


def _stored(asked: Asked, view: View) -> StoredAnswer | None:
    (threshold,), question = asked.thresholds, asked.question
    predicate, wanted = threshold.predicate, _runs_wanted(view, threshold.predicate, question.rows(view))
    if not 0 < wanted <= SERIES_KEPT:
        return None

    def build(values: Sequence[Any], standing: Standing, view: View) -> SeriesAnswer | SeriesByTimeAnswer | Lack:
        found = _of_stored(view, predicate, question, _decode_series(joined(values[0]))[::-1], wanted)
        if isinstance(found, Lack):
            return found
        by_games = isinstance(question, SeriesQuestion)
        return (_answer if by_games else _answer_by_time)(view, threshold, question, found)

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
) -> Ints | Lack:
    """The series of the sample, as `_found` has them, from the stored runs, oldest first; the newest `runs_max` were
    read."""
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
    found: list[tuple[int, int, int, int, int, int]] = []
    for run in stored:
        streak, opened = run.follow_streak, (run.start_game, run.start_time)
        if not streak.count:
            found.append((*opened, run.end_game, run.end_time, run.length, 0))
            continue
        if streak.count > len(streak.games):
            return Lack.UNSUITABLE  # longer than what is kept of it
        first, *more = streak.games
        found.append((*opened, first.game_id, first.time, run.length + 1, round(first.crash_point * 100)))
        for game in more:
            found.append((game.game_id, game.time, game.game_id, game.time, 1, round(game.crash_point * 100)))
    table = np.array(found, np.int64).T
    return table[:, (table[_END_ID] >= low) & (table[_START_ID] <= high)]


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
