"""Walking a fetch batch by batch: `FetchedRecords` against batches made by hand."""

from collections.abc import Sequence

import pytest
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from engine.adapters.kafka_records import FetchedRecords
from engine.core.facts import Records

CODECS = [
    DefaultRecordBatch.CODEC_NONE,
    DefaultRecordBatch.CODEC_GZIP,
    DefaultRecordBatch.CODEC_SNAPPY,
    DefaultRecordBatch.CODEC_LZ4,
    DefaultRecordBatch.CODEC_ZSTD,
]


def batch(base_offset: int, kept: Sequence[int], *, codec: int = 0, producer_id: int = -1) -> bytes:
    """A batch of records at the offsets base + kept, whose values print them; transactional with a producer."""
    builder = DefaultRecordBatchBuilder(2, codec, int(producer_id >= 0), producer_id, 0, 0, 1 << 20)
    for delta in kept:
        assert builder.append(delta, 1000 + delta, b"key", b"%d" % (base_offset + delta), []) is not None
    data = bytearray(builder.build())
    data[0:8] = base_offset.to_bytes(8, "big")  # not covered by the checksum, as brokers write it
    return bytes(data)


def fetched(*batches: bytes, next_offset: int = 0, aborted: Sequence[tuple[int, int]] = ()) -> FetchedRecords:
    return FetchedRecords(b"".join(batches), aborted, next_offset)


def offsets_of(records: Records) -> list[int]:
    offsets: list[int] = records.offsets.tolist()
    assert [int(value or b"") for value in records.values] == offsets
    return offsets


@pytest.mark.parametrize("codec", CODECS)
def test_every_compression_is_read(codec: int) -> None:
    records = fetched(batch(5, range(100), codec=codec), next_offset=5).take(3, 1000)
    assert offsets_of(records) == list(range(5, 105))
    assert records.partition == 3
    assert records.next_offset == 105
    assert records.timestamps_ms.tolist() == list(range(1000, 1100))
    assert set(records.keys) == {b"key"}


@pytest.mark.parametrize("games_max", [1, 2, 3, 7, 10, 29, 30, 31])
def test_however_many_are_taken_at_a_time_all_come_once(games_max: int) -> None:
    source = fetched(batch(0, range(10)), batch(10, range(10)), batch(20, range(10)))
    taken: list[int] = []
    while not source.exhausted:
        records = source.take(0, games_max)
        assert len(records) <= games_max
        taken += offsets_of(records)
        assert records.next_offset == (taken[-1] + 1)
    assert taken == list(range(30))


def test_a_fetch_from_the_middle_of_a_batch_begins_there() -> None:
    source = fetched(batch(0, range(10)), batch(10, range(3)), next_offset=7)
    assert offsets_of(source.take(0, 2)) == [7, 8]
    assert offsets_of(source.take(0, 100)) == [9, 10, 11, 12]


def test_compacted_records_are_holes_that_are_passed() -> None:
    source = fetched(batch(0, [1, 4]), batch(10, [0, 3]))
    records = source.take(0, 2)
    assert (offsets_of(records), records.next_offset) == ([1, 4], 5)
    records = source.take(0, 100)
    assert (offsets_of(records), records.next_offset) == ([10, 13], 14)


def test_aborted_transactions_are_left_out_and_passed() -> None:
    source = fetched(
        batch(0, range(2)),
        batch(2, range(3), producer_id=7),
        batch(5, range(2), producer_id=8),
        aborted=[(7, 2)],
    )
    records = source.take(0, 100)
    assert (offsets_of(records), records.next_offset) == ([0, 1, 5, 6], 7)


def test_a_fetch_of_nothing_but_aborted_records_moves_on() -> None:
    source = fetched(batch(2, range(3), producer_id=7), next_offset=2, aborted=[(7, 2)])
    records = source.take(0, 100)
    assert (offsets_of(records), records.next_offset) == ([], 5)
    assert source.exhausted


def test_a_broken_batch_is_an_error_only_once_all_before_it_was_taken() -> None:
    broken = bytearray(batch(10, range(10)))
    broken[-1] ^= 1
    source = fetched(batch(0, range(10)), bytes(broken), batch(20, range(10)))
    records = source.take(0, 100)
    assert (offsets_of(records), records.next_offset) == (list(range(10)), 10)
    assert not source.exhausted
    for _ in range(2):
        with pytest.raises(CorruptRecordException, match="offset 10"):
            source.take(0, 100)
