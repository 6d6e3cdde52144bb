from crashfold.engine.testing import Given, game, given
from crashfold.projections import ProjectionSettings, StreamState, plain, plan
from crashfold.schemas.aggregates import LastGame
from crashfold.schemas.game import Game
from tests.support.games import games_at

SETTINGS = ProjectionSettings(
    min=(10,), max=(1,), floor=(), samples_games=(), samples_hours=(), interval_hours=1, window_games=3
)


def stream(*games: Game) -> Given:
    return given(*games, settings=SETTINGS)


def last(newest: Game, ordinal: int) -> LastGame:
    return LastGame(
        game_id=newest.game_id,
        hash=newest.hash,
        crash_point=newest.crash_point,
        prepare_time=newest.prepare_time,
        begin_time=newest.begin_time,
        end_time=newest.end_time,
        ordinal=ordinal,
    )


def test_the_newest_match_is_kept_with_its_position_in_the_stream() -> None:
    games = games_at(10.0, 2.0, 11.0, 2.0, 3.0)
    model = stream(*games).expect("last_game:min:10", last(games[2], ordinal=3)).keys()
    total = model["occurrences:min:10"]["total_games"]  # type: ignore[index]
    assert total - 3 == 2  # games_since


def test_the_position_counts_games_not_ids() -> None:
    games = [game(5, 2.0), game(900, 12.0)]
    stream(*games).expect("last_game:min:10", last(games[1], ordinal=2))


def test_the_matches_are_listed_newest_first() -> None:
    games = games_at(10.0, 1.0, 11.0, 1.0)
    stream(*games).expect("last_games:min:10", [games[2], games[0]]).expect("last_games:max:1", [games[3], games[1]])


def test_all_six_fields_of_a_match_are_kept() -> None:
    only = game(1, 10.0, prepare_time=1, begin_time=2, hash="ab" * 32)
    stream(only).expect("last_games:min:10", [only]).expect("last_game:min:10", last(only, ordinal=1))


def test_without_a_match_there_is_no_key() -> None:
    stream(*games_at(2.0, 3.0)).expect_none("last_game:min:10").expect_none("last_games:min:10")


def test_a_match_is_kept_however_old() -> None:
    games = games_at(10.0, *[2.0] * 30)
    stream(*games).expect("last_game:min:10", last(games[0], ordinal=1)).expect("last_games:min:10", [games[0]])


def test_a_late_game_moves_the_positions_of_all_behind_it() -> None:
    games = [game(1, 2.0), game(3, 10.0), game(2, 2.0)]
    stream(*games).expect("last_game:min:10", last(games[1], ordinal=3))


def test_a_late_match_takes_its_place_in_the_list() -> None:
    games = [game(1, 10.0), game(3, 11.0), game(2, 12.0)]
    stream(*games).expect("last_games:min:10", [games[1], games[2], games[0]])


def test_the_newest_hundred_matches_are_listed() -> None:
    games = games_at(*[10.0, 2.0] * 103)
    for batch_games in (1, 99, 1_000):
        state = StreamState.empty(plan(SETTINGS))
        for start in range(0, len(games), batch_games):
            state = state.fold(games[start : start + batch_games]).state
        model = state.keys()
        assert model == plain.read_model(SETTINGS, games)
        assert len(model["last_games:min:10"]) == 100  # type: ignore[arg-type]
