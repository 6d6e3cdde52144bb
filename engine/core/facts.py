"""The facts that ports hand over and decisions are made on. Frozen values, no I/O.

Offsets: `next_offset` is always the offset of the next record to read; offsets have holes, so it is never computed
from a count.
"""

import hashlib
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from crashfold.projections.columns import Ints
from crashfold.projections.delta import Writes
from crashfold.projections.packed import Packed
from crashfold.schemas.game import Game


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
    """Why the records of these offsets, which no game can be in, are not here as they were written."""

    @classmethod
    def of(cls, partition: int, next_offset: int, records: Sequence[Record]) -> "Records":
        """These records of that partition."""
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
        """Pieces of one partition, read one after the other, as one. There must be one at least."""
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
        """How large the buffer is in which the values stand, and as a rule the keys."""
        return len(self.values.buffer)

    def record(self, row: int) -> Record:
        """The record of that row."""
        return Record(int(self.offsets[row]), int(self.timestamps_ms[row]), self.keys[row], self.values[row])

    def part(self, start: int, stop: int) -> "Records":
        """Rows `start` to `stop` (exclusive); reading goes on where it did."""
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
        """Those rows, which must ascend; reading goes on where it did."""
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
    """What one poll brought: partitions that were gained or lost, and records.

    Of a gained partition no records come before `EventLog.seek` said where to begin; of a lost one none come at all.
    """

    gained: frozenset[int] = frozenset()
    lost: frozenset[int] = frozenset()
    records: tuple[Records, ...] = ()

    @property
    def count(self) -> int:
        """How many records there are."""
        return sum(map(len, self.records))

    @property
    def bytes_held(self) -> int:
        """How large the buffers of the records are."""
        return sum(records.bytes_held for records in self.records)

    def with_more(self, more: "Polled") -> "Polled":
        """This and what the next poll brought. Partitions have changed hands in one of the two at most."""
        return Polled(self.gained | more.gained, self.lost | more.lost, (*self.records, *more.records))


class Bounds(msgspec.Struct, frozen=True):
    """The records that a partition holds: from offset `begin` up to `end` (exclusive)."""

    begin: int
    end: int


class Mark(msgspec.Struct, frozen=True):
    """What is remembered of one record, to know it again: a recreated topic has another one at that offset."""

    offset: int
    timestamp_ms: int
    digest: str
    """16 hex digits of SHA-256 over key and value."""

    @classmethod
    def of(cls, record: Record) -> "Mark":
        """The mark of that record."""
        digest = hashlib.sha256()
        for part in (record.key, record.value):
            digest.update(b"\0" if part is None else b"\1%d:%b" % (len(part), part))
        return cls(record.offset, record.timestamp_ms, digest.hexdigest()[:16])


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """How far a stream has been folded, by whom and out of what. The fields of the hash `P:checkpoint`, next to those
    that hold the state (`StreamState.stored`)."""

    next_offset: int
    """The next offset to read."""
    generation: str
    """Names one build of the read model; `promote` brings another."""
    commit: str
    """16 hex digits that no other commit has; '' in a state that was stored before commits had them."""
    writer: str
    """The engine that made the last commit, for an operator who wonders."""
    topic: str
    partition: int
    first_offset: int
    """No game of the state stands below it on the topic; -1 when some did not come from this topic at all, because
    it was recreated and the state kept."""
    topic_id: str | None = None
    """Which topic of that name it was; None where brokers know no ids."""
    mark: Mark | None
    """The last record of the partition that was read."""
    fingerprint: str
    """Of the settings and projections the state was made with (`Plan.fingerprint`)."""
    aggregates: tuple[str, ...]
    """What the names of this stream's keys begin with, for `promote` to know which are left over."""

    @property
    def position(self) -> "Position":
        """What a commit on top of this one expects."""
        return Position(self.generation, self.next_offset, self.commit)


class Position(msgspec.Struct, frozen=True):
    """The fencing token: one commit of one stream.

    An offset is a place, not a history. After a failover and back, or a restored dump, the expected offset may stand
    there with other snapshots and another version behind it, so two positions are the same only by their `commit`.
    """

    generation: str
    next_offset: int
    commit: str


class Commit(msgspec.Struct, frozen=True):
    """All that one compare-and-set writes: made only if the stream stands at `expected` (None: has no checkpoint).

    Sent again it is the same commit, by the id in its checkpoint.
    """

    stream: str
    expected: Position | None
    checkpoint: Checkpoint
    delta: Writes
    total_games: int
    newest_id: int | None


class Applied(msgspec.Struct, frozen=True):
    """The commit was made, as this version."""

    version: int


class Duplicate(msgspec.Struct, frozen=True):
    """This very commit had been made before, as this version: its reply was lost. A success."""

    version: int


class Conflict(msgspec.Struct, frozen=True):
    """Nothing was written: the stream stands at `stored`, not where the commit expected it."""

    stored: Position | None


Outcome = Applied | Duplicate | Conflict


class Stored(msgspec.Struct, frozen=True):
    """What a restart reads of a stream, all of one version: `state` are the fields for `StreamState.load`."""

    checkpoint: Checkpoint
    version: int
    state: dict[str, bytes]
    window: list[Game]
    total_games: int
    """What the state and the window must come to."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Where a restart begins to read a partition.

    Every record below `low_water` is in its stream's checkpoint (or a dead letter). `streams` has the `next_offset`
    that each stream's checkpoint had, so that one which has fallen behind it, because Redis lost writes, is noticed.
    Which commit it was need not be known: a restart loads what stands there, and of one topic every history that has
    come as far has folded the same records.
    `first_offsets` has the `first_offset` of each, as far as it is known. `mark` is of the last record read below
    `low_water`, None when there was none; `topic_id` says of which topic all this is, None where brokers know no ids.
    """

    low_water: int
    streams: dict[str, int]
    first_offsets: dict[str, int] = {}
    topic_id: str | None = None
    mark: Mark | None


class Promoted(msgspec.Struct, frozen=True):
    """The shadow generation is live now, as this version."""

    version: int


class Behind(msgspec.Struct, frozen=True):
    """Nothing was swapped: the live state, at `live`, is ahead of the shadow."""

    live: Position


class DeadLetter(msgspec.Struct, frozen=True):
    """A record that cannot be folded, with what is needed to find it again and to know why."""

    reason: str
    """One of `crashfold.engine.core.batch.REASONS`."""
    detail: str
    topic: str
    partition: int
    record: Record


class ServerUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What one server of the store says of itself. Counts are since it was started; 0 for a limit means none."""

    address: str
    memory_bytes: int
    memory_max_bytes: int
    evicted_keys: int
    """Keys that it dropped for want of memory: each may be state."""
    expired_keys: int
    hits: int
    """Reads that found their key."""
    misses: int
    clients: int
    commands: int
