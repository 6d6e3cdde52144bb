"""`crashfold serve` with a Redis user who may not do everything, and with many streams: each trouble is its own."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import httpx

from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.read.followers import STREAMS_MAX
from tests.support.api_server import Writer, api_server
from tests.support.games import game
from tests.support.live import Event, parse_events
from tests.support.servers import RedisServer

PATIENCE_S: Final = 30
NO_KAFKA: Final = "--kafka.bootstrap_servers=127.0.0.1:1"
READS: Final = ("on", "nopass", "~*", "resetchannels", "+@read", "+@connection", "+@transaction")


async def test_without_a_right_to_the_channel_new_versions_are_looked_for(
    new_redis: Callable[..., RedisServer],
) -> None:
    redis = await anyio.to_thread.run_sync(new_redis)
    _allow(redis, *READS, "+@pubsub")
    async with RedisStore(redis.url) as store:
        writer = Writer(store)
        await writer.commit([game(1, 2.0)])
        with api_server(_as_reader(redis), NO_KAFKA) as server:
            async with server.client() as client:
                for number in range(2, 6):
                    version = await writer.commit([game(number, 2.0)])
                    told = await client.get(f"/api/games?min_version={version}")
                    assert (told.status_code, told.json()["count"]) == (200, number)
                    assert told.headers["x-crashfold-source"] == "computed"
                (note,) = (await client.get("/readyz")).json()["notes"]
                assert "not told of" in note
                assert server.log().count("channel_refused") == 1
                _allow(redis, "allchannels")
                assert "store_away" not in server.log()


async def test_a_user_who_may_not_read_is_a_503_until_he_may(new_redis: Callable[..., RedisServer]) -> None:
    redis = await anyio.to_thread.run_sync(new_redis)
    _allow(redis, "on", "nopass", "+@connection")
    async with RedisStore(redis.url) as store:
        await Writer(store).commit([game(1, 2.0)])
        with api_server(_as_reader(redis), NO_KAFKA, ready=False) as server:
            async with server.client() as client:
                for url in ("/api/games", "/api/stream", "/api/analytics/last-game/min-crash-point/2"):
                    told = await client.get(url)
                    assert (told.status_code, told.headers["content-type"]) == (503, "application/problem+json")
                    assert int(told.headers["retry-after"]) >= 1
                assert (await client.get("/readyz")).status_code == 503
                _allow(redis, *READS, "allchannels", "+@pubsub")
                await _until(client, "/readyz", lambda told: told.status_code == 200)
                assert (await client.get("/api/games")).status_code == 200
                _allow(redis, "-@read")
                told = await _until(client, "/api/games", lambda told: "age" in told.headers)
                assert (told.status_code, told.headers["x-crashfold-source"]) == (200, "replica")
                assert "Traceback" not in server.log()


async def test_streams_that_had_a_live_client_once_make_room_for_others(redis_url: str) -> None:
    """One more than are followed at once; the last of them has its client for as long as it likes."""
    prefix = "p:{stream}"
    async with RedisStore(redis_url, key_prefix=prefix) as store:
        for number in range(STREAMS_MAX + 2):
            await Writer(store, stream=f"s{number}").commit([game(1, 2.0)])
    with api_server(redis_url, NO_KAFKA, f"--redis.key_prefix={prefix}") as server:
        async with server.client() as client, _events(client, "s0") as staying:
            await anext(staying)
            for number in range(1, STREAMS_MAX + 2):
                async with _events(client, f"s{number}") as events:
                    assert (await anext(events)).ids == [1]
            assert (await client.get("/api/games?stream=s1")).status_code == 200


@asynccontextmanager
async def _events(client: httpx.AsyncClient, stream: str) -> AsyncIterator[AsyncIterator[Event]]:
    async with client.stream("GET", f"/api/stream?stream={stream}") as response:
        assert response.status_code == 200, await response.aread()
        yield parse_events(response.aiter_lines())


def _allow(redis: RedisServer, *rules: str) -> None:
    """Change what the user `reader` may do."""
    with redis.client() as client:
        client.execute_command("ACL", "SETUSER", "reader", *rules)


def _as_reader(redis: RedisServer) -> str:
    return redis.url.replace("redis://", "redis://reader:any@")


async def _until(client: httpx.AsyncClient, url: str, holds: Callable[[httpx.Response], Any]) -> httpx.Response:
    with anyio.fail_after(PATIENCE_S):
        while not holds(told := await client.get(url)):
            await anyio.sleep(0.02)
    return told
