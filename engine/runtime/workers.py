"""Several engine processes of one machine under one parent, which starts them, hears them, and ends with them.

Imports anyio and the engine's errors. Nothing here touches state: the workers are members of one consumer group and
need nothing of each other, so the parent is only there to have one process to start, to ask and to stop. A worker
outlives its parent by a second: it ends when nobody reads its reports any more.
"""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from subprocess import DEVNULL
from typing import Final

import anyio
import structlog
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from crashfold.engine.errors import ConfigurationError, CrashfoldError
from crashfold.engine.ports import Clock
from crashfold.engine.runtime.tasks import task_group

RESTART_S: Final = 1.0
LEAVE_S: Final = 1.0
"""How much longer than a worker itself the parent waits for its end."""
REPORT_BYTES_MAX: Final = 16 * 1024 * 1024

log = structlog.get_logger()


class Workers:
    """Runs `command(number)` in `count` processes, with `environment` or this one's, until all have ended.

    `heard` is told each line that one prints, and says whether it has been at work; `lost` is told when one ends.

    A worker that ends with 0 has done its work. One that ends otherwise is started again, unless it would end again:
    because its exit code says so (78), or because it was never at work. Then all are ended.
    """

    def __init__(
        self,
        count: int,
        command: Callable[[int], Sequence[str]],
        *,
        clock: Clock,
        heard: Callable[[int, bytes], bool],
        lost: Callable[[int], None],
        shutdown_timeout_s: float,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._environment = environment
        self._count = count
        self._command = command
        self._clock = clock
        self._heard = heard
        self._lost = lost
        self._shutdown_timeout_s = shutdown_timeout_s
        self._running: dict[int, Process] = {}
        self._worked: dict[int, bool] = {}
        self._stopping = anyio.Event()
        self._code = 0

    async def run(self) -> int:
        """The exit code: 0 when every worker ended with 0, else the first other one."""
        async with task_group() as tasks:
            tasks.start_soon(self._watch_signals)
            async with task_group() as workers:
                for number in range(self._count):
                    workers.start_soon(self._keep, number)
            tasks.cancel_scope.cancel()
        return self._code

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """Ask every worker to end; those that do not are killed."""
        self._stopping.set()
        for process in self._running.values():
            _send(process, signal_number)

    async def _keep(self, number: int) -> None:
        """One worker, started again when it has to be."""
        while not self._stopping.is_set():
            self._worked[number] = False
            code = await self._run_one(number)
            self._lost(number)
            if code == -signal.SIGTERM and self._stopping.is_set():
                return  # it was told before it could listen, and had nothing to lose
            if code == 0 or self._stopping.is_set():
                self._code = self._code or code
                return
            log.error("worker_ended", worker=number, code=code)
            if code == ConfigurationError.exit_code or not self._worked[number]:
                self._code = self._code or (code if code > 0 else CrashfoldError.exit_code)
                self.stop()
                return
            await self._clock.sleep(RESTART_S)

    async def _run_one(self, number: int) -> int:
        """The exit code of the worker, once it has ended."""
        process = await anyio.open_process(
            self._command(number),
            stdin=DEVNULL,
            stderr=None,
            env=self._environment,
            start_new_session=True,  # Ctrl-C in a terminal is for the parent, which passes it on
        )
        self._running[number] = process
        log.info("worker_started", worker=number, pid=process.pid)
        if self._stopping.is_set():
            _send(process, signal.SIGTERM)
        try:
            async with task_group() as tasks:
                tasks.start_soon(self._kill_when_late, process)
                await self._listen(number, process)
                code = await process.wait()
                tasks.cancel_scope.cancel()
        finally:
            del self._running[number]
            if process.returncode is None:
                process.kill()
            with anyio.CancelScope(shield=True):
                await process.aclose()
        return code

    async def _listen(self, number: int, process: Process) -> None:
        assert process.stdout is not None
        lines = BufferedByteReceiveStream(process.stdout)
        while True:
            try:
                line = await lines.receive_until(b"\n", REPORT_BYTES_MAX)
                self._worked[number] |= self._heard(number, line)
            except (anyio.EndOfStream, anyio.IncompleteRead, anyio.ClosedResourceError, anyio.BrokenResourceError):
                return

    async def _kill_when_late(self, process: Process) -> None:
        await self._stopping.wait()
        await self._clock.sleep(self._shutdown_timeout_s + LEAVE_S)
        log.error("worker_killed", pid=process.pid)
        process.kill()

    async def _watch_signals(self) -> None:
        """The first signal is passed on; the second ends all processes at once."""
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for received in signals:
                if self._stopping.is_set():
                    for process in self._running.values():
                        _send(process, signal.SIGKILL)
                    os._exit(128 + received)
                log.info("stopping", signal=signal.Signals(received).name)
                self.stop()


def _send(process: Process, signal_number: int) -> None:
    if process.returncode is None:
        process.send_signal(signal.Signals(signal_number))
