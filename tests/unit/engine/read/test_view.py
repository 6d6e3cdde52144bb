"""Answers worth reading one by one: the chances of the next game, sets with holes, series at the edges."""

from functools import partial

import numpy as np
import pytest

from crashfold.engine.read.aggregates.intervals import SETS_MAX, GameSetsQuestion, game_sets
from crashfold.engine.read.aggregates.last_games import probability
from crashfold.engine.read.aggregates.occurrences import (
    EarlierOccurrences,
    OccurrencesBatch,
    OccurrencesQuestion,
    occurrences,
    occurrences_batch,
)
from crashfold.engine.read.aggregates.series import SeriesQuestion, series
from crashfold.engine.read.fairness import DEFAULT
from crashfold.engine.read.questions import Threshold
from crashfold.engine.read.times import Zones
from crashfold.engine.read.view import View
from crashfold.projections.games import Bands, Games
from crashfold.schemas.game import TIME_MAX_MS, TIME_MIN_MS, Game
from crashfold.schemas.predicate import Kind

NOON_MS = 1_768_478_400_000
TWO = Threshold("min", 2.0)


def view_of(*games: tuple[int, float]) -> View:
    """Games of these ids and crash points, a minute apart."""
    rows = [Game(game_id=id_, crash_point=x, end_time=NOON_MS + 60_000 * i) for i, (id_, x) in enumerate(games)]
    return View.of(Games.of(Bands([]), rows), Zones().utc, NOON_MS * 1000)


@pytest.mark.parametrize(
    ("kind", "value", "chance"),
    [
        ("min", 1.0, 100.0),
        ("min", 1.01, 98.02),
        ("min", 2.0, 49.5),
        ("min", 1e9, 0.0),
        ("max", 1.0, 1.98),
        ("max", 3.5, 71.79),
        ("floor", 1, 50.5),
        ("floor", 2, 16.5),
        ("floor", 14, 0.47),
    ],
)
def test_the_chance_of_the_next_game_is_that_of_the_formula(kind: Kind, value: float, chance: float) -> None:
    assert probability(Threshold(kind, value), partial(DEFAULT.percent_reaching, newest_id=1)) == chance


def test_a_match_right_after_another_is_a_series_of_one_and_the_open_series_has_no_crash_point() -> None:
    found = series(view_of((1, 2.0), (2, 3.0), (3, 1.5), (4, 1.0)), TWO, SeriesQuestion(limit=1))
    assert [(item.start_game_id, item.end_game_id, item.length, item.crash_point) for item in found.series] == [
        ("3", "4", 2, None)
    ]
    found = series(view_of((1, 2.0), (2, 3.0)), TWO, SeriesQuestion())
    assert [(item.start_game_id, item.length, item.crash_point) for item in found.series] == [
        ("2", 1, 3.0),
        ("1", 1, 2.0),
    ]


def test_sets_without_games_are_listed_until_there_are_too_many() -> None:
    few = game_sets(view_of((5, 2.0), (31, 2.0)), TWO, GameSetsQuestion())
    assert [(item.set_id, item.start_game, item.end_game, item.total_games) for item in few.intervals] == [
        (1, 30, 39, 1),
        (2, 20, 29, 0),
        (3, 10, 19, 0),
        (4, 0, 9, 1),
    ]
    assert [item.start_time is None for item in few.intervals] == [False, True, True, False]
    all_listed = game_sets(view_of((5, 2.0), (SETS_MAX * 10 - 1, 1.0)), TWO, GameSetsQuestion())
    assert all_listed.count == SETS_MAX
    left_out = game_sets(view_of((5, 2.0), (SETS_MAX * 10, 1.0)), TWO, GameSetsQuestion())
    assert [(item.set_id, item.count) for item in left_out.intervals] == [(1, 0), (SETS_MAX + 1, 1)]
    assert [item.is_current_interval for item in left_out.intervals] == [True, False]


def test_ids_at_the_far_end_make_sets_too() -> None:
    (only,) = game_sets(view_of((2**53 - 1, 2.0)), TWO, GameSetsQuestion(games_per_set=100)).intervals
    assert (only.start_game, only.end_game) == (9_007_199_254_740_900, 9_007_199_254_740_999)


def test_a_game_exactly_between_two_periods_belongs_to_the_later_one_alone() -> None:
    times = (NOON_MS - 7_200_000, NOON_MS - 3_600_000, NOON_MS)
    rows = [Game(game_id=i, crash_point=2.0, end_time=time) for i, time in enumerate(times, 1)]
    view = View.of(Games.of(Bands([]), rows), Zones().utc, NOON_MS * 1000)
    question = OccurrencesBatch(values=(2.0,), by_time=True, hours=1)
    found = occurrences_batch(view, [TWO], question).results["2.0"]
    assert found.total_games == 2
    assert isinstance(found.comparison, EarlierOccurrences)
    assert found.comparison.total_games == 1


@pytest.mark.parametrize("count", [1, 100])
def test_a_time_that_its_zone_cannot_print_is_printed_in_utc(count: int) -> None:
    zones = Zones()
    west, east = zones.get("America/Bogota"), zones.get("Pacific/Kiritimati")
    assert west is not None
    assert east is not None
    assert west.isoformats(np.full(count, TIME_MIN_MS)) == ["0001-01-01T00:00:00+00:00"] * count
    assert east.isoformats(np.full(count, TIME_MAX_MS)) == ["9999-12-31T23:59:59.999000+00:00"] * count


def test_a_moment_between_two_milliseconds_is_not_rounded() -> None:
    times = (NOON_MS - 3_600_000, NOON_MS)
    rows = [Game(game_id=i, crash_point=2.0, end_time=time) for i, time in enumerate(times, 1)]
    window, question = Games.of(Bands([]), rows), OccurrencesQuestion(by_time=True, hours=1)
    totals = []
    for at_us in (NOON_MS * 1000 - 1, NOON_MS * 1000, NOON_MS * 1000 + 1):
        found = occurrences(View.of(window, Zones().utc, 0, at_us), TWO, question)
        totals.append(found.occurrences.total_games)
    assert totals == [1, 2, 1]
    assert found.occurrences.end_time == "2026-01-15T12:00:00.000001+00:00"
