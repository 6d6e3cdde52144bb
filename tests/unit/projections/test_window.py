from crashfold.engine.testing import game, given
from crashfold.projections import ProjectionSettings, StreamState, plan
from crashfold.projections.delta import WriteSortedSet
from crashfold.schemas import keys
from crashfold.schemas.game import Game, encode

SETTINGS = ProjectionSettings(
    min=(2,), max=(), floor=(), samples_games=(), samples_hours=(), interval_hours=1, window_games=3
)


def window_of(*games: Game) -> object:
    return given(*games, settings=SETTINGS).keys()["games"]


def as_objects(*games: Game) -> dict[int, object]:
    return {
        one.game_id: {
            "game_id": one.game_id,
            "hash": one.hash,
            "crash_point": one.crash_point,
            "prepare_time": one.prepare_time,
            "begin_time": one.begin_time,
            "end_time": one.end_time,
        }
        for one in games
    }


def test_the_window_is_the_newest_games_by_id() -> None:
    games = [game(1, hash="ab" * 32), game(2, 1.01), game(3, prepare_time=1, begin_time=2), game(7, 1e9)]
    assert window_of(*games[:2]) == as_objects(*games[:2])
    assert window_of(*games) == as_objects(*games[1:])


def test_a_late_game_pushes_the_oldest_out() -> None:
    assert window_of(game(1), game(3), game(4), game(2)) == as_objects(game(2), game(3), game(4))


def test_the_newest_game_is_the_highest_id_whatever_the_end_times_say() -> None:
    games = [game(1, end_time=4_000), game(2, end_time=3_000), game(3, end_time=2_000), game(4, end_time=1_000)]
    assert window_of(*games) == as_objects(*games[1:])


def test_a_commit_writes_the_new_games_and_where_the_window_begins() -> None:
    before = StreamState.empty(plan(SETTINGS)).fold([game(1), game(2), game(3)]).state
    folded = before.fold([game(4), game(6)])
    delta = folded.state.delta(before, folded.kept)
    assert delta[keys.GAMES] == WriteSortedSet({4: encode(game(4)), 6: encode(game(6))}, remove_below=3, known=3)


def test_a_late_game_is_written_alone() -> None:
    before = StreamState.empty(plan(SETTINGS)).fold([game(1), game(2), game(9)]).state
    folded = before.fold([game(5)])
    delta = folded.state.delta(before, folded.kept)
    assert delta[keys.GAMES] == WriteSortedSet({5: encode(game(5))}, remove_below=2, known=3)
