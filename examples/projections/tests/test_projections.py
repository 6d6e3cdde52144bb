"""The examples, tested as one tests a projection: given these games, expect those keys."""

from crashfold_examples.highest import Highest
from crashfold_examples.hours import HOUR_MS, HOURS_KEPT, Hours

from crashfold.engine.testing import game, given


def test_the_highest_crash_point_stands() -> None:
    games = [game(1, 2.0), game(2, 11.5), game(3, 1.01)]
    given(*games).with_projection(Highest()).expect("highest", game(2, 11.5))


def test_of_equal_ones_the_oldest_stands() -> None:
    games = [game(1, 11.5), game(2, 11.5)]
    given(*games).with_projection(Highest()).expect("highest", game(1, 11.5))


def test_a_late_game_can_be_the_highest() -> None:
    games = [game(1, 2.0), game(3, 11.5), game(2, 100.0)]
    given(*games).with_projection(Highest()).expect("highest", game(2, 100.0))


def test_without_games_there_is_no_key() -> None:
    given().with_projection(Highest()).expect_none("highest")
    given().with_projection(Hours()).expect_none("hours")


def test_games_are_counted_by_the_hour() -> None:
    games = [game(1, end_time=5 * HOUR_MS), game(2, end_time=5 * HOUR_MS + 1), game(3, end_time=7 * HOUR_MS)]
    given(*games).with_projection(Hours()).expect("hours", {"1970-01-01T05": 2, "1970-01-01T07": 1})


def test_an_hour_of_more_than_a_year_ago_is_dropped() -> None:
    games = [game(1, end_time=5 * HOUR_MS), game(2, end_time=(5 + HOURS_KEPT) * HOUR_MS)]
    given(*games).with_projection(Hours()).expect("hours", {"1971-01-02T05": 1})
