"""Followers: the table of the streams that this process follows.

Imports the follower and the ports. What is always true: a stream has one follower at most, however many ask for it at
once, and the one that was not used for longest makes room for another.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Self

import anyio
import anyio.abc
import msgspec
import structlog

from crashfold.engine.errors import CrashfoldError, StateError, StoreUnavailable, Unavailable
from crashfold.engine.ports import Clock, EventLog, LiveReader
from crashfold.engine.read.follower import LOOK_EVERY_S, Follower
from crashfold.engine.read.refusals import NotFound, NotNow
from crashfold.engine.read.replica import Replica
from crashfold.schemas.record import DEFAULT_STREAM

STREAMS_MAX: Final = 64
"""Streams followed at once: each holds its window (some 5 MB) and a connection."""
IDLE_S: Final = 300.0
START_WAIT_S: Final = 3.0
"""How long a question waits for a stream that is not followed yet."""
FULL_RETRY_S: Final = 10
"""When to come again where all places for streams are taken."""

_log = structlog.get_logger()


class TooManyStreams(Unavailable):
    """No more streams can be followed: the limit is reached, and each stream has a live client."""


class _Start:
    """A stream that is about to be followed, and what came of it: a follower, None when there is no such stream, or an
    error."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.follower: Follower | None = None
        self.error: CrashfoldError | None = StoreUnavailable("this process is about to end")


class _Running(msgspec.Struct, frozen=True):
    """A follower that runs; `scope` ends it."""

    follower: Follower
    scope: anyio.CancelScope


class Followers:
    """The followers of this process: one a stream that is asked for, `streams_max` at most. Made with `only_stream`,
    for a deployment of one stream, it knows no other, and that one even before its first game.

    `new_log` opens the topic, without a group; None leaves replicas without it.
    """

    def __init__(
        self,
        reader: LiveReader,
        clock: Clock,
        *,
        only_stream: str | None = None,
        replica: Callable[[str], Replica] | None = None,
        new_log: Callable[[], EventLog] | None = None,
        streams_max: int = STREAMS_MAX,
        idle_s: float = IDLE_S,
    ) -> None:
        self._reader = reader
        self._clock = clock
        self._only_stream = only_stream
        self._replica = replica
        self._new_log = new_log
        self._streams_max = streams_max
        self._idle_s = idle_s
        self._running: dict[str, _Running] = {}
        self._starting: dict[str, _Start] = {}
        self._tasks: anyio.abc.TaskGroup | None = None
        self.is_started = False
        """Whether the store has answered, so that there is something to answer from."""
        self.unreadable: dict[str, str] = {}
        """Why streams that were asked for cannot be read, by stream."""
        self.start_fault = "it was not asked yet"
        """Why not, as far as that is known."""

    @property
    def default_stream(self) -> str:
        """The stream of a question that names none."""
        return self._only_stream or DEFAULT_STREAM

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Follow the streams that are asked for while the block runs."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._begin)
            tasks.start_soon(self._let_idle_go)
            try:
                yield self
            finally:
                self._tasks = None
                tasks.cancel_scope.cancel()

    def all(self) -> list[Follower]:
        """The followers that run now."""
        return [running.follower for running in self._running.values()]

    def get(self, stream: str) -> Follower | None:
        """The follower of a stream that is followed already."""
        found = self._running.get(stream)
        if found is None:
            return None
        found.follower.use()
        return found.follower

    async def follow(self, stream: str) -> Follower | None:
        """The follower of a stream, with something to answer from; None when there is no such stream.

        A window that takes long to read is read on for those who ask again. Raises a CrashfoldError when the stream is
        not followed yet: Unavailable when the store is away or slow, TooManyStreams, or what the store refuses.
        """
        if self._only_stream is not None and stream != self._only_stream:
            return None
        if (follower := self.get(stream)) is not None:
            return follower
        start = self._starting.get(stream)
        if start is None:
            if self._tasks is None:
                raise StoreUnavailable("this process is about to end")
            start = self._starting[stream] = _Start()
            self._tasks.start_soon(self._start, stream, start)
        with anyio.move_on_after(START_WAIT_S):
            await start.done.wait()
        if not start.done.is_set():
            raise StoreUnavailable("the stream is still being read")
        if start.error is not None:
            raise start.error.with_traceback(None)
        return start.follower

    async def required(self, stream: str) -> Follower:
        """The follower of a stream, for a question about it. Raises NotFound and NotNow."""
        try:
            follower = await self.follow(stream)
        except TooManyStreams:
            raise NotNow("as many streams are listened to here as may be", FULL_RETRY_S) from None
        except Unavailable:
            raise NotNow("the store cannot be reached, and nothing is held of this stream") from None
        except CrashfoldError:
            raise NotNow("the store refuses or has no state of this stream that can be read") from None
        if follower is None:
            raise NotFound("there is no such stream")
        return follower

    async def _begin(self) -> None:
        """Follow the default stream before anybody asks, as soon as the store answers."""
        fault = ""
        while True:
            try:
                await self.follow(self.default_stream)
                return
            except CrashfoldError as error:
                if str(error) != fault:
                    fault = str(error)
                    _log.warning("store_away", stream=self.default_stream, fault=fault)
                self.start_fault = fault
                await self._clock.sleep(LOOK_EVERY_S)

    async def _start(self, stream: str, start: _Start) -> None:
        """Read what the store has of a stream, and follow it."""
        try:
            start.follower = await self._started(stream)
            start.error = None
            self.unreadable.pop(stream, None)
        except StateError as error:
            start.error = error
            self._note_unreadable(stream, str(error))
        except CrashfoldError as error:
            start.error = error
        except Exception:  # whatever a stream holds is its own trouble
            _log.exception("follower_failed", stream=stream)
            start.error = StateError("the stream cannot be read; the log says why")
        finally:
            if self._starting.get(stream) is start:
                del self._starting[stream]
            start.done.set()

    def _note_unreadable(self, stream: str, fault: str) -> None:
        """The store has answered, so other streams may be answered from it; of this one it cannot be done."""
        if len(self.unreadable) < self._streams_max:
            self.unreadable[stream] = fault
        self.is_started = self.is_started or self._only_stream is None

    async def _started(self, stream: str) -> Follower | None:
        # Quicker to tell than a whole window, where the store is slow, or there is no such stream.
        if await self._reader.standing(stream) is None and stream != self._only_stream:
            self.is_started = True
            return None
        self._make_room()
        replica = None if self._replica is None else self._replica(stream)
        follower = Follower(stream, self._reader, self._clock, replica, self._new_log)
        await follower.load()
        self.is_started = True
        self._make_room()
        if self._tasks is None:
            raise StoreUnavailable("this process is about to end")
        running = self._running[stream] = _Running(follower, anyio.CancelScope())
        self._tasks.start_soon(self._run, running)
        return follower

    async def _run(self, running: _Running) -> None:
        stream = running.follower.stream
        try:
            with running.scope:
                await running.follower.run()
        except Exception:  # it is followed anew when somebody asks
            _log.exception("follower_failed", stream=stream)
        finally:
            if self._running.get(stream) is running:
                del self._running[stream]

    async def _let_idle_go(self) -> None:
        while True:
            await self._clock.sleep(self._idle_s / 4)
            for running in list(self._running.values()):
                follower = running.follower
                if follower.stream != self.default_stream and follower.idle_s > self._idle_s:
                    running.scope.cancel()

    def _make_room(self) -> None:
        """Let the follower go that was not used for longest, if there is no place. Raises TooManyStreams."""
        if len(self._running) < self._streams_max:
            return
        idle = [one for one in self.all() if one.stream != self.default_stream and not one.is_used]
        if not idle:
            raise TooManyStreams(f"{self._streams_max} streams are listened to already; try again later")
        longest = max(idle, key=lambda one: one.idle_s)
        self._running.pop(longest.stream).scope.cancel()
