"""The routes about the deployment: streams, gaps, engines, dead letters."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from redis.asyncio import Redis

from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.ports import Manifest
from tests.support.api_server import Writer, api_server
from tests.support.deployment import Message, NewDeployment, chain, in_order
from tests.support.games import game, json_game
from tests.support.servers import RedisServer

PREFIX = "p:{stream}"
NO_KAFKA = "--kafka.bootstrap_servers=127.0.0.1:1"
PATIENCE_S = 30


async def test_all_streams_are_listed_and_one_that_is_spoiled_has_only_its_name(redis_url: str) -> None:
    async with RedisStore(redis_url, key_prefix=PREFIX) as store, Redis.from_url(redis_url) as redis:
        for number, stream in enumerate(("b", "a.1", "crash")):
            await Writer(store, stream=stream).commit([game(1), game(4, end_time=1_768_480_491_000)])
            await store.write_manifest("games", 70 * number, Manifest(low_water=1, streams={stream: 1}, mark=None))
        for partition in range(5, 140, 20):  # all are found however many partitions are idle
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
                for url in ("/api/streams", "/api/engine", "/api/dead-letters"):
                    told = await client.get(url)
                    assert (told.status_code, told.headers["content-type"]) == (503, "application/problem+json")
                told = await client.get("/api/gaps")
                assert (told.status_code, told.json()["data"]["missing"]) == (200, 1)


@pytest.mark.parametrize(
    ("flags", "brokers"),
    [
        ((), "kafka.example:9092"),
        (("--api.host=0.0.0.0", "--api.allow_anonymous=true"), None),
        (("--api.host=0.0.0.0", "--api.token=0123456789abcdef"), "kafka.example:9092"),
    ],
)
async def test_the_settings_that_clients_need_are_told_and_brokers_not_to_anybody(
    redis_url: str, flags: tuple[str, ...], brokers: str | None
) -> None:
    settings = (
        "--kafka.bootstrap_servers=kafka.example:9092",
        "--kafka.allow_plaintext=true",
        "--projections.min=[2,7]",
        '--fairness.streams=[{"stream": "one", "from_game": 9, "variant": "stake", "house_edge_percent": 4}]',
    )
    with api_server(redis_url, *settings, "--engine.stream=one", *flags, ready=False) as server:
        async with server.client(headers={"Authorization": "Bearer 0123456789abcdef"}) as client:
            told = (await client.get("/api/deployment")).json()["data"]
    assert told["bootstrap_servers"] == brokers
    assert (told["stream"], told["topic"], told["min"]) == ("one", "games", [2.0, 7.0])
    rules = [(one["stream"], one["from_game"], one["variant"], one["house_edge_percent"]) for one in told["rules"]]
    assert rules == [(None, 1, "exact", 1.0), ("one", 1, "exact", 1.0), ("one", 9, "stake", 4.0)]


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


HOSTILE = b"<img src=x onerror=alert(1)>\x1b[31m\x00\xff" + "\u202e".encode()


async def test_dead_letters_are_told_as_data_newest_first(new_deployment: NewDeployment, redis_url: str) -> None:
    deployment = await anyio.to_thread.run_sync(new_deployment, redis_url)
    records = [
        *in_order(chain(3)),
        Message(0, b"no stream name!", HOSTILE),
        Message(0, b"crash", None),
        Message(0, b"crash", b"[" * 5_000),
        Message(0, b"elsewhere", json_game(game_id=900)),
    ]
    at_kafka = (f"--kafka.bootstrap_servers={deployment.bootstrap_servers}", f"--kafka.topic={deployment.topic}")
    with api_server(redis_url, *at_kafka, ready=False) as server:
        async with server.client() as client:

            async def told(query: str = "", **headers: str) -> Any:
                answer = await client.get(f"/api/dead-letters{query}", headers=headers)
                assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store"), answer.text
                return answer.json()["data"]

            assert await told() == {"count": 0, "dead_letters": []}, "no topic, no letters"
            await anyio.to_thread.run_sync(deployment.publish, records)
            await anyio.to_thread.run_sync(deployment.caught_up)
            found = await told(**{"X-Timezone": "Asia/Tokyo"})
            assert found["count"] == 4
            letters = found["dead_letters"]
            assert [(one["offset"], one["reason"]) for one in letters] == [
                *((6, "stream"), (5, "unreadable"), (4, "unreadable"), (3, "unreadable"))
            ]
            assert list(letters[0]) == [
                *("topic", "partition", "offset", "reason", "detail", "time", "key", "value", "retried")
            ]
            assert {(one["topic"], one["partition"], one["retried"]) for one in letters} == {
                (deployment.topic, 0, False)
            }
            assert all(one["detail"] and one["time"].endswith("+09:00") for one in letters)
            assert letters[3]["value"] == HOSTILE.decode("utf-8", "backslashreplace")
            assert (letters[2]["key"], letters[2]["value"]) == ("crash", None)
            assert letters[1]["value"] == "[" * 4_096
            assert await told("?limit=1&nothing=known") == {
                "count": 1,
                "dead_letters": (await told())["dead_letters"][:1],
            }
            for limit, status in (("500", 200), ("501", 422), ("0", 422), ("-1", 422), ("1.0", 400), ("", 400)):
                answer = await client.get(f"/api/dead-letters?limit={limit}")
                assert answer.status_code == status, limit
            assert (await client.post("/api/dead-letters")).status_code == 405
            done = await anyio.to_thread.run_sync(deployment.run, "dead-letters", "retry", "0:6")
            assert done.code == 0, done.err
            retried = [one["offset"] for one in (await told())["dead_letters"] if one["retried"]]
            assert retried == [6]


async def test_whoever_asks_for_dead_letters_needs_the_token_where_there_is_one(redis_url: str) -> None:
    with api_server(redis_url, NO_KAFKA, "--api.token=0123456789abcdef", ready=False) as server:
        async with server.client() as client:
            assert (await client.get("/api/dead-letters")).status_code == 401
            told = await client.get("/api/dead-letters", headers={"Authorization": "Bearer 0123456789abcdef"})
            assert (told.status_code, told.headers["retry-after"]) == (503, "1")
            assert told.json()["detail"] == "the dead letters cannot be read from Kafka"
