"""Is the engine alive, is it ready: decisions on what was last seen. No I/O, no clock.

Alive means progress on every partition while there is lag. A server that is away is no reason to be restarted: that
would not bring it back. So time counts as a stall only from when both servers are there; till then the engine is alive,
but not ready.
"""

from typing import Final, Protocol

import msgspec

NOTHING_HELD: Final = "no partition is held"
"""The reason against being ready of a member of a group that has more members than the topic has partitions."""


class Health(Protocol):
    """What the probes ask. Each answer is a list of reasons against it; an empty one means yes."""

    def live(self) -> list[str]:
        """Why this process should be restarted."""

    def ready(self) -> list[str]:
        """Why it does not do its work at this moment."""

    def started(self) -> list[str]:
        """Why it has not begun to work yet. Once empty it stays so."""


class Server(msgspec.Struct, frozen=True):
    """What is known of the store or the log: `fault` says why it is away, None when it answers, since `since_s`."""

    fault: str | None
    since_s: float


class Progress(msgspec.Struct, frozen=True):
    """A partition: its position, its lag in records, and when (monotonic seconds) it last moved or had no lag."""

    next_offset: int
    lag: int
    moved_s: float


class Facts(msgspec.Struct, frozen=True):
    """All that is known. A server is None before its first answer; partitions are those held."""

    store: Server | None = None
    log: Server | None = None
    partitions: dict[int, Progress | None] = {}


def heard(before: Server | None, fault: str | None, now_s: float) -> Server:
    """What is known of a server after it answered (`fault` None) or did not."""
    if before is not None and (before.fault is None) == (fault is None):
        return Server(fault, before.since_s)
    return Server(fault, now_s)


def moved(before: Progress | None, next_offset: int, end: int, now_s: float) -> Progress:
    """What is known of a partition once it stands at `next_offset` of `end`. Going back is a move too."""
    lag = max(0, end - next_offset)
    if before is None or lag == 0 or before.lag == 0 or next_offset != before.next_offset:
        return Progress(next_offset, lag, now_s)
    return Progress(next_offset, lag, before.moved_s)


def live(facts: Facts, now_s: float, stall_s: float) -> list[str]:
    """One reason per partition that has lag and stood still for `stall_s`, with both servers there all that time."""
    servers = [server for server in (facts.store, facts.log) if server is not None]
    if any(server.fault is not None for server in servers):
        return []
    there_s = max((server.since_s for server in servers), default=now_s)
    reasons = []
    for number, progress in sorted(facts.partitions.items()):
        if progress is None or progress.lag == 0:
            continue
        still_s = now_s - max(progress.moved_s, there_s)
        if still_s >= stall_s:
            where = f"offset {progress.next_offset} of partition {number}"
            reasons.append(f"at {where} for {still_s:.0f} s, with {progress.lag} records to read")
    return reasons


def ready(facts: Facts) -> list[str]:
    """A reason for each server that is away or was not heard of, and one when no partition is held."""
    reasons = []
    for name, server in (("store", facts.store), ("log", facts.log)):
        if server is None:
            reasons.append(f"the {name} was not reached yet")
        elif server.fault is not None:
            reasons.append(f"the {name} is away: {server.fault}")
    if not facts.partitions:
        reasons.append(NOTHING_HELD)
    return reasons
