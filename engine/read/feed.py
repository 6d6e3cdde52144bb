"""Feeds: what all live clients of a stream share, and the count of those clients.

Imports anyio. One task a stream listens to its follower, whoever many clients there are; a client holds a cursor and no
queue, so a slow one costs nothing and, when it looks again, gets what is newest. What is always true: after `stop`
every client is woken and told to go.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final

import anyio
import anyio.abc
import msgspec
import structlog

from crashfold.engine.meter import ApiMeter, Transport
from crashfold.engine.ports import Cursor
from crashfold.engine.read.fairness import FairnessOf, TableFairness
from crashfold.engine.read.follower import Follower
from crashfold.engine.read.held import Change
from crashfold.engine.read.live import Backlog, Frame
from crashfold.engine.read.refusals import NotNow
from crashfold.engine.read.subscription import Ended
from crashfold.engine.read.times import Zones
from crashfold.schemas.record import DEFAULT_STREAM

FULL_RETRY_S: Final = 10
CATCH_UP_S: Final = 2.0
"""How long a client that has seen a later state elsewhere waits for this process to be as far."""
GOODBYE_S: Final = 2.0
"""How long a client may take to hear that its events end."""


_log = structlog.get_logger()


class LiveLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of live clients."""

    clients_max: int = 4_000
    """SSE and WebSocket together. Each takes an open file."""
    heartbeat_s: float = 15.0
    write_s: float = 10.0
    """A client that takes nothing for so long is dropped."""


class Feed:
    """The changes of one stream, for all its clients."""

    def __init__(self, follower: Follower, fairness: TableFairness) -> None:
        self._follower = follower
        self._backlog = Backlog(fairness)
        self.changed = anyio.Event()
        """Set, and replaced by a new one, whenever `next` may have more to say: take it first, then look."""
        self.ended = False
        """Nothing comes any more: clients are to go, and may come back."""

    def use(self) -> None:
        """Note that somebody has asked for the feed."""
        self._follower.use()

    def used(self) -> contextlib.AbstractContextManager[None]:
        """Keep the follower from being let go while the block runs: a client listens."""
        return self._follower.used()

    async def run(self) -> None:
        """Listen to the follower until it ends, also without clients: a client that comes back finds what it missed."""
        async with self._follower.subscribe() as subscription:
            self._backlog.begin(self._follower.held.cursor)
            self.wake()
            with contextlib.suppress(Ended):
                while True:
                    self._backlog.add(await subscription.next())
                    self.wake()

    def end(self) -> None:
        """Send all clients away."""
        self.ended = True
        self.wake()

    def wake(self) -> None:
        """Wake all clients, so that they look for changes."""
        self.changed.set()
        self.changed = anyio.Event()

    async def catch_up(self, known: Cursor) -> None:
        """Wait until the feed has the state that a client knows: another process may have shown it."""
        await self._follower.catch_up([known], CATCH_UP_S)

    def state(self) -> Change:
        """The newest state."""
        return self._follower.snapshot()

    def next(self, known: Cursor | None) -> Frame | None:
        """The next thing to tell a client that knows `known`: a change, the newest state where the change after `known`
        is not kept, or nothing."""
        frames = None if known is None else self._backlog.after(known)
        if frames is not None:
            return frames[0] if frames else None
        snapshot = self._backlog.snapshot(self.state())
        return None if snapshot.cursor == known else snapshot


class Live:
    """All feeds, and all clients. Use it within `running`."""

    def __init__(
        self,
        follower_of: Callable[[str], Awaitable[Follower]],
        zones: Zones,
        fairness_of: FairnessOf,
        *,
        meter: ApiMeter | None = None,
        limits: LiveLimits | None = None,
        default_stream: str = DEFAULT_STREAM,
    ) -> None:
        self.zones = zones
        self.default_stream = default_stream
        self.meter = meter or ApiMeter()
        self.limits = limits or LiveLimits()
        self.stopping = False
        """Nobody may come any more."""
        self._follower_of = follower_of
        self._fairness_of = fairness_of
        self._feeds: dict[str, Feed] = {}
        self._clients: dict[Transport, set[anyio.CancelScope]] = {"sse": set(), "websocket": set()}
        self._tasks: anyio.abc.TaskGroup | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen to followers while the block runs; on leaving it every client is told to go."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                yield
            finally:
                self.stop()
                self._tasks = None
                tasks.cancel_scope.cancel()

    def stop(self) -> None:
        """End the events of every client. Call it from the event loop as soon as the process is told to go: servers
        wait for open connections before they do anything else."""
        self.stopping = True
        for feed in self._feeds.values():
            feed.end()
        for scope in (scope for clients in self._clients.values() for scope in clients):
            scope.deadline = anyio.current_time() + GOODBYE_S

    async def feed(self, stream: str) -> Feed:
        """The feed of a stream. Raises what `follower_of` raises, and NotNow."""
        if stream not in self._feeds:
            follower = await self._follower_of(stream)
            if self._tasks is None or self.stopping:
                raise NotNow("the server is starting or stopping")
            if stream not in self._feeds:
                feed = self._feeds[stream] = Feed(follower, self._fairness_of(stream))
                self._tasks.start_soon(self._run, stream, feed)
        feed = self._feeds[stream]
        feed.use()
        return feed

    def check_place(self, transport: Transport) -> None:
        """Raise NotNow when as many clients as allowed are there."""
        if self.stopping:
            raise NotNow("the server is about to stop")
        if sum(map(len, self._clients.values())) >= self.limits.clients_max:
            self.meter.live_client_refused(transport)
            raise NotNow("all places for live clients are taken", FULL_RETRY_S)

    @contextlib.contextmanager
    def client(self, transport: Transport, feed: Feed) -> Iterator[anyio.CancelScope]:
        """Count a client of a feed while the block runs, which is cancelled when the client lingers on after `stop`."""
        clients = self._clients[transport]
        with feed.used(), anyio.CancelScope() as scope:
            clients.add(scope)
            self.meter.live_clients(transport, len(clients))
            try:
                yield scope
            finally:
                clients.discard(scope)
                self.meter.live_clients(transport, len(clients))

    async def _run(self, stream: str, feed: Feed) -> None:
        try:
            await feed.run()
        except Exception:  # its clients come back, and get another feed
            _log.exception("feed_failed", stream=stream)
        finally:
            if self._feeds.get(stream) is feed:
                del self._feeds[stream]
            feed.end()
