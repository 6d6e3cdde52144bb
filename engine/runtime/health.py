"""The board on which the runtime notes what it sees, and from which the probes read.

Decides nothing: `crashfold.engine.core.health` does. May be asked at any time, also between two steps. What goes wrong
is logged here and nowhere else: once, and then now and then for as long as it lasts, however often it is tried.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from crashfold.engine.core import health
from crashfold.engine.core.health import READING, TOPIC, Facts, PartitionProgress, Server, Subject
from crashfold.engine.ports import Clock

STALL_S: Final = 120.0
"""Longer than the longest step, the longest pause between two tries, and a rebalance together."""


SAY_EVERY_S: Final = 30.0
"""Between two lines of the log about one server that is away."""

log = structlog.get_logger()


class HealthBoard:
    """Holds the newest facts about store, log and partitions. Implements `crashfold.engine.core.health.Health`."""

    def __init__(self, clock: Clock, stall_s: float = STALL_S) -> None:
        self._clock = clock
        self._stall_s = stall_s
        self._servers: dict[str, dict[Subject, Server]] = {"store": {}, "log": {}}
        self._said_s: dict[str, float] = {}
        self._partitions: dict[int, PartitionProgress | None] = {}
        self._started = False
        self._asked: dict[object, tuple[str, Subject, float]] = {}

    def holding(self, partitions: Iterable[int]) -> None:
        """These partitions are held, and no others."""
        self._partitions = {number: self._partitions.get(number) for number in partitions}
        known = self._servers["log"]
        over: set[Subject] = {TOPIC} if self._partitions else set()
        over |= {about for about in known if isinstance(about, int) and about not in self._partitions}
        for about in over & known.keys():
            del known[about]
        self._note_start()

    def progress(self, partition: int, next_offset: int, end: int) -> None:
        """The partition, which is held, stands at `next_offset` of `end`."""
        before = self._partitions.get(partition)
        self._partitions[partition] = health.moved(before, next_offset, end, self._clock.monotonic_s())
        self._note_start()

    def store_ok(self, about: Subject = READING) -> None:
        """The store did that."""
        self._ok("store", about)

    def store_down(self, reason: str, about: Subject = READING) -> None:
        """The store did not answer, or refused."""
        self._down("store", about, reason)

    def log_ok(self, about: Subject = READING) -> None:
        """The log did that."""
        self._ok("log", about)

    def log_down(self, reason: str, about: Subject = READING) -> None:
        """The log did not answer."""
        self._down("log", about, reason)

    @contextmanager
    def waiting(self, server: str, about: Subject) -> Iterator[None]:
        """Within the block an answer of the server is waited for: a client may wait for a minute before it says why."""
        asked = object()
        self._asked[asked] = (server, about, self._clock.monotonic_s())
        try:
            yield
        finally:
            del self._asked[asked]

    def live(self) -> list[str]:
        """Why this process should be restarted."""
        return health.live(self._facts(), self._clock.monotonic_s(), self._stall_s)

    def ready(self) -> list[str]:
        """Why it does not do its work at this moment."""
        return health.ready(self._facts(), self._clock.monotonic_s())

    def started(self) -> list[str]:
        """Why it was never ready so far."""
        return [] if self._started else self.ready()

    def _ok(self, server: str, about: Subject) -> None:
        known = self._servers[server]
        known[about] = health.heard(known.get(about), None, self._clock.monotonic_s())
        if server in self._said_s and all(one.fault is None for one in known.values()):
            del self._said_s[server]
            log.info("store_back") if server == "store" else log.info("log_back")
        self._note_start()

    def _down(self, server: str, about: Subject, reason: str) -> None:
        known, now_s = self._servers[server], self._clock.monotonic_s()
        known[about] = health.heard(known.get(about), reason, now_s)
        if server not in self._said_s or now_s - self._said_s[server] >= SAY_EVERY_S:
            self._said_s[server] = now_s
            fields = {"about": about, "error": reason, "lasts_s": round(now_s - known[about].since_s, 1)}
            log.warning("store_away", **fields) if server == "store" else log.warning("log_away", **fields)

    def _note_start(self) -> None:
        self._started = self._started or not self.ready()

    def _facts(self) -> Facts:
        return Facts(self._servers["store"], self._servers["log"], self._partitions, tuple(self._asked.values()))
