"""The loop: restarts, several engines, kills, servers that are away."""

import anyio
import anyio.lowlevel
import pytest

from crashfold.engine.adapters.memory.log import MemoryLog
from crashfold.engine.adapters.memory.store import Trouble
from crashfold.engine.errors import (
    CrashfoldError,
)
from crashfold.engine.runtime.pacing import EngineLimits
from tests.support.in_memory import GAMES, MemoryDeployment, steps


async def test_what_was_folded_and_not_committed_is_folded_again_after_a_kill(deployment: MemoryDeployment) -> None:
    deployment = MemoryDeployment(only=deployment.only, commit_s=1.0)
    deployment.publish(*GAMES)
    async with deployment.engine(limits=EngineLimits(batch_games_max=2, poll_wait_s=0)) as engine:
        while engine.service.folded_to == engine.service.next_offsets:
            await steps(engine, 1)
    await deployment.run()
    await deployment.check()


CALLS = ("checkpoint", "load", "commit", "positions", "read_manifest", "write_manifest")


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("trouble", Trouble)
async def test_a_call_that_fails_is_made_again(deployment: MemoryDeployment, trouble: Trouble, method: str) -> None:
    deployment.publish(*GAMES)
    async with deployment.engine() as engine:
        for _ in range(6):
            deployment.store.fail_next(trouble, method=method)
            await steps(engine, 1)
        deployment.store.calm()
        await deployment.catch_up(engine)
        assert engine.health.ready() == []
        assert engine.value("commits_total", outcome="conflict") == 0
    assert await deployment.games() == len(GAMES)
    await deployment.check()


async def test_an_engine_that_does_not_know_it_was_thrown_out_changes_nothing(deployment: MemoryDeployment) -> None:
    async with deployment.engine() as silent, deployment.engine() as other:
        deployment.publish(*GAMES[:10])
        await deployment.catch_up(silent, other)
        holder, next_one = (silent, other) if silent.service.next_offsets else (other, silent)
        deployment.publish(*GAMES[10:20])
        await steps(holder, 1)  # has polled ahead
        deployment.topic.evict(holder.log)
        await steps(next_one, 4)
        deployment.publish(*GAMES[20:])
        await steps(next_one, 4)
        await steps(holder, 1)
        await deployment.catch_up(silent, other)
    assert await deployment.games() == len(GAMES)
    await deployment.check()


async def test_two_engines_on_one_partition_count_nothing_twice(deployment: MemoryDeployment) -> None:
    """Both read everything, as if each were alone: half of the commits conflict."""
    async with MemoryLog(deployment.topic, None) as first, MemoryLog(deployment.topic, None) as second:
        one, other = deployment.service(first), deployment.service(second)
        for start in range(0, len(GAMES), 8):
            deployment.publish(*GAMES[start : start + 8])
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one.step)
                tasks.start_soon(other.step)
        for _ in range(30):
            await one.step()
            await other.step()
        assert one.next_offsets == other.next_offsets == {0: len(GAMES)}
    assert await deployment.games() == len(GAMES)
    await deployment.check()


async def test_a_partition_that_changes_hands_between_two_steps_is_read_on_by_the_next(
    deployment: MemoryDeployment,
) -> None:
    async with deployment.engine() as one, deployment.engine() as other:
        for start in range(0, len(GAMES), 4):
            deployment.publish(*GAMES[start : start + 4])
            await steps(one, 1)
            deployment.topic.rebalance()
            await steps(other, 1)
        await deployment.catch_up(one, other)
    assert await deployment.games() == len(GAMES)
    await deployment.check()


@pytest.mark.parametrize("killed_after", range(120))
async def test_an_engine_may_be_killed_at_every_await(deployment: MemoryDeployment, killed_after: int) -> None:
    deployment.publish(*GAMES[:12])
    deployment.topic.append(b"no game")
    deployment.publish(*GAMES[12:])
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            async with deployment.engine() as engine:
                await steps(engine, 50)

        tasks.start_soon(run)
        for _ in range(killed_after):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    await deployment.run()
    assert await deployment.games() == len(GAMES)
    assert deployment.reasons() == [(12, "unreadable")]
    await deployment.check()


async def test_an_error_comes_out_as_it_is(deployment: MemoryDeployment) -> None:
    """An exit code is read from it, which a group of errors has not."""
    deployment.publish(*GAMES)
    async with deployment.engine() as engine:
        await steps(engine, 2)
        deployment.topic.truncate_before(len(GAMES))
        with pytest.raises(CrashfoldError) as caught:
            await steps(engine, 5)
    assert caught.value.exit_code == 78


async def test_a_log_that_is_away_is_waited_for(deployment: MemoryDeployment) -> None:
    deployment.publish(*GAMES)
    async with deployment.engine() as engine:
        await steps(engine, 1)
        deployment.topic.available = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(steps, engine, 1)
            for _ in range(50):
                await anyio.lowlevel.checkpoint()
            assert "the log is away" in engine.health.ready()[0]
            deployment.topic.available = True
        await deployment.catch_up(engine)
        assert engine.health.ready() == []
    await deployment.check()
