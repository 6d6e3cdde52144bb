"""The memory twins of `EventLog` and `DeadLetters`, for tests, simulation and examples.

Imports anyio and the engine's facts. Deterministic: nothing happens but in a call, and equal calls have equal results.
`MemoryTopic` is the broker: a test appends to it, makes holes, lets retention pass or partitions change hands, and any
number of `MemoryLog`s read it.
"""

import bisect
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Final, Self

import anyio
import anyio.lowlevel
import numpy as np

from crashfold.engine.adapters.dead_letters import StoredDeadLetter
from crashfold.engine.adapters.process.handover import Handover
from crashfold.engine.errors import LogUnavailable, LostRange
from crashfold.engine.ports import Bounds, DeadLetter, Polled, Record, Records
from crashfold.projections.packed import Packed

GROUP_ID: Final = "crashfold"


class MemoryTopic:
    """A topic of some partitions. Offsets have holes where records were skipped or removed.

    While `available` is False every call of its logs raises `LogUnavailable`, entering them included. `reported` is
    what the logs said they have read: partition to next offset. Without `topic_ids` a topic made anew is not known as
    another one, as with brokers before Kafka 2.8. `is_compacted` only says so; `remove` takes records out.
    """

    def __init__(self, name: str = "games", partitions: int = 1, *, topic_ids: bool = True) -> None:
        self.name = name
        self.available = True
        self.is_compacted = False
        self._has_ids = topic_ids
        self._made = 1
        self.reported: dict[int, int] = {}
        self._partitions = [_Partition() for _ in range(partitions)]
        self._groups: dict[str, list[MemoryLog]] = {}
        self._loners: list[MemoryLog] = []
        self._turns: dict[str, int] = {}
        self._waiting: dict[anyio.Event, None] = {}
        """Polls that wait, in the order in which they began: a set would wake them in any."""

    @property
    def topic_id(self) -> str | None:
        """The id of the topic that has the name now."""
        return f"{self.name}-{self._made}" if self._has_ids else None

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions' numbers."""
        return frozenset(range(len(self._partitions)))

    def append(
        self, value: bytes | None, *, key: bytes | None = None, partition: int = 0, timestamp_ms: int = 0
    ) -> int:
        """Add a record to the partition's end; its offset."""
        offset = self._partitions[partition].append(timestamp_ms, key, value)
        self._wake()
        return offset

    def extend(self, values: Iterable[bytes | None], *, key: bytes | None = None, partition: int = 0) -> None:
        """Add records to the partition's end, all at once for whoever waits."""
        for value in values:
            self._partitions[partition].append(0, key, value)
        self._wake()

    def skip(self, offsets: int = 1, *, partition: int = 0) -> None:
        """Leave a hole of so many offsets at the partition's end, as transactions do."""
        self._partitions[partition].end += offsets
        self._wake()

    def remove(self, offset: int, *, partition: int = 0) -> None:
        """Take one record out, as compaction does. Its offset stays a hole."""
        self._partitions[partition].remove(offset)

    def truncate_before(self, offset: int, *, partition: int = 0) -> None:
        """Drop all records below `offset`, as retention does."""
        self._partitions[partition].truncate_before(offset)

    def recreate(self, partitions: int | None = None) -> None:
        """Delete the topic and make it anew, empty. Its logs lose all partitions and gain those of the new one; without
        ids they notice nothing and keep their positions, as real ones do, unless there are more or fewer partitions."""
        before = self.partitions
        self._partitions = [_Partition() for _ in range(partitions or len(self._partitions))]
        self._made += 1
        self.reported.clear()
        if self._has_ids or self.partitions != before:
            for group_id in self._groups:
                self.rebalance(group_id)
            for log in self._loners:
                log._handover.lose(set(log._handover.held))
                log._handover.gain(set(self.partitions))
        self._wake()

    def add_partitions(self, count: int = 1) -> None:
        """Make the topic wider. Groups deal out all partitions anew."""
        self._partitions += [_Partition() for _ in range(count)]
        for group_id in self._groups:
            self.rebalance(group_id)
        for log in self._loners:
            log._handover.gain(set(self.partitions))
        self._wake()

    def rebalance(self, group_id: str = GROUP_ID) -> None:
        """Take all partitions from the group's members and deal them out again, beginning with another member."""
        members = self._groups.get(group_id, [])
        turn = self._turns[group_id] = self._turns.get(group_id, -1) + 1
        for member in members:
            member._handover.lose(set(member._handover.held))
        for partition in sorted(self.partitions) if members else ():
            members[(partition + turn) % len(members)]._handover.gain({partition})
        self._wake()

    def evict(self, log: "MemoryLog") -> None:
        """Throw a member out of its group, as brokers do with one that is silent; it joins again when it polls."""
        if self._joined(log):
            self._leave(log)
            log._handover.lose(set(log._handover.held))

    def _join(self, log: "MemoryLog") -> None:
        if log.group_id is None:
            self._loners.append(log)
            log._handover.gain(set(self.partitions))
        else:
            self._groups.setdefault(log.group_id, []).append(log)
            self.rebalance(log.group_id)

    def _leave(self, log: "MemoryLog") -> None:
        if log.group_id is None:
            self._loners.remove(log)
        else:
            self._groups[log.group_id].remove(log)
            self.rebalance(log.group_id)

    def _joined(self, log: "MemoryLog") -> bool:
        return log in (self._loners if log.group_id is None else self._groups.get(log.group_id, ()))

    def _require_available(self) -> None:
        if not self.available:
            raise LogUnavailable(f"the topic {self.name} is not available; try again")

    def _partition(self, partition: int) -> "_Partition":
        self._require_available()
        if partition not in self.partitions:
            raise LogUnavailable(f"the topic {self.name} has no partition {partition}")
        return self._partitions[partition]

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for arrived in waiting:
            arrived.set()


class MemoryLog:
    """An `EventLog` over a `MemoryTopic`: a member of the group `group_id`, or of none and then holding everything.

    Joining and leaving rebalance the group, and so does `MemoryTopic.rebalance`: eagerly, so that every member loses
    all it has and then gains what it is dealt.
    """

    def __init__(self, topic: MemoryTopic, group_id: str | None = GROUP_ID) -> None:
        self.group_id = group_id
        self._topic = topic
        self._handover = Handover()
        self._topic_id: str | None = None
        self._entered = False
        self._served_last = -1

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self._topic.name

    @property
    def topic_id(self) -> str | None:
        """The id of the topic whose partitions were gained last."""
        return self._topic_id

    async def __aenter__(self) -> Self:
        await anyio.lowlevel.checkpoint()
        self._topic._require_available()
        self._topic._join(self)
        self._entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered = False
        if self._topic._joined(self):
            self._topic._leave(self)
        self._handover.lose(set(self._handover.held))

    async def poll(self, records_max: int, wait_s: float) -> Polled:
        """Changes of hands if there are any, else records; None of either once `wait_s` is over."""
        await anyio.lowlevel.checkpoint()
        if self._entered and not self._topic._joined(self):
            self._topic._join(self)
        with anyio.move_on_after(wait_s):
            while not (self._handover.pending or self._readable()):
                arrived = anyio.Event()
                self._topic._waiting[arrived] = None
                try:
                    await arrived.wait()
                finally:
                    self._topic._waiting.pop(arrived, None)
        # No await from here on: whoever is cancelled has been given nothing.
        if self._handover.pending:
            gained, lost = self._handover.report()
            if gained:
                self._topic_id = self._topic.topic_id
            return Polled(gained, lost)
        records = self._take(records_max)
        return Polled(records=records, has_more=self._readable())

    async def seek(self, partition: int, next_offset: int) -> None:
        """Read on from there; nothing when the partition was lost meanwhile."""
        await anyio.lowlevel.checkpoint()
        self._handover.seek(partition, next_offset)

    async def bounds(self, partition: int) -> Bounds:
        """Which offsets the partition holds."""
        await anyio.lowlevel.checkpoint()
        held = self._topic._partition(partition)
        return Bounds(held.begin, held.end)

    async def partitions(self) -> frozenset[int]:
        """All partitions of the topic."""
        await anyio.lowlevel.checkpoint()
        self._topic._require_available()
        return self._topic.partitions

    async def current_topic_id(self) -> str | None:
        """Return the setting of the topic."""
        await anyio.lowlevel.checkpoint()
        self._topic._require_available()
        return self._topic.topic_id

    async def is_compacted(self) -> bool:
        """Return the setting of the topic."""
        await anyio.lowlevel.checkpoint()
        self._topic._require_available()
        return self._topic.is_compacted

    async def record(self, partition: int, offset: int) -> Record | None:
        """The record at that offset, if it is still there."""
        await anyio.lowlevel.checkpoint()
        return self._topic._partition(partition).record(offset)

    async def report(self, next_offsets: Mapping[int, int]) -> None:
        """Note in `MemoryTopic.reported` how far partitions held were read."""
        await anyio.lowlevel.checkpoint()
        held = self._handover.held
        self._topic.reported.update({p: offset for p, offset in next_offsets.items() if p in held})

    def _readable(self) -> bool:
        """Whether a poll has something to say: a position that is not at the partition's end, or a fault."""
        if not self._topic.available:
            return True
        return any(
            self._topic._partition(partition).end != position
            for partition, position in self._handover.positions.items()
        )

    def _take(self, records_max: int) -> tuple[Records, ...]:
        """At most `records_max` records, the partitions in turn, beginning behind the one that was served last."""
        positions = self._handover.positions
        order = sorted(positions, key=lambda partition: (partition <= self._served_last, partition))
        taken = []
        for partition in order:
            records = self._topic._partition(partition).read(partition, positions[partition], records_max)
            if records.next_offset != positions[partition]:
                taken.append(records)
                records_max -= len(records)
                self._served_last = partition
            if records_max <= 0:
                break
        for records in taken:
            positions[records.partition] = records.next_offset
        return tuple(taken)


class MemoryDeadLetters:
    """`DeadLetters` in a list, in the form in which they are stored on Kafka."""

    def __init__(self) -> None:
        self._letters: dict[tuple[str, int, int], StoredDeadLetter] = {}
        self.available = True

    @property
    def letters(self) -> list[StoredDeadLetter]:
        """All letters, oldest first, each once."""
        return list(self._letters.values())

    async def put(self, letters: Sequence[DeadLetter]) -> None:
        """Keep them; those that are there already are not kept twice."""
        await anyio.lowlevel.checkpoint()
        if not self.available:
            raise LogUnavailable("dead letters cannot be stored; try again")
        for letter in letters:
            stored = StoredDeadLetter.of(letter)
            self._letters.setdefault(stored.origin, stored)


class _Partition:
    """The records of one partition, column by column, ascending by offset."""

    def __init__(self) -> None:
        self.begin = 0
        self.end = 0
        self._offsets: list[int] = []
        self._timestamps_ms: list[int] = []
        self._keys: list[bytes | None] = []
        self._values: list[bytes | None] = []

    def append(self, timestamp_ms: int, key: bytes | None, value: bytes | None) -> int:
        offset = self.end
        self._offsets.append(offset)
        self._timestamps_ms.append(timestamp_ms)
        self._keys.append(key)
        self._values.append(value)
        self.end += 1
        return offset

    def remove(self, offset: int) -> None:
        index = bisect.bisect_left(self._offsets, offset)
        if self._offsets[index : index + 1] != [offset]:
            raise ValueError(f"no record at offset {offset}")
        self._cut(index, index + 1)

    def truncate_before(self, offset: int) -> None:
        if not self.begin <= offset <= self.end:
            raise ValueError(f"offset {offset} is outside {self.begin} to {self.end}")
        self.begin = offset
        self._cut(0, bisect.bisect_left(self._offsets, offset))

    def record(self, offset: int) -> Record | None:
        index = bisect.bisect_left(self._offsets, offset)
        if self._offsets[index : index + 1] != [offset]:
            return None
        return Record(offset, self._timestamps_ms[index], self._keys[index], self._values[index])

    def read(self, partition: int, position: int, records_max: int) -> Records:
        if not self.begin <= position <= self.end:
            raise LostRange(
                f"partition {partition} has no offset {position} any more, only {self.begin} up to {self.end}; "
                "accept the gap or rebuild"
            )
        start = bisect.bisect_left(self._offsets, position)
        stop = min(start + records_max, len(self._offsets))
        return Records(
            partition,
            self.end if stop == len(self._offsets) else self._offsets[stop],
            np.array(self._offsets[start:stop], np.int64),
            np.array(self._timestamps_ms[start:stop], np.int64),
            Packed.of(self._keys[start:stop]),
            Packed.of(self._values[start:stop]),
        )

    def _cut(self, start: int, stop: int) -> None:
        for column in (self._offsets, self._timestamps_ms, self._keys, self._values):
            del column[start:stop]
