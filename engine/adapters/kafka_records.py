"""The records of one fetch from one partition, walked into columns.

Imports aiokafka's decompressors and parsers. aiokafka's own consumer makes an object of eleven fields of
every record, which costs several times what the rest of the way to a folded game does. Here the batches of a fetch are
laid end to end, one loop finds where each record begins, and the fields of all of them are read by array operations.
Whatever is left out (aborted transactions, control batches, compacted records) is passed by `next_fetch_offset`, and
nothing else is.

The format is that of Kafka's documentation, "Record Batch" and "Record"; batches of the formats before it, which no
broker has written since 0.11, are left to aiokafka's parser.
"""

import struct
from collections.abc import Iterable, Iterator
from itertools import accumulate, groupby
from typing import Any, Final

import google_crc32c
import msgspec
import numpy as np
from aiokafka.codec import gzip_decode, lz4_decode, snappy_decode, zstd_decode
from aiokafka.errors import CorruptRecordException
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.memory_records import MemoryRecords
from msgspec import structs
from numpy.typing import NDArray

from engine.core.facts import Record, Records
from projections.columns import Ints
from projections.packed import NULL, Packed

Bytes = NDArray[np.uint8]

_PLACE: Final = struct.Struct(">qi")
"""Base offset, and how many bytes come behind this."""
_OVERHEAD: Final = 17
"""Bytes up to and including the magic one, which are the same in all formats."""
_HEADER: Final = struct.Struct(">IhiqqqhiI")
"""What follows: checksum, attributes, last offset delta, first and newest timestamp, producer, its epoch and sequence,
number of records."""
_CHECKED_FROM: Final = 21
"""The checksum is of what comes behind it."""
_RECORDS_FROM: Final = 61
_MAGIC: Final = 2

_CODEC: Final = 0x07
_LOG_APPEND_TIME: Final = 0x08
_TRANSACTIONAL: Final = 0x10
_CONTROL: Final = 0x20

_DECODE: Final = {1: gzip_decode, 2: snappy_decode, 3: lz4_decode, 4: zstd_decode}
_VARINT_BYTES_MAX: Final = 10
_NO_TIME: Final = -1
_ATTRIBUTES_BYTES: Final = 1


class _Batch(msgspec.Struct, frozen=True):
    """A batch of a fetch: `data` is all of it. What is said of it is what its header says."""

    data: memoryview
    base_offset: int
    next_offset: int
    magic: int
    attributes: int = 0
    first_timestamp_ms: int = 0
    newest_timestamp_ms: int = 0
    producer: int = -1
    records: int = 0

    @property
    def body(self) -> bytes | memoryview:
        """The records, end to end. Raises whatever the decompressors do."""
        packed, codec = self.data[_RECORDS_FROM:], self.attributes & _CODEC
        return _DECODE[codec](packed.tobytes()) if codec else packed

    def parsed(self) -> Iterator[Any]:
        """The records as aiokafka's parser makes them, with `offset`, `timestamp`, `key`, `value` and `headers`."""
        return iter(MemoryRecords(self.data.tobytes()).next_batch())


class FetchedRecords:
    """What is left of a fetch of committed records, whose bytes are `data`; the last batch of it may be cut off.

    `aborted` are the aborted transactions that the broker named: producer and first offset. `next_fetch_offset` is
    where the partition is to be read on.
    """

    def __init__(self, data: bytes, aborted: Iterable[tuple[int, int]], next_offset: int) -> None:
        self.next_fetch_offset = self._begin = next_offset
        self._aborted = sorted(aborted, key=lambda transaction: transaction[1], reverse=True)
        self._aborting: set[int] = set()
        self._fault: Exception | None = None
        self._end = next_offset
        self._batches = list(self._committed(data))
        self._rows = self._walked()
        self._taken = 0
        self._pass_the_end()

    @property
    def exhausted(self) -> bool:
        """Whether everything has been taken."""
        return self._taken == len(self._rows.offsets) and self._fault is None

    def take(self, partition: int, games_max: int) -> Records:
        """The next records, at most `games_max`. Raises CorruptRecordException when the next one cannot be read."""
        start = self._taken
        stop = self._taken = min(start + games_max, len(self._rows.offsets))
        if start == stop and self._fault is not None:
            raise CorruptRecordException(f"the record at offset {self.next_fetch_offset}: {self._fault!r}")
        if stop > start:
            self.next_fetch_offset = int(self._rows.offsets[stop - 1]) + 1
        self._pass_the_end()
        taken = self._rows.part(start, stop)
        return structs.replace(taken, partition=partition, next_offset=self.next_fetch_offset)

    def parsed(self) -> Iterator[Any]:
        """All records as aiokafka's parser makes them, for those who want their headers; afterwards all are taken.

        Raises CorruptRecordException where one cannot be read.
        """
        for batch in self._batches:
            try:
                yield from (record for record in batch.parsed() if record.offset >= self._begin)
            except Exception as error:  # the parser and the decompressors raise what they like
                raise CorruptRecordException(f"the batch at offset {batch.base_offset}: {error!r}") from error
        self.take(0, len(self._rows.offsets))

    def _pass_the_end(self) -> None:
        """Once everything is taken, read on behind the last batch, whatever it held."""
        if self._taken == len(self._rows.offsets):
            self.next_fetch_offset = max(self.next_fetch_offset, self._end)

    def _committed(self, data: bytes) -> Iterator[_Batch]:
        """The batches that may have records for us, up to one that cannot be read."""
        try:
            for batch in _batches(data):
                _check(batch)
                if not self._is_left_out(batch):
                    yield batch
                self._end = max(self._end, batch.next_offset)
        except Exception as error:
            self._fault = error

    def _walked(self) -> Records:
        """All records from the first asked for on, up to one that cannot be read."""
        pieces = []
        for modern, grouped in groupby(self._batches, lambda batch: batch.magic == _MAGIC):
            batches = list(grouped)
            read = _columns if modern else _parsed_columns
            try:
                pieces.append(read(batches))
                continue
            except Exception:  # one of them is broken, and those before it are not
                for batch in batches:
                    try:
                        pieces.append(read([batch]))
                    except Exception as error:
                        self._fault, self._end = error, batch.base_offset
                        break
                else:
                    continue
            break
        rows = Records.joined(pieces) if pieces else Records.of(0, self._end, [])
        return rows.part(int(np.searchsorted(rows.offsets, self._begin)), len(rows.offsets))

    def _is_left_out(self, batch: _Batch) -> bool:
        if batch.producer >= 0:
            while self._aborted and self._aborted[-1][1] <= batch.base_offset:
                self._aborting.add(self._aborted.pop()[0])
        if batch.attributes & _CONTROL:
            marker = next(batch.parsed(), None)
            if marker is not None and ControlRecord.parse(marker.key) == ABORT_MARKER:
                self._aborting.discard(batch.producer)
            return True
        return bool(batch.attributes & _TRANSACTIONAL and batch.producer in self._aborting)


def _batches(data: bytes) -> Iterator[_Batch]:
    """The batches of a fetch that are there whole."""
    view, position = memoryview(data), 0
    while position + _OVERHEAD <= len(data):
        base, length = _PLACE.unpack_from(data, position)
        end, magic = position + _PLACE.size + length, data[position + _OVERHEAD - 1]
        if end > len(data):
            return
        batch = view[position:end]
        if magic == _MAGIC:
            _, attributes, last, first_ms, newest_ms, producer, _, _, records = _HEADER.unpack_from(batch, _OVERHEAD)
            yield _Batch(batch, base, base + last + 1, magic, attributes, first_ms, newest_ms, producer, records)
        else:
            parsed = MemoryRecords(batch.tobytes()).next_batch()
            yield _Batch(batch, base, parsed.next_offset, magic)
        position = end


def _check(batch: _Batch) -> None:
    """Raise ValueError when the batch is not what was written."""
    if batch.magic != _MAGIC:
        good = MemoryRecords(batch.data.tobytes()).next_batch().validate_crc()
    else:
        good = google_crc32c.value(batch.data[_CHECKED_FROM:].tobytes()) == int.from_bytes(
            batch.data[_OVERHEAD:_CHECKED_FROM], "big"
        )
    if not good:
        raise ValueError("the checksum is wrong")


def _columns(batches: list[_Batch]) -> Records:
    """The records of these batches. Raises when one of them cannot be read, the decompressors whatever they like."""
    bodies = [batch.body for batch in batches]
    # Behind the last record nothing is looked at, but a varint may be looked for.
    buffer = b"".join([*bodies, bytes(_VARINT_BYTES_MAX)])
    data, ends = np.frombuffer(buffer, np.uint8), list(accumulate(map(len, bodies)))
    counts = [batch.records for batch in batches]
    begins = _guessed(data, ends, counts)
    if begins is None:
        begins = _found(buffer, ends, counts)
    return _read(buffer, data, np.append(begins, ends[-1]), batches)


def _guessed(data: Bytes, ends: list[int], counts: list[int]) -> Ints | None:
    """Where each record begins, if all are of one usual kind: a value that ends with a brace, and no headers.

    Then the last byte of a record is 0, their number, and stands behind a brace. What is found so is right when every
    record is as long as it says and every batch ends where one does; None when that is not so.
    """
    zeros = np.flatnonzero(data[: ends[-1]] == 0)
    found = zeros[data[zeros - 1] == ord("}")] + 1
    if len(found) != sum(counts) or not len(found) or not np.array_equal(found[np.cumsum(counts) - 1], ends):
        return None
    begins = np.append(0, found[:-1])
    lengths, places = _varints(data, begins)
    return begins if np.array_equal(places + lengths, found) else None


def _found(buffer: bytes, ends: list[int], counts: list[int]) -> Ints:
    """Where each record begins. Raises ValueError or IndexError when the records of a batch do not fill it."""
    begins: list[int] = []
    for begin, end, count in zip([0, *ends], ends, counts, strict=False):
        if not _find(buffer, begin, end, count, begins):
            raise ValueError("its records do not fill it")
    return np.array(begins, np.int64)


def _find(buffer: bytes, position: int, end: int, records: int, begins: list[int]) -> bool:
    """Append where each of so many records begins; False when they do not end where the batch does."""
    note = begins.append
    for _ in range(records):
        note(position)
        # The length, a varint with its sign in the lowest bit. Most are of two bytes.
        low = buffer[position]
        if low < 0x80:
            position += 1 + (low >> 1)
        elif (high := buffer[position + 1]) < 0x80:
            position += 2 + ((low & 0x7F | high << 7) >> 1)
        else:
            length, size = low & 0x7F | (high & 0x7F) << 7, 2
            while (more := buffer[position + size]) >= 0x80 and size < _VARINT_BYTES_MAX:
                length |= (more & 0x7F) << 7 * size
                size += 1
            position += size + 1 + ((length | more << 7 * size) >> 1)
        if position > end:
            return False
    return position == end


def _read(buffer: bytes, data: Bytes, places: Ints, batches: list[_Batch]) -> Records:
    """The records that lie between these places. Raises ValueError or IndexError when one is longer than its place."""
    ends = places[1:]
    _, places = _varints(data, places[:-1])
    times, places = _varints(data, places + _ATTRIBUTES_BYTES)
    deltas, places = _varints(data, places)
    key_lengths, key_starts = _varints(data, places)
    lengths, starts = _varints(data, key_starts + np.maximum(key_lengths, 0))
    if bool((starts + np.maximum(lengths, 0) > ends).any()):
        raise ValueError("a record is longer than it says")
    counts = [batch.records for batch in batches]
    timestamps = np.repeat([batch.first_timestamp_ms for batch in batches], counts) + times
    if any(batch.attributes & _LOG_APPEND_TIME for batch in batches):
        appended = np.repeat([bool(batch.attributes & _LOG_APPEND_TIME) for batch in batches], counts)
        timestamps = np.where(appended, np.repeat([batch.newest_timestamp_ms for batch in batches], counts), timestamps)
    return Records(
        0,
        batches[-1].next_offset,
        np.repeat([batch.base_offset for batch in batches], counts) + deltas,
        timestamps,
        Packed(buffer, key_starts, np.maximum(key_lengths, NULL)),
        Packed(buffer, starts, np.maximum(lengths, NULL)),
    )


def _varints(data: Bytes, places: Ints) -> tuple[Ints, Ints]:
    """The varints that begin at these places, and where each ends."""
    some = data[places].astype(np.int64)
    numbers, places = some & 0x7F, places + 1
    longer = np.flatnonzero(some >= 0x80)
    for size in range(1, _VARINT_BYTES_MAX):
        if not len(longer):
            break
        some = data[places[longer]].astype(np.int64)
        numbers[longer] |= (some & 0x7F) << 7 * size
        places[longer] += 1
        longer = longer[some >= 0x80]
    return (numbers >> 1) ^ -(numbers & 1), places


def _parsed_columns(batches: list[_Batch]) -> Records:
    """The records of batches of a format before this one, the first of which knew no times."""
    parsed = [
        Record(one.offset, _NO_TIME if one.timestamp is None else one.timestamp, one.key, one.value)
        for batch in batches
        for one in batch.parsed()
    ]
    return Records.of(0, batches[-1].next_offset, parsed)
