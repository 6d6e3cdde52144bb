"""Reports: what engines, rebuilds and `verify` tell of themselves, as JSON in Redis beside the read model.

Imports msgspec and the standard library only. Nothing is decided by them: they are for people. Times are epoch
milliseconds.
"""

from collections.abc import Iterable, Iterator
from typing import Literal, TypeVar

import msgspec

T = TypeVar("T")
ReportKind = Literal["engine", "rebuild", "verified"]


class PartitionReport(msgspec.Struct, frozen=True):
    """A partition that an engine holds: what the log has of it, and up to where it is committed."""

    partition: int
    log_begin: int
    next_offset: int
    log_end: int
    lag: int
    freshness_seconds: float
    last_commit: int | None


class RedisReport(msgspec.Struct, frozen=True):
    """Memory and reads of one server of the store, without its address. Counts are since it was started; no
    limit of memory is 0."""

    memory_bytes: int
    memory_max_bytes: int
    evicted_keys: int
    hits: int
    misses: int
    clients: int


class EngineReport(msgspec.Struct, frozen=True):
    """`R:engine:<writer>`: renewed every second, gone 15 s after the last."""

    writer: str
    started: int
    partitions: list[PartitionReport]
    commits: dict[str, int]
    """How many by outcome: applied, duplicate, conflict; refused and unknown, which were sent again."""
    rejected: dict[str, int]
    games_per_second: float
    redis: list[RedisReport] = []
    """None where its user may not ask."""


class RebuildProgress(msgspec.Struct, frozen=True):
    """`R:rebuild:<stream>`: how far a rebuild is; `progress` from 0 to 1. Of all streams the name is `*`."""

    stream: str
    progress: float
    records: int
    records_per_second: float
    seconds_left: float | None


class Verification(msgspec.Struct, frozen=True):
    """`R:verified:<stream>`: what the last `verify` found."""

    stream: str
    time: int
    result: Literal["equal", "differs"]
    version: int
    differences: int


def read(reports: Iterable[bytes], kind: type[T]) -> Iterator[T]:
    """The reports as `kind`; those that cannot be read are left out."""
    for report in reports:
        try:
            yield msgspec.json.decode(report, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
