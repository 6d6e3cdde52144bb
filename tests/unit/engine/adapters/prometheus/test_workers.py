"""What a parent makes of its workers' reports."""

import msgspec
import pytest

from crashfold.engine.adapters.memory.clock import MemoryClock
from crashfold.engine.adapters.prometheus.workers import STALE_S, UNHEARD_S, Gathered, Report
from crashfold.engine.core.health import NOTHING_HELD


@pytest.fixture
def clock() -> MemoryClock:
    return MemoryClock()


def line(at_s: float, ready: tuple[str, ...] = ()) -> bytes:
    return msgspec.json.encode(Report(at_s, "", [], list(ready), []))


async def test_a_worker_that_is_frozen_is_not_ready_long_before_it_is_dead(clock: MemoryClock) -> None:
    gathered = Gathered(2, clock)
    for worker in (0, 1):
        gathered.heard(worker, line(clock.monotonic_s()))
    assert gathered.ready() == []
    await clock.sleep(STALE_S + 1)
    gathered.heard(0, line(clock.monotonic_s()))
    assert gathered.ready() == [f"worker 1 was not heard for {STALE_S + 1:.0f} s"]
    assert gathered.live() == []
    await clock.sleep(UNHEARD_S + 1)
    assert len(gathered.live()) == 2


async def test_a_report_counts_from_when_it_was_made_not_from_when_it_was_read(clock: MemoryClock) -> None:
    gathered, old = Gathered(1, clock), line(clock.monotonic_s())
    await clock.sleep(STALE_S + 1)
    gathered.heard(0, old)
    assert gathered.ready() != []
    gathered.heard(0, line(clock.monotonic_s()))
    assert gathered.ready() == []


async def test_a_worker_without_a_partition_is_as_ready_as_the_rest_but_not_when_it_is_frozen(
    clock: MemoryClock,
) -> None:
    gathered = Gathered(2, clock)
    gathered.heard(0, line(clock.monotonic_s(), (NOTHING_HELD,)))
    gathered.heard(1, line(clock.monotonic_s()))
    assert gathered.ready() == []
    await clock.sleep(STALE_S + 1)
    gathered.heard(1, line(clock.monotonic_s()))
    assert len(gathered.ready()) == 1
