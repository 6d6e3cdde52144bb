"""The WebSocket over real sockets on loopback."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from crashfold.engine.http.places import ConnectionBounds
from tests.support.games import games_at
from tests.support.live import DEADLINE_S, HOST, SMALL_BUFFER, Running, ToldFollower, eventually, serving

ESTABLISHED = {"type": "connection_established"}


@asynccontextmanager
async def connected(running: Running, query: str = "", **options: Any) -> AsyncIterator[ClientConnection]:
    async with connect(f"ws://{HOST}:{running.port}/ws?{query}", proxy=None, **options) as client:
        yield client


async def message(client: ClientConnection) -> Any:
    return json.loads(await client.recv())


async def test_every_game_comes_once_and_in_order() -> None:
    follower = ToldFollower(*games_at(2.0, 3.0))
    with anyio.fail_after(DEADLINE_S):
        async with serving(follower) as running, connected(running) as client:
            assert await message(client) == ESTABLISHED
            assert running.meter.clients["websocket"] == 1
            for count in range(1, 30):
                follower.commit_more(count)
            for game in follower.games[2:]:
                told = await message(client)
                assert told["type"] == "new_game"
                if int(told["data"]["gameId"]) != game.game_id:  # More than a hundred at once: some are left out.
                    break
            newest = str(follower.games[-1].game_id)
            while told["data"]["gameId"] != newest:
                before, told = int(told["data"]["gameId"]), await message(client)
                assert int(told["data"]["gameId"]) == before + 1


async def test_a_game_looks_as_it_does_everywhere_in_the_zone_that_was_asked_for() -> None:
    follower = ToldFollower(*games_at(2.0))
    with anyio.fail_after(DEADLINE_S):
        async with serving(follower) as running, connected(running, "tz=Asia/Tokyo") as client:
            assert await message(client) == ESTABLISHED
            follower.commit(*games_at(12.34, first_id=2))
            told = (await message(client))["data"]
            assert told.pop("endTime").endswith("+09:00")
            assert told == {
                "gameId": "2",
                "hashValue": None,
                "crashPoint": 12.34,
                "calculatedPoint": None,
                "crashedFloor": 12,
                "prepareTime": None,
                "beginTime": None,
            }


async def test_a_new_generation_tells_no_game_again() -> None:
    follower = ToldFollower(*games_at(2.0, 3.0))
    with anyio.fail_after(DEADLINE_S):
        async with serving(follower) as running, connected(running) as client:
            assert await message(client) == ESTABLISHED
            follower.commit_more()
            assert (await message(client))["data"]["gameId"] == "3"
            follower.promote("aa00")
            follower.commit_more()
            assert (await message(client))["data"]["gameId"] == "4"


@pytest.mark.parametrize(("query", "status"), [("tz=Mars/Base", 400), ("stream=a%20b", 400), ("stream=other", 404)])
async def test_what_cannot_be_streamed_is_a_problem(query: str, status: int) -> None:
    with anyio.fail_after(DEADLINE_S):
        async with serving(ToldFollower()) as running:
            with pytest.raises(InvalidStatus) as refused:
                async with connected(running, query):
                    pass
            answer = refused.value.response
            assert answer.status_code == json.loads(answer.body or b"")["status"] == status
            assert answer.headers["content-type"] == "application/problem+json"


async def test_sse_and_websocket_clients_share_the_places() -> None:
    with anyio.fail_after(DEADLINE_S):
        async with serving(ToldFollower(*games_at(2.0)), clients_max=1) as running, running.events() as events:
            await anext(events)
            with pytest.raises(InvalidStatus) as refused:
                async with connected(running):
                    pass
            assert refused.value.response.status_code == 503
            assert running.meter.refused["websocket"] == 1


async def test_what_clients_say_is_ignored_and_those_that_go_are_forgotten() -> None:
    follower = ToldFollower(*games_at(2.0))
    with anyio.fail_after(DEADLINE_S):
        async with serving(follower) as running:
            async with connected(running) as client:
                assert await message(client) == ESTABLISHED
                for _ in range(100):
                    await client.send("hello")
                follower.commit_more()
                assert (await message(client))["data"]["gameId"] == "2"
            await eventually(lambda: running.meter.clients["websocket"] == 0)


async def test_a_client_that_takes_nothing_is_dropped_and_the_others_go_on() -> None:
    follower = ToldFollower(*games_at(2.0))
    with anyio.fail_after(DEADLINE_S):
        async with serving(follower, write_s=0.2) as running, connected(running) as client:
            assert await message(client) == ESTABLISHED
            slow = await open_without_reading(running)
            await eventually(lambda: running.meter.clients["websocket"] == 2)
            newest = 1
            while running.meter.dropped["websocket"] == 0:
                follower.commit_more(100)
                for _ in range(100):
                    newest += 1
                    assert (await message(client))["data"]["gameId"] == str(newest)
            await eventually(lambda: running.meter.clients["websocket"] == 1)
            slow.close()


async def test_a_stop_closes_every_client() -> None:
    with anyio.fail_after(DEADLINE_S):
        async with serving(ToldFollower()) as running, connected(running) as client:
            assert await message(client) == ESTABLISHED
            assert await running.stop() < 3
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code in (1001, 1012)


async def open_without_reading(running: Running) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    sock.setblocking(False)
    sock.connect_ex((HOST, running.port))
    await anyio.wait_writable(sock)
    sock.send(
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    )
    return sock


async def test_a_client_that_pings_and_never_reads_is_dropped_and_costs_no_memory() -> None:
    bounds = ConnectionBounds(stall_s=0.3, look_s=0.05)
    with anyio.fail_after(DEADLINE_S):
        async with serving(ToldFollower(), bounds=bounds) as running:
            sock = await running.open_without_reading(
                b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            with sock:
                await eventually(lambda: running.meter.clients["websocket"] == 1)
                (connection,) = running.server.server_state.connections
                pings = (b"\x89\xfd\0\0\0\0" + bytes(125)) * 500
                most = 0
                while running.server.server_state.connections:
                    await anyio.sleep(0)
                    with suppress(BlockingIOError, ConnectionError):
                        sock.send(pings)
                    most = max(most, connection.transport.get_write_buffer_size())
                assert 0 < most < 1 << 20
            await eventually(lambda: running.meter.clients["websocket"] == 0)


async def test_what_comes_before_the_handshake_is_answered_is_heard_after_it() -> None:
    with anyio.fail_after(DEADLINE_S):
        async with serving(ToldFollower()) as running, await anyio.connect_tcp(HOST, running.port) as stream:
            await stream.send(
                b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n\x89\x82\0\0\0\0ab"
            )
            told = b""
            while b"\x8a\x02ab" not in told:
                told += await stream.receive()
            assert told.startswith(b"HTTP/1.1 101 ")
