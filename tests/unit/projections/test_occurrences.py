from crashfold.engine.testing import Given, game, given
from crashfold.projections import ProjectionSettings
from crashfold.schemas.aggregates import Sample
from crashfold.schemas.game import Game
from tests.support.games import HOUR_MS, START_MS, games_at

SETTINGS = ProjectionSettings(
    min=(2,), max=(1.5,), floor=(1, 11), samples_games=(2, 4), samples_hours=(1, 2), window_games=5
)


def stream(*games: Game) -> Given:
    return given(*games, settings=SETTINGS)


def test_matches_are_counted_for_all_time_and_in_every_sample() -> None:
    games = games_at(2.0, 1.5, 11.99, 1.0, 1.99)
    times = {"first_game_time": games[0].end_time, "last_game_time": games[-1].end_time, "total_games": 5}
    stream(*games).expect(
        "occurrences:min:2", {"count": 2, "games:2": 0, "games:4": 1, "hours:1": 2, "hours:2": 2, **times}
    ).expect(
        "occurrences:max:1.5", {"count": 2, "games:2": 1, "games:4": 2, "hours:1": 2, "hours:2": 2, **times}
    ).expect(
        "occurrences:floor:1", {"count": 3, "games:2": 2, "games:4": 3, "hours:1": 3, "hours:2": 3, **times}
    ).expect("occurrences:floor:11", {"count": 1, "games:2": 0, "games:4": 1, "hours:1": 1, "hours:2": 1, **times})


def test_every_predicate_has_its_key_as_soon_as_there_is_a_game_even_with_no_match() -> None:
    only = game(7, 1.75)
    times = {"first_game_time": only.end_time, "last_game_time": only.end_time}
    nothing = {"count": 0, "games:2": 0, "games:4": 0, "hours:1": 0, "hours:2": 0}
    stream(only).expect("occurrences:min:2", {**nothing, "total_games": 1, **times})


def test_without_games_there_are_no_keys() -> None:
    assert stream().keys() == {}


def test_samples_say_how_many_games_they_hold_and_when_the_oldest_and_newest_ended() -> None:
    games = games_at(1.0, 1.0, 1.0)
    first, second, third = (game.end_time for game in games)
    stream(*games).expect(
        "samples",
        {
            "games:2": Sample(2, second, third),
            "games:4": Sample(3, first, third),
            "hours:1": Sample(3, first, third),
            "hours:2": Sample(3, first, third),
        },
    )


def test_a_sample_of_hours_holds_both_its_ends() -> None:
    games = [
        game(1, 2.0, end_time=START_MS - HOUR_MS - 1),
        game(2, 2.0, end_time=START_MS - HOUR_MS),
        game(3, 2.0, end_time=START_MS),
    ]
    model = stream(*games).keys()
    assert model["samples"]["hours:1"] == {  # type: ignore[index]
        "total_games": 2,
        "first_game_time": START_MS - HOUR_MS,
        "last_game_time": START_MS,
    }
    assert model["occurrences:min:2"]["hours:1"] == 2  # type: ignore[index]
    assert model["occurrences:min:2"]["hours:2"] == 3  # type: ignore[index]


def test_hours_are_counted_back_from_the_largest_end_time_not_from_the_newest_game() -> None:
    games = [game(1, 2.0, end_time=START_MS), game(2, 2.0, end_time=START_MS - 2 * HOUR_MS)]
    model = stream(*games).keys()
    assert model["occurrences:min:2"]["hours:1"] == 1  # type: ignore[index]
    assert model["occurrences:min:2"]["last_game_time"] == START_MS - 2 * HOUR_MS  # type: ignore[index]
    assert model["samples"]["hours:1"] == {  # type: ignore[index]
        "total_games": 1,
        "first_game_time": START_MS,
        "last_game_time": START_MS,
    }


def test_a_clock_that_jumps_ahead_empties_the_samples_of_hours_of_what_was_before() -> None:
    games = [*games_at(2.0, 2.0), game(3, 1.0, end_time=START_MS + 48 * HOUR_MS), game(4, 2.0)]
    model = stream(*games).keys()
    assert model["occurrences:min:2"]["hours:2"] == 0  # type: ignore[index]
    assert model["occurrences:min:2"]["count"] == 3  # type: ignore[index]
    assert model["samples"]["hours:2"]["total_games"] == 1  # type: ignore[index]


def test_only_the_all_time_sample_reaches_beyond_the_window() -> None:
    model = stream(*games_at(2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0)).keys()
    assert model["occurrences:min:2"] == {
        "count": 3,
        "total_games": 7,
        "first_game_time": game(1).end_time,
        "last_game_time": game(7).end_time,
        "games:2": 0,
        "games:4": 0,
        "hours:1": 1,
        "hours:2": 1,
    }


def test_a_late_game_moves_the_samples_of_games() -> None:
    stream(game(1, 2.0), game(3, 2.0), game(4, 1.0)).expect("samples", _samples(1, 3, 4))
    stream(game(1, 2.0), game(3, 2.0), game(4, 1.0), game(2, 2.0)).expect("samples", _samples(1, 2, 3, 4))


def _samples(*ids: int) -> dict[str, Sample]:
    times = [game(game_id).end_time for game_id in ids]
    whole = Sample(len(times), times[0], times[-1])
    return {"games:2": Sample(2, times[-2], times[-1]), "games:4": whole, "hours:1": whole, "hours:2": whole}
