"""Connections over real sockets: what is no request, or never becomes one, is answered and let go."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from engine.api import connections
from engine.api.connections import HEAD_BYTES_MAX
from tests.live import DEADLINE_S, HOST, Running, ToldFollower, serving

PROBLEM = b"content-type: application/problem+json"
REQUEST = b"GET /api/nothing HTTP/1.1\r\nHost: localhost\r\n"


@asynccontextmanager
async def running() -> AsyncIterator[Running]:
    with anyio.fail_after(DEADLINE_S):
        async with serving(ToldFollower()) as server:
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


async def test_a_request_that_does_not_arrive_in_time_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_WAIT_S", 0.2)
    async with running() as server:
        assert (await answer(server, REQUEST)).startswith(b"HTTP/1.1 408 ")
        # One that was answered before is let go too when it begins another and does not end it.
        told = await answer(server, REQUEST + b"\r\n", REQUEST)
        assert told.startswith(b"HTTP/1.1 404 ")
        assert b"HTTP/1.1 408 " in told


async def test_who_says_nothing_at_all_is_let_go_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_WAIT_S", 0.2)
    async with running() as server:
        assert await answer(server) == b""


async def test_whoever_connects_when_all_places_are_taken_is_told_to_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS_MAX", 1)
    async with running() as server, await anyio.connect_tcp(HOST, server.port) as first:
        await first.send(REQUEST + b"\r\n")
        assert (await first.receive()).startswith(b"HTTP/1.1 404 ")
        told = await answer(server, REQUEST + b"\r\n")
        assert told.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: " in told
        assert PROBLEM in told


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
