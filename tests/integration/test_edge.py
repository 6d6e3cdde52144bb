"""The edge on real servers: whose request it is, how much may wait, in which form answers go, and what proxies see."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, suppress
from itertools import chain
from typing import Final

import anyio
import cramjam
import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.http.codings import Codings
from crashfold.engine.http.page import file_reply
from tests.conftest import enter
from tests.support import servers
from tests.support.api_server import ApiServer, Writer, api_server
from tests.support.games import sample_games
from tests.support.servers import RedisServer

ROOT: Final = "/api/analytics"
PROBLEM: Final = "application/problem+json"
BIG: Final = f"{ROOT}/last-games/min-crash-point/1?limit=20000"
DECODED: Final = {"zstd": cramjam.zstd.decompress, "br": cramjam.brotli.decompress, "gzip": cramjam.gzip.decompress}


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with ExitStack() as stack:
        server = enter(stack, servers.redis_server())
        anyio.run(_fill, server.url)
        yield server


async def _fill(url: str) -> None:
    async with RedisStore(url) as store:
        await Writer(store).commit(sample_games())


@pytest.fixture(scope="module")
def server(redis: RedisServer) -> Iterator[ApiServer]:
    """One behind proxies, with a prefix and a limit that only the tests of it reach."""
    flags = ['--api.trusted_proxies=["127.0.0.1", "10.0.0.0/8", "2001:db8::/32"]', "--api.root_path=/crash"]
    with api_server(redis.url, *flags, "--api.rate_limit_per_minute=1000", "--api.unsent_bytes_max=8388608") as server:
        yield server


async def raw(server: ApiServer, request: bytes) -> bytes:
    """What comes back until the server closes."""
    async with await anyio.connect_tcp("127.0.0.1", server.port) as stream:
        await stream.send(request)
        told = b""
        with suppress(anyio.EndOfStream):
            while True:
                told += await stream.receive()
        return told


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        (None, None),
        ("", None),
        ("identity", None),
        ("gzip", "gzip"),
        ("gzip, br, zstd", "zstd"),
        ("gzip;q=1, br;q=0.9, zstd;q=0.8", "gzip"),
        ("gzip;q=0, *", "zstd"),
        ("*;q=0.5, zstd;q=0", "br"),
        ("GZIP ; Q=0.5", "gzip"),
        ("x-gzip", "gzip"),
        ("deflate", None),
        ("gzip;q=0.5, identity", None),
        ("gzip;q=nonsense", None),
        ("identity;q=0, br", "br"),
    ],
)
@pytest.mark.parametrize("path", ["/api/games?per_page=100", "/schema/openapi.json", "/", "/metrics"])
async def test_an_answer_goes_in_the_form_that_the_client_wants(
    path: str, accept: str | None, coding: str | None, server: ApiServer
) -> None:
    if path == "/" and coding == "zstd":
        coding = "br"  # among equals a file goes in its smallest form, an answer in the one that is quickest to make
    # Two lines of a field are one list.
    fields = [] if accept is None else [f"Accept-Encoding: {part}" for part in accept.split(", ")]
    request = "\r\n".join([f"GET {path} HTTP/1.1", "Host: a", "Connection: close", *fields, "", ""]).encode()
    head, _, body = (await raw(server, request)).partition(b"\r\n\r\n")
    plain = (await raw(server, f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())).partition(
        b"\r\n\r\n"
    )[2]
    headers = httpx.Headers(
        [(name, value) for name, _, value in (line.partition(b": ") for line in head.split(b"\r\n")[1:])]
    )
    assert head.startswith(b"HTTP/1.1 200 ")
    assert headers.get("content-encoding") == coding
    assert "Accept-Encoding" in headers["vary"]
    assert int(headers["content-length"]) == len(body)
    decoded = body if coding is None else bytes(DECODED[coding](body))
    if path != "/metrics":
        assert decoded == plain
    if coding is not None:
        assert len(body) < len(decoded)


async def test_a_form_that_the_client_has_is_not_made_again() -> None:
    codings, reply = Codings(), file_reply("/page/a.js", b"a" * 2_000, "text/javascript")
    told = await codings.coded(reply, "br")
    assert told.etag is not None
    again = file_reply("/page/a.js", b"a" * 2_000, "text/javascript")
    known = await codings.coded(again, "br", told.etag.decode())
    assert (known.status, known.etag, known.body, again.coded) == (304, told.etag, b"", {})
    assert (await codings.coded(again, "gzip", told.etag.decode())).status == 200


async def test_each_form_has_a_tag_of_its_own_and_what_is_known_is_not_sent(server: ApiServer) -> None:
    tags = set()
    async with server.client() as client:
        for coding in ("identity", "gzip", "br", "zstd"):
            asked = {"Accept-Encoding": coding}
            for path in ("/api/games?per_page=100", "/page/page.js"):
                told = await client.get(path, headers=asked)
                tag = told.headers["etag"]
                tags.add(tag)
                for method in ("GET", "HEAD"):
                    known = await client.request(
                        method,
                        path,
                        headers=[*asked.items(), ("If-None-Match", '"x", "y"'), ("If-None-Match", f"W/{tag}")],
                    )
                    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", tag)
                    assert "Accept-Encoding" in known.headers["vary"]
                    assert "content-encoding" not in known.headers
                head = await client.head(path, headers=asked)
                assert head.headers["content-length"] == told.headers["content-length"]
                assert head.headers.get("content-encoding") == told.headers.get("content-encoding")
        assert len(tags) == 8
        small = await client.get("/api/games?per_page=1", headers={"Accept-Encoding": "gzip"})
        assert "content-encoding" not in small.headers
        forced = await client.get("/api/games?per_page=1", headers={"Accept-Encoding": "identity;q=0, gzip"})
        assert forced.headers["content-encoding"] == "gzip"
        assert forced.json()["count"] == 1
        refused = await client.get("/api/games", headers={"Accept-Encoding": "*;q=0"})
        assert (refused.status_code, refused.headers["content-type"]) == (406, PROBLEM)
        fault = await client.get("/api/games?page=0", headers={"If-None-Match": "*", "Accept-Encoding": "identity;q=0"})
        assert fault.status_code == 422


@pytest.mark.parametrize("prefix", ["", "/crash"])
async def test_everything_is_there_below_the_prefix_whether_a_proxy_takes_it_off_or_not(
    prefix: str, server: ApiServer
) -> None:
    async with server.client() as client:
        for path in ("/", "/page/page.js", "/docs", "/docs/reference.js", "/api/games", "/livez", "/metrics"):
            assert (await client.get(prefix + path)).status_code == 200, path
        described = (await client.get(f"{prefix}/schema/openapi.json")).json()
        assert described["servers"] == [{"url": "/crash/"}]
        async with client.stream("GET", f"{prefix}/api/stream") as stream:
            assert stream.status_code == 200
        for path in ("/", "/docs"):
            text = (await client.get(prefix + path)).text
            assert 'src="/' not in text
            assert 'href="/' not in text
    async with connect(f"ws://127.0.0.1:{server.port}{prefix}/ws", proxy=None) as socket:
        assert json.loads(await socket.recv()) == {"type": "connection_established"}


async def test_the_prefix_alone_leads_to_the_page(server: ApiServer) -> None:
    async with server.client() as client:
        told = await client.get("/crash")
        assert (told.status_code, told.headers["location"]) == (308, "/crash/")
        asked = await client.get("/crash?stream=bitcoin&tz=%2B02:00")
        assert (asked.status_code, asked.headers["location"]) == (308, "/crash/?stream=bitcoin&tz=%2B02:00")
        assert (await client.get("/crashed")).status_code == 404
        assert (await client.get("/crash/crash/livez")).status_code == 404


@pytest.mark.parametrize(
    "path", ["/%61pi/games", "/api/%67ames", "/%70age/page.js", "/%64ocs", "/crash/%61pi/games", "/%63rash/api/games"]
)
async def test_an_escaped_name_is_the_name(path: str, server: ApiServer) -> None:
    async with server.client() as client:
        assert (await client.get(path)).status_code == 200


async def test_an_escaped_parameter_is_the_parameter_and_an_escaped_slash_no_separator(server: ApiServer) -> None:
    async with server.client() as client:
        for query in ("str%65am=other", "stream=oth%65r", "%73tream=other"):
            for path in ("/api/games", f"{ROOT}/occurrences/min-crash-point/2", "/api/stream"):
                assert (await client.get(path)).status_code == 200 if path != "/api/stream" else True
                assert (await client.get(f"{path}?{query}")).status_code == 404, (path, query)
        assert (await client.get("/api/games?stream=a%2Fb")).status_code == 400
        for path in ("/docs%2Freference.js", "/api%2Fstream", "/api%2Fgames", "/%2Fws"):
            assert (await client.get(path)).status_code == 404, path


@pytest.mark.parametrize("path", ["/", "/docs", "/livez", "/metrics", "/api/games", "/page/page.js"])
async def test_every_path_says_which_methods_it_answers(path: str, server: ApiServer) -> None:
    async with server.client() as client:
        for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"):
            told = await client.request(method, path)
            assert (told.status_code, told.headers["content-type"]) == (405, PROBLEM), method
            assert told.headers["allow"] == "GET, HEAD, OPTIONS"
        told = await client.options(path)
        assert (told.status_code, told.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
        everything = await raw(server, b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert b"allow: GET, HEAD, OPTIONS, POST\r\n" in everything


async def test_a_compressed_body_is_not_understood(server: ApiServer) -> None:
    async with server.client() as client:
        body = bytes(cramjam.gzip.compress(b'{"values":[2]}'))
        told = await client.post(
            f"{ROOT}/last-games/min-crash-points", content=body, headers={"Content-Encoding": "gzip"}
        )
        assert (told.status_code, told.headers["content-type"]) == (415, PROBLEM)


async def test_whoever_is_refused_the_websocket_is_told_why(server: ApiServer) -> None:
    async def asked(path: str, *fields: str) -> bytes:
        lines = [f"GET {path} HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: websocket", *fields, "", ""]
        return await raw(server, "\r\n".join(lines).encode())

    key, version = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version: 13"
    for told, status in (
        (await asked("/ws", version), 400),
        (await asked("/ws", key), 426),
        (await asked("/ws", key, "Sec-WebSocket-Version: 8"), 426),
        (await asked("/ws", "Sec-WebSocket-Key: short", version), 400),
        (await asked("/other", key, version), 404),
        (await asked("/api/games", key, version), 404),
        (await asked("/ws?stream=other", key, version), 404),
        (await asked("/ws?stream=a%2Fb", key, version), 400),
        (await asked("/ws?tz=Nowhere", key, version), 400),
        (await asked("/ws", key, version, "Origin: https://evil.example"), 400),
        (await asked("/ws?" + "x" * 9_000, key, version), 414),
        (await asked("/ws", key, version, "X: " + "x" * 9_000), 431),
        (await asked("/ws", key, version, *[f"X{n}: 1" for n in range(200)]), 431),
    ):
        head, _, body = told.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status), head
        assert b"content-type: application/problem+json" in head.lower()
        assert json.loads(body)["status"] == status


async def test_the_client_behind_proxies_is_the_last_address_that_is_none_of_them(redis: RedisServer) -> None:
    flags = ('--api.trusted_proxies=["127.0.0.1", "10.0.0.0/8", "2001:db8::/32"]', "--api.rate_limit_per_minute=4")
    with api_server(redis.url, *flags) as server:
        await _the_client_is_found(server)


async def _the_client_is_found(server: ApiServer) -> None:
    async with server.client() as client:
        for _ in range(4):
            await client.get("/none", headers={"X-Forwarded-For": "198.51.100.7"})
        for forwarded in (
            ["198.51.100.7"],
            ["203.0.113.5, 198.51.100.7"],
            ["203.0.113.5", "198.51.100.7"],
            ["198.51.100.7, 10.1.2.3, [2001:db8::1]:443"],
            ["198.51.100.7:4711"],
            ['"198.51.100.7"', "10.0.0.1:80"],
            ["::ffff:198.51.100.7"],
            ["nonsense, 198.51.100.7"],
        ):
            told = await client.get("/none", headers=[("X-Forwarded-For", value) for value in forwarded])
            assert told.status_code == 429, forwarded
            assert 1 <= int(told.headers["retry-after"]) <= 60
        for forwarded in (
            ["203.0.113.5"],
            ["198.51.100.7, 203.0.113.5"],
            ["198.51.100.7, 2a00::1"],
            ["198.51.100.7, nonsense"],
            ["198.51.100.7, 203.0.113.5, 10.0.0.1"],
            [""],
        ):
            told = await client.get("/none", headers=[("X-Forwarded-For", value) for value in forwarded])
            assert told.status_code == 404, forwarded


async def test_a_limit_counts_over_all_processes_and_each_counts_alone_without_the_store() -> None:
    with ExitStack() as stack:
        store = enter(stack, servers.redis_server())
        await _fill(store.url)
        flags = ("--api.rate_limit_per_minute=6",)
        one, other = (stack.enter_context(api_server(store.url, *flags)) for _ in range(2))
        async with one.client() as first, other.client() as second:
            statuses = [(await client.get("/api/games")).status_code for client in chain(*[(first, second)] * 5)]
            assert statuses[:6] == [200] * 6
            assert statuses[-1] == 429
            await anyio.to_thread.run_sync(store.kill)
            # What Redis counted is not known any more.
            alone = [(await client.get("/api/games")).status_code for client in (first, second)]
            assert alone == [200, 200]
            assert one.log().count("rate_limit_is_kept_alone") == 1


async def test_one_client_leaves_places_for_live_clients_to_others(redis: RedisServer) -> None:
    with api_server(redis.url, "--api.trusted_proxies=127.0.0.1", "--api.live_clients_max=4") as server:
        async with server.client() as client, AsyncExitStack() as stack:

            async def comes(address: str) -> int:
                stream = client.stream("GET", "/api/stream", headers={"X-Forwarded-For": address})
                return (await stack.enter_async_context(stream)).status_code

            assert [await comes("198.51.100.7") for _ in range(4)] == [200, 200, 200, 503]
            assert [await comes("203.0.113.5") for _ in range(2)] == [200, 503]


async def test_who_is_not_trusted_names_nobody(redis: RedisServer) -> None:
    with api_server(redis.url, "--api.rate_limit_per_minute=3", "--log.level=debug") as server:
        async with server.client() as client:
            for number in range(4):
                told = await client.get("/none", headers={"X-Forwarded-For": f"198.51.100.{number}"})
            assert told.status_code == 429
        assert "198.51.100" not in server.log()


async def test_the_bytes_that_wait_for_their_readers_have_a_bound(server: ApiServer) -> None:
    request = f"GET {BIG} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    async with server.client(headers={"Accept-Encoding": "identity"}) as client:
        size = len((await client.get(BIG)).content)
        assert 2 << 20 < size < 8 << 20
        with ExitStack() as stack:
            for _ in range(8 << 20):
                sock = stack.enter_context(socket.socket())
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.connect(("127.0.0.1", server.port))
                sock.sendall(request)
                told = await client.get(BIG)
                if told.status_code == 503:
                    break
                assert told.status_code == 200
            assert (told.headers["content-type"], told.headers["retry-after"]) == (PROBLEM, "2")
            # Small answers go on.
            assert (await client.get("/api/games")).status_code == 200
        while (await client.get(BIG)).status_code != 200:
            await asyncio.sleep(0.01)


async def test_no_client_fills_the_log(redis: RedisServer) -> None:
    with api_server(redis.url) as server:
        before = server.log()
        async with server.client() as client:
            for path in (
                "/none",
                "/api/games?page=0",
                "/api/games?page=x",
                "/%00",
                "/ws",
                f"{ROOT}/last-game/exact-floor/1_0",
            ):
                for method in ("GET", "POST", "DELETE"):
                    await client.request(method, path)
            await client.post("/api/games", content=b"x" * 100_000)
        for request in (
            b"no request\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n",
            b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100_000,
        ):
            await raw(server, request)
        for path in ("/ws?stream=other", "/other"):
            with pytest.raises(InvalidStatus):
                async with connect(f"ws://127.0.0.1:{server.port}{path}", proxy=None):
                    pass
        async with connect(f"ws://127.0.0.1:{server.port}/ws", proxy=None) as socket_:
            await socket_.recv()
            socket_.transport.write(b"\xff\xff\xff\xff no frame")
            await socket_.wait_closed()
        async with connect(f"ws://127.0.0.1:{server.port}/ws", proxy=None) as socket_:
            await socket_.recv()
            socket_.transport.write(b"\x81\x82\0\0\0\0\xff\xff")  # a text that is no UTF-8
            await socket_.wait_closed()
        assert server.log() == before


NGINX: Final = """
upstream api {{ server 127.0.0.1:{one}; server 127.0.0.1:{other}; keepalive 8; }}
server {{
    listen {{port}};
    client_max_body_size 64m;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    location /crash/ {{ proxy_pass http://api/; }}
    location / {{ proxy_pass http://api; {buffering} }}
}}
"""


@pytest.mark.fault(
    "Behind nginx: bodies that are too large",
    user="413 for the sender, nothing for others",
    operator="nothing",
)
@pytest.mark.parametrize("buffering", ["", "proxy_request_buffering off;"])
async def test_behind_nginx_nobody_pays_for_bodies_that_are_too_large(buffering: str, redis: RedisServer) -> None:
    with ExitStack() as stack:
        flags = ('--api.trusted_proxies=["127.0.0.1"]', "--api.root_path=/crash")
        one, other = (stack.enter_context(api_server(redis.url, *flags)) for _ in range(2))
        proxy = enter(stack, servers.nginx(NGINX.format(one=one.port, other=other.port, buffering=buffering)))
        url = f"http://{proxy.address}"
        limits = httpx.Limits(max_connections=40)
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20, limits=limits) as client:
            posted, got = [], []

            async def post(size: int) -> None:
                told = await client.post(f"{ROOT}/last-games/min-crash-points", content=bytes(size))
                posted.append(told.status_code)

            async def get() -> None:
                for path in ("/api/games", "/crash/api/games", f"{ROOT}/last-game/min-crash-point/2") * 10:
                    got.append((await client.get(path)).status_code)

            async with anyio.create_task_group() as tasks:
                for number in range(60):
                    tasks.start_soon(post, (100_000, 1_000_000, 8_000_000)[number % 3])
                for _ in range(8):
                    tasks.start_soon(get)
            assert set(got) == {200}
            assert set(posted) == {413}
            for path in ("/crash/", "/crash/docs", "/docs", "/"):
                assert (await client.get(path)).status_code == 200
