"""The loop of the service: `Service.step` is its body.

poll → decode → split by stream → fold → dead letters handed over → commit → checkpoints held. Each step stands in a
file of its own: `polling`, `folder`, `placement`, `letters`, `pacing`, `upkeep`.
"""

from collections.abc import Mapping
from functools import partial

import structlog

from crashfold.engine.core import batch as batches
from crashfold.engine.errors import Unavailable
from crashfold.engine.meter import Meter
from crashfold.engine.ports import (
    Clock,
    DeadLetter,
    DeadLetters,
    EventLog,
    FoldObserver,
    Mark,
    Polled,
    Records,
    StateStore,
)
from crashfold.engine.runtime.folder import Folder
from crashfold.engine.runtime.gaps import LostRecords
from crashfold.engine.runtime.health import HealthBoard
from crashfold.engine.runtime.letters import LetterPublisher
from crashfold.engine.runtime.pacing import CommitPacing, EngineLimits
from crashfold.engine.runtime.placement import Placement
from crashfold.engine.runtime.polling import Poller
from crashfold.engine.runtime.retry import Retry
from crashfold.engine.runtime.tasks import task_group
from crashfold.engine.runtime.upkeep import Upkeep
from crashfold.engine.tracing import NULL_SPAN, NullTracer, Span, Tracer

log = structlog.get_logger()


class Service:
    """One engine over the partitions it holds: `folder` folds and commits, `store` is the folder's.

    `observer` is shown what was folded. With `accept_gap` records that are gone are done without. `tracer` records each
    step that took records in.
    """

    def __init__(
        self,
        event_log: EventLog,
        store: StateStore,
        dead_letters: DeadLetters,
        folder: Folder,
        *,
        clock: Clock,
        meter: Meter,
        health: HealthBoard,
        limits: EngineLimits,
        observer: FoldObserver | None = None,
        accept_gap: bool = False,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer or NullTracer()
        self._uncommitted: list[Span] = []
        """The steps of which games are folded and not committed."""
        self._log = event_log
        self._folder = folder
        self._partitions = folder.partitions
        self._clock = clock
        self._meter = meter
        self._health = health
        self._limits = limits
        self._retry = Retry(clock, health, folder.writer)
        self._gaps = LostRecords(folder.topic, accepted=accept_gap)
        self._poller = Poller(event_log, self._retry, clock, limits)
        self._placement = Placement(event_log, store, folder, self._retry, meter, self._gaps)
        self._observer = observer
        self._letters = LetterPublisher(dead_letters, self._retry, clock, meter)
        self._pacing = CommitPacing(limits, folder.folding.window_games)
        self._upkeep = Upkeep(event_log, store, folder, self._placement, self._retry, clock, health)

    @property
    def next_offsets(self) -> Mapping[int, int]:
        """Per partition held, the offset below which everything is committed."""
        return self._partitions.next_offsets

    @property
    def folded_to(self) -> Mapping[int, int]:
        """Per partition held, the offset below which everything is folded."""
        return self._partitions.folded_to

    @property
    def marks(self) -> Mapping[int, Mark]:
        """Per partition held, the last record that was read and committed."""
        return self._partitions.marks

    @property
    def streams(self) -> list[str]:
        """The streams in memory, the one used longest ago first."""
        return [stream.name for stream in self._folder.streams]

    async def step(self) -> int:
        """One turn of the loop; the number of records it took in.

        1. Take what the last turn polled ahead and what has come since, or poll.
        2. Find out where newly gained partitions begin; forget those that were lost.
        3. Decode, split by stream, fold.
        4. Hand dead letters over; then, unless far behind, commit each stream and look after the store. Meanwhile poll
           ahead.
        5. Seek where a partition was gained or a commit met a conflict; what was polled ahead of it does not count.

        Raises StateError when going on would be wrong.
        """
        polled = await self._poller.take()
        if not polled.count:
            await self._take_in(polled)
            return 0
        with self._tracer.span("step") as span:
            span.note("crashfold.records", polled.count)
            self._uncommitted.append(span)
            await self._take_in(polled)
        return polled.count

    async def _take_in(self, polled: Polled) -> None:
        """The step after its poll."""
        started_s = self._clock.monotonic_s()
        await self._reassign(polled)
        letters: list[DeadLetter] = []
        for records in batches.joined_by_partition(polled.records):
            letters += await self._fold(records)
        self._pacing.folded(polled.count)
        self._poller.note_letters(len(letters))
        async with task_group() as tasks:
            tasks.start_soon(self._poller.poll_ahead)
            await self._letters.publish(letters)
            if self._is_due(polled):
                await self.settle()
            if polled.count:
                self._meter.step_took(self._clock.monotonic_s() - started_s, polled.count)
            if self._partitions.seeks:
                tasks.cancel_scope.cancel()
        await self._return_to_range()
        await self._seek()

    async def settle(self) -> None:
        """Make what was folded lasting: the commits, then, now and then, the manifests."""
        await self._upkeep.look_after_the_log()
        started_s = self._clock.monotonic_s()
        with self._tracer.span("commit", self._uncommitted) if self._uncommitted else NULL_SPAN:
            conflicts = await self._folder.commit()
        self._uncommitted.clear()
        if conflicts:
            await self._placement.reconcile(conflicts)
        self._partitions.commit()
        self._pacing.committed(started_s, self._clock.monotonic_s())
        self._letters.catch_up()
        if await self._upkeep.look_after_the_store():
            self._tell_holding()

    async def refuse_other_settings(self) -> None:
        """Raise now, before anything is written, what `Placement.refuse_other_settings` raises."""
        await self._placement.refuse_other_settings()

    async def close(self) -> None:
        """Write what a restart will want to know. Everything committed before stays true without it."""
        self._letters.catch_up(now=True)
        try:
            await self._upkeep.note_manifests()
        except Unavailable as error:
            log.warning("manifest_not_written", error=str(error))

    async def _fold(self, records: Records) -> list[DeadLetter]:
        """Decode, split by stream, load the streams, fold; the dead letters. Nothing of a partition that is lost, or
        will be read from elsewhere."""
        if not self._partitions.is_read(records.partition):
            return []
        with self._tracer.span("decode"):
            batch = self._folder.sort_out(records)
        await self._placement.open(batch.streams, records.partition)
        with self._tracer.span("fold"):
            folded = await self._folder.fold(records, batch)
        if self._observer is not None:
            self._observer.observe(records.partition, batch.rejected, folded.folds)
        return folded.letters

    def _is_due(self, polled: Polled) -> bool:
        """Whether what is folded is to be committed now. The rest of a fetch is no sign that the engine has caught up:
        while the log has more, the engine is behind, however few records a poll brought."""
        is_behind = polled.count > 0 and (polled.has_more or polled.count >= self._limits.batch_games_max)
        if not is_behind or polled.gained or polled.lost:
            return True
        return self._folder.is_full or self._pacing.is_due(self._clock.monotonic_s())

    async def _reassign(self, polled: Polled) -> None:
        """Forget what was lost, and find out where what was gained begins."""
        if not (polled.gained or polled.lost):
            return
        self._meter.rebalanced()
        if polled.gained:
            is_compacted = await self._retry.with_log(self._log.is_compacted)
            if is_compacted:
                self._gaps.accept_compacted()
        for number in polled.lost | polled.gained:
            self._partitions.forget(number)
            self._folder.streams.forget_partition(number)
            self._meter.released(number)
        for number in sorted(polled.gained):
            await self._placement.gain(number)
        self._health.holding(self._partitions)
        self._tell_holding()

    async def _return_to_range(self) -> None:
        """Deal with a position that the log does not have, once what is folded already is committed."""
        error = self._poller.take_out_of_range()
        if error is not None:
            await self.settle()
            await self._placement.return_to_range(error)

    async def _seek(self) -> None:
        """Move the partitions that have to be read from elsewhere, and drop what was polled of them before."""
        if not self._partitions.seeks:
            return
        seeks = self._partitions.take_seeks()
        self._poller.forget(seeks)
        ahead = self._poller.ahead
        for number, next_offset in seeks.items():
            if not (ahead and number in ahead.lost):
                await self._retry.with_log(partial(self._log.seek, number, next_offset))

    def _tell_holding(self) -> None:
        self._meter.holding(partitions=len(self._partitions), streams=len(self._folder.streams))
