"""A store or a log that is not as it was is noticed, also while nothing comes."""

import anyio
import anyio.lowlevel
import pytest

from crashfold.engine.adapters.memory.store import Trouble
from crashfold.engine.errors import (
    LostRange,
    TopicRecreated,
)
from crashfold.engine.runtime import upkeep
from crashfold.engine.runtime.pacing import EngineLimits
from crashfold.engine.runtime.streams import STREAM_GAMES
from tests.support.games import game
from tests.support.in_memory import GAMES, MemoryDeployment, steps


async def test_a_store_that_is_away_is_noticed_while_nothing_comes(deployment: MemoryDeployment) -> None:
    deployment.publish(*GAMES[:3])
    async with deployment.engine() as engine:
        await deployment.catch_up(engine)
        for method in ("positions", "read_manifest")[: 1 if await deployment.games() else 2]:
            deployment.store.fail_next(Trouble.UNAVAILABLE, method=method)
        await steps(engine, 1)
        assert "the store is away" in engine.health.ready()[0]
        await steps(engine, 1)
        assert engine.health.ready() == []


async def test_a_store_that_is_away_is_noticed_by_an_engine_that_has_met_no_stream() -> None:
    deployment = MemoryDeployment()
    async with deployment.engine() as engine:
        await steps(engine, 2)
        assert engine.health.ready() == []
        deployment.store.fail_next(Trouble.UNAVAILABLE)
        await steps(engine, 1)
        assert "the store is away" in engine.health.ready()[0]


async def test_lost_writes_are_made_again(deployment: MemoryDeployment) -> None:
    async with deployment.engine() as engine:
        deployment.publish(*GAMES[:10])
        await deployment.catch_up(engine)
        then = deployment.store.snapshot()
        deployment.publish(*GAMES[10:20])
        await deployment.catch_up(engine)
        deployment.store.restore(then)
        deployment.publish(*GAMES[20:])
        await deployment.catch_up(engine)
    assert await deployment.games() == len(GAMES)
    await deployment.check()


async def test_lost_writes_are_made_again_though_nothing_comes(deployment: MemoryDeployment) -> None:
    async with deployment.engine() as engine:
        deployment.publish(*GAMES[:10])
        await deployment.catch_up(engine)
        then = deployment.store.snapshot()
        deployment.publish(*GAMES[10:20])
        await deployment.catch_up(engine)
        deployment.store.restore(then)
        await deployment.catch_up(engine)
    assert await deployment.games() == 20


@pytest.mark.parametrize("lost", "abcde")
async def test_of_many_streams_some_at_a_time_are_looked_at_and_each_has_its_turn(
    monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    monkeypatch.setattr(upkeep, "LOOKED_AT_PER_S", 2)
    deployment = MemoryDeployment()
    async with deployment.engine() as engine:
        for stream in "abcde":
            deployment.publish(*GAMES[:10], stream=stream)
        await deployment.catch_up(engine)
        then = deployment.store.snapshot()
        deployment.publish(*GAMES[10:20], stream=lost)
        await deployment.catch_up(engine)
        deployment.store.restore(then)
        for _ in range(6):
            await steps(engine, 1)
        await deployment.catch_up(engine)
    assert await deployment.games(lost) == 20
    await deployment.check(*"abcde")


@pytest.mark.parametrize("again", [20, 16], ids=["to the same offset", "not as far"])
@pytest.mark.parametrize("more", [0, 5], ids=["at rest", "while games come"])
async def test_after_a_failover_and_back_the_history_that_stands_there_is_gone_on_from(
    deployment: MemoryDeployment, again: int, more: int
) -> None:
    """The primary was not resynced: it has the commits that the engine made before it went to the stale replica, and
    so another base, other blocks and another version at the offset that the engine reached there."""
    pieces = EngineLimits(batch_games_max=3, poll_wait_s=0)
    async with deployment.engine(limits=pieces) as engine:
        deployment.publish(*GAMES[:13])
        await deployment.catch_up(engine)
        replica = deployment.store.snapshot()
        for number in range(13, 20):
            deployment.publish(GAMES[number])
            await deployment.catch_up(engine)
        primary = deployment.store.snapshot()
        deployment.store.restore(replica)
        while (await deployment.checkpoint()).next_offset < again:
            await steps(engine, 1)
        deployment.store.restore(primary)
        deployment.publish(*GAMES[20 : 20 + more])
        await steps(engine, 2)
        await deployment.catch_up(engine)
        assert await deployment.games() == 20 + more
        conflicts = engine.value("commits_total", outcome="conflict")
        deployment.publish(*GAMES[30:])
        await deployment.catch_up(engine)
        assert engine.value("commits_total", outcome="conflict") == conflicts
        await deployment.check()
    deployment.publish(game(1_000, 2.0))
    await deployment.run()
    assert await deployment.games() == 20 + more + len(GAMES[30:]) + 1
    await deployment.check()


@pytest.mark.parametrize("killed_after", range(0, 40, 3))
async def test_an_idle_stream_that_lost_writes_is_not_forgotten_over_a_busy_one(killed_after: int) -> None:
    """The busy stream lost nothing, so its commits go on, and with them the offset at which a restart would begin."""
    deployment = MemoryDeployment()
    async with deployment.engine() as engine:
        deployment.publish(*GAMES[:5], stream="busy")
        await deployment.catch_up(engine)
        then = deployment.store.snapshot()
        deployment.publish(*GAMES[:9], stream="idle")
        await deployment.catch_up(engine)
        deployment.store.restore(then)
        deployment.publish(*GAMES[5:], stream="busy")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(steps, engine, 5)
            for _ in range(killed_after):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    await deployment.run()
    assert await deployment.games("idle") == 9
    await deployment.check("busy", "idle")


async def test_a_stream_let_go_from_memory_notices_what_it_lost() -> None:
    deployment = MemoryDeployment()
    tight = EngineLimits(batch_games_max=5, games_held_max=STREAM_GAMES + 100, poll_wait_s=0)
    async with deployment.engine(limits=tight) as engine:
        deployment.publish(*GAMES[:5], stream="a")
        await deployment.catch_up(engine)
        then = deployment.store.snapshot()
        deployment.publish(*GAMES[5:9], stream="a")
        deployment.publish(*GAMES[:9], stream="b")
        await deployment.catch_up(engine)
        assert engine.service.streams == ["b"]
        deployment.store.restore(then)
        deployment.publish(*GAMES[9:12], stream="a")
        await engine.service.step()  # before it is time to look
        await deployment.catch_up(engine)
    assert [await deployment.games(stream) for stream in ("a", "b")] == [12, 9]
    await deployment.check("a", "b")


@pytest.mark.parametrize("records", [5, 30])
async def test_where_topics_have_no_ids_the_last_record_tells(records: int) -> None:
    """Looked at before a commit, at most once a second."""
    deployment = MemoryDeployment(topic_ids=False)
    deployment.publish(*GAMES[:20])
    async with deployment.engine() as engine:
        await deployment.catch_up(engine)
        deployment.topic.recreate()
        deployment.publish(*GAMES[-records:])
        deployment.clock.pass_s(1)
        with pytest.raises((TopicRecreated, LostRange)):
            await steps(engine, 3)
    assert (await deployment.checkpoint()).next_offset == 20
    with pytest.raises(TopicRecreated, match="offset"):
        await deployment.run()


async def test_a_state_without_an_id_gets_one_with_the_next_commit() -> None:
    deployment = MemoryDeployment(topic_ids=False)
    deployment.publish(*GAMES[:20])
    await deployment.run()
    deployment.topic._has_ids = True
    async with deployment.engine() as engine:
        await steps(engine, 3)
    manifest = await deployment.store.read_manifest("games", 0)
    assert manifest is not None
    assert manifest.topic_id == "games-1"
    deployment.publish(*GAMES[20:])
    await deployment.run()
    assert (await deployment.checkpoint()).topic_id == "games-1"
    await deployment.check()


async def test_the_first_commit_of_a_partition_is_noted_at_once(deployment: MemoryDeployment) -> None:
    async with deployment.engine() as engine:
        await steps(engine, 2)  # it has looked after the store, and is not due to do so again
        deployment.publish(*GAMES[:3])
        while engine.service.next_offsets != {0: 3}:
            await engine.service.step()
        manifest = await deployment.store.read_manifest(engine.log.topic, 0)
        assert manifest is not None
        assert manifest.streams == {"crash": 3}


async def test_a_manifest_that_the_store_has_lost_is_written_again_also_of_an_idle_partition() -> None:
    deployment = MemoryDeployment(partitions=2)
    async with deployment.engine() as engine:
        deployment.publish(*GAMES[:3], partition=1, stream="idle")
        await steps(engine, 3)
        topic = engine.log.topic
        then = deployment.store.snapshot()
        del then.manifests[topic, 1]
        deployment.store.restore(then)
        for busy in GAMES[:12]:
            deployment.publish(busy)
            await steps(engine, 1)
        manifest = await deployment.store.read_manifest(topic, 1)
        assert manifest is not None
        assert manifest.streams == {"idle": 3}
