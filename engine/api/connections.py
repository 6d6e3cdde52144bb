"""Connections: uvicorn's protocols, made fit for clients that stay for hours.

Imports uvicorn. What is always true: a peer that is gone, or takes nothing of what was written, holds its connection
for `SILENT_MS` at most; unsent bytes are bounded in the kernel as they are here; and a request can end its own
connection at once, by the extension `ABORT` of its scope.
"""

import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from engine.api.stream import ABORT

SILENT_MS: Final = 30_000
"""Written bytes that are not acknowledged for so long end the connection."""
UNSENT_BYTES_MAX: Final = 64 * 1024
"""Bytes that the kernel takes for sending later. Its own bound is megabytes, and would hide for minutes that a client
has stopped reading."""

GRACE_S: Final = 5
"""How long requests under way may take after the signal to stop. Live clients need less: see `Live.stop`."""
MESSAGE_BYTES_MAX: Final = 4096
"""Clients of the WebSocket have nothing to say."""

_Message = MutableMapping[str, Any]
_App = Callable[[_Message, Callable[[], Awaitable[_Message]], Callable[[_Message], Awaitable[None]]], Awaitable[None]]


class HttpProtocol(AutoHTTPProtocol):  # type: ignore[valid-type, misc]
    """HTTP/1.1: `uvicorn.Config(http=HttpProtocol)`."""

    def connection_made(self, transport: Any) -> None:
        """Called by the event loop."""
        super().connection_made(transport)
        bound(transport)
        self.app: _App = abortable(self.app, transport)


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


OPTIONS: Final[dict[str, Any]] = {
    "http": HttpProtocol,
    "ws": WebSocketProtocol,
    "ws_max_size": MESSAGE_BYTES_MAX,
    "ws_per_message_deflate": False,  # It would print each message once a client instead of once.
    "timeout_graceful_shutdown": GRACE_S,
}
"""What `uvicorn.Config` needs for live clients."""
