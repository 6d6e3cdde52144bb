"""WebSocket on one connection: uvicorn's protocol, bounded.

Imports uvicorn. What is always true: a client that does not read is not read either, so that its pings get no pongs
that nobody takes; what is refused is refused by a problem; and nothing that a client does is logged.
"""

import logging
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from crashfold.engine.http import problems
from crashfold.engine.http.http11 import Message, printed
from crashfold.engine.http.live import ABORT
from crashfold.engine.http.places import Places, host_of_peer
from crashfold.engine.http.replies import Reply, problem_reply

VERSION: Final = b"13"
"""The only one that there is (RFC 6455)."""

_SILENT: Final = logging.Logger("silent", logging.CRITICAL + 1)
"""uvicorn and websockets log each client that breaks the protocol or is refused: any client could fill the log."""


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """One connection: `uvicorn.Config(ws=partial(WebSocketProtocol, places=…))`."""

    def __init__(self, config: Any, server_state: Any, app_state: Any, _loop: Any = None, *, places: Places) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.places = places
        self.client_host = ""
        self.until_s = inf
        self.logger = self.conn.logger = _SILENT
        self._early = b""
        """Bytes that came before the handshake was answered."""

    def connection_made(self, transport: Any) -> None:
        """Called by the HTTP protocol, when the client asks for the upgrade."""
        super().connection_made(transport)
        if self.client:
            self.client_host = host_of_peer(self.client[0])
            self.client = (self.client_host, self.client[1])
        self.places.enter(self, self.loop)
        self.app = _abortable(self.app, self.drop)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self.places.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self.handshake_initiated and not self.handshake_complete:
            self._early += data
            self.transport.pause_reading()
            return
        try:
            super().data_received(data)
        except Exception:  # frames that the library does not take, in a state that it does not expect
            self.drop()
            return
        if not self.handshake_initiated:
            self._refuse(problem_reply(problems.no_handshake()))

    def pause_writing(self) -> None:
        """Called by the event loop: the client does not read as fast as is written."""
        super().pause_writing()
        if not self.read_paused:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Called by the event loop: it has read most of it."""
        super().resume_writing()
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def handle_connect(self, event: Any) -> None:
        """Called with the opening handshake."""
        response = self.conn.accept(event)
        if response.status_code == 101:
            super().handle_connect(event)
        elif event.headers.get_all("Sec-WebSocket-Version") != [VERSION.decode()]:
            told = (b"upgrade", b"websocket"), (b"sec-websocket-version", VERSION)
            self._refuse(problem_reply(problems.upgrade_required(), *told))
        else:
            self._refuse(problem_reply(problems.no_handshake()))

    def send_500_response(self) -> None:
        """Called when the application fails before it has answered the handshake."""
        if not self.initial_response and not self.handshake_complete:
            self._refuse(problem_reply(problems.internal()))

    async def send(self, message: Any) -> None:
        """ASGI's send."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # it was answered, though not as the client wished
        elif message["type"] == "websocket.accept" and self._early and not self.transport.is_closing():
            early, self._early = self._early, b""
            self.transport.resume_reading()
            self.data_received(early)

    async def receive(self) -> Any:
        """ASGI's receive."""
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            if self.writable.is_set():
                self.transport.resume_reading()
        return message

    def expire(self) -> None:
        """See `Placed`."""

    def evict(self) -> None:
        """See `Placed`."""

    def unsent_bytes(self) -> int | None:
        """See `Placed`."""
        return None if self.writable.is_set() else self.transport.get_write_buffer_size()

    def drop(self) -> None:
        """See `Placed`."""
        self.transport.abort()

    def _refuse(self, reply: Reply) -> None:
        """Answer the handshake, and close."""
        self.handshake_initiated = self.handshake_complete = self.close_sent = True
        self.transport.write(printed(reply))
        self.transport.close()


def _abortable(app: Callable[..., Awaitable[None]], abort: Callable[[], None]) -> Callable[..., Awaitable[None]]:
    """The application, with a way to abort this connection in every scope."""

    async def with_abort(scope: Message, receive: Any, send: Any) -> None:
        scope.setdefault("extensions", {})[ABORT] = {"abort": abort}
        await app(scope, receive, send)

    return with_abort
