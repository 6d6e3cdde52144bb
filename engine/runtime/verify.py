"""Verify: recompute a stream from the topic, up to its stored checkpoint, and compare key by key.

The recomputation is the folding's own (`Folding.recount`), and shares nothing with the line but decoding. Reads only.
"""

import pickle
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from crashfold.engine.core.start import was_recreated
from crashfold.engine.errors import LostRange, StateError
from crashfold.engine.ports import Bounds, Checkpoint, EventLog, Folding, Record, Recount, StateReader, Stored
from crashfold.engine.runtime.streams import restored
from crashfold.projections.delta import SortedSet, Value
from crashfold.schemas.record import stream_name

BATCH_GAMES: Final = 20_000
POLL_WAIT_S: Final = 0.5
STREAMS_AT_ONCE: Final = 250
"""The keys of so many streams are read together: the store has to look for them among all that it has."""
SHOWN_BYTES: Final = 200


class CannotCompare(StateError):
    """Stored state and topic cannot be compared; the message says why. `verify` ends with 2."""

    exit_code = 2


class Difference(msgspec.Struct, frozen=True):
    """A key, or a part of one, that is not as the topic says it should be. None stands for nothing at all."""

    stream: str
    key: str
    part: str | None
    expected: str | None
    stored: str | None


class Verified(msgspec.Struct, frozen=True):
    """One stream that was compared, all keys of one version."""

    stream: str
    version: int
    games: int
    keys: int
    next_offset: int
    duplicates: int
    rejected: int


class VerifyReport(msgspec.Struct, frozen=True):
    """The streams that were compared, and every difference that was found."""

    streams: tuple[Verified, ...]
    differences: tuple[Difference, ...]


class _Compared:
    """A stream as it is stored, and what recomputes it: packed until they are compared, for there may be many thousands
    of streams, and to be read they take ten times as much memory."""

    def __init__(self, stored: Stored, model: dict[str, Value], recount: Recount) -> None:
        self.checkpoint = stored.checkpoint
        self.recount = recount
        self._stored = _packed((stored, model))

    def take(self, partition: int, record: Record) -> None:
        """Count the record, unless it lies beyond the checkpoint. Raises CannotCompare where the stream does not live:
        an engine stops there."""
        checkpoint = self.checkpoint
        if partition != checkpoint.partition:
            raise CannotCompare(
                f"stream {stream_name(record.key)} lives on partition {checkpoint.partition}, and partition "
                f"{partition} has records of it too, at offset {record.offset}: publish it to one partition of "
                "a new topic, set kafka.topic to that, and rebuild by `crashfold replay`"
            )
        if record.offset < checkpoint.next_offset:
            self.recount.take(record)

    def stored(self) -> tuple[Stored, dict[str, Value]]:
        """Return the stored state and the read model."""
        stored: tuple[Stored, dict[str, Value]] = _unpacked(self._stored)
        return stored


def _packed(value: object) -> bytes:
    return zlib.compress(pickle.dumps(value, pickle.HIGHEST_PROTOCOL), 1)


def _unpacked(data: bytes) -> Any:
    return pickle.loads(zlib.decompress(data))  # nobody but this process has had it


async def verify(
    event_log: EventLog,
    reader: StateReader,
    folding: Folding,
    streams: Sequence[str],
    progressed: Callable[[int, int], None] = lambda read, total: None,
    *,
    poll_wait_s: float = POLL_WAIT_S,
) -> VerifyReport:
    """Compare each stream's keys with what the topic says. Raises CannotCompare when that cannot be done.

    `progressed` hears how many records were read and how many there are to read.
    """
    compares: dict[str, _Compared] = {}
    for start in range(0, len(streams), STREAMS_AT_ONCE):
        some = streams[start : start + STREAMS_AT_ONCE]
        for stream, read in zip(some, await reader.read_models(some), strict=True):
            found = _comparable(read, folding, event_log.topic, stream)
            compares[stream] = _Compared(*found, folding.recount(stream))
    try:
        await _read_topic(event_log, compares, progressed, poll_wait_s)
    except LostRange as error:
        raise CannotCompare(f"retention removed records while they were being read: {error}") from error
    verified, differences = [], []
    for stream in list(compares):
        one = compares.pop(stream)
        (stored, model), recounted = one.stored(), one.recount.result()
        differences += compared(stream, folding, recounted.keys, stored, model)
        verified.append(
            Verified(
                stream,
                stored.version,
                recounted.games,
                len(recounted.keys),
                stored.checkpoint.next_offset,
                recounted.duplicates,
                recounted.rejected,
            )
        )
    return VerifyReport(tuple(verified), tuple(differences))


def compared(
    stream: str, folding: Folding, expected: Mapping[str, Value], stored: Stored, model: Mapping[str, Value]
) -> list[Difference]:
    """Where the keys of a stream, or those that a restart would make of what is stored, are not as expected."""
    return [*differences_of(stream, expected, model), *_restart_differences(stream, folding, expected, stored)]


def differences_of(stream: str, expected: Mapping[str, Value], stored: Mapping[str, Value]) -> list[Difference]:
    """Where two read models differ: by key, and within hashes, lists and sorted sets by field, index or id."""
    differences = []
    for key in sorted(expected.keys() | stored.keys()):
        want, have = _parts(expected.get(key)), _parts(stored.get(key))
        for part in [part for part in want | have if want.get(part) != have.get(part)]:
            differences.append(Difference(stream, key, part, _shown(want.get(part)), _shown(have.get(part))))
    return differences


def _comparable(
    read: tuple[Stored, dict[str, Value]] | None, folding: Folding, topic: str, stream: str
) -> tuple[Stored, dict[str, Value]]:
    """Return the stored state. Raises CannotCompare when it was not made of this topic by these settings."""
    if read is None:
        raise CannotCompare(f"nothing is stored for stream {stream}: run `crashfold run` or `crashfold replay` first")
    checkpoint = read[0].checkpoint
    if checkpoint.fingerprint != folding.fingerprint:
        raise CannotCompare(
            f"stream {stream} was folded with other predicates, sizes, projections or rules than these settings have: "
            "verify with those, or rebuild by `crashfold replay`"
        )
    if checkpoint.topic != topic:
        raise CannotCompare(f"stream {stream} was folded from topic {checkpoint.topic}, not from {topic}")
    return read


async def _read_topic(
    event_log: EventLog,
    compares: dict[str, _Compared],
    progressed: Callable[[int, int], None],
    poll_wait_s: float,
) -> None:
    """Let every stream's games arrive, up to its checkpoint."""
    partitions = await event_log.partitions()
    topic_id = await event_log.current_topic_id() if partitions else None
    homes: dict[int, dict[str, Checkpoint]] = {}
    for stream, one in compares.items():
        checkpoint = one.checkpoint
        if checkpoint.partition not in partitions:
            raise CannotCompare(
                f"{event_log.topic} has no partition {checkpoint.partition}, from which stream {stream} was folded"
            )
        homes.setdefault(checkpoint.partition, {})[stream] = checkpoint
    positions: dict[int, int] = {}
    ends: dict[int, int] = {}
    for number, here in homes.items():
        bounds = await event_log.bounds(number)
        for stream, checkpoint in here.items():
            await _check_same_topic(event_log, topic_id, bounds, stream, checkpoint)
        positions[number] = bounds.begin
        ends[number] = min(bounds.end, max(checkpoint.next_offset for checkpoint in here.values()))
    total = sum(ends[number] - positions[number] for number in homes)
    read = 0
    while any(positions[number] < end for number, end in ends.items()):
        polled = await event_log.poll(BATCH_GAMES, poll_wait_s)
        if polled.gained and event_log.topic_id != topic_id:
            raise CannotCompare(f"{event_log.topic} was made anew while it was read: verify again")
        for number in sorted(polled.gained & positions.keys()):  # also after a reconnection
            await event_log.seek(number, positions[number])
        for records in polled.records:
            times = records.timestamps_ms.tolist()
            for record in map(Record, records.offsets.tolist(), times, records.keys, records.values):
                name = stream_name(record.key)
                if isinstance(name, str) and name in compares:
                    compares[name].take(records.partition, record)
            positions[records.partition] = records.next_offset
            read += len(records)
        progressed(read, max(read, total))


async def _check_same_topic(
    event_log: EventLog, topic_id: str | None, bounds: Bounds, stream: str, checkpoint: Checkpoint
) -> None:
    """Raise CannotCompare when the partition does not hold all that the stream was folded from."""
    where = f"{event_log.topic}/{checkpoint.partition}"
    mark = checkpoint.mark
    found = None if mark is None else await event_log.record(checkpoint.partition, mark.offset)
    if recreated := was_recreated(checkpoint.topic_id, mark, topic_id, bounds, found):
        raise CannotCompare(f"{where} is not the partition that stream {stream} was folded from: {recreated.evidence}")
    if checkpoint.first_offset < 0:
        raise CannotCompare(f"{where} was recreated since stream {stream} was folded, and the state was kept")
    if checkpoint.first_offset < bounds.begin:
        raise CannotCompare(
            f"retention removed offsets {checkpoint.first_offset} to {bounds.begin - 1} of {where}, which stream "
            f"{stream} was folded from"
        )


def _restart_differences(
    stream: str, folding: Folding, expected: Mapping[str, Value], stored: Stored
) -> list[Difference]:
    """Whether a restart would find the same state in what is stored beside the keys."""
    try:
        restarted = restored(stream, folding, stored).keys()
    except StateError as error:
        return [Difference(stream, "checkpoint", None, "a state that can be loaded", str(error))]
    return [
        Difference(stream, f"checkpoint → {found.key}", found.part, found.expected, found.stored)
        for found in differences_of(stream, expected, restarted)
    ]


def _parts(value: Value | None) -> dict[str | None, bytes]:
    match value:
        case None:
            return {}
        case bytes():
            return {None: value}
        case dict():
            return {field: part for field, part in value.items()}  # noqa: C416  # the key's type is wider here
        case list():
            return {str(index): element for index, element in enumerate(value)}
        case SortedSet(members):
            return {str(score): member for score, member in members.items()}


def _shown(value: bytes | None) -> str | None:
    if value is None:
        return None
    text = value.decode("utf-8", "replace")
    return text if len(text) <= SHOWN_BYTES else f"{text[:SHOWN_BYTES]}…"
