"""When what was folded is committed."""

from itertools import pairwise

from crashfold.engine.runtime.pacing import COMMITTED_AT_LEAST_EVERY_S, FOLDING_PER_COMMIT, EngineLimits
from tests.support.line import GAMES, Deployment, steps


async def test_far_behind_a_commit_waits_until_it_is_worth_its_time(deployment: Deployment) -> None:
    deployment = Deployment(only=deployment.only, commit_s=1.0)
    deployment.publish(*GAMES)
    await deployment.run(limits=EngineLimits(batch_games_max=2, poll_wait_s=0))
    batches = len(GAMES) // 2
    assert await deployment.versions() <= batches // FOLDING_PER_COMMIT + 1
    await deployment.check()


async def test_far_behind_a_commit_does_not_wait_longer_than_a_reader_should(deployment: Deployment) -> None:
    deployment = Deployment(only=deployment.only, commit_s=100.0)
    deployment.publish(*GAMES)
    async with deployment.engine(limits=EngineLimits(batch_games_max=1, poll_wait_s=0)) as engine:
        seen = set()
        for _ in range(len(GAMES) + 3):
            await steps(engine, 1)
            seen.add(await deployment.games())
    assert max(later - earlier for earlier, later in pairwise(sorted(seen))) <= COMMITTED_AT_LEAST_EVERY_S + 1


async def test_far_behind_a_commit_does_not_become_larger_than_redis_takes(deployment: Deployment) -> None:
    deployment = Deployment(only=deployment.only, commit_s=100.0)
    deployment.publish(*GAMES)
    seen = {0}
    async with deployment.engine(limits=EngineLimits(batch_games_max=2, poll_wait_s=0, commit_games_max=4)) as engine:
        while await deployment.games() < len(GAMES):
            await steps(engine, 1)
            seen.add(await deployment.games())
    assert max(later - earlier for earlier, later in pairwise(sorted(seen))) <= 4
