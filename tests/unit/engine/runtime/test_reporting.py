"""What an engine, a rebuild and `verify` tell of themselves."""

from collections.abc import Sequence

import anyio
import msgspec

from crashfold.engine.adapters.memory.clock import MemoryClock
from crashfold.engine.adapters.memory.store import MemoryReports
from crashfold.engine.errors import StoreRefused, StoreUnavailable
from crashfold.engine.meter import Meter, Meters
from crashfold.engine.ports import Applied, Bounds, Conflict, ServerUsage
from crashfold.engine.runtime.rebuild import Progress, RebuildReport, Rebuilt
from crashfold.engine.runtime.reporting import EngineNotes, RebuildNotes, keep_hearing, tell_verified
from crashfold.engine.runtime.verify import Difference, Verified, VerifyReport
from crashfold.schemas.reports import EngineReport, PartitionReport, RebuildProgress, RedisReport, Verification


async def test_an_engine_tells_what_its_meter_heard() -> None:
    clock = MemoryClock()
    notes = EngineNotes("w", clock)
    meter, started_ms = Meters(Meter(), notes), clock.now_ms()
    meter.committed(0.1, [Applied(1), Applied(2), Conflict(None)])
    meter.commit_failed(StoreRefused("full"))
    meter.commit_failed(StoreUnavailable("away"))
    meter.rejected("late")
    meter.moved(3, 77)
    meter.lagging(3, 10, Bounds(2, 15), freshness_s=0.5)
    meter.lagging(4, 1, Bounds(0, 1))
    meter.released(4)
    meter.folded(30, 1, 2)
    used = ServerUsage(
        address="r:6379", memory_bytes=1, memory_max_bytes=2, evicted_keys=3, expired_keys=4, hits=5, misses=6,
        clients=7, commands=8,
    )  # fmt: skip
    meter.store_used([used])
    await clock.sleep(10)
    report = notes.report()
    assert report == EngineReport(
        "w",
        started_ms,
        [PartitionReport(3, 2, 10, 15, 5, 0.5, 77)],
        {"applied": 2, "conflict": 1, "refused": 1, "unknown": 1},
        {"late": 1},
        3.0,
        [RedisReport(1, 2, 3, 5, 6, 7)],
    )
    for _ in range(10):
        await clock.sleep(1)
        report = notes.report()
    assert report.games_per_second == 0.0


async def test_a_rebuild_tells_how_far_it_is_and_of_each_stream_when_it_is_done() -> None:
    clock, reports = MemoryClock(), MemoryReports()
    notes = RebuildNotes(None, clock)
    assert notes.report() == RebuildProgress("*", 0.0, 0, 0.0, None)
    await clock.sleep(2)
    notes.progressed(Progress(50, 200))
    assert notes.report() == RebuildProgress("*", 0.25, 50, 25.0, 6.0)
    done = RebuildReport((Rebuilt("a", 1, 1, 7), Rebuilt("b", 1, 1, None)), 200, 0, 4.0)
    await notes.tell_result(reports, done)
    assert [msgspec.json.decode(told) for told in await reports.told("rebuild")] == [
        {"stream": "a", "progress": 1.0, "records": 200, "records_per_second": 50.0, "seconds_left": 0.0}
    ]


async def test_verify_tells_what_it_found_of_each_stream() -> None:
    clock, reports = MemoryClock(), MemoryReports()
    streams = tuple(Verified(name, 3, 1, 1, 1, 0, 0) for name in ("a", "b"))
    await tell_verified(reports, VerifyReport(streams, (Difference("b", "k", None, "1", "2"),) * 2), clock)
    assert [msgspec.json.decode(told, type=Verification) for told in await reports.told("verified")] == [
        Verification("a", clock.now_ms(), "equal", 3, 0),
        Verification("b", clock.now_ms(), "differs", 3, 2),
    ]


async def test_what_is_told_is_handed_on_but_for_what_cannot_be_read() -> None:
    clock, reports = MemoryClock(), MemoryReports()
    heard: list[tuple[list[Verification], list[RebuildProgress]]] = []
    verified, rebuild = Verification("a", 5, "equal", 3, 0), RebuildProgress("a", 1.0, 9, 2.0, 0.0)
    await reports.tell("verified", {"a": msgspec.json.encode(verified), "b": b"{"})
    await reports.tell("rebuild", {"a": msgspec.json.encode(rebuild)})
    with anyio.CancelScope() as scope:

        def hear(verified: Sequence[Verification], rebuilds: Sequence[RebuildProgress]) -> None:
            heard.append(([*verified], [*rebuilds]))
            reports.expire(60)
            if len(heard) == 2:
                scope.cancel()

        await reports.tell("rebuild", {"a": msgspec.json.encode(rebuild)}, 1)
        await keep_hearing(reports, clock, hear)
    assert heard == [([verified], [rebuild]), ([verified], [])]
