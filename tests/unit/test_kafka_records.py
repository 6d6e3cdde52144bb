"""Walking a fetch batch by batch: `FetchedRecords` against batches made by hand."""

import random
from collections.abc import Sequence

import pytest
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

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


@pytest.mark.parametrize("headers", [[], [("trace", b"}\x00"), ("empty", None)]])
@pytest.mark.parametrize("codec", CODECS)
def test_records_of_any_form_are_what_the_parser_says(codec: int, headers: list[tuple[str, bytes | None]]) -> None:
    chance = random.Random(1)
    ends = [b'{"a":1}', b'{"a":"}\x00"}', b"}", b"", None, b"x" * 63, b"x" * 64, b"y" * 9_000, b'{"b":2}' * 2_500]
    keys = [None, b"", b"k", b"}\x00", b"k" * 300]
    batches = []
    for base in range(0, 400, 40):
        builder = DefaultRecordBatchBuilder(2, codec, 0, -1, 0, 0, 1 << 20)
        for delta in range(40):
            time_ms = 1_000_000 + chance.choice((0, -5, 70, 2**40))
            builder.append(delta, time_ms, chance.choice(keys), chance.choice(ends), headers)
        data = bytearray(builder.build())
        data[0:8] = base.to_bytes(8, "big")
        batches.append(bytes(data))
    source = fetched(*batches, next_offset=17)
    records = fetched(*batches, next_offset=17).take(0, 1000)
    said = [(one.offset, one.timestamp, one.key, one.value) for one in source.parsed()]
    assert len(said) == 383
    columns = records.offsets.tolist(), records.timestamps_ms.tolist(), records.keys, records.values
    assert list(zip(*columns, strict=True)) == said
    assert source.exhausted
    assert source.next_fetch_offset == records.next_offset == 400


@pytest.mark.parametrize("magic", [0, 1])
def test_formats_before_this_one_are_read_beside_it(magic: int) -> None:
    builder = LegacyRecordBatchBuilder(magic, 0, 1 << 20)
    for offset in range(3):
        builder.append(offset, 1_000 + offset, b"key", b"%d" % offset, [])
    records = fetched(bytes(builder.build()), batch(3, range(2))).take(0, 100)
    assert offsets_of(records) == [0, 1, 2, 3, 4]
    assert set(records.keys) == {b"key"}


def test_where_the_log_keeps_the_time_every_record_has_the_batchs() -> None:
    data = bytearray(batch(0, range(3)))
    data[21:23] = (0x08).to_bytes(2, "big")
    data[35:43] = (5_000).to_bytes(8, "big")
    data[17:21] = calc_crc32c(bytes(data[21:])).to_bytes(4, "big")
    assert fetched(bytes(data), batch(3, range(1))).take(0, 9).timestamps_ms.tolist() == [5_000, 5_000, 5_000, 1_000]


def test_a_batch_whose_records_do_not_fill_it_is_an_error_though_its_checksum_is_right() -> None:
    short = bytearray(batch(10, range(10)))
    short[57:61] = (9).to_bytes(4, "big")
    short[17:21] = calc_crc32c(bytes(short[21:])).to_bytes(4, "big")
    source = fetched(batch(0, range(10)), bytes(short), batch(20, range(10)))
    assert offsets_of(source.take(0, 100)) == list(range(10))
    with pytest.raises(CorruptRecordException, match="offset 10"):
        source.take(0, 100)


def test_a_batch_that_is_cut_off_waits_for_the_next_fetch() -> None:
    whole = batch(10, range(10))
    for length in (0, 11, 16, 60, len(whole) - 1):
        source = fetched(batch(0, range(10)), whole[:length])
        assert offsets_of(source.take(0, 100)) == list(range(10))
        assert source.exhausted
        assert source.next_fetch_offset == 10
