"""The API as a process over HTTP, on a real Redis that the engine's own fold has filled."""

import json
import os
import resource
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from redis.asyncio import Redis

from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.http.edge import BODY_BYTES_MAX, HEADERS_BYTES_MAX, TARGET_BYTES_MAX
from crashfold.projections.settings import ProjectionSettings
from crashfold.schemas.chain import chain_of_games
from crashfold.schemas.fairness import Rule
from crashfold.schemas.game import Game
from tests.conftest import enter
from tests.support import servers
from tests.support.api_server import ApiServer, Writer, api_server, serve_command
from tests.support.deployment import eventually, is_running
from tests.support.games import game, sample_games
from tests.support.servers import RedisServer
from tests.unit.engine.http.test_routes import EXAMPLES, assert_same

ROOT = "/api/analytics"
DEADLINE_S = 20
PROBLEM = "application/problem+json"

QUESTIONS = [
    *(
        f"occurrences/{kind}/{value}?games={n}"
        for kind, value in (("min-crash-point", "2"), ("exact-floor", "3"))
        for n in (100, 500, 1000)
    ),
    *("occurrences/max-crash-point/1.01", "occurrences/min-crash-point/1000?games=1000"),
    *(
        f"last-game/{name}"
        for name in ("min-crash-point/2", "min-crash-point/1000", "exact-floor/7", "max-crash-point/1")
    ),
    *(
        f"last-games/{name}"
        for name in ("min-crash-point/2?limit=100", "max-crash-point/1.01", "exact-floor/9?limit=3")
    ),
    *("series/without-min-crash-point/2", "series/without-min-crash-point/100?limit=5000&sort_by=length"),
    *("intervals/min-crash-point/2", "intervals/min-crash-point/10?hours=3"),
]
"""What the engine keeps, and some of what it does not."""
BODIES: list[tuple[str, dict[str, Any]]] = [
    ("occurrences/min-crash-points/batch", {"values": [2, 10], "comparison": False}),
    ("last-games/exact-floors", {"values": [1, 7]}),
    ("last-games/min-crash-points", {"values": [2, 2.5, 1000]}),
]
PRECOMPUTED = [path for path in QUESTIONS if not path.startswith("series")]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A server of this module's own, with the sample data and its newest games ending about now."""
    with ExitStack() as stack:
        server = enter(stack, servers.redis_server())
        anyio.run(_fill, server.url, sample_games())
        yield server


@pytest.fixture(scope="module")
def server(redis: RedisServer) -> Iterator[ApiServer]:
    with api_server(redis.url) as server:
        yield server


@pytest.fixture(scope="module")
def computing(redis: RedisServer) -> Iterator[ApiServer]:
    """The same, which computes everything."""
    flags = [f"--api.source_{name}=computed" for name in ("occurrences", "intervals", "series", "last_games")]
    with api_server(redis.url, *flags) as server:
        yield server


@pytest.fixture
async def client(server: ApiServer) -> AsyncIterator[httpx.AsyncClient]:
    """One that takes answers as they are: what is compressed has a tag of its own."""
    async with server.client(headers={"Accept-Encoding": "identity"}) as client:
        yield client


async def _fill(url: str, games: Sequence[Game], **settings: Any) -> Writer:
    async with RedisStore(url) as store:
        writer = Writer(store, ProjectionSettings(**settings))
        await writer.commit(games)
    return writer


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example['method']} {example['path']}")
async def test_every_example_gets_its_answer(example: dict[str, Any], client: httpx.AsyncClient) -> None:
    url = f"{example['path']}?{example['query']}" if example["query"] else example["path"]
    for _ in range(2):  # the second time it may have been kept
        told = await client.request(example["method"], url, json=example["body"], headers=example["headers"])
        assert told.status_code == example["expect_status"], told.text
        if told.status_code == 200:
            assert told.headers["content-type"] == "application/json"
            assert told.headers["x-crashfold-version"] == "1"
            assert_same(told.json()["data"], example["expect_data"])
        else:
            assert told.headers["content-type"] == PROBLEM
            assert told.json()["status"] == told.status_code


@pytest.mark.parametrize("path", QUESTIONS)
async def test_precomputed_and_computed_answers_are_the_same(
    path: str, client: httpx.AsyncClient, computing: ApiServer
) -> None:
    async with computing.client(headers=client.headers) as other:
        for headers in ({}, {"X-Timezone": "Asia/Kolkata"}):
            one = await client.get(f"{ROOT}/{path}", headers=headers)
            two = await other.get(f"{ROOT}/{path}", headers=headers)
            assert one.status_code == two.status_code == 200
            assert one.content == two.content
            assert one.headers.get("etag") == two.headers.get("etag")
            computed = {"computed", "cached"}  # what took long, on a busy machine, is kept for every server
            assert one.headers["x-crashfold-source"] in ({"precomputed"} if path in PRECOMPUTED else computed)
            assert two.headers["x-crashfold-source"] in computed


@pytest.mark.parametrize(("path", "body"), BODIES)
async def test_batches_are_the_same_from_both_sources(
    path: str, body: dict[str, Any], client: httpx.AsyncClient, computing: ApiServer
) -> None:
    async with computing.client(headers=client.headers) as other:
        one, two = await client.post(f"{ROOT}/{path}", json=body), await other.post(f"{ROOT}/{path}", json=body)
        assert one.status_code == two.status_code == 200
        assert one.content == two.content


async def test_shadow_serves_what_is_computed_and_counts_comparisons(redis: RedisServer) -> None:
    flags = [f"--api.source_{name}=shadow" for name in ("occurrences", "intervals", "series", "last_games")]
    with api_server(redis.url, *flags) as server:
        async with server.client() as client, Redis.from_url(redis.url) as store:
            for path in PRECOMPUTED:
                told = await client.get(f"{ROOT}/{path}")
                assert (told.status_code, told.headers["x-crashfold-source"]) == (200, "computed")
            metrics = await _metrics(client)
            compared = 'crashfold_api_shadow_comparisons_total{aggregate="%s",outcome="%s"}'
            asked = {name: sum(path.startswith(name) for path in PRECOMPUTED) for name in ("occurrences", "intervals")}
            for aggregate, count in (*asked.items(), ("last_games", len(PRECOMPUTED) - sum(asked.values()))):
                assert metrics[compared % (aggregate, "equal")] == count
                assert metrics[compared % (aggregate, "different")] == 0
            right = await store.hget("analytics:occurrences:floor:5", "games:500")
            assert isinstance(right, bytes)
            await store.hset("analytics:occurrences:floor:5", "games:500", "499")
            try:
                told = await client.get(f"{ROOT}/occurrences/exact-floor/5?games=500")
            finally:
                await store.hset("analytics:occurrences:floor:5", "games:500", right)
            assert told.json()["data"]["occurrences"]["count"] == int(right)
            assert (await _metrics(client))[compared % ("occurrences", "different")] == 1


async def test_a_computed_answer_is_kept_and_says_so(client: httpx.AsyncClient) -> None:
    url = f"{ROOT}/series/without-min-crash-point/2.345?limit=777"
    first, second = await client.get(url), await client.get(url)
    assert (first.headers["x-crashfold-source"], second.headers["x-crashfold-source"]) == ("computed", "cached")
    assert first.content == second.content


async def test_a_computed_answer_is_put_into_the_store_under_its_version_with_an_end(
    client: httpx.AsyncClient, redis: RedisServer
) -> None:
    told = await client.get(f"{ROOT}/occurrences/min-crash-point/3.33?games=333")
    async with Redis.from_url(redis.url) as store:

        async def found() -> bool:
            kept = [key async for key in store.scan_iter("analytics:cache:1:occurrences:*")]
            for key in kept:
                if b"\n" + told.content in (await store.get(key) or b""):
                    assert 0 < await store.ttl(key) <= 60
                    return True
            return False

        await _eventually(found)


async def test_a_costly_answer_of_another_process_is_taken_from_the_store(
    server: ApiServer, redis: RedisServer
) -> None:
    url = f"{ROOT}/series/without-min-crash-point/%s?limit=20000&sort_by=length"
    with api_server(redis.url) as other:
        async with server.client() as one, other.client() as two:
            for client in (one, two):  # both learn that such questions are costly
                assert (await client.get(url % "1.13")).headers["x-crashfold-source"] in ("computed", "cached")
            first = await one.get(url % "77.7")
            async with Redis.from_url(redis.url) as store:

                async def is_shared() -> bool:
                    keys = [key async for key in store.scan_iter("analytics:cache:1:series:*")]
                    return any(first.content in kept for kept in [await store.get(key) or b"" for key in keys])

                await _eventually(is_shared)
            second = await two.get(url % "77.7")
            assert second.content == first.content
            assert second.headers["x-crashfold-source"] == "cached"
            metrics = await _metrics(two)
            assert metrics['crashfold_api_cache_requests_total{cache="store",outcome="hit"}'] == 1


@pytest.mark.parametrize("spoiled", [b"", b"\xff\xfe\0garbage", b'{"status":"success","data":{"count":0,"series":[]}}'])
async def test_a_kept_answer_that_was_spoiled_is_computed_again(
    server: ApiServer, redis: RedisServer, spoiled: bytes
) -> None:
    url = f"{ROOT}/series/without-min-crash-point/%s?limit=20000&sort_by=length"
    asked = f"{77 + len(spoiled)}.3"
    with api_server(redis.url) as other:
        async with server.client() as one, other.client() as two, Redis.from_url(redis.url) as store:
            for client in (one, two):  # both learn that such questions are costly
                await client.get(url % "1.13")
            known = {key async for key in store.scan_iter("analytics:cache:*")}
            first = await one.get(url % asked)
            fresh: set[bytes] = set()

            async def is_shared() -> bool:
                fresh.update({key async for key in store.scan_iter("analytics:cache:*")} - known)
                return bool(fresh)

            await _eventually(is_shared)
            for key in fresh:
                await store.set(key, spoiled)
            second = await two.get(url % asked)
    assert second.content == first.content
    assert second.headers["x-crashfold-source"] == "computed"


async def test_a_precomputed_key_that_is_missing_is_computed_logged_and_counted(
    server: ApiServer, client: httpx.AsyncClient, redis: RedisServer
) -> None:
    expected = await client.get(f"{ROOT}/last-game/min-crash-point/25?at=2100-01-01T00:00:00Z")
    async with Redis.from_url(redis.url) as store:
        gone = await store.getdel("analytics:last_game:min:25")
        assert isinstance(gone, bytes)
        try:
            told = await client.get(f"{ROOT}/last-game/min-crash-point/25")
        finally:
            await store.set("analytics:last_game:min:25", gone)
    assert (told.status_code, told.headers["x-crashfold-source"]) == (200, "computed")
    assert told.json() == expected.json()
    assert (await _metrics(client))['crashfold_api_precomputed_missing_total{aggregate="last_games"}'] == 1
    assert "precomputed_missing" in server.log()


SPOILED: list[tuple[str, str, tuple[str | bytes, ...]]] = [
    ("occurrences/min-crash-point/2", "DEL", ("samples",)),
    ("occurrences/min-crash-point/2", "DEL", ("occurrences:min:2",)),
    ("occurrences/min-crash-point/2", "HSET", ("occurrences:min:2", "games:100", "many")),
    ("occurrences/min-crash-point/2", "HSET", ("samples", "games:100", "{")),
    (
        "occurrences/min-crash-point/2",
        "HSET",
        ("samples", "games:100", '{"total_games":1,"first_game_time":99999999999999999,"last_game_time":1}'),
    ),
    ("intervals/min-crash-point/2", "DEL", ("intervals:min:2",)),
    ("intervals/min-crash-point/2", "HSET", ("intervals:min:2", b"bucket_\xff", "{}")),
    ("intervals/min-crash-point/2", "HSET", ("intervals:min:2", "bucket_600", '{"count":1')),
    ("last-game/min-crash-point/2", "DEL", ("last_game:min:2",)),
    ("last-game/min-crash-point/2", "SET", ("last_game:min:2", "{}")),
    ("last-games/min-crash-point/2", "DEL", ("last_games:min:2",)),
    ("last-games/min-crash-point/2?limit=100", "LTRIM", ("last_games:min:2", "0", "50")),
    ("last-games/min-crash-point/2", "LSET", ("last_games:min:2", "0", b"\xff\xfe")),
]


@pytest.mark.parametrize("source", ["precomputed", "shadow"])
async def test_no_key_that_is_missing_or_spoiled_is_a_defect_of_the_answer(source: str, redis: RedisServer) -> None:
    flags = [f"--api.source_{name}={source}" for name in ("occurrences", "intervals", "last_games")]
    missing = "crashfold_api_%s{aggregate=%s}" % (
        ("precomputed_missing_total", '"%s"')
        if source == "precomputed"
        else ("shadow_comparisons_total", '"%s",outcome="missing"')
    )
    with api_server(redis.url, *flags) as server:
        async with server.client() as client, Redis.from_url(redis.url) as store:
            for number, (path, command, (name, *rest)) in enumerate(SPOILED):
                key = f"analytics:{name!s}"
                right = await store.dump(key)
                url = f"{ROOT}/{path}{'&' if '?' in path else '?'}by={source}{number}"
                expected = await client.get(url)
                await store.execute_command(command, key, *rest)  # type: ignore[no-untyped-call]
                try:
                    told = await client.get(f"{url}&again")
                finally:
                    await store.restore(key, 0, right, replace=True)  # type: ignore[arg-type]
                assert (told.status_code, told.content) == (200, expected.content), (command, name)
                assert told.headers["x-crashfold-source"] == "computed"
            metrics = await _metrics(client)
            for aggregate in ("occurrences", "intervals", "last_games"):
                spoiled = sum(path.partition("/")[0].startswith(aggregate[:4]) for path, _, _ in SPOILED)
                assert metrics[missing % aggregate] == spoiled
            assert "request_failed" not in server.log()


async def test_an_etag_names_the_commit_and_the_zone_and_spares_the_body(client: httpx.AsyncClient) -> None:
    for url in (f"{ROOT}/occurrences/min-crash-point/2", f"{ROOT}/occurrences/min-crash-point/2.71", "/api/games"):
        plain = (await client.get(url)).headers["etag"]
        assert plain.startswith('"g1-1-')
        for zone, etag in (("UTC", plain), ("Europe/Vienna", f'{plain[:-1]}-Europe/Vienna"')):
            headers = {"X-Timezone": zone}
            for _ in range(2):
                assert (await client.get(url, headers=headers)).headers["etag"] == etag
                for known in (etag, f'"x", W/{etag}', "*"):
                    told = await client.get(url, headers={**headers, "If-None-Match": known})
                    assert (told.status_code, told.content, told.headers["etag"]) == (304, b"", etag)
                    assert told.headers["vary"] == "X-Timezone, Accept-Encoding"
                commit = plain.split("-")[2]
                for other in ('"g1-2"', '"g1-1"', plain.replace(commit, commit[::-1]), plain.replace("1-", "2-")):
                    told = await client.get(url, headers={**headers, "If-None-Match": other})
                    assert told.status_code == 200


async def test_another_salt_or_other_predicates_have_other_tags(redis_url: str) -> None:
    """They make other answers of the same version."""
    await _fill(redis_url, [game(1, 2.0)])
    tags = set()
    others = ("--fairness.salt=other", "--fairness.variant=nine_digits", "--projections.min=[2, 3]")
    for flags in ([], *([flag] for flag in others)):
        with api_server(redis_url, *flags) as server:
            async with server.client() as client:
                tags.add((await client.get("/api/games")).headers["etag"])
    assert len(tags) == 4


async def test_each_game_has_the_salt_of_its_time_and_the_chance_is_that_of_the_next_one(redis_url: str) -> None:
    new = Rule("another-salt", "bustabit_v1", 5)
    await _fill(redis_url, [*chain_of_games(1, 5), *chain_of_games(2, 5, first_id=6, rule=new)])
    table = {"stream": "crash", "salt": new.salt, "variant": new.variant, "house_edge_percent": 5}
    answers = {}
    for from_game in (6, 11, 12):
        rules = f"--fairness.streams={json.dumps([{**table, 'from_game': from_game}])}"
        with api_server(redis_url, rules) as server:
            async with server.client() as client:
                games = (await client.get("/api/games?per_page=10")).json()["data"]
                fair = [one["gameId"] for one in games if one["calculatedPoint"] == one["crashPoint"]]
                chances = [
                    (await client.get(f"{ROOT}/last-game/min-crash-point/{value}")).json()["data"]["probability"]
                    for value in ("1", "1.01")  # one of them is kept by the engine, the other computed
                ]
                answers[from_game] = fair, [chance["value"] for chance in chances]
    assert answers[6] == ([str(id_) for id_ in range(10, 0, -1)], [100.0, 94.05])
    assert answers[11][0] == answers[12][0] == [str(id_) for id_ in range(5, 0, -1)]
    assert (answers[11][1], answers[12][1]) == ([100.0, 94.05], [100.0, 98.02])


async def test_answers_by_the_clock_have_no_etag_and_those_of_a_moment_have(client: httpx.AsyncClient) -> None:
    for path in (
        "occurrences/min-crash-point/2?by_time=true",
        "intervals/min-crash-point/2",
        "series/without-min-crash-point/2/time",
    ):
        told = await client.get(f"{ROOT}/{path}", headers={"If-None-Match": "*"})
        assert (told.status_code, told.headers.get("etag")) == (200, None)
        assert told.headers["cache-control"] == "no-store"
        at = "&at=" if "?" in path else "?at="
        told = await client.get(f"{ROOT}/{path}{at}2026-01-15T12:34:56Z")
        assert told.headers["etag"].startswith('"g1-1-')


async def test_post_answers_are_never_304(client: httpx.AsyncClient) -> None:
    path, body = BODIES[0]
    told = await client.post(f"{ROOT}/{path}", json=body, headers={"If-None-Match": "*"})
    assert (told.status_code, told.headers["etag"][:6]) == (200, '"g1-1-')


@pytest.mark.parametrize(
    ("method", "url", "status", "kind"),
    [
        ("GET", "/nothing", 404, "no-such-route"),
        ("GET", "/api", 404, "no-such-route"),
        ("GET", "/schema/nothing", 404, "no-such-route"),
        ("GET", f"{ROOT}/occurrences/min-crash-point/", 400, "malformed"),
        ("GET", f"{ROOT}/occurrences/min-crash-point/%2F", 400, "malformed"),
        ("GET", f"{ROOT}/occurrences/min-crash-point/nan", 400, "malformed"),
        ("GET", f"{ROOT}/occurrences/min-crash-point/0.5", 422, "out-of-bounds"),
        ("GET", "/api/games/9", 404, "not-found"),
        ("GET", "/api/games?stream=other", 404, "not-found"),
        ("GET", "/api/games?stream=no/stream", 400, "malformed"),
        ("GET", "/api/games?min_version=x", 400, "malformed"),
        ("PUT", "/api/games", 405, "method-not-allowed"),
        ("DELETE", f"{ROOT}/last-games/exact-floors", 405, "method-not-allowed"),
        ("POST", "/livez", 405, "method-not-allowed"),
        ("PATCH", "/", 405, "method-not-allowed"),
        ("GET", f"{ROOT}/last-games/exact-floors", 405, "method-not-allowed"),
        ("GET", "/ws", 426, "upgrade-required"),
        ("GET", "/api%2Fgames", 404, "no-such-route"),
        ("GET", "//api/games", 404, "no-such-route"),
        ("GET", "/api/games/?page=1", 400, "malformed"),
        ("GET", f"{ROOT}/occurrences/min-crash-point/2/", 404, "no-such-route"),
        ("GET", f"/api/games?{'x' * TARGET_BYTES_MAX}", 414, "target-too-long"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_every_error_is_a_problem(
    method: str, url: str, status: int, kind: str, client: httpx.AsyncClient
) -> None:
    told = await client.request(method, url)
    assert (told.status_code, told.headers["content-type"]) == (status, PROBLEM)
    assert told.json()["type"] == f"urn:crashfold:problem:{kind}"
    if status == 405:
        assert told.headers["allow"] == ("OPTIONS, POST" if "exact-floors" in url else "GET, HEAD, OPTIONS")


@pytest.mark.parametrize(
    ("method", "allowed"), [("POST", "GET, OPTIONS"), ("HEAD", "GET, OPTIONS"), ("DELETE", "GET, OPTIONS")]
)
async def test_the_stream_is_only_asked_for(method: str, allowed: str, client: httpx.AsyncClient) -> None:
    told = await client.request(method, "/api/stream")
    assert (told.status_code, told.headers["content-type"], told.headers["allow"]) == (405, PROBLEM, allowed)


@pytest.mark.parametrize(
    "url", [f"{ROOT}/occurrences/min-crash-point/2", "/api/games/1", "/api/games?page=0", "/", "/livez", "/docs"]
)
async def test_head_is_get_without_the_body(url: str, client: httpx.AsyncClient) -> None:
    for _ in range(2):
        told, whole = await client.head(url), await client.get(url)
        assert (told.status_code, told.content) == (whole.status_code, b"")
        differing = {"date", "x-crashfold-source"}
        assert {item for item in told.headers.items() if item[0] not in differing} == {
            item for item in whole.headers.items() if item[0] not in differing
        }
    etag = whole.headers.get("etag")
    if etag is not None:
        assert (await client.head(url, headers={"If-None-Match": etag})).status_code == 304


async def test_options_names_the_methods(client: httpx.AsyncClient) -> None:
    for url, allowed in (
        ("/api/games", "GET, HEAD, OPTIONS"),
        (f"{ROOT}/last-games/exact-floors", "OPTIONS, POST"),
        ("/api/stream", "GET, OPTIONS"),
    ):
        told = await client.options(url)
        assert (told.status_code, told.headers["allow"], told.content) == (204, allowed, b"")


async def test_needless_escapes_in_a_path_mean_the_same(client: httpx.AsyncClient) -> None:
    plain = await client.get(f"{ROOT}/last-game/min-crash-point/2.5")
    for path in ("/%61pi/analytics/last%2Dgame/min-crash-point/2%2e5", f"{ROOT}/last-game/min-crash-point/%32.%35"):
        assert (await client.get(path)).content == plain.content


async def test_a_body_or_headers_beyond_the_bounds_are_refused(client: httpx.AsyncClient) -> None:
    url = f"{ROOT}/last-games/min-crash-points"

    async def unannounced() -> AsyncIterator[bytes]:
        for _ in range(BODY_BYTES_MAX // 1024 + 1):
            yield b" " * 1024

    for body in (b" " * (BODY_BYTES_MAX + 1), unannounced()):
        told = await client.post(url, content=body)
        assert (told.status_code, told.headers["content-type"]) == (413, PROBLEM)
    told = await client.get("/api/games", headers={"X-Long": "x" * HEADERS_BYTES_MAX})
    assert (told.status_code, told.headers["content-type"]) == (431, PROBLEM)
    assert (await client.get("/api/games")).status_code == 200


async def test_every_answer_carries_the_security_headers(client: httpx.AsyncClient) -> None:
    for url in ("/api/games", "/nothing", "/livez", "/metrics", "/schema/openapi.json", "/docs", "/"):
        told = await client.get(url)
        assert told.headers["x-content-type-options"] == "nosniff"
        assert told.headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in told.headers["content-security-policy"]
        assert "unsafe" not in told.headers["content-security-policy"]
        assert "access-control-allow-origin" not in told.headers
        assert len(told.headers.get_list("content-security-policy")) == 1


async def test_the_reference_needs_no_other_host_and_describes_every_route(client: httpx.AsyncClient) -> None:
    described = (await client.get("/schema/openapi.json")).json()
    operations = [one for path in described["paths"].values() for one in path.values() if "responses" in one]
    assert len({one["operationId"] for one in operations}) == len(operations) >= 26
    for path, methods in described["paths"].items():
        for method, one in methods.items():
            if not path.startswith("/api/") or path == "/api/stream":
                continue
            assert {"200", "400", "404", "422", "500", "503"} <= one["responses"].keys(), path
            (media,) = one["responses"]["200"]["content"].values()
            assert next(iter(media["examples"].values()))["value"]["status"] == "success"
            assert (method == "post") == ("requestBody" in one)
    for url in ("/docs", "/docs/reference.js", "/docs/reference.css"):
        told = await client.get(url)
        assert told.status_code == 200
        assert "//" not in told.text.replace("// ", "")
        known = {"If-None-Match": told.headers["etag"]}
        assert (await client.get(url, headers=known)).status_code == 304


async def test_a_token_is_asked_for_and_never_written_down(redis: RedisServer) -> None:
    token = "0123456789abcdef-secret"
    with api_server(redis.url, f"--api.token={token}", "--log.level=debug") as server:
        async with server.client() as client:
            for url in ("/api/games", "/metrics", "/schema/openapi.json", "/nothing", "/api/stream"):
                for headers in (
                    {},
                    {"Authorization": "Bearer wrong"},
                    {"Authorization": f"Basic {token}"},
                    {"Authorization": "Bearer é"},
                    {"Authorization": f"Bearer {token}x"},
                ):
                    encoded = {name.encode(): value.encode() for name, value in headers.items()}
                    told = await client.get(url, headers=encoded)
                    assert (told.status_code, told.headers["content-type"]) == (401, PROBLEM)
                    assert told.headers["www-authenticate"].startswith("Bearer")
            for url in ("/livez", "/readyz", "/startupz", "/", "/docs"):
                assert (await client.get(url)).status_code == 200
            for _ in range(2):
                told = await client.get("/api/games", headers={"Authorization": f"bearer {token}"})
                assert told.status_code == 200
        assert token not in server.log()


async def test_clients_beyond_their_rate_wait(redis: RedisServer) -> None:
    with api_server(redis.url, "--api.rate_limit_per_minute=5") as server:
        async with server.client() as client:
            answers = [await client.get("/api/games") for _ in range(8)]
            statuses = [told.status_code for told in answers]
            assert statuses[:5] == [200] * 5
            assert statuses[-1] == 429
            assert answers[-1].headers["content-type"] == PROBLEM
            assert 1 <= int(answers[-1].headers["retry-after"]) <= 12
            assert (await client.get("/livez")).status_code == 200


async def test_only_allowed_hosts_and_origins_are_served(redis: RedisServer) -> None:
    flags = ['--api.allowed_hosts=["api.example", "127.0.0.1"]', '--api.cors_origins=["https://page.example"]']
    with api_server(redis.url, *flags) as server:
        async with server.client() as client:
            assert (await client.get("/api/games", headers={"Host": "API.example:8000"})).status_code == 200
            told = await client.get("/api/games", headers={"Host": "other.example"})
            assert (told.status_code, told.json()["type"]) == (400, "urn:crashfold:problem:host-not-allowed")
            assert (await client.get("/livez", headers={"Host": "10.0.0.7"})).status_code == 200
            told = await client.get("/api/games", headers={"Origin": "https://page.example"})
            assert told.headers["access-control-allow-origin"] == "https://page.example"
            assert "Origin" in told.headers.get_list("vary", split_commas=True)
            told = await client.get("/api/games", headers={"Origin": "https://evil.example"})
            assert "access-control-allow-origin" not in told.headers
            asked = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
            told = await client.options(f"{ROOT}/last-games/exact-floors", headers=asked)
            assert told.status_code == 204
            assert "POST" in told.headers["access-control-allow-methods"]
            assert "X-Timezone" in told.headers["access-control-allow-headers"]


async def test_requests_are_measured_by_route_status_and_source(client: httpx.AsyncClient) -> None:
    url = f"{ROOT}/last-game/exact-floor/10"
    requests = 'crashfold_api_requests_total{route="%s",source="%s",status="%s"}'
    mine = requests % (f"{ROOT}/last-game/exact-floor/{{value}}", "precomputed", 200)
    refused = requests % ("/api/games", "none", 422)
    before = await _metrics(client)
    for _ in range(3):
        await client.get(url)
    await client.get("/api/games?page=0")
    await client.get("/whatever/<script>")
    metrics = await _metrics(client)
    assert metrics[mine] == before.get(mine, 0) + 3
    assert metrics[refused] == before.get(refused, 0) + 1
    assert metrics['crashfold_api_cache_requests_total{cache="process",outcome="hit"}'] >= 2
    assert metrics['crashfold_api_window_version{stream="crash"}'] == 1
    assert 0 <= metrics['crashfold_api_window_age_seconds{stream="crash"}'] < 3
    assert 'crashfold_api_live_clients{transport="sse"}' in metrics
    assert not any("script" in name for name in metrics)


async def test_a_version_is_waited_for_and_given_up_after_five_seconds(each_redis_url: str) -> None:
    async with RedisStore(each_redis_url) as store:
        writer = Writer(store)
        await writer.commit([game(1, 2.0)])
        with api_server(each_redis_url) as server:
            async with server.client() as client, anyio.create_task_group() as tasks:
                told: dict[int, httpx.Response] = {}

                async def ask(version: int) -> None:
                    told[version] = await client.get(f"/api/games?min_version={version}")

                for version in (1, 2, 3, 9):
                    tasks.start_soon(ask, version)
                await _eventually(lambda: 1 in told)
                assert told.keys() == {1}
                await writer.commit([game(2, 3.0)])
                await writer.commit([game(3, 3.0)])
                await _eventually(lambda: {2, 3} <= told.keys())
                assert int(told[2].headers["x-crashfold-version"]) >= 2
                assert told[3].json()["pagination"]["total_items"] == 3
            assert (told[9].status_code, told[9].headers["retry-after"]) == (503, "1")


async def test_readers_see_one_version_an_answer_and_never_an_older_one_while_commits_go_on(
    each_redis_url: str,
) -> None:
    last = 120
    async with RedisStore(each_redis_url) as store:
        writer = Writer(store, ProjectionSettings(window_games=50, samples_games=(10, 50)))
        await writer.commit([game(1, 2.0)])
        flags = ["--projections.window_games=50", "--projections.samples_games=[10, 50]"]
        with api_server(each_redis_url, *flags) as server:
            done = anyio.Event()

            async def write() -> None:
                for number in range(2, last + 1):
                    # Every sixth game comes late, and two versions later the one that it was before.
                    await writer.commit([game(number, 2.0 if number % 3 else 1.0)])
                done.set()

            async def read(url: str, newest: Callable[[Any], int]) -> None:
                seen = 0
                async with server.client() as client:
                    while seen < last:
                        told = await client.get(url)
                        assert told.status_code == 200, told.text
                        version = int(told.headers["x-crashfold-version"])
                        assert version >= seen
                        seen = version
                        assert newest(told.json()["data"]) == version
                        assert told.headers["x-crashfold-source"] != "replica"

            with anyio.fail_after(60):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(read, f"{ROOT}/last-games/min-crash-point/1.001", _newest_but_thirds)
                    tasks.start_soon(read, "/api/games?per_page=1", lambda data: int(data[0]["gameId"]))
                    tasks.start_soon(read, f"{ROOT}/occurrences/min-crash-point/1.5?games=50", _of_fifty)
                    tasks.start_soon(read, f"{ROOT}/last-game/max-crash-point/10", _newest_last)
                    tasks.start_soon(write)
            assert done.is_set()


async def test_a_client_that_goes_from_one_process_to_another_and_says_what_it_knows_sees_nothing_older(
    each_redis_url: str,
) -> None:
    """By `If-None-Match`, as every client that keeps answers does; and by `min_version`, at once after a commit."""
    last = 150
    urls = (
        "/api/games?per_page=1",
        f"{ROOT}/occurrences/min-crash-point/1.5",
        f"{ROOT}/series/without-min-crash-point/9",
    )
    async with RedisStore(each_redis_url) as store:
        writer = Writer(store)
        await writer.commit([game(1, 2.0)])
        with api_server(each_redis_url) as one, api_server(each_redis_url) as other:

            async def hop(url: str) -> None:
                seen, etag = 0, '"none"'
                async with one.client() as first, other.client() as second:
                    while seen < last:
                        for client in (first, second):
                            told = await client.get(url, headers={"If-None-Match": etag})
                            assert told.status_code in (200, 304)
                            assert int(told.headers["x-crashfold-version"]) >= seen
                            seen, etag = int(told.headers["x-crashfold-version"]), told.headers["etag"]

            async def write() -> None:
                async with one.client() as first, other.client() as second:
                    for number in range(2, last + 1):
                        version = await writer.commit([game(number, 2.0)])
                        for client in (first, second):
                            told = await client.get(f"/api/games?per_page=1&min_version={version}")
                            assert told.json()["data"][0]["gameId"] == str(version)

            with anyio.fail_after(60):
                async with anyio.create_task_group() as tasks:
                    for url in urls:
                        tasks.start_soon(hop, url)
                    tasks.start_soon(write)


def _newest_last(data: Any) -> int:
    assert data["games_since"] == 0
    return int(data["game"]["gameId"])


def _newest_but_thirds(data: Any) -> int:
    newest = int(data["games"][0]["gameId"])
    return newest if newest % 3 != 2 else _AMBIGUOUS


def _of_fifty(data: Any) -> int:
    return _AMBIGUOUS


class _Any(int):
    """Equal to every version: what an answer does not tell."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


_AMBIGUOUS = _Any()


async def test_late_games_take_their_place(each_redis_url: str) -> None:
    async with RedisStore(each_redis_url) as store:
        writer = Writer(store)
        await writer.commit([game(number, 2.0) for number in (1, 2, 4, 5)])
        with api_server(each_redis_url) as server:
            async with server.client() as client:
                version = await writer.commit([game(3, 2.0), game(6, 2.0)])
                told = await client.get(f"/api/games?min_version={version}")
                assert [shown["gameId"] for shown in told.json()["data"]] == ["6", "5", "4", "3", "2", "1"]


async def test_the_only_stream_is_known_before_its_first_game(each_redis_url: str) -> None:
    with api_server(each_redis_url) as server:
        async with server.client() as client, RedisStore(each_redis_url) as store:
            told = await client.get("/api/games")
            assert (told.status_code, told.json()["data"]) == (200, [])
            assert (told.headers["x-crashfold-version"], told.headers.get("etag")) == ("0", None)
            told = await client.get(f"{ROOT}/occurrences/min-crash-point/2")
            assert told.json()["data"]["occurrences"]["total_games"] == 0
            assert (await client.get(f"{ROOT}/last-game/min-crash-point/2")).status_code == 404
            await Writer(store).commit([game(1, 2.0)])
            told = await client.get("/api/games?min_version=1")
            assert told.json()["count"] == 1


async def test_many_streams_are_told_apart(each_redis_url: str) -> None:
    prefix = "p:{stream}"
    async with RedisStore(each_redis_url, key_prefix=prefix) as store:
        for number, stream in enumerate(("crash", "b.2"), 1):
            await Writer(store, stream=stream).commit([game(number, 2.0)])
        with api_server(each_redis_url, f"--redis.key_prefix={prefix}") as server:
            async with server.client() as client:
                for _ in range(2):
                    for query, expected in (("", "1"), ("?stream=crash", "1"), ("?stream=b.2", "2")):
                        told = await client.get(f"/api/games{query}")
                        assert [shown["gameId"] for shown in told.json()["data"]] == [expected]
                    assert (await client.get("/api/games?stream=c")).status_code == 404


async def test_a_rebuilt_generation_is_followed(each_redis_url: str) -> None:
    async with RedisStore(each_redis_url) as store:
        writer = Writer(store)
        await writer.commit([game(1, 2.0), game(2, 1.0)])
        with api_server(each_redis_url) as server:
            async with server.client() as client:
                assert (await client.get("/api/games")).headers["etag"].startswith('"g1-1-')
                shadow = Writer(store.shadow(), generation="g2")
                await shadow.commit([game(1, 3.0), game(2, 1.0)])
                await store.shadow().promote("crash")
                told = await client.get("/api/games?min_version=2")
                assert told.headers["etag"].startswith('"g2-2-')
                assert [shown["crashPoint"] for shown in told.json()["data"]] == [1.0, 3.0]


async def test_what_lies_before_the_window_is_still_known(each_redis_url: str) -> None:
    """A window of ten games: series keep their true start, and rare matches are remembered, computed or not."""
    sizes = {"window_games": 10, "samples_games": (5,)}
    games = [game(1, 50.0), game(2, 1.0), *(game(number, 1.2) for number in range(3, 31))]
    await _fill(each_redis_url, games, **sizes)
    flags = ["--projections.window_games=10", "--projections.samples_games=[5]"]
    for source in ("precomputed", "computed"):
        more = [f"--api.source_{name}={source}" for name in ("series", "last_games")]
        with api_server(each_redis_url, *flags, *more) as server:
            async with server.client() as client:
                told = (await client.get(f"{ROOT}/last-game/min-crash-point/50")).json()["data"]
                assert (told["game"]["gameId"], told["games_since"]) == ("1", 29)
                told = (await client.get(f"{ROOT}/last-games/min-crash-point/50")).json()["data"]
                assert [one["gameId"] for one in told["games"]] == ["1"]
                told = (await client.get(f"{ROOT}/series/without-min-crash-point/50?limit=10")).json()["data"]
                (open_series,) = told["series"]
                assert (open_series["start_game_id"], open_series["length"]) == ("2", 29)
                assert (await client.get(f"{ROOT}/last-game/min-crash-point/1000")).status_code == 404


async def test_it_stops_in_order_and_in_time(each_redis_url: str) -> None:
    with api_server(each_redis_url) as server:
        async with server.client() as client:
            assert (await client.get("/readyz")).status_code == 200
            code, took_s = await anyio.to_thread.run_sync(server.terminate)
    assert code == 0
    assert took_s < 10


@pytest.mark.usefixtures("many_files")
async def test_a_thousand_streams_do_not_keep_it_from_stopping(each_redis_url: str) -> None:
    """Started with the few open files that systems allow at first; none of the clients reads what comes."""
    clients = 1_000
    async with RedisStore(each_redis_url) as store:
        writer = Writer(store)
        await writer.commit([game(number, 2.0) for number in range(1, 101)])
        with api_server(each_redis_url, open_files=1_024) as server:
            open_sockets = [await _asking_for_the_stream(server.port) for _ in range(clients)]
            async with server.client() as client:
                connected = 'crashfold_api_live_clients{transport="sse"}'

                async def all_there() -> bool:
                    return (await _metrics(client))[connected] == clients

                await _eventually(all_there)
                for number in range(101, 111):
                    await writer.commit([game(number, 2.0)])
                told = await client.get("/api/games?min_version=11")
                assert told.json()["pagination"]["total_items"] == 110
                code, took_s = await anyio.to_thread.run_sync(server.terminate)
            for sock in open_sockets:
                sock.close()
    assert code == 0
    assert took_s < 10


async def test_there_are_as_many_places_for_live_clients_as_the_setting_says(redis: RedisServer) -> None:
    with api_server(redis.url, "--api.live_clients_max=0") as server:
        async with server.client() as client:
            told = await client.get("/api/stream")
            assert (told.status_code, told.headers["content-type"]) == (503, PROBLEM)
            assert (await client.get("/api/games")).status_code == 200
            refused = 'crashfold_api_live_clients_refused_total{transport="sse"}'
            assert (await _metrics(client))[refused] == 1
        assert "files_allowed" in server.log()
    with api_server(redis.url, "--api.live_clients_max=60000", open_files=1_024) as server:
        assert ("files_too_few" in server.log()) == (resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 60_000)


@pytest.fixture
def many_files() -> Iterator[None]:
    """As many open files as a thousand clients need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4_096, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _asking_for_the_stream(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.setblocking(False)
    sock.connect_ex(("127.0.0.1", port))
    await anyio.wait_writable(sock)
    sock.send(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return sock


def test_a_port_that_is_taken_is_named(server: ApiServer, redis: RedisServer) -> None:
    done = subprocess.run(serve_command(redis.url, server.port), capture_output=True, text=True, timeout=30)
    assert done.returncode == 78
    assert "api.port" in done.stderr


async def test_several_processes_on_one_port_agree_and_end_together(each_redis_url: str) -> None:
    async with RedisStore(each_redis_url) as store:
        writer = Writer(store)
        await writer.commit([game(1, 2.0)])
        with api_server(each_redis_url, "--api.workers=2") as server:
            for number in range(2, 12):
                version = await writer.commit([game(number, 2.0)])
                workers: set[str] = set()

                async def ask(version: int = version, workers: set[str] = workers) -> None:
                    async with server.client() as client:  # a connection of its own, so either process may answer
                        told = await client.get(f"/api/games?min_version={version}")
                        assert told.json()["data"][0]["gameId"] == str(version)
                        again = await client.get("/api/games")
                        assert int(again.headers["x-crashfold-version"]) >= version
                        lines = (await client.get("/metrics")).text.splitlines()
                        workers.update(line for line in lines if line.startswith("crashfold_api_build_info"))

                async with anyio.create_task_group() as tasks:
                    for _ in range(12):
                        tasks.start_soon(ask)
            assert len(workers) == 2
            code, took_s = await anyio.to_thread.run_sync(server.terminate)
        assert code == 0, server.log()
        assert took_s < 10


def test_workers_end_when_their_parent_is_killed(redis_url: str) -> None:
    with api_server(redis_url, "--api.workers=2") as server:
        pids = [int(pid) for pid in _children(server.process.pid)]
        assert len(pids) == 2
        server.process.kill()
        eventually(lambda: not any(map(is_running, pids)), "they have ended")


def test_what_a_worker_refuses_ends_them_all_with_its_exit_code(redis_url: str) -> None:
    by_token = ["--kafka.sasl_mechanism=OAUTHBEARER", "--kafka.sasl_oauth_token_provider=nowhere:token"]
    command = serve_command(redis_url, 0, "--api.workers=2", *by_token)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78, done.stderr
    assert "kafka.sasl_oauth_token_provider" in done.stderr


async def test_a_scrape_counts_for_all_processes_and_never_goes_back(redis_url: str) -> None:
    async with RedisStore(redis_url) as store:
        await Writer(store).commit([game(1, 2.0)])
    asked, seen = 0, [0.0]

    async def ask(times: int) -> None:
        nonlocal asked
        for _ in range(times):
            async with server.client() as client:
                assert (await client.get("/api/games/1")).status_code == 200
        asked += times

    async def scraped() -> dict[str, float]:
        try:
            async with server.client() as client:
                told = await _metrics(client)
        except httpx.TransportError:  # the connection was with the one that was killed
            return {}
        count = sum(value for name, value in told.items() if name.startswith(counted))
        assert count >= seen[-1]
        seen.append(count)
        return told

    async def until(condition: Callable[[dict[str, float]], bool]) -> dict[str, float]:
        with anyio.fail_after(30):
            while not condition(told := await scraped()):
                await anyio.sleep(0.05)
        return told

    counted = 'crashfold_api_requests_total{route="/api/games/{game_id}"'
    started = 'process_start_time_seconds{worker="1"}'
    with api_server(redis_url, "--api.workers=2") as server:
        await ask(20)
        first = await until(lambda told: seen[-1] == asked and told.keys() > {started})
        log = (json.loads(line) for line in server.log().splitlines() if line.startswith("{"))
        assert {line["worker"] for line in log if line["event"] == "api_listens"} == {0, 1}
        os.kill(int(_children(server.process.pid)[1]), signal.SIGKILL)
        await until(lambda told: told.get(started, first[started]) != first[started])
        await ask(20)
        await until(lambda _: seen[-1] == asked)


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


async def _metrics(client: httpx.AsyncClient) -> dict[str, float]:
    lines = (await client.get("/metrics")).text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


async def _eventually(condition: Callable[[], Any]) -> None:
    with anyio.fail_after(DEADLINE_S):
        while True:
            found = condition()
            if found if isinstance(found, bool) else await found:
                return
            await anyio.sleep(0.02)
