"""The partitions that an engine holds: how far each is read, and where the checkpoints of its streams stand. No I/O.

What is always true: a manifest never says more than the checkpoints of its streams have, so an old one costs reading
again and nothing else.
"""

from collections.abc import Iterator

import msgspec

from crashfold.engine.ports import Manifest, Mark, Position, Records


class Place(msgspec.Struct, frozen=True):
    """A place in a partition; `mark` is of the last record that was read before it."""

    next_offset: int
    mark: Mark | None


class Partition:
    """A partition that is held: everything below `folded` is folded, everything below `committed` committed.

    `begin` is the lowest offset that was read since it was gained, of the topic `topic_id`; `known` has where its
    streams' checkpoints stood when this engine committed or read them last: the store must have these very commits, or
    others on top of them. `first_offsets` has theirs, as far as they are known.
    """

    def __init__(self, topic_id: str | None, begin: int, mark: Mark | None, known: dict[str, Position]) -> None:
        self.topic_id = topic_id
        self.begin = begin
        self.folded = self.committed = Place(begin, mark)
        self.known = known
        self.first_offsets: dict[str, int] = {}
        self.recognised = mark
        """The record by which the partition was known again last, where topics have no ids."""
        self.noted = -1
        """The low-water offset of the last manifest."""

    @property
    def is_noted(self) -> bool:
        """Whether a manifest tells of commits since the partition was gained, or there were none."""
        return self.noted > self.begin or self.committed.next_offset <= self.begin

    def fold_to(self, records: Records) -> None:
        """These records are folded."""
        mark = Mark.of(records.record(-1)) if len(records) else self.folded.mark
        self.folded = Place(max(self.folded.next_offset, records.next_offset), mark)

    def manifest(self, low_water: int) -> Manifest:
        """Return the partition's whole manifest, so that one note restores all that the store has lost."""
        return Manifest(
            low_water=low_water,
            streams={name: position.next_offset for name, position in self.known.items()},
            first_offsets={name: first for name, first in self.first_offsets.items() if name in self.known},
            topic_id=self.topic_id,
            mark=self.committed.mark,
        )


class Partitions:
    """Those held, by number in `held`. `seeks` says from where the log is still to be told to read some of them."""

    def __init__(self) -> None:
        self.held: dict[int, Partition] = {}
        self.seeks: dict[int, int] = {}

    def __getitem__(self, number: int) -> Partition:
        return self.held[number]

    def __contains__(self, number: int) -> bool:
        return number in self.held

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self.held))

    def __len__(self) -> int:
        return len(self.held)

    def is_read(self, number: int) -> bool:
        """Whether the partition is held and no seek is due."""
        return number in self.held and number not in self.seeks

    @property
    def read(self) -> list[int]:
        """Those whose next records are the ones that are wanted: no seek is due."""
        return sorted(self.held.keys() - self.seeks.keys())

    @property
    def next_offsets(self) -> dict[int, int]:
        """Per partition, the offset below which everything is committed."""
        return {number: partition.committed.next_offset for number, partition in self.held.items()}

    @property
    def folded_to(self) -> dict[int, int]:
        """Per partition, the offset below which everything is folded."""
        return {number: partition.folded.next_offset for number, partition in self.held.items()}

    @property
    def marks(self) -> dict[int, Mark]:
        """Per partition, the last record that was read and committed."""
        return {number: partition.committed.mark for number, partition in self.held.items() if partition.committed.mark}

    def start_at(self, number: int, next_offset: int, topic_id: str | None) -> None:
        """Take the partition as held, to be folded from there on."""
        self.held[number] = Partition(topic_id, next_offset, None, {})

    def forget(self, number: int) -> None:
        """The partition is not held (any more)."""
        self.held.pop(number, None)
        self.seeks.pop(number, None)

    def take_seeks(self) -> dict[int, int]:
        """The seeks that are due; the caller makes them."""
        seeks, self.seeks = self.seeks, {}
        return seeks

    def commit(self) -> None:
        """All that was folded is committed."""
        for number in self.read:
            self.held[number].committed = self.held[number].folded
