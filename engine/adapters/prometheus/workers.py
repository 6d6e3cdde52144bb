"""Reports of the workers of `run --workers N` to their parent, once a second, and their sum for the parent's port.

Uses prometheus_client. What is always true: every sample of a worker has the label `worker`, and a worker that has
ended, or was not heard for long, is a reason against being alive or ready, never a number that stands still unseen.
"""

import os
from collections.abc import Iterable, Iterator
from typing import Final

import anyio
import anyio.to_thread
import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from crashfold.engine.core.health import NOTHING_HELD, Health
from crashfold.engine.ports import Clock

REPORT_EVERY_S: Final = 1.0
UNHEARD_S: Final = 120.0
"""Longer than the longest step."""
STALE_S: Final = 10.0
"""A report this old says nothing of now: the worker is frozen, or so busy that it does not listen either."""


class Report(msgspec.Struct, frozen=True):
    """A worker's report: its metrics as Prometheus's text, and each probe's reasons against it; `at_s` is its time,
    by the monotonic clock, which the processes of a machine share."""

    at_s: float
    metrics: str
    live: list[str]
    ready: list[str]
    started: list[str]


async def report(health: Health, registry: CollectorRegistry, clock: Clock) -> None:
    """Write a line to standard output every second; return when nobody reads them any more."""
    while True:
        text = generate_latest(registry).decode()
        now_s = clock.monotonic_s()
        line = msgspec.json.encode(Report(now_s, text, health.live(), health.ready(), health.started())) + b"\n"
        try:
            await anyio.to_thread.run_sync(_write, line, abandon_on_cancel=True)
        except OSError:
            return
        await clock.sleep(REPORT_EVERY_S)


class Gathered(Collector):
    """The last report of each of `count` workers, as one `Health` and, in `registry`, as one set of metrics."""

    def __init__(self, count: int, clock: Clock) -> None:
        self._clock = clock
        self._heard_s = dict.fromkeys(range(count), clock.monotonic_s())
        self._reports: dict[int, Report | None] = dict.fromkeys(range(count))
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def heard(self, worker: int, line: bytes) -> bool:
        """The worker has reported: whether it has been at work, or had nothing left to do."""
        one = self._reports[worker] = msgspec.json.decode(line, type=Report)
        self._heard_s[worker] = one.at_s
        return set(one.started) <= {NOTHING_HELD}

    def lost(self, worker: int) -> None:
        """The worker has ended: what it held is no longer so."""
        self._reports[worker] = None

    def live(self) -> list[str]:
        """Why this process, and its workers with it, should be restarted."""
        unheard = [
            f"worker {worker} was not heard for {unheard_s:.0f} s"
            for worker, heard_s in self._heard_s.items()
            if (unheard_s := self._clock.monotonic_s() - heard_s) > UNHEARD_S
        ]
        return unheard + [reason for worker, one in self._known() for reason in _of(worker, one.live)]

    def ready(self) -> list[str]:
        """Why they do not do their work at this moment. There may be more workers than partitions: it is enough that
        one of them holds some."""
        return self._against({worker: one.ready for worker, one in self._known()})

    def started(self) -> list[str]:
        """Why they were never ready so far."""
        return self._against({worker: one.started for worker, one in self._known()})

    def collect(self) -> Iterator[Metric]:
        """Every metric of every worker, with the worker's number."""
        merged: dict[str, Metric] = {}
        for worker, one in self._known():
            for family in text_string_to_metric_families(one.metrics):
                known = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    known.samples.append(sample._replace(labels={**sample.labels, "worker": str(worker)}))
        yield from merged.values()

    def _known(self) -> Iterable[tuple[int, Report]]:
        return [(worker, one) for worker, one in self._reports.items() if one is not None]

    def _against(self, reasons: dict[int, list[str]]) -> list[str]:
        now_s = self._clock.monotonic_s()
        missing = [f"worker {worker} does not run" for worker, one in self._reports.items() if one is None]
        missing += [
            f"worker {worker} was not heard for {now_s - one.at_s:.0f} s"
            for worker, one in self._known()
            if now_s - one.at_s > STALE_S
        ]
        faults = [
            fault for worker, some in reasons.items() for fault in _of(worker, [r for r in some if r != NOTHING_HELD])
        ]
        if missing or faults:
            return missing + faults
        return [NOTHING_HELD] if all(reasons.values()) else []


def _of(worker: int, reasons: Iterable[str]) -> list[str]:
    return [f"worker {worker}: {reason}" for reason in reasons]


def _write(line: bytes) -> None:
    while line:
        line = line[os.write(1, line) :]
