"""HTTP/1.1 over real sockets, with an application that says what it was asked: RFC 9110 and 9112, and clients that do
what they should not."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import anyio
import anyio.abc
import pytest

from crashfold.engine.http.http11 import PIPELINED_MAX
from crashfold.engine.http.places import ConnectionBounds
from tests.support.live import DEADLINE_S, HOST, SMALL_BUFFER, Running, ToldFollower, eventually, serving

SOON_S: Final = 0.2
BIG: Final = bytes(8 << 20)


async def tell(scope: Any, receive: Any, send: Any) -> None:
    """An application that says what it was asked; `/refuse` does so without reading, `/endless` never ends."""
    if scope["type"] == "lifespan":
        return
    body = b""
    if scope["method"] == "POST" and scope["path"] != "/refuse":
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
    if scope["path"] == "/endless":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await receive()
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    told = {
        "path": scope["path"],
        "query": scope["query_string"].decode(),
        "headers": [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]],
        "body": body.decode("latin-1"),
    }
    content = BIG if scope["path"] == "/big" else json.dumps(told).encode()
    headers = [(b"content-length", b"%d" % len(content))] if scope["path"] != "/unknown-length" else []
    status = 413 if scope["path"] == "/refuse" else 200
    if status == 413:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


@asynccontextmanager
async def running(**bounds: Any) -> AsyncIterator[Running]:
    with anyio.fail_after(DEADLINE_S):
        async with serving(ToldFollower(), bounds=ConnectionBounds(look_s=0.02, **bounds), app=tell) as server:
            yield server


async def answer(server: Running, *parts: bytes, ends: bool = False) -> bytes:
    """What comes back until the server closes the connection. `ends`: the client says that it sends nothing more."""
    async with await anyio.connect_tcp(HOST, server.port) as stream:
        for part in parts:
            await stream.send(part)
        if ends:
            await stream.send_eof()
        return await rest(stream)


async def rest(stream: anyio.abc.ByteReceiveStream) -> bytes:
    """What comes until the end; a reset is none."""
    told = b""
    while True:
        try:
            told += await stream.receive()
        except anyio.EndOfStream:
            return told


async def send_until_closed(stream: anyio.abc.ByteStream, part: bytes, pause_s: float = 0.005) -> None:
    with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
        while True:
            await stream.send(part)
            await anyio.sleep(pause_s)


def get(target: str, *fields: str, version: str = "1.1", last: bool = True, method: str = "GET") -> bytes:
    lines = [f"{method} {target} HTTP/{version}", "Host: localhost", *fields, *["Connection: close"] * last, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def post(body: bytes, *fields: str, target: str = "/", last: bool = True) -> bytes:
    return get(target, *fields, last=last, method="POST") + body


def said(told: bytes) -> Any:
    return json.loads(told.partition(b"\r\n\r\n")[2])


def statuses(told: bytes) -> list[int]:
    return [int(part[:3]) for part in told.split(b"HTTP/1.1 ")[1:]]


async def test_blanks_around_a_value_are_no_part_of_it() -> None:
    async with running() as server:
        headers = said(await answer(server, get("/", "X-Timezone: \t Europe/Vienna \t", "X-Empty:   ")))["headers"]
        assert ["x-timezone", "Europe/Vienna"] in headers
        assert ["x-empty", ""] in headers


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/a%2Fb?x=%zz", "/a/b", "x=%zz"),
        ("/%", "/%", ""),
        ("/%00%ff", "/\0\ufffd", ""),
        ("http://elsewhere:81/a?b", "/a", "b"),
        ("HTTP://elsewhere", "/", ""),
        ("http://elsewhere?b", "/", "b"),
        ("//a//b", "//a//b", ""),
    ],
)
async def test_every_form_of_a_target_is_understood(target: str, path: str, query: str) -> None:
    async with running() as server:
        told = said(await answer(server, get(target)))
        assert (told["path"], told["query"]) == (path, query)
        if "elsewhere" in target:
            assert dict(told["headers"])["host"].startswith("elsewhere")


async def test_the_target_of_all_is_for_options_alone() -> None:
    async with running() as server:
        assert said(await answer(server, get("*", method="OPTIONS")))["path"] == "*"
        assert statuses(await answer(server, get("*"))) == [400]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
        b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    ],
)
async def test_what_can_be_read_in_two_ways_or_in_none_is_refused_and_ends_the_connection(request_bytes: bytes) -> None:
    async with running() as server:
        # A request behind it, which somebody may have smuggled in, is not answered.
        told = await answer(server, request_bytes + get("/smuggled"))
        assert statuses(told) == [400]
        assert b"application/problem+json" in told
        assert b"connection: close" in told


async def test_a_transfer_coding_that_is_not_known_is_refused_as_such() -> None:
    async with running() as server:
        chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"
        told = await answer(server, chunked + get("/smuggled"))
        assert statuses(told) == [501]


async def test_a_body_in_chunks_with_extensions_and_trailers_is_a_body() -> None:
    async with running() as server:
        chunks = b"3;a=b\r\nabc\r\n1\r\nd\r\n0\r\nX-Late: 1\r\nHost: other\r\n\r\n"
        told = said(await answer(server, post(chunks, "Transfer-Encoding: chunked")))
        assert told["body"] == "abcd"
        assert ["host", "localhost"] in told["headers"]
        assert all(name != "x-late" for name, _ in told["headers"])


async def test_http_1_0_gets_no_chunks_and_a_connection_that_ends() -> None:
    async with running() as server:
        told = await answer(server, get("/unknown-length", version="1.0", last=False))
        assert b"transfer-encoding" not in told.lower()
        assert b"connection: close" in told
        assert said(told)["path"] == "/unknown-length"
        chunked = await answer(server, get("/unknown-length"))
        assert b"transfer-encoding: chunked" in chunked
        assert chunked.endswith(b"\r\n0\r\n\r\n")


async def test_head_has_the_headers_of_get_and_no_body() -> None:
    async with running() as server:
        got, asked = await answer(server, get("/a")), await answer(server, get("/a", method="HEAD"))
        assert asked.partition(b"\r\n\r\n")[2] == b""
        assert asked == got.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


async def test_a_client_that_waits_for_a_word_before_its_body_gets_it() -> None:
    async with running() as server, await anyio.connect_tcp(HOST, server.port) as stream:
        await stream.send(post(b"", "Content-Length: 2", "Expect: 100-Continue"))
        assert await stream.receive() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await stream.send(b"ab")
        assert said(await rest(stream))["body"] == "ab"
        # One that is refused is not told to send it.
        refused = await answer(server, post(b"", "Content-Length: 2", "Expect: 100-continue", target="/refuse"))
        assert statuses(refused) == [413]


@pytest.mark.parametrize("protocol", ["h2c", "TLS/1.0, HTTP/1.1", "nonsense"])
async def test_another_protocol_that_is_offered_is_not_taken(protocol: str) -> None:
    async with running() as server:
        upgrade = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}", "HTTP2-Settings: AAMAAABkAAQAAP__")
        first = get("/1", *upgrade, last=False)
        second = post(b"ab", *upgrade, "Content-Length: 2", target="/2", last=False)
        assert statuses(await answer(server, first + second + get("/3"))) == [200, 200, 200]


async def test_requests_ahead_of_their_turn_are_answered_in_order_up_to_a_bound() -> None:
    async with running() as server:
        several = b"".join(get(f"/{number}", last=False) for number in range(20))
        told = await answer(server, several + post(b"ab", "Content-Length: 2", target="/20"))
        places = [told.index(b'"path": "/%d"' % number) for number in range(21)]
        assert places == sorted(places)
        many = await answer(server, get("/", last=False) * 1_000)
        assert len(statuses(many)) == PIPELINED_MAX + 1
        # What is no request comes after the answers that are due.
        assert statuses(await answer(server, several + b"no request\r\n\r\n")) == [200] * 20 + [400]


async def test_a_client_that_sends_nothing_more_still_gets_its_answers() -> None:
    async with running() as server:
        assert statuses(await answer(server, get("/1", last=False) + get("/2", last=False), ends=True)) == [200, 200]
        assert len(await answer(server, get("/big", last=False), ends=True)) > len(BIG)
        # An answer without an end ends with its client's side, and half a request has no answer.
        assert (await answer(server, get("/endless", last=False), ends=True)).startswith(b"HTTP/1.1 200 ")
        assert await answer(server, get("/1")[:-2], ends=True) == b""
        assert await answer(server, post(b"a", "Content-Length: 2"), ends=True) == b""


@pytest.mark.parametrize("trickle", [b"\r\n", b"\n", b"G", b""])
async def test_no_byte_after_an_answer_holds_a_connection(trickle: bytes) -> None:
    async with running(idle_s=SOON_S, head_s=SOON_S) as server:
        await answer(server, get("/", last=False), trickle)


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "DELETE"])
async def test_no_byte_of_a_body_that_was_announced_holds_a_connection(method: str) -> None:
    async with running(body_s=SOON_S, idle_s=SOON_S) as server, await anyio.connect_tcp(HOST, server.port) as stream:
        await stream.send(get("/refuse", "Content-Length: 1000", last=False, method=method))
        await send_until_closed(stream, b"x")


async def test_the_rest_of_a_body_that_nobody_reads_is_read_and_the_connection_goes_on() -> None:
    async with running() as server, await anyio.connect_tcp(HOST, server.port) as stream:
        await stream.send(get("/1", "Content-Length: 100000", last=False))
        await stream.send(bytes(100_000) + get("/2"))
        assert statuses(await rest(stream)) == [200, 200]


async def test_a_body_that_is_refused_is_read_within_bounds_so_that_the_answer_is_not_lost() -> None:
    async with running(drain_bytes=4 << 20, drain_s=DEADLINE_S) as server:
        # A client that reads nothing before it has sent everything.
        body = bytes(3 << 20)
        assert statuses(await answer(server, post(body, f"Content-Length: {len(body)}", target="/refuse"))) == [413]
        async with await anyio.connect_tcp(HOST, server.port) as stream:
            await stream.send(post(b"", "Content-Length: 1000000000", target="/refuse"))
            await send_until_closed(stream, bytes(1 << 16), pause_s=0)
    async with running(drain_s=SOON_S) as server, await anyio.connect_tcp(HOST, server.port) as stream:
        await stream.send(post(b"", "Content-Length: 1000000000", target="/refuse"))
        await send_until_closed(stream, b"x")


@pytest.mark.parametrize("endless", [b"1;" + b"x" * 100_000, b"0\r\n" + b"X: " + b"x" * 100_000])
async def test_chunks_without_an_end_are_refused(endless: bytes) -> None:
    async with running() as server:
        told = await answer(server, post(endless, "Transfer-Encoding: chunked"), *[b"x" * 100_000] * 11)
        assert statuses(told) == [413]


@pytest.mark.parametrize("target", ["/big", "/1"])
async def test_a_client_that_does_not_read_is_dropped(target: str) -> None:
    async with running(stall_s=SOON_S, idle_s=SOON_S, drain_s=SOON_S) as server:
        sock = await server.open_without_reading(get(target, last=False) * 100)
        with sock:
            await eventually(lambda: server.server.server_state.connections)
            await eventually(lambda: not server.server.server_state.connections)


async def test_a_client_that_reads_slowly_but_reads_gets_everything() -> None:
    async with running(stall_s=SOON_S, progress_bytes=1) as server:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
            sock.connect((HOST, server.port))
            sock.sendall(get("/big"))
            got = 0
            while part := await anyio.to_thread.run_sync(sock.recv, 65_536):
                got += len(part)
            assert got > len(BIG)
