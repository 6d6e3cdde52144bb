"""What a stream in memory weighs, and what is not taken for one."""

import gc
import tracemalloc
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
import pytest

from crashfold.engine.errors import StateError
from crashfold.engine.runtime.streams import GAME_BYTES, Stream, restored
from crashfold.projections import Plan, ProjectionSettings, StreamState, plan
from crashfold.schemas.chain import chain_of_games
from crashfold.schemas.game import Game
from tests.support.in_memory import GAMES, MemoryDeployment

T = TypeVar("T")


def with_its_memory(make: Callable[[], T]) -> tuple[T, int]:
    """What `make` makes, and the bytes that hold it when all it needed by the way is let go."""
    gc.collect()
    tracemalloc.start()
    made = make()
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return made, taken


def committed(folded_by: Plan, games: Sequence[Game], at_once: int = 1) -> Stream:
    """A stream of these games, so many of them a commit."""
    state = StreamState.empty(folded_by)
    for start in range(0, len(games), at_once):
        folded = state.fold(games[start : start + at_once])
        folded.state.delta(state, folded.kept)
        state = folded.state
    return Stream("a", 0, state, None)


@pytest.mark.parametrize("games", [5, 100, 3_000, 40_000])
def test_the_weight_is_about_the_memory_taken(games: int) -> None:
    plan_, played = plan(ProjectionSettings()), list(chain_of_games(1, games))
    committed(plan_, played[:5])  # what all streams share is there already
    stream, taken = with_its_memory(lambda: committed(plan_, played, max(1, games // 100)))
    assert 0.6 * taken < stream.weight * GAME_BYTES < 1.4 * taken


def test_a_stream_of_a_few_games_takes_little_memory() -> None:
    plan_, played = plan(ProjectionSettings()), list(chain_of_games(1, 5))
    committed(plan_, played)
    _, taken = with_its_memory(lambda: [committed(plan_, played) for _ in range(10)])
    assert taken < 10 * 28_000


async def test_a_window_that_holds_no_game_is_no_state() -> None:
    deployment = MemoryDeployment()
    deployment.publish(*GAMES)
    await deployment.run()
    stored = await deployment.store.load("crash")
    assert stored is not None
    spoiled = msgspec.structs.replace(stored, window=[*stored.window[:-1], b"no game"])
    with pytest.raises(StateError, match=r"cannot be read .*`games` holds something that is no game.*replay"):
        restored("crash", deployment.folding, spoiled)
