"""Connections over real sockets: what is no request, or never becomes one, is answered and let go."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import anyio
import pytest

from crashfold.engine.http.http11 import HEAD_BYTES_MAX
from crashfold.engine.http.places import ConnectionBounds, Places
from tests.support.live import DEADLINE_S, HOST, Running, ToldFollower, serving

PROBLEM = b"content-type: application/problem+json"
REQUEST = b"GET /api/nothing HTTP/1.1\r\nHost: localhost\r\n"
LAST = REQUEST + b"Connection: close\r\n\r\n"


class Held:
    """A connection of which only its place matters."""

    def __init__(self, client_host: str) -> None:
        self.client_host = client_host
        self.until_s = inf
        self.evicted = False

    def expire(self) -> None: ...

    def drop(self) -> None: ...

    def evict(self) -> None:
        self.evicted = True

    def unsent_bytes(self) -> int | None:
        return None


@asynccontextmanager
async def running(**bounds: Any) -> AsyncIterator[Running]:
    with anyio.fail_after(DEADLINE_S):
        async with serving(ToldFollower(), bounds=ConnectionBounds(look_s=0.05, **bounds)) as server:
            yield server


async def answer(server: Running, *parts: bytes) -> bytes:
    """What comes back until the server closes the connection."""
    async with await anyio.connect_tcp(HOST, server.port) as stream:
        for part in parts:
            await stream.send(part)
        told = b""
        try:
            while True:
                told += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return told


@pytest.mark.parametrize(
    "bytes_sent",
    [
        b"no request at all\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",  # TLS, to a port that speaks none
        b"WHATEVER / HTTP/1.1\r\n\r\n",
        b"GET ?x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_what_is_no_request_gets_a_problem(bytes_sent: bytes) -> None:
    async with running() as server:
        told = await answer(server, bytes_sent)
        head, _, body = told.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert PROBLEM in head
        assert b'"type":"urn:crashfold:problem:malformed"' in body
        assert b"connection: close" in head


async def test_headers_without_an_end_are_not_kept_for_ever() -> None:
    async with running() as server:
        endless = REQUEST + b"X-Long: " + b"x" * HEAD_BYTES_MAX
        assert (await answer(server, endless)).startswith(b"HTTP/1.1 431 ")


async def test_a_request_that_does_not_arrive_in_time_is_told_so() -> None:
    async with running(head_s=0.2) as server:
        assert (await answer(server, REQUEST)).startswith(b"HTTP/1.1 408 ")
        # One that was answered before is let go too when it begins another and does not end it.
        told = await answer(server, REQUEST + b"\r\n", REQUEST)
        assert told.startswith(b"HTTP/1.1 404 ")
        assert b"HTTP/1.1 408 " in told


async def test_who_says_nothing_at_all_is_let_go_without_a_word() -> None:
    async with running(head_s=0.2) as server:
        assert await answer(server) == b""


async def test_a_newcomer_gets_the_place_of_whoever_waits_longest() -> None:
    async with running(connections_max=2) as server, await anyio.connect_tcp(HOST, server.port) as oldest:
        await oldest.send(REQUEST + b"\r\n")
        assert (await oldest.receive()).startswith(b"HTTP/1.1 404 ")
        async with await anyio.connect_tcp(HOST, server.port) as later:
            await later.send(REQUEST[:1])  # a byte of a request takes no place for good either
            assert (await answer(server, LAST)).startswith(b"HTTP/1.1 404 ")
            with pytest.raises(anyio.EndOfStream):
                await oldest.receive()
            async with await anyio.connect_tcp(HOST, server.port):
                assert (await answer(server, LAST)).startswith(b"HTTP/1.1 404 ")
            with pytest.raises(anyio.EndOfStream):
                await later.receive()


async def test_whoever_connects_while_all_are_served_is_told_to_come_again() -> None:
    async with running(connections_max=1) as server, server.events() as events:
        await anext(events)
        told = await answer(server, LAST)
        assert told.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: " in told
        assert PROBLEM in told


async def test_one_client_leaves_room_for_others() -> None:
    places = Places(
        ConnectionBounds(connections_max=4, client_connections_max=3), is_trusted=lambda host: host == "proxy"
    )
    loop = asyncio.get_running_loop()
    greedy = [Held("greedy") for _ in range(4)]
    assert [places.enter(held, loop) for held in greedy] == [True, True, True, False]
    places.leave(greedy.pop())
    other, third = Held("other"), Held("other")
    assert places.enter(other, loop)
    assert not places.enter(third, loop)  # nobody waits
    places.leave(third)
    places.wait(other)
    places.wait(greedy[1])
    places.wait(greedy[0])
    assert places.enter(third, loop)
    assert greedy[1].evicted  # of the one who has most, the one that waits longest
    assert not other.evicted
    proxies = [Held("proxy") for _ in range(4)]
    for held in (other, third, greedy[0], greedy[2]):
        places.leave(held)
    assert all(places.enter(held, loop) for held in proxies)


async def test_requests_sent_in_one_go_are_answered_in_order() -> None:
    async with running() as server:
        last = REQUEST + b"Connection: close\r\n\r\n"
        told = await answer(server, (REQUEST + b"\r\n") * 3 + last)
        assert told.count(b"HTTP/1.1 404 ") == 4


async def test_a_connection_reset_in_the_middle_of_a_request_is_forgotten() -> None:
    async with running() as server:
        with socket.create_connection((HOST, server.port)) as sock:
            sock.sendall(REQUEST)
        assert (await answer(server, REQUEST + b"Connection: close\r\n\r\n")).startswith(b"HTTP/1.1 404 ")
