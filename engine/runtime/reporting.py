"""Reporting: what this engine, rebuild or `verify` tells of itself, for whoever looks from elsewhere.

Imports the ports, the meter's facts and schemas. What is always true: a report that cannot be told is lost, and holds
nothing up.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from logging import DEBUG, WARNING
from typing import Final

import anyio
import msgspec
import structlog

from crashfold.engine.errors import CrashfoldError, StoreUnavailable, Unavailable
from crashfold.engine.meter import Meter
from crashfold.engine.ports import Bounds, Clock, Outcome, Reports, ServerUsage
from crashfold.engine.runtime.rebuild import Progress, RebuildReport
from crashfold.engine.runtime.verify import VerifyReport
from crashfold.schemas.reports import (
    EngineReport,
    PartitionReport,
    RebuildProgress,
    RedisReport,
    ReportKind,
    Verification,
    read,
)

TELL_EVERY_S: Final = 1.0
HEAR_EVERY_S: Final = 5.0
TELL_DEADLINE_S: Final = 5.0
TTL_S: Final = 15
REBUILT_TTL_S: Final = 24 * 3600
"""How long the result of a rebuild is shown."""
RATE_S: Final = 5
"""Over how many reports the rate of games is taken."""
ALL_STREAMS: Final = "*"
"""The name under which a rebuild of all streams is told."""

Heard = Callable[[Sequence[Verification], Sequence[RebuildProgress]], None]

log = structlog.get_logger()


class EngineNotes(Meter):
    """A meter that remembers what the engine's report says. `writer` names the engine in its commits."""

    def __init__(self, writer: str, clock: Clock) -> None:
        self._writer = writer
        self._clock = clock
        self._started_ms = clock.now_ms()
        self._partitions: dict[int, PartitionReport] = {}
        self._moved_ms: dict[int, int] = {}
        self._commits: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._redis: list[RedisReport] = []
        self._games = 0
        self._looks: deque[tuple[float, int]] = deque([(clock.monotonic_s(), 0)], maxlen=RATE_S + 1)

    def folded(self, accepted: int, duplicates: int, late: int) -> None:
        """See `Meter`."""
        self._games += accepted

    def committed(self, duration_s: float, outcomes: Sequence[Outcome]) -> None:
        """See `Meter`."""
        self._commits.update(type(outcome).__name__.lower() for outcome in outcomes)

    def commit_failed(self, error: Unavailable) -> None:
        """See `Meter`."""
        self._commits["unknown" if isinstance(error, StoreUnavailable) else "refused"] += 1

    def moved(self, partition: int, now_ms: int) -> None:
        """See `Meter`."""
        self._moved_ms[partition] = now_ms

    def rejected(self, reason: str, count: int = 1) -> None:
        """See `Meter`."""
        self._rejected[reason] += count

    def lagging(self, partition: int, next_offset: int, bounds: Bounds, freshness_s: float = 0.0) -> None:
        """See `Meter`."""
        lag = max(0, bounds.end - next_offset)
        self._partitions[partition] = PartitionReport(
            partition, bounds.begin, next_offset, bounds.end, lag, freshness_s, self._moved_ms.get(partition)
        )

    def released(self, partition: int) -> None:
        """See `Meter`."""
        self._partitions.pop(partition, None)
        self._moved_ms.pop(partition, None)

    def store_used(self, servers: Sequence[ServerUsage]) -> None:
        """See `Meter`."""
        self._redis = [
            RedisReport(
                one.memory_bytes,
                one.memory_max_bytes,
                one.evicted_keys,
                one.hits,
                one.misses,
                one.clients,
            )
            for one in servers
        ]

    def report(self) -> EngineReport:
        """Return the report. Called once a report: the rate of games is that since some reports ago."""
        now_s = self._clock.monotonic_s()
        then_s, games = self._looks[0]
        self._looks.append((now_s, self._games))
        rate = (self._games - games) / (now_s - then_s) if now_s > then_s else 0.0
        partitions = [self._partitions[number] for number in sorted(self._partitions)]
        return EngineReport(
            self._writer,
            self._started_ms,
            partitions,
            dict(self._commits),
            dict(self._rejected),
            round(rate, 3),
            self._redis,
        )

    async def keep_telling(self, reports: Reports) -> None:
        """Tell it every second, until cancelled."""
        while True:
            report = self.report()
            await _tell(reports, "engine", {self._writer: msgspec.json.encode(report)}, TTL_S)
            await self._clock.sleep(TELL_EVERY_S)


class RebuildNotes:
    """Reports of a rebuild; `stream` is None for all."""

    def __init__(self, stream: str | None, clock: Clock) -> None:
        self._stream = stream or ALL_STREAMS
        self._clock = clock
        self._began_s = clock.monotonic_s()
        self._now = Progress(0, 0)

    def progressed(self, progress: Progress) -> None:
        """Note how far it is."""
        self._now = progress

    def report(self) -> RebuildProgress:
        """Return the report."""
        done, total = self._now.records, self._now.records_total
        rate = done / max(self._clock.monotonic_s() - self._began_s, 1e-9)
        left_s = (total - done) / rate if rate else None
        return RebuildProgress(self._stream, done / total if total else 0.0, done, round(rate, 3), left_s)

    async def keep_telling(self, reports: Reports) -> None:
        """Tell it every second, until cancelled."""
        while True:
            await _tell(reports, "rebuild", {self._stream: msgspec.json.encode(self.report())}, TTL_S)
            await self._clock.sleep(TELL_EVERY_S)

    async def tell_result(self, reports: Reports, result: RebuildReport) -> None:
        """Tell of every stream that it is done."""
        rate = round(result.records / max(result.duration_s, 1e-9), 3)
        done = {
            one.stream: msgspec.json.encode(RebuildProgress(one.stream, 1.0, result.records, rate, 0.0))
            for one in result.streams
            if one.version is not None
        }
        await _tell(reports, "rebuild", done, REBUILT_TTL_S, is_last=True)


async def tell_verified(reports: Reports, result: VerifyReport, clock: Clock) -> None:
    """Tell what `verify` found of every stream."""
    differences = Counter(difference.stream for difference in result.differences)
    found = {
        one.stream: msgspec.json.encode(
            Verification(
                one.stream,
                clock.now_ms(),
                "differs" if differences[one.stream] else "equal",
                one.version,
                differences[one.stream],
            )
        )
        for one in result.streams
    }
    await _tell(reports, "verified", found, None, is_last=True)


async def keep_hearing(reports: Reports, clock: Clock, heard: Heard) -> None:
    """Hand on what `verify` and rebuilds have told, every five seconds, until cancelled. Nothing is handed on while the
    store does not answer."""
    while True:
        with anyio.move_on_after(TELL_DEADLINE_S):
            try:
                verified = [*read(await reports.told("verified"), Verification)]
                heard(verified, [*read(await reports.told("rebuild"), RebuildProgress)])
            except CrashfoldError as error:
                log.debug("reports_not_heard", fault=str(error))
        await clock.sleep(HEAR_EVERY_S)


async def _tell(
    reports: Reports, kind: ReportKind, told: dict[str, bytes], ttl_s: int | None, *, is_last: bool = False
) -> None:
    """Tell it if that can be done in time. The last report of a command is missed by somebody: a warning says so."""
    if not told:
        return
    with anyio.move_on_after(TELL_DEADLINE_S):
        try:
            await reports.tell(kind, told, ttl_s)
        except CrashfoldError as error:
            log.log(WARNING if is_last else DEBUG, "report_not_told", kind=kind, fault=str(error))
