"""The 20,000 sample games under the default settings, against the plain recomputation."""

import random

import pytest

from crashfold.projections import ProjectionSettings, StreamState, plain, plan
from crashfold.projections.delta import Value, apply
from crashfold.schemas import keys
from tests.support.games import sample_games

SETTINGS = ProjectionSettings()


@pytest.fixture(scope="module")
def expected() -> dict[str, Value]:
    return plain.read_model(SETTINGS, sample_games())


def test_one_batch_of_all_games_is_the_plain_recomputation(expected: dict[str, Value]) -> None:
    state = StreamState.empty(plan(SETTINGS)).fold(sample_games()).state
    assert state.keys() == expected
    assert apply({}, state.create()) == expected | {keys.CHECKPOINT: state.stored()}


@pytest.mark.parametrize("seed", [1, 2])
def test_random_batches_with_commits_restarts_and_late_games_are_the_same(
    expected: dict[str, Value], seed: int
) -> None:
    chance = random.Random(seed)
    games = list(sample_games())
    for _ in range(30):  # some games come up to 3,000 games late, and some twice
        at = chance.randrange(len(games) - 3_000)
        games.insert(at + chance.randrange(1, 3_000), games.pop(at) if chance.random() < 0.7 else games[at])
    plan_ = plan(SETTINGS)
    state, model, start = StreamState.empty(plan_), dict[str, Value](), 0
    while start < len(games):
        stop = start + chance.choice((1, 10, 100, 1_000, 5_000))
        folded = state.fold(games[start:stop])
        model = apply(model, folded.state.delta(state, folded.kept))
        state, start = folded.state, stop
        if chance.random() < 0.1:
            state = StreamState.loads(plan_, state.dump())
    assert state.keys() == expected
    assert {name: value for name, value in model.items() if name != keys.CHECKPOINT} == expected


@pytest.mark.parametrize("window_games", [1_000, 15_000])
def test_a_window_smaller_than_the_stream_forgets_no_total(window_games: int) -> None:
    settings = ProjectionSettings(min=(2, 100), max=(1.2,), floor=(3,), window_games=window_games)
    games = sample_games()
    state = StreamState.empty(plan(settings)).fold(games[:16_000]).state
    state = state.fold(games[16_000:]).state
    assert state.keys() == plain.read_model(settings, games)
    assert len(state.window) == window_games
