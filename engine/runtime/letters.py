"""What is said of dead letters: each of the first few of a second, and of the others how many.

Imports structlog and facts. Whoever can write to the topic can make dead letters, a hundred thousand a second, and a
line for each would take longer than all else that is done for it, and hide every other line.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

import structlog

from crashfold.engine.errors import CrashfoldError
from crashfold.engine.ports import Clock, DeadLetter

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
