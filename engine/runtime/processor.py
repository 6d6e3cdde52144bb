"""The line: poll, decode, split by stream, fold, delta, commit. `Processor.step` is the loop's body.

Imports ports, core and projections. What is always true: a stream's state in memory is the fold of exactly the records
below its checkpoint (plus, between `fold` and `commit`, those about to be committed); whatever cannot be reconciled is
forgotten and loaded again.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import partial
from typing import Final, TypeVar

import msgspec
import structlog

from engine.core import batch as batches
from engine.core.facts import (
    Applied,
    Checkpoint,
    Commit,
    Conflict,
    DeadLetter,
    Duplicate,
    Manifest,
    Mark,
    Outcome,
    Polled,
    Position,
    Records,
)
from engine.core.fairness import FairnessCheck, Faults
from engine.core.start import Begin, Lost, Recreated, was_recreated, where_to_begin
from engine.errors import FingerprintMismatch, LostRange, StateError, StreamMoved, TopicRecreated, Unavailable
from engine.meter import Meter
from engine.ports import Clock, DeadLetters, EventLog, StateStore
from engine.runtime.health import HealthBoard
from engine.runtime.patience import patiently
from engine.runtime.tasks import task_group
from projections import Plan, StreamState
from projections.stream import Folded
from schemas.game import stream_name

LOOK_EVERY_S: Final = 1.0
"""How often, at least, the store is asked whether it still has what was committed, and manifests are noted."""
LOOKED_AT_PER_S: Final = 500
"""Streams for which that is affordable every second; with more of them it is done less often."""

T = TypeVar("T")

BEHIND_RECORDS: Final = 500
"""So many records at once do not come from tables that are played on: the engine is behind."""
BEHIND_WAIT_S: Final = 0.05

log = structlog.get_logger()


class Limits(msgspec.Struct, frozen=True):
    """How the line is paced: games a poll, milliseconds to wait for more of them, games held in memory, and how long a
    poll waits while nothing comes."""

    batch_games_max: int = 20_000
    linger_ms: int = 0
    games_held_max: int = 10_000_000
    poll_wait_s: float = 0.5


class Clash(msgspec.Struct, frozen=True):
    """A stream that does not stand where it was committed here last: at `stored`."""

    stream: str
    partition: int
    stored: Position | None


class Held(msgspec.Struct, frozen=True):
    """A stream in memory: its partition, how many games it has, and up to where it is folded."""

    partition: int
    games: int
    next_offset: int


class _Place(msgspec.Struct, frozen=True):
    """A place in a partition; `mark` is of the last record that was read before it."""

    next_offset: int
    mark: Mark | None


class _Partition:
    """A partition that is held: everything below `folded` is folded, everything below `committed` committed.

    `begin` is the lowest offset that was read since it was gained; `known` has its streams' checkpoints, as far as this
    engine knows: the store must never have less.
    """

    def __init__(self, begin: int, mark: Mark | None, known: dict[str, int]) -> None:
        self.begin = begin
        self.folded = self.committed = _Place(begin, mark)
        self.known = known
        self.noted = -1
        """The low-water offset of the last manifest."""

    def manifest(self, low_water: int) -> Manifest:
        """What is known of the partition, all of it, so that one note makes good whatever the store has lost."""
        return Manifest(low_water=low_water, streams=dict(self.known), mark=self.committed.mark)


class _Stream:
    """A stream in memory: what is committed, and what is folded beyond it but not yet committed."""

    def __init__(self, name: str, partition: int, state: StreamState, checkpoint: Checkpoint | None) -> None:
        self.name = name
        self.partition = partition
        self.committed = self.state = state
        self.checkpoint = checkpoint
        self.kept = state.totals.games
        self.next_offset = 0 if checkpoint is None else checkpoint.next_offset
        self.generation = None if checkpoint is None else checkpoint.generation
        self.first_offset = None if checkpoint is None else checkpoint.first_offset

    @property
    def weight(self) -> int:
        """What holding it costs, in games; a stream costs as much as some hundreds even when it has few."""
        return 500 + self.state.games_held

    def settle(self, checkpoint: Checkpoint) -> None:
        """What was folded is committed."""
        self.committed, self.checkpoint, self.kept = self.state, checkpoint, self.state.totals.games
        self.generation = checkpoint.generation


class Processor:
    """One engine's line over the partitions it holds.

    `writer` names this engine in the checkpoints; `new_generation` names a build of a stream that has none yet. With
    `accept_gap` records that are gone are done without. `plan.rule` must be that of `fairness`.
    """

    def __init__(
        self,
        event_log: EventLog,
        store: StateStore,
        dead_letters: DeadLetters,
        plan: Plan,
        *,
        only_stream: str | None,
        writer: str,
        new_generation: Callable[[], str],
        clock: Clock,
        meter: Meter,
        health: HealthBoard,
        limits: Limits,
        fairness: FairnessCheck | None = None,
        accept_gap: bool = False,
    ) -> None:
        assert plan.rule == ("" if fairness is None else fairness.rule), "the plan was made for another rule"
        self._log = event_log
        self._store = store
        self._dead_letters = dead_letters
        self._plan = plan
        self._only_stream = only_stream
        self._writer = writer
        self._new_generation = new_generation
        self._clock = clock
        self._meter = meter
        self._health = health
        self._limits = limits
        self._fairness = fairness
        self._accept_gap = accept_gap
        self._partitions: dict[int, _Partition] = {}
        self._streams: dict[str, _Stream] = {}
        self._touched: dict[str, _Stream] = {}
        self._fallen: dict[str, Clash] = {}
        self._ahead: Polled | None = None
        self._out_of_range: LostRange | None = None
        self._seeks: dict[int, int] = {}
        self._look_due_s = 0.0

    @property
    def only_stream(self) -> str | None:
        """The stream of a deployment of one stream."""
        return self._only_stream

    @property
    def next_offsets(self) -> dict[int, int]:
        """Per partition held, the offset below which everything is committed."""
        return {number: partition.committed.next_offset for number, partition in self._partitions.items()}

    @property
    def folded_to(self) -> dict[int, int]:
        """Per partition held, the offset below which everything is folded."""
        return {number: partition.folded.next_offset for number, partition in self._partitions.items()}

    @property
    def marks(self) -> dict[int, Mark]:
        """Per partition held, the last record that was read and committed."""
        return {
            number: partition.committed.mark
            for number, partition in self._partitions.items()
            if partition.committed.mark
        }

    @property
    def held(self) -> dict[str, Held]:
        """The streams in memory."""
        return {
            name: Held(stream.partition, stream.state.totals.games, stream.next_offset)
            for name, stream in self._streams.items()
        }

    async def step(self) -> int:
        """One turn of the loop; the number of records it took in.

        1. Take what the last turn polled ahead, or poll.
        2. Find out where newly gained partitions begin; forget those that were lost.
        3. Decode and fold; while the commits of this are in flight, poll ahead.
        4. Hand dead letters over, then commit each stream, then look after the store.
        5. Seek where a partition was gained or a commit met a conflict; what was polled ahead of it does not count.

        Raises StateError when going on would be wrong.
        """
        if self._ahead is None:
            await self._poll_ahead()
        polled, self._ahead = self._ahead or Polled(), None
        started_s = self._clock.monotonic_s()
        await self._reassign(polled)
        letters: list[DeadLetter] = []
        for records in batches.joined_by_partition(polled.records):
            letters += await self.fold(records, live=True)
        async with task_group() as tasks:
            tasks.start_soon(self._poll_ahead)
            await self._settle(letters)
            if polled.count:
                self._meter.step_took(self._clock.monotonic_s() - started_s, polled.count)
            if self._seeks:
                tasks.cancel_scope.cancel()
        await self._return_to_range()
        await self._seek()
        return polled.count

    async def refuse_other_settings(self) -> None:
        """Raise StateError now, whoever holds the partitions, when the state of the only stream was made with other
        settings. Of many streams those on a partition are looked at when it is gained."""
        if self._only_stream is not None:
            only = self._only_stream
            stored = await self._from_store(lambda: self._store.load(only))
            if stored is not None:
                self._check(only, stored.checkpoint)

    async def fold(self, records: Records, *, live: bool = False) -> list[DeadLetter]:
        """Fold one partition's records into their streams; the dead letters among them. Nothing is written yet.

        Only what is folded `live` is checked for fairness beyond what the fold itself asks: a rebuild counts nothing.
        """
        partition = self._partitions.get(records.partition)
        if partition is None or records.partition in self._seeks:
            return []
        topic, letters = self._log.topic, []
        sorted_out = batches.sort_out(records, self._only_stream, self._fairness)
        passed, faults = [], Faults(sum(reason == "fairness" for _, reason, _ in sorted_out.rejected))
        for name, found in sorted_out.streams.items():
            stream = await self._stream(name, records.partition)
            if stream is None:
                continue
            passed.append(stream)
            fresh = batches.after(found, records, stream.next_offset)
            if stream.first_offset is None:
                stream.first_offset = records.offsets[fresh.rows[0]] if fresh.rows else records.next_offset
            before, folded = stream.state, stream.state.fold(fresh.games)
            stream.state, stream.kept = folded.state, min(stream.kept, folded.kept)
            letters += [batches.rejected_letter(topic, records, fresh, rejected) for rejected in folded.rejected]
            self._meter.folded(folded.accepted, folded.duplicates, folded.late_accepted)
            if live:
                faults += self._faults(before, folded)
        letters += [
            batches.dead_letter(topic, records, row, reason, detail)
            for row, reason, detail in sorted_out.rejected
            if not self._has_passed(records, row)
        ]
        self._pass(records, partition, passed)
        letters.sort(key=lambda letter: letter.record.offset)
        for letter in letters:
            self._meter.rejected(letter.reason)
        if live:
            self._count_unfair(records.partition, faults)
        return letters

    def _has_passed(self, records: Records, row: int) -> bool:
        """Whether a checkpoint has passed the record of that row already, so that its letter was handed over."""
        name = self._only_stream or stream_name(records.keys[row])
        stream = self._streams.get(name) if isinstance(name, str) else None
        return (
            stream is not None and stream.partition == records.partition and records.offsets[row] < stream.next_offset
        )

    async def commit(self, names: Collection[str] | None = None) -> list[Clash]:
        """Commit the streams of these names, or every one, that were folded since the last time, each by its own
        compare-and-set.

        A stream whose commit met a conflict is forgotten, since its state here is not what is stored.
        """
        clashes: list[Clash] = []
        if names is None:
            clashes += self._fallen.values()
            self._fallen.clear()
        streams = [self._touched.pop(name) for name in list(self._touched) if names is None or name in names]
        if not streams:
            return clashes
        commits = [self._commit_of(stream) for stream in streams]
        started_s = self._clock.monotonic_s()
        outcomes = await self._patiently_commit(commits)
        self._meter.committed(self._clock.monotonic_s() - started_s, outcomes)
        for stream, commit, outcome in zip(streams, commits, outcomes, strict=True):
            match outcome:
                case Applied(version) | Duplicate(version):
                    stream.settle(commit.checkpoint)
                    self._partitions[stream.partition].known[stream.name] = commit.checkpoint.next_offset
                    log.debug("committed", stream=stream.name, version=version, games=commit.total_games)
                case Conflict(stored):
                    log.info("conflict", stream=stream.name, expected=commit.expected, stored=stored)
                    self.forget(stream.name)
                    clashes.append(Clash(stream.name, stream.partition, stored))
        return clashes

    def forget(self, name: str) -> None:
        """Drop the stream from memory; it is loaded again when its next record comes."""
        self._streams.pop(name, None)
        self._touched.pop(name, None)

    async def bring_up(self, name: str, number: int) -> Held | None:
        """Let the stream's checkpoint pass everything that was folded of its partition, with the next commit; None when
        the store no longer has what was committed."""
        stream = await self._stream(name, number)
        if stream is None:
            return None
        self._move(stream, self._partitions[number].folded.next_offset)
        return Held(number, stream.state.totals.games, stream.next_offset)

    async def make_room(self) -> list[Clash]:
        """When more games are held than should be, commit, and let go of streams; for those who do not `step`."""
        if self._weight <= self._limits.games_held_max:
            return []
        clashes = await self.commit()
        self._forget_idle()
        return clashes

    def start_at(self, number: int, next_offset: int) -> None:
        """Take a partition as held, to be folded from there on; for those who read the log themselves."""
        self._partitions[number] = _Partition(next_offset, None, {})

    async def close(self) -> None:
        """Write what a restart will want to know. Everything committed before stays true without it."""
        await self._note_manifests()

    async def _poll_ahead(self) -> None:
        """Poll, and while records come in such numbers that the engine must be behind, poll on: one big commit costs
        less than many. What comes stands in `_ahead` from the moment it is taken from the log: nobody is cancelled
        with it."""
        limits, linger_s = self._limits, self._limits.linger_ms / 1000
        try:
            newest = ahead = self._ahead = await self._from_log(
                lambda: self._log.poll(limits.batch_games_max, limits.poll_wait_s)
            )
            while (missing := limits.batch_games_max - ahead.count) > 0 and not (newest.gained or newest.lost):
                if newest.count >= BEHIND_RECORDS:
                    wait_s = min(BEHIND_WAIT_S, limits.poll_wait_s)
                elif linger_s and newest is ahead and newest.count:
                    await self._clock.sleep(linger_s)
                    wait_s = 0.0
                else:
                    return
                newest = await self._from_log(partial(self._log.poll, missing, wait_s))
                ahead = self._ahead = Polled(newest.gained, newest.lost, (*ahead.records, *newest.records))
        except LostRange as error:
            if self._ahead is None:
                self._out_of_range = error
            # Otherwise the next poll raises it again, when what came before is folded.

    async def _settle(self, letters: list[DeadLetter]) -> None:
        """Make what was folded lasting: dead letters first, then the commits, then the manifests."""
        await self._bury(letters)
        if clashes := await self.commit():
            await self._reconcile(clashes)
        for number, partition in self._partitions.items():
            if number not in self._seeks:
                partition.committed = partition.folded
        await self._look_after_the_store()

    async def _reassign(self, polled: Polled) -> None:
        """Forget what was lost, and find out where what was gained begins."""
        if not (polled.gained or polled.lost):
            return
        self._meter.rebalanced()
        for number in polled.lost | polled.gained:
            self._forget_partition(number)
            self._meter.released(number)
        for number in sorted(polled.gained):
            await self._place(number, await self._manifest(number))
            await self._refuse_other_settings(number)
            log.info("partition_gained", partition=number, next_offset=self._seeks[number])
        self._health.holding(self._partitions)
        self._tell_holding()

    async def _seek(self) -> None:
        """Move the partitions that have to be read from elsewhere, and drop what was polled of them before."""
        if not self._seeks:
            return
        seeks, self._seeks = self._seeks, {}
        if self._ahead is not None:
            kept = tuple(records for records in self._ahead.records if records.partition not in seeks)
            self._ahead = Polled(self._ahead.gained, self._ahead.lost, kept)
            if not (kept or self._ahead.gained or self._ahead.lost):
                self._ahead = None
        for number, next_offset in seeks.items():
            if not (self._ahead and number in self._ahead.lost):
                await self._from_log(partial(self._log.seek, number, next_offset))

    async def _place(self, number: int, manifest: Manifest | None) -> None:
        """Find out where to read a partition from, by what is known of it, and see to it that this is done.

        Streams of which the store has less than was known are forgotten here. Raises a StateError when the partition no
        longer holds what is needed.
        """
        names = sorted(manifest.streams) if manifest else []
        mark = manifest.mark if manifest else None
        bounds = await self._from_log(lambda: self._log.bounds(number))
        found = await self._from_log(partial(self._log.record, number, mark.offset)) if mark else None
        positions = await self._from_store(lambda: self._store.positions(names))
        stored = dict(zip(names, positions, strict=True))
        start = where_to_begin(manifest, stored, bounds, found)
        match start:
            case Begin(next_offset) | Lost(_, next_offset):
                if isinstance(start, Lost):
                    self._do_without(number, start.first, start.begin)
                for name, position in stored.items():
                    if name in self._streams and (position is None or position < self._streams[name].next_offset):
                        self.forget(name)
            case Recreated(evidence):
                self._begin_anew(number, evidence)
                next_offset, mark = bounds.begin, None
                for name in names:
                    self.forget(name)
        known = {name: position for name, position in stored.items() if position is not None}
        before = self._partitions.get(number)
        if before is not None and isinstance(start, Begin) and next_offset == before.folded.next_offset:
            before.known = known
            return
        self._partitions[number] = _Partition(next_offset, mark, known)
        if before is not None:
            self._partitions[number].begin = min(before.begin, next_offset)
        self._seeks[number] = next_offset
        if not isinstance(start, Begin):
            await self._write_down(number, start)

    def _do_without(self, number: int, first: int, begin: int) -> None:
        """Go on without the records from `first` to `begin`, if the operator said so. Raises LostRange otherwise."""
        topic = self._log.topic
        if not self._accept_gap:
            raise LostRange(
                f"retention removed offsets {first} to {begin - 1} of {topic}/{number}, and the stored state needs "
                "them. Go on without them by `crashfold run --accept-gap`, or rebuild from what is left by `crashfold "
                "replay --accept-gap`."
            )
        log.warning("gap_accepted", topic=topic, partition=number, first=first, begin=begin)

    def _begin_anew(self, number: int, evidence: str) -> None:
        """Go on with a topic that is another one, if the operator said so. Raises TopicRecreated otherwise."""
        topic = self._log.topic
        if not self._accept_gap:
            raise TopicRecreated(
                f"{topic}/{number} is not the partition that was read: {evidence}. Rebuild from what it has by "
                "`crashfold replay --accept-gap`, or keep the state and go on with the new records by --accept-gap."
            )
        log.warning("gap_accepted", topic=topic, partition=number, evidence=evidence)

    async def _write_down(self, number: int, accepted: Lost | Recreated) -> None:
        """Move checkpoints to where reading goes on behind an accepted gap, so that it is accepted only once.

        After retention that is the only stream's, since for many it is the manifest that counts. Of a new topic, whose
        offsets have nothing to do with the old ones, it is every stream's, in a new generation: an engine that still
        reads the old topic must not find the position it expects.
        """
        partition = self._partitions[number]
        if isinstance(accepted, Lost):
            names = [self._only_stream] if self._only_stream in partition.known else []
        else:
            names = list(partition.known)
        while names:
            for name in names:
                # Whatever the store has by now is what is moved.
                stream = self._streams[name] = await self._load(name, number)
                if stream.checkpoint is None:
                    del partition.known[name]
                    continue
                partition.known[name] = stream.checkpoint.next_offset
                if isinstance(accepted, Recreated):
                    stream.next_offset, stream.first_offset = partition.begin, -1
                    stream.generation = self._new_generation()
                    self._touched[name] = stream
                else:
                    self._move(stream, partition.begin)
            names = [clash.stream for clash in await self.commit(names)]
        manifest = partition.manifest(partition.begin)
        await self._from_store(lambda: self._store.write_manifest(self._log.topic, number, manifest))

    async def _manifest(self, number: int) -> Manifest | None:
        """Where a restart begins. The only stream's own checkpoint says it best: it was written with the state."""
        if self._only_stream is not None:
            only = self._only_stream
            stored = await self._from_store(lambda: self._store.load(only))
            if stored is not None and stored.checkpoint.partition == number:
                next_offset = stored.checkpoint.next_offset
                self._check(only, stored.checkpoint)
                return Manifest(low_water=next_offset, streams={only: next_offset}, mark=stored.checkpoint.mark)
        return await self._from_store(lambda: self._store.read_manifest(self._log.topic, number))

    async def _refuse_other_settings(self, number: int) -> None:
        """Raise FingerprintMismatch now rather than with the first record; the stream that was busy last tells."""
        partition = self._partitions[number]
        known = {name: known for name, known in partition.known.items() if known <= partition.begin}
        if known:
            await self._stream(max(known, key=lambda name: known[name]), number)

    async def _stream(self, name: str, number: int) -> _Stream | None:
        """The stream in memory, loaded when it is not there. Raises a StateError when it does not fit.

        None when the store has less of it than was committed, which the next commit reports: its records must be read
        again.
        """
        stream = self._streams.pop(name, None)
        if stream is None:
            if name in self._fallen:
                return None
            stream = await self._load(name, number)
            partition = self._partitions[number]
            position = None if stream.checkpoint is None else stream.checkpoint.position
            known = partition.known.get(name)
            if known is not None and (position is None or position.next_offset < known):
                self._fallen[name] = Clash(name, number, position)
                return None
            if known is None and position is not None and position.next_offset < partition.begin:
                # Nothing is known of it but its checkpoint: the manifest was lost.
                self._do_without(number, position.next_offset, partition.begin)
            if position is not None:
                if position.next_offset > partition.folded.next_offset:
                    await self._recognise(stream)
                partition.known[name] = stream.next_offset
        if stream.partition != number:
            self._refuse_to_move(name, stream.partition, number)
        self._streams[name] = stream  # the most recently used stands last
        return stream

    async def _recognise(self, stream: _Stream) -> None:
        """See that a stream which claims to be further than this partition was read has been folded from this topic:
        otherwise its next records would be taken for records that it has. Raises TopicRecreated when it was not."""
        number, checkpoint = stream.partition, stream.checkpoint
        assert checkpoint is not None
        mark = checkpoint.mark
        bounds = await self._from_log(lambda: self._log.bounds(number))
        found = await self._from_log(partial(self._log.record, number, mark.offset)) if mark else None
        if recreated := was_recreated(mark, bounds, found):
            self._begin_anew(
                number, f"the record that stream {stream.name} was folded to is another; {recreated.evidence}"
            )
            stream.next_offset, stream.first_offset = self._partitions[number].folded.next_offset, -1
            stream.generation = self._new_generation()

    async def _load(self, name: str, number: int) -> _Stream:
        stored = await self._from_store(lambda: self._store.load(name))
        if stored is None:
            return _Stream(name, number, StreamState.empty(self._plan), None)
        self._check(name, stored.checkpoint)
        if stored.checkpoint.partition != number:
            self._refuse_to_move(name, stored.checkpoint.partition, number)
        try:
            state = StreamState.load(self._plan, stored.state, stored.window)
        except (ValueError, KeyError) as error:
            raise StateError(
                f"the stored state of stream {name} cannot be read: {error}. Rebuild it by "
                f"`crashfold replay --stream {name}`."
            ) from error
        return _Stream(name, number, state, stored.checkpoint)

    def _refuse_to_move(self, name: str, home: int, number: int) -> None:
        raise StreamMoved(
            f"stream {name} lives on partition {home} of {self._log.topic} but turned up on partition {number}: were "
            "partitions added? Its order is lost across partitions. Publish it to one partition of a new topic, set "
            "kafka.topic to that, and rebuild by `crashfold replay`."
        )

    def _check(self, name: str, checkpoint: Checkpoint) -> None:
        if checkpoint.fingerprint != self._plan.fingerprint:
            raise FingerprintMismatch(
                f"stream {name} was folded with other predicates, sizes, projections or rules than these settings "
                "have. Rebuild it with them by `crashfold replay`, or put the settings back."
            )
        if checkpoint.topic != self._log.topic:
            raise TopicRecreated(
                f"stream {name} was folded from topic {checkpoint.topic}, not from {self._log.topic}. Rebuild it from "
                "this one by `crashfold replay`, or set kafka.topic back."
            )

    def _pass(self, records: Records, partition: _Partition, streams: Iterable[_Stream]) -> None:
        """Note that these records are folded. The checkpoints of the streams that were named pass them, and in a
        deployment of one stream that one's, whatever they were."""
        for stream in streams:
            self._move(stream, records.next_offset)
        only = self._streams.get(self._only_stream or "")
        if only is not None and only.partition == records.partition:
            self._move(only, records.next_offset)
        mark = _last_mark(records) if records.offsets else partition.folded.mark
        partition.folded = _Place(max(partition.folded.next_offset, records.next_offset), mark)

    def _move(self, stream: _Stream, next_offset: int) -> None:
        """Let the stream's checkpoint stand there with the next commit; never further back than it is."""
        if next_offset > stream.next_offset:
            stream.next_offset = next_offset
            self._touched[stream.name] = stream

    def _commit_of(self, stream: _Stream) -> Commit:
        before, partition = stream.checkpoint, self._partitions[stream.partition]
        checkpoint = Checkpoint(
            next_offset=stream.next_offset,
            generation=stream.generation or self._new_generation(),
            writer=self._writer,
            topic=self._log.topic,
            partition=stream.partition,
            first_offset=partition.begin if stream.first_offset is None else stream.first_offset,
            mark=partition.folded.mark,
            fingerprint=self._plan.fingerprint,
            aggregates=self._plan.aggregates,
        )
        totals = stream.state.totals
        delta = stream.state.delta(stream.committed, stream.kept)
        expected = None if before is None else before.position
        return Commit(stream.name, expected, checkpoint, delta, totals.games, totals.newest_id)

    async def _patiently_commit(self, commits: list[Commit]) -> list[Outcome]:
        """Commit, again and again while the store is away: a commit that was made already answers `Duplicate`."""

        def failed(error: Unavailable) -> None:
            self._meter.commit_failed(error)
            self._health.store_down(str(error))
            log.warning("commit_failed", error=str(error))

        outcomes = await patiently(self._clock, lambda: self._store.commit(commits), failed)
        self._health.store_ok()
        return outcomes

    async def _reconcile(self, clashes: list[Clash]) -> None:
        """Somebody else committed, a rebuild was swapped in, or Redis lost writes: read again what may be missing.

        Other streams of the partition skip the records that they have.
        """
        low_water = self.folded_to
        for clash in clashes:
            number, name = clash.partition, clash.stream
            partition = self._partitions[number]
            stream = self._streams[name] = await self._load(name, number)
            if stream.checkpoint is None:
                partition.known.setdefault(name, 0)  # it has nothing any more, which sends us back to the start
            else:
                partition.known[name] = stream.checkpoint.next_offset
                low_water[number] = min(low_water[number], stream.checkpoint.next_offset)
        for number in sorted({clash.partition for clash in clashes}):
            await self._place(number, self._partitions[number].manifest(low_water[number]))

    async def _return_to_range(self) -> None:
        """Deal with a position that the log does not have: retention or a recreated topic got ahead of the line.

        Raises a StateError unless the gap was accepted.
        """
        error, self._out_of_range = self._out_of_range, None
        if error is None or self._ahead is not None:
            return  # with something in hand, the log tells again when that is folded
        for number in sorted(self._partitions.keys() - self._seeks.keys()):
            partition = self._partitions[number]
            await self._place(number, partition.manifest(partition.committed.next_offset))
        if not self._seeks:
            raise error

    async def _bury(self, letters: list[DeadLetter]) -> None:
        """Hand the dead letters over, before any checkpoint passes them."""
        if letters:
            await self._from_log(lambda: self._dead_letters.put(letters))
            for letter in letters:
                self._meter.buried(letter.reason)
                log.info(
                    "dead_letter",
                    reason=letter.reason,
                    detail=letter.detail,
                    partition=letter.partition,
                    offset=letter.record.offset,
                )

    async def _look_after_the_store(self) -> None:
        """Now and then: let go of what need not be in memory, ask whether the store still has what was committed, and
        note where a restart may begin.

        So writes that were lost are noticed, and made again, also of a stream for which nothing comes any more; and a
        store that is away is noticed while there is nothing to commit. One try each: the next turn has another.
        """
        now_s = self._clock.monotonic_s()
        if now_s < self._look_due_s:
            return
        streams = sum(len(partition.known) for partition in self._partitions.values())
        self._look_due_s = now_s + max(LOOK_EVERY_S, streams / LOOKED_AT_PER_S)
        self._forget_idle()
        self._tell_holding()
        try:
            fallen = await self._fallen_behind()
        except Unavailable as error:
            self._health.store_down(str(error))
            log.warning("store_away", error=str(error))
            return
        self._health.store_ok()
        for number in fallen:
            partition = self._partitions[number]
            log.warning("writes_lost", partition=number)
            await self._place(number, partition.manifest(partition.committed.next_offset))
        await self._note_manifests()

    async def _fallen_behind(self) -> list[int]:
        """The partitions of which the store has less than was committed. Asks it in any case."""
        numbers = [number for number in sorted(self._partitions) if number not in self._seeks]
        names = [name for number in numbers for name in self._partitions[number].known]
        if not names:
            for number in numbers[:1]:
                await self._store.read_manifest(self._log.topic, number)
            return []
        stored = dict(zip(names, await self._store.positions(names), strict=True))

        def has(name: str, known: int) -> bool:
            position = stored[name]
            return position is not None and position >= known

        return [
            number
            for number in numbers
            if not all(has(name, known) for name, known in self._partitions[number].known.items())
        ]

    async def _note_manifests(self) -> None:
        """Note where a restart may begin. An old note costs reading again, never a wrong count."""
        for number, partition in self._partitions.items():
            low_water = partition.committed.next_offset
            if number in self._seeks or partition.noted == low_water:
                continue
            try:
                await self._store.write_manifest(self._log.topic, number, partition.manifest(low_water))
            except Unavailable as error:
                log.warning("manifest_not_written", partition=number, error=str(error))
                return
            partition.noted = low_water

    def _faults(self, before: StreamState, folded: Folded) -> Faults:
        if self._fairness is None or not folded.accepted:
            return Faults()
        return self._fairness.faults(before.window, folded.games)

    def _count_unfair(self, number: int, faults: Faults) -> None:
        if faults.hash:
            self._meter.unfair("hash", faults.hash)
        if faults.chain:
            self._meter.unfair("chain", faults.chain)
        if faults.hash or faults.chain:
            log.warning("unfair_games", partition=number, hash=faults.hash, chain=faults.chain)

    @property
    def _weight(self) -> int:
        return sum(stream.weight for stream in self._streams.values())

    def _tell_holding(self) -> None:
        self._meter.holding(partitions=len(self._partitions), streams=len(self._streams))

    def _forget_partition(self, number: int) -> None:
        self._partitions.pop(number, None)
        self._seeks.pop(number, None)
        for name in [name for name, stream in self._streams.items() if stream.partition == number]:
            self.forget(name)

    def _forget_idle(self) -> None:
        """Let go of the streams that were used longest ago when too many games are held; Redis has them."""
        held = self._weight
        for name in list(self._streams)[:-1]:
            if held <= self._limits.games_held_max:
                return
            if name not in self._touched:
                held -= self._streams.pop(name).weight

    async def _from_store(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What the store answers, once it does."""

        def failed(error: Unavailable) -> None:
            self._health.store_down(str(error))
            log.warning("store_away", error=str(error))

        answer = await patiently(self._clock, ask, failed)
        self._health.store_ok()
        return answer

    async def _from_log(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What the log answers, once it does."""

        def failed(error: Unavailable) -> None:
            self._health.log_down(str(error))
            log.warning("log_away", error=str(error))

        answer = await patiently(self._clock, ask, failed)
        self._health.log_ok()
        return answer


def _last_mark(records: Records) -> Mark:
    return Mark.of(records.offsets[-1], records.timestamps_ms[-1], records.keys[-1], records.values[-1])
