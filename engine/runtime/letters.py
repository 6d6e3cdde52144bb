"""Publishes dead letters, and logs the first few of each second, and of the others how many.

Imports ports and structlog. Whoever can write to the topic can make dead letters, a hundred thousand a second, and a
line for each would take longer than all else that is done for it, and hide every other line.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

import structlog

from crashfold.engine.core.health import DEAD_LETTERS
from crashfold.engine.errors import CrashfoldError
from crashfold.engine.meter import Meter
from crashfold.engine.ports import Clock, DeadLetter, DeadLetters
from crashfold.engine.runtime.retry import Retry

SAID_PER_SECOND: Final = 10
COUNT_EVERY_S: Final = 15.0

Count = Callable[[], Awaitable[Mapping[str, int]]]

log = structlog.get_logger()


async def keep_counting(count: Count, clock: Clock, counted: Callable[[Mapping[str, int]], None]) -> None:
    """Hand on how many letters wait for somebody, by reason, every fifteen seconds, until cancelled. Nothing is handed
    on while the log does not answer."""
    while True:
        try:
            counted(await count())
        except CrashfoldError as error:
            log.debug("letters_not_counted", fault=str(error))
        await clock.sleep(COUNT_EVERY_S)


class LetterPublisher:
    """Hands dead letters over, before any checkpoint passes them."""

    def __init__(self, dead_letters: DeadLetters, retry: Retry, clock: Clock, meter: Meter) -> None:
        self._dead_letters = dead_letters
        self._retry = retry
        self._meter = meter
        self._log = LettersLog(clock)

    async def publish(self, letters: Sequence[DeadLetter]) -> None:
        """Hand these letters over; returns when they are kept."""
        if letters:
            await self._retry.with_log(lambda: self._dead_letters.put(letters), DEAD_LETTERS)
            for reason, count in Counter(letter.reason for letter in letters).items():
                self._meter.buried(reason, count)
            self._log.note(letters)

    def catch_up(self, *, now: bool = False) -> None:
        """See `LettersLog.catch_up`."""
        self._log.catch_up(now=now)


class _Unsaid:
    """Letters of one partition and reason that no line has been written of."""

    def __init__(self, first: DeadLetter) -> None:
        self.first = self.last = first
        self.count = 1


class LettersLog:
    """Writes lines of letters that were handed over: `dead_letter` for one, `dead_letters` for many of a kind."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until_s = 0.0
        self._left = 0
        self._unsaid: dict[tuple[int, str], _Unsaid] = {}

    def note(self, letters: Iterable[DeadLetter]) -> None:
        """These letters were handed over."""
        self.catch_up()
        for letter in letters:
            kind = letter.partition, letter.reason
            if kind in self._unsaid:
                self._unsaid[kind].last = letter
                self._unsaid[kind].count += 1
            elif self._left:
                self._left -= 1
                _say(letter)
            else:
                self._unsaid[kind] = _Unsaid(letter)

    def catch_up(self, *, now: bool = False) -> None:
        """Once a second, or `now`: say how many there were beyond those that have been named."""
        now_s = self._clock.monotonic_s()
        if now_s < self._until_s and not now:
            return
        self._until_s, self._left = now_s + 1, SAID_PER_SECOND
        unsaid, self._unsaid = self._unsaid, {}
        for (partition, reason), some in unsaid.items():
            if some.count == 1:
                _say(some.first)
                continue
            first, last = some.first.record.offset, some.last.record.offset
            log.info(
                "dead_letters",
                reason=reason,
                count=some.count,
                detail=some.first.detail,
                partition=partition,
                first_offset=first,
                last_offset=last,
            )


def _say(letter: DeadLetter) -> None:
    log.info(
        "dead_letter",
        reason=letter.reason,
        detail=letter.detail,
        partition=letter.partition,
        offset=letter.record.offset,
    )
