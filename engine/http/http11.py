"""HTTP/1.1 on one connection: requests in, answers out, as RFC 9110 and 9112 have it; a server protocol for uvicorn.

Imports asyncio, httptools for parsing and uvicorn for the handover to its WebSocket. uvicorn's own protocol is not
built upon: any byte ends its time-outs, it closes with bytes unread, sends chunks to HTTP/1.0 and queues requests
without end. What is always true: whatever is no request is answered by a problem, after the answers before it; a
connection either answers, or waits with a deadline (`Places`); and nothing that a client does is logged.
"""

import asyncio
import http
import re
import socket
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from enum import Enum
from math import inf
from typing import Any, Final
from urllib.parse import unquote

import httptools
import structlog
from uvicorn.protocols.utils import get_local_addr, get_remote_addr

from crashfold.engine.http import problems
from crashfold.engine.http.edge import HEADERS_BYTES_MAX, SECURITY, TARGET_BYTES_MAX, send_reply
from crashfold.engine.http.live import ABORT
from crashfold.engine.http.places import Places, host_of_peer
from crashfold.engine.http.problems import Problem
from crashfold.engine.http.replies import Reply, problem_reply

HEAD_BYTES_MAX: Final = TARGET_BYTES_MAX + 2 * HEADERS_BYTES_MAX
"""Of a request whose headers do not end, so much is looked at: enough for the edge to say itself what is too long."""
FIELDS_MAX: Final = 100
FIELD_BYTES_MAX: Final = 8_000
"""Of an opening handshake: more is more than the WebSocket library reads."""
WIRE_BYTES_MAX: Final = 1 << 20
"""Of a body on its way, chunks' sizes, extensions and trailers included."""
UNREAD_BYTES_MAX: Final = 64 << 10
"""Of a body that nobody has asked for yet; the client is then not read."""
PIPELINED_MAX: Final = 128
"""Requests that came before their turn. Further ones are not answered, and the connection ends."""
UNSENT_BYTES_MAX: Final = 16 << 10
"""An answer bigger than this is over when its client has taken all but the last of it."""
SILENT_MS: Final = 30_000
"""Written bytes that are not acknowledged for so long end the connection."""
KERNEL_BYTES_MAX: Final = 64 * 1024
"""Bytes that the kernel takes for sending later. Its own bound is megabytes, and would hide for minutes that a client
has stopped reading."""
FULL_RETRY_S: Final = 5

Message = MutableMapping[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]

_HOST: Final = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)
_STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()) for status in http.HTTPStatus
}
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_GONE: Final = {"type": "http.disconnect"}

_log = structlog.get_logger()


class Phase(Enum):
    """The phase of a connection."""

    IDLE = "nothing has come since the last answer"
    HEAD = "a request has begun"
    BUSY = "a request is being answered"
    REST = "the answer is out, and the rest of the body is awaited"
    DRAINING = "nothing more is answered; what still comes is thrown away, so that the answer is not lost"
    CLOSING = "only what was written is still on its way"


class RefusedRequest(Exception):
    """The head of a request breaks HTTP. Raised within the parser."""


class HttpProtocol(asyncio.Protocol):
    """One connection: `uvicorn.Config(http=partial(HttpProtocol, places=…))`."""

    def __init__(self, config: Any, server_state: Any, app_state: Any, _loop: Any = None, *, places: Places) -> None:
        if not config.loaded:
            config.load()
        self.config = config
        self.app: App = config.loaded_app
        self.server_state = server_state
        self.app_state = app_state
        self.loop: asyncio.AbstractEventLoop = _loop or asyncio.get_running_loop()
        self.places = places
        self.client_host = ""
        self.until_s = inf
        self.transport: Any = None
        self.write_paused = False
        self._writers: list[asyncio.Future[None]] = []
        self._parser: Any = httptools.HttpRequestParser(self)
        self._phase = Phase.IDLE
        self._bytes = 0
        """Bytes of this phase, where they are bounded."""
        self._read_paused = False
        self._is_last = False
        """Nothing more is read: the connection ends after the answers that are due."""
        self._fault: Problem | None = None
        """The last answer on the connection."""
        self._current: Exchange | None = None
        self._pipelined: deque[Exchange] = deque()
        self._coming: Exchange | None = None
        """The request whose body is coming."""
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._is_head = False
        self._is_websocket = False

    # The event loop calls.

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        self.transport = transport
        bound(transport)
        self._server, self._client = get_local_addr(transport), get_remote_addr(transport)
        self._scheme = "https" if transport.get_extra_info("sslcontext") else "http"
        if self._client:
            self.client_host = host_of_peer(self._client[0])
            self._client = (self.client_host, self._client[1])
        self.server_state.connections.add(self)
        if not self.places.enter(self, self.loop):
            if self.places.is_beyond():
                self.drop()
                return
            self.app = _say_full
        self._wait(Phase.IDLE, self.places.bounds.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is no more."""
        self.server_state.connections.discard(self)
        self.places.leave(self)
        self._phase = Phase.CLOSING
        for exchange in (self._current, *self._pipelined):
            if exchange is not None:
                exchange.leave()
        self._pipelined.clear()
        self.resume_writing()
        self._parser = None

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        match self._phase:
            case Phase.CLOSING:
                return
            case Phase.DRAINING:
                self._bytes += len(data)
                if self._bytes > self.places.bounds.drain_bytes:
                    self._close()
                return
            case Phase.IDLE:
                self._wait(Phase.HEAD, self.places.bounds.head_s)
        if self._is_last:
            return
        self._bytes += len(data)
        self._parse(data)
        match self._phase:
            case Phase.IDLE if self._is_head:
                self._wait(Phase.HEAD, self.places.bounds.head_s)
            case Phase.HEAD if self._bytes > HEAD_BYTES_MAX:
                self._refuse(problems.headers_too_large(HEADERS_BYTES_MAX))
            case Phase.BUSY if self._bytes > WIRE_BYTES_MAX and self._coming is not None:
                self._refuse(problems.body_too_large(WIRE_BYTES_MAX))
            case Phase.REST if self._bytes > WIRE_BYTES_MAX:
                self._linger()

    def eof_received(self) -> bool:
        """The client sends nothing more. It may still read: then it gets the answers to what it asked."""
        self._is_last = True
        if self._phase is not Phase.BUSY or self._current is None:
            return False
        for exchange in (self._current, *self._pipelined):
            exchange.hear_no_more()
        return not self._current.is_gone

    def pause_writing(self) -> None:
        """The client does not read as fast as is written."""
        self.write_paused = True

    def resume_writing(self) -> None:
        """It has read most of it."""
        self.write_paused = False
        writers, self._writers = self._writers, []
        for writer in writers:
            if not writer.done():
                writer.set_result(None)

    # The server calls.

    def shutdown(self) -> None:
        """The server is about to end."""
        self._is_last = True
        self._pipelined.clear()
        if self._current is None:
            self._close()

    # `Places` calls.

    def expire(self) -> None:
        """See `Placed`."""
        match self._phase:
            case Phase.HEAD:
                self._refuse(problems.request_too_slow())
            case Phase.CLOSING:
                self.drop()
            case _:
                self._close()

    def evict(self) -> None:
        """See `Placed`."""
        if self.transport.get_write_buffer_size():
            self.drop()
        else:
            self._close()

    def unsent_bytes(self) -> int | None:
        """See `Placed`."""
        return self.transport.get_write_buffer_size() if self.write_paused else None

    def drop(self) -> None:
        """See `Placed`."""
        self._phase = Phase.CLOSING
        self.transport.abort()

    # The parser calls.

    def on_message_begin(self) -> None:
        """A request begins."""
        self._url, self._headers, self._is_head = b"", [], True

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field, of the head or of a trailer, which nobody asks for."""
        if self._is_head:
            self._headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._is_head = False
        method, version = self._parser.get_method(), self._parser.get_http_version()
        fields, path, query = self._read_head(method, version)
        if self._parser.should_upgrade():  # httptools stops here, body or not
            has_body = b"transfer-encoding" in fields or fields.get(b"content-length", b"0") != b"0"
            is_asked = fields.get(b"upgrade", b"").lower() == b"websocket"
            self._is_websocket = is_asked and not has_body and method == b"GET" and version == "1.1"
            return
        scope: Message = {
            "type": "http",
            "asgi": {"version": self.config.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self._server,
            "client": self._client,
            "scheme": self._scheme,
            "method": method.decode("ascii"),
            "root_path": "",
            "path": unquote(path) if "%" in path else path,
            "raw_path": path.encode("ascii"),
            "query_string": query,
            "headers": self._headers,
            "state": self.app_state.copy(),
            "extensions": {ABORT: {"abort": self.drop}},
        }
        exchange = Exchange(
            self, scope, fields.get(b"expect", b"").lower() == b"100-continue" and version != "1.0",
            version == "1.1" and self._parser.should_keep_alive(),
        )  # fmt: skip
        self._coming = exchange
        if self._current is None:
            self._begin(exchange)
        elif len(self._pipelined) < PIPELINED_MAX:
            self._pipelined.append(exchange)
            self._pause_reading()
        else:
            self._is_last, self._coming = True, None
            raise RefusedRequest

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if self._coming is not None and self._coming.take(body) > UNREAD_BYTES_MAX:
            self._pause_reading()

    def on_message_complete(self) -> None:
        """The request is whole."""
        exchange, self._coming = self._coming, None
        if exchange is not None:
            exchange.end_body()
        if self._phase is Phase.REST:
            self._go_on()

    # Exchanges call.

    def write(self, data: "bytes | memoryview") -> None:
        """Send bytes."""
        self.transport.write(data)

    async def drained(self) -> None:
        """Wait until the client has taken most of what was written."""
        while self.write_paused and self._phase is not Phase.CLOSING:
            writer = self.loop.create_future()
            self._writers.append(writer)
            await writer

    def wants_body(self) -> None:
        """Note that the application waits for the body."""
        if self._read_paused and not self._pipelined:
            self._read_paused = False
            self.transport.resume_reading()

    def answered(self, exchange: "Exchange") -> None:
        """The answer is out."""
        self.server_state.total_requests += 1
        if self._phase is not Phase.BUSY or exchange is not self._current:
            return
        self._current = None
        if not exchange.keeps_alive:
            self._is_last = True
            self._pipelined.clear()
        if exchange is not self._coming:
            self._go_on()
        elif self._is_last:
            self._linger()
        else:
            self._bytes = 0
            self._wait(Phase.REST, self.places.bounds.body_s)

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that every answer carries: the date."""
        headers: list[tuple[bytes, bytes]] = self.server_state.default_headers
        return headers

    @property
    def ends(self) -> bool:
        """Whether this answer is the last."""
        return self._is_last and not self._pipelined and self._fault is None

    def _parse(self, data: bytes) -> None:
        while data:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                if not self._is_websocket:
                    # Other protocols are not spoken, and who offers them is answered in this one.
                    data = self._without_upgrade() + data
                    self._parser = httptools.HttpRequestParser(self)
                else:
                    if self._current is not None:
                        self._refuse(problems.unreadable())
                    elif len(self._url) > TARGET_BYTES_MAX:
                        self._refuse(problems.target_too_long(TARGET_BYTES_MAX))
                    elif len(self._headers) > FIELDS_MAX or self._has_long_field():
                        self._refuse(problems.headers_too_large(FIELD_BYTES_MAX))
                    else:
                        self._hand_over(data)
                    return
            except httptools.HttpParserError:
                if not self._is_last:
                    self._refuse(self._fault or problems.unreadable())
                return

    def _read_head(self, method: bytes, version: str) -> tuple[dict[bytes, bytes], str, bytes]:
        """The last value of each field, path and query; or what is wrong with the head."""
        fields = dict(self._headers)
        hosts = int(b"host" in fields)
        if len(fields) < len(self._headers):
            hosts = sum(name == b"host" for name, _ in self._headers)
        url = self._url
        if not url.startswith(b"/"):
            absolute = _ABSOLUTE.fullmatch(url)
            if absolute is not None:  # its host counts, whatever the field says
                self._headers = [header for header in self._headers if header[0] != b"host"]
                self._headers.append((b"host", absolute[1]))
                fields[b"host"] = absolute[1]
                url = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
            elif url != b"*" or method != b"OPTIONS":
                raise self._refused(problems.unreadable())
        if b"#" in url or not url.isascii() or method == b"CONNECT":
            raise self._refused(problems.unreadable())
        if hosts > 1 or (version == "1.1" and not hosts) or _HOST.fullmatch(fields.get(b"host", b"")) is None:
            raise self._refused(problems.malformed("a request names one host", "Host"))
        if b"transfer-encoding" in fields:
            # Whose last coding is not chunked has no known end; which comes with a length has two.
            codings = b",".join(value for name, value in self._headers if name == b"transfer-encoding").split(b",")
            if version == "1.0" or b"content-length" in fields or codings[-1].strip().lower() != b"chunked":
                raise self._refused(problems.unreadable())
            if len(codings) > 1:
                raise self._refused(problems.transfer_coding_unknown())
        path, _, query = url.partition(b"?")
        return fields, path.decode("ascii"), query

    def _refused(self, problem: Problem) -> RefusedRequest:
        self._fault = problem
        return RefusedRequest()

    def _begin(self, exchange: "Exchange") -> None:
        """Let the application answer."""
        self._phase, self.until_s, self._bytes, self._current = Phase.BUSY, inf, 0, exchange
        self.places.keep(self)
        task = self.loop.create_task(exchange.run(self.app))
        self.server_state.tasks.add(task)
        task.add_done_callback(self.server_state.tasks.discard)

    def _go_on(self) -> None:
        """After an answer: the next, what is said last, or wait."""
        if self._pipelined:
            self._begin(self._pipelined.popleft())
        elif self._fault is not None:
            self._say_last(self._fault)
        elif self._is_last:
            self._close()
        elif self._is_head:
            self._bytes = 0
            self._wait(Phase.HEAD, self.places.bounds.head_s)
        else:
            self._wait(Phase.IDLE, self.places.bounds.idle_s)
        if not self._pipelined:
            self._resume_reading()

    def _refuse(self, problem: Problem) -> None:
        """Say what is wrong, after the answers that are due, and end the connection."""
        self._is_last, self._fault = True, problem
        if self._current is None:
            self._say_last(problem)
        elif self._coming is self._current and self._current.is_started:
            self._fault = None  # the answer has begun, and is the last word
        elif self._coming is self._current:
            self._current.leave()
            self._current = None
            self._say_last(problem)
        elif self._coming is not None:
            self._pipelined.remove(self._coming)

    def _say_last(self, problem: Problem) -> None:
        self._fault = None
        self.transport.write(printed(problem_reply(problem)))
        self._linger()

    def _linger(self) -> None:
        """Send no more, and read for a while what the client still sends."""
        self._bytes = 0
        self._resume_reading()
        if not self.transport.can_write_eof():
            self._close()
            return
        self.transport.write_eof()
        self._wait(Phase.DRAINING, self.places.bounds.drain_s)

    def _close(self) -> None:
        """End the connection when what was written is on its way."""
        self._wait(Phase.CLOSING, self.places.bounds.drain_s)
        self.transport.close()

    def _wait(self, phase: Phase, seconds: float) -> None:
        """Wait for the client, but no longer."""
        self._phase, self.until_s = phase, self.loop.time() + seconds
        if phase in (Phase.IDLE, Phase.HEAD):
            self._bytes = 0
        self.places.wait(self)

    def _pause_reading(self) -> None:
        if not self._read_paused:
            self._read_paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._read_paused and not self.transport.is_closing():
            self._read_paused = False
            self.transport.resume_reading()

    def _has_long_field(self) -> bool:
        return any(len(name) + len(value) > FIELD_BYTES_MAX for name, value in self._headers)

    def _without_upgrade(self) -> bytes:
        """The head of this request, as if it offered no other protocol."""
        method, version = self._parser.get_method(), self._parser.get_http_version().encode()
        return _printed_head(
            b"%s %s HTTP/%s" % (method, self._url, version),
            [header for header in self._headers if header[0] != b"upgrade"],
        )

    def _hand_over(self, rest: bytes) -> None:
        """Let the WebSocket protocol have the connection, beginning with this request."""
        self.server_state.connections.discard(self)
        self.places.leave(self)
        protocol = self.config.ws_protocol_class(self.config, self.server_state, self.app_state)
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        protocol.data_received(_printed_head(b"GET %s HTTP/1.1" % self._url, self._headers))
        if rest:
            protocol.data_received(rest)


class Exchange:
    """One request and its answer."""

    def __init__(self, connection: HttpProtocol, scope: Message, is_continued: bool, keeps_alive: bool) -> None:
        self.keeps_alive = keeps_alive
        self.is_started = False
        self.is_gone = False
        """The client is not there any more."""
        self._connection = connection
        self._scope = scope
        self._is_continued = is_continued
        """The client waits for a word before it sends the body."""
        self._body = bytearray()
        self._is_whole = False
        self._is_told = False
        """The application knows the whole body."""
        self._is_over = False
        self._head = b""
        self._is_chunked = False
        self._left = 0.0
        """Bytes that the answer still lacks; infinite when the end of the connection is its end."""
        self._listener: asyncio.Future[None] | None = None

    async def run(self, app: App) -> None:
        """Have the application answer."""
        try:
            await app(self._scope, self.receive, self.send)
        except Exception:
            _log.exception("application_failed")  # the edge answers whatever fails behind it, so this is its own defect
        if not self._is_over and not self.is_gone:
            self._connection.drop()

    async def receive(self) -> Message:
        """ASGI's receive: the body as it comes; then, when the client goes, that it did."""
        if self._is_continued and not self.is_started:
            self._is_continued = False
            self._connection.write(_CONTINUE)
        while True:
            if self.is_gone or self._is_over:
                return {**_GONE}
            if self._body or (self._is_whole and not self._is_told):
                body, self._body = bytes(self._body), bytearray()
                self._is_told = self._is_whole
                return {"type": "http.request", "body": body, "more_body": not self._is_whole}
            self._connection.wants_body()
            self._listener = self._connection.loop.create_future()
            try:
                await self._listener
            finally:
                self._listener = None

    async def send(self, message: Message) -> None:
        """ASGI's send. Returns when the client has taken most of it."""
        if self.is_gone:
            return
        if not self.is_started:
            self._start(message["status"], message["headers"])
            return
        if self._is_over:
            raise RuntimeError("the answer is over")
        body, is_last = message.get("body", b""), not message.get("more_body", False)
        head, self._head = self._head, b""
        if self._scope["method"] == "HEAD":
            body = b""
        elif self._is_chunked:
            body = b"".join((b"%x\r\n" % len(body), body, b"\r\n") if body else ()) + (b"0\r\n\r\n" if is_last else b"")
        else:
            self._left -= len(body)
            if self._left < 0 or (is_last and self._left not in (0, inf)):
                raise RuntimeError("the answer is not as long as it says")
        if head and len(body) <= UNSENT_BYTES_MAX:
            self._connection.write(head + body)
        else:
            if head:
                self._connection.write(head)
            if body:
                self._connection.write(body)
        if self._connection.write_paused:
            await self._connection.drained()
        if is_last and not self.is_gone:
            self._is_over = True
            self._awake()
            self._connection.answered(self)

    def take(self, body: bytes) -> int:
        """A part of the body came; how many bytes the application has not taken yet."""
        if self._is_over or self.is_gone:
            return 0
        self._body += body
        self._awake()
        return len(self._body)

    def end_body(self) -> None:
        """The body is whole."""
        self._is_whole = True
        self._awake()

    def hear_no_more(self) -> None:
        """The client sends nothing any more. If its body is not whole, or the application listens for its leaving
        because its answer has no end, then it has left."""
        self.keeps_alive = False
        if not self._is_whole or (self._listener is not None and self._is_told):
            self.leave()

    def leave(self) -> None:
        """The client has left."""
        self.is_gone = True
        self._awake()

    def _awake(self) -> None:
        if self._listener is not None and not self._listener.done():
            self._listener.set_result(None)

    def _start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.is_started = True
        lines = [_STATUS_LINES[status]]
        length: float | None = None
        for name, value in (*self._connection.default_headers, *headers):
            lines.append(b"%s: %s\r\n" % (name, value))
            if name == b"content-length":
                length = int(value)
            elif name == b"connection" and value == b"close":
                self.keeps_alive = False
        has_body = self._scope["method"] != "HEAD" and status not in (204, 304)
        if has_body and length is None:
            if self._scope["http_version"] == "1.1":
                self._is_chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
            else:
                self.keeps_alive, length = False, inf
        self._left = (length or 0.0) if has_body else 0.0
        if self._connection.ends:
            self.keeps_alive = False
        if not self.keeps_alive and (b"connection", b"close") not in headers:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        self._head = b"".join(lines)
        if self._head.count(b"\n") != len(lines):
            raise RuntimeError("a header has a line break")


def bound(transport: Any) -> None:
    """Set the bounds of a connection's buffers, as far as the system knows them."""
    transport.set_write_buffer_limits(high=UNSENT_BYTES_MAX)
    connection = transport.get_extra_info("socket")
    for option, value in (("TCP_USER_TIMEOUT", SILENT_MS), ("TCP_NOTSENT_LOWAT", KERNEL_BYTES_MAX)):
        if connection.family != socket.AF_UNIX and hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _printed_head(line: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    return line + b"\r\n" + b"".join(b"%s: %s\r\n" % header for header in headers) + b"\r\n"


async def _say_full(scope: Message, receive: Any, send: Any) -> None:
    """The application of a connection for which there is no place."""
    await send_reply(problem_reply(problems.unavailable("too many connections", FULL_RETRY_S)), send, closing=True)


def printed(reply: Reply) -> bytes:
    """An answer as it goes over the wire, the last of its connection."""
    headers = (*reply.headers, *SECURITY, (b"connection", b"close"))
    return _printed_head(_STATUS_LINES[reply.status].rstrip(), headers) + reply.body
