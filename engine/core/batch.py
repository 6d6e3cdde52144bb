"""From records to streams: decode, split by stream, put aside what cannot be folded. No I/O.

What an event is, and which of them are folded, is known to the `Folding`.
"""

from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from crashfold.engine.ports import Cells, DeadLetter, DecodedRecords, Folding, Records, RejectedGame, Rejection
from crashfold.projections.columns import Ints
from crashfold.projections.packed import Packed
from crashfold.schemas.record import Unreadable, stream_name

UNREADABLE: Final = "unreadable"
"""The reason of a record that holds no event, or whose key names no stream."""


class StreamBatch(msgspec.Struct, frozen=True):
    """The games of one stream among some records: `rows[i]` is the row of the record that held the game whose cells
    are `cells[:, i]`."""

    name: str
    rows: Ints
    cells: Cells


class Batch(msgspec.Struct, frozen=True):
    """Some records, sorted out. `rejected` are the row, reason and detail of those that hold no game for us, in order;
    a stream is in `streams` as soon as a record named it, even if none of its games could be read."""

    streams: dict[str, StreamBatch]
    rejected: list[Rejection]


def sort_out(records: Records, folding: Folding, only: str | None) -> Batch:
    """Decode the records and split them by stream; with `only`, every other stream is rejected."""
    rows_by_name, rejected = _named(records.keys, only)
    decoded = folding.decode(records)
    unnamed = {row for row, _, _ in rejected}
    rejected += [one for one in decoded.rejected if one[0] not in unnamed]
    is_game = np.zeros(len(records), np.bool_)
    is_game[decoded.rows] = True
    streams = {name: _of_rows(name, rows, decoded, is_game) for name, rows in rows_by_name.items()}
    for name, stream in streams.items():
        if unfit := folding.unfit(name, stream.cells):
            rejected += [(int(stream.rows[position]), reason, detail) for position, reason, detail in unfit]
            rest = np.delete(np.arange(len(stream.rows)), [position for position, _, _ in unfit])
            streams[name] = StreamBatch(name, stream.rows[rest], stream.cells[:, rest])
    if records.unread:
        rejected = [_explained(records, one) for one in rejected]
    return Batch(streams, sorted(rejected))


def dead_letter(topic: str, records: Records, row: int, reason: str, detail: str) -> DeadLetter:
    """Make the dead letter for the record of that row."""
    return DeadLetter(reason, detail, topic, records.partition, records.record(row))


def rejected_letter(topic: str, records: Records, stream: StreamBatch, rejected: RejectedGame) -> DeadLetter:
    """Make the dead letter for a game that the fold rejected."""
    row = int(stream.rows[rejected.position])
    return dead_letter(topic, records, row, rejected.reason, rejected.detail)


def after(stream: StreamBatch, records: Records, next_offset: int) -> StreamBatch:
    """Keep the games of the stream from `next_offset` on: those before it have been folded already."""
    first = int(np.searchsorted(records.offsets[stream.rows], next_offset))
    return StreamBatch(stream.name, stream.rows[first:], stream.cells[:, first:]) if first else stream


def cut(stream: StreamBatch, records: Records, offset: int) -> tuple[StreamBatch, StreamBatch]:
    """Split the games of the stream: those below that offset, and the others."""
    at = int(np.searchsorted(records.offsets[stream.rows], offset))
    below = StreamBatch(stream.name, stream.rows[:at], stream.cells[:, :at])
    return below, StreamBatch(stream.name, stream.rows[at:], stream.cells[:, at:])


def joined_by_partition(pieces: Iterable[Records]) -> list[Records]:
    """Join the records of each partition; `pieces` are in the order in which they were read."""
    by_partition: dict[int, list[Records]] = {}
    for piece in pieces:
        by_partition.setdefault(piece.partition, []).append(piece)
    return [Records.joined(some) for some in by_partition.values()]


def _explained(records: Records, rejected: Rejection) -> Rejection:
    """The same, with what the log knows of a record that it does not have whole."""
    row, reason, detail = rejected
    return row, reason, records.unread.get(int(records.offsets[row]), detail) if reason == UNREADABLE else detail


def _named(keys: Packed, only: str | None) -> tuple[dict[str, Ints], list[Rejection]]:
    """The rows of each stream, and those whose key names none of ours."""
    named: dict[str, Ints] = {}
    rejected: list[Rejection] = []
    for key, rows in _rows_by_key(keys).items():
        match _stream_of(key, only):
            case str(name):
                # Two keys may name one stream: its own name, and none at all.
                named[name] = np.sort(np.concatenate((named[name], rows))) if name in named else rows
            case (reason, detail):
                rejected += [(row, reason, detail) for row in rows.tolist()]
    return named, rejected


def _rows_by_key(keys: Packed) -> dict[bytes | None, Ints]:
    if not len(keys):
        return {}
    if keys.are_all(first := keys[0]):
        return {first: np.arange(len(keys))}
    rows: dict[bytes | None, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    return {key: np.array(some, np.int64) for key, some in rows.items()}


def _of_rows(name: str, rows: Ints, decoded: DecodedRecords, is_game: NDArray[np.bool_]) -> StreamBatch:
    """The games among those rows."""
    if len(rows) == len(is_game):
        return StreamBatch(name, decoded.rows, decoded.cells)
    rows = rows[is_game[rows]]
    return StreamBatch(name, rows, decoded.cells[:, np.searchsorted(decoded.rows, rows)])


def _stream_of(key: bytes | None, only: str | None) -> str | tuple[str, str]:
    name = stream_name(key)
    if isinstance(name, Unreadable):
        return UNREADABLE, name.detail
    if only is not None and name != only:
        return "stream", f"stream {name}: this deployment is of the stream {only} alone (engine.stream)"
    return name
