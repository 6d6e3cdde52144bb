"""What is known of the partitions that an engine holds: folded, committed, noted, to be sought."""

from crashfold.engine.ports import Manifest, Mark, Position, Record, Records
from crashfold.engine.runtime.partitions import Partition, Partitions, Place


def records(*offsets: int, next_offset: int) -> Records:
    """Records of partition 0 at these offsets."""
    return Records.of(0, next_offset, [record(offset) for offset in offsets])


def record(offset: int) -> Record:
    return Record(offset=offset, timestamp_ms=0, key=b"crash", value=b"%d" % offset)


def mark(offset: int) -> Mark:
    return Mark.of(record(offset))


def held() -> Partitions:
    partitions = Partitions()
    for number in (1, 0):
        partitions.start_at(number, 10, "topic")
    return partitions


def test_what_is_folded_is_committed_only_when_it_is_said_so() -> None:
    partitions = held()
    partitions[0].fold_to(records(10, 12, next_offset=14))
    assert (partitions.folded_to, partitions.next_offsets, partitions.marks) == ({1: 10, 0: 14}, {1: 10, 0: 10}, {})
    partitions.commit()
    assert (partitions.next_offsets, partitions.marks) == ({1: 10, 0: 14}, {0: mark(12)})


def test_a_hole_moves_the_place_and_leaves_the_mark_and_nothing_goes_back() -> None:
    partition = Partition(None, 10, None, {})
    partition.fold_to(records(10, next_offset=11))
    partition.fold_to(records(next_offset=20))
    partition.fold_to(records(next_offset=15))
    assert partition.folded == Place(20, mark(10))


def test_a_partition_that_has_to_be_sought_is_neither_read_nor_committed() -> None:
    partitions = held()
    for number in partitions:
        partitions[number].fold_to(records(10, next_offset=11))
    partitions.seeks[0] = 10
    assert (partitions.read, partitions.is_read(0), partitions.is_read(1)) == ([1], False, True)
    partitions.commit()
    assert partitions.next_offsets == {1: 11, 0: 10}
    assert partitions.take_seeks() == {0: 10}
    assert (partitions.take_seeks(), partitions.read) == ({}, [0, 1])
    partitions.seeks[0] = 10
    partitions.forget(0)
    assert (list(partitions), partitions.seeks, partitions.is_read(0)) == ([1], {}, False)


def test_a_manifest_tells_of_the_streams_that_are_known_and_of_no_others() -> None:
    partition = Partition("topic", 0, mark(3), {"crash": Position("g", 8, "c")})
    partition.first_offsets = {"crash": 2, "gone": 5}
    assert partition.manifest(8) == Manifest(
        low_water=8, streams={"crash": 8}, first_offsets={"crash": 2}, topic_id="topic", mark=mark(3)
    )


def test_a_partition_is_noted_when_a_manifest_tells_of_what_was_committed_since_it_was_gained() -> None:
    partitions = held()
    partition = partitions[0]
    assert partition.is_noted, "nothing is committed since"
    partition.fold_to(records(10, next_offset=11))
    partitions.commit()
    assert not partition.is_noted
    partition.noted = 10
    assert not partition.is_noted, "that manifest was written before"
    partition.noted = 11
    assert partition.is_noted
