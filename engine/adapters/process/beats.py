"""When each of several processes was last at work, in memory that they share; made before they are forked.

Imports the standard library and the ports. What is always true: a process writes its own place alone.
"""

import mmap
import struct
from typing import Final

from crashfold.engine.ports import Clock

BEAT_EVERY_S: Final = 1.0
STALE_S: Final = 10.0
"""After so long without a beat a process is frozen, or so busy that it answers nobody either."""

_PLACE: Final = struct.Struct("d")


class Beats:
    """The beats of `count` processes by the monotonic clock, which those of a machine share."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._shared = mmap.mmap(-1, max(1, count) * _PLACE.size)

    async def keep(self, number: int, clock: Clock) -> None:
        """Beat, for as long as this process is at work."""
        while True:
            _PLACE.pack_into(self._shared, number * _PLACE.size, clock.monotonic_s())
            await clock.sleep(BEAT_EVERY_S)

    def stale(self, clock: Clock) -> list[str]:
        """A reason for each process that has been at work and was not heard for long."""
        beats = (_PLACE.unpack_from(self._shared, number * _PLACE.size)[0] for number in range(self._count))
        silences = ((number, clock.monotonic_s() - at_s) for number, at_s in enumerate(beats) if at_s)
        return [f"worker {number} was not heard for {for_s:.0f} s" for number, for_s in silences if for_s > STALE_S]
