"""Which of several processes was not heard for long."""

import anyio

from crashfold.engine.adapters.memory.clock import MemoryClock
from crashfold.engine.adapters.process.beats import STALE_S, Beats


async def test_a_process_that_stands_still_is_told_by_the_others_and_one_that_never_began_is_not() -> None:
    clock = MemoryClock()
    await clock.sleep(1)
    beats = Beats(3)
    assert beats.stale(clock) == []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(beats.keep, 0, clock)
        tasks.start_soon(beats.keep, 1, clock)
        await clock.sleep(2 * STALE_S)
        assert beats.stale(clock) == []
        tasks.cancel_scope.cancel()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(beats.keep, 0, clock)
        await clock.sleep(2 * STALE_S)
        [reason] = beats.stale(clock)
        assert reason.startswith("worker 1 was not heard for ")
        tasks.cancel_scope.cancel()
