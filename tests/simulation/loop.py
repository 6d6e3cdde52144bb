"""The simulated event loop: virtual time, simulated processes, no sockets, no threads.

Imports the standard library and anyio. What is always true: which callback runs next follows from the seed alone, and
time passes only when nothing else can happen. So a schedule of a minute takes some milliseconds, and anyio's scopes,
deadlines and task groups work as they are.

Callbacks of one process run in the order in which they were asked for, as on every event loop; processes take turns at
random, as on a machine. A process that is frozen (SIGSTOP) gets no turn until it goes on.
"""

import asyncio
import contextvars
import heapq
import signal
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Final, TypeVar

import anyio.lowlevel
import anyio.to_thread
from anyio._backends import _asyncio as backend

T = TypeVar("T")

CALLBACKS_MAX: Final = 1_000_000
"""More than any schedule needs: who is not done by then goes in circles."""


class Stuck(Exception):
    """Nothing can ever happen again, or things happen for ever without time passing."""


class Process:
    """A simulated process: what belongs to it is told by the context in which it runs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_alive = True
        self.is_frozen = False
        self.waiting: list[asyncio.Handle] = []
        """Its callbacks that are due while it is frozen."""
        self.handlers: dict[int, Callable[[], object]] = {}

    def signal(self, signum: signal.Signals) -> bool:
        """Deliver a signal; False when the process does not handle it (yet)."""
        handler = self.handlers.get(signum)
        if handler is not None:
            handler()
        return handler is not None


_current: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


def current_process() -> Process | None:
    """The process whose code runs now; None for the world around it."""
    return _current.get()


class SimulatedLoop(asyncio.BaseEventLoop):
    """An event loop in virtual time, whose choices `chance` makes."""

    _ready: "deque[asyncio.Handle]"
    _scheduled: "list[asyncio.TimerHandle]"

    def __init__(self, chance: Random) -> None:
        super().__init__()
        self._chance = chance
        self._now_s = 0.0
        self._left = CALLBACKS_MAX
        self._tasks_made = 0
        self._frozen: list[Process] = []
        self._world = contextvars.copy_context()
        self.set_task_factory(self._new_task)  # type: ignore[arg-type]

    def time(self) -> float:
        """Virtual seconds since the beginning."""
        return self._now_s

    def spawn(self, work: Coroutine[Any, Any, T], process: Process | None = None) -> "asyncio.Task[T]":
        """Run the work as the main task of that process, or as a part of the world."""
        context = self._world
        if process is not None:
            context = self._world.copy()
            context.run(_current.set, process)
        return self.create_task(work, context=context)

    def freeze(self, process: Process) -> None:
        """Let the process do nothing until it is thawed."""
        process.is_frozen = True
        self._frozen.append(process)

    def thaw(self, process: Process) -> None:
        """Let the process go on, with everything at once that was due meanwhile."""
        process.is_frozen = False
        self._ready.extend(process.waiting)
        process.waiting.clear()

    def thaw_all(self) -> None:
        """Let every process go on."""
        for process in self._frozen:
            self.thaw(process)
        self._frozen.clear()

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """Handle a signal of the current process."""
        process = current_process()
        assert process is not None
        context = contextvars.copy_context()
        process.handlers[sig] = lambda: self.call_soon(callback, *args, context=context)

    def remove_signal_handler(self, sig: int) -> bool:
        """Handle it no longer."""
        process = current_process()
        assert process is not None
        return process.handlers.pop(sig, None) is not None

    def _new_task(
        self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], context: Any = None
    ) -> "asyncio.Task[Any]":
        self._tasks_made += 1
        task = _Task(work, loop=loop, context=context, name=f"task {self._tasks_made}")
        task.number = self._tasks_made
        return task

    def _run_once(self) -> None:
        scheduled, ready = self._scheduled, self._ready
        while scheduled and scheduled[0].cancelled():
            heapq.heappop(scheduled)
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            if not scheduled:
                raise Stuck("nothing can ever happen again")
            self._now_s = max(self._now_s, scheduled[0].when())
        while scheduled and scheduled[0].when() <= self._now_s:
            ready.append(heapq.heappop(scheduled))
        due, self._ready = self._in_turn(ready), deque()
        self._left -= len(due)
        if self._left < 0:
            raise Stuck(f"{CALLBACKS_MAX} callbacks ran: something goes in circles")
        for handle in due:
            if handle.cancelled():
                continue
            process = _process_of(handle)
            if process is not None and process.is_frozen:
                process.waiting.append(handle)
            else:
                handle._run()

    def _in_turn(self, ready: "deque[asyncio.Handle]") -> "list[asyncio.Handle]":
        """What is due, each process's in order, the processes in any order."""
        due = list(ready)
        if len(due) < 2:
            return due
        turns: dict[Process | None, float] = {}
        for handle in due:
            process = _process_of(handle)
            if process not in turns:
                turns[process] = self._chance.random()
        if len(turns) > 1:
            due.sort(key=lambda handle: turns[_process_of(handle)])
        return due

    def _process_events(self, event_list: object) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps."""


class _Task(asyncio.Task[Any]):
    """A task whose hash is its number, so that sets of tasks have the same order in every run."""

    number = 0

    def __hash__(self) -> int:
        return self.number


class _InOrder(dict[Any, None]):
    """A set that is walked in the order in which things were added."""

    def add(self, item: Any) -> None:
        self[item] = None

    def remove(self, item: Any) -> None:
        del self[item]

    def discard(self, item: Any) -> None:
        self.pop(item, None)


def _process_of(handle: asyncio.Handle) -> Process | None:
    process: Process | None = handle._context.get(_current)  # type: ignore[attr-defined]
    return process


def run(main: Callable[[SimulatedLoop], Coroutine[Any, Any, T]], chance: Random) -> T:
    """Run the main task of the world to its end, on a loop of its own."""
    loop = SimulatedLoop(chance)
    with _deterministic():
        try:
            return loop.run_until_complete(main(loop))
        finally:
            _end(loop)
            loop.close()


def _end(loop: SimulatedLoop) -> None:
    """Cancel what is left, and let it end."""
    loop.thaw_all()
    left = [task for task in asyncio.all_tasks(loop) if not task.done()]
    for task in left:
        task.cancel()
    if left:
        with _quiet(loop):
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())


@contextmanager
def _quiet(loop: SimulatedLoop) -> Iterator[None]:
    loop.set_exception_handler(lambda loop, context: None)
    yield


@contextmanager
def _deterministic() -> Iterator[None]:
    """anyio without threads, and without sets whose order depends on addresses."""

    async def run_sync(work: Callable[..., T], *args: Any, **options: Any) -> T:
        await anyio.lowlevel.checkpoint()
        return work(*args)

    scopes: Any = backend.CancelScope
    init, in_thread = backend.CancelScope.__init__, anyio.to_thread.run_sync

    def begin(scope: Any, *args: Any, **options: Any) -> None:
        init(scope, *args, **options)
        scope._child_scopes = _InOrder()

    scopes.__init__ = begin
    anyio.to_thread.run_sync = run_sync  # type: ignore[assignment]
    try:
        yield
    finally:
        scopes.__init__ = init
        anyio.to_thread.run_sync = in_thread
