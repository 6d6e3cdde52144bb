"""Retry with backoff and jitter, for as long as a server is away."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar
from zlib import crc32

from crashfold.engine.core.health import READING, Subject
from crashfold.engine.errors import Unavailable
from crashfold.engine.ports import Clock
from crashfold.engine.runtime.health import HealthBoard

T = TypeVar("T")

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0


async def retry_with_backoff(
    clock: Clock, attempt: Callable[[], Awaitable[T]], failed: Callable[[Unavailable], None], name: str = ""
) -> T:
    """Retry `attempt` with backoff and jitter until it returns; `failed` hears of each `Unavailable`.

    Ends only by success, another error, or cancellation: what is being tried must be safe to repeat. A pause is between
    half and the whole of what it may be, by chance that follows from `name`: so engines of different names do not all
    come back to a server at once, and a simulation can be played again.
    """
    pause_s = FIRST_PAUSE_S
    attempts = 0
    while True:
        try:
            return await attempt()
        except Unavailable as error:
            failed(error)
        attempts += 1
        await clock.sleep(pause_s * (1 - crc32(f"{name}#{attempts}".encode()) / 2**33))
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


class Retry:
    """Asking the store and the log until they answer, with a note on the board of what they did. `name` is the
    engine's, for jitter."""

    def __init__(self, clock: Clock, health: HealthBoard, name: str = "") -> None:
        self._clock = clock
        self._health = health
        self._name = name

    async def with_store(self, ask: Callable[[], Awaitable[T]], about: Subject = READING) -> T:
        """Ask the store, retrying with backoff while it is away."""
        with self._health.waiting("store", about):
            answer = await retry_with_backoff(
                self._clock, ask, lambda error: self._health.store_down(str(error), about), self._name
            )
        self._health.store_ok(about)
        return answer

    async def with_log(self, ask: Callable[[], Awaitable[T]], about: Subject = READING) -> T:
        """Ask the log, retrying with backoff while it is away."""
        with self._health.waiting("log", about):
            answer = await retry_with_backoff(
                self._clock, ask, lambda error: self._health.log_down(str(error), about), self._name
            )
        self._health.log_ok(about)
        return answer
