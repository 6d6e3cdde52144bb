"""What Redis and Valkey say of their memory, and what is made of servers that say nothing."""

from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis

from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.schemas.predicate import Predicate
from tests.contract.state_store import commit
from tests.support.servers import RedisServer

STREAM = "crash"
PREDICATES = (Predicate.parse("min:2"),)
MEMBER_BYTES = 50_000


@pytest.fixture
async def redis(each_redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(each_redis_url) as redis:
        yield redis


async def test_a_server_says_how_much_memory_it_has_and_how_often_it_found_a_key(
    each_redis_url: str, redis: Redis
) -> None:
    async with RedisStore(each_redis_url) as store:
        usage = store.usage(PREDICATES)
        (before,) = await usage.servers()
        await redis.set("there", b"x" * MEMBER_BYTES)
        await redis.get("there")
        await redis.get("nowhere")
        (after,) = await usage.servers()
    assert after.memory_bytes >= before.memory_bytes + MEMBER_BYTES
    assert after.hits == before.hits + 1
    assert after.misses == before.misses + 1
    assert after.evicted_keys == 0
    assert after.address in each_redis_url


async def test_the_keys_of_a_stream_are_weighed_and_no_others(each_redis_url: str, redis: Redis) -> None:
    async with RedisStore(each_redis_url) as store:
        usage = store.usage(PREDICATES)
        assert await usage.stream_bytes(STREAM) == 0
        await store.commit([commit(STREAM, None, 1)])
        small = await usage.stream_bytes(STREAM)
        await redis.set("analytics:last_game:min:3", b"x" * MEMBER_BYTES)  # no predicate of this deployment
        assert await usage.stream_bytes(STREAM) == small
        await redis.set("analytics:last_game:min:2", b"x" * MEMBER_BYTES)
        large = await usage.stream_bytes(STREAM)
    assert small is not None
    assert large is not None
    assert small > 0
    assert large >= small + MEMBER_BYTES


async def test_a_user_who_may_not_ask_gets_no_figures_and_no_error(new_redis: Callable[..., RedisServer]) -> None:
    server = new_redis()
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "plain", "on", ">secret", "~*", "&*", "+@all", "-info", "-memory")
    url = server.url.replace("redis://", "redis://plain:secret@")
    async with RedisStore(url) as store:
        usage = store.usage(PREDICATES)
        assert await usage.servers() == []
        assert await usage.stream_bytes(STREAM) is None
