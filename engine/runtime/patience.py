"""Trying again, with growing pauses, for as long as a server is away."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from engine.errors import Unavailable
from engine.ports import Clock

T = TypeVar("T")

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0


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
