"""What every `EventLog` must do. A test module per adapter inherits the classes that apply to it.

`EventLogContract` holds for all; `MessageContract`, `HolesContract`, `RetentionContract`, `RecreationContract`,
`PartitionsContract` and `GroupContract` for logs that have such things. Each needs a fixture `topic`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress

import anyio
import pytest

from crashfold.engine.errors import LogUnavailable, LostRange
from crashfold.engine.ports import EventLog, Polled, Record

DEADLINE_S = 60.0
WAIT_S = 0.2

Message = tuple[bytes | None, bytes | None]


class Topic(ABC):
    """The topic under test: what a producer, a broker and time do to it."""

    @abstractmethod
    def log(self, group_id: str | None = "group") -> EventLog:
        """A new log over the topic, not yet entered."""

    @abstractmethod
    async def append(self, *values: bytes, partition: int = 0) -> None:
        """Add records without keys."""

    async def append_messages(self, messages: Sequence[Message], partition: int = 0) -> None:
        """Add records with keys, or without values."""
        raise NotImplementedError

    async def leave_hole(self, partition: int = 0) -> None:
        """Let at least one offset at the partition's end hold no record."""
        raise NotImplementedError

    async def drop_before(self, offset: int, partition: int = 0) -> None:
        """Let retention remove all records below `offset`."""
        raise NotImplementedError

    async def add_partition(self) -> None:
        """Add a partition."""
        raise NotImplementedError

    async def recreate(self) -> None:
        """Delete the topic, and make one of the same name."""
        raise NotImplementedError

    async def compact(self) -> None:
        """Let records go once others of the same key stand behind them."""
        raise NotImplementedError


class Reader:
    """A log and all that its polls brought."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.held: set[int] = set()
        self.values: dict[int, list[bytes | None]] = {}
        self.next_offsets: dict[int, int] = {}

    async def poll(self, records_max: int = 1000, wait_s: float = WAIT_S, *, seek: bool = True) -> Polled:
        """Poll once; note what came; seek what was gained to where this reader stands, or to the beginning."""
        polled = await self.log.poll(records_max, wait_s)
        assert polled.lost <= self.held, "only what was held can be lost"
        self.held -= polled.lost
        assert not polled.gained & self.held, "only what was not held can be gained"
        self.held |= polled.gained
        for records in polled.records:
            assert records.partition in self.held
            assert len(records) == len(records.keys) == len(records.values) == len(records.timestamps_ms)
            assert records.offsets.tolist() == sorted(set(records.offsets.tolist()))
            assert all(offset < records.next_offset for offset in records.offsets)
            before = self.next_offsets.get(records.partition, 0)
            assert all(offset >= before for offset in records.offsets)
            assert records.next_offset > before, "what brings nothing is left out"
            self.next_offsets[records.partition] = records.next_offset
            self.values.setdefault(records.partition, []).extend(records.values)
        if seek:
            for partition in polled.gained:
                await self.seek(partition, self.next_offsets.get(partition, 0))
        return polled

    async def seek(self, partition: int, next_offset: int) -> None:
        self.next_offsets[partition] = next_offset
        await self.log.seek(partition, next_offset)

    async def until_holding(self, *partitions: int, seek: bool = True) -> None:
        with anyio.fail_after(DEADLINE_S):
            while self.held != set(partitions):
                await self.poll(seek=seek)

    async def until_read(self, *values: bytes | None, partition: int = 0, records_max: int = 1000) -> None:
        """Poll until the partition has brought exactly these values, in this order."""
        with anyio.fail_after(DEADLINE_S):
            while len(self.values.get(partition, ())) < len(values):
                await self.poll(records_max)
        assert self.values.get(partition, []) == list(values)

    async def until_fault(self) -> None:
        with anyio.fail_after(DEADLINE_S):
            while True:
                await self.poll()

    async def until_at(self, next_offset: int, partition: int = 0) -> None:
        with anyio.fail_after(DEADLINE_S):
            while self.next_offsets.get(partition, 0) < next_offset:
                await self.poll()
        assert self.next_offsets[partition] == next_offset


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + count)]


async def end_of(log: EventLog, partition: int, at_least: int) -> int:
    """The partition's end, once the log knows that it is not below `at_least`."""
    with anyio.fail_after(DEADLINE_S):
        while (end := (await log.bounds(partition)).end) < at_least:
            await log.poll(1, WAIT_S)
    return end


class EventLogContract:
    """A topic whose partition 0 is read by one log."""

    all_partitions = frozenset({0})

    async def reader(self, log: EventLog) -> Reader:
        """A reader that holds all partitions and has sought their beginnings."""
        reader = Reader(log)
        await reader.until_holding(*self.all_partitions)
        return reader

    async def test_the_first_poll_that_brings_anything_brings_partitions(self, topic: Topic) -> None:
        await topic.append(*numbered(3))
        async with topic.log() as log:
            reader = Reader(log)
            await reader.until_holding(*self.all_partitions, seek=False)
            assert not reader.values

    async def test_nothing_is_delivered_before_it_was_sought(self, topic: Topic) -> None:
        await topic.append(*numbered(3))
        async with topic.log() as log:
            reader = Reader(log)
            await reader.until_holding(*self.all_partitions, seek=False)
            for _ in range(5):
                await reader.poll(wait_s=0.05, seek=False)
            assert not reader.values
            await reader.seek(0, 1)
            await reader.until_read(b"1", b"2")

    async def test_records_come_in_order_and_whole(self, topic: Topic) -> None:
        async with topic.log() as log:
            await topic.append(*numbered(100))
            reader = await self.reader(log)
            await reader.until_read(*numbered(100))
            await topic.append(*numbered(100, start=100))
            await reader.until_read(*numbered(200))

    async def test_an_empty_topic_polls_empty(self, topic: Topic) -> None:
        async with topic.log() as log:
            reader = await self.reader(log)
            for wait_s in (0, 0.05):
                assert await reader.poll(wait_s=wait_s) == Polled()
            assert await log.bounds(0) == await log.bounds(0)
            assert (await log.bounds(0)).end == 0

    async def test_a_waiting_poll_returns_as_soon_as_there_is_a_record(self, topic: Topic) -> None:
        async with topic.log() as log:
            reader = await self.reader(log)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(topic.append, b"0")
                with anyio.fail_after(DEADLINE_S):
                    while not (await reader.poll(wait_s=10 * DEADLINE_S)).records:
                        pass
            assert reader.values == {0: [b"0"]}

    async def test_a_poll_brings_at_most_as_many_as_asked_for(self, topic: Topic) -> None:
        await topic.append(*numbered(50))
        async with topic.log() as log:
            reader = await self.reader(log)
            while sum(map(len, reader.values.values())) < 50:
                polled = await reader.poll(records_max=7)
                assert sum(len(records) for records in polled.records) <= 7
            assert reader.values == {0: numbered(50)}
            assert not polled.has_more

    async def test_a_seek_forgets_what_was_fetched(self, topic: Topic) -> None:
        await topic.append(*numbered(50))
        async with topic.log() as log:
            reader = await self.reader(log)
            await reader.until_read(b"0", b"1", b"2", records_max=1)
            await reader.seek(0, 40)
            reader.values.clear()
            await reader.until_read(*numbered(10, start=40))
            await reader.seek(0, 5)
            reader.values.clear()
            await reader.until_read(*numbered(45, start=5))

    async def test_the_last_of_several_seeks_counts(self, topic: Topic) -> None:
        await topic.append(*numbered(20))
        async with topic.log() as log:
            reader = await self.reader(log)
            for next_offset in (3, 19, 0, 12):
                await reader.seek(0, next_offset)
            await reader.until_read(*numbered(8, start=12))

    async def test_a_seek_to_the_end_waits_for_what_comes(self, topic: Topic) -> None:
        await topic.append(*numbered(5))
        async with topic.log() as log:
            reader = await self.reader(log)
            await reader.until_read(*numbered(5))
            await reader.seek(0, 5)
            await topic.append(b"5")
            await reader.until_read(*numbered(6))

    async def test_a_cancelled_poll_loses_nothing(self, topic: Topic) -> None:
        async with topic.log() as log:
            reader = await self.reader(log)
            for number in range(50):
                if number % 5 == 0:
                    await topic.append(*numbered(5, start=number))
                with anyio.move_on_after(number % 10 / 1000):
                    await reader.poll(records_max=3, wait_s=DEADLINE_S)
            await reader.until_read(*numbered(50))

    async def test_bounds_are_where_the_records_are(self, topic: Topic) -> None:
        await topic.append(*numbered(4))
        await topic.append(*numbered(4, start=4))
        async with topic.log() as log:
            reader = await self.reader(log)
            await reader.until_read(*numbered(8))
            assert await end_of(log, 0, at_least=8) == 8
            assert (await log.bounds(0)).begin == 0

    async def test_bounds_are_known_of_a_log_that_has_not_polled(self, topic: Topic) -> None:
        await topic.append(b"0")
        async with topic.log() as log:
            bounds = await log.bounds(0)
            assert (bounds.begin, bounds.end) == (0, 1)

    async def test_all_partitions_are_known(self, topic: Topic) -> None:
        async with topic.log() as log:
            assert await log.partitions() == self.all_partitions

    async def test_one_record_can_be_looked_up(self, topic: Topic) -> None:
        await topic.append(*numbered(30))
        async with topic.log() as log:
            for offset in (0, 17, 29):
                record = await log.record(0, offset)
                assert isinstance(record, Record)
                assert (record.offset, record.key, record.value) == (offset, None, b"%d" % offset)

    async def test_what_is_not_there_is_looked_up_as_none(self, topic: Topic) -> None:
        await topic.append(*numbered(3))
        async with topic.log() as log:
            assert await log.record(0, 3) is None
            assert await log.record(0, 1000) is None

    async def test_looking_up_does_not_move_the_position(self, topic: Topic) -> None:
        await topic.append(*numbered(10))
        async with topic.log() as log:
            reader = await self.reader(log)
            await reader.until_read(b"0", b"1", records_max=1)
            assert await log.record(0, 7) is not None
            await reader.until_read(*numbered(10), records_max=1)

    async def test_reporting_changes_nothing_that_is_read(self, topic: Topic) -> None:
        await topic.append(*numbered(10))
        async with topic.log() as log:
            reader = await self.reader(log)
            await reader.until_read(*numbered(10))
            await log.report({0: 10})
            await log.report({})
            await log.report({7: 3})  # not held: no harm done
            await reader.seek(0, 4)
            reader.values.clear()
            await reader.until_read(*numbered(6, start=4))

    async def test_what_was_reported_is_never_read_back(self, topic: Topic) -> None:
        await topic.append(*numbered(10))
        async with topic.log() as log:
            reader = await self.reader(log)
            await reader.until_read(*numbered(10))
            await log.report({0: 10})
        async with topic.log() as log:
            reader = await self.reader(log)
            await reader.until_read(*numbered(10))

    async def test_a_log_can_be_left_while_a_partition_is_not_yet_sought(self, topic: Topic) -> None:
        await topic.append(b"0")
        async with topic.log() as log:
            await Reader(log).until_holding(*self.all_partitions, seek=False)

    async def test_a_position_beyond_the_end_is_never_made_up(self, topic: Topic) -> None:
        """A topic that was recreated ends before the checkpoint. The log says so or stays silent; it reads nothing."""
        await topic.append(*numbered(3))
        async with topic.log() as log:
            reader = await self.reader(log)
            await reader.until_read(*numbered(3))
            with suppress(LostRange):
                await reader.seek(0, 1000)
                for _ in range(5):
                    await reader.poll()
            assert reader.values == {0: numbered(3)}

    async def test_it_is_not_compacted(self, topic: Topic) -> None:
        await topic.append(b"0")
        async with topic.log() as log:
            assert not await log.is_compacted()
            await Reader(log).until_read(b"0")


class MessageContract:
    """Records with keys, without values, with timestamps."""

    async def test_keys_values_and_tombstones_come_as_they_were_written(self, topic: Topic) -> None:
        messages: list[Message] = [(b"crash", b"1"), (None, b"2"), (b"\xff", b""), (b"", None), (b"x" * 1000, b"\x00")]
        await topic.append_messages(messages)
        async with topic.log() as log:
            reader = Reader(log)
            read: list[Message] = []
            with anyio.fail_after(DEADLINE_S):
                while len(read) < len(messages):
                    for records in (await reader.poll()).records:
                        read += zip(records.keys, records.values, strict=True)
            assert read == messages

    async def test_a_record_looked_up_equals_the_record_read(self, topic: Topic) -> None:
        await topic.append_messages([(b"crash", b"1"), (b"crash", None)])
        async with topic.log() as log:
            reader = Reader(log)
            read: list[Record] = []
            with anyio.fail_after(DEADLINE_S):
                while len(read) < 2:
                    for records in (await reader.poll()).records:
                        read += map(records.record, range(len(records)))
            assert [await log.record(0, offset) for offset in (0, 1)] == read


class HolesContract:
    """Offsets without records."""

    async def test_the_next_offset_is_beyond_the_hole_at_the_end(self, topic: Topic) -> None:
        await topic.append(b"0", b"1")
        await topic.leave_hole()
        async with topic.log(None) as log:
            reader = Reader(log)
            end = await end_of(log, 0, at_least=3)
            await reader.until_at(end)
            assert reader.values[0] == [b"0", b"1"]
            assert await reader.poll() == Polled()

    async def test_a_hole_in_between_is_passed(self, topic: Topic) -> None:
        await topic.append(b"0")
        await topic.leave_hole()
        await topic.append(b"1")
        await topic.leave_hole()
        await topic.leave_hole()
        await topic.append(b"2")
        async with topic.log(None) as log:
            reader = Reader(log)
            await reader.until_read(b"0", b"1", b"2", records_max=1)
            assert reader.next_offsets[0] == await end_of(log, 0, at_least=6)

    async def test_a_topic_of_holes_is_read_to_its_end(self, topic: Topic) -> None:
        await topic.leave_hole()
        async with topic.log(None) as log:
            reader = Reader(log)
            await reader.until_at(await end_of(log, 0, at_least=1))
            assert not any(reader.values.values())

    async def test_a_seek_into_a_hole_reads_on_behind_it(self, topic: Topic) -> None:
        await topic.append(b"0")
        await topic.leave_hole()
        await topic.append(b"1")
        async with topic.log(None) as log:
            reader = Reader(log)
            await reader.until_read(b"0", b"1")
            await reader.seek(0, 1)
            reader.values.clear()
            await reader.until_read(b"1")

    async def test_a_hole_is_looked_up_as_none(self, topic: Topic) -> None:
        await topic.append(b"0")
        await topic.leave_hole()
        await topic.append(b"1")
        async with topic.log(None) as log:
            assert await log.record(0, 1) is None
            assert await log.record(0, 0) is not None


class RetentionContract:
    """Records that go away from the beginning."""

    async def test_bounds_begin_where_retention_ends(self, topic: Topic) -> None:
        await topic.append(*numbered(10))
        await topic.drop_before(4)
        async with topic.log(None) as log:
            bounds = await log.bounds(0)
            assert (bounds.begin, bounds.end) == (4, 10)
            assert await log.record(0, 3) is None
            assert await log.record(0, 4) is not None

    async def test_a_position_below_the_beginning_is_a_lost_range_and_never_a_jump(self, topic: Topic) -> None:
        await topic.append(*numbered(10))
        await topic.drop_before(4)
        async with topic.log(None) as log:
            reader = Reader(log)
            await reader.until_holding(0, seek=False)
            await reader.seek(0, 2)
            with pytest.raises(LostRange, match=r"partition 0.*offset 2"):
                await reader.until_fault()
            assert not reader.values
            await reader.seek(0, 4)
            await reader.until_read(*numbered(6, start=4))

    async def test_a_lost_range_is_raised_again_until_it_is_dealt_with(self, topic: Topic) -> None:
        await topic.append(*numbered(10))
        await topic.drop_before(4)
        async with topic.log(None) as log:
            reader = Reader(log)
            await reader.until_holding(0, seek=False)
            await reader.seek(0, 2)
            for _ in range(3):
                with pytest.raises(LostRange):
                    await reader.until_fault()
            assert not reader.values

    async def test_retention_that_passes_a_reader_never_makes_it_jump(self, topic: Topic) -> None:
        async with topic.log(None) as log:
            reader = Reader(log)
            await reader.until_holding(0)
            await topic.append(*numbered(3))
            await reader.until_read(*numbered(3))
            await topic.append(*numbered(7, start=3))
            await topic.drop_before(10)
            await topic.append(b"10")
            with suppress(LostRange):
                # What had been fetched before it went away may still come, and then there is no fault.
                await reader.until_read(*numbered(11), records_max=1)
            assert reader.values[0] == numbered(len(reader.values[0])), "there is no jump"

    async def test_a_partition_not_yet_sought_has_no_lost_range(self, topic: Topic) -> None:
        await topic.append(*numbered(10))
        await topic.drop_before(4)
        async with topic.log() as log:
            reader = Reader(log)
            await reader.until_holding(0, seek=False)
            for _ in range(3):
                await reader.poll(seek=False)
            await reader.seek(0, 9)
            await reader.until_read(b"9")


class RecreationContract:
    async def test_a_topic_has_an_id_once_its_partitions_are_gained(self, topic: Topic) -> None:
        async with topic.log() as one, topic.log("other") as other:
            assert one.topic_id is None
            await Reader(one).until_holding(0)
            await Reader(other).until_holding(0)
            assert one.topic_id is not None
            assert one.topic_id == other.topic_id

    @pytest.mark.parametrize("group_id", ["group", None])
    @pytest.mark.parametrize("records", [0, 3, 5, 8])
    async def test_records_of_a_topic_made_anew_come_only_after_its_partitions_were_gained(
        self, topic: Topic, records: int, group_id: str | None
    ) -> None:
        """As many as were read, or fewer, or more, the first of them the same: no offset tells the two apart."""
        await topic.append(*numbered(5))
        async with topic.log(group_id) as log:
            reader = Reader(log)
            await reader.until_read(*numbered(5))
            before = log.topic_id
            await topic.recreate()
            if records:
                await topic.append(*numbered(records))
            lost = False
            with anyio.fail_after(DEADLINE_S):
                while log.topic_id == before:
                    with suppress(LogUnavailable):
                        polled = await reader.poll(seek=False)
                        assert not polled.records, "of which topic?"
                        lost = lost or 0 in polled.lost
            assert lost
            assert reader.held == {0}
            reader.values.clear()
            reader.next_offsets.clear()
            await log.seek(0, 0)
            await topic.append(b"last")
            await reader.until_read(*numbered(records), b"last")

    async def test_a_position_stays_while_the_topic_is_the_same(self, topic: Topic) -> None:
        await topic.append(*numbered(5))
        async with topic.log() as log:
            reader = Reader(log)
            await reader.until_read(*numbered(5))
            before = log.topic_id
            async with topic.log() as other:  # the group shares its partition out anew, twice
                await Reader(other).poll(wait_s=WAIT_S)
            await topic.append(b"last")
            await reader.until_read(*numbered(5), b"last")
            assert log.topic_id == before

    async def test_that_it_is_compacted_is_known(self, topic: Topic) -> None:
        async with topic.log() as log:
            await topic.compact()
            with anyio.fail_after(DEADLINE_S):
                while not await log.is_compacted():
                    pass


class PartitionsContract:
    """Several partitions; `topic` has two."""

    async def test_each_partition_is_read_in_its_own_order(self, topic: Topic) -> None:
        await topic.append(*numbered(20), partition=0)
        await topic.append(*numbered(30, start=100), partition=1)
        async with topic.log() as log:
            reader = Reader(log)
            await reader.until_holding(0, 1)
            await reader.until_read(*numbered(20), partition=0, records_max=4)
            await reader.until_read(*numbered(30, start=100), partition=1, records_max=4)

    async def test_a_busy_partition_does_not_starve_the_other(self, topic: Topic) -> None:
        await topic.append(*numbered(2000), partition=0)
        await topic.append(b"quiet", partition=1)
        async with topic.log() as log:
            reader = Reader(log)
            await reader.until_holding(0, 1)
            with anyio.fail_after(DEADLINE_S):
                while 1 not in reader.values:
                    await reader.poll(records_max=10)
            assert len(reader.values.get(0, ())) < 2000

    async def test_a_partition_that_was_not_sought_does_not_hold_up_the_other(self, topic: Topic) -> None:
        await topic.append(*numbered(3), partition=0)
        await topic.append(*numbered(3), partition=1)
        async with topic.log() as log:
            reader = Reader(log)
            await reader.until_holding(0, 1, seek=False)
            await reader.seek(1, 0)
            await reader.until_read(*numbered(3), partition=1)
            assert 0 not in reader.values

    async def test_without_a_group_all_partitions_are_held_whoever_else_reads(self, topic: Topic) -> None:
        async with topic.log(None) as one, topic.log(None) as other:
            for log in (one, other):
                await Reader(log).until_holding(0, 1)


class WideningContract:
    """Partitions that are added; `topic` has two."""

    async def test_a_partition_that_is_added_is_gained(self, topic: Topic) -> None:
        async with topic.log(None) as log:
            reader = Reader(log)
            await reader.until_holding(0, 1)
            await topic.add_partition()
            await topic.append(b"new", partition=2)
            await reader.until_read(b"new", partition=2)
            assert await log.partitions() == {0, 1, 2}


class GroupContract:
    """Several members of one group; `topic` has two partitions."""

    async def test_two_members_share_the_partitions(self, topic: Topic) -> None:
        async with topic.log() as first, topic.log() as second:
            one, other = Reader(first), Reader(second)
            await _settle(one, other)
            await topic.append(*numbered(5), partition=0)
            await topic.append(*numbered(5), partition=1)
            with anyio.fail_after(DEADLINE_S):
                while sum(len(v) for reader in (one, other) for v in reader.values.values()) < 10:
                    await one.poll()
                    await other.poll()
            (mine,), (theirs,) = one.held, other.held
            assert one.values == {mine: numbered(5)}
            assert other.values == {theirs: numbered(5)}

    async def test_what_a_member_leaves_the_other_gains(self, topic: Topic) -> None:
        await topic.append(*numbered(3), partition=0)
        await topic.append(*numbered(3), partition=1)
        async with topic.log() as first:
            one = Reader(first)
            async with topic.log() as second:
                other = Reader(second)
                await _settle(one, other)
                (theirs,) = other.held
                await other.until_read(*numbered(3), partition=theirs)
            await one.until_holding(0, 1)
            await one.until_read(*numbered(3), partition=0)
            await one.until_read(*numbered(3), partition=1)

    async def test_a_partition_that_comes_back_must_be_sought_again(self, topic: Topic) -> None:
        await topic.append(*numbered(10), partition=0)
        await topic.append(*numbered(10), partition=1)
        async with topic.log() as first:
            one = Reader(first)
            await one.until_holding(0, 1)
            await one.until_read(*numbered(10), partition=0)
            await one.until_read(*numbered(10), partition=1)
            async with topic.log() as second:
                await _settle(one, Reader(second))
            (kept,) = one.held
            back = 1 - kept
            one.values.clear()
            await one.until_holding(0, 1, seek=False)
            for _ in range(3):
                await one.poll(seek=False)
            assert back not in one.values
            await one.seek(back, 8)
            await one.until_read(b"8", b"9", partition=back)

    async def test_a_partition_taken_and_given_back_between_two_polls_is_reported_as_both(self, topic: Topic) -> None:
        async with topic.log() as first:
            one = Reader(first)
            await one.until_holding(0, 1)
            async with topic.log() as second:
                other = Reader(second)
                # The newcomer gets its share while `one` does not poll; what `one` holds changes hands behind its back.
                await _until_shared(other)
            lost: set[int] = set()
            gained: set[int] = set()
            with anyio.fail_after(DEADLINE_S):
                while gained != {0, 1}:
                    polled = await one.poll()
                    lost |= polled.lost
                    gained |= polled.gained
            assert lost == {0, 1}

    async def test_looking_up_needs_no_membership(self, topic: Topic) -> None:
        await topic.append(*numbered(3), partition=0)
        await topic.append(*numbered(3), partition=1)
        async with topic.log() as first, topic.log() as second:
            one, other = Reader(first), Reader(second)
            await _settle(one, other)
            for partition in (0, 1):
                record = await first.record(partition, 2)
                assert record is not None
                assert record.value == b"2"
                assert (await first.bounds(partition)).end >= 1

    async def test_a_report_of_a_lost_partition_is_no_error(self, topic: Topic) -> None:
        async with AsyncExitStack() as stack:
            one = Reader(await stack.enter_async_context(topic.log()))
            await one.until_holding(0, 1)
            other = Reader(await stack.enter_async_context(topic.log()))
            await _settle(one, other)
            await one.log.report({0: 1, 1: 1})


async def _settle(one: Reader, other: Reader) -> None:
    """Poll both in turn until each holds one partition."""
    with anyio.fail_after(DEADLINE_S):
        while not (len(one.held) == len(other.held) == 1 and one.held != other.held):
            await one.poll()
            await other.poll()


async def _until_shared(newcomer: Reader) -> None:
    with anyio.fail_after(DEADLINE_S):
        while not newcomer.held:
            await newcomer.poll()
