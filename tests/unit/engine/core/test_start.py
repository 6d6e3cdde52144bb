"""Where reading a partition begins."""

import pytest

from crashfold.engine.core.start import Begin, Lost, Recreated, Start, was_recreated, where_to_begin
from crashfold.engine.ports import Bounds, Manifest, Mark, Record

READ = Record(41, 1_000, b"a", b"value")
MARK = Mark.of(READ)
BOUNDS = Bounds(10, 90)


def begin(
    low_water: int = 42,
    bounds: Bounds = BOUNDS,
    mark: Mark | None = MARK,
    found: Record | None = READ,
    topic_ids: tuple[str | None, str | None] = ("one", "one"),
    first_offsets: dict[str, int] | None = None,
    **streams: tuple[int, int | None],
) -> Start:
    """`streams` have what the manifest knows, and what the checkpoint says now; `topic_ids` likewise."""
    manifest = Manifest(
        low_water=low_water,
        streams={name: known for name, (known, _) in streams.items()},
        first_offsets=first_offsets or {},
        topic_id=topic_ids[0],
        mark=mark,
    )
    return where_to_begin(manifest, {name: now for name, (_, now) in streams.items()}, topic_ids[1], bounds, found)


def test_without_a_manifest_reading_begins_with_the_first_record() -> None:
    assert where_to_begin(None, {}, "one", BOUNDS, None) == Begin(10)


def test_reading_goes_on_at_the_low_water() -> None:
    assert begin() == Begin(42)
    assert begin(a=(20, 20), b=(42, 50)) == Begin(42)


def test_a_stream_that_lost_writes_is_read_again_from_its_checkpoint() -> None:
    assert begin(a=(40, 31), b=(40, 35), c=(40, 40)) == Begin(31)


def test_a_stream_that_is_gone_needs_the_whole_topic() -> None:
    assert begin(bounds=Bounds(0, 90), a=(40, None), b=(40, 40)) == Begin(0)
    assert begin(first_offsets={"a": 12, "b": 0}, a=(40, None), b=(40, 40)) == Begin(10)


@pytest.mark.parametrize("b", [40, None], ids=["of several", "with all others"])
def test_a_stream_that_is_gone_and_of_which_retention_removed_records_is_lost(b: int | None) -> None:
    assert begin(a=(40, None), b=(40, b), first_offsets={"a": 9, "b": 10}) == Lost(9, 10, "a")
    assert begin(a=(5, None), b=(40, b), first_offsets={"a": 3, "b": 10}) == Lost(3, 10, "a")
    assert begin(a=(40, None), b=(40, b), first_offsets={"b": 10}) == Lost(0, 10, "a"), "as far as anybody knows"


def test_a_stream_that_is_gone_and_had_games_of_an_earlier_topic_is_lost() -> None:
    assert begin(bounds=Bounds(0, 90), a=(40, None), first_offsets={"a": -1}) == Lost(-1, 0, "a")


def test_what_a_stream_needs_and_retention_removed_is_lost() -> None:
    assert begin(a=(40, 5)) == Lost(5, 10)
    assert begin(low_water=7, mark=None) == Lost(7, 10)
    assert begin(a=(40, None), b=(40, 5), first_offsets={"a": 20}) == Lost(5, 10)


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
    assert was_recreated("one", None, "one", BOUNDS, None) is None


def test_another_id_is_another_topic_whatever_it_holds() -> None:
    assert begin(topic_ids=("one", "two")) == Recreated("the topic's id is two, and was one")


@pytest.mark.parametrize("topic_ids", [(None, "two"), ("one", None), (None, None)])
def test_where_an_id_is_not_known_the_last_record_says_which_topic_it_is(
    topic_ids: tuple[str | None, str | None],
) -> None:
    assert begin(topic_ids=topic_ids) == Begin(42)
    assert isinstance(begin(topic_ids=topic_ids, found=Record(41, 1_001, b"a", b"value")), Recreated)


def test_other_records_under_the_same_id_are_not_what_was_read() -> None:
    """An unclean election of a leader: the partition was cut, and others were written."""
    assert isinstance(begin(found=Record(41, 1_001, b"a", b"value")), Recreated)
