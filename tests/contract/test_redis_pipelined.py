"""The connection that many readers share: whose reply is whose, and what becomes of those who wait when it is cut."""

from collections.abc import AsyncIterator, Callable

import anyio
import anyio.lowlevel
import pytest
from redis.exceptions import ConnectionError, ResponseError, TimeoutError

from crashfold.engine.adapters.redis.client import RedisClient
from crashfold.engine.adapters.redis.pipelined import PipelinedConnection
from tests.support.servers import RedisServer

TIMEOUT_S = 0.5


def client_of(url: str) -> RedisClient:
    return RedisClient(
        url,
        password="",
        connect_timeout_s=5,
        timeout_s=5,
        bulk_timeout_s=5,
        commit_connections=1,
        read_connections=1,
    )


@pytest.fixture
async def connection(each_redis_url: str) -> AsyncIterator[PipelinedConnection]:
    client = client_of(each_redis_url)
    connection = client.pipelined(30)
    yield connection
    connection.cut()
    await client.aclose()


async def test_everybody_gets_the_replies_to_what_they_asked(connection: PipelinedConnection) -> None:
    async def ask(number: int) -> None:
        asked = [("ECHO", f"{number}.{part}") for part in range(number % 7 + 1)]
        expected = [text.encode() for _, text in asked]
        assert await (connection.ask_at_once if number % 2 else connection.ask)(asked) == expected

    async with anyio.create_task_group() as tasks:
        for number in range(500):
            tasks.start_soon(ask, number)


async def test_who_asked_and_went_leaves_the_others_their_replies(connection: PipelinedConnection) -> None:
    await connection.ask([("PING",)])
    async with anyio.create_task_group() as gone:
        for number in range(10):
            gone.start_soon(connection.ask, [("ECHO", f"gone {number}"), ("ECHO", "as well")])
        await anyio.lowlevel.checkpoint()
        gone.cancel_scope.cancel()
    assert await connection.ask([("ECHO", "still here")]) == [b"still here"]


async def test_an_error_stands_in_the_place_of_its_reply(connection: PipelinedConnection) -> None:
    await connection.ask([("SET", "text", "x")])
    for ask in (connection.ask, connection.ask_at_once):
        first, error, last = await ask([("GET", "text"), ("LRANGE", "text", 0, 1), ("GET", "text")])
        assert (first, last) == (b"x", b"x")
        assert isinstance(error, ResponseError)
        assert "WRONGTYPE" in str(error)


async def test_what_cannot_be_done_at_once_says_why(connection: PipelinedConnection) -> None:
    with pytest.raises(ResponseError, match="unknown command"):
        await connection.ask_at_once([("GET", "x"), ("NOSUCHCOMMAND",)])
    assert await connection.ask([("PING",)]) == [b"PONG"]


async def test_a_line_that_does_not_answer_is_cut_for_all_and_made_anew(
    new_redis: Callable[..., RedisServer],
) -> None:
    server = await anyio.to_thread.run_sync(new_redis)
    client = client_of(server.url)
    connection = client.pipelined(TIMEOUT_S)
    await connection.ask([("PING",)])
    server.pause()
    faults: list[Exception] = []

    async def ask() -> None:
        try:
            await connection.ask([("PING",)])
        except TimeoutError as error:
            faults.append(error)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(ask)
    server.resume()
    assert len(faults) == 5
    assert await connection.ask([("PING",)]) == [b"PONG"]
    await anyio.to_thread.run_sync(server.kill)
    with pytest.raises(ConnectionError):
        await connection.ask([("PING",)])
    connection.cut()
    await client.aclose()
