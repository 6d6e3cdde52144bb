"""Trying again, with growing pauses, for as long as a server is away."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from engine.errors import Unavailable
from engine.ports import Clock
from engine.runtime.health import HealthBoard

T = TypeVar("T")

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0

log = structlog.get_logger()


async def patiently(clock: Clock, attempt: Callable[[], Awaitable[T]], failed: Callable[[Unavailable], None]) -> T:
    """What `attempt` returns, once it does; after each `Unavailable`, which `failed` hears of, a pause and another try.

    Ends only by success, another error, or cancellation: what is being tried must be safe to repeat.
    """
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return await attempt()
        except Unavailable as error:
            failed(error)
        await clock.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


class Patience:
    """Asking the store and the log until they answer, with a note on the board of what they did."""

    def __init__(self, clock: Clock, health: HealthBoard) -> None:
        self._clock = clock
        self._health = health

    async def with_store(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What the store answers, once it does."""

        def failed(error: Unavailable) -> None:
            self._health.store_down(str(error))
            log.warning("store_away", error=str(error))

        answer = await patiently(self._clock, ask, failed)
        self._health.store_ok()
        return answer

    async def with_log(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What the log answers, once it does."""

        def failed(error: Unavailable) -> None:
            self._health.log_down(str(error))
            log.warning("log_away", error=str(error))

        answer = await patiently(self._clock, ask, failed)
        self._health.log_ok()
        return answer
