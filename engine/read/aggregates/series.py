"""Series: runs of games below a threshold, each with the game that ended it.

Pure functions of a view and a question. Other than the stored series (docs/rules.md, section 4.3) a series opens at any
game when none is open and includes the first game that reaches the threshold, so every game belongs to exactly one. The
series that was open already when the window begins has its true start if the view's past knows it.
"""

import msgspec
import numpy as np

from crashfold.engine.read.questions import SeriesByTimeQuestion, SeriesQuestion, SortBy, Threshold
from crashfold.engine.read.times import Instant
from crashfold.engine.read.view import View
from crashfold.projections.columns import Ints


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
    items = _items(view, threshold, runs, chosen, question.sort_by)
    return SeriesAnswer(threshold.value, question.limit, question.sort_by, len(items), items)


def series_by_time(view: View, threshold: Threshold, question: SeriesByTimeQuestion) -> SeriesByTimeAnswer:
    """The series of the last hours."""
    runs = _runs(view, threshold)
    chosen = np.empty(0, np.int64)
    if len(runs.first):
        inside = view.within(view.hours_ago_us(question.hours), view.now_us)
        chosen = np.flatnonzero(np.logical_or.reduceat(inside, runs.first))
    items = _items(view, threshold, runs, chosen, question.sort_by)
    return SeriesByTimeAnswer(threshold.value, question.hours, question.sort_by, len(items), items)


def games_within(view: View, question: SeriesByTimeQuestion) -> int:
    """How many games the hours have, each of which may be a series."""
    return int(np.count_nonzero(view.within(view.hours_ago_us(question.hours), view.now_us)))


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
    order = np.argsort(-lengths, kind="stable") if sort_by == "length" else np.arange(len(first))[::-1]
    last = last[order]
    crash_points: list[float | None] = (games.hundredths[last] / 100).tolist()
    if runs.is_open:
        for row in np.flatnonzero(last == len(games) - 1).tolist():
            crash_points[row] = None
    printed = view.zone.isoformats(np.concatenate((start_times[order], games.end_times[last])))
    return [
        *map(
            SeriesItem,
            map(str, start_ids[order].tolist()),
            printed[: len(last)],
            map(str, games.ids[last].tolist()),
            printed[len(last) :],
            lengths[order].tolist(),
            crash_points,
        )
    ]
