"""Rebuild: the service's folder over an empty generation, from the first record, and then the swap.

The shadow generation has keys and checkpoints of its own, so the live engine goes on beside it. It is folded in memory
and written when it has caught up (before that only when memory runs short); promote then compares the checkpoints and
swaps. Until a stream is promoted nothing live has changed, so a rebuild may be killed at any point and run again.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import msgspec
import numpy as np
import structlog

from crashfold.engine.core.start import Begin, Lost, where_to_begin
from crashfold.engine.errors import (
    ConfigurationError,
    CrashfoldError,
    FewerGames,
    LostRange,
    StateError,
    TopicCompacted,
    TopicRecreated,
    Unavailable,
)
from crashfold.engine.ports import (
    Behind,
    Clock,
    DeadLetter,
    DeadLetters,
    EventLog,
    Manifest,
    Polled,
    Promoted,
    Records,
    ShadowStore,
    StateStore,
)
from crashfold.engine.runtime.folder import Folder
from crashfold.engine.runtime.health import HealthBoard
from crashfold.engine.runtime.live_states import Allowed, LiveStates
from crashfold.engine.runtime.pacing import STEP_BYTES
from crashfold.engine.runtime.retry import Retry
from crashfold.engine.runtime.streams import CommitConflict, Stream
from crashfold.schemas.record import DEFAULT_STREAM, Unreadable, stream_name

T = TypeVar("T")

CATCH_UP_TRIES: Final = 500
"""How often a rebuild tries to overtake a live engine that keeps committing, one short poll a try."""
BATCH_GAMES: Final = 40_000
"""Polled at once, at most. It is more than a fetch brings: pieces of two would have to be copied into one."""
FULL_AT: Final = 1 / 4
"""So much of that is folded at once, or more, however little each poll brings."""
POLL_WAIT_S: Final = 0.2
LOOK_EVERY_S: Final = 1.0
"""How often, at least, the rebuild asks whether the topic is still the one that it reads, while it swaps."""

log = structlog.get_logger()


class NoDeadLetters:
    """Where dead letters of a trial go."""

    async def put(self, letters: Sequence[DeadLetter]) -> None:
        """Forget them."""


class Progress(msgspec.Struct, frozen=True):
    """How far a rebuild has come: records read, and how many there are to read."""

    records: int
    records_total: int


class Rebuilt(msgspec.Struct, frozen=True):
    """One stream that was rebuilt. `version` is None when nothing was swapped."""

    stream: str
    games: int
    next_offset: int
    version: int | None


class RebuildReport(msgspec.Struct, frozen=True):
    """The report of a rebuild."""

    streams: tuple[Rebuilt, ...]
    records: int
    dead_letters: int
    duration_s: float


class RebuildRequest(msgspec.Struct, frozen=True):
    """A request to rebuild all streams or one, up to an offset (exclusive) or to the end, promoted or only tried."""

    stream: str | None = None
    to_offset: int | None = None
    dry_run: bool = False
    accept_gap: bool = False
    drop_keys: bool = False
    """Swap in even if the live state has keys of a projection that these settings do not have."""

    @property
    def allowed(self) -> Allowed:
        """The losses that were asked for, or that a trial does not bring about."""
        may_lose = self.accept_gap or self.dry_run
        return Allowed(may_lose, may_lose or self.to_offset is not None, self.drop_keys or self.dry_run)


class Rebuild:
    """One rebuild. `folder` is of its own and commits to `shadow`; `live` is only asked what it has.

    `dead_letters` gets what nobody handed over yet: records that no live checkpoint has passed, and that the one
    swapped in does. A live engine that goes on may hand the last few of them over as well. Without it they are counted
    only.
    """

    def __init__(
        self,
        event_log: EventLog,
        live: StateStore,
        shadow: ShadowStore,
        folder: Folder,
        request: RebuildRequest,
        clock: Clock,
        progressed: Callable[[Progress], None],
        *,
        dead_letters: DeadLetters | None = None,
        poll_wait_s: float = POLL_WAIT_S,
    ) -> None:
        self._log = event_log
        self._live = live
        self._shadow = shadow
        self._dead_letters = NoDeadLetters() if dead_letters is None else dead_letters
        self._folder = folder
        self._partitions = folder.partitions
        self._streams = folder.streams
        self._request = request
        # Where there is one stream alone, its checkpoint passes whatever else is on the topic: all of it is read.
        self._stream = None if folder.only_stream is not None else request.stream
        self._clock = clock
        self._retry = Retry(clock, HealthBoard(clock))
        self._lives = LiveStates(
            event_log, live, folder.folding.aggregates, folder.partitions, request.allowed, self._retry
        )
        self._progressed = progressed
        self._poll_wait_s = poll_wait_s
        self._topic_id: str | None = None
        self._look_due_s = 0.0
        self._begins: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._homes: dict[str, int] = {}
        self._met: set[str] = set()
        """The streams whose shadow is this rebuild's."""
        self._done: dict[str, Rebuilt] = {}
        self._records = 0
        self._rejected = 0

    async def run(self) -> RebuildReport:
        """Read, fold, write the shadow, swap. Raises CrashfoldError when a swap would be wrong or cannot be made."""
        started_s = self._clock.monotonic_s()
        await self._begin()
        while not self._at_end():
            await self._read()
        await self._refuse_fewer_games()
        for stream, number in list(self._homes.items()):
            folded = await self._brought_up(stream, number)
            if self._request.dry_run:
                self._done[stream] = Rebuilt(stream, folded.state.games, folded.next_offset, None)
            else:
                await self._swap(folded)
        if self._request.stream is None and not self._request.dry_run:
            for number in self._begins:
                await self._mend_manifest(number)
        streams = tuple(self._done[stream] for stream in sorted(self._done))
        duration_s = self._clock.monotonic_s() - started_s
        return RebuildReport(streams, self._records, self._rejected, duration_s)

    async def _begin(self) -> None:
        """Point every partition at its first record, and note where its last one stands now."""
        only, asked = self._folder.only_stream, self._request.stream
        if only is not None and asked not in (None, only):
            raise ConfigurationError(f"there is no stream {asked}: this deployment is of the stream {only} alone")
        if not self._request.dry_run:
            stream = only or asked or DEFAULT_STREAM
            await self._from_store(lambda: self._shadow.check_rights(stream))
        partitions = await self._from_log(self._log.partitions)
        if not partitions:
            raise ConfigurationError(f"there is no topic {self._log.topic} to read: create it, or mend kafka.topic")
        if await self._from_log(self._log.is_compacted) and not (self._request.accept_gap or self._request.dry_run):
            raise TopicCompacted.of(self._log.topic)
        if self._request.to_offset is not None and self._request.stream is None and len(partitions) > 1:
            raise ConfigurationError(
                f"--to-offset names an offset of one partition, and {self._log.topic} has {len(partitions)}: name the "
                "stream too, by --stream"
            )
        while not partitions <= self._ends.keys():
            await self._seek(await self._poll(0))
        for number in partitions:
            await self._lives.read_manifest(number)

    async def _seek(self, polled: Polled) -> None:
        """Read what is ours now: from the first record, or, after a reconnection, on from where it was. Raises
        TopicRecreated when it is of another topic."""
        if polled.gained and self._ends:
            self._refuse_another(self._log.topic_id)
        elif polled.gained:
            self._topic_id = self._log.topic_id
        for number in sorted(polled.gained):
            if number not in self._ends:
                bounds = await self._from_log(partial(self._log.bounds, number))
                to_offset = self._request.to_offset
                self._begins[number] = bounds.begin
                self._ends[number] = bounds.end if to_offset is None else min(bounds.end, to_offset)
                self._partitions.start_at(number, bounds.begin, self._log.topic_id)
            await self._from_log(partial(self._log.seek, number, self._partitions.folded_to[number]))

    def _refuse_another(self, topic_id: str | None) -> None:
        if topic_id != self._topic_id:
            raise TopicRecreated(
                f"{self._log.topic} was made anew while it was read: its id is {topic_id}, and was {self._topic_id}. "
                "Nothing more was swapped in; run replay again."
            )

    async def _look_at_topic(self) -> None:
        """Ask, now and then, whether the topic is still the one that was read. Raises TopicRecreated."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._look_due_s:
            self._refuse_another(await self._from_log(self._log.current_topic_id))
            self._look_due_s = now_s + LOOK_EVERY_S

    async def _read(self) -> None:
        """Fold a big batch: what comes until it is big enough, or comes to the end, or comes no more."""
        pieces: dict[int, list[Records]] = {}
        games = bytes_held = 0
        while games < FULL_AT * BATCH_GAMES and bytes_held < STEP_BYTES:
            try:
                polled = await self._poll(BATCH_GAMES)
            except LostRange:
                if pieces:
                    break  # it is raised again when these are folded
                await self._skip_what_is_gone()
                continue
            if polled.gained:
                pieces = {number: kept for number, kept in pieces.items() if number not in polled.gained}
                await self._seek(polled)
            for records in polled.records:
                pieces.setdefault(records.partition, []).append(records)
            games += polled.count
            bytes_held += polled.bytes_held
            self._records += polled.count
            total = sum(end - self._begins[number] for number, end in self._ends.items())
            self._progressed(Progress(self._records, max(total, self._records)))
            if not polled.records or self._at_end(pieces):
                break
        for number in pieces:
            await self._publish(await self._fold(self._wanted(Records.joined(pieces[number]))))
        if self._folder.is_full:
            _refuse_rivals(await self._folder.commit())
            self._folder.forget_idle()

    async def _fold(self, records: Records) -> list[DeadLetter]:
        """Fold the records of one partition, and compare the streams that they are the first of with the live ones."""
        number, batch = records.partition, self._folder.sort_out(records)
        for name in batch.streams:
            await self._opened(name, number)
        cut_at = self._lives.counts_due(batch.streams, records.next_offset)
        folded = await self._folder.fold(records, batch, cut_at)
        for one in reversed(folded.folds):
            if one.stream in cut_at:
                self._lives.count(one.stream, one.folded.state.games)  # the first of two folds comes last
        self._rejected += len(folded.letters)
        for name in batch.streams:
            if name not in self._homes:
                self._homes[name] = number
                await self._lives.compare(name, number, self._begins[number], self._topic_id)
        return folded.letters

    async def _opened(self, name: str, number: int) -> Stream:
        """The stream in memory: empty when it is met first, whatever an earlier rebuild left; later as it was
        committed by this one."""
        stream = self._streams.get(name)
        if stream is None and name in self._met:
            stream = await self._streams.load(name, number)
            position = None if stream.checkpoint is None else stream.checkpoint.position
            if position != self._partitions[number].known.get(name):
                _refuse_rivals([CommitConflict(name, number, position)])
        elif stream is None:
            await self._lives.meet(name)
            await self._from_store(lambda: self._shadow.clear([name]))
            self._met.add(name)
            stream = self._streams.new(name, number)
        if stream.partition != number:
            self._streams.refuse_to_move(name, stream.partition, number)
        self._streams.use(stream)
        return stream

    async def _skip_what_is_gone(self) -> None:
        """Go on behind what retention removed meanwhile. Raises LostRange unless that was accepted."""
        skipped = False
        for number, next_offset in self._partitions.folded_to.items():
            begin = (await self._from_log(partial(self._log.bounds, number))).begin
            if next_offset < begin and self._request.accept_gap:
                log.warning("gap_accepted", topic=self._log.topic, partition=number, first=next_offset, begin=begin)
                await self._from_log(partial(self._log.seek, number, begin))
                skipped = True
        if not skipped:
            raise LostRange(
                f"retention removed records of {self._log.topic} while they were being read. Run replay again, or add "
                "--accept-gap to do without them."
            )

    def _at_end(self, pieces: dict[int, list[Records]] | None = None) -> bool:
        """Whether everything is read that stood on the topic, with `pieces` that are not folded yet."""
        positions = self._partitions.folded_to | {n: some[-1].next_offset for n, some in (pieces or {}).items()}
        return all(positions[number] >= end for number, end in self._ends.items())

    def _wanted(self, records: Records) -> Records:
        """Without what lies beyond the offset, belongs to another stream than the one asked for, or to one that has
        been swapped in already, whose records are the live engine's again."""
        to_offset, stream = self._request.to_offset, self._stream
        if to_offset is not None and records.next_offset > to_offset:
            kept = records.part(0, int(np.searchsorted(records.offsets, to_offset)))
            records = msgspec.structs.replace(kept, next_offset=to_offset)
        if stream is None and not self._done:
            return records
        return records.rows([row for row, key in enumerate(records.keys) if self._wants(stream_name(key))])

    def _wants(self, name: str | Unreadable) -> bool:
        return name not in self._done and (self._stream is None or name == self._stream)

    async def _publish(self, letters: list[DeadLetter]) -> None:
        """Hand over the letters of records that no live checkpoint has passed. What names no stream is passed by the
        live engine alone, but in a deployment of one stream by that one's checkpoint."""
        if not letters or self._request.dry_run:
            return
        only = self._folder.only_stream
        names = [only or stream_name(letter.record.key) for letter in letters]
        streams = sorted({name for name in names if isinstance(name, str)})
        passed = await self._lives.next_offsets(streams)
        new = [
            letter
            for name, letter in zip(names, letters, strict=True)
            if isinstance(name, str)
            and (self._lives.is_judged_anew(name) or letter.record.offset >= (passed[name] or 0))
        ]
        if new:
            await self._from_log(lambda: self._dead_letters.put(new))

    async def _refuse_fewer_games(self) -> None:
        """Raise FewerGames when a stream would have fewer games than its live state has, or nothing was found at all,
        unless that was asked for."""
        request, topic = self._request, self._log.topic
        if request.stream is not None and not self._homes:
            raise FewerGames(f"{topic} has no record of stream {request.stream}: there is nothing to rebuild it from.")
        if request.allowed.fewer_games:
            return
        held = {stream.name: stream.state.games for stream in self._streams}
        if not any(held.get(stream, 1) for stream in self._homes):
            raise FewerGames(
                f"{topic} has no game: there is nothing to rebuild from, and the live state stays as it is. See that "
                "kafka.topic or --file names the right one."
            )
        for stream in self._homes:
            if stream in held:
                await self._lives.compare_counts(stream, held[stream])
        if request.stream is None:
            await self._lives.compare_missing()

    async def _swap(self, folded: Stream) -> None:
        """Write the shadow and promote it. A live engine that is ahead is overtaken: read on, commit to the shadow, try
        again."""
        stream, number = folded.name, folded.partition
        allow_back = self._request.to_offset is not None or self._lives.may_go_back(stream)
        for _ in range(CATCH_UP_TRIES):
            await self._look_at_topic()
            await self._lives.compare_counts(stream, folded.state.games)
            _refuse_rivals(await self._folder.commit({stream}))
            match await self._from_store(lambda: self._shadow.promote(stream, allow_back=allow_back)):
                case Promoted(version):
                    log.info("promoted", stream=stream, version=version, next_offset=folded.next_offset)
                    self._done[stream] = Rebuilt(stream, folded.state.games, folded.next_offset, version)
                    self._streams.forget(stream)
                    return
                case Behind(live):
                    log.debug("behind", stream=stream, next_offset=folded.next_offset, live=live.next_offset)
            await self._read()
            folded = await self._brought_up(stream, number)
        raise Unavailable(
            f"the live engine stayed ahead of the rebuild of {stream}. Run replay again when there is less traffic, or "
            "while the engine is stopped."
        )

    async def _mend_manifest(self, number: int) -> None:
        """Where the live manifest is of another topic, asks for what is gone or cannot be read, let the engine begin
        with the first record: it would stop again, and all that it needs has been rebuilt. Where there is none, name
        the streams. What was removed since it was read past the rebuild's end is still needed."""
        is_damaged = False
        try:
            manifest = await self._from_store(lambda: self._live.read_manifest(self._log.topic, number))
        except StateError as error:
            log.warning("manifest_damaged", partition=number, error=str(error))
            manifest, is_damaged = None, True
        if manifest is None and self._folder.only_stream is not None and not is_damaged:
            return  # it is known by its own checkpoint
        bounds = await self._from_log(partial(self._log.bounds, number))
        streams: dict[str, int] = {}
        if manifest is not None:
            mark, names = manifest.mark, sorted(manifest.streams)
            found = None if mark is None else await self._from_log(partial(self._log.record, number, mark.offset))
            stored = await self._lives.next_offsets(names)
            start = where_to_begin(manifest, stored, self._topic_id, bounds, found)
            if isinstance(start, Begin):
                return
            if isinstance(start, Lost):  # those of which the topic has nothing any more keep what they have
                streams |= {name: next_offset for name, next_offset in stored.items() if next_offset is not None}
        streams |= {name: done.next_offset for name, done in self._done.items() if self._homes[name] == number}
        # What retention removed behind the last record that was read is in no state: the engine has to say so.
        low_water = bounds.begin if self._request.accept_gap else min(bounds.begin, self._partitions.folded_to[number])
        mended = Manifest(low_water=low_water, streams=streams, topic_id=self._topic_id, mark=None)
        await self._from_store(lambda: self._live.write_manifest(self._log.topic, number, mended))

    async def _brought_up(self, name: str, number: int) -> Stream:
        """The stream, its checkpoint beyond all that was read: a live engine's may stand behind its last record."""
        stream = await self._opened(name, number)
        self._folder.bring_up(stream)
        return stream

    async def _poll(self, records_max: int) -> Polled:
        return await self._from_log(lambda: self._log.poll(max(1, records_max), self._poll_wait_s))

    async def _from_log(self, ask: Callable[[], Awaitable[T]]) -> T:
        return await self._retry.with_log(ask)

    async def _from_store(self, ask: Callable[[], Awaitable[T]]) -> T:
        return await self._retry.with_store(ask)


def _refuse_rivals(conflicts: list[CommitConflict]) -> None:
    """Raise when the shadow was written by somebody else."""
    if conflicts:
        raise CrashfoldError(
            f"another replay is rebuilding stream {conflicts[0].stream}; wait until it is done, or end it and start "
            "this one again"
        )
