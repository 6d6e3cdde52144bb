"""What a connection to Redis makes of its own end, on both event loops."""

import asyncio
import time
from typing import Any

import anyio
import pytest
from redis.exceptions import ConnectionError

from crashfold.engine.adapters.redis.client import CLOSE_S
from tests.contract.test_redis_pipelined import client_of

LOOPS = pytest.mark.parametrize("use_uvloop", [False, True], ids=["asyncio", "uvloop"])


async def end_of(connection: Any) -> None:
    """Return when the event loop has told the reader."""
    assert await connection._reader.read() == b""


@LOOPS
@pytest.mark.parametrize("is_over", [False, True], ids=["closing", "closed"])
def test_what_is_written_to_a_lost_connection_is_a_connection_error(
    redis_url: str, use_uvloop: bool, is_over: bool
) -> None:
    async def write() -> None:
        client = client_of(redis_url)
        pool: Any = client._commit_pool
        connection = await pool.get_connection()
        connection._writer.transport.abort()
        if is_over:
            await end_of(connection)
        with pytest.raises(ConnectionError):
            await connection.send_command("PING")
        await pool.release(connection)
        assert await client.ask(lambda pipeline: pipeline.ping()) == [True]
        await client.aclose()

    anyio.run(write, backend_options={"use_uvloop": use_uvloop})


@LOOPS
def test_a_lost_connection_is_not_handed_over(redis_url: str, use_uvloop: bool) -> None:
    async def hand_over() -> None:
        client = client_of(redis_url)
        pool: Any = client._read_pool
        make = pool.make_connection

        def make_and_lose() -> Any:
            connection = make()
            connect = connection.connect

            async def connect_and_lose() -> None:
                await connect()
                connection._writer.transport.abort()
                await end_of(connection)

            connection.connect = connect_and_lose
            return connection

        connection = client.pipelined(1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pool, "make_connection", make_and_lose)
            with pytest.raises(ConnectionError):
                await connection.ask([("PING",)])
        assert await connection.ask([("PING",)]) == [b"PONG"]
        connection.cut()
        await client.aclose()

    anyio.run(hand_over, backend_options={"use_uvloop": use_uvloop})


async def test_a_busy_machine_keeps_no_connection_from_being_closed(redis_url: str) -> None:
    client = client_of(redis_url)
    pools: list[Any] = [client._commit_pool, client._read_pool]
    connections = [await pool.get_connection() for pool in pools]
    await pools[0].release(connections[0])
    asyncio.get_running_loop().call_soon(time.sleep, 2 * CLOSE_S)  # nothing runs until all time for closing is over
    await client.aclose()
    assert not any(connection.is_connected for connection in connections)
