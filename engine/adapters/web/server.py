"""uvicorn, as the read side uses it: one socket a process, several processes on one port, an end that is in time.

What is always true: SIGTERM and SIGINT end it in order, a second one at once, and it is gone after `stop_s` whatever
its clients do. Uses uvicorn, which brings asyncio along.
"""

import contextlib
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import anyio
import structlog
import uvicorn

from crashfold.engine.errors import ConfigurationError, CrashfoldError

BACKLOG: Final = 2048
KEEP_ALIVE_S: Final = 30
FILES_MAX: Final = 65_536
RESTART_S: Final = 1.0
TOLD_BY: Final = (signal.SIGTERM, signal.SIGINT)
"""The signals that end the workers."""

log = structlog.get_logger()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to `serve_app`."""
        yield


def reserve(host: str, port: int) -> socket.socket:
    """A socket bound to the address, which does not listen, so that several processes may; port 0 is any free one.

    Raises ConfigurationError when the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        reserved = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigurationError(f"api.host: {host} is no address of this machine: {error.strerror}") from None
    try:
        _share_port(reserved)
        with socket.socket(family, kind, protocol) as probe:  # sharing a port would hide that another server has it
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
            address = (address[0], probe.getsockname()[1], *address[2:])
        reserved.bind(address)
    except OSError as error:
        reserved.close()
        raise ConfigurationError(
            f"api.host and api.port: cannot listen on {host}:{port}: {error.strerror}. "
            "Is another server running? Set api.port to a free port, or to 0 for any"
        ) from None
    return reserved


def allow_many_files() -> int:
    """Let this process and its children open as many files as the system allows: each client takes one, and many
    systems begin with 1,024. How many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(soft, wanted)


async def serve_app(
    app: Callable[..., Any],
    reserved: socket.socket,
    *,
    stop_s: float,
    stopping: Callable[[], None],
    options: Mapping[str, Any],
) -> None:
    """Serve on the reserved address until SIGTERM or SIGINT; then call `stopping`, and finish within `stop_s`.

    `options` go to uvicorn before those of this module.
    """
    listener = socket.socket(reserved.family, reserved.type, reserved.proto)
    _share_port(listener)
    listener.bind(reserved.getsockname())
    ours: dict[str, Any] = {
        "lifespan": "off",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "backlog": BACKLOG,
        "timeout_keep_alive": KEEP_ALIVE_S,
        "timeout_graceful_shutdown": max(1, int(stop_s) - 3),
    }
    config = uvicorn.Config(app, **{**ours, **options})
    server = _Server(config)
    async with anyio.create_task_group() as tasks:

        async def until_told() -> None:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                told = 0
                async for _ in signals:
                    told += 1
                    if told > 1:
                        os._exit(1)
                    stopping()
                    server.should_exit = True
                    tasks.cancel_scope.deadline = anyio.current_time() + stop_s

        tasks.start_soon(until_told)
        with listener:
            await server.serve([listener])
        tasks.cancel_scope.cancel()


def run_workers(workers: int, work: Callable[[int], None]) -> None:
    """Run `work(number)` in so many processes until SIGTERM or SIGINT, which is passed on to them.

    One that ends by itself is started again, unless it would end again: because its exit code says so (78), or because
    it ended in its first second. Then all are ended, and ConfigurationError or CrashfoldError is raised. Workers end
    with this process, also when it is killed.
    """
    supervisor = _Supervisor(work)
    for signal_number in TOLD_BY:
        signal.signal(signal_number, supervisor.told)
    for number in range(workers):
        supervisor.start(number)
    supervisor.watch()


class _Supervisor:
    """The parent of the workers. Blocks in `watch`; no event loop, no thread, so that forking is safe."""

    def __init__(self, work: Callable[[int], None]) -> None:
        self._work = work
        self._running: dict[int, tuple[int, float]] = {}
        self._parent_ended, self._parent_lives = os.pipe()
        """Nothing is written: the reading end has its end of file when the parent, which alone keeps the other, is
        gone."""
        self._stopping = False
        self._failed = False
        self._refused = False

    def start(self, number: int) -> None:
        """Start worker `number`, unless a signal has come.

        Signals wait meanwhile. Otherwise one that comes between the fork and the next line would miss the new worker in
        the parent, and would be taken for the parent's in the worker, which then would not end.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, TOLD_BY)
        if self._stopping:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, TOLD_BY)
            return
        started_s = _now_s()
        _flush()
        pid = os.fork()
        if pid:
            self._running[pid] = (number, started_s)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, TOLD_BY)
            return
        code = 1
        try:
            for signal_number in TOLD_BY:
                signal.signal(signal_number, lambda *_: os._exit(0))  # nothing has begun; the server takes them over
            signal.pthread_sigmask(signal.SIG_UNBLOCK, TOLD_BY)
            os.close(self._parent_lives)
            threading.Thread(target=self._end_with_parent, daemon=True).start()
            self._work(number)
            code = 0
        except CrashfoldError as error:
            log.error("worker_failed", worker=number, error=str(error))
            code = error.exit_code
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            _flush()
            os._exit(code)

    def _end_with_parent(self) -> None:
        """In a worker: a parent that is gone is as a SIGTERM from it."""
        os.read(self._parent_ended, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    def told(self, signal_number: int, _frame: object) -> None:
        """A signal came: pass it on."""
        self._stopping = True
        for pid in list(self._running):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal_number)

    def watch(self) -> None:
        """Return when all workers have ended."""
        while self._running:
            pid, status = os.wait()
            number, started_s = self._running.pop(pid, (0, 0.0))
            code = os.waitstatus_to_exitcode(status)
            if self._stopping:
                # One that was still starting ends by the signal itself.
                self._failed |= code not in (0, -signal.SIGTERM, -signal.SIGINT)
            elif code == ConfigurationError.exit_code or _now_s() - started_s < RESTART_S:
                self._refused = code == ConfigurationError.exit_code
                self._failed = True
                self.told(signal.SIGTERM, None)
            else:
                log.error("worker_ended", worker=number, code=code)
                self.start(number)
        if self._refused:
            raise ConfigurationError("a worker was refused; what it said stands above")
        if self._failed:
            raise CrashfoldError("a worker failed; what it said stands above")


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()


def _share_port(listener: socket.socket) -> None:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _now_s() -> float:
    return os.times().elapsed
