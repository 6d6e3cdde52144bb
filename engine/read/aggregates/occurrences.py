"""Occurrences: how many of the last games, or of the games of the last hours, match.

Pure functions of a view and a question. Counts are real: of the games that are there. The engine keeps the counts of
the last N games. A sample of hours ends now and not with the newest game, so the window answers it.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from crashfold.engine.ports import Fields, Standing
from crashfold.engine.read.aggregate import ANALYTICS, NAMES, Aggregate, Asked, Lack, Route, StoredAnswer
from crashfold.engine.read.questions import Echo, Question, Threshold
from crashfold.engine.read.stored import count_of
from crashfold.engine.read.times import Instant
from crashfold.engine.read.view import View, counts, percentage
from crashfold.projections.columns import Ints
from crashfold.projections.games import Games
from crashfold.schemas import keys
from crashfold.schemas.aggregates import Sample
from crashfold.schemas.predicate import Kind

_decode_sample = msgspec.json.Decoder(Sample).decode


class OccurrencesQuestion(Question, frozen=True, kw_only=True):
    """The last `games` games or, by time, the last `hours` hours."""

    games: int = 100
    by_time: bool = False
    hours: int = 1

    @property
    def by_clock(self) -> bool:
        """Whether the clock decides: it does when the sample is one of hours."""
        return self.by_time


class OccurrencesBatch(OccurrencesQuestion, frozen=True, kw_only=True):
    """The same for several thresholds, if wanted in comparison with the period before."""

    values: tuple[float, ...]
    comparison: bool = True


class FloorOccurrencesBatch(OccurrencesBatch, frozen=True, kw_only=True):
    """The same for several floors."""

    values: tuple[int, ...]


class SampleParams(msgspec.Struct, frozen=True):
    """The size of the sample: in games, or in hours."""

    games: int | UnsetType = UNSET
    hours: int | UnsetType = UNSET


class OccurrencesData(msgspec.Struct, frozen=True, kw_only=True):
    """Of `total_games` games `count` match, which is `percentage` per cent.

    By games, the end times of the oldest and newest game of the sample, null when it is empty; by time, the window
    of time.
    """

    count: int
    total_games: int
    percentage: float
    first_game_time: Instant | UnsetType | None = UNSET
    last_game_time: Instant | UnsetType | None = UNSET
    start_time: Instant | UnsetType = UNSET
    end_time: Instant | UnsetType = UNSET


class EarlierOccurrences(OccurrencesData, frozen=True, kw_only=True):
    """The period before, and what has changed since; `percentage_change` is in points."""

    count_change: int
    percentage_change: float


class ComparedOccurrences(OccurrencesData, frozen=True, kw_only=True):
    """The occurrences, compared with the period before if that was asked for and holds a game."""

    comparison: EarlierOccurrences | UnsetType = UNSET


class OccurrencesAnswer(Echo, frozen=True, kw_only=True):
    """The answer for one threshold."""

    by_time: bool
    params: SampleParams
    occurrences: OccurrencesData


class OccurrencesBatchAnswer(msgspec.Struct, frozen=True):
    """The answers for several thresholds, by the number as Python prints it."""

    by_time: bool
    params: SampleParams
    comparison: bool
    results: dict[str, ComparedOccurrences]


class _Sample(msgspec.Struct, frozen=True):
    """The crash points of a sample, and the fields that tell its times."""

    hundredths: Ints
    times: dict[str, Any]

    def fields(self, count: int) -> dict[str, Any]:
        """Return the answer for a sample in which `count` games match."""
        total_games = len(self.hundredths)
        share = percentage(count, total_games)
        return {"count": count, "total_games": total_games, "percentage": share, **self.times}


def occurrences(view: View, threshold: Threshold, question: OccurrencesQuestion) -> OccurrencesAnswer:
    """The matches of one threshold."""
    sample = _sample(view, question)
    (count,) = counts(sample.hundredths, [threshold.predicate])
    return OccurrencesAnswer(
        by_time=question.by_time,
        params=_params(question),
        occurrences=OccurrencesData(**sample.fields(count)),
        **threshold.echo,
    )


def occurrences_batch(
    view: View, thresholds: Sequence[Threshold], question: OccurrencesBatch
) -> OccurrencesBatchAnswer:
    """The matches of several thresholds, by threshold."""
    predicates = [threshold.predicate for threshold in thresholds]
    sample = _sample(view, question)
    now = [sample.fields(count) for count in counts(sample.hundredths, predicates)]
    earlier = _earlier_sample(view, question) if question.comparison else None
    if earlier is not None and len(earlier.hundredths):
        for fields, count in zip(now, counts(earlier.hundredths, predicates), strict=True):
            fields["comparison"] = _compared(fields, earlier.fields(count))
    results = {
        threshold.label: ComparedOccurrences(**fields) for threshold, fields in zip(thresholds, now, strict=True)
    }
    return OccurrencesBatchAnswer(question.by_time, _params(question), question.comparison, results)


def _params(question: OccurrencesQuestion) -> SampleParams:
    return SampleParams(hours=question.hours) if question.by_time else SampleParams(games=question.games)


def _sample(view: View, question: OccurrencesQuestion) -> _Sample:
    if question.by_time:
        begin_us = view.hours_ago_us(question.hours)
        inside = view.within(begin_us, view.now_us)
        return _Sample(view.games.hundredths[inside], _window_of_time(view, begin_us, view.now_us))
    return _games_sample(view, view.games.last(question.games))


def _earlier_sample(view: View, question: OccurrencesQuestion) -> _Sample:
    """The period before: as many hours, without the moment that belongs to the later one, or up to as many games."""
    if question.by_time:
        begin_us, end_us = view.hours_ago_us(2 * question.hours), view.hours_ago_us(question.hours)
        inside = view.within(begin_us, end_us - 1)
        return _Sample(view.games.hundredths[inside], _window_of_time(view, begin_us, end_us))
    before = view.games.part(0, max(0, len(view.games) - question.games))
    return _games_sample(view, before.last(question.games))


def _games_sample(view: View, games: Games) -> _Sample:
    times: list[str | None] = [None, None]
    if len(games):
        times = [*view.zone.isoformats(games.end_times[[0, -1]])]
    return _Sample(games.hundredths, {"first_game_time": times[0], "last_game_time": times[1]})


def _window_of_time(view: View, begin_us: int, end_us: int) -> dict[str, str]:
    return {"start_time": view.zone.isoformat(begin_us), "end_time": view.zone.isoformat(end_us)}


def _compared(now: dict[str, Any], before: dict[str, Any]) -> EarlierOccurrences:
    return EarlierOccurrences(
        count_change=now["count"] - before["count"],
        percentage_change=now["percentage"] - before["percentage"],
        **before,
    )


def _stored(asked: Asked, view: View) -> StoredAnswer | None:
    question: OccurrencesQuestion = asked.question
    if question.by_time or question.games not in view.settings.samples_games:
        return None
    (threshold,), games, field = asked.thresholds, question.games, keys.sample_games(question.games)

    def build(values: Sequence[Any], standing: Standing, view: View) -> OccurrencesAnswer | Lack:
        sample, count = values[0][0], values[1][0]
        if sample is None or count is None:
            return Lack.MISSING
        fields = _stored_fields(sample, count, games, standing, view)
        params = SampleParams(games=games)
        return OccurrencesAnswer(by_time=False, params=params, occurrences=OccurrencesData(**fields), **threshold.echo)

    return StoredAnswer(
        (Fields(keys.SAMPLES, (field,)), Fields(keys.occurrences(threshold.predicate), (field,))), build
    )


def _batch_stored(asked: Asked, view: View) -> StoredAnswer | None:
    question: OccurrencesBatch = asked.question
    if question.by_time or question.comparison or question.games not in view.settings.samples_games:
        return None
    thresholds, games, field = asked.thresholds, question.games, keys.sample_games(question.games)

    def build(values: Sequence[Any], standing: Standing, view: View) -> OccurrencesBatchAnswer | Lack:
        sample, *counted = (found[0] for found in values)
        if sample is None or None in counted:
            return Lack.MISSING
        results = {
            threshold.label: ComparedOccurrences(**_stored_fields(sample, count, games, standing, view))
            for threshold, count in zip(thresholds, counted, strict=True)
        }
        return OccurrencesBatchAnswer(False, SampleParams(games=games), False, results)

    pieces = [Fields(keys.occurrences(predicate), (field,)) for predicate in asked.predicates]
    return StoredAnswer((Fields(keys.SAMPLES, (field,)), *pieces), build)


def _stored_fields(stored: bytes, counted: bytes, games: int, standing: Standing, view: View) -> dict[str, Any]:
    sample = _decode_sample(stored)
    if sample.total_games != min(games, standing.total_games):
        raise ValueError("the sample is of another size")
    count = count_of(counted, sample.total_games)
    times = (sample.first_game_time, sample.last_game_time)
    first, last = (None if time_ms is None else view.zone.isoformat(time_ms * 1000) for time_ms in times)
    return {
        "count": count,
        "total_games": sample.total_games,
        "percentage": percentage(count, sample.total_games),
        "first_game_time": first,
        "last_game_time": last,
    }


def _routes(kind: Kind, name: str) -> tuple[Route, ...]:
    root = f"{ANALYTICS}/occurrences/{name}"
    batch = FloorOccurrencesBatch if kind == "floor" else OccurrencesBatch
    return (
        Route("GET", f"{root}/{{value}}", OccurrencesQuestion, occurrences, kind, _stored),
        Route("POST", f"{root}s/batch", batch, occurrences_batch, kind, _batch_stored),
    )


OCCURRENCES: Final = Aggregate(
    name="occurrences",
    routes=tuple(route for kind, name in NAMES.items() for route in _routes(kind, name)),
    source=lambda settings: settings.source_occurrences,
)
