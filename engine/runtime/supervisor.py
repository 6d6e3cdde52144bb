"""The supervisor of the service: one task group, signals, observation, and a stop that loses nothing.

Nothing here touches state. What is always true: whatever fails, or however often a signal comes, Redis holds a state
and the offset it stands for.
"""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio
import structlog
from anyio.abc import TaskStatus

from crashfold.engine.core.health import TOPIC
from crashfold.engine.errors import ConfigurationError, CrashfoldError, Unavailable
from crashfold.engine.meter import Meter
from crashfold.engine.ports import Bounds, Clock, EventLog, StoreUsage
from crashfold.engine.runtime.health import HealthBoard
from crashfold.engine.runtime.retry import Retry
from crashfold.engine.runtime.service import Service
from crashfold.engine.runtime.tasks import task_group

OBSERVE_EVERY_S: Final = 1.0
REPORT_EVERY_S: Final = 5.0
SERVER_DEADLINE_S: Final = 5.0
WATCH_STORE_EVERY_S: Final = 10.0
MEASURE_STREAMS_EVERY_S: Final = 60.0
STREAMS_MEASURED_MAX: Final = 20
"""Streams whose memory is measured each time, those used last: some 220 questions each."""
BOUNDS_AT_ONCE: Final = 50
"""Partitions that are asked about together: a fetch and two lists of offsets each."""
OTHERS_HOLD_ALL_S: Final = 30.0
"""A member of a group that was given no partition for so long will not be given one: longer than a group that lost a
member needs to settle."""

log = structlog.get_logger()


class Supervisor:
    """Runs a service until it is told to stop, or, `until_caught_up`, until it has committed what stood on its
    partitions when it began.

    `event_log` is entered here; `usage` is measured when it is given. `shutdown_timeout_s` is how long a stop may take
    in all: half of it for the step under way, a quarter for what a restart will want to know, a quarter for leaving the
    log.
    """

    def __init__(
        self,
        service: Service,
        event_log: EventLog,
        *,
        clock: Clock,
        meter: Meter,
        health: HealthBoard,
        usage: StoreUsage | None = None,
        until_caught_up: bool = False,
        shutdown_timeout_s: float = 8.0,
    ) -> None:
        self._usage = usage
        self._service = service
        self._log = event_log
        self._clock = clock
        self._meter = meter
        self._health = health
        self._retry = Retry(clock, health)
        self._until_caught_up = until_caught_up
        self._shutdown_timeout_s = shutdown_timeout_s
        self._targets: dict[int, int] = {}
        self._stopping = False
        self._entering = anyio.CancelScope()
        self._line = anyio.CancelScope()

    async def run(self) -> None:
        """Run; returns when stopped, in good order or after the deadline. Raises what the line raises."""
        async with task_group() as tasks:
            await tasks.start(self._watch_signals)
            async with self._entered():
                tasks.start_soon(self._observe)
                tasks.start_soon(self._report)
                if self._usage is not None:
                    tasks.start_soon(self._watch_store, self._usage)
                await self._run_line()
            tasks.cancel_scope.cancel()

    def stop(self) -> None:
        """Finish the step under way, and end; cut it off when it takes too long."""
        self._stopping = True
        self._entering.cancel()
        self._line.deadline = min(self._line.deadline, anyio.current_time() + self._shutdown_timeout_s / 2)

    @asynccontextmanager
    async def _entered(self) -> AsyncIterator[None]:
        """The log, entered as soon as it can be, and left in the end, whatever state it is in."""

        entered = False
        with self._entering:
            await self._retry.with_log(self._log.__aenter__)
            entered = True
        try:
            yield
        finally:
            if entered:
                with anyio.move_on_after(self._shutdown_timeout_s / 4, shield=True):
                    await self._log.__aexit__(None, None, None)

    async def _run_line(self) -> None:
        log.info("engine_started", topic=self._log.topic)
        try:
            with self._line:
                await self._service.refuse_other_settings()
                idle_since_s = self._clock.monotonic_s()
                while not self._stopping:
                    await self._service.step()
                    if self._service.next_offsets:
                        idle_since_s = self._clock.monotonic_s()
                    if self._until_caught_up and await self._is_done(idle_since_s):
                        break
                await self._service.settle()
        finally:
            with anyio.move_on_after(self._shutdown_timeout_s / 4, shield=True):
                await self._service.close()
                await self._tell_log()
        log.info("engine_stopped", next_offsets=self._service.next_offsets)

    async def _is_done(self, idle_since_s: float) -> bool:
        """Whether everything is committed that stood on the partitions held when each of them was first seen.

        Partitions that others hold are theirs to catch up with; when they hold all of them, nothing is left to do here.
        """
        positions = self._service.next_offsets
        try:
            for number in positions.keys() - self._targets.keys():
                self._targets[number] = (await self._log.bounds(number)).end
            if not positions and not await self._log.partitions():
                raise ConfigurationError(
                    f"there is no topic {self._log.topic} to catch up with: create it, or mend kafka.topic"
                )
        except Unavailable:
            return False
        if not positions:
            idle = self._clock.monotonic_s() - idle_since_s >= OTHERS_HOLD_ALL_S
            if idle:
                log.info("others_hold_all_partitions", topic=self._log.topic)
            return idle
        return all(position >= self._targets[number] for number, position in positions.items())

    async def _watch_signals(self, *, task_status: TaskStatus[None]) -> None:
        """The first signal ends the line after the step under way, or after a deadline; the second ends the process."""
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for received in signals:
                if self._stopping:
                    os._exit(128 + received)
                log.info("stopping", signal=signal.Signals(received).name)
                self.stop()

    async def _observe(self) -> None:
        """Measure lag and whether the log answers, and how late this loop runs. The service looks after the store."""
        while True:
            due_s = self._clock.monotonic_s() + OBSERVE_EVERY_S
            await self._clock.sleep(OBSERVE_EVERY_S)
            self._meter.loop_lagged(max(0.0, self._clock.monotonic_s() - due_s))
            await self._measure_lag()

    async def _measure_lag(self) -> None:
        """Ask for the bounds of every partition held, each for itself: one that does not answer says nothing of the
        next."""
        numbers = list(self._service.next_offsets)
        if not numbers:
            await self._look_for_topic()
        for start in range(0, len(numbers), BOUNDS_AT_ONCE):
            async with task_group() as tasks:
                for number in numbers[start : start + BOUNDS_AT_ONCE]:
                    tasks.start_soon(self._measure, number)

    async def _measure(self, number: int) -> None:
        try:
            with anyio.fail_after(SERVER_DEADLINE_S):
                bounds: Bounds = await self._log.bounds(number)
        except (Unavailable, TimeoutError) as error:
            if number in self._service.next_offsets:
                self._health.log_down(str(error) or f"no answer for partition {number}", number)
            return
        next_offset = self._service.next_offsets.get(number)
        if next_offset is not None:
            self._health.log_ok(number)
            self._health.progress(number, next_offset, bounds.end)
            self._meter.lagging(number, next_offset, bounds, self._freshness_s(number))

    async def _look_for_topic(self) -> None:
        """While no partition is held: is that because there is none, or because nobody answers?"""
        try:
            with anyio.fail_after(SERVER_DEADLINE_S):
                found = await self._log.partitions()
        except (Unavailable, TimeoutError) as error:
            self._health.log_down(str(error) or "the log does not answer", TOPIC)
            return
        if found:
            self._health.log_ok(TOPIC)
        else:
            self._health.log_down(f"there is no topic {self._log.topic}", TOPIC)

    def _freshness_s(self, number: int) -> float:
        """Seconds since the last record that was committed was written to the log."""
        mark = self._service.marks.get(number)
        return 0.0 if mark is None else max(0.0, (self._clock.now_ms() - mark.timestamp_ms) / 1000)

    async def _watch_store(self, usage: StoreUsage) -> None:
        """Measure what the store's servers and the streams in memory take; nothing depends on the answers."""
        streams_due_s = 0.0
        while True:
            try:
                with anyio.move_on_after(SERVER_DEADLINE_S):
                    self._meter.store_used(await usage.servers())
                    if self._service.streams and self._clock.monotonic_s() >= streams_due_s:
                        streams_due_s = self._clock.monotonic_s() + MEASURE_STREAMS_EVERY_S
                        await self._measure_streams(usage)
            except CrashfoldError as error:
                log.debug("store_usage_unknown", error=str(error))
            await self._clock.sleep(WATCH_STORE_EVERY_S)

    async def _measure_streams(self, usage: StoreUsage) -> None:
        for stream in self._service.streams[-STREAMS_MEASURED_MAX:]:
            memory_bytes = await usage.stream_bytes(stream)
            if memory_bytes is None:
                return
            self._meter.stream_takes(stream, memory_bytes)

    async def _report(self) -> None:
        while True:
            await self._clock.sleep(REPORT_EVERY_S)
            await self._tell_log()

    async def _tell_log(self) -> None:
        with anyio.move_on_after(SERVER_DEADLINE_S):
            try:
                await self._log.report(self._service.next_offsets)
            except Unavailable as error:
                log.debug("report_failed", error=str(error))
