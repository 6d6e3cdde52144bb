"""The routes about the deployment: streams, gaps, engines."""

from collections.abc import Callable
from typing import Any

import anyio
from redis.asyncio import Redis

from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.core.facts import Manifest
from tests.support.api_server import Writer, api_server
from tests.support.deployment import NewDeployment, chain, in_order
from tests.support.games import game
from tests.support.servers import RedisServer

PREFIX = "p:{stream}"
NO_KAFKA = "--kafka.bootstrap_servers=127.0.0.1:1"
PATIENCE_S = 30


async def test_all_streams_are_listed_and_one_that_is_spoiled_has_only_its_name(redis_url: str) -> None:
    async with RedisStore(redis_url, key_prefix=PREFIX) as store, Redis.from_url(redis_url) as redis:
        for number, stream in enumerate(("b", "a.1", "crash")):
            await Writer(store, stream=stream).commit([game(1), game(4, end_time=1_768_480_491_000)])
            await store.write_manifest("games", 70 * number, Manifest(low_water=1, streams={stream: 1}, mark=None))
        for partition in range(0, 140, 20):  # all are found however many partitions are idle
            await store.write_manifest("games", partition, Manifest(low_water=1, streams={"gone": 1}, mark=None))
        with api_server(redis_url, NO_KAFKA, f"--redis.key_prefix={PREFIX}") as server:
            async with server.client() as client:
                await redis.hset("p:{b}:checkpoint", "newest", b"\xff\xfe")
                told = await client.get("/api/streams", headers={"X-Timezone": "Asia/Tokyo"})
                assert told.status_code == 200
                whole = {
                    "partition": 0,
                    "total_games": 2,
                    "version": 1,
                    "generation": "g1",
                    "newest_game": "4",
                    "newest_game_time": "2026-01-15T21:34:51+09:00",
                    "missing": 2,
                }
                assert told.json()["data"] == {
                    "count": 3,
                    "streams": [
                        {"stream": "a.1", **whole},
                        {"stream": "b", **dict.fromkeys(whole)},
                        {"stream": "crash", **whole},
                    ],
                }


async def test_gaps_are_the_newest_first_and_those_before_the_window_too(redis_url: str) -> None:
    async with RedisStore(redis_url) as store:
        writer = Writer(store)
        await writer.commit([game(number) for number in (1, 5, 6, 9, 20)])
        with api_server(redis_url, NO_KAFKA) as server:
            async with server.client() as client:
                told = await client.get("/api/gaps?limit=2")
                newest = [{"first": 10, "last": 19}, {"first": 7, "last": 8}]
                assert told.json()["data"] == {"count": 3, "missing": 15, "gaps": newest}
                assert told.headers["x-crashfold-source"] == "precomputed"
                known = {"If-None-Match": told.headers["etag"]}
                assert (await client.get("/api/gaps?limit=2", headers=known)).status_code == 304
                await writer.commit([game(7)])
                told = await client.get("/api/gaps?limit=2&min_version=2", headers=known)
                assert told.json()["data"]["gaps"] == [{"first": 10, "last": 19}, {"first": 8, "last": 8}]
                async with Redis.from_url(redis_url) as redis:
                    await redis.hset("analytics:gaps", "2", "\xff")
                told = await client.get("/api/gaps")
                assert told.json()["data"]["count"] == 3
                assert told.headers["x-crashfold-source"] in ("computed", "cached")
                for limit, status in (("10000", 200), ("10001", 422), ("0", 422), ("x", 400)):
                    assert (await client.get(f"/api/gaps?limit={limit}")).status_code == status


async def test_without_redis_the_deployment_is_not_known(new_redis: Callable[..., RedisServer]) -> None:
    redis = await anyio.to_thread.run_sync(new_redis)
    async with RedisStore(redis.url) as store:
        await Writer(store).commit([game(1), game(3)])
        with api_server(redis.url, NO_KAFKA) as server:
            async with server.client() as client:
                await client.get("/api/games?min_version=1")
                redis.kill()
                for url in ("/api/streams", "/api/engine"):
                    told = await client.get(url)
                    assert (told.status_code, told.headers["content-type"]) == (503, "application/problem+json")
                told = await client.get("/api/gaps")
                assert (told.status_code, told.json()["data"]["missing"]) == (200, 1)


async def test_engines_rebuilds_and_verify_tell_of_themselves(new_deployment: NewDeployment, redis_url: str) -> None:
    deployment = await anyio.to_thread.run_sync(new_deployment, redis_url)
    await anyio.to_thread.run_sync(deployment.publish, in_order(chain(100)))
    with api_server(redis_url, NO_KAFKA, f"--kafka.topic={deployment.topic}") as server:
        async with server.client() as client:

            async def told() -> Any:
                return (await client.get("/api/engine")).json()["data"]

            with deployment.engine() as engine, anyio.fail_after(PATIENCE_S):
                ends: list[int] = []
                while ends != [100]:  # till it is committed, observed and told
                    await anyio.sleep(0.1)
                    engines = (await told())["engines"]
                    ends = [partition["next_offset"] for one in engines for partition in one["partitions"]]
                (one,) = engines
                assert one["commits"]["applied"] >= 1
                assert one["partitions"][0]["log_end"] == 100
                assert one["partitions"][0]["lag"] == 0
                assert engine.terminate()[0] == 0
            for command in ("verify", "replay"):
                done = await anyio.to_thread.run_sync(deployment.run, command)
                assert done.code == 0, done.err
            now = await told()
            assert [(one["stream"], one["result"]) for one in now["verified"]] == [("crash", "equal")]
            assert [(one["stream"], one["progress"]) for one in now["rebuilds"]] == [("crash", 1.0)]
