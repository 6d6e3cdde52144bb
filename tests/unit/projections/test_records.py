"""Records: the longest run and the highest game of each predicate, in however many batches the games come."""

from hypothesis import given as drawn
from hypothesis import strategies as st

from crashfold.engine.testing import game, given
from crashfold.projections import ProjectionSettings, StreamState, plain, plan
from crashfold.projections.delta import Value, apply
from tests.support.games import batches

SETTINGS = ProjectionSettings(min=(2,), max=(1.5,), floor=(3,), samples_games=(2,), samples_hours=(1,), window_games=8)
KEY = "records:min:2"


def run(start: int, end: int, length: int) -> dict[str, int]:
    first, last = game(start, 1.0), game(end, 1.0)
    times = {"start_time": first.end_time, "end_time": last.end_time}
    return {"start_game": start, "end_game": end, "length": length, **times}


def test_the_open_run_is_the_longest_one_as_soon_as_it_is_longer() -> None:
    games = [game(number, x) for number, x in enumerate((1.1, 1.2, 9.0, 1.3, 1.4, 1.5), 1)]
    given(*games, settings=SETTINGS).expect(KEY, {"longest_run": run(4, 6, 3), "highest_game": game(3, 9.0)})


def test_of_equal_records_the_oldest_stands() -> None:
    games = [game(number, x) for number, x in enumerate((1.1, 9.0, 1.3, 9.0, 1.5), 1)]
    given(*games, settings=SETTINGS).expect(KEY, {"longest_run": run(1, 1, 1), "highest_game": game(2, 9.0)})


def test_a_late_game_splits_the_longest_run() -> None:
    games = [game(1, 1.1), game(2, 1.2), game(4, 1.4), game(3, 7.0)]
    given(*games, settings=SETTINGS).expect(KEY, {"longest_run": run(1, 2, 2), "highest_game": game(3, 7.0)})


def test_the_highest_game_of_a_predicate_matches_it() -> None:
    games = [game(1, 1.5), game(2, 3.99), game(3, 50.0), game(4, 3.0)]
    asked = given(*games, settings=SETTINGS)
    asked.expect("records:max:1.5", {"highest_game": game(1, 1.5), "longest_run": run(2, 4, 3)})
    asked.expect("records:floor:3", {"highest_game": game(2, 3.99), "longest_run": run(1, 1, 1)})


@drawn(st.data())
def test_records_are_those_of_plain_loops(data: st.DataObject) -> None:
    hundredths = data.draw(st.lists(st.sampled_from([100, 149, 150, 151, 199, 200, 300, 399, 400]), max_size=60))
    games = [game(number, points / 100) for number, points in enumerate(hundredths, 1)]
    state, model = StreamState.empty(plan(SETTINGS)), dict[str, Value]()
    for batch in data.draw(batches(games)):
        folded = state.fold(batch)
        model, state = apply(model, folded.state.delta(state, folded.kept)), folded.state
    expected = plain.read_model(SETTINGS, games)
    for predicate in SETTINGS.predicates:
        name = f"records:{predicate}"
        assert model.get(name) == expected.get(name) == state.keys().get(name)
