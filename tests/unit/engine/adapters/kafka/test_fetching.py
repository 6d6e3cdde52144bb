"""Fetching ahead: what is asked for next is under way already, and nothing comes that was not asked for."""

import asyncio
import gc
from typing import Any, NamedTuple

import anyio.lowlevel
import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from crashfold.engine.adapters.kafka.fetching import FetchingAhead

GAMES = TopicPartition("games", 0)


class Answer(NamedTuple):
    topics: list[tuple[str, list[tuple[Any, ...]]]]


class Broker:
    """The client of a broker that holds a partition up to `end`, ten records a batch and a batch a fetch."""

    def __init__(self, end: int) -> None:
        self.end = end
        self.asked: list[int] = []
        self.fault: Exception | None = None
        self.error = 0

    def metadata(self) -> str:
        return "as the client has it"

    async def send(self, node_id: int, request: Any) -> Any:
        if not isinstance(request, FetchRequest):
            return "another answer"
        ((topic, ((partition, begin, _),)),) = request.topics
        self.asked.append(begin)
        await anyio.lowlevel.checkpoint()
        if self.fault is not None:
            raise self.fault
        return Answer([(topic, [(partition, self.error, self.end, batch(begin) if begin < self.end else b"")])])


def batch(base: int) -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, 0, 0, 1 << 20)
    for delta in range(10):
        builder.append(delta, 1000, None, b"%d" % (base + delta), [])
    data = bytearray(builder.build())
    data[0:8] = base.to_bytes(8, "big")
    return bytes(data)


def fetch(begin: int) -> FetchRequest:
    return FetchRequest(500, 1, 1 << 20, 1, [("games", [(0, begin, 1 << 20)])])


async def settle() -> None:
    for _ in range(5):
        await anyio.lowlevel.checkpoint()


async def test_the_fetch_behind_an_answer_is_sent_before_anyone_asks() -> None:
    broker = Broker(30)
    client = FetchingAhead(broker)
    await client.send(1, fetch(0))
    await settle()
    assert broker.asked == [0, 10]
    assert client.take(GAMES, 0) == batch(0)
    await client.send(1, fetch(10))
    assert client.take(GAMES, 10) == batch(10)
    await settle()
    assert broker.asked == [0, 10, 20], "what came ahead is not asked for again"


async def test_where_nothing_came_nothing_is_fetched_ahead() -> None:
    broker = Broker(0)
    client = FetchingAhead(broker)
    await client.send(1, fetch(0))
    await settle()
    assert broker.asked == [0]


async def test_where_there_is_trouble_nothing_is_fetched_ahead() -> None:
    broker = Broker(30)
    broker.error = 1
    client = FetchingAhead(broker)
    await client.send(1, fetch(0))
    await settle()
    assert broker.asked == [0]


async def test_after_a_seek_what_was_fetched_ahead_is_dropped() -> None:
    broker = Broker(100)
    client = FetchingAhead(broker)
    await client.send(1, fetch(0))
    await client.send(1, fetch(70))
    assert client.take(GAMES, 0) is None, "it is of another place"
    await client.send(1, fetch(70))
    assert client.take(GAMES, 70) == batch(70)
    assert client.take(GAMES, 70) is None, "once"


async def test_an_error_ahead_is_raised_to_whoever_asks_for_it() -> None:
    broker = Broker(100)
    client = FetchingAhead(broker)
    await client.send(1, fetch(0))
    broker.fault = KafkaConnectionError("gone")
    await settle()
    with pytest.raises(KafkaConnectionError):
        await client.send(1, fetch(10))
    broker.fault = None
    await client.send(1, fetch(10))
    assert client.take(GAMES, 10) == batch(10)


async def test_closing_ends_what_is_under_way() -> None:
    broker = Broker(100)
    client = FetchingAhead(broker)
    await client.send(1, fetch(0))
    before = asyncio.all_tasks()
    client.close()
    await settle()
    assert len(before - asyncio.all_tasks()) == 1


async def test_an_error_ahead_that_nobody_comes_for_is_no_complaint(caplog: pytest.LogCaptureFixture) -> None:
    broker = Broker(30)
    client = FetchingAhead(broker)
    await client.send(1, fetch(0))
    broker.fault = KafkaConnectionError("the consumer has closed it")
    await settle()
    del client
    gc.collect()
    assert caplog.records == []


async def test_everything_else_is_the_clients() -> None:
    client = FetchingAhead(Broker(0))
    assert client.metadata() == "as the client has it"
    assert await client.send(1, object()) == "another answer"
