"""The contract of readers, on redis-server and on Valkey; and what happens when the server goes away."""

from collections.abc import AsyncIterator, Callable

import anyio
import pytest
from redis.asyncio import Redis

from crashfold.engine.adapters.redis.reader import RedisReader
from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.errors import StoreUnavailable
from crashfold.engine.ports import CachedAnswer
from crashfold.schemas.aggregates import Update
from tests.contract.live_reader import LiveReaderContract
from tests.contract.state_store import PATIENCE_S, numbered
from tests.support.servers import RedisServer

PREFIX = "test:{stream}"


@pytest.fixture
async def store(each_redis_url: str) -> AsyncIterator[RedisStore]:
    async with RedisStore(each_redis_url, key_prefix=PREFIX) as store:
        yield store


@pytest.fixture
async def reader(each_redis_url: str) -> AsyncIterator[RedisReader]:
    async with RedisReader(each_redis_url, key_prefix=PREFIX) as reader:
        yield reader


class TestRedis(LiveReaderContract):
    pass


async def test_an_answer_stands_under_the_key_of_its_version_and_expires(
    reader: RedisReader, each_redis_url: str
) -> None:
    await reader.keep([CachedAnswer("crash", 7, "series:x", b"answer", 60)])
    async with Redis.from_url(each_redis_url) as redis:
        assert await redis.get("test:{crash}:cache:7:series:x") == b"answer"
        assert 50 < await redis.ttl("test:{crash}:cache:7:series:x") <= 60


async def test_what_is_said_on_the_channel_and_is_no_update_is_passed_over(
    reader: RedisReader, each_redis_url: str
) -> None:
    async with Redis.from_url(each_redis_url) as redis, reader.updates("crash") as updates:
        for word in ("{}", "", b"\xff", '{"version":1,"total_games":1,"newest":1}', "{}"):
            await redis.publish("test:{crash}:updates", word)
        assert await updates.next(PATIENCE_S) == Update(1, 1, 1)
        assert await updates.next(0.01) is None


async def test_a_server_that_dies_is_noticed_and_found_again(new_redis: Callable[..., RedisServer]) -> None:
    server = await anyio.to_thread.run_sync(new_redis)
    async with RedisStore(server.url) as store, RedisReader(server.url) as reader:
        await store.commit([numbered("crash", 1)])
        async with reader.updates("crash") as updates:
            server.kill()
            with pytest.raises(StoreUnavailable):
                await updates.next(PATIENCE_S)
        with pytest.raises(StoreUnavailable):
            await reader.standing("crash")
        with pytest.raises(StoreUnavailable):
            async with reader.updates("crash"):
                pytest.fail("there is nobody to subscribe with")
        await anyio.to_thread.run_sync(server.start)
        assert await reader.standing("crash") is None
        async with reader.updates("crash") as updates:
            await store.commit([numbered("crash", 1)])
            assert await updates.next(PATIENCE_S) is not None
