"""Rebuild: the line pointed at an empty generation, from the first record, and then the swap.

The shadow generation has keys and checkpoints of its own, so the live engine goes on beside it. It is folded in memory
and written once, when it has caught up; promote then compares the checkpoints and swaps. Until a stream is promoted
nothing live has changed, so a rebuild may be killed at any point and run again.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from engine.core.facts import Behind, DeadLetter, Promoted, Records, Stored
from engine.errors import ConfigurationError, CrashfoldError, LostRange, Unavailable
from engine.ports import Clock, DeadLetters, EventLog, ShadowStore, StateStore
from engine.runtime.processor import Held, Processor
from schemas.game import Unreadable, stream_name

CATCH_UP_TRIES: Final = 500
"""How often a rebuild tries to overtake a live engine that keeps committing, one short poll a try."""
BATCH_GAMES: Final = 20_000
POLL_WAIT_S: Final = 0.2

log = structlog.get_logger()


class NoDeadLetters:
    """A rebuild buries nothing: the live engine has handed these records over already. It only counts them."""

    def __init__(self) -> None:
        self.count = 0

    async def put(self, letters: Sequence[DeadLetter]) -> None:
        """Count them."""
        self.count += len(letters)


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
    """What a rebuild did."""

    streams: tuple[Rebuilt, ...]
    records: int
    dead_letters: int
    duration_s: float


class Request(msgspec.Struct, frozen=True):
    """What to rebuild: all streams or one, up to an offset (exclusive) or to the end, swapped in or only tried."""

    stream: str | None = None
    to_offset: int | None = None
    dry_run: bool = False
    accept_gap: bool = False


class Rebuild:
    """One rebuild. `new_processor` makes the line over the store it is given; `live` is only asked what it has."""

    def __init__(
        self,
        event_log: EventLog,
        live: StateStore,
        shadow: ShadowStore,
        new_processor: Callable[[StateStore, DeadLetters], Processor],
        request: Request,
        clock: Clock,
        progressed: Callable[[Progress], None],
    ) -> None:
        self._log = event_log
        self._live = live
        self._shadow = shadow
        self._rejected = NoDeadLetters()
        self._processor = new_processor(_FreshStore(shadow), self._rejected)
        self._request = request
        self._clock = clock
        self._progressed = progressed
        self._begins: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._pending: dict[str, Held] = {}
        self._done: dict[str, Rebuilt] = {}
        self._records = 0

    async def run(self) -> RebuildReport:
        """Read, fold, write the shadow, swap. Raises CrashfoldError when a swap would be wrong or cannot be made."""
        started_s = self._clock.monotonic_s()
        await self._begin()
        while any(self._position(number) < end for number, end in self._ends.items()):
            await self._read()
        self._pending = self._processor.held
        for stream, held in self._pending.items():
            await self._check_retention(stream, held)
        if self._request.dry_run:
            self._done = {
                stream: Rebuilt(stream, held.games, held.next_offset, None) for stream, held in self._pending.items()
            }
        else:
            await self._swap()
        streams = tuple(self._done[stream] for stream in sorted(self._done))
        duration_s = self._clock.monotonic_s() - started_s
        return RebuildReport(streams, self._records, self._rejected.count, duration_s)

    async def _begin(self) -> None:
        """Point every partition at its first record, and note where its last one stands now."""
        gained: frozenset[int] = frozenset()
        while not gained:
            gained = (await self._log.poll(BATCH_GAMES, POLL_WAIT_S)).gained
        to_offset = self._request.to_offset
        if to_offset is not None and self._request.stream is None and len(gained) > 1:
            raise ConfigurationError(
                f"--to-offset names an offset of one partition, and {self._log.topic} has {len(gained)}: name the "
                "stream too, by --stream"
            )
        for number in sorted(gained):
            bounds = await self._log.bounds(number)
            self._begins[number] = bounds.begin
            self._ends[number] = bounds.end if to_offset is None else min(bounds.end, to_offset)
            self._processor.start_at(number, bounds.begin)
            await self._log.seek(number, bounds.begin)

    async def _read(self) -> None:
        """Fold what one poll brings."""
        polled = await self._log.poll(BATCH_GAMES, POLL_WAIT_S)
        for records in polled.records:
            self._records += len(records.offsets)
            await self._rejected.put(await self._processor.fold(self._wanted(records)))
        total = sum(end - self._begins[number] for number, end in self._ends.items())
        self._progressed(Progress(self._records, max(total, self._records)))

    def _wanted(self, records: Records) -> Records:
        """Without what lies beyond the offset, belongs to another stream than the one asked for, or to one that has
        been swapped in already, whose records are the live engine's again."""
        to_offset, stream = self._request.to_offset, self._request.stream
        rows = range(len(records.offsets))
        if to_offset is not None and records.next_offset > to_offset:
            rows = range(bisect_left(records.offsets, to_offset))
        if stream is None and not self._done and len(rows) == len(records.offsets):
            return records
        wanted = [row for row in rows if self._wants(stream_name(records.keys[row]))]
        next_offset = records.next_offset if to_offset is None else min(records.next_offset, to_offset)
        return Records(
            records.partition,
            next_offset,
            [records.offsets[row] for row in wanted],
            [records.timestamps_ms[row] for row in wanted],
            [records.keys[row] for row in wanted],
            [records.values[row] for row in wanted],
        )

    def _wants(self, name: str | Unreadable) -> bool:
        return name not in self._done and (self._request.stream is None or name == self._request.stream)

    async def _check_retention(self, stream: str, held: Held) -> None:
        """Refuse to swap in less than the live state has, when the topic no longer holds where it began."""
        begin = self._begins[held.partition]
        if begin == 0 or self._request.accept_gap or self._request.dry_run:
            return
        stored = await self._live.load(stream)
        if stored is not None and stored.checkpoint.topic == self._log.topic and stored.checkpoint.first_offset < begin:
            raise LostRange(
                f"retention removed offsets {stored.checkpoint.first_offset} to {begin - 1} of {self._log.topic}/"
                f"{held.partition}, which stream {stream} was folded from: a rebuild would have fewer games. If that "
                "is what you want, add --accept-gap."
            )

    async def _swap(self) -> None:
        """Write the shadow and promote it, stream by stream. A live engine that is ahead is overtaken: read on, commit
        to the shadow, try again."""
        for _ in range(CATCH_UP_TRIES):
            clashes = await self._processor.commit()
            if clashes:
                raise CrashfoldError(
                    f"another replay is rebuilding stream {clashes[0].stream}; wait until it is done, or end it and "
                    "start this one again"
                )
            for stream in list(self._pending):
                held = self._processor.held[stream]
                match await self._shadow.promote(stream, allow_back=self._request.to_offset is not None):
                    case Promoted(version):
                        log.info("promoted", stream=stream, version=version, next_offset=held.next_offset)
                        self._done[stream] = Rebuilt(stream, held.games, held.next_offset, version)
                        self._processor.forget(stream)
                        del self._pending[stream]
                    case Behind(live):
                        log.debug("behind", stream=stream, next_offset=held.next_offset, live=live.next_offset)
            if not self._pending:
                return
            await self._read()
        names = ", ".join(sorted(self._pending))
        raise Unavailable(
            f"the live engine stayed ahead of the rebuild of {names}. Run replay again when there is less traffic, or "
            "while the engine is stopped."
        )

    def _position(self, number: int) -> int:
        return self._processor.folded_to[number]


class _FreshStore:
    """The shadow's store for a processor: a stream is met with nothing, whatever an earlier rebuild left behind."""

    def __init__(self, shadow: ShadowStore) -> None:
        self._shadow = shadow
        self.positions = shadow.positions
        self.read_manifest = shadow.read_manifest
        self.write_manifest = shadow.write_manifest
        self.commit = shadow.commit

    async def load(self, stream: str) -> Stored | None:
        """Nothing, and see to it that there is nothing."""
        await self._shadow.clear([stream])
        return None
