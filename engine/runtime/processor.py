"""The line: poll, decode, split by stream, fold, delta, commit. `Processor.step` is the loop's body.

Imports ports, core and projections. What is always true: a stream's state in memory is the fold of exactly the records
below its checkpoint (plus, between `fold` and `commit`, those about to be committed); whatever cannot be reconciled is
forgotten and loaded again.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import partial
from typing import Final

import anyio
import anyio.lowlevel
import msgspec
import structlog

from crashfold.engine.core import batch as batches
from crashfold.engine.core.fairness import FairnessCheck, Faults
from crashfold.engine.core.health import COMMITS, DEAD_LETTERS, POLLING
from crashfold.engine.core.start import Begin, Lost, Recreated, was_recreated
from crashfold.engine.errors import LostRange, TopicCompacted, Unavailable
from crashfold.engine.meter import Meter
from crashfold.engine.ports import (
    Applied,
    Checkpoint,
    Clock,
    Commit,
    Conflict,
    DeadLetter,
    DeadLetters,
    Duplicate,
    EventLog,
    Manifest,
    Mark,
    Outcome,
    Polled,
    Records,
    StateStore,
)
from crashfold.engine.runtime.health import HealthBoard
from crashfold.engine.runtime.letters import LettersLog
from crashfold.engine.runtime.partitions import Partition, Partitions, Place
from crashfold.engine.runtime.patience import Patience, patiently
from crashfold.engine.runtime.streams import Clash, Held, Stream, Streams
from crashfold.engine.runtime.tasks import task_group
from crashfold.projections import Plan, StreamState
from crashfold.projections.stream import Folded
from crashfold.schemas.game import DEFAULT_STREAM, stream_name

LOOK_EVERY_S: Final = 1.0
"""How often, at least, the store is asked whether it still has what was committed, and manifests are noted."""
LOOKED_AT_PER_S: Final = 500
"""Streams for which that is affordable every second; with more of them it is done less often."""

FLOOD_LETTERS: Final = 500
"""A step with so many dead letters is followed by a short one, for a letter takes many times as long as a game."""
FLOOD_RECORDS: Final = 2_000
"""Records of a short step. Partitions take turns in filling a step, so one that is full of what cannot be folded holds
the others up for two steps at most."""
BEHIND_RECORDS: Final = 500
"""So many records at once do not come from tables that are played on: the engine is behind."""
STEP_BYTES: Final = 32 << 20
"""So many bytes of records are enough for a step, however few the records are."""
BEHIND_WAIT_S: Final = 0.05
BUSY_S: Final = 0.1
"""A poll that ends so much later than it should has not been listening."""

FOLDING_PER_SETTLING: Final = 4
"""Far behind, so much more time is spent folding than committing."""
SETTLED_AT_LEAST_EVERY_S: Final = 5.0

UNFOLDED_GAMES: Final = 20_000
"""A stream of so many games that is stored for the first time is too big to be printed before it is on its way."""

log = structlog.get_logger()


class Limits(msgspec.Struct, frozen=True):
    """How the line is paced: games a poll, milliseconds to wait for more of them, games held in memory, how long a poll
    waits while nothing comes, of how many streams the commits go at once, and how many games of the window may wait for
    a commit: some 40 MB, for Redis has limits for what it takes at once."""

    batch_games_max: int = 20_000
    linger_ms: int = 0
    games_held_max: int = 10_000_000
    poll_wait_s: float = 0.5
    streams_at_once: int = 50
    commit_games_max: int = 200_000


class Processor:
    """One engine's line over the partitions it holds.

    `writer` names this engine in the checkpoints; `new_generation` names a build of a stream that has none yet,
    `new_commit` a commit, by 16 hex digits. With `accept_gap` records that are gone are done without. `plan.rule` must
    be that of `fairness`.
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
        new_commit: Callable[[], str],
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
        self._new_commit = new_commit
        self._clock = clock
        self._meter = meter
        self._health = health
        self._limits = limits
        self._fairness = fairness
        self._accept_gap = accept_gap
        self._patience = Patience(clock, health, writer)
        self._partitions = Partitions(event_log, store, self._patience, accept_gap=accept_gap)
        self._streams = Streams(store, self._patience, plan, event_log.topic)
        self._fallen: dict[str, Clash] = {}
        self._letters_log = LettersLog(clock)
        self._is_flooded = False
        self._ahead: Polled | None = None
        self._out_of_range: LostRange | None = None
        self.count_at: dict[str, int] = {}
        """Of some streams, offsets up to which their games are to be counted while they are folded."""
        self.counted: dict[str, int] = {}
        """What came of that, once records at that offset or beyond it were folded."""
        self._look_due_s = 0.0
        self._recognise_due_s = 0.0
        self._settled_s = self._settling_took_s = 0.0
        self._waiting_games = 0

    @property
    def only_stream(self) -> str | None:
        """The stream of a deployment of one stream."""
        return self._only_stream

    @property
    def next_offsets(self) -> dict[int, int]:
        """Per partition held, the offset below which everything is committed."""
        return {number: partition.committed.next_offset for number, partition in self._partitions.held.items()}

    @property
    def folded_to(self) -> dict[int, int]:
        """Per partition held, the offset below which everything is folded."""
        return {number: partition.folded.next_offset for number, partition in self._partitions.held.items()}

    @property
    def marks(self) -> dict[int, Mark]:
        """Per partition held, the last record that was read and committed."""
        return {
            number: partition.committed.mark
            for number, partition in self._partitions.held.items()
            if partition.committed.mark
        }

    @property
    def held(self) -> dict[str, Held]:
        """The streams in memory."""
        return {stream.name: Held(stream.partition, stream.state.games, stream.next_offset) for stream in self._streams}

    async def step(self) -> int:
        """One turn of the loop; the number of records it took in.

        1. Take what the last turn polled ahead and what has come since, or poll.
        2. Find out where newly gained partitions begin; forget those that were lost.
        3. Decode and fold; while the commits of this are in flight, poll ahead.
        4. Hand dead letters over; then, unless far behind, commit each stream and look after the store.
        5. Seek where a partition was gained or a commit met a conflict; what was polled ahead of it does not count.

        Raises StateError when going on would be wrong.
        """
        if self._ahead is None:
            await self._poll_ahead()
        else:
            await self._top_up()
        polled, self._ahead = self._ahead or Polled(), None
        started_s = self._clock.monotonic_s()
        await self._reassign(polled)
        letters: list[DeadLetter] = []
        for records in batches.joined_by_partition(polled.records):
            letters += await self.fold(records, live=True)
        self._is_flooded = len(letters) >= FLOOD_LETTERS
        async with task_group() as tasks:
            tasks.start_soon(self._poll_ahead)
            await self._bury(letters)
            self._waiting_games += polled.count
            if self._is_due(polled):
                await self.settle()
            if polled.count:
                self._meter.step_took(self._clock.monotonic_s() - started_s, polled.count)
            if self._partitions.seeks:
                tasks.cancel_scope.cancel()
        await self._return_to_range()
        await self._seek()
        return polled.count

    async def refuse_other_settings(self) -> None:
        """Raise now, before anything is written: ConfigurationError when the store's user lacks a right, StateError
        when the state of the only stream was made with other settings, whoever holds the partitions. Of many streams
        those on a partition are looked at when it is gained."""
        stream = self._only_stream or DEFAULT_STREAM
        await self._patience.with_store(lambda: self._store.check_rights(stream))
        if self._only_stream is not None:
            only = self._only_stream
            stored = await self._patience.with_store(lambda: self._store.load(only))
            if stored is not None:
                self._streams.check(only, stored.checkpoint)

    async def refuse_compaction(self) -> None:
        """Raise TopicCompacted when records go that a rebuild would need, unless what is gone is done without."""
        if not await self._patience.with_log(self._log.is_compacted):
            return
        if not self._accept_gap:
            raise TopicCompacted.of(self._log.topic)
        log.warning("gap_accepted", topic=self._log.topic, evidence="it is compacted")

    async def fold(self, records: Records, *, live: bool = False) -> list[DeadLetter]:
        """Fold one partition's records into their streams; the dead letters among them. Nothing is written yet.

        Only what is folded `live` is checked for fairness beyond what the fold itself asks: a rebuild counts nothing.
        """
        partition = self._partitions.held.get(records.partition)
        if partition is None or records.partition in self._partitions.seeks:
            return []
        topic, letters = self._log.topic, []
        sorted_out = batches.sort_out(records, self._plan.bands, self._plan.settings, self._only_stream, self._fairness)
        passed, faults = [], Faults(sum(reason == "fairness" for _, reason, _ in sorted_out.rejected))
        for number, (name, found) in enumerate(sorted_out.streams.items(), 1):
            if number % self._limits.streams_at_once == 0:
                await _let_others_run()
            stream = await self._stream(name, records.partition)
            if stream is None:
                continue
            passed.append(stream)
            fresh = batches.after(found, records, stream.next_offset)
            if stream.first_offset is None:
                stream.first_offset = int(records.offsets[fresh.rows[0]]) if len(fresh.rows) else records.next_offset
            parts: tuple[batches.StreamBatch, ...] = (fresh,)
            if name in self.count_at and self.count_at[name] < records.next_offset:
                parts = batches.cut(fresh, records, self.count_at.pop(name))
            for part in parts:
                before, folded = stream.state, stream.state.fold_cells(part.cells)
                stream.state, stream.kept = folded.state, min(stream.kept, folded.kept)
                letters += [batches.rejected_letter(topic, records, part, rejected) for rejected in folded.rejected]
                self._meter.folded(folded.accepted, folded.duplicates, folded.late_accepted)
                if part is not parts[-1]:
                    self.counted[name] = stream.state.games
                if live:
                    faults += self._faults(name, before, folded)
        letters += [
            batches.dead_letter(topic, records, row, reason, detail)
            for row, reason, detail in sorted_out.rejected
            if not self._has_passed(records, row)
        ]
        self._pass(records, partition, passed)
        letters.sort(key=lambda letter: letter.record.offset)
        for reason, count in Counter(letter.reason for letter in letters).items():
            self._meter.rejected(reason, count)
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

        A stream whose commit met a conflict is forgotten, since its state here is not what is stored. Of many streams
        some go at a time: while they are on their way, the deltas of the next ones are made.
        """
        clashes: list[Clash] = []
        if names is None:
            clashes += self._fallen.values()
            self._fallen.clear()
        due = [name for name in self._streams.touched if names is None or name in names]
        at_once = self._limits.streams_at_once
        async with task_group() as tasks:
            in_flight: anyio.Event | None = None
            for start in range(0, len(due), at_once):
                streams = [self._streams.touched.pop(name) for name in due[start : start + at_once]]
                commits = [self._commit_of(stream) for stream in streams]
                if in_flight is not None:
                    await in_flight.wait()
                if start + at_once >= len(due):
                    await self._commit(streams, commits, clashes)
                    break
                in_flight = anyio.Event()
                tasks.start_soon(self._commit, streams, commits, clashes, in_flight)
                await _let_others_run()
        return clashes

    async def _commit(
        self, streams: list[Stream], commits: list[Commit], clashes: list[Clash], made: anyio.Event | None = None
    ) -> None:
        """Make the commits of these streams, note what came of them, and set `made`."""
        started_s = self._clock.monotonic_s()
        outcomes = await self._patiently_commit(commits)
        self._meter.committed(self._clock.monotonic_s() - started_s, outcomes)
        for stream, commit, outcome in zip(streams, commits, outcomes, strict=True):
            match outcome:
                case Applied(version) | Duplicate(version):
                    stream.settle(commit.checkpoint)
                    partition = self._partitions[stream.partition]
                    partition.known[stream.name] = commit.checkpoint.position
                    partition.first_offsets[stream.name] = commit.checkpoint.first_offset
                    self._meter.stands(stream.name, stream.state.newest_end_time)
                    self._meter.moved(stream.partition, self._clock.now_ms())
                    log.debug("committed", stream=stream.name, version=version, games=commit.total_games)
                case Conflict(stored):
                    log.info("conflict", stream=stream.name, expected=commit.expected, stored=stored)
                    self.forget(stream.name)
                    clashes.append(Clash(stream.name, stream.partition, stored))
        if made is not None:
            made.set()

    def forget(self, name: str) -> None:
        """Drop the stream from memory; it is loaded again when its next record comes."""
        self._streams.forget(name)

    async def bring_up(self, name: str, number: int) -> Held | None:
        """Let the stream's checkpoint pass everything that was folded of its partition, with the next commit; None when
        the store no longer has what was committed."""
        stream = await self._stream(name, number)
        if stream is None:
            return None
        self._streams.move(stream, self._partitions[number].folded.next_offset)
        return Held(number, stream.state.games, stream.next_offset)

    async def make_room(self) -> list[Clash]:
        """When more games are held than should be, commit, and let go of streams; for those who do not `step`."""
        if self._streams.weight <= self._limits.games_held_max:
            return []
        clashes = await self.commit()
        self._streams.forget_idle(self._limits.games_held_max)
        return clashes

    def start_at(self, number: int, next_offset: int) -> None:
        """Take a partition as held, to be folded from there on; for those who read the log themselves."""
        self._partitions.start_at(number, next_offset)

    async def close(self) -> None:
        """Write what a restart will want to know. Everything committed before stays true without it."""
        self._letters_log.catch_up(now=True)
        try:
            await self._partitions.note_manifests()
        except Unavailable as error:
            log.warning("manifest_not_written", error=str(error))

    async def settle(self) -> None:
        """Make what was folded lasting: the commits, then, now and then, the manifests."""
        await self._recognise_partitions()
        started_s = self._clock.monotonic_s()
        if clashes := await self.commit():
            await self._reconcile(clashes)
        self._partitions.committed()
        self._waiting_games = 0
        self._settled_s = self._clock.monotonic_s()
        self._settling_took_s = self._settled_s - started_s
        await self._look_after_the_store()

    def _is_due(self, polled: Polled) -> bool:
        """Whether what is folded is to be committed now. Far behind, when the next batch stands ready, a commit may
        cost more than folding what is in it, most of which the next commit replaces: then it waits for its turn."""
        if polled.count < self._limits.batch_games_max or polled.gained or polled.lost:
            return True
        folding_s = self._clock.monotonic_s() - self._settled_s
        due_s = min(SETTLED_AT_LEAST_EVERY_S, FOLDING_PER_SETTLING * self._settling_took_s)
        waiting = min(self._waiting_games, self._plan.settings.window_games)
        return (
            folding_s >= due_s
            or waiting >= self._limits.commit_games_max
            or self._streams.weight > self._limits.games_held_max
        )

    @property
    def _records_max(self) -> int:
        """How many records a step takes."""
        records_max = self._limits.batch_games_max
        return min(records_max, FLOOD_RECORDS) if self._is_flooded else records_max

    async def _poll_ahead(self) -> None:
        """Poll, and while records come in such numbers that the engine must be behind, poll on: one big commit costs
        less than many. What comes stands in `_ahead` from the moment it is taken from the log: nobody is cancelled
        with it."""
        limits, linger_s = self._limits, self._limits.linger_ms / 1000
        try:
            newest = ahead = self._ahead = await self._listen()
            while (missing := self._records_max - ahead.count) > 0 and not (newest.gained or newest.lost):
                if newest.count >= BEHIND_RECORDS and ahead.bytes_held < STEP_BYTES:
                    wait_s = min(BEHIND_WAIT_S, limits.poll_wait_s)
                elif linger_s and newest is ahead and newest.count:
                    await self._clock.sleep(linger_s)
                    wait_s = 0.0
                else:
                    return
                newest = await self._patience.with_log(partial(self._log.poll, missing, wait_s), POLLING)
                ahead = self._ahead = ahead.with_more(newest)
        except LostRange as error:
            if self._ahead is None:
                self._out_of_range = error
            # Otherwise the next poll raises it again, when what came before is folded.

    async def _listen(self) -> Polled:
        """What a poll brings; a second one when the first brought nothing but not because it waited in vain. It may
        have found the rest of a buffer empty; or this process was busy folding and so the poll heard nothing."""
        limits, begun_s = self._limits, self._clock.monotonic_s()
        poll = partial(self._log.poll, self._records_max, limits.poll_wait_s)
        polled = await self._patience.with_log(poll, POLLING)
        late_s = self._clock.monotonic_s() - begun_s - limits.poll_wait_s
        if polled.records or polled.gained or polled.lost or 0 <= late_s < BUSY_S:
            return polled
        return await self._patience.with_log(poll, POLLING)

    async def _top_up(self) -> None:
        """Add what has come while the last commit was made: otherwise it would wait for another one. What is wrong with
        the log does not keep what is in hand from being folded; the next poll says it again."""
        ahead = self._ahead
        if ahead is not None and 0 < ahead.count < self._records_max and not (ahead.gained or ahead.lost):
            with suppress(Unavailable, LostRange):
                self._ahead = ahead.with_more(await self._log.poll(self._records_max - ahead.count, 0.0))

    async def _reassign(self, polled: Polled) -> None:
        """Forget what was lost, and find out where what was gained begins."""
        if not (polled.gained or polled.lost):
            return
        self._meter.rebalanced()
        if polled.gained:
            await self.refuse_compaction()
        for number in polled.lost | polled.gained:
            self._partitions.forget(number)
            self._streams.forget_partition(number)
            self._meter.released(number)
        for number in sorted(polled.gained):
            await self._place(number, await self._manifest(number))
            await self._refuse_other_settings(number)
            log.info("partition_gained", partition=number, next_offset=self._partitions.seeks[number])
        self._health.holding(self._partitions)
        self._tell_holding()

    async def _seek(self) -> None:
        """Move the partitions that have to be read from elsewhere, and drop what was polled of them before."""
        if not self._partitions.seeks:
            return
        seeks = self._partitions.take_seeks()
        if self._ahead is not None:
            kept = tuple(records for records in self._ahead.records if records.partition not in seeks)
            self._ahead = Polled(self._ahead.gained, self._ahead.lost, kept)
            if not (kept or self._ahead.gained or self._ahead.lost):
                self._ahead = None
        for number, next_offset in seeks.items():
            if not (self._ahead and number in self._ahead.lost):
                await self._patience.with_log(partial(self._log.seek, number, next_offset))

    async def _place(self, number: int, manifest: Manifest | None) -> None:
        """Find out where to read a partition from; forget the streams of which the store has another commit than is
        held, or less than is folded, and write an accepted gap down. Raises a StateError when the partition no longer
        holds what is needed.
        """
        placed = await self._partitions.place(number, manifest)
        for name, position in placed.stored.items():
            stream = self._streams.get(name)
            if stream is not None and (isinstance(placed.start, Recreated) or not stream.stands_at(position)):
                self.forget(name)
        if not isinstance(placed.start, Begin):
            await self._write_down(number, placed.start)

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
                stream = await self._streams.load(name, number)
                self._streams.use(stream)
                if stream.checkpoint is None:
                    del partition.known[name]
                    continue
                partition.known[name] = stream.checkpoint.position
                if isinstance(accepted, Recreated):
                    if stream.checkpoint.topic_id == partition.topic_id is not None:
                        continue  # another engine has done it
                    stream.next_offset, stream.first_offset = partition.begin, -1
                    stream.generation = self._new_generation()
                    self._streams.touched[name] = stream
                else:
                    self._streams.move(stream, partition.begin)
            names = [clash.stream for clash in await self.commit(names)]
        manifest = partition.manifest(partition.begin)
        await self._patience.with_store(lambda: self._store.write_manifest(self._log.topic, number, manifest))

    async def _manifest(self, number: int) -> Manifest | None:
        """Where a restart begins. The only stream's own checkpoint says it best: it was written with the state."""
        if self._only_stream is not None:
            only = self._only_stream
            stored = await self._patience.with_store(lambda: self._store.load(only))
            if stored is not None and stored.checkpoint.partition == number:
                checkpoint = stored.checkpoint
                self._streams.check(only, checkpoint)
                return Manifest(
                    low_water=checkpoint.next_offset,
                    streams={only: checkpoint.next_offset},
                    first_offsets={only: checkpoint.first_offset},
                    topic_id=checkpoint.topic_id,
                    mark=checkpoint.mark,
                )
        return await self._patience.with_store(lambda: self._store.read_manifest(self._log.topic, number))

    async def _refuse_other_settings(self, number: int) -> None:
        """Raise FingerprintMismatch now rather than with the first record; the stream that was busy last tells."""
        partition = self._partitions[number]
        offsets = {name: position.next_offset for name, position in partition.known.items()}
        known = [name for name, next_offset in offsets.items() if next_offset <= partition.begin]
        if known:
            await self._stream(max(known, key=lambda name: offsets[name]), number)

    async def _stream(self, name: str, number: int) -> Stream | None:
        """The stream in memory, loaded when it is not there. Raises a StateError when it does not fit.

        None when the store has less of it than was committed, which the next commit reports: its records must be read
        again.
        """
        stream = self._streams.get(name)
        if stream is None:
            if name in self._fallen:
                return None
            stream = await self._streams.load(name, number)
            partition = self._partitions[number]
            position = None if stream.checkpoint is None else stream.checkpoint.position
            known = partition.known.get(name)
            if known is not None and (position is None or position.next_offset < known.next_offset):
                self._fallen[name] = Clash(name, number, position)
                return None
            if stream.checkpoint is not None and position is not None:
                if self._is_strange(stream.checkpoint):
                    await self._recognise(stream)
                elif known is None and position.next_offset < partition.begin:
                    # Nothing is known of it but its checkpoint: what lies between may never have been read.
                    self._fallen[name] = Clash(name, number, position)
                    return None
                partition.known[name] = position
                partition.first_offsets[name] = stream.checkpoint.first_offset
                self._meter.stands(name, stream.state.newest_end_time)
        if stream.partition != number:
            self._streams.refuse_to_move(name, stream.partition, number)
        self._streams.use(stream)
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
        bounds = await self._patience.with_log(lambda: self._log.bounds(number))
        found = await self._patience.with_log(partial(self._log.record, number, mark.offset)) if mark else None
        if recreated := was_recreated(checkpoint.topic_id, mark, partition.topic_id, bounds, found):
            self._partitions.begin_anew(
                number,
                f"the record that stream {stream.name} was folded to is another; {recreated.evidence}",
                checkpoint.next_offset,
            )
            stream.next_offset, stream.first_offset = partition.folded.next_offset, -1
            stream.generation = self._new_generation()

    def _pass(self, records: Records, partition: Partition, streams: Iterable[Stream]) -> None:
        """Note that these records are folded. The checkpoints of the streams that were named pass them, and in a
        deployment of one stream that one's, whatever they were."""
        for stream in streams:
            self._streams.move(stream, records.next_offset)
        only = self._streams.get(self._only_stream or "")
        if only is not None and only.partition == records.partition:
            self._streams.move(only, records.next_offset)
        mark = Mark.of(records.record(-1)) if len(records) else partition.folded.mark
        partition.folded = Place(max(partition.folded.next_offset, records.next_offset), mark)

    def _commit_of(self, stream: Stream) -> Commit:
        before, partition = stream.checkpoint, self._partitions[stream.partition]
        checkpoint = Checkpoint(
            next_offset=stream.next_offset,
            generation=stream.generation or self._new_generation(),
            commit=self._new_commit(),
            writer=self._writer,
            topic=self._log.topic,
            topic_id=partition.topic_id,
            partition=stream.partition,
            first_offset=partition.begin if stream.first_offset is None else stream.first_offset,
            mark=partition.folded.mark,
            fingerprint=self._plan.fingerprint,
            aggregates=self._plan.aggregates,
        )
        totals = stream.state.totals
        is_new_and_big = not stream.committed.games and stream.state.games >= UNFOLDED_GAMES
        delta = stream.state.create() if is_new_and_big else stream.state.delta(stream.committed, stream.kept)
        expected = None if before is None else before.position
        return Commit(stream.name, expected, checkpoint, delta, totals.games, totals.newest_id)

    async def _patiently_commit(self, commits: list[Commit]) -> list[Outcome]:
        """Commit, again and again while the store is away: a commit that was made already answers `Duplicate`."""

        def failed(error: Unavailable) -> None:
            self._meter.commit_failed(error)
            self._health.store_down(str(error), COMMITS)

        outcomes = await patiently(self._clock, lambda: self._store.commit(commits), failed, self._writer)
        self._health.store_ok(COMMITS)
        return outcomes

    async def _reconcile(self, clashes: list[Clash]) -> None:
        """Somebody else committed, a rebuild was swapped in, or Redis lost writes: read again what may be missing.

        Other streams of the partition skip the records that they have.
        """
        # What is known must not change before the partitions are placed anew: an engine that ends here would note that
        # all below its own position is committed, and name the stream where it stands now.
        manifests = {
            number: self._partitions[number].manifest(self.folded_to[number])
            for number in sorted({clash.partition for clash in clashes})
        }
        for clash in clashes:
            number, name = clash.partition, clash.stream
            manifest = manifests[number]
            stream = await self._streams.load(name, number)
            self._streams.use(stream)
            if stream.checkpoint is None:
                # It has nothing any more, which sends us back to the start. If it has something when it is asked again,
                # because Redis failed back, that counts only if it has all that was folded here.
                manifest.streams[name] = self.folded_to[number]
                continue
            if self._is_strange(stream.checkpoint):
                await self._recognise(stream)  # a store that failed over may have the state of a topic that is gone
            else:
                low_water = min(manifest.low_water, stream.checkpoint.next_offset)
                manifest = manifests[number] = msgspec.structs.replace(manifest, low_water=low_water)
            manifest.streams[name] = stream.checkpoint.next_offset
            manifest.first_offsets[name] = stream.checkpoint.first_offset
        for number, manifest in manifests.items():
            await self._place(number, manifest)

    async def _return_to_range(self) -> None:
        """Deal with a position that the log does not have: retention or a recreated topic got ahead of the line.

        Raises a StateError unless the gap was accepted.
        """
        error, self._out_of_range = self._out_of_range, None
        if error is None or self._ahead is not None:
            return  # with something in hand, the log tells again when that is folded
        await self.settle()  # what is folded already is not lost
        for number in sorted(self._partitions.held.keys() - self._partitions.seeks.keys()):
            partition = self._partitions[number]
            await self._place(number, partition.manifest(partition.committed.next_offset))
        if not self._partitions.seeks:
            raise error

    async def _recognise_partitions(self) -> None:
        """Where topics have no ids: before a commit, unless that was done within the last second, see whether the log
        still has the records that it had then. So what it brought before this look is of the same topic."""
        now_s = self._clock.monotonic_s()
        if self._log.topic_id is not None or now_s < self._recognise_due_s:
            return
        self._recognise_due_s = now_s + LOOK_EVERY_S
        for number in sorted(self._partitions.held.keys() - self._partitions.seeks.keys()):
            partition = self._partitions[number]
            committed = partition.committed
            mark = partition.recognised or committed.mark
            if mark is None:
                continue
            bounds = await self._patience.with_log(partial(self._log.bounds, number))
            found = await self._patience.with_log(partial(self._log.record, number, mark.offset))
            if was_recreated(None, mark, None, bounds, found):
                manifest = msgspec.structs.replace(partition.manifest(committed.next_offset), mark=mark)
                await self._place(number, manifest)
            else:
                partition.recognised = committed.mark

    async def _bury(self, letters: list[DeadLetter]) -> None:
        """Hand the dead letters over, before any checkpoint passes them."""
        if letters:
            await self._patience.with_log(lambda: self._dead_letters.put(letters), DEAD_LETTERS)
            for reason, count in Counter(letter.reason for letter in letters).items():
                self._meter.buried(reason, count)
            self._letters_log.note(letters)

    async def _look_after_the_store(self) -> None:
        """Now and then: let go of what need not be in memory, ask whether the store still has the very commits that
        were made, and note where a restart may begin.

        So writes that were lost are noticed, and made again, also of a stream for which nothing comes any more; and so
        is another history that stands where ours was, after a failover and back. A
        store that is away is noticed while there is nothing to commit. One try each: the next turn has another.
        """
        self._letters_log.catch_up()
        now_s = self._clock.monotonic_s()
        if now_s < self._look_due_s:
            return
        streams = sum(len(partition.known) for partition in self._partitions.held.values())
        self._look_due_s = now_s + max(LOOK_EVERY_S, streams / LOOKED_AT_PER_S)
        self._streams.forget_idle(self._limits.games_held_max)
        self._tell_holding()
        try:
            changed = await self._partitions.changed()
        except Unavailable as error:
            self._health.store_down(str(error))
            return
        self._health.store_ok()
        for number in sorted({one.partition for one in changed}):
            here = [one for one in changed if one.partition == number]
            if lost := [one.stream for one in here if one.writes_lost]:
                log.warning("writes_lost", partition=number, streams=len(lost), stream=lost[0])
            else:
                log.info("state_replaced", partition=number, streams=len(here), stream=here[0].stream)
            partition = self._partitions[number]
            await self._place(number, partition.manifest(partition.committed.next_offset))
        try:
            if await self._partitions.note_manifests():
                self._health.store_ok(COMMITS)
        except Unavailable as error:
            self._health.store_down(str(error), COMMITS)

    def _faults(self, stream: str, before: StreamState, folded: Folded) -> Faults:
        if self._fairness is None or not folded.accepted:
            return Faults()
        return self._fairness.faults(stream, before.window, folded.games)

    def _count_unfair(self, number: int, faults: Faults) -> None:
        if faults.hash:
            self._meter.unfair("hash", faults.hash)
        if faults.chain:
            self._meter.unfair("chain", faults.chain)
        if faults.hash or faults.chain:
            log.warning("unfair_games", partition=number, hash=faults.hash, chain=faults.chain)

    def _tell_holding(self) -> None:
        self._meter.holding(partitions=len(self._partitions), streams=len(self._streams))


async def _let_others_run() -> None:
    """Let what was started go out, and heartbeats with it."""
    for _ in range(2):
        await anyio.lowlevel.checkpoint()
