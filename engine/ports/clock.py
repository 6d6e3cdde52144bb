"""Time."""

from typing import Protocol


class Clock(Protocol):
    """Time, so that simulation can bring its own."""

    def now_ms(self) -> int:
        """Epoch milliseconds."""

    def monotonic_s(self) -> float:
        """Seconds since some moment; never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""
