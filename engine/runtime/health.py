"""The board on which the runtime notes what it sees, and from which the probes read.

Decides nothing: `engine.core.health` does. May be asked at any time, also between two steps.
"""

from collections.abc import Iterable
from typing import Final

from engine.core import health
from engine.core.health import Facts, Progress, Server
from engine.ports import Clock

STALL_S: Final = 120.0
"""Longer than the longest step, the longest pause between two tries, and a rebalance together."""


class HealthBoard:
    """What was last seen. Implements `engine.core.health.Health`."""

    def __init__(self, clock: Clock, stall_s: float = STALL_S) -> None:
        self._clock = clock
        self._stall_s = stall_s
        self._store: Server | None = None
        self._log: Server | None = None
        self._partitions: dict[int, Progress | None] = {}
        self._started = False

    def holding(self, partitions: Iterable[int]) -> None:
        """These partitions are held, and no others."""
        self._partitions = {number: self._partitions.get(number) for number in partitions}
        self._note_start()

    def progress(self, partition: int, next_offset: int, end: int) -> None:
        """The partition, which is held, stands at `next_offset` of `end`."""
        before = self._partitions.get(partition)
        self._partitions[partition] = health.moved(before, next_offset, end, self._clock.monotonic_s())
        self._note_start()

    def store_ok(self) -> None:
        """The store answered."""
        self._store = health.heard(self._store, None, self._clock.monotonic_s())
        self._note_start()

    def store_down(self, reason: str) -> None:
        """The store did not answer, or refused."""
        self._store = health.heard(self._store, reason, self._clock.monotonic_s())

    def log_ok(self) -> None:
        """The log answered."""
        self._log = health.heard(self._log, None, self._clock.monotonic_s())
        self._note_start()

    def log_down(self, reason: str) -> None:
        """The log did not answer."""
        self._log = health.heard(self._log, reason, self._clock.monotonic_s())

    def live(self) -> list[str]:
        """Why this process should be restarted."""
        return health.live(self._facts(), self._clock.monotonic_s(), self._stall_s)

    def ready(self) -> list[str]:
        """Why it does not do its work at this moment."""
        return health.ready(self._facts())

    def started(self) -> list[str]:
        """Why it was never ready so far."""
        return [] if self._started else self.ready()

    def _note_start(self) -> None:
        self._started = self._started or not self.ready()

    def _facts(self) -> Facts:
        return Facts(self._store, self._log, self._partitions)
