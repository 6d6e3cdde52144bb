"""From records to games: decode, split by stream, put aside what cannot be folded. No I/O."""

from collections.abc import Iterable
from typing import Literal

import msgspec
import numpy as np

from crashfold.engine.core.fairness import FairnessCheck
from crashfold.engine.ports import DeadLetter, Records
from crashfold.projections.columns import Ints
from crashfold.projections.decoding import Decoded, decode_cells
from crashfold.projections.games import END_TIME, Bands, games_of
from crashfold.projections.packed import Packed
from crashfold.projections.settings import HOUR_MS, ProjectionSettings
from crashfold.projections.sift import Rejected
from crashfold.schemas.game import Unreadable, stream_name

REASONS = ("unreadable", "stream", "future", "fairness", "conflict", "late")
"""Why a record can become a dead letter."""

Reason = Literal["unreadable", "stream", "future", "fairness", "conflict", "late"]

_DETAILS = {
    "conflict": "another game with this id has been folded already",
    "late": "older than every game of the full window",
}


class StreamBatch(msgspec.Struct, frozen=True):
    """The games of one stream among some records: `rows[i]` is the row of the record that held the game whose cells
    are `cells[:, i]`."""

    name: str
    rows: Ints
    cells: Ints


class Batch(msgspec.Struct, frozen=True):
    """Some records, sorted out. `rejected` are the row, reason and detail of those that hold no game for us, in order;
    a stream is in `streams` as soon as a record named it, even if none of its games could be read."""

    streams: dict[str, StreamBatch]
    rejected: list[tuple[int, Reason, str]]


def sort_out(
    records: Records,
    bands: Bands,
    settings: ProjectionSettings,
    only: str | None,
    fairness: FairnessCheck | None = None,
) -> Batch:
    """Decode the records and split them by stream; with `only`, every other stream is rejected."""
    rows_by_name, rejected = _named(records.keys, only)
    decoded = decode_cells(bands, records.values)
    unnamed = {row for row, _, _ in rejected}
    rejected += [(row, "unreadable", why.detail) for row, why in decoded.unreadable if row not in unnamed]
    streams = {name: _of_rows(name, rows, decoded, len(records)) for name, rows in rows_by_name.items()}
    if len(too_early := _future_rows(records, decoded, settings.future_hours_max)):
        for name, stream in streams.items():
            streams[name], future = _ended(stream, records, too_early, settings.future_hours_max)
            rejected += future
    if fairness is not None and fairness.rejects:
        for name, stream in streams.items():
            streams[name], unfair = _fair(stream, fairness)
            rejected += unfair
    if records.unread:
        rejected = [_explained(records, one) for one in rejected]
    return Batch(streams, sorted(rejected))


def dead_letter(topic: str, records: Records, row: int, reason: Reason, detail: str) -> DeadLetter:
    """The record of that row as a dead letter."""
    return DeadLetter(reason, detail, topic, records.partition, records.record(row))


def rejected_letter(topic: str, records: Records, stream: StreamBatch, rejected: Rejected) -> DeadLetter:
    """A game that the fold rejected as a dead letter."""
    row = int(stream.rows[rejected.position])
    return dead_letter(topic, records, row, rejected.reason, _DETAILS[rejected.reason])


def after(stream: StreamBatch, records: Records, next_offset: int) -> StreamBatch:
    """The games of the stream from `next_offset` on: those before it have been folded already."""
    first = int(np.searchsorted(records.offsets[stream.rows], next_offset))
    return StreamBatch(stream.name, stream.rows[first:], stream.cells[:, first:]) if first else stream


def cut(stream: StreamBatch, records: Records, offset: int) -> tuple[StreamBatch, StreamBatch]:
    """The games of the stream below that offset, and the others."""
    at = int(np.searchsorted(records.offsets[stream.rows], offset))
    below = StreamBatch(stream.name, stream.rows[:at], stream.cells[:, :at])
    return below, StreamBatch(stream.name, stream.rows[at:], stream.cells[:, at:])


def joined_by_partition(pieces: Iterable[Records]) -> list[Records]:
    """Records of several partitions, each partition's in the order in which they were read, as one of each."""
    by_partition: dict[int, list[Records]] = {}
    for piece in pieces:
        by_partition.setdefault(piece.partition, []).append(piece)
    return [Records.joined(some) for some in by_partition.values()]


def _explained(records: Records, rejected: tuple[int, Reason, str]) -> tuple[int, Reason, str]:
    """The same, with what the log knows of a record that it does not have whole."""
    row, reason, detail = rejected
    return row, reason, records.unread.get(int(records.offsets[row]), detail) if reason == "unreadable" else detail


def _named(keys: Packed, only: str | None) -> tuple[dict[str, Ints], list[tuple[int, Reason, str]]]:
    """The rows of each stream, and those whose key names none of ours."""
    named: dict[str, Ints] = {}
    rejected: list[tuple[int, Reason, str]] = []
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


def _of_rows(name: str, rows: Ints, decoded: Decoded, total: int) -> StreamBatch:
    """The games among those rows."""
    if len(rows) == total:
        return StreamBatch(name, decoded.rows, decoded.cells)
    is_game = np.zeros(total, np.bool_)
    is_game[decoded.rows] = True
    rows = rows[is_game[rows]]
    return StreamBatch(name, rows, decoded.cells[:, np.searchsorted(decoded.rows, rows)])


def future_detail(end_time: int, timestamp_ms: int, hours_max: int) -> str:
    """Why a game from the future is rejected."""
    return (
        f"end_time {end_time} lies {(end_time - timestamp_ms) / HOUR_MS:.1f} hours after the record's timestamp, more "
        f"than projections.future_hours_max, {hours_max}"
    )


def _future_rows(records: Records, decoded: Decoded, hours_max: int) -> Ints:
    """The rows of the games that end too long after their records were written (`plain.is_future`)."""
    if not hours_max:
        return decoded.rows[:0]
    timestamps_ms = records.timestamps_ms[decoded.rows]
    ahead_ms = decoded.cells[END_TIME] - timestamps_ms
    rows: Ints = decoded.rows[(ahead_ms > hours_max * HOUR_MS) & (timestamps_ms > 0)]
    return rows


def _ended(
    stream: StreamBatch, records: Records, future: Ints, hours_max: int
) -> tuple[StreamBatch, list[tuple[int, Reason, str]]]:
    """The games of the stream that are not in these rows, and those that are."""
    is_future = np.isin(stream.rows, future)
    facts = zip(
        stream.rows[is_future].tolist(),
        stream.cells[END_TIME, is_future].tolist(),
        records.timestamps_ms[stream.rows[is_future]].tolist(),
        strict=True,
    )
    early: list[tuple[int, Reason, str]] = [
        (row, "future", future_detail(end_time, timestamp_ms, hours_max)) for row, end_time, timestamp_ms in facts
    ]
    return StreamBatch(stream.name, stream.rows[~is_future], stream.cells[:, ~is_future]), early


def _fair(stream: StreamBatch, fairness: FairnessCheck) -> tuple[StreamBatch, list[tuple[int, Reason, str]]]:
    """The games that fit their hashes, and the others."""
    details = [fairness.rejection(stream.name, game) for game in games_of(stream.cells)]
    unfair: list[tuple[int, Reason, str]] = [
        (row, "fairness", detail)
        for row, detail in zip(stream.rows.tolist(), details, strict=True)
        if detail is not None
    ]
    if not unfair:
        return stream, []
    fair = np.array([detail is None for detail in details])
    return StreamBatch(stream.name, stream.rows[fair], stream.cells[:, fair]), unfair


def _stream_of(key: bytes | None, only: str | None) -> str | tuple[Reason, str]:
    name = stream_name(key)
    if isinstance(name, Unreadable):
        return "unreadable", name.detail
    if only is not None and name != only:
        return "stream", f"stream {name}: this deployment is of the stream {only} alone (engine.stream)"
    return name
