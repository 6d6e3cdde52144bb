"""The partitions that an engine holds: how far each is read, what is known of its streams, where reading it begins.

Imports ports, core and patience. What is always true: a manifest never says more than the checkpoints of its streams
have, so an old one costs reading again and nothing else.
"""

from collections.abc import Iterator
from functools import partial
from typing import Final

import msgspec
import structlog

from crashfold.engine.core.start import Begin, Lost, Recreated, Start, where_to_begin
from crashfold.engine.errors import LostRange, TopicRecreated
from crashfold.engine.ports import EventLog, Manifest, Mark, Position, StateStore
from crashfold.engine.runtime.patience import Patience

QUIET_LOOKS_MAX: Final = 5
"""Looks at the store, about one a second, after which it is asked to write although there is nothing to note."""

log = structlog.get_logger()


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

    def manifest(self, low_water: int) -> Manifest:
        """What is known of the partition, all of it, so that one note makes good whatever the store has lost."""
        return Manifest(
            low_water=low_water,
            streams={name: position.next_offset for name, position in self.known.items()},
            first_offsets={name: first for name, first in self.first_offsets.items() if name in self.known},
            topic_id=self.topic_id,
            mark=self.committed.mark,
        )


class Placed(msgspec.Struct, frozen=True):
    """What was decided for a partition, and what the store has of the streams that were known on it."""

    start: Start
    stored: dict[str, Position | None]


class Changed(msgspec.Struct, frozen=True):
    """A stream of which the store has another commit than `known`, the last one this engine knows of: at `stored`."""

    stream: str
    partition: int
    known: Position
    stored: Position | None

    @property
    def writes_lost(self) -> bool:
        """Whether what was committed is not there, rather than that somebody went on from it or swapped it."""
        stored, known = self.stored, self.known
        return stored is None or (stored.generation == known.generation and stored.next_offset <= known.next_offset)


class Partitions:
    """Those held, by number in `held`. `seeks` says from where the log is still to be told to read some of them.

    With `accept_gap` records that are gone are done without.
    """

    def __init__(self, event_log: EventLog, store: StateStore, patience: Patience, *, accept_gap: bool) -> None:
        self._log = event_log
        self._store = store
        self._patience = patience
        self._accept_gap = accept_gap
        self.held: dict[int, Partition] = {}
        self.seeks: dict[int, int] = {}
        self._quiet_looks = 0

    def __getitem__(self, number: int) -> Partition:
        return self.held[number]

    def __contains__(self, number: int) -> bool:
        return number in self.held

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self.held))

    def __len__(self) -> int:
        return len(self.held)

    def start_at(self, number: int, next_offset: int) -> None:
        """Take the partition as held, to be folded from there on."""
        self.held[number] = Partition(self._log.topic_id, next_offset, None, {})

    def forget(self, number: int) -> None:
        """The partition is not held (any more)."""
        self.held.pop(number, None)
        self.seeks.pop(number, None)

    def take_seeks(self) -> dict[int, int]:
        """The seeks that are due; whoever asks makes them."""
        seeks, self.seeks = self.seeks, {}
        return seeks

    def committed(self) -> None:
        """All that was folded is committed."""
        for number, partition in self.held.items():
            if number not in self.seeks:
                partition.committed = partition.folded

    async def place(self, number: int, manifest: Manifest | None) -> Placed:
        """Find out where to read a partition from, by what is known of it, and see to it that this is done.

        Raises a StateError when the partition no longer holds what is needed.
        """
        names = sorted(manifest.streams) if manifest else []
        mark = manifest.mark if manifest else None
        topic_id = self._log.topic_id
        bounds = await self._patience.with_log(lambda: self._log.bounds(number))
        found = await self._patience.with_log(partial(self._log.record, number, mark.offset)) if mark else None
        positions = await self._patience.with_store(lambda: self._store.positions(names))
        stored = dict(zip(names, positions, strict=True))
        offsets = {name: None if position is None else position.next_offset for name, position in stored.items()}
        start = where_to_begin(manifest, offsets, topic_id, bounds, found)
        match start:
            case Begin(next_offset) | Lost(_, next_offset):
                if isinstance(start, Lost):
                    self.do_without(number, start)
            case Recreated(evidence):
                self.begin_anew(number, evidence, manifest.low_water if manifest else 0)
                next_offset, mark = bounds.begin, None
        known = {name: position for name, position in stored.items() if position is not None}
        first_offsets = dict(manifest.first_offsets) if manifest else {}
        before = self.held.get(number)
        if before is not None and isinstance(start, Begin) and next_offset == before.folded.next_offset:
            before.known = known
        else:
            self.held[number] = Partition(topic_id, next_offset, mark, known)
            if before is not None and not isinstance(start, Recreated):
                self.held[number].begin = min(before.begin, next_offset)
            self.seeks[number] = next_offset
        self.held[number].first_offsets = first_offsets
        return Placed(start, stored)

    def do_without(self, number: int, lost: Lost) -> None:
        """Go on without the records that are lost, if the operator said so. Raises LostRange otherwise."""
        topic, first, begin, stream = self._log.topic, lost.first, lost.begin, lost.stream
        if not self._accept_gap:
            who = "the stored state" if stream is None else f"stream {stream}, whose keys are gone from Redis,"
            raise LostRange(
                (
                    f"{who} had games of an earlier topic {topic}, which nothing brings back."
                    if first < 0
                    else f"retention removed offsets {first} to {begin - 1} of {topic}/{number}, and {who} needs them."
                )
                + " Go on without them by `crashfold run --accept-gap`, or rebuild from what is left by `crashfold "
                "replay --accept-gap`."
            )
        log.warning("gap_accepted", topic=topic, partition=number, first=first, begin=begin, stream=stream)

    def begin_anew(self, number: int, evidence: str, read_to: int) -> None:
        """Go on with a topic that is another one than was read up to that offset, if the operator said so. Raises
        TopicRecreated otherwise."""
        topic = self._log.topic
        if not self._accept_gap:
            raise TopicRecreated(
                f"{topic}/{number} is not the partition that was read up to offset {read_to}: {evidence}. What it had "
                "behind that is lost. Rebuild from what it has now by "
                "`crashfold replay --accept-gap`, or keep the state and go on with the new records by --accept-gap."
            )
        log.warning("gap_accepted", topic=topic, partition=number, evidence=evidence)

    async def changed(self) -> list[Changed]:
        """The streams of which the store has another commit than the last one known. Asks it in any case.

        After a failover and back it may have another history up to the same offset or beyond; then no offset tells.
        """
        numbers = [number for number in self if number not in self.seeks]
        known = [(name, number, position) for number in numbers for name, position in self.held[number].known.items()]
        if not known:
            for number in numbers[:1]:
                await self._store.read_manifest(self._log.topic, number)
            return []
        stored = await self._store.positions([name for name, _, _ in known])
        return [
            Changed(name, number, position, found)
            for (name, number, position), found in zip(known, stored, strict=True)
            if found != position
        ]

    async def note_manifests(self) -> bool:
        """Note where a restart may begin; whether something was written. An old note costs reading again, never a wrong
        count. One is written now and then without need: so a store that takes no writes is noticed while nothing comes.
        """
        self._quiet_looks += 1
        written = False
        for number, partition in self.held.items():
            low_water = partition.committed.next_offset
            is_due = self._quiet_looks >= QUIET_LOOKS_MAX and not written
            if number in self.seeks or (partition.noted == low_water and not is_due):
                continue
            await self._store.write_manifest(self._log.topic, number, partition.manifest(low_water))
            partition.noted, written = low_water, True
        if written:
            self._quiet_looks = 0
        return written
