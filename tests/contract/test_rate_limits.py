"""Limits that count over processes: Redis, Valkey and the twin in memory keep the same promises."""

from collections.abc import AsyncIterator

import anyio
import pytest
from redis import Redis

from crashfold.engine.adapters.memory.clock import MemoryClock
from crashfold.engine.adapters.memory.limits import MemoryRateLimits
from crashfold.engine.adapters.redis.limits import RedisRateLimits
from crashfold.engine.errors import StoreUnavailable
from crashfold.engine.http.clients import ALONE_S, RateLimit
from crashfold.engine.ports import RateLimits
from crashfold.schemas import keys


@pytest.fixture(params=["memory", "redis_url", "valkey_url"])
async def limits(request: pytest.FixtureRequest) -> AsyncIterator[RateLimits]:
    if request.param == "memory":
        yield MemoryRateLimits(MemoryClock())
    else:
        async with RedisRateLimits(request.getfixturevalue(request.param)) as redis:
            yield redis


async def test_a_client_has_as_many_requests_as_the_limit_says_and_then_waits(limits: RateLimits) -> None:
    assert [await limits.take("a", 5) for _ in range(5)] == [0.0] * 5
    assert 0 < await limits.take("a", 5) <= 12
    assert 0 < await limits.take("a", 5) <= 12  # asking in vain costs nothing
    assert await limits.take("b", 5) == 0.0


async def test_another_limit_is_kept_from_the_next_request_on(limits: RateLimits) -> None:
    assert await limits.take("a", 1) == 0.0
    assert 0 < await limits.take("a", 1) <= 60
    assert 0 < await limits.take("a", 2) <= 60


async def test_processes_count_together_and_what_is_full_again_leaves_no_key(each_redis_url: str) -> None:
    async with RedisRateLimits(each_redis_url) as one, RedisRateLimits(each_redis_url) as other:
        waits: list[float] = []

        async def ask(limits: RateLimits) -> None:
            waits.extend([await limits.take("2001:db8::7", 60) for _ in range(40)])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, one)
            tasks.start_soon(ask, other)
        assert 60 <= waits.count(0.0) <= 62
        # The rate is so high that the key ends at once.
        assert await one.take("c", 10_000_000) == 0.0
    with Redis.from_url(each_redis_url) as redis:
        assert redis.pttl(keys.rate_limit("analytics", "c")) in (-2, 0, 1)
        assert 0 < int(redis.pttl(keys.rate_limit("analytics", "2001:db8::7"))) <= 60_000


def test_a_limits_key_belongs_to_no_stream() -> None:
    assert keys.rate_limit("analytics:{stream}", "::1") == "analytics:limit:::1"
    assert keys.rate_limit("analytics", "10.0.0.1") == "analytics:limit:10.0.0.1"


class _Away:
    """Limits whose store is away as long as it is said."""

    def __init__(self) -> None:
        self.is_away = True
        self.asked = 0

    async def take(self, client: str, per_minute: int) -> float:
        self.asked += 1
        if self.is_away:
            raise StoreUnavailable("Redis does not answer")
        return 0.0


async def test_without_the_store_a_process_counts_alone_and_asks_again_after_a_while() -> None:
    clock, shared = MemoryClock(), _Away()
    limit = RateLimit(2, clock, shared=shared)
    refused = [await limit.refusal("a") is not None for _ in range(3)]
    assert (refused, shared.asked) == ([False, False, True], 1)
    shared.is_away = False
    await clock.sleep(ALONE_S)
    assert await limit.refusal("a") is None
    assert shared.asked == 2


async def test_a_client_has_its_requests_back_with_time() -> None:
    clock = MemoryClock()
    limit = RateLimit(60, clock)
    assert [await limit.refusal("a") is None for _ in range(61)] == [True] * 60 + [False]
    assert await limit.refusal("b") is None
    refused = await limit.refusal("a")
    assert refused is not None
    assert refused.retry_after_s == 1
    await clock.sleep(2)
    assert [await limit.refusal("a") is None for _ in range(3)] == [True, True, False]


async def test_clients_are_forgotten_rather_than_remembered_without_end() -> None:
    limit = RateLimit(1, MemoryClock(), clients_max=3)
    for client in "abcd":
        assert await limit.refusal(client) is None
    assert await limit.refusal("d") is not None
    assert await limit.refusal("a") is None


async def test_no_limit_is_no_limit() -> None:
    limit = RateLimit(0, MemoryClock(), shared=_Away())
    assert all([await limit.refusal("a") is None for _ in range(1_000)])
