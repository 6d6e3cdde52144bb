"""Streams long enough to pass every fixed size: 1,000 series, 1,000 games of a streak, 100 last games."""

import random

import pytest

from crashfold.projections import ProjectionSettings, StreamState, plain, plan
from crashfold.projections.delta import Value, apply
from crashfold.schemas import keys
from crashfold.schemas.game import Game
from tests.support.games import game

SETTINGS = ProjectionSettings(
    min=(2, 1.01),
    max=(1,),
    floor=(1,),
    samples_games=(100,),
    samples_hours=(1,),
    interval_hours=2,
    window_games=400,
)


def _stream(chance: random.Random) -> list[Game]:
    """About 6,000 games: calm stretches of many short series, and stretches where one thing goes on and on."""
    games: list[Game] = []
    while len(games) < 6_000:
        length = chance.choice((50, 500, 1_500))
        kind = chance.choice(("mixed", "alternating", "low", "high"))
        for i in range(length):
            crash_point = {
                "mixed": chance.choice((1.0, 1.5, 2.0, 5.0)),
                "alternating": 1.0 if i % 2 else 2.0,
                "low": 1.0,
                "high": 3.0,
            }[kind]
            gap = chance.random() < 0.02
            game_id = (games[-1].game_id if games else 0) + (3 if gap else 1)
            games.append(game(game_id, crash_point))
    return games


@pytest.mark.parametrize("seed", range(6))
def test_beyond_every_size_that_is_kept_the_fold_is_the_plain_recomputation(seed: int) -> None:
    chance = random.Random(seed)
    games = _stream(chance)
    for _ in range(15):  # late by less than a window
        at = chance.randrange(len(games) - 300)
        games.insert(at + chance.randrange(1, 300), games.pop(at))
    plan_ = plan(SETTINGS, spacing=chance.choice((16, 100, 1_000)))
    state = committed = StreamState.empty(plan_)
    model, kept, start = dict[str, Value](), 0, 0
    while start < len(games):
        stop = start + chance.choice((1, 7, 60, 1_200))
        folded = state.fold(games[start:stop])
        assert folded.rejected == ()
        state, kept, start = folded.state, min(kept, folded.kept), stop
        if chance.random() < 0.5 or start >= len(games):
            model = apply(model, state.delta(committed, kept))
            committed, kept = state, state.totals.games
        if chance.random() < 0.05:
            state = StreamState.loads(plan_, state.dump())
    expected = plain.read_model(SETTINGS, sorted(games, key=lambda one: one.game_id))
    assert state.keys() == expected
    assert {name: value for name, value in model.items() if name != keys.CHECKPOINT} == expected


@pytest.mark.parametrize("seed", range(3))
def test_runs_are_found_predicate_by_predicate_as_all_at_once(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which way is taken depends on the size of a batch alone; here both go through streams of every kind."""
    games, plan_ = _stream(random.Random(seed)), plan(SETTINGS)
    expected = plain.read_model(SETTINGS, games)
    for games_few in (0, 16_384):
        monkeypatch.setattr("crashfold.projections.runs._GAMES_FEW", games_few)
        monkeypatch.setattr("crashfold.projections.games.NEWEST_FIRST", 512)
        for batch_games in (2, 83, 1_201, 6_000):
            state = StreamState.empty(plan_)
            for start in range(0, len(games), batch_games):
                state = state.fold(games[start : start + batch_games]).state.settled()
            assert state.keys() == expected
