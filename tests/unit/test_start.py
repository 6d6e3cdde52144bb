"""Where reading a partition begins."""

import pytest

from engine.core.facts import Bounds, Manifest, Mark, Record
from engine.core.start import Begin, Lost, Recreated, Start, was_recreated, where_to_begin

READ = Record(41, 1_000, b"a", b"value")
MARK = Mark.of(READ)
BOUNDS = Bounds(10, 90)


def begin(
    low_water: int = 42,
    bounds: Bounds = BOUNDS,
    mark: Mark | None = MARK,
    found: Record | None = READ,
    **streams: tuple[int, int | None],
) -> Start:
    """`streams` have what the manifest knows, and what the checkpoint says now."""
    manifest = Manifest(low_water=low_water, streams={name: known for name, (known, _) in streams.items()}, mark=mark)
    return where_to_begin(manifest, {name: now for name, (_, now) in streams.items()}, bounds, found)


def test_without_a_manifest_reading_begins_with_the_first_record() -> None:
    assert where_to_begin(None, {}, BOUNDS, None) == Begin(10)


def test_reading_goes_on_at_the_low_water() -> None:
    assert begin() == Begin(42)
    assert begin(a=(20, 20), b=(42, 50)) == Begin(42)


def test_a_stream_that_lost_writes_is_read_again_from_its_checkpoint() -> None:
    assert begin(a=(40, 31), b=(40, 35), c=(40, 40)) == Begin(31)


def test_a_stream_that_is_gone_needs_the_whole_topic() -> None:
    assert begin(a=(40, None), b=(40, 40)) == Begin(10)


def test_what_a_stream_needs_and_retention_removed_is_lost() -> None:
    assert begin(a=(40, 5)) == Lost(5, 10)
    assert begin(low_water=7, mark=None) == Lost(7, 10)
    assert begin(a=(40, None), b=(40, 5)) == Lost(5, 10)


def test_where_all_streams_are_gone_there_is_nothing_to_lose() -> None:
    assert begin(low_water=7, mark=None, a=(5, None), b=(6, None)) == Begin(10)


@pytest.mark.parametrize(
    "found",
    [Record(41, 1_001, b"a", b"value"), Record(41, 1_000, None, b"value"), Record(41, 1_000, b"a", None)],
    ids=["time", "key", "value"],
)
def test_another_record_in_the_place_of_the_last_one_is_another_topic(found: Record) -> None:
    start = begin(found=found)
    assert isinstance(start, Recreated)
    assert "offset 41" in start.evidence


def test_a_partition_that_ends_before_the_last_record_is_another_one() -> None:
    assert isinstance(begin(bounds=Bounds(0, 41), found=None), Recreated)
    assert isinstance(begin(bounds=Bounds(0, 41), mark=None), Recreated)


def test_a_last_record_that_retention_removed_proves_nothing() -> None:
    assert begin(bounds=Bounds(42, 90), found=None) == Begin(42)
    assert was_recreated(None, BOUNDS, None) is None
