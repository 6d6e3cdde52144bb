"""The log: a topic of records, read in order; and dead letters: records that cannot be folded.

Offsets: `next_offset` is always the offset of the next record to read; offsets have holes, so it is never computed
from a count.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec
import numpy as np

from crashfold.projections.columns import Ints
from crashfold.projections.packed import Packed


class Record(msgspec.Struct, frozen=True):
    """One record of a partition; `timestamp_ms` is the log's own."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


class Records(msgspec.Struct, frozen=True):
    """Some consecutive records of one partition, column by column (all of the same length, possibly empty).

    `next_offset` is where reading goes on: beyond the last record and any hole behind it.
    """

    partition: int
    next_offset: int
    offsets: Ints
    timestamps_ms: Ints
    keys: Packed
    values: Packed
    unread: Mapping[int, str] = {}
    """By offset, why the log could not deliver a record as it was written. No such record holds a game."""

    @classmethod
    def of(cls, partition: int, next_offset: int, records: Sequence[Record]) -> "Records":
        """Make the columns of these records of one partition."""
        return cls(
            partition,
            next_offset,
            np.array([record.offset for record in records], np.int64),
            np.array([record.timestamp_ms for record in records], np.int64),
            Packed.of([record.key for record in records]),
            Packed.of([record.value for record in records]),
        )

    @classmethod
    def joined(cls, pieces: "Sequence[Records]") -> "Records":
        """Join pieces of one partition that were read one after the other. There must be one at least."""
        if len(pieces) == 1:
            return pieces[0]
        return cls(
            pieces[0].partition,
            pieces[-1].next_offset,
            np.concatenate([piece.offsets for piece in pieces]),
            np.concatenate([piece.timestamps_ms for piece in pieces]),
            Packed.joined([piece.keys for piece in pieces]),
            Packed.joined([piece.values for piece in pieces]),
            {offset: why for piece in pieces for offset, why in piece.unread.items()},
        )

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def bytes_held(self) -> int:
        """Return the bytes of the buffer that holds the values, and as a rule the keys."""
        return len(self.values.buffer)

    def record(self, row: int) -> Record:
        """Return the record of that row."""
        return Record(int(self.offsets[row]), int(self.timestamps_ms[row]), self.keys[row], self.values[row])

    def part(self, start: int, stop: int) -> "Records":
        """Return rows `start` to `stop` (exclusive); `next_offset` stays."""
        return Records(
            self.partition,
            self.next_offset,
            self.offsets[start:stop],
            self.timestamps_ms[start:stop],
            self.keys.part(start, stop),
            self.values.part(start, stop),
            self.unread,
        )

    def rows(self, rows: Ints | Sequence[int]) -> "Records":
        """Return these rows, which must ascend; `next_offset` stays."""
        return Records(
            self.partition,
            self.next_offset,
            self.offsets[rows],
            self.timestamps_ms[rows],
            self.keys.rows(rows),
            self.values.rows(rows),
            self.unread,
        )


class Polled(msgspec.Struct, frozen=True):
    """The result of one poll: partitions that were gained or lost, and records.

    Of a gained partition no records come before `EventLog.seek` said where to begin; of a lost one none come at all.
    """

    gained: frozenset[int] = frozenset()
    lost: frozenset[int] = frozenset()
    records: tuple[Records, ...] = ()
    has_more: bool = False
    """Whether the log held records behind these, as far as it knows."""

    @property
    def count(self) -> int:
        """Count the records."""
        return sum(map(len, self.records))

    @property
    def bytes_held(self) -> int:
        """Return the bytes that the buffers of the records take."""
        return sum(records.bytes_held for records in self.records)

    def with_more(self, more: "Polled") -> "Polled":
        """Return this result joined with that of the next poll. Partitions have changed hands in one of the two at
        most."""
        records = (*self.records, *more.records)
        return Polled(self.gained | more.gained, self.lost | more.lost, records, more.has_more)


class Bounds(msgspec.Struct, frozen=True):
    """The records that a partition holds: from offset `begin` up to `end` (exclusive)."""

    begin: int
    end: int


class Mark(msgspec.Struct, frozen=True):
    """The identity of one record: a recreated topic has another one at that offset."""

    offset: int
    timestamp_ms: int
    digest: str
    """16 hex digits of SHA-256 over key and value."""

    @classmethod
    def of(cls, record: Record) -> "Mark":
        """Return the mark of a record."""
        digest = hashlib.sha256()
        for part in (record.key, record.value):
            digest.update(b"\0" if part is None else b"\1%d:%b" % (len(part), part))
        return cls(record.offset, record.timestamp_ms, digest.hexdigest()[:16])


class DeadLetter(msgspec.Struct, frozen=True):
    """A record that cannot be folded, with what is needed to find it again and to know why."""

    reason: str
    """One word; of games one of `crashfold.engine.games.folding.REASONS`."""
    detail: str
    topic: str
    partition: int
    record: Record


class EventLog(AbstractAsyncContextManager["EventLog"], Protocol):
    """A topic, read in order of offsets within each partition. Entering connects, leaving lets the partitions go."""

    @property
    def topic(self) -> str:
        """Return the topic's name; for a file its path."""

    @property
    def topic_id(self) -> str | None:
        """Return the id of the topic that is read, which no other topic has; None before a partition was gained, and
        where there are no ids.

        Polls bring records of that topic alone. When another topic gets the name, all partitions are lost; those
        that are gained next belong to the new topic, and this id changes with them.
        """

    async def poll(self, records_max: int, wait_s: float) -> Polled:
        """Return up to `records_max` records of the partitions held, as soon as there are any; none after `wait_s`."""

    async def seek(self, partition: int, next_offset: int) -> None:
        """Set the offset from which the partition is read next. Records that were fetched and not
        yet polled are dropped."""

    async def bounds(self, partition: int) -> Bounds:
        """Return the first offset that the partition holds now, and its end. Records of open transactions do not
        count."""

    async def partitions(self) -> frozenset[int]:
        """List all partitions of the topic, held or not."""

    async def current_topic_id(self) -> str | None:
        """Return the id of the topic that has the name now; None where there are no ids. Raises LogUnavailable while
        there is no such topic."""

    async def is_compacted(self) -> bool:
        """Whether the topic is compacted: Kafka drops records that have a newer one of the same key. False if
        unknown."""

    async def record(self, partition: int, offset: int) -> Record | None:
        """Return the record at exactly that offset; None when there is none (any more). Does not move the position."""

    async def report(self, next_offsets: Mapping[int, int]) -> None:
        """Commit to Kafka's consumer group how far each partition was read, for lag dashboards only. Never read
        back."""


class DeadLetters(Protocol):
    """The destination of records that cannot be folded."""

    async def put(self, letters: Sequence[DeadLetter]) -> None:
        """Store these dead letters for good; return once they are stored. May be called again with the same ones."""
