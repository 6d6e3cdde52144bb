"""Trying again."""

from itertools import pairwise

import anyio
import pytest

from crashfold.engine.adapters.memory.clock import MemoryClock
from crashfold.engine.errors import LostRange, StoreRefused, StoreUnavailable, Unavailable
from crashfold.engine.runtime.retry import FIRST_PAUSE_S, LONGEST_PAUSE_S, retry_with_backoff


class Attempts:
    """Fails so often, and notes when it was tried."""

    def __init__(self, clock: MemoryClock, *failures: Exception) -> None:
        self._clock = clock
        self._failures = list(failures)
        self.tried_s: list[float] = []

    async def __call__(self) -> str:
        self.tried_s.append(self._clock.monotonic_s())
        if self._failures:
            raise self._failures.pop(0)
        return "done"


async def test_what_works_at_once_is_tried_once() -> None:
    clock = MemoryClock()
    attempts = Attempts(clock)
    heard: list[Unavailable] = []
    assert await retry_with_backoff(clock, attempts, heard.append) == "done"
    assert heard == []
    assert attempts.tried_s == [0]


async def test_pauses_grow_up_to_a_bound() -> None:
    clock = MemoryClock()
    failures = [StoreUnavailable(str(n)) if n % 2 else StoreRefused(str(n)) for n in range(12)]
    attempts = Attempts(clock, *failures)
    heard: list[Unavailable] = []
    assert await retry_with_backoff(clock, attempts, heard.append) == "done"
    assert heard == failures
    pauses = [b - a for a, b in pairwise(attempts.tried_s)]
    whole = [min(FIRST_PAUSE_S * 2**n, LONGEST_PAUSE_S) for n in range(12)]
    assert all(of / 2 <= pause <= of for pause, of in zip(pauses, whole, strict=True))


async def test_engines_of_different_names_do_not_come_back_together_and_one_can_be_played_again() -> None:
    async def tried(name: str) -> list[float]:
        clock = MemoryClock()
        attempts = Attempts(clock, *(StoreRefused("no") for _ in range(5)))
        await retry_with_backoff(clock, attempts, lambda error: None, name)
        return attempts.tried_s[1:]

    assert await tried("a") == await tried("a")
    assert not {*await tried("a")} & {*await tried("b")}


async def test_other_errors_end_it() -> None:
    clock = MemoryClock()
    with pytest.raises(LostRange):
        await retry_with_backoff(clock, Attempts(clock, StoreRefused("a"), LostRange("b")), lambda error: None)


async def test_a_cancellation_ends_it() -> None:
    clock = MemoryClock()

    async def never() -> None:
        raise StoreRefused("no")

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(retry_with_backoff, clock, never, lambda error: None)
            await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
