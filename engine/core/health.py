"""Is the engine alive, is it ready: decisions on what was last seen. No I/O, no clock.

Alive means progress on every partition while there is lag. A server that is away is no reason to be restarted: that
would not bring it back. So time counts as a stall only from when both servers are there; till then the engine is alive,
but not ready.

Facts about a server are kept by their subject, an operation or a partition, for a server of many parts may do one thing
and not another: what one partition answers says nothing of the next, and a read nothing of a write. A fault stands
until that very thing has worked.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import msgspec

NOTHING_HELD: Final = "no partition is held"
"""The reason against being ready of a member of a group that has more members than the topic has partitions."""


READING: Final = "reading"
POLLING: Final = "polling"
COMMITS: Final = "commits"
DEAD_LETTERS: Final = "dead letters"
TOPIC: Final = "the topic"

SILENT_S: Final = 5.0
"""An answer that takes longer is not to be counted on: a poll waits for a second at most, a commit or a dead letter
takes milliseconds."""

Subject = str | int
"""The subject of a fact: an operation, or a partition of the log."""


class Health(Protocol):
    """Answers for the probes. Each is a list of reasons against it; an empty one means yes."""

    def live(self) -> list[str]:
        """Why this process should be restarted."""

    def ready(self) -> list[str]:
        """Why it does not do its work at this moment."""

    def started(self) -> list[str]:
        """Why it has not begun to work yet. Once empty it stays so."""


class Server(msgspec.Struct, frozen=True):
    """The state of the store or the log in one subject: `fault` says why it is away, None when it answers, since
    `since_s`."""

    fault: str | None
    since_s: float


class PartitionProgress(msgspec.Struct, frozen=True):
    """A partition: its position, its lag in records, and when (monotonic seconds) it last moved or had no lag."""

    next_offset: int
    lag: int
    moved_s: float


class Facts(msgspec.Struct, frozen=True):
    """All that is known: of each server by subject, nothing before its first answer; partitions are those held."""

    store: Mapping[Subject, Server] = {}
    log: Mapping[Subject, Server] = {}
    partitions: Mapping[int, PartitionProgress | None] = {}
    asked: Sequence[tuple[str, Subject, float]] = ()
    """The waits for an answer: of which server, in which subject, since when (monotonic seconds)."""


def heard(before: Server | None, fault: str | None, now_s: float) -> Server:
    """Note that a server answered (`fault` None) or did not."""
    if before is not None and (before.fault is None) == (fault is None):
        return Server(fault, before.since_s)
    return Server(fault, now_s)


def moved(before: PartitionProgress | None, next_offset: int, end: int, now_s: float) -> PartitionProgress:
    """Note that a partition stands at `next_offset` of `end`. Going back is a move too."""
    lag = max(0, end - next_offset)
    if before is None or lag == 0 or before.lag == 0 or next_offset != before.next_offset:
        return PartitionProgress(next_offset, lag, now_s)
    return PartitionProgress(next_offset, lag, before.moved_s)


def live(facts: Facts, now_s: float, stall_s: float) -> list[str]:
    """List one reason per partition that has lag and has not moved for `stall_s`, although the servers that it needs
    answered all that time.

    A failed poll excuses no partition: a single one can make it fail for all.
    """
    reasons = []
    for number, progress in sorted(facts.partitions.items()):
        if progress is None or progress.lag == 0:
            continue
        needed = [*facts.store.values()]
        needed += [one for about, one in facts.log.items() if about == number or about in (READING, DEAD_LETTERS)]
        if any(one.fault is not None for one in needed):
            continue
        still_s = now_s - max([progress.moved_s, *(one.since_s for one in needed)])
        if still_s >= stall_s:
            where = f"offset {progress.next_offset} of partition {number}"
            reasons.append(f"at {where} for {still_s:.0f} s, with {progress.lag} records to read")
    return reasons


def ready(facts: Facts, now_s: float) -> list[str]:
    """List the reasons against being ready: one for each operation that a server does not do, one for each answer that
    is waited for too long, and one when no partition is held."""
    reasons = []
    for name, known in (("store", facts.store), ("log", facts.log)):
        if not known:
            reasons.append(f"the {name} was not reached yet")
        reasons += [f"the {name} is away: {one.fault}" for one in known.values() if one.fault is not None]
    faults = {
        (name, about)
        for name, known in (("store", facts.store), ("log", facts.log))
        for about in known
        if known[about].fault is not None
    }
    for name, about, since_s in facts.asked:
        if now_s - since_s >= SILENT_S and (name, about) not in faults:
            reasons.append(f"the {name} has not answered for {now_s - since_s:.0f} s: {about}")
    if not facts.partitions:
        reasons.append(NOTHING_HELD)
    return list(dict.fromkeys(reasons))
