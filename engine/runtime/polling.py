"""Polling ahead: while one turn's records are committed, the next turn's are polled.

Imports ports, retry with backoff, pacing. What is always true: records that were taken from the log stand in `ahead`
until a turn takes them, so a cancelled poll loses none.
"""

from collections.abc import Collection
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec

from crashfold.engine.core.health import POLLING
from crashfold.engine.errors import LostRange, Unavailable
from crashfold.engine.ports import Clock, EventLog, Polled
from crashfold.engine.runtime.pacing import BEHIND_RECORDS, FLOOD_LETTERS, FLOOD_RECORDS, STEP_BYTES, EngineLimits
from crashfold.engine.runtime.retry import Retry

BEHIND_WAIT_S: Final = 0.05
BUSY_S: Final = 0.1
"""A poll that ends so much later than it should has not been listening."""


class Poller:
    """What the next turn will take."""

    def __init__(self, event_log: EventLog, retry: Retry, clock: Clock, limits: EngineLimits) -> None:
        self._log = event_log
        self._retry = retry
        self._clock = clock
        self._limits = limits
        self._is_flooded = False
        self._out_of_range: LostRange | None = None
        self.ahead: Polled | None = None

    async def take(self) -> Polled:
        """What the last turn polled ahead and what has come since, or a poll. Empty when the log does not have the
        position; `take_out_of_range` has the reason."""
        if self.ahead is None:
            await self.poll_ahead()
        else:
            await self._top_up()
        polled, self.ahead = self.ahead or Polled(), None
        return polled

    def take_out_of_range(self) -> LostRange | None:
        """The error of a poll at a position that the log does not have; None while records are polled ahead: the log
        raises it again when those are folded."""
        error, self._out_of_range = self._out_of_range, None
        return None if self.ahead is not None else error

    def note_letters(self, letters: int) -> None:
        """So many records of the turn are dead letters."""
        self._is_flooded = letters >= FLOOD_LETTERS

    def forget(self, partitions: Collection[int]) -> None:
        """Drop what was polled of partitions that will be read from elsewhere."""
        if self.ahead is None:
            return
        kept = tuple(records for records in self.ahead.records if records.partition not in partitions)
        self.ahead = msgspec.structs.replace(self.ahead, records=kept)
        if not (kept or self.ahead.gained or self.ahead.lost):
            self.ahead = None

    async def poll_ahead(self) -> None:
        """Poll, and while records come in such numbers that the engine must be behind, poll on: one big commit costs
        less than many."""
        limits, linger_s = self._limits, self._limits.linger_ms / 1000
        try:
            newest = ahead = self.ahead = await self._listen()
            while (missing := self._records_max - ahead.count) > 0 and not (newest.gained or newest.lost):
                if newest.count >= BEHIND_RECORDS and ahead.bytes_held < STEP_BYTES:
                    wait_s = min(BEHIND_WAIT_S, limits.poll_wait_s)
                elif linger_s and newest is ahead and newest.count:
                    await self._clock.sleep(linger_s)
                    wait_s = 0.0
                else:
                    return
                newest = await self._retry.with_log(partial(self._log.poll, missing, wait_s), POLLING)
                ahead = self.ahead = ahead.with_more(newest)
        except LostRange as error:
            if self.ahead is None:
                self._out_of_range = error
            # Otherwise the next poll raises it again, when what came before is folded.

    @property
    def _records_max(self) -> int:
        """How many records a turn takes."""
        records_max = self._limits.batch_games_max
        return min(records_max, FLOOD_RECORDS) if self._is_flooded else records_max

    async def _listen(self) -> Polled:
        """What a poll brings. A second poll when the first one brought nothing without having waited in vain: it found
        the rest of a buffer empty, or this process was busy folding, so that the poll heard nothing."""
        limits, begun_s = self._limits, self._clock.monotonic_s()
        poll = partial(self._log.poll, self._records_max, limits.poll_wait_s)
        polled = await self._retry.with_log(poll, POLLING)
        late_s = self._clock.monotonic_s() - begun_s - limits.poll_wait_s
        if polled.records or polled.gained or polled.lost or 0 <= late_s < BUSY_S:
            return polled
        return await self._retry.with_log(poll, POLLING)

    async def _top_up(self) -> None:
        """Add what came while the last commit was made; otherwise it would wait for another one. An error of the log is
        left for the next poll: what was polled already is folded first."""
        ahead = self.ahead
        if ahead is not None and 0 < ahead.count < self._records_max and not (ahead.gained or ahead.lost):
            with suppress(Unavailable, LostRange):
                self.ahead = ahead.with_more(await self._log.poll(self._records_max - ahead.count, 0.0))
