"""The line: poll, decode, split by stream, fold, delta, commit. `Processor.step` is the loop's body.

Imports ports, core and projections. What is always true: a stream's state in memory is the fold of exactly the records
below its checkpoint (plus, between `fold` and `commit`, those about to be committed); whatever cannot be reconciled is
forgotten and loaded again.
"""

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final, TypeVar

import anyio
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
from engine.core.start import Begin, Lost, Recreated, where_to_begin
from engine.errors import FingerprintMismatch, LostRange, StateError, StreamMoved, TopicRecreated, Unavailable
from engine.meter import Meter
from engine.ports import Clock, DeadLetters, EventLog, StateStore
from engine.runtime.health import HealthBoard
from engine.runtime.patience import patiently
from projections import Plan, StreamState

MANIFEST_EVERY_S: Final = 1.0
POLL_WAIT_S: Final = 0.5

T = TypeVar("T")

log = structlog.get_logger()


class Limits(msgspec.Struct, frozen=True):
    """How the line is paced: games a poll, milliseconds to wait for more of them, games held in memory."""

    batch_games_max: int = 20_000
    linger_ms: int = 0
    games_held_max: int = 10_000_000


class Clash(msgspec.Struct, frozen=True):
    """A commit that met a conflict: the stream stands at `stored`."""

    stream: str
    partition: int
    stored: Position | None


class Held(msgspec.Struct, frozen=True):
    """A stream in memory: its partition, how many games it has, and up to where it is folded."""

    partition: int
    games: int
    next_offset: int


class _Partition:
    """A partition that is held: everything below `next_offset` is folded, everything below `committed_to` committed.
    `mark` is of the last record folded."""

    def __init__(self, next_offset: int, mark: Mark | None) -> None:
        self.next_offset = self.committed_to = next_offset
        self.mark = mark
        self.noted = -1
        """The low-water offset of the last manifest."""
        self.committed: dict[str, int] = {}
        """The streams committed since then, with their `next_offset`."""


class _Stream:
    """A stream in memory: what is committed, and what is folded beyond it but not yet committed."""

    def __init__(self, name: str, partition: int, state: StreamState, checkpoint: Checkpoint | None) -> None:
        self.name = name
        self.partition = partition
        self.committed = self.state = state
        self.checkpoint = checkpoint
        self.kept = state.totals.games
        self.next_offset = 0 if checkpoint is None else checkpoint.next_offset
        self.first_offset = -1 if checkpoint is None else checkpoint.first_offset

    @property
    def weight(self) -> int:
        """What holding it costs, in games; a stream costs as much as some hundreds even when it has few."""
        return 500 + self.state.games_held

    def settle(self, checkpoint: Checkpoint) -> None:
        """What was folded is committed."""
        self.committed, self.checkpoint, self.kept = self.state, checkpoint, self.state.totals.games


class Processor:
    """One engine's line over the partitions it holds.

    `writer` names this engine in the checkpoints; `new_generation` names a build of a stream that has none yet. With
    `accept_gap` records that are gone are done without.
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
        accept_gap: bool = False,
    ) -> None:
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
        self._accept_gap = accept_gap
        self._partitions: dict[int, _Partition] = {}
        self._streams: dict[str, _Stream] = {}
        self._touched: dict[str, _Stream] = {}
        self._ahead: Polled | None = None
        self._seeks: dict[int, int] = {}
        self._manifest_due_s = 0.0

    @property
    def next_offsets(self) -> dict[int, int]:
        """Per partition held, the offset below which everything is committed."""
        return {number: partition.committed_to for number, partition in self._partitions.items()}

    @property
    def folded_to(self) -> dict[int, int]:
        """Per partition held, the offset below which everything is folded."""
        return {number: partition.next_offset for number, partition in self._partitions.items()}

    @property
    def marks(self) -> dict[int, Mark]:
        """Per partition held, the last record that was read."""
        return {number: partition.mark for number, partition in self._partitions.items() if partition.mark}

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
        4. Hand dead letters over, then commit each stream, then note the manifest.
        5. Seek where a partition was gained or a commit met a conflict; what was polled ahead of it does not count.
        """
        polled = self._ahead or await self._poll()
        self._ahead = None
        started_s = self._clock.monotonic_s()
        await self._reassign(polled)
        letters: list[DeadLetter] = []
        for records in polled.records:
            letters += await self.fold(records)
        async with anyio.create_task_group() as ahead:
            ahead.start_soon(self._poll_ahead)
            await self._bury(letters)
            for clash in await self.commit():
                await self._go_back(clash)
            self._pass_partitions()
            await self._note_manifests()
            if self._seeks:
                ahead.cancel_scope.cancel()
        await self._seek()
        if polled.count:
            self._meter.step_took(self._clock.monotonic_s() - started_s, polled.count)
        return polled.count

    async def fold(self, records: Records) -> list[DeadLetter]:
        """Fold one partition's records into their streams; the dead letters among them. Nothing is written yet."""
        partition = self._partitions.get(records.partition)
        if partition is None or records.partition in self._seeks:
            return []
        topic, letters = self._log.topic, []
        sorted_out = batches.sort_out(records, self._only_stream)
        for row, reason, detail in sorted_out.rejected:
            letters.append(batches.dead_letter(topic, records, row, reason, detail))
        for name, found in sorted_out.streams.items():
            stream = await self._stream(name, records.partition)
            if stream.first_offset < 0:
                stream.first_offset = records.offsets[0]
            fresh = batches.after(found, records, stream.next_offset)
            folded = stream.state.fold(fresh.games)
            stream.state, stream.kept = folded.state, min(stream.kept, folded.kept)
            letters += [batches.rejected_letter(topic, records, fresh, rejected) for rejected in folded.rejected]
            self._meter.folded(folded.accepted, folded.duplicates, folded.late_accepted)
        for stream in self._passed(records.partition, sorted_out.streams):
            if records.next_offset > stream.next_offset:
                stream.next_offset = records.next_offset
                self._touched[stream.name] = stream
        for letter in letters:
            self._meter.rejected(letter.reason)
        if records.offsets:
            partition.mark = _last_mark(records)
        partition.next_offset = max(partition.next_offset, records.next_offset)
        return letters

    async def commit(self) -> list[Clash]:
        """Commit every stream that was folded since the last time, each by its own compare-and-set.

        A stream whose commit met a conflict is forgotten, since its state here is not what is stored.
        """
        streams = list(self._touched.values())
        self._touched.clear()
        if not streams:
            return []
        commits = [self._commit_of(stream) for stream in streams]
        started_s = self._clock.monotonic_s()
        outcomes = await self._patiently_commit(commits)
        self._meter.committed(self._clock.monotonic_s() - started_s, outcomes)
        clashes = []
        for stream, commit, outcome in zip(streams, commits, outcomes, strict=True):
            match outcome:
                case Applied(version) | Duplicate(version):
                    stream.settle(commit.checkpoint)
                    if partition := self._partitions.get(stream.partition):
                        partition.committed[stream.name] = commit.checkpoint.next_offset
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

    def start_at(self, number: int, next_offset: int) -> None:
        """Take a partition as held, to be folded from there on; for those who read the log themselves."""
        self._partitions[number] = _Partition(next_offset, None)

    async def close(self) -> None:
        """Write what a restart will want to know. Everything committed before stays true without it."""
        self._manifest_due_s = 0.0
        await self._note_manifests()

    async def _poll(self) -> Polled:
        games_max, linger_ms = self._limits.batch_games_max, self._limits.linger_ms
        polled = await self._from_log(lambda: self._log.poll(games_max, POLL_WAIT_S))
        missing = games_max - polled.count
        if linger_ms and polled.count and missing and not (polled.gained or polled.lost):
            await self._clock.sleep(linger_ms / 1000)
            more = await self._from_log(lambda: self._log.poll(missing, 0))
            polled = Polled(more.gained, more.lost, (*polled.records, *more.records))
        return polled

    async def _poll_ahead(self) -> None:
        self._ahead = await self._poll()

    async def _reassign(self, polled: Polled) -> None:
        """Forget what was lost, and find out where what was gained begins."""
        if polled.gained or polled.lost:
            self._meter.rebalanced()
        for number in polled.lost | polled.gained:
            self._forget_partition(number)
            self._meter.released(number)
        for number in sorted(polled.gained):
            begin = await self._begin(number)
            log.info("partition_gained", partition=number, next_offset=begin)
            self._seeks[number] = begin
        if polled.gained or polled.lost:
            self._health.holding(self._partitions)
            self._meter.holding(partitions=len(self._partitions), streams=len(self._streams))

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
            if number in self._partitions and not (self._ahead and number in self._ahead.lost):
                await self._from_log(partial(self._log.seek, number, next_offset))
                self._partitions[number].next_offset = self._partitions[number].committed_to = next_offset

    async def _begin(self, number: int) -> int:
        """Where reading the partition begins. Raises a StateError when it no longer holds what is needed."""
        topic = self._log.topic
        manifest = await self._manifest(number)
        names = sorted(manifest.streams) if manifest else []
        mark = manifest.mark if manifest else None
        bounds = await self._from_log(lambda: self._log.bounds(number))
        found = await self._from_log(partial(self._log.record, number, mark.offset)) if mark else None
        positions = await self._from_store(lambda: self._store.positions(names))
        start = where_to_begin(manifest, dict(zip(names, positions, strict=True)), bounds, found)
        self._partitions[number] = _Partition(bounds.begin, mark)
        if names:
            await self._stream(names[0], number)  # refuses a state that was made with other settings
        match start:
            case Begin(next_offset):
                begin = next_offset
            case Lost(first, begin):
                self._do_without(number, first, begin)
            case Recreated(evidence):
                if not self._accept_gap:
                    raise TopicRecreated(
                        f"{topic}/{number} is not the partition that was read: {evidence}. Rebuild by `crashfold "
                        "replay`, or keep the state and go on with the new records by --accept-gap."
                    )
                log.warning("gap_accepted", topic=topic, partition=number, evidence=evidence)
                begin = bounds.begin
                await self._restart_streams(names, number, begin)
        self._partitions[number].next_offset = self._partitions[number].committed_to = begin
        return begin

    def _do_without(self, number: int, first: int, begin: int) -> None:
        """Go on without the records from `first` to `begin`, if the operator said so. Raises LostRange otherwise."""
        topic = self._log.topic
        if not self._accept_gap:
            raise LostRange(
                f"retention removed offsets {first} to {begin - 1} of {topic}/{number}, and the stored state needs "
                "them. Go on without them by `crashfold run --accept-gap`, or rebuild from what is left by `crashfold replay "
                "--accept-gap`."
            )
        log.warning("gap_accepted", topic=topic, partition=number, first=first, begin=begin)

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

    async def _restart_streams(self, names: Iterable[str], number: int, begin: int) -> None:
        """Point the checkpoints at the begin of a new topic, whose offsets have nothing to do with the old ones."""
        for name in names:
            stream = await self._stream(name, number)
            if stream.checkpoint is not None:
                stream.next_offset = begin
                self._touched[name] = stream
        self._partitions[number].mark = None
        for clash in await self.commit():
            log.warning("checkpoint_not_restarted", stream=clash.stream, stored=clash.stored)

    async def _stream(self, name: str, number: int) -> _Stream:
        """The stream in memory, loaded when it is not there. Raises a StateError when it does not fit."""
        stream = self._streams.pop(name, None)
        if stream is None:
            stored = await self._from_store(lambda: self._store.load(name))
            if stored is None:
                stream = _Stream(name, number, StreamState.empty(self._plan), None)
            else:
                self._check(name, stored.checkpoint)
                try:
                    state = StreamState.load(self._plan, stored.state, stored.window)
                except (ValueError, KeyError) as error:
                    raise StateError(
                        f"the stored state of stream {name} cannot be read: {error}. Rebuild it by `crashfold replay "
                        f"--stream {name}`."
                    ) from error
                stream = _Stream(name, stored.checkpoint.partition, state, stored.checkpoint)
        if stream.partition != number:
            raise StreamMoved(
                f"stream {name} lives on partition {stream.partition} of {self._log.topic} but turned up on partition "
                f"{number}: were partitions added? Its order is lost across partitions. Publish it to one partition "
                "of a new topic, set kafka.topic to that, and rebuild by `crashfold replay`."
            )
        self._streams[name] = stream  # the most recently used stands last
        return stream

    def _check(self, name: str, checkpoint: Checkpoint) -> None:
        if checkpoint.fingerprint != self._plan.fingerprint:
            raise FingerprintMismatch(
                f"stream {name} was folded with other predicates, sizes or projections than these settings have. "
                "Rebuild it with them by `crashfold replay`, or put the settings back."
            )
        if checkpoint.topic != self._log.topic:
            raise TopicRecreated(
                f"stream {name} was folded from topic {checkpoint.topic}, not from {self._log.topic}. Rebuild it from "
                "this one by `crashfold replay`, or set kafka.topic back."
            )

    def _passed(self, number: int, named: Iterable[str]) -> list[_Stream]:
        """The streams whose checkpoints pass these records: those named, and in a deployment of one stream that one."""
        streams = [self._streams[name] for name in named]
        only = self._streams.get(self._only_stream or "")
        if only is not None and only.partition == number and only not in streams:
            streams.append(only)
        return streams

    def _commit_of(self, stream: _Stream) -> Commit:
        before, partition = stream.checkpoint, self._partitions[stream.partition]
        checkpoint = Checkpoint(
            next_offset=stream.next_offset,
            generation=self._new_generation() if before is None else before.generation,
            writer=self._writer,
            topic=self._log.topic,
            partition=stream.partition,
            first_offset=stream.first_offset,
            mark=partition.mark,
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

    async def _go_back(self, clash: Clash) -> None:
        """Somebody else committed, or Redis lost writes: read again what the stream may not have.

        Other streams of the partition skip the records that they have.
        """
        number, stored = clash.partition, clash.stored
        partition = self._partitions.get(number)
        if partition is None:
            return
        bounds = await self._from_log(lambda: self._log.bounds(number))
        next_offset = bounds.begin if stored is None else stored.next_offset
        if next_offset < bounds.begin:
            self._do_without(number, next_offset, bounds.begin)
            next_offset = bounds.begin
        if next_offset < partition.next_offset:
            self._seeks[number] = min(next_offset, self._seeks.get(number, next_offset))

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

    def _pass_partitions(self) -> None:
        """Everything folded is committed now, but for partitions that have to be read again."""
        for number, partition in self._partitions.items():
            if number not in self._seeks:
                partition.committed_to = partition.next_offset

    async def _note_manifests(self) -> None:
        """Note, now and then, where a restart may begin. An old note costs reading again, never a wrong count."""
        now_s = self._clock.monotonic_s()
        if now_s < self._manifest_due_s:
            return
        self._manifest_due_s = now_s + MANIFEST_EVERY_S
        self._forget_idle()
        for number, partition in self._partitions.items():
            low_water = partition.committed_to
            if number in self._seeks or partition.noted == low_water:
                continue
            manifest = Manifest(low_water=low_water, streams=dict(partition.committed), mark=partition.mark)
            try:
                await self._store.write_manifest(self._log.topic, number, manifest)
            except Unavailable as error:
                log.warning("manifest_not_written", partition=number, error=str(error))
                return
            partition.noted = low_water
            partition.committed.clear()

    def _forget_partition(self, number: int) -> None:
        self._partitions.pop(number, None)
        self._seeks.pop(number, None)
        for name in [name for name, stream in self._streams.items() if stream.partition == number]:
            del self._streams[name]
            self._touched.pop(name, None)

    def _forget_idle(self) -> None:
        """Let go of the streams that were used longest ago when too many games are held; Redis has them."""
        held = sum(stream.weight for stream in self._streams.values())
        for name in list(self._streams):
            if held <= self._limits.games_held_max:
                return
            held -= self._streams.pop(name).weight

    async def _from_store(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What the store answers, once it does."""

        def failed(error: Unavailable) -> None:
            self._health.store_down(str(error))

        answer = await patiently(self._clock, ask, failed)
        self._health.store_ok()
        return answer

    async def _from_log(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What the log answers, once it does."""

        def failed(error: Unavailable) -> None:
            self._health.log_down(str(error))

        answer = await patiently(self._clock, ask, failed)
        self._health.log_ok()
        return answer


def _last_mark(records: Records) -> Mark:
    return Mark.of(records.offsets[-1], records.timestamps_ms[-1], records.keys[-1], records.values[-1])
