"""When what was folded is committed."""

from itertools import pairwise

import pytest

from crashfold.engine.ports import Polled
from crashfold.engine.runtime.pacing import COMMITTED_AT_LEAST_EVERY_S, FOLDING_PER_COMMIT, EngineLimits
from tests.support.in_memory import GAMES, MemoryDeployment, steps

TURNS = 4
"""So many turns, of a second each, a commit is worth that takes `COMMIT_S`."""
COMMIT_S = TURNS / FOLDING_PER_COMMIT


async def test_far_behind_a_commit_waits_until_it_is_worth_its_time(deployment: MemoryDeployment) -> None:
    deployment = MemoryDeployment(only=deployment.only, commit_s=COMMIT_S)
    deployment.publish(*GAMES)
    await deployment.run(limits=EngineLimits(batch_games_max=2, poll_wait_s=0))
    batches = len(GAMES) // 2
    assert await deployment.versions() <= batches // TURNS + 1
    await deployment.check()


async def test_far_behind_a_commit_does_not_wait_longer_than_a_reader_should(deployment: MemoryDeployment) -> None:
    deployment = MemoryDeployment(only=deployment.only, commit_s=100.0)
    deployment.publish(*GAMES)
    async with deployment.engine(limits=EngineLimits(batch_games_max=1, poll_wait_s=0)) as engine:
        seen = set()
        for _ in range(len(GAMES) + 3):
            await steps(engine, 1)
            seen.add(await deployment.games())
    assert max(later - earlier for earlier, later in pairwise(sorted(seen))) <= COMMITTED_AT_LEAST_EVERY_S + 1


async def test_far_behind_a_commit_does_not_become_larger_than_redis_takes(deployment: MemoryDeployment) -> None:
    deployment = MemoryDeployment(only=deployment.only, commit_s=100.0)
    deployment.publish(*GAMES)
    seen = {0}
    async with deployment.engine(limits=EngineLimits(batch_games_max=2, poll_wait_s=0, commit_games_max=4)) as engine:
        while await deployment.games() < len(GAMES):
            await steps(engine, 1)
            seen.add(await deployment.games())
    assert max(later - earlier for earlier, later in pairwise(sorted(seen))) <= 4


async def test_the_rest_of_a_fetch_is_not_taken_for_caught_up(
    deployment: MemoryDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fetch of 7 records becomes polls of 5 and 2, and the next fetch is not there yet when those are taken."""
    deployment = MemoryDeployment(only=deployment.only, commit_s=COMMIT_S)
    deployment.publish(*GAMES)
    turns = left = 0
    async with deployment.engine(limits=EngineLimits(batch_games_max=5, poll_wait_s=0.01)) as engine:
        poll = engine.log.poll

        async def fetched(records_max: int, wait_s: float) -> Polled:
            nonlocal left
            if not left and not wait_s:
                return Polled(has_more=True)
            left = left or 7
            polled = await poll(min(records_max, left), wait_s)
            left -= polled.count
            return polled

        monkeypatch.setattr(engine.log, "poll", fetched)
        while engine.service.folded_to.get(0) != len(GAMES):
            await engine.service.step()
            turns += 1
        assert turns > 2 * TURNS
        assert await deployment.versions() <= turns // TURNS
    await deployment.run()
    await deployment.check()


async def test_the_rest_of_a_fetch_behind_which_is_nothing_is_committed_at_once(deployment: MemoryDeployment) -> None:
    deployment = MemoryDeployment(only=deployment.only, commit_s=100.0)
    deployment.publish(*GAMES[:7])
    async with deployment.engine(limits=EngineLimits(batch_games_max=5, poll_wait_s=0)) as engine:
        while engine.service.folded_to.get(0) != 7:
            await engine.service.step()
        assert await deployment.games() == 7
