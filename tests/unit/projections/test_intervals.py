from crashfold.engine.testing import Given, game, given
from crashfold.projections import ProjectionSettings
from crashfold.schemas.aggregates import Interval
from crashfold.schemas.game import Game
from tests.support.games import HOUR_MS

SETTINGS = ProjectionSettings(
    min=(2,),
    max=(),
    floor=(),
    samples_games=(),
    samples_hours=(),
    interval_minutes=10,
    interval_hours=1,
    window_games=3,
)
BUCKET_S = 1_700_000_400
"""The start of a bucket: 22:20 UTC."""
MINUTES_10 = 600


def stream(*games: Game) -> Given:
    return given(*games, settings=SETTINGS)


def at(game_id: int, crash_point: float, seconds: float) -> Game:
    """A game that ends so many seconds after the bucket's start."""
    return game(game_id, crash_point, end_time=BUCKET_S * 1_000 + round(seconds * 1_000))


def test_a_bucket_counts_the_games_that_ended_in_it_and_those_that_match() -> None:
    stream(at(1, 2.0, 10), at(2, 1.0, 20), at(3, 3.0, 30)).expect(
        "intervals:min:2", {f"bucket_{BUCKET_S}": Interval(2, 3)}
    )


def test_a_bucket_begins_with_its_first_millisecond_and_ends_before_the_next_ones() -> None:
    games = [at(1, 2.0, -0.001), at(2, 2.0, 0), at(3, 2.0, 599.999), at(4, 2.0, 600)]
    stream(*games).expect(
        "intervals:min:2",
        {
            f"bucket_{BUCKET_S - MINUTES_10}": Interval(1, 1),
            f"bucket_{BUCKET_S}": Interval(2, 2),
            f"bucket_{BUCKET_S + MINUTES_10}": Interval(1, 1),
        },
    )


def test_a_bucket_without_a_match_exists_and_one_without_a_game_does_not() -> None:
    stream(at(1, 1.0, 0), at(2, 2.0, 1_200)).expect(
        "intervals:min:2",
        {f"bucket_{BUCKET_S}": Interval(0, 1), f"bucket_{BUCKET_S + 2 * MINUTES_10}": Interval(1, 1)},
    )


def test_the_bucket_of_the_event_time_and_those_of_the_hour_before_are_kept() -> None:
    games = [at(1 + i, 2.0, 600 * i) for i in range(9)]
    stream(*games).expect(
        "intervals:min:2", {f"bucket_{BUCKET_S + MINUTES_10 * i}": Interval(1, 1) for i in range(2, 9)}
    )


def test_an_event_time_that_jumps_ahead_expires_all_buckets_before() -> None:
    games = [at(1, 2.0, 0), at(2, 2.0, 600), at(3, 2.0, 100 * 3_600)]
    stream(*games).expect("intervals:min:2", {f"bucket_{BUCKET_S + 100 * 3_600}": Interval(1, 1)})


def test_a_game_that_ended_before_the_oldest_bucket_kept_is_in_none() -> None:
    now = HOUR_MS // 1_000 + 600
    games = [at(1, 2.0, now), at(2, 2.0, 599), at(3, 2.0, 600)]
    stream(*games).expect(
        "intervals:min:2",
        {f"bucket_{BUCKET_S + now}": Interval(1, 1), f"bucket_{BUCKET_S + 600}": Interval(1, 1)},
    )


def test_buckets_reach_beyond_the_window() -> None:
    games = [at(1 + i, 2.0, i) for i in range(20)]
    stream(*games).expect("intervals:min:2", {f"bucket_{BUCKET_S}": Interval(20, 20)})


def test_a_late_game_is_counted_in_its_bucket() -> None:
    games = [at(1, 2.0, 0), at(3, 2.0, 601), at(2, 1.0, 5)]
    stream(*games).expect(
        "intervals:min:2",
        {f"bucket_{BUCKET_S}": Interval(1, 2), f"bucket_{BUCKET_S + MINUTES_10}": Interval(1, 1)},
    )


def test_by_default_a_hundred_and_forty_four_buckets_are_kept_before_the_newest() -> None:
    assert ProjectionSettings().intervals_kept == 144


def test_buckets_that_do_not_divide_the_hours_reach_at_least_as_far() -> None:
    settings = ProjectionSettings(interval_minutes=45, interval_hours=1)
    assert settings.intervals_kept == 2


def test_the_first_buckets_of_the_epoch_are_buckets_like_any_other() -> None:
    stream(game(1, 2.0, end_time=1), game(2, 1.0, end_time=600_000)).expect(
        "intervals:min:2", {"bucket_0": Interval(1, 1), "bucket_600": Interval(0, 1)}
    )
