"""Intervals: matches per bucket of time, and per set of neighbouring ids.

Pure functions of a view and a question. Counts are real, never extrapolated, and a bucket without games is left out.
The engine keeps buckets of its own grid; date ranges, sets and batches are computed from the window.
"""

from collections.abc import Sequence
from datetime import date
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from crashfold.engine.ports import AllFields, Standing
from crashfold.engine.read.aggregate import ANALYTICS, Aggregate, Asked, Lack, Route, StoredAnswer
from crashfold.engine.read.questions import Question, Threshold
from crashfold.engine.read.refusals import OutOfBounds
from crashfold.engine.read.times import MINUTE_S, Instant, Zone
from crashfold.engine.read.view import View, counts_by_group, percentage
from crashfold.projections.columns import Ints
from crashfold.projections.settings import DAY_MINUTES
from crashfold.schemas import keys
from crashfold.schemas.aggregates import Interval
from crashfold.schemas.predicate import Predicate

DAYS_MAX: Final = 7
SETS_MAX: Final = 10_000
"""When there are more sets, those without games are left out."""

_BUCKET: Final = len(keys.bucket(0)) - 1
"""Characters before the number in the field of a bucket."""

T = TypeVar("T")

_decode_buckets = msgspec.json.Decoder(list[Interval]).decode


class IntervalsQuestion(Question, frozen=True, kw_only=True):
    """Buckets of `interval_minutes` over the last `hours` hours."""

    interval_minutes: int = 10
    hours: int = 24

    @property
    def by_clock(self) -> bool:
        """Whether the clock decides: it does, since the last bucket is the current one."""
        return True

    @property
    def changes_every_us(self) -> int | None:
        """The width of a bucket: with each new bucket the answer changes."""
        return self.interval_minutes * MINUTE_S * 1_000_000

    def items(self) -> int:
        """Count the buckets."""
        return self.value_count * -(-self.hours * 60 // self.interval_minutes)

    def cost(self, view: View) -> int:
        """The number of items."""
        return self.items()


class IntervalsBatch(IntervalsQuestion, frozen=True, kw_only=True):
    """The same for several thresholds."""

    values: tuple[float, ...]


class DateRangeQuestion(Question, frozen=True, kw_only=True):
    """Buckets of `interval_minutes` from the begin of one calendar day to the end of another."""

    start_date: date
    end_date: date
    interval_minutes: int = 10

    @property
    def days(self) -> int:
        """Count the days, the first and the last included."""
        return (self.end_date - self.start_date).days + 1

    def check(self) -> None:
        """Check that the days are in order, and not too many."""
        if self.days < 1:
            raise OutOfBounds("end_date is before start_date", "end_date")
        if self.days > DAYS_MAX:
            raise OutOfBounds(f"from start_date to end_date are {self.days} days, more than {DAYS_MAX}", "end_date")

    def items(self) -> int:
        """Count the buckets."""
        return self.value_count * self.days * (DAY_MINUTES // self.interval_minutes)

    def cost(self, view: View) -> int:
        """The number of items."""
        return self.items()


class DateRangeBatch(DateRangeQuestion, frozen=True, kw_only=True):
    """The same for several thresholds."""

    values: tuple[float, ...]


class GameSetsQuestion(Question, frozen=True, kw_only=True):
    """Sets of `games_per_set` neighbouring ids over the last `total_games` games."""

    games_per_set: int = 10
    total_games: int = 1000

    def items(self) -> int:
        """Count the sets, as if no id were missing."""
        return self.value_count * -(-self.total_games // self.games_per_set)

    def items_in(self, view: View) -> int:
        """Count the sets with the ids that are there: missing ids make more sets, and a set may be cut at both ends."""
        listed = sets_listed(view, self)
        return self.value_count * listed if listed > self.total_games // self.games_per_set + 2 else 0

    def cost(self, view: View) -> int:
        """The number of items."""
        return self.items()


class GameSetsBatch(GameSetsQuestion, frozen=True, kw_only=True):
    """The same for several thresholds."""

    values: tuple[float, ...]


class IntervalItem(msgspec.Struct, frozen=True, gc=False):
    """A bucket, from its begin up to its end (exclusive)."""

    interval_start: Instant
    interval_end: Instant
    count: int
    total_games: int
    percentage: float


class GameSetItem(msgspec.Struct, frozen=True, gc=False):
    """A set of ids, from `start_game` to `end_game`, both included; counts and times are of the games in the sample."""

    set_id: int
    start_time: Instant | None
    end_time: Instant | None
    start_game: int
    end_game: int
    count: int
    total_games: int
    percentage: float
    is_current_interval: bool
    actual_games: int


class IntervalsAnswer(msgspec.Struct, frozen=True):
    """Buckets of the last hours, oldest first."""

    min_value: float
    interval_minutes: int
    hours: int
    count: int
    intervals: list[IntervalItem]


class IntervalsBatchAnswer(msgspec.Struct, frozen=True):
    """The same for each value, by the number as Python prints it."""

    values: list[float]
    interval_minutes: int
    hours: int
    intervals_by_value: dict[str, list[IntervalItem]]


class DateRangeAnswer(msgspec.Struct, frozen=True):
    """Buckets of calendar days, oldest first; the dates are the first instants of those days."""

    min_value: float
    start_date: Instant
    end_date: Instant
    interval_minutes: int
    count: int
    intervals: list[IntervalItem]


class DateRangeBatchAnswer(msgspec.Struct, frozen=True):
    """The same for each value."""

    values: list[float]
    start_date: Instant
    end_date: Instant
    interval_minutes: int
    intervals_by_value: dict[str, list[IntervalItem]]


class GameSetsAnswer(msgspec.Struct, frozen=True):
    """Sets, newest first."""

    min_value: float
    games_per_set: int
    total_games: int
    count: int
    intervals: list[GameSetItem]


class GameSetsBatchAnswer(msgspec.Struct, frozen=True):
    """The same for each value."""

    values: list[float]
    games_per_set: int
    total_games: int
    intervals_by_value: dict[str, list[GameSetItem]]


def intervals(view: View, threshold: Threshold, question: IntervalsQuestion) -> IntervalsAnswer:
    """The buckets of the last hours, aligned to UTC midnight."""
    (items,) = _buckets(view, [threshold.predicate], _utc_lines_s(view, question))
    return IntervalsAnswer(threshold.value, question.interval_minutes, question.hours, len(items), items)


def intervals_batch(view: View, thresholds: Sequence[Threshold], question: IntervalsBatch) -> IntervalsBatchAnswer:
    """The same for several thresholds."""
    items = _buckets(view, _predicates(thresholds), _utc_lines_s(view, question))
    return IntervalsBatchAnswer(
        [*question.values], question.interval_minutes, question.hours, _by_value(thresholds, items)
    )


def date_range(view: View, threshold: Threshold, question: DateRangeQuestion) -> DateRangeAnswer:
    """The buckets of those days, on the grid of the zone."""
    (items,) = _buckets(view, [threshold.predicate], _zone_lines_s(view, question))
    return DateRangeAnswer(
        threshold.value,
        _first_instant(view.zone, question.start_date),
        _first_instant(view.zone, question.end_date),
        question.interval_minutes,
        len(items),
        items,
    )


def date_range_batch(view: View, thresholds: Sequence[Threshold], question: DateRangeBatch) -> DateRangeBatchAnswer:
    """The same for several thresholds."""
    items = _buckets(view, _predicates(thresholds), _zone_lines_s(view, question))
    return DateRangeBatchAnswer(
        [*question.values],
        _first_instant(view.zone, question.start_date),
        _first_instant(view.zone, question.end_date),
        question.interval_minutes,
        _by_value(thresholds, items),
    )


def game_sets(view: View, threshold: Threshold, question: GameSetsQuestion) -> GameSetsAnswer:
    """The sets of the last games."""
    (items,) = _sets(view, [threshold.predicate], question)
    return GameSetsAnswer(threshold.value, question.games_per_set, question.total_games, len(items), items)


def game_sets_batch(view: View, thresholds: Sequence[Threshold], question: GameSetsBatch) -> GameSetsBatchAnswer:
    """The same for several thresholds."""
    items = _sets(view, _predicates(thresholds), question)
    return GameSetsBatchAnswer(
        [*question.values], question.games_per_set, question.total_games, _by_value(thresholds, items)
    )


def _predicates(thresholds: Sequence[Threshold]) -> list[Predicate]:
    return [threshold.predicate for threshold in thresholds]


def _by_value(thresholds: Sequence[Threshold], items: list[list[T]]) -> dict[str, list[T]]:
    return {threshold.label: found for threshold, found in zip(thresholds, items, strict=True)}


def _first_instant(zone: Zone, day: date) -> str:
    return zone.isoformat(zone.first_instant_s(day) * 1_000_000)


def _utc_lines_s(view: View, question: IntervalsQuestion) -> Ints:
    """The grid of UTC from so many hours before the newest line to the end of the bucket that is still filling."""
    step_s = question.interval_minutes * MINUTE_S
    newest = view.now_us // 1_000_000 // step_s * step_s
    oldest = (newest - question.hours * 3600) // step_s * step_s
    return np.arange(oldest, newest + step_s + 1, step_s)


def _zone_lines_s(view: View, question: DateRangeQuestion) -> Ints:
    lines = view.zone.lines_s(question.start_date, question.end_date, question.interval_minutes)
    return np.array(lines, np.int64)


def _buckets(view: View, predicates: Sequence[Predicate], lines_s: Ints) -> list[list[IntervalItem]]:
    """Per predicate the buckets between neighbouring lines that hold a game, oldest first."""
    lines_ms = lines_s * 1000
    times = view.games.end_times
    inside = np.flatnonzero((times >= lines_ms[0]) & (times < lines_ms[-1]))
    buckets = np.searchsorted(lines_ms, times[inside], "right") - 1
    hundredths = view.games.hundredths[inside]
    totals = np.bincount(buckets, minlength=len(lines_ms))
    kept = np.flatnonzero(totals)
    totals = totals[kept]
    printed = view.zone.isoformats(lines_ms)
    starts, ends = [printed[line] for line in kept.tolist()], [printed[line + 1] for line in kept.tolist()]
    matches = counts_by_group(hundredths, predicates, buckets, len(lines_ms))[:, kept]
    columns = zip(matches.tolist(), (matches / totals * 100).tolist(), strict=True)
    whole = totals.tolist()
    return [[*map(IntervalItem, starts, ends, counts, whole, shares)] for counts, shares in columns]


def sets_listed(view: View, question: GameSetsQuestion) -> int:
    """How many sets the answer lists of each value: ids with holes make more of them than the question shows."""
    ids = view.games.last(question.total_games).ids
    if not len(ids):
        return 0
    sets = int(ids[-1] // question.games_per_set - ids[0] // question.games_per_set) + 1
    return sets if sets <= SETS_MAX else len(ids)


def _sets(view: View, predicates: Sequence[Predicate], question: GameSetsQuestion) -> list[list[GameSetItem]]:
    """Per predicate the sets from the newest game of the sample to its oldest."""
    size, sample = question.games_per_set, view.games.last(question.total_games)
    if not len(sample):
        return [[] for _ in predicates]
    numbers = sample.ids // size
    begins = np.flatnonzero(np.diff(numbers, prepend=-1))
    sizes = np.diff(begins, append=len(sample))
    newest, sets = int(numbers[-1]), int(numbers[-1] - numbers[0]) + 1
    present = newest - numbers[begins[::-1]]
    listed = np.arange(sets) if sets <= SETS_MAX else present
    rows = np.searchsorted(listed, present)
    starts: list[str | None] = [None] * len(listed)
    ends = starts.copy()
    printed = view.zone.isoformats(sample.end_times[np.concatenate((begins, begins + sizes - 1))[::-1]])
    for row, start, end in zip(rows.tolist(), printed[len(rows) :], printed[: len(rows)], strict=True):
        starts[row], ends[row] = start, end
    first_ids = (newest - listed) * size
    known = ((listed + 1).tolist(), starts, ends, first_ids.tolist(), (first_ids + size - 1).tolist())
    groups = rows[::-1].repeat(sizes)
    totals = np.bincount(groups, minlength=len(listed))
    matches = counts_by_group(sample.hundredths, predicates, groups, len(listed))
    columns = zip(matches.tolist(), (matches / np.maximum(totals, 1) * 100).tolist(), strict=True)
    whole, is_current = totals.tolist(), (listed == 0).tolist()
    return [[*map(GameSetItem, *known, counts, whole, shares, is_current, whole)] for counts, shares in columns]


def _stored(asked: Asked, view: View) -> StoredAnswer | None:
    (threshold,), question = asked.thresholds, asked.question
    settings = view.settings
    if question.interval_minutes != settings.interval_minutes or question.hours > settings.interval_hours:
        return None
    step_s = question.interval_minutes * MINUTE_S

    def build(values: Sequence[Any], standing: Standing, view: View) -> IntervalsAnswer | Lack:
        (fields,) = values
        if not fields:
            return Lack.MISSING
        newest = view.now_us // 1_000_000 // step_s * step_s
        oldest = (newest - question.hours * 3600) // step_s * step_s
        stored = dict(
            zip(
                [int(name[_BUCKET:]) for name in fields],
                _decode_buckets(b"[" + b",".join(fields.values()) + b"]"),
                strict=True,
            )
        )
        if max(stored) > newest:
            return Lack.UNSUITABLE  # games of a clock ahead of ours have pushed out older buckets
        starts = sorted(start for start in stored if start >= oldest)
        lines = sorted({*starts, *(start + step_s for start in starts)})  # most buckets end where another begins
        printed = dict(zip(lines, view.zone.isoformats(np.array(lines, np.int64) * 1000), strict=True)) if lines else {}
        times = view.games.end_times
        inside = np.count_nonzero((times >= oldest * 1000) & (times < (newest + step_s) * 1000))
        if sum(stored[start].total_games for start in starts) < inside:
            return Lack.MISSING  # the window alone has more
        items = []
        for start in starts:
            count, total = stored[start].count, stored[start].total_games
            if not 0 <= count <= total <= standing.total_games or start % step_s:
                raise ValueError("a bucket is spoiled")
            begin, end = printed[start], printed[start + step_s]
            items.append(IntervalItem(begin, end, count, total, percentage(count, total)))
        return IntervalsAnswer(threshold.value, question.interval_minutes, question.hours, len(items), items)

    return StoredAnswer((AllFields(keys.intervals(threshold.predicate)),), build)


_ROOT: Final = f"{ANALYTICS}/intervals/min-crash-point"

INTERVALS: Final = Aggregate(
    name="intervals",
    routes=(
        Route("GET", f"{_ROOT}/{{value}}", IntervalsQuestion, intervals, "min", _stored),
        Route("GET", f"{_ROOT}/{{value}}/date-range", DateRangeQuestion, date_range, "min"),
        Route("GET", f"{_ROOT}/{{value}}/game-sets", GameSetsQuestion, game_sets, "min"),
        Route("POST", f"{_ROOT}s", IntervalsBatch, intervals_batch, "min"),
        Route("POST", f"{_ROOT}s/date-range", DateRangeBatch, date_range_batch, "min"),
        Route("POST", f"{_ROOT}s/game-sets", GameSetsBatch, game_sets_batch, "min"),
    ),
    source=lambda settings: settings.source_intervals,
)
