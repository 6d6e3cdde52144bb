"""What a stream in memory weighs, and what is not taken for one."""

import gc
import tracemalloc

import msgspec
import pytest

from crashfold.engine.errors import StateError
from crashfold.engine.runtime.streams import GAME_BYTES, Stream, restored
from crashfold.projections import ProjectionSettings, StreamState, plan
from crashfold.schemas.chain import chain_of_games
from tests.support.in_memory import GAMES, MemoryDeployment


@pytest.mark.parametrize("games", [100, 3_000, 40_000])
def test_the_weight_is_about_the_memory_taken(games: int) -> None:
    plan_, played = plan(ProjectionSettings()), list(chain_of_games(1, games))

    def made() -> Stream:
        state = StreamState.empty(plan_)
        for start in range(0, games, games // 100):
            state = state.fold(played[start : start + games // 100]).state.settled()
        return Stream("a", 0, state, None)

    made()
    gc.collect()
    tracemalloc.start()
    stream = made()
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.6 * taken < stream.weight * GAME_BYTES < 1.4 * taken


async def test_a_window_that_holds_no_game_is_no_state() -> None:
    deployment = MemoryDeployment()
    deployment.publish(*GAMES)
    await deployment.run()
    stored = await deployment.store.load("crash")
    assert stored is not None
    spoiled = msgspec.structs.replace(stored, window=[*stored.window[:-1], b"no game"])
    with pytest.raises(StateError, match=r"cannot be read .*`games` holds something that is no game.*replay"):
        restored("crash", deployment.folding, spoiled)
