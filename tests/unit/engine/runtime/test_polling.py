"""What a turn of the loop takes in."""

import anyio
import anyio.lowlevel

from crashfold.engine.runtime.pacing import FLOOD_RECORDS, EngineLimits
from tests.support.games import game
from tests.support.in_memory import GAMES, MemoryDeployment, steps


async def test_a_partition_full_of_junk_does_not_hold_up_the_others() -> None:
    deployment = MemoryDeployment(partitions=2)
    async with deployment.engine(limits=EngineLimits(poll_wait_s=0)) as engine:
        deployment.topic.extend([b"junk"] * 30_000, key=b"a", partition=0)
        sizes = list[int]()
        while len(sizes) < 100 and sum(sizes) < 30_000:
            deployment.publish(game(len(sizes) + 1), stream="b", partition=1)
            sizes.append(await engine.service.step())
            # What arrived two steps ago is committed, and what came with it was little.
            assert await deployment.games("b") >= len(sizes) - 3
    assert max(sizes[3:]) <= FLOOD_RECORDS
    await deployment.run(limits=EngineLimits(poll_wait_s=0))
    assert len(deployment.letters.letters) == 30_000
    await deployment.check("b")


async def test_a_step_that_lingers_makes_one_batch_of_what_comes_meanwhile() -> None:
    deployment = MemoryDeployment()
    async with deployment.engine(limits=EngineLimits(batch_games_max=100, linger_ms=50, poll_wait_s=0)) as engine:
        await steps(engine, 2)
        deployment.publish(GAMES[0])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(steps, engine, 1)
            while deployment.clock.monotonic_s() < 3.05:
                await anyio.lowlevel.checkpoint()
            deployment.publish(GAMES[1])
        await deployment.catch_up(engine)
    assert (await deployment.versions(), await deployment.games()) == (1, 2)


async def test_what_came_during_a_commit_is_in_the_next_one() -> None:
    deployment = MemoryDeployment()
    async with deployment.engine(limits=EngineLimits(batch_games_max=100, poll_wait_s=0)) as engine:
        await steps(engine, 2)
        deployment.publish(GAMES[0])
        await steps(engine, 1)  # polls the game ahead
        deployment.publish(GAMES[1])
        await steps(engine, 1)
    assert (await deployment.versions(), await deployment.games()) == (1, 2)
