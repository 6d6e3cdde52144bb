"""How far every stream is."""

import msgspec
import pytest

from crashfold.engine.adapters.memory.log import MemoryLog
from crashfold.engine.ports import Commit
from crashfold.engine.runtime.status import PartitionStatus, StreamStatus, known_streams, status
from crashfold.projections.delta import Delta, WriteHash
from crashfold.schemas import keys
from tests.support.games import SMALL, game, games_at
from tests.support.in_memory import MemoryDeployment

GAMES = tuple(games_at(*(1.0, 2.0, 1.4, 11.0, 3.0) * 8))


@pytest.fixture
async def deployment() -> MemoryDeployment:
    deployment = MemoryDeployment(2)
    deployment.publish(*GAMES[:15], stream="a")
    deployment.publish(*GAMES[:3], stream="b", partition=1)
    deployment.publish(*GAMES[:4], stream="c", partition=1)
    await deployment.run()
    return deployment


async def streams_of(deployment: MemoryDeployment, *names: str) -> dict[str, StreamStatus]:
    async with MemoryLog(deployment.topic, None) as log:
        found = await status(deployment.store, log, "games", deployment.folding, names, None)
    return {one.stream: one for one in found.streams}


async def test_a_stream_s_numbers(deployment: MemoryDeployment) -> None:
    deployment.publish(game(100), game(101), stream="a")
    found = (await streams_of(deployment, "a"))["a"]
    stored = await deployment.store.load("a")
    assert stored is not None
    assert found == StreamStatus(
        stream="a",
        version=stored.version,
        generation=stored.checkpoint.generation,
        games=15,
        newest_id=15,
        newest_end_time=GAMES[14].end_time,
        event_time=GAMES[14].end_time,
        window_games=SMALL.window_games,
        partition=0,
        next_offset=15,
        lag_records=2,
        settings_match=True,
    )


async def test_an_idle_stream_stands_where_its_partition_stands(deployment: MemoryDeployment) -> None:
    found = await streams_of(deployment, "b", "c")
    assert found["b"].next_offset < found["c"].next_offset
    assert [found["b"].lag_records, found["c"].lag_records] == [0, 0]


async def test_a_stream_that_is_not_there_is_left_out(deployment: MemoryDeployment) -> None:
    assert await streams_of(deployment, "nobody") == {}


async def test_partitions_say_what_they_hold(deployment: MemoryDeployment) -> None:
    deployment.topic.truncate_before(2, partition=1)
    deployment.publish(game(100), stream="b", partition=1)
    async with MemoryLog(deployment.topic, None) as log:
        found = await status(deployment.store, log, "games", deployment.folding, [], None)
    assert found.partitions == (PartitionStatus(0, 0, 15, 15), PartitionStatus(1, 2, 8, 7))


async def test_without_a_log_there_is_what_the_store_knows(deployment: MemoryDeployment) -> None:
    found = await status(deployment.store, None, "games", deployment.folding, ["a"], "Kafka is away")
    assert found.log_error == "Kafka is away"
    assert found.partitions == ()
    assert [(one.games, one.lag_records) for one in found.streams] == [(15, None)]


async def test_a_state_that_the_engine_would_refuse_is_shown_as_such(deployment: MemoryDeployment) -> None:
    deployment.settings = msgspec.structs.replace(SMALL, min=(4,))
    found = (await streams_of(deployment, "a"))["a"]
    assert (found.settings_match, found.newest_id, found.event_time) == (False, 15, None)


async def test_a_damaged_state_does_not_hide_the_rest(deployment: MemoryDeployment) -> None:
    stored = await deployment.store.load("a")
    assert stored is not None
    delta: Delta = {keys.CHECKPOINT: WriteHash({"base": b"?"})}
    await deployment.store.commit(
        [Commit("a", stored.checkpoint.position, stored.checkpoint, delta, stored.total_games, None)]
    )
    found = await streams_of(deployment, "a", "b")
    assert [found["a"].settings_match, found["b"].settings_match] == [False, True]


async def test_streams_are_known_from_the_manifests_or_there_is_one(deployment: MemoryDeployment) -> None:
    assert await known_streams(deployment.store, "games", [0, 1], None) == ["a", "b", "c"]
    assert await known_streams(deployment.store, "games", [], None) == []
    assert await known_streams(deployment.store, "games", [0, 1], "x") == ["x"]
