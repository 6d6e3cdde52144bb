"""Fold and commit: what the service and a rebuild share.

Imports ports and core. What is always true: a stream's state in memory is the fold of exactly the records
below its checkpoint (plus, between `fold` and `commit`, those about to be committed). Streams are loaded by the
customer, who knows what the store must have of them; a stream that is not in memory is not folded.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

import anyio
import anyio.lowlevel
import msgspec
import structlog

from crashfold.engine.core import batch as batches
from crashfold.engine.core.batch import Batch
from crashfold.engine.core.health import COMMITS
from crashfold.engine.errors import Unavailable
from crashfold.engine.meter import Meter
from crashfold.engine.ports import (
    Applied,
    Checkpoint,
    Clock,
    Commit,
    Conflict,
    DeadLetter,
    Duplicate,
    Folding,
    Outcome,
    Records,
    StateStore,
    StreamFold,
)
from crashfold.engine.runtime.health import HealthBoard
from crashfold.engine.runtime.pacing import EngineLimits
from crashfold.engine.runtime.partitions import Partitions
from crashfold.engine.runtime.retry import Retry, retry_with_backoff
from crashfold.engine.runtime.streams import CommitConflict, Stream, Streams
from crashfold.engine.runtime.tasks import task_group
from crashfold.schemas.record import stream_name

UNFOLDED_GAMES: Final = 20_000
"""Serialising a stream of so many games at once would delay its first write: its writes are made one after the other
while the store takes the first ones."""

log = structlog.get_logger()


class FoldedRecords(msgspec.Struct, frozen=True):
    """The result of folding some records: dead letters in order of offset, and the folds."""

    letters: list[DeadLetter]
    folds: list[StreamFold]


class Folder:
    """Folds the records of `partitions` into `streams`, and commits each by its own compare-and-set.

    `writer` names this engine in the checkpoints; `new_generation` names a build of a stream that has none yet,
    `new_commit` a commit, by 16 hex digits.
    """

    def __init__(
        self,
        topic: str,
        store: StateStore,
        folding: Folding,
        *,
        only_stream: str | None,
        writer: str,
        new_generation: Callable[[], str],
        new_commit: Callable[[], str],
        clock: Clock,
        meter: Meter,
        health: HealthBoard,
        limits: EngineLimits,
    ) -> None:
        self.topic = topic
        self.folding = folding
        self.only_stream = only_stream
        self.writer = writer
        self.new_generation = new_generation
        self._store = store
        self._new_commit = new_commit
        self._clock = clock
        self._meter = meter
        self._health = health
        self._limits = limits
        self.partitions = Partitions()
        self.streams = Streams(store, Retry(clock, health, writer), folding, topic)

    @property
    def is_full(self) -> bool:
        """Whether more games are in memory than should be."""
        return self.streams.weight > self._limits.games_held_max

    def sort_out(self, records: Records) -> Batch:
        """Decode the records and split them by stream."""
        return batches.sort_out(records, self.folding, self.only_stream)

    async def fold(self, records: Records, batch: Batch, cut_at: Mapping[str, int] = {}) -> FoldedRecords:
        """Fold one partition's records, sorted out as `batch`, into their streams. Nothing is written yet.

        The games of a stream in `cut_at` are folded in two folds: those below that offset, and the others.
        """
        letters: list[DeadLetter] = []
        folds: list[StreamFold] = []
        passed: list[Stream] = []
        for number, (name, found) in enumerate(batch.streams.items(), 1):
            if number % self._limits.streams_at_once == 0:
                await _let_others_run()
            stream = self.streams.get(name)
            if stream is None:
                continue
            passed.append(stream)
            fresh = batches.after(found, records, stream.next_offset)
            if stream.first_offset is None:
                stream.first_offset = int(records.offsets[fresh.rows[0]]) if len(fresh.rows) else records.next_offset
            for part in batches.cut(fresh, records, cut_at[name]) if name in cut_at else (fresh,):
                before, folded = stream.state, stream.state.fold_cells(part.cells)
                stream.state, stream.kept = folded.state, min(stream.kept, folded.kept)
                letters += [batches.rejected_letter(self.topic, records, part, one) for one in folded.rejected]
                folds.append(StreamFold(name, before, folded))
                self._meter.folded(folded.accepted, folded.duplicates, folded.late_accepted)
        letters += [
            batches.dead_letter(self.topic, records, row, reason, detail)
            for row, reason, detail in batch.rejected
            if not self._has_passed(records, row)
        ]
        letters.sort(key=lambda letter: letter.record.offset)
        for reason, count in Counter(letter.reason for letter in letters).items():
            self._meter.rejected(reason, count)
        self._pass(records, passed)
        return FoldedRecords(letters, folds)

    async def commit(self, names: Collection[str] | None = None) -> list[CommitConflict]:
        """Commit the streams of these names, or every one, that were folded since the last time, each by its own
        compare-and-set; those that the store did not have where they were expected.

        A stream whose commit met a conflict is forgotten, since its state here is not what is stored. Of many streams
        some go at a time: while they are on their way, the deltas of the next ones are made.
        """
        conflicts = self.streams.take_fallen() if names is None else []
        due = [name for name in self.streams.touched if names is None or name in names]
        at_once = self._limits.streams_at_once
        async with task_group() as tasks:
            in_flight: anyio.Event | None = None
            for start in range(0, len(due), at_once):
                streams = [self.streams.touched.pop(name) for name in due[start : start + at_once]]
                commits = [self._commit_of(stream) for stream in streams]
                if in_flight is not None:
                    await in_flight.wait()
                if start + at_once >= len(due):
                    await self._commit(streams, commits, conflicts)
                    break
                in_flight = anyio.Event()
                tasks.start_soon(self._commit, streams, commits, conflicts, in_flight)
                await _let_others_run()
        return conflicts

    def bring_up(self, stream: Stream) -> None:
        """Let the stream's checkpoint pass, with the next commit, everything that was folded of its partition."""
        self.streams.move(stream, self.partitions[stream.partition].folded.next_offset)

    def forget_idle(self) -> None:
        """Let go of streams in memory while there are more games than should be."""
        self.streams.forget_idle(self._limits.games_held_max)

    async def _commit(
        self,
        streams: list[Stream],
        commits: list[Commit],
        conflicts: list[CommitConflict],
        made: anyio.Event | None = None,
    ) -> None:
        """Make the commits of these streams, hold their new checkpoints, add to `conflicts`; set `made`."""
        started_s = self._clock.monotonic_s()
        outcomes = await self._commit_until_answered(commits)
        self._meter.committed(self._clock.monotonic_s() - started_s, outcomes)
        for stream, commit, outcome in zip(streams, commits, outcomes, strict=True):
            match outcome:
                case Applied(version) | Duplicate(version):
                    stream.settle(commit.checkpoint)
                    partition = self.partitions[stream.partition]
                    partition.known[stream.name] = commit.checkpoint.position
                    partition.first_offsets[stream.name] = commit.checkpoint.first_offset
                    self._meter.stands(stream.name, stream.state.newest_end_time)
                    self._meter.moved(stream.partition, self._clock.now_ms())
                    log.debug("committed", stream=stream.name, version=version, games=commit.total_games)
                case Conflict(stored):
                    log.info("conflict", stream=stream.name, expected=commit.expected, stored=stored)
                    self.streams.forget(stream.name)
                    conflicts.append(CommitConflict(stream.name, stream.partition, stored))
        if made is not None:
            made.set()

    def _commit_of(self, stream: Stream) -> Commit:
        before, partition = stream.checkpoint, self.partitions[stream.partition]
        checkpoint = Checkpoint(
            next_offset=stream.next_offset,
            generation=stream.generation or self.new_generation(),
            commit=self._new_commit(),
            writer=self.writer,
            topic=self.topic,
            topic_id=partition.topic_id,
            partition=stream.partition,
            first_offset=partition.begin if stream.first_offset is None else stream.first_offset,
            mark=partition.folded.mark,
            fingerprint=self.folding.fingerprint,
            aggregates=self.folding.aggregates,
        )
        is_new_and_big = not stream.committed.games and stream.state.games >= UNFOLDED_GAMES
        delta = stream.state.create() if is_new_and_big else stream.state.delta(stream.committed, stream.kept)
        expected = None if before is None else before.position
        return Commit(stream.name, expected, checkpoint, delta, stream.state.games, stream.state.newest_id)

    async def _commit_until_answered(self, commits: list[Commit]) -> list[Outcome]:
        """Commit, again and again while the store is away: a commit that was made already answers `Duplicate`."""

        def failed(error: Unavailable) -> None:
            self._meter.commit_failed(error)
            self._health.store_down(str(error), COMMITS)

        outcomes = await retry_with_backoff(self._clock, lambda: self._store.commit(commits), failed, self.writer)
        self._health.store_ok(COMMITS)
        return outcomes

    def _has_passed(self, records: Records, row: int) -> bool:
        """Whether a checkpoint has passed the record of that row already, so that its letter was handed over."""
        name = self.only_stream or stream_name(records.keys[row])
        stream = self.streams.get(name) if isinstance(name, str) else None
        return (
            stream is not None and stream.partition == records.partition and records.offsets[row] < stream.next_offset
        )

    def _pass(self, records: Records, streams: Iterable[Stream]) -> None:
        """Note that these records are folded. The checkpoints of the streams that were named pass them, and in a
        deployment of one stream that one's, whatever they were."""
        for stream in streams:
            self.streams.move(stream, records.next_offset)
        only = self.streams.get(self.only_stream or "")
        if only is not None and only.partition == records.partition:
            self.streams.move(only, records.next_offset)
        self.partitions[records.partition].fold_to(records)


async def _let_others_run() -> None:
    """Let what was started go out, and heartbeats with it."""
    for _ in range(2):
        await anyio.lowlevel.checkpoint()
