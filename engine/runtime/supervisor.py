"""The service around the line: one task group, signals, observation, and a stop that loses nothing.

Nothing here touches state. What is always true: whatever fails, or however often a signal comes, Redis holds a state
and the offset it stands for.
"""

import os
import signal
from typing import Final

import anyio
import structlog

from engine.core.facts import Bounds
from engine.errors import Unavailable
from engine.meter import Meter
from engine.ports import Clock, EventLog
from engine.runtime.health import HealthBoard
from engine.runtime.processor import Processor

OBSERVE_EVERY_S: Final = 1.0
REPORT_EVERY_S: Final = 5.0
SERVER_DEADLINE_S: Final = 5.0

log = structlog.get_logger()


class Supervisor:
    """Runs a processor until it is told to stop, or, `until_caught_up`, until it has committed what stood on the topic
    when it began."""

    def __init__(
        self,
        processor: Processor,
        event_log: EventLog,
        *,
        clock: Clock,
        meter: Meter,
        health: HealthBoard,
        until_caught_up: bool = False,
        shutdown_timeout_s: float = 8.0,
    ) -> None:
        self._processor = processor
        self._log = event_log
        self._clock = clock
        self._meter = meter
        self._health = health
        self._until_caught_up = until_caught_up
        self._shutdown_timeout_s = shutdown_timeout_s
        self._targets: dict[int, int] = {}
        self._stopping = anyio.Event()
        self._line = anyio.CancelScope()

    async def run(self) -> None:
        """Run; returns when stopped in good order. Raises what the line raises."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_signals)
            tasks.start_soon(self._observe)
            tasks.start_soon(self._report)
            await self._run_line()
            tasks.cancel_scope.cancel()

    def stop(self) -> None:
        """Finish the step under way, and end."""
        self._stopping.set()

    async def _run_line(self) -> None:
        log.info("engine_started", topic=self._log.topic)
        with self._line:
            while not self._stopping.is_set():
                taken = await self._processor.step()
                if self._until_caught_up and not taken and await self._caught_up():
                    break
        with anyio.move_on_after(SERVER_DEADLINE_S, shield=True):
            await self._processor.close()
            await self._tell_log()
        log.info("engine_stopped", next_offsets=self._processor.next_offsets)

    async def _caught_up(self) -> bool:
        """Whether everything is committed that stood on the topic when this was asked first."""
        positions = self._processor.next_offsets
        if not positions:
            return False
        for number in positions.keys() - self._targets.keys():
            self._targets[number] = (await self._log.bounds(number)).end
        return all(position >= self._targets[number] for number, position in positions.items())

    async def _watch_signals(self) -> None:
        """The first signal ends the line after the step under way, or after a deadline; the second ends the process."""
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for received in signals:
                if self._stopping.is_set():
                    os._exit(128 + received)
                log.info("stopping", signal=signal.Signals(received).name)
                self._stopping.set()
                self._line.deadline = anyio.current_time() + self._shutdown_timeout_s

    async def _observe(self) -> None:
        """Measure lag and whether the servers answer, and how late this loop runs."""
        while True:
            due_s = self._clock.monotonic_s() + OBSERVE_EVERY_S
            await self._clock.sleep(OBSERVE_EVERY_S)
            self._meter.loop_lagged(max(0.0, self._clock.monotonic_s() - due_s))
            await self._measure_lag()

    async def _measure_lag(self) -> None:
        for number in list(self._processor.next_offsets):
            try:
                with anyio.fail_after(SERVER_DEADLINE_S):
                    bounds: Bounds = await self._log.bounds(number)
            except (Unavailable, TimeoutError) as error:
                self._health.log_down(str(error) or "the log does not answer")
                return
            self._health.log_ok()
            next_offset = self._processor.next_offsets.get(number)
            if next_offset is not None:
                lag = max(0, bounds.end - next_offset)
                self._health.progress(number, next_offset, bounds.end)
                self._meter.lagging(number, lag, self._freshness_s(number) if lag else 0.0)

    def _freshness_s(self, number: int) -> float:
        """Seconds since the last record that was read was written to the log."""
        mark = self._processor.marks.get(number)
        return 0.0 if mark is None else max(0.0, (self._clock.now_ms() - mark.timestamp_ms) / 1000)

    async def _report(self) -> None:
        while True:
            await self._clock.sleep(REPORT_EVERY_S)
            await self._tell_log()

    async def _tell_log(self) -> None:
        with anyio.move_on_after(SERVER_DEADLINE_S):
            try:
                await self._log.report(self._processor.next_offsets)
            except Unavailable as error:
                log.debug("report_failed", error=str(error))
