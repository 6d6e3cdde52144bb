"""Connections: uvicorn's protocols, made fit for clients that stay for hours.

Imports uvicorn, and problems. What is always true: a peer that is gone, or takes nothing of what was written, holds its
connection for `SILENT_MS` at most, one that says no whole request for `REQUEST_WAIT_S`; unsent bytes are bounded in the
kernel as they are here; whatever is not understood is answered by a problem, as everything is; and a request can end
its own connection at once, by the extension `ABORT` of its scope.
"""

import http
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from engine.api import problems
from engine.api.answers import Reply, problem_reply
from engine.api.edge import HEADERS_BYTES_MAX, SECURITY, TARGET_BYTES_MAX, send_reply
from engine.api.problems import Problem
from engine.api.stream import ABORT

SILENT_MS: Final = 30_000
"""Written bytes that are not acknowledged for so long end the connection."""
UNSENT_BYTES_MAX: Final = 64 * 1024
"""Bytes that the kernel takes for sending later. Its own bound is megabytes, and would hide for minutes that a client
has stopped reading."""

REQUEST_WAIT_S: Final = 10.0
"""How long the target and headers of a request may take to arrive."""
HEAD_BYTES_MAX: Final = TARGET_BYTES_MAX + 2 * HEADERS_BYTES_MAX
"""Of a request whose headers do not end, so much is looked at: enough for the edge to say itself what is too long."""
CONNECTIONS_MAX: Final = 10_000
"""Whoever connects beyond that is told to come again."""
FULL_RETRY_S: Final = 5

GRACE_S: Final = 5
"""How long requests under way may take after the signal to stop. Live clients need less: see `Live.stop`."""
MESSAGE_BYTES_MAX: Final = 4096
"""Clients of the WebSocket have nothing to say."""

_Message = MutableMapping[str, Any]
_App = Callable[[_Message, Callable[[], Awaitable[_Message]], Callable[[_Message], Awaitable[None]]], Awaitable[None]]


class HttpProtocol(HttpToolsProtocol):
    """HTTP/1.1: `uvicorn.Config(http=HttpProtocol)`."""

    _waiting: Any = None
    """The timer of a request that has begun, or is to be the first, until its headers are there."""
    _head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """Called by the event loop."""
        super().connection_made(transport)
        bound(transport)
        app: _App = self.app if len(self.connections) <= CONNECTIONS_MAX else _say_full
        self.app = abortable(app, transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._wait_no_longer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        super().data_received(data)
        if self._waiting is not None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(problems.headers_too_large(HEADERS_BYTES_MAX))

    def on_message_begin(self) -> None:
        """Called by the parser."""
        super().on_message_begin()
        if self._waiting is None:
            self._wait()

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._wait_no_longer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Called when the parser gives up."""
        self._refuse(problems.unreadable())

    def _wait(self) -> None:
        self._head_bytes = 0
        self._waiting = self.loop.call_later(REQUEST_WAIT_S, self._give_up)

    def _wait_no_longer(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        if self._head_bytes:
            self._refuse(problems.request_too_slow())
        else:
            self._wait_no_longer()
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        """Answer what is no request, or none yet, and close. While another answer is under way, only close."""
        self._wait_no_longer()
        cycle = self.cycle
        if not self.pipeline and (cycle is None or cycle.response_complete or not cycle.response_started):
            self.transport.write(_printed(problem_reply(problem)))
        self.transport.close()


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """WebSocket: `uvicorn.Config(ws=WebSocketProtocol)`."""

    def connection_made(self, transport: Any) -> None:
        """Called by the HTTP protocol, when the client asks for the upgrade."""
        super().connection_made(transport)
        self.app = abortable(self.app, transport)


def bound(transport: Any) -> None:
    """Set the bounds of this module on a connection, as far as the system knows them."""
    connection = transport.get_extra_info("socket")
    for option, value in (("TCP_USER_TIMEOUT", SILENT_MS), ("TCP_NOTSENT_LOWAT", UNSENT_BYTES_MAX)):
        if connection.family != socket.AF_UNIX and hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def abortable(app: _App, transport: Any) -> _App:
    """The application, with a way to abort this connection in every scope."""

    async def with_abort(
        scope: _Message, receive: Callable[[], Awaitable[_Message]], send: Callable[[_Message], Awaitable[None]]
    ) -> None:
        scope.setdefault("extensions", {})[ABORT] = {"abort": transport.abort}
        await app(scope, receive, send)

    return with_abort


async def _say_full(scope: _Message, receive: Callable[[], Awaitable[_Message]], send: Any) -> None:
    """The application of a connection beyond `CONNECTIONS_MAX`."""
    await send_reply(problem_reply(problems.unavailable("too many connections", FULL_RETRY_S)), send, closing=True)


def _printed(reply: Reply) -> bytes:
    """An answer as it goes over the wire, the last of its connection."""
    head = b"HTTP/1.1 %d %s\r\n" % (reply.status, http.HTTPStatus(reply.status).phrase.encode())
    headers = (*reply.headers, *SECURITY, (b"connection", b"close"))
    return head + b"".join(b"%s: %s\r\n" % header for header in headers) + b"\r\n" + reply.body


OPTIONS: Final[dict[str, Any]] = {
    "http": HttpProtocol,
    "ws": WebSocketProtocol,
    "ws_max_size": MESSAGE_BYTES_MAX,
    "ws_per_message_deflate": False,  # It would print each message once a client instead of once.
    "timeout_graceful_shutdown": GRACE_S,
}
"""What `uvicorn.Config` needs for live clients."""
