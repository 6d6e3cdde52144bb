"""From records to games: decode, split by stream, put aside what cannot be folded. No I/O."""

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from engine.core.facts import DeadLetter, Record, Records
from engine.core.fairness import FairnessCheck
from projections.sift import Rejected
from schemas.game import Game, Unreadable, decode_all, stream_name

REASONS = ("unreadable", "stream", "fairness", "conflict", "late")
"""Why a record can become a dead letter."""

Reason = Literal["unreadable", "stream", "fairness", "conflict", "late"]

_DETAILS = {
    "conflict": "another game with this id has been folded already",
    "late": "older than every game of the full window",
}


class StreamBatch(msgspec.Struct):
    """The games of one stream among some records: `rows[i]` is the row of the record that held `games[i]`."""

    name: str
    rows: list[int]
    games: list[Game]


class Batch(msgspec.Struct, frozen=True):
    """Some records, sorted out. `rejected` are the row, reason and detail of those that hold no game for us; a stream
    is in `streams` as soon as a record named it, even if none of its games could be read."""

    streams: dict[str, StreamBatch]
    rejected: list[tuple[int, Reason, str]]


def sort_out(records: Records, only: str | None, fairness: FairnessCheck | None = None) -> Batch:
    """Decode the records and split them by stream; with `only`, every other stream is rejected."""
    batch = Batch({}, [])
    rejection = fairness.rejection if fairness is not None and fairness.rejects else None
    by_key: dict[bytes | None, StreamBatch | tuple[Reason, str]] = {}
    for row, (key, game) in enumerate(zip(records.keys, decode_all(records.values), strict=True)):
        stream = by_key.get(key)
        if stream is None:
            stream = by_key[key] = _stream_of(key, only, batch)
        if isinstance(stream, tuple):
            batch.rejected.append((row, *stream))
        elif isinstance(game, Unreadable):
            batch.rejected.append((row, "unreadable", game.detail))
        elif rejection is not None and (detail := rejection(game)) is not None:
            batch.rejected.append((row, "fairness", detail))
        else:
            stream.rows.append(row)
            stream.games.append(game)
    return batch


def dead_letter(topic: str, records: Records, row: int, reason: Reason, detail: str) -> DeadLetter:
    """The record of that row as a dead letter."""
    record = Record(records.offsets[row], records.timestamps_ms[row], records.keys[row], records.values[row])
    return DeadLetter(reason, detail, topic, records.partition, record)


def rejected_letter(topic: str, records: Records, stream: StreamBatch, rejected: Rejected) -> DeadLetter:
    """A game that the fold rejected as a dead letter."""
    row = stream.rows[rejected.position]
    return dead_letter(topic, records, row, rejected.reason, _DETAILS[rejected.reason])


def after(stream: StreamBatch, records: Records, next_offset: int) -> StreamBatch:
    """The games of the stream from `next_offset` on: those before it have been folded already."""
    if not stream.rows or records.offsets[stream.rows[0]] >= next_offset:
        return stream
    first = sum(records.offsets[row] < next_offset for row in stream.rows)
    return StreamBatch(stream.name, stream.rows[first:], stream.games[first:])


def joined(pieces: Sequence[Records]) -> Records:
    """Records of one partition that were read one after the other, as one."""
    if len(pieces) == 1:
        return pieces[0]
    return Records(
        pieces[0].partition,
        pieces[-1].next_offset,
        [offset for piece in pieces for offset in piece.offsets],
        [timestamp for piece in pieces for timestamp in piece.timestamps_ms],
        [key for piece in pieces for key in piece.keys],
        [value for piece in pieces for value in piece.values],
    )


def joined_by_partition(pieces: Iterable[Records]) -> list[Records]:
    """Records of several partitions, each partition's in the order in which they were read, as one of each."""
    by_partition: dict[int, list[Records]] = {}
    for piece in pieces:
        by_partition.setdefault(piece.partition, []).append(piece)
    return [joined(some) for some in by_partition.values()]


def _stream_of(key: bytes | None, only: str | None, batch: Batch) -> StreamBatch | tuple[Reason, str]:
    name = stream_name(key)
    if isinstance(name, Unreadable):
        return "unreadable", name.detail
    if only is not None and name != only:
        return "stream", f"stream {name}: this deployment is of the stream {only} alone (engine.stream)"
    return batch.streams.setdefault(name, StreamBatch(name, [], []))
