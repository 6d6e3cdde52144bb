"""Upkeep: what is looked after between turns. Does store and log still have what they had, and where a restart begins.

Imports ports, core, the folder and placement. So lost writes are noticed, and made again, also of a stream for which
nothing comes any more; and so is another history that stands where ours was, after a failover and back. A store that is
away is noticed while there is nothing to commit.
"""

from functools import partial
from typing import Final

import msgspec
import structlog

from crashfold.engine.core.health import COMMITS
from crashfold.engine.core.start import was_recreated
from crashfold.engine.errors import Unavailable
from crashfold.engine.ports import Clock, EventLog, Position, StateStore
from crashfold.engine.runtime.folder import Folder
from crashfold.engine.runtime.health import HealthBoard
from crashfold.engine.runtime.placement import Placement
from crashfold.engine.runtime.retry import Retry

LOOK_EVERY_S: Final = 1.0
"""How often, at least, the store is asked whether it still has what was committed."""
LOOKED_AT_PER_S: Final = 500
"""Streams for which that is affordable every second: of more, so many at a time take turns, and manifests, which name
them all, are noted less often. All 10,000 at once would keep commits waiting for half a second."""
RENEW_EVERY_NOTES: Final = 5
"""With every fifth note one manifest is written again without need, each partition's in turn."""

log = structlog.get_logger()


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


class Upkeep:
    """Looks after the store and the log of one engine, at most once a second."""

    def __init__(
        self,
        event_log: EventLog,
        store: StateStore,
        folder: Folder,
        placement: Placement,
        retry: Retry,
        clock: Clock,
        health: HealthBoard,
    ) -> None:
        self._log = event_log
        self._store = store
        self._folder = folder
        self._partitions = folder.partitions
        self._placement = placement
        self._retry = retry
        self._clock = clock
        self._health = health
        self._look_due_s = self._note_due_s = 0.0
        self._looked_at = 0
        self._recognise_due_s = 0.0
        self._notes = 0

    async def look_after_the_log(self) -> None:
        """Where topics have no ids: before a commit, unless that was done within the last second, see whether the log
        still has the records that it had then. So what it brought before this look is of the same topic."""
        now_s = self._clock.monotonic_s()
        if self._log.topic_id is not None or now_s < self._recognise_due_s:
            return
        self._recognise_due_s = now_s + LOOK_EVERY_S
        for number in self._partitions.read:
            partition = self._partitions[number]
            committed = partition.committed
            mark = partition.recognised or committed.mark
            if mark is None:
                continue
            bounds = await self._retry.with_log(partial(self._log.bounds, number))
            found = await self._retry.with_log(partial(self._log.record, number, mark.offset))
            if was_recreated(None, mark, None, bounds, found):
                manifest = msgspec.structs.replace(partition.manifest(committed.next_offset), mark=mark)
                await self._placement.place(number, manifest)
            else:
                partition.recognised = committed.mark

    async def look_after_the_store(self) -> bool:
        """Now and then: let go of what need not be in memory, ask whether the store still has the very commits that
        were made, and note where a restart may begin. One try each: the next turn has another. Whether it was time.

        After the first commit of a partition it is always time: `status` and `verify` find its streams by the manifest.
        """
        now_s = self._clock.monotonic_s()
        is_noted = all(partition.is_noted for partition in self._partitions.held.values())
        if now_s < self._look_due_s and is_noted:
            return False
        self._look_due_s = now_s + LOOK_EVERY_S
        self._folder.forget_idle()
        try:
            changed = await self._changed()
        except Unavailable as error:
            self._health.store_down(str(error))
            return True
        self._health.store_ok()
        await self._take_up(changed)
        if now_s < self._note_due_s and is_noted:
            return True
        streams = sum(len(partition.known) for partition in self._partitions.held.values())
        self._note_due_s = now_s + max(LOOK_EVERY_S, streams / LOOKED_AT_PER_S)
        try:
            if await self.note_manifests():
                self._health.store_ok(COMMITS)
        except Unavailable as error:
            self._health.store_down(str(error), COMMITS)
        return True

    async def note_manifests(self) -> bool:
        """Note where a restart may begin; whether something was written. An old note costs reading again, never a wrong
        count. Now and then one is written without need: so a store that takes no writes is noticed while nothing comes,
        and a manifest that the store has lost is there again.
        """
        numbers = self._partitions.read
        due = {
            number
            for number in numbers
            if self._partitions[number].noted != self._partitions[number].committed.next_offset
        }
        self._notes += 1
        turn, remainder = divmod(self._notes, RENEW_EVERY_NOTES)
        if numbers and remainder == 0:
            due.add(numbers[turn % len(numbers)])
        for number in sorted(due):
            partition = self._partitions[number]
            low_water = partition.committed.next_offset
            await self._store.write_manifest(self._log.topic, number, partition.manifest(low_water))
            partition.noted = low_water
        return bool(due)

    async def _changed(self) -> list[Changed]:
        """The streams of which the store has another commit than the last one known, of those whose turn it is. Asks
        the store in any case.

        After a failover and back it may have another history up to the same offset or beyond; then no offset tells.
        """
        numbers = self._partitions.read
        every = [
            (name, number, position) for number in numbers for name, position in self._partitions[number].known.items()
        ]
        start = self._looked_at if self._looked_at < len(every) else 0
        known = every[start : start + LOOKED_AT_PER_S]
        self._looked_at = start + len(known)
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

    async def _take_up(self, changed: list[Changed]) -> None:
        """Place the partitions of these streams anew."""
        for number in sorted({one.partition for one in changed}):
            here = [one for one in changed if one.partition == number]
            if lost := [one.stream for one in here if one.writes_lost]:
                log.warning("writes_lost", partition=number, streams=len(lost), stream=lost[0])
            else:
                log.info("state_replaced", partition=number, streams=len(here), stream=here[0].stream)
            await self._placement.place_again(number)
