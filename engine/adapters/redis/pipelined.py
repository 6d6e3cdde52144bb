"""Pipelined connections to Redis: one connection on which many callers ask at once, each answered in turn.

Imports asyncio, hiredis and redis. For short reads, thousands a second: a pool gives every caller a connection of its
own, and takes ten times as long to hand it out as Redis takes to answer. What is always true: replies are matched to
what was asked by their order alone, so a connection of which one reply is late is cut, and those who waited on it are
told.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from hiredis import Reader, pack_command
from redis.exceptions import ConnectionError, InvalidResponse, ResponseError, TimeoutError

Command = tuple[Any, ...]
"""Text, bytes and integers."""
Connect = Callable[[asyncio.BaseProtocol], Awaitable[tuple[asyncio.Transport, object]]]
"""Makes a connection that has logged in, and hands it over to that protocol: its transport, and what must be kept as
long as that is used."""

Took = Callable[[Sequence[Command], float], None]
"""Is told what was asked, and the seconds until it was answered."""

MULTI = pack_command(("MULTI",))
EXEC = pack_command(("EXEC",))


class PipelinedConnection:
    """Connects when somebody asks, and again after it was cut. `timeout_s` is the longest that a reply may take; `took`
    is told how long each took.

    What it raises is redis-py's own: ConnectionError, TimeoutError, InvalidResponse.
    """

    def __init__(self, connect: Connect, timeout_s: float, took: Took) -> None:
        self._connect = connect
        self._timeout_s = timeout_s
        self._took = took
        self._connecting = asyncio.Lock()
        self._replies: _Replies | None = None

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The reply to each command; an error that Redis answered with is a ResponseError in its place."""
        packed = b"".join(map(pack_command, commands))
        return await self._asked(packed, len(commands), commands)

    async def ask_at_once(self, commands: Sequence[Command]) -> list[Any]:
        """The same with nothing of anybody else in between. Raises ResponseError when none of it was done."""
        packed = b"".join((MULTI, *map(pack_command, commands), EXEC))
        *queued, replies = await self._asked(packed, len(commands) + 2, commands)
        if isinstance(replies, ResponseError):
            raise next((reply for reply in queued if isinstance(reply, ResponseError)), replies)
        found: list[Any] = replies
        return found

    def cut(self) -> None:
        """End the connection; the next who asks gets a new one."""
        if self._replies is not None:
            self._replies.cut(ConnectionError("the connection was closed"))

    async def _asked(self, packed: bytes, count: int, commands: Sequence[Command]) -> list[Any]:
        replies = self._replies
        if replies is None or replies.is_cut:
            replies = await self._connected()
        answered = replies.expect(packed, count)
        loop = answered.get_loop()
        began_s = loop.time()
        late = loop.call_later(self._timeout_s, replies.cut, TimeoutError("no reply in time"))
        try:
            return await answered
        finally:
            late.cancel()
            self._took(commands, loop.time() - began_s)

    async def _connected(self) -> "_Replies":
        async with self._connecting:
            if self._replies is None or self._replies.is_cut:
                replies = _Replies()
                replies.transport, replies.kept = await self._connect(replies)
                self._replies = replies
            return self._replies


class _Replies(asyncio.Protocol):
    """Read the replies on one connection."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.kept: object = None
        self.is_cut = False
        self._reader = Reader(protocolError=InvalidResponse, replyError=ResponseError)
        self._waiting: deque[tuple[asyncio.Future[list[Any]], int]] = deque()
        self._got: list[Any] = []

    def expect(self, packed: bytes, count: int) -> "asyncio.Future[list[Any]]":
        """Send commands; what will hold their replies, `count` of them."""
        assert self.transport is not None
        answered: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((answered, count))
        self.transport.write(packed)
        return answered

    def cut(self, error: Exception) -> None:
        """End the connection; whoever waits gets the error."""
        self.is_cut = True
        if self.transport is not None:
            self.transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for answered, _ in waiting:
            if not answered.done():
                answered.set_exception(error)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                self._take(reply)
        except InvalidResponse as error:
            self.cut(error)

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the event loop."""
        self.cut(ConnectionError(f"the connection was lost: {error}" if error else "the server closed the connection"))

    def _take(self, reply: Any) -> None:
        if not self._waiting:
            raise InvalidResponse("a reply to nothing that was asked")
        answered, count = self._waiting[0]
        self._got.append(reply)
        if len(self._got) == count:
            self._waiting.popleft()
            replies, self._got = self._got, []
            if not answered.done():  # whoever asked may have gone
                answered.set_result(replies)
