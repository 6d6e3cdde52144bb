"""Placement: from which offset a partition is read, and which streams of it are in memory.

Imports ports, core, the folder. Decided anew when a partition is gained, when the store has another commit of a stream
than was made here, and when the log does not have what is wanted. What cannot be reconciled is forgotten and loaded
again.
"""

from collections.abc import Iterable
from functools import partial

import msgspec
import structlog

from crashfold.engine.core.start import Begin, Lost, Recreated, Start, was_recreated, where_to_begin
from crashfold.engine.errors import LostRange
from crashfold.engine.meter import Meter
from crashfold.engine.ports import Checkpoint, EventLog, Manifest, Position, StateStore
from crashfold.engine.runtime.folder import Folder
from crashfold.engine.runtime.gaps import LostRecords
from crashfold.engine.runtime.partitions import Partition
from crashfold.engine.runtime.retry import Retry
from crashfold.engine.runtime.streams import CommitConflict, Stream
from crashfold.schemas.record import DEFAULT_STREAM

log = structlog.get_logger()


class Placement:
    """Places the partitions of `folder`. What it decides to read from elsewhere stands in `folder.partitions.seeks`."""

    def __init__(
        self,
        event_log: EventLog,
        store: StateStore,
        folder: Folder,
        retry: Retry,
        meter: Meter,
        gaps: LostRecords,
    ) -> None:
        self._log = event_log
        self._store = store
        self._folder = folder
        self._partitions = folder.partitions
        self._streams = folder.streams
        self._retry = retry
        self._meter = meter
        self._gaps = gaps

    async def refuse_other_settings(self) -> None:
        """Raise now, before anything is written: ConfigurationError when the store's user lacks a right, StateError
        when the state of the only stream was made with other settings, whichever engine holds the partitions. Of many
        streams those on a partition are looked at when it is gained."""
        only = self._folder.only_stream
        await self._retry.with_store(lambda: self._store.check_rights(only or DEFAULT_STREAM))
        if only is not None and (checkpoint := await self._checkpoint(only)) is not None:
            self._streams.check(only, checkpoint)

    async def gain(self, number: int) -> None:
        """Find out where a partition begins that was gained. Raises a StateError when its state does not fit."""
        log.info("partition_gained", partition=number, next_offset=await self.locate(number))

    async def locate(self, number: int) -> int:
        """The offset from which a partition that was gained is read. Raises a StateError when its state does not fit;
        writes only what belongs to an accepted gap."""
        await self.place(number, await self._manifest(number))
        await self._refuse_other_settings(number)
        return self._partitions.seeks[number]

    async def open(self, names: Iterable[str], number: int) -> None:
        """Load the streams of that partition that are not in memory. Raises a StateError when one does not fit.

        One of which the store has less than was committed is not loaded: the next commit reports it, and its records
        are read again.
        """
        for name in names:
            stream = self._streams.get(name)
            if stream is None:
                stream = await self._load(name, number)
                if stream is None:
                    continue
            if stream.partition != number:
                self._streams.refuse_to_move(name, stream.partition, number)
            self._streams.use(stream)

    async def place(self, number: int, manifest: Manifest | None) -> None:
        """Find out where to read a partition from; forget the streams of which the store has another commit than is
        held, or less than is folded, and write an accepted gap down. Raises a StateError when the partition no longer
        holds what is needed.
        """
        start, stored = await self._start(number, manifest)
        for name, position in stored.items():
            stream = self._streams.get(name)
            if stream is not None and (isinstance(start, Recreated) or not stream.stands_at(position)):
                self._streams.forget(name)
        if not isinstance(start, Begin):
            await self._write_down(number, start)

    async def place_again(self, number: int) -> None:
        """`place` by what is known here of the partition."""
        partition = self._partitions[number]
        await self.place(number, partition.manifest(partition.committed.next_offset))

    async def reconcile(self, conflicts: list[CommitConflict]) -> None:
        """Read again what may be missing: another engine committed, a rebuild was swapped in, or Redis lost writes.

        Other streams of the partition skip the records that they have.
        """
        # What is known must not change before the partitions are placed anew: an engine that ends here would note that
        # all below its own position is committed, and name the stream where it stands now.
        folded_to = self._partitions.folded_to
        manifests = {
            number: self._partitions[number].manifest(folded_to[number])
            for number in sorted({conflict.partition for conflict in conflicts})
        }
        for conflict in conflicts:
            number, name = conflict.partition, conflict.stream
            manifest = manifests[number]
            stream = await self._streams.load(name, number)
            self._streams.use(stream)
            if stream.checkpoint is None:
                # It has nothing any more, which sends us back to the start. If it has something when it is asked again,
                # because Redis failed back, that counts only if it has all that was folded here.
                manifest.streams[name] = folded_to[number]
                continue
            if self._is_strange(stream.checkpoint):
                await self._recognise(stream)  # a store that failed over may have the state of a topic that is gone
            else:
                low_water = min(manifest.low_water, stream.checkpoint.next_offset)
                manifest = manifests[number] = msgspec.structs.replace(manifest, low_water=low_water)
            manifest.streams[name] = stream.checkpoint.next_offset
            manifest.first_offsets[name] = stream.checkpoint.first_offset
        for number, manifest in manifests.items():
            await self.place(number, manifest)

    async def return_to_range(self, error: LostRange) -> None:
        """Deal with a position that the log does not have: retention or a recreated topic got ahead of the loop.

        Raises a StateError unless the gap was accepted.
        """
        for number in self._partitions.read:
            await self.place_again(number)
        if not self._partitions.seeks:
            raise error

    async def _start(self, number: int, manifest: Manifest | None) -> tuple[Start, dict[str, Position | None]]:
        """Decide where reading the partition begins and hold it from there; and what the store has of its streams."""
        names = sorted(manifest.streams) if manifest else []
        mark = manifest.mark if manifest else None
        topic_id = self._log.topic_id
        bounds = await self._retry.with_log(lambda: self._log.bounds(number))
        found = await self._retry.with_log(partial(self._log.record, number, mark.offset)) if mark else None
        positions = await self._retry.with_store(lambda: self._store.positions(names))
        stored = dict(zip(names, positions, strict=True))
        offsets = {name: None if position is None else position.next_offset for name, position in stored.items()}
        start = where_to_begin(manifest, offsets, topic_id, bounds, found)
        match start:
            case Begin(next_offset) | Lost(_, next_offset):
                if isinstance(start, Lost):
                    self._gaps.accept_lost(number, start)
            case Recreated(evidence):
                self._gaps.accept_recreated(number, evidence, manifest.low_water if manifest else 0)
                next_offset, mark = bounds.begin, None
        known = {name: position for name, position in stored.items() if position is not None}
        before = self._partitions.held.get(number)
        if before is not None and isinstance(start, Begin) and next_offset == before.folded.next_offset:
            partition, partition.known = before, known
        else:
            partition = self._partitions.held[number] = Partition(topic_id, next_offset, mark, known)
            if before is not None and not isinstance(start, Recreated):
                partition.begin = min(before.begin, next_offset)
            self._partitions.seeks[number] = next_offset
        partition.first_offsets = dict(manifest.first_offsets) if manifest else {}
        return start, stored

    async def _write_down(self, number: int, accepted: Lost | Recreated) -> None:
        """Move checkpoints to where reading goes on behind an accepted gap, so that it is accepted only once.

        After retention that is the only stream's, since for many it is the manifest that counts. Of a new topic, whose
        offsets have nothing to do with the old ones, it is every stream's, in a new generation: an engine that still
        reads the old topic must not find the position it expects.
        """
        partition = self._partitions[number]
        if isinstance(accepted, Lost):
            only = self._folder.only_stream
            names = [only] if only in partition.known else []
        else:
            names = list(partition.known)
        while names:
            for name in names:
                # Whatever the store has by now is what is moved.
                stream = await self._streams.load(name, number)
                self._streams.use(stream)
                if stream.checkpoint is None:
                    del partition.known[name]
                    continue
                partition.known[name] = stream.checkpoint.position
                if isinstance(accepted, Recreated):
                    if stream.checkpoint.topic_id == partition.topic_id is not None:
                        continue  # another engine has done it
                    self._begin_anew(stream, partition.begin)
                    self._streams.touched[name] = stream
                else:
                    self._streams.move(stream, partition.begin)
            names = [conflict.stream for conflict in await self._folder.commit(names)]
        manifest = partition.manifest(partition.begin)
        await self._retry.with_store(lambda: self._store.write_manifest(self._log.topic, number, manifest))

    async def _checkpoint(self, stream: str) -> Checkpoint | None:
        return await self._retry.with_store(lambda: self._store.checkpoint(stream))

    async def _manifest(self, number: int) -> Manifest | None:
        """Where a restart begins. The only stream's own checkpoint says it best: it was written with the state."""
        only = self._folder.only_stream
        if only is not None:
            checkpoint = await self._checkpoint(only)
            if checkpoint is not None and checkpoint.partition == number:
                self._streams.check(only, checkpoint)
                return Manifest(
                    low_water=checkpoint.next_offset,
                    streams={only: checkpoint.next_offset},
                    first_offsets={only: checkpoint.first_offset},
                    topic_id=checkpoint.topic_id,
                    mark=checkpoint.mark,
                )
        return await self._retry.with_store(lambda: self._store.read_manifest(self._log.topic, number))

    async def _refuse_other_settings(self, number: int) -> None:
        """Raise FingerprintMismatch now rather than with the first record; the stream that was busy last tells."""
        partition = self._partitions[number]
        offsets = {name: position.next_offset for name, position in partition.known.items()}
        known = [name for name, next_offset in offsets.items() if next_offset <= partition.begin]
        if known:
            await self.open([max(known, key=lambda name: offsets[name])], number)

    async def _load(self, name: str, number: int) -> Stream | None:
        """The stream as it is stored; None when the store has less of it than was committed."""
        if name in self._streams.fallen:
            return None
        stream = await self._streams.load(name, number)
        partition = self._partitions[number]
        position = None if stream.checkpoint is None else stream.checkpoint.position
        known = partition.known.get(name)
        if known is not None and (position is None or position.next_offset < known.next_offset):
            self._streams.fallen[name] = CommitConflict(name, number, position)
            return None
        if stream.checkpoint is not None and position is not None:
            if self._is_strange(stream.checkpoint):
                await self._recognise(stream)
            elif known is None and position.next_offset < partition.begin:
                # Nothing is known of it but its checkpoint: what lies between may never have been read.
                self._streams.fallen[name] = CommitConflict(name, number, position)
                return None
            partition.known[name] = position
            partition.first_offsets[name] = stream.checkpoint.first_offset
            self._meter.stands(name, stream.state.newest_end_time)
        return stream

    def _is_strange(self, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint claims to be further than its partition was read, or to be of another topic."""
        partition = self._partitions[checkpoint.partition]
        ids = checkpoint.topic_id, partition.topic_id
        is_another = None not in ids and ids[0] != ids[1]
        return is_another or checkpoint.next_offset > partition.folded.next_offset

    async def _recognise(self, stream: Stream) -> None:
        """See that a stream which claims to be further than this partition was read, or to be of another topic, has
        been folded from this topic: otherwise its next records would be taken for records that it has. Raises
        TopicRecreated when it was not."""
        number, checkpoint = stream.partition, stream.checkpoint
        partition = self._partitions[number]
        assert checkpoint is not None
        mark = checkpoint.mark
        bounds = await self._retry.with_log(lambda: self._log.bounds(number))
        found = await self._retry.with_log(partial(self._log.record, number, mark.offset)) if mark else None
        if recreated := was_recreated(checkpoint.topic_id, mark, partition.topic_id, bounds, found):
            self._gaps.accept_recreated(
                number,
                f"the record that stream {stream.name} was folded to is another; {recreated.evidence}",
                checkpoint.next_offset,
            )
            self._begin_anew(stream, partition.folded.next_offset)

    def _begin_anew(self, stream: Stream, next_offset: int) -> None:
        """Let the stream go on with another topic, in a new generation."""
        stream.next_offset, stream.first_offset = next_offset, -1
        stream.generation = self._folder.new_generation()
