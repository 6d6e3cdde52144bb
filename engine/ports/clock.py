"""Time."""

from typing import Protocol


class Clock(Protocol):
    """The source of time; a simulation brings its own."""

    def now_ms(self) -> int:
        """Return the time now in epoch milliseconds."""

    def monotonic_s(self) -> float:
        """Return the seconds since a fixed moment. They never go back."""

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds."""
