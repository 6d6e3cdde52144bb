"""The contract of `EventLog`, on the memory twin; and what the twin's topic can do besides."""

from collections.abc import Sequence

import pytest

from crashfold.engine.adapters.memory.log import MemoryLog, MemoryTopic
from crashfold.engine.errors import LogUnavailable, LostRange
from crashfold.engine.ports import Polled
from tests.contract.event_log import (
    EventLogContract,
    GroupContract,
    HolesContract,
    Message,
    MessageContract,
    PartitionsContract,
    Reader,
    RecreationContract,
    RetentionContract,
    Topic,
    WideningContract,
    numbered,
)


class _Topic(Topic):
    def __init__(self, partitions: int) -> None:
        self.memory = MemoryTopic(partitions=partitions)

    def log(self, group_id: str | None = "group") -> MemoryLog:
        return MemoryLog(self.memory, group_id)

    async def append(self, *values: bytes, partition: int = 0) -> None:
        self.memory.extend(values, partition=partition)

    async def append_messages(self, messages: Sequence[Message], partition: int = 0) -> None:
        for at, (key, value) in enumerate(messages):
            self.memory.append(value, key=key, partition=partition, timestamp_ms=1000 + at)

    async def leave_hole(self, partition: int = 0) -> None:
        self.memory.skip(2, partition=partition)

    async def drop_before(self, offset: int, partition: int = 0) -> None:
        self.memory.truncate_before(offset, partition=partition)

    async def add_partition(self) -> None:
        self.memory.add_partitions()

    async def recreate(self) -> None:
        self.memory.recreate()

    async def compact(self) -> None:
        self.memory.is_compacted = True


class TestOnePartition(EventLogContract, MessageContract, HolesContract, RetentionContract, RecreationContract):
    @pytest.fixture
    def topic(self) -> _Topic:
        return _Topic(1)


class TestTwoPartitions(PartitionsContract, WideningContract, GroupContract):
    @pytest.fixture
    def topic(self) -> _Topic:
        return _Topic(2)


async def test_compaction_leaves_a_hole_in_the_middle() -> None:
    topic = MemoryTopic()
    topic.extend(numbered(4))
    topic.remove(1)
    async with MemoryLog(topic) as log:
        reader = Reader(log)
        await reader.until_read(b"0", b"2", b"3")
        assert await log.record(0, 1) is None


async def test_where_topics_have_no_ids_a_topic_made_anew_is_noticed_by_its_end() -> None:
    topic = MemoryTopic(topic_ids=False)
    topic.extend(numbered(4))
    async with MemoryLog(topic, group_id=None) as log:
        reader = Reader(log)
        await reader.until_read(*numbered(4))
        topic.recreate()
        with pytest.raises(LostRange):
            await reader.poll()


async def test_a_topic_that_is_away_raises_and_goes_on_where_it_was() -> None:
    topic = MemoryTopic()
    topic.extend(numbered(4))
    async with MemoryLog(topic) as log:
        reader = Reader(log)
        await reader.until_read(b"0", b"1", records_max=1)
        topic.available = False
        with pytest.raises(LogUnavailable):
            await reader.poll()
        topic.available = True
        await reader.until_read(*numbered(4))


async def test_an_evicted_member_joins_again_when_it_polls() -> None:
    topic = MemoryTopic(partitions=2)
    async with MemoryLog(topic) as slow, MemoryLog(topic) as quick:
        one, other = Reader(slow), Reader(quick)
        await one.poll()
        topic.evict(slow)
        await other.until_holding(0, 1)
        polled = await one.poll()
        assert polled.lost
        assert polled.gained


async def test_each_rebalance_gives_the_partitions_to_other_members() -> None:
    topic = MemoryTopic(partitions=2)
    async with MemoryLog(topic) as log, MemoryLog(topic) as second:
        one, other = Reader(log), Reader(second)
        await one.poll()
        await other.poll()
        before = one.held.copy(), other.held.copy()
        topic.rebalance()
        await one.poll()
        await other.poll()
        assert (other.held, one.held) == before


async def test_what_was_reported_can_be_seen() -> None:
    topic = MemoryTopic(partitions=2)
    async with MemoryLog(topic) as log:
        assert (await log.poll(1, 0)) == Polled(gained=frozenset({0, 1}))
        await log.report({0: 5, 1: 7, 2: 9})
        assert topic.reported == {0: 5, 1: 7}
