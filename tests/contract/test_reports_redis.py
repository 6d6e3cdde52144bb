"""The contract of reports, on redis-server, on Valkey and on a cluster."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from crashfold.engine.adapters.redis.reader import RedisReader
from crashfold.engine.adapters.redis.reports import RedisReports
from crashfold.engine.adapters.redis.store import RedisStore
from tests.contract.reports import ReportsContract

PREFIX = "test:{stream}"


@pytest.fixture
async def reports(each_redis_url: str) -> AsyncIterator[RedisReports]:
    async with RedisStore(each_redis_url, key_prefix=PREFIX) as store:
        yield store.reports()


@pytest.fixture
async def other(each_redis_url: str) -> AsyncIterator[RedisReports]:
    async with RedisReader(each_redis_url, key_prefix=PREFIX) as reader:
        yield reader.reports()


class TestRedis(ReportsContract):
    pass


async def test_reports_stand_under_keys_of_their_own_and_leave_the_directory_when_they_expire(
    reports: RedisReports, other: RedisReports, each_redis_url: str
) -> None:
    await reports.tell("engine", {"a": b"1", "b": b"2"}, 15)
    async with Redis.from_url(each_redis_url) as redis:
        assert await redis.get("test:engine:a") == b"1"
        assert 0 < await redis.ttl("test:engine:a") <= 15
        await redis.delete("test:engine:a")
        assert await reports.told("engine") == [b"2"]
        await other.tell("engine", {"c": b"3"}, 15)
        assert await redis.smembers("test:keys") == {b"engine:b", b"engine:c"}


async def test_reports_are_found_again_as_soon_as_they_are_told_to_a_redis_that_lost_all(
    reports: RedisReports, other: RedisReports, each_redis_url: str
) -> None:
    await reports.tell("engine", {"a": b"1"}, 15)
    async with Redis.from_url(each_redis_url) as redis:
        await redis.delete("test:engine:a", "test:keys")
    assert await other.told("engine") == []
    await reports.tell("engine", {"a": b"2"}, 15)
    assert await other.told("engine") == [b"2"]


async def test_reports_are_told_and_found_on_every_node_of_a_cluster(redis_cluster_url: str) -> None:
    names = {f"s{number}": b"%d" % number for number in range(20)}
    async with (
        RedisStore(redis_cluster_url, cluster=True, key_prefix=PREFIX) as store,
        RedisReader(redis_cluster_url, cluster=True, key_prefix=PREFIX) as reader,
    ):
        await store.reports().tell("verified", names)
        assert sorted(await reader.reports().told("verified")) == sorted(names.values())
