"""The twin of the clock, for tests and simulations. Imports anyio. Time passes only when somebody sleeps, or is told to
pass; so nobody ever waits."""

from typing import Final

import anyio.lowlevel

FIRST_MS: Final = 1_700_000_000_000


class MemoryClock:
    """`Clock` in memory. Several engines may share one."""

    def __init__(self) -> None:
        self._passed_s = 0.0

    def now_ms(self) -> int:
        """Epoch milliseconds."""
        return FIRST_MS + round(self._passed_s * 1000)

    def monotonic_s(self) -> float:
        """Seconds since the clock was made."""
        return self._passed_s

    async def sleep(self, seconds: float) -> None:
        """Let so much time pass for everybody, and others run."""
        self.pass_s(seconds)
        await anyio.lowlevel.checkpoint()

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self._passed_s += seconds
