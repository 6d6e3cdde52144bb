"""Fold and commit: every record once, each stream by its own compare-and-set."""

from crashfold.engine.adapters.memory.store import MemoryStore, Trouble
from crashfold.engine.runtime.pacing import EngineLimits
from tests.support.in_memory import GAMES, MemoryDeployment


async def test_every_game_is_folded_once_whatever_the_batches(deployment: MemoryDeployment) -> None:
    deployment.publish(*GAMES)
    for size in (1, 3, 7, 1000):
        await deployment.run(limits=EngineLimits(batch_games_max=size, poll_wait_s=0))
        assert await deployment.games() == len(GAMES)
        deployment.store.restore(MemoryStore().snapshot())
    await deployment.run()
    await deployment.check()


async def test_a_restart_goes_on_where_the_last_commit_was(deployment: MemoryDeployment) -> None:
    for start in range(0, len(GAMES), 9):
        deployment.publish(*GAMES[start : start + 9])
        await deployment.run()
        assert await deployment.games() == len(GAMES[: start + 9])
    before = await deployment.store.load("crash")
    await deployment.run()
    assert await deployment.store.load("crash") == before
    await deployment.check()


async def test_a_partition_of_many_streams_is_committed_stream_by_stream() -> None:
    deployment = MemoryDeployment(2)
    for number, stream in enumerate(("a", "b", "c", "d")):
        deployment.publish(*GAMES[: 10 + number], stream=stream, partition=number % 2)
    async with deployment.engine() as one, deployment.engine() as other:
        await deployment.catch_up(one, other)
        assert set(one.service.streams) | set(other.service.streams) == {"a", "b", "c", "d"}
        assert one.value("partitions_held") == 1
        assert one.value("streams_held") == 2
    await deployment.check("a", "b", "c", "d")


async def test_many_streams_are_committed_some_at_a_time() -> None:
    deployment = MemoryDeployment()
    names = [f"table-{number}" for number in range(11)]
    for name in names:
        deployment.publish(*GAMES[:3], stream=name)
    deployment.store.fail_next(Trouble.LOST_REPLY, method="commit")
    await deployment.run(limits=EngineLimits(batch_games_max=100, poll_wait_s=0, streams_at_once=3))
    assert [await deployment.versions(name) for name in names] == [1] * len(names)
    await deployment.check(*names)
