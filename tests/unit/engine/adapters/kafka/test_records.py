"""Walking a fetch batch by batch: `FetchedRecords` against batches made by hand."""

import gc
import random
import weakref
from collections.abc import Sequence

import pytest
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from crashfold.engine.adapters.kafka.records import FetchedRecords
from crashfold.engine.adapters.kafka.unpacking import CannotUnpack, unpacked
from crashfold.engine.ports import Records
from crashfold.schemas.game import VALUE_BYTES_MAX
from tests.support.bombs import Entry, packed_batch

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


def rebased(data: bytes, base_offset: int) -> bytes:
    """The batch as a broker puts it there."""
    return base_offset.to_bytes(8, "big") + data[8:]


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


@pytest.mark.parametrize("records_max", [1, 2, 3, 7, 10, 29, 30, 31])
def test_however_many_are_taken_at_a_time_all_come_once(records_max: int) -> None:
    source = fetched(batch(0, range(10)), batch(10, range(10)), batch(20, range(10)))
    taken: list[int] = []
    while not source.exhausted:
        records = source.take(0, records_max)
        assert len(records) <= records_max
        taken += offsets_of(records)
        assert records.next_offset == (taken[-1] + 1)
    assert taken == list(range(30))


@pytest.mark.parametrize("batches", [0, 1, 3])
@pytest.mark.parametrize("codec", [DefaultRecordBatch.CODEC_NONE, DefaultRecordBatch.CODEC_LZ4])
def test_a_fetch_that_was_taken_does_not_wait_for_the_garbage_collector(batches: int, codec: int) -> None:
    """It is megabytes, and the collector counts objects."""
    gc.collect()
    gc.disable()
    try:
        source = fetched(*(batch(10 * number, range(10), codec=codec) for number in range(batches)))
        while not source.exhausted:
            source.take(0, 4)
        alive = weakref.ref(source)
        del source
        assert alive() is None
    finally:
        gc.enable()


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


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("damage", ["records", "offsets", "middle", "end", "codec"])
def test_what_was_written_broken_is_there_with_nothing_in_it(codec: int, damage: str) -> None:
    """Its checksum is right, so trying again would change nothing, and what stands behind it has to be read."""
    broken = bytearray(batch(10, range(10), codec=codec))
    match damage:
        case "records":
            broken[57:61] = (9).to_bytes(4, "big")
        case "offsets":
            broken[57:61] = (2**31 - 1).to_bytes(4, "big")
        case "middle":
            broken[85:95] = b"\xff" * 10
        case "end":
            del broken[-5:]
            broken[8:12] = (len(broken) - 12).to_bytes(4, "big")
        case "codec":
            broken[22] = 7
    broken[17:21] = calc_crc32c(bytes(broken[21:])).to_bytes(4, "big")
    source = fetched(batch(0, range(10)), bytes(broken), batch(20, range(10), codec=codec))
    taken = []
    while not source.exhausted:
        taken.append(source.take(0, 7))
    records = Records.joined(taken)
    offsets = records.offsets.tolist()
    unread = [10] if damage in ("records", "offsets") else list(range(10, 20))
    assert offsets == [*range(10), *unread, *range(20, 30)]
    assert records.unread.keys() == set(unread)
    assert all("offsets 10 to 19" in why for why in records.unread.values())
    assert [value for value, key in zip(records.values, records.keys, strict=True) if key == b""] == [None] * len(
        unread
    )
    assert records.next_offset == source.next_fetch_offset == 30


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("records_max", [1, 5, 1000])
def test_a_batch_that_unpacks_to_much_is_read_record_by_record(
    codec: str, records_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crashfold.engine.adapters.kafka.records.WHOLE_BYTES", 300_000)
    monkeypatch.setattr("crashfold.engine.adapters.kafka.records.PASSED_BYTES", 1_000_000)
    big = 2_500_000
    entries: list[Entry] = [
        *[(b"a", b"%d" % number) for number in range(20)],
        (b"a", VALUE_BYTES_MAX),
        (b"b", big),
        (None, b"between"),
        (b"k" * 400_000, b"a long key"),
        (b"c", VALUE_BYTES_MAX + 1),
        (None, big),
        (None, None),
        *[(b"d", 60_000) for _ in range(12)],
    ]
    source = fetched(batch(0, range(3)), rebased(packed_batch(codec, entries), 3), batch(3 + len(entries), range(2)))
    taken = []
    while not source.exhausted:
        records = source.take(0, records_max)
        assert len(records) <= records_max
        assert records.bytes_held < 1_000_000
        taken.append(records)
    records = Records.joined(taken)
    assert records.offsets.tolist() == list(range(3 + len(entries) + 2))
    read = list(zip(records.keys, records.values, strict=True))[3:-2]
    for (key, value), (key_read, value_read) in zip(entries, read, strict=True):
        whole = b" " * value if isinstance(value, int) else value
        if key is not None and len(key) > 4096:
            assert (key_read, value_read) == (key[:4096], b"")
        else:
            limit = VALUE_BYTES_MAX + 1 if value == big else None
            assert (key_read, value_read) == (key, whole if whole is None else whole[:limit])
    assert {offset: why.split(",")[0] for offset, why in records.unread.items()} == {
        3 + 21: f"the value has {big} bytes",
        3 + 23: "the key has 400000 bytes",
        3 + 25: f"the value has {big} bytes",
    }
    one = fetched(rebased(packed_batch(codec, entries), 3), next_offset=25).first(0)
    assert one is not None
    assert (one.offset, one.value) == (25, b"between")


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd"])
def test_a_batch_that_breaks_off_after_much_keeps_what_came_before(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crashfold.engine.adapters.kafka.records.WHOLE_BYTES", 300_000)
    broken = bytearray(rebased(packed_batch(codec, [(b"a", b"5"), (b"a", 3_000_000), (b"a", b"7"), (b"a", b"8")]), 5))
    del broken[-30:]
    broken[8:12] = (len(broken) - 12).to_bytes(4, "big")
    broken[17:21] = calc_crc32c(bytes(broken[21:])).to_bytes(4, "big")
    source = fetched(bytes(broken), batch(9, range(2)), next_offset=5)
    records = source.take(0, 100)
    assert records.offsets.tolist() == [5, 6, 7, 8, 9, 10]
    assert records.values[0] == b"5"
    assert records.unread.keys() >= {7, 8}


@pytest.mark.parametrize("magic", [0, 1])
def test_a_message_of_the_formats_before_unpacks_to_so_much_and_no_more(
    magic: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = LegacyRecordBatchBuilder(magic, 1, 1 << 20)
    for offset in range(3):
        builder.append(offset, 1_000, b"key", b"%d" % offset, [])
    data = bytes(builder.build())
    assert offsets_of(fetched(data).take(0, 9)) == [0, 1, 2]
    monkeypatch.setattr("crashfold.engine.adapters.kafka.records.WHOLE_BYTES", 50)
    source = fetched(data, batch(3, range(1)))
    records = source.take(0, 9)
    assert (list(records.unread), records.values[-1]) == ([records.offsets[0]], b"3")


def test_no_header_makes_anybody_take_more_memory_than_the_data_may_need() -> None:
    lying = b"\xff\xff\xff\xff\x0f" + b"\0" * 40
    with pytest.raises(CannotUnpack, match="says that it is of 4294967295"):
        list(unpacked(2, lying))


def test_a_batch_that_is_cut_off_waits_for_the_next_fetch() -> None:
    whole = batch(10, range(10))
    for length in (0, 11, 16, 60, len(whole) - 1):
        source = fetched(batch(0, range(10)), whole[:length])
        assert offsets_of(source.take(0, 100)) == list(range(10))
        assert source.exhausted
        assert source.next_fetch_offset == 10
