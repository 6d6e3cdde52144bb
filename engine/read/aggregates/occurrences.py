"""Occurrences: how many of the last games, or of the games of the last hours, match.

Pure functions of a view and a question. Counts are real: of the games that are there.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from crashfold.engine.read.questions import Echo, OccurrencesBatch, OccurrencesQuestion, Threshold
from crashfold.engine.read.times import Instant
from crashfold.engine.read.view import View, counts, percentage
from crashfold.projections.columns import Ints
from crashfold.projections.games import Games


class SampleParams(msgspec.Struct, frozen=True):
    """The size of the sample: in games, or in hours."""

    games: int | UnsetType = UNSET
    hours: int | UnsetType = UNSET


class Occurrences(msgspec.Struct, frozen=True, kw_only=True):
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


class EarlierOccurrences(Occurrences, frozen=True, kw_only=True):
    """The period before, and what has changed since; `percentage_change` is in points."""

    count_change: int
    percentage_change: float


class ComparedOccurrences(Occurrences, frozen=True, kw_only=True):
    """With the period before, if that was asked for and holds a game."""

    comparison: EarlierOccurrences | UnsetType = UNSET


class OccurrencesAnswer(Echo, frozen=True, kw_only=True):
    """What one threshold gets."""

    by_time: bool
    params: SampleParams
    occurrences: Occurrences


class OccurrencesBatchAnswer(msgspec.Struct, frozen=True):
    """What several thresholds get, by the number as Python prints it."""

    by_time: bool
    params: SampleParams
    comparison: bool
    results: dict[str, ComparedOccurrences]


class _Sample(msgspec.Struct, frozen=True):
    """The crash points of a sample, and the fields that tell its times."""

    hundredths: Ints
    times: dict[str, Any]

    def fields(self, count: int) -> dict[str, Any]:
        """What an answer says when `count` of the sample match."""
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
        occurrences=Occurrences(**sample.fields(count)),
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
