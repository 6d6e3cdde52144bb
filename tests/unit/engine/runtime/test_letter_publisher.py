"""Records that cannot be folded are handed over before a checkpoint passes them."""

import anyio
import anyio.lowlevel
import msgspec

from crashfold.schemas.game import encode
from tests.support.in_memory import GAMES, MemoryDeployment, steps


async def test_bad_records_are_dead_letters_and_the_checkpoint_passes_them(deployment: MemoryDeployment) -> None:
    deployment.publish(GAMES[0])
    deployment.topic.append(b"no game")
    deployment.topic.append(encode(GAMES[1]), key=b"no name")
    deployment.publish(GAMES[1], msgspec.structs.replace(GAMES[0], crash_point=7.0), *GAMES[2:20], GAMES[0])
    await deployment.run()
    assert deployment.reasons() == [(1, "unreadable"), (2, "unreadable"), (4, "conflict"), (23, "late")]
    assert (await deployment.checkpoint()).next_offset == 24
    await deployment.check()


async def test_a_topic_of_garbage_is_passed_once() -> None:
    deployment = MemoryDeployment()
    for _ in range(12):
        deployment.topic.append(None, key=b"no name")
    await deployment.run()
    assert len(deployment.letters.letters) == 12
    async with deployment.engine() as engine:
        await steps(engine, 2)
        assert engine.service.next_offsets == {0: 12}


async def test_records_of_another_stream_are_passed_by_the_only_one_s_checkpoint() -> None:
    deployment = MemoryDeployment(only="a")
    deployment.publish(GAMES[0], stream="a")
    deployment.publish(*GAMES[:9], stream="b")
    await deployment.run()
    assert deployment.reasons() == [(offset, "stream") for offset in range(1, 10)]
    assert (await deployment.checkpoint("a")).next_offset == 10
    assert await deployment.store.load("b") is None


async def test_nothing_is_committed_before_its_dead_letters_are_handed_over(deployment: MemoryDeployment) -> None:
    deployment.publish(GAMES[0])
    deployment.topic.append(b"no game")
    async with deployment.engine() as engine:
        await steps(engine, 1)
        deployment.letters.available = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(steps, engine, 1)
            for _ in range(200):
                await anyio.lowlevel.checkpoint()
            assert await deployment.store.load("crash") is None
            assert engine.health.ready()
            deployment.letters.available = True
        assert await deployment.games() == 1
        assert deployment.reasons() == [(1, "unreadable")]
