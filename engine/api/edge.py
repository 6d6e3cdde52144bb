"""The edge: what every request meets before it is understood, and every answer on its way out. Plain ASGI.

Imports the read side's problems and replies, anyio and structlog; no framework. In order: bounds of target and headers,
hosts, origins, the bearer token, the rate limit, the body, answers that are kept; behind it the application, which is
asked GET for HEAD. What is always true: an answer is a problem of ours or an answer, with the security headers,
whatever the application raises; and nothing of an exception, a token or a query is in an answer or a log.
"""

import hmac
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from math import ceil
from typing import Any, Final

import anyio
import structlog

from engine.api import problems
from engine.api.answers import Answers, Reply, problem_reply
from engine.api.meter import ApiMeter, Source
from engine.api.problems import Problem
from engine.api.routes import Request
from engine.ports import Clock
from engine.settings import ApiSettings

BODY_BYTES_MAX: Final = 64 << 10
"""A hundred values take 2 KiB."""
TARGET_BYTES_MAX: Final = 8 << 10
HEADERS_BYTES_MAX: Final = 32 << 10
BODY_WAIT_S: Final = 5.0
ANSWER_WAIT_S: Final = 20.0
"""Longer than the longest wait for a version."""
CLIENTS_MAX: Final = 10_000
"""Clients whose rate is known; who was silent for longest is forgotten first."""

PROBES: Final = frozenset(("/livez", "/readyz", "/startupz"))
"""No token, no host and no limit for these: whoever restarts processes asks them, and they tell nothing."""
LIVE: Final = frozenset(("/api/stream", "/ws"))
"""These may take as long as they like."""

SECURITY: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""A page brings a policy of its own."""
SAME_ORIGIN: Final = (b"cross-origin-resource-policy", b"same-origin")
"""Unless other origins may ask."""
EXPOSED: Final = b"ETag, Retry-After, Age, X-Crashfold-Source, X-Crashfold-Version, X-Crashfold-Age-S"
ALLOWED: Final = b"Authorization, Content-Type, If-None-Match, Last-Event-ID, X-Timezone"

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]

NOTE: Final = "crashfold.note"
"""Where a handler notes what it did, in the scope."""

_log = structlog.get_logger("access")


class Note:
    """What is measured of a request."""

    __slots__ = ("route", "source", "status")

    def __init__(self) -> None:
        self.route = "other"
        self.source: Source = "none"
        self.status = 0


class RateLimit:
    """So many requests per minute for each client, all of which may come at once; 0 is no limit."""

    def __init__(self, per_minute: int, clock: Clock, clients_max: int = CLIENTS_MAX) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._clients_max = clients_max
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def refusal(self, client: str) -> Problem | None:
        """Why the client must wait, if it must; otherwise one request of its own is taken off."""
        if not self._per_minute:
            return None
        now_s, rate = self._clock.monotonic_s(), self._per_minute / 60
        left, then_s = self._left.pop(client, (float(self._per_minute), now_s))
        left = min(float(self._per_minute), left + (now_s - then_s) * rate)
        refused = left < 1
        self._left[client] = (left if refused else left - 1, now_s)
        if len(self._left) > self._clients_max:
            self._left.popitem(last=False)
        return problems.too_many_requests(ceil((1 - left) / rate)) if refused else None


class Edge:
    """The whole of the ASGI application. `open_paths` need no token beside the probes: pages without data."""

    def __init__(
        self,
        app: App,
        answers: Answers,
        settings: ApiSettings,
        *,
        clock: Clock,
        meter: ApiMeter,
        open_paths: Iterable[str] = (),
    ) -> None:
        self._app = app
        self._answers = answers
        self._clock = clock
        self._meter = meter
        self._token = settings.token.encode()
        self._hosts = frozenset(host.lower() for host in settings.allowed_hosts)
        self._origins = frozenset(origin.encode() for origin in settings.cors_origins)
        self._rate = RateLimit(settings.rate_limit_per_minute, clock)
        self._open = PROBES | frozenset(open_paths)
        self._security = SECURITY if self._origins else (*SECURITY, SAME_ORIGIN)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        match scope["type"]:
            case "http":
                await self._http(scope, receive, send)
            case "websocket":
                await self._websocket(scope, receive, send)
            case _:
                await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began_s = self._clock.monotonic_s()
        note = scope[NOTE] = Note()
        asked_headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        added = self._added(asked_headers)
        is_live = scope["path"] in LIVE
        is_head = scope["method"] == "HEAD" and not is_live

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                note.status = message["status"]
                own = {name for name, _ in message["headers"]}
                more = [header for header in added if header[0] not in own or header[0] == b"vary"]
                headers = [*message["headers"], *more]
                if scope["method"] == "OPTIONS" and not is_live:
                    headers = [(name, _with_head(value) if name == b"allow" else value) for name, value in headers]
                message = {**message, "headers": headers}
            elif is_head:
                message = {**message, "body": b""}
            await send(message)

        try:
            refusal = self._refusal(scope, asked_headers) or self._preflight(scope, asked_headers)
            if refusal is not None:
                await send_reply(refusal, send_on)
            else:
                asked = {**scope, "method": "GET"} if is_head else scope
                await self._ask(asked, receive, send_on, asked_headers, note)
        except Exception:
            _log.exception("request_failed", method=scope["method"], route=note.route)
            if note.status == 0:
                await send_reply(problem_reply(problems.internal()), send_on)
        finally:
            duration_s = self._clock.monotonic_s() - began_s
            self._meter.answered(note.route, note.status, note.source, None if is_live else duration_s)
            _log_access(scope, note, duration_s)

    async def _ask(self, scope: Scope, receive: Receive, send: Send, headers: dict[str, str], note: Note) -> None:
        """Read the body; answer a question, or pass the request on to the application."""
        body = b""
        if scope["method"] != "GET":
            read = await _read_body(receive, headers)
            if read is None:
                return
            if isinstance(read, Problem):
                await send_reply(problem_reply(read), send, closing=True)
                return
            body = read
            receive = _again(body, receive)
        if scope["path"] in LIVE:
            note.route = scope["path"]
            await self._app(scope, receive, send)
            return
        with anyio.move_on_after(ANSWER_WAIT_S) as deadline:
            if not scope["path"].startswith("/api/"):
                await self._app(scope, receive, send)
                return
            # The path as it was sent: in the decoded one a slash may be part of a value.
            path = (scope.get("raw_path") or scope["path"].encode()).partition(b"?")[0].decode("latin-1")
            query = scope["query_string"].decode("latin-1")
            reply = self._answers.kept(scope["method"], path, query, headers, body)
            if reply is None:
                reply = await self._answers.answer(Request(scope["method"], path, query, body, headers))
            note.route, note.source = reply.route, reply.source
            await send_reply(reply, send)
        if deadline.cancelled_caught and note.status == 0:
            await send_reply(problem_reply(problems.unavailable("it took too long", 5)), send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        origin = headers.get("origin", "").encode()
        host = headers.get("host", "").encode()
        if refusal is None and origin and not (self._is_origin(origin) or origin.partition(b"://")[2] == host):
            refusal = problem_reply(problems.host_not_allowed())  # browsers ask no leave for sockets: we must
        if refusal is None:
            await self._app(scope, receive, send)
            return
        await receive()
        if "websocket.http.response" in (scope.get("extensions") or {}):
            await send(
                {"type": "websocket.http.response.start", "status": refusal.status, "headers": [*refusal.headers]}
            )
            await send({"type": "websocket.http.response.body", "body": refusal.body, "more_body": False})
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> Reply | None:
        """Why the request goes no further."""
        path = scope["path"]
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > TARGET_BYTES_MAX:
            return problem_reply(problems.target_too_long(TARGET_BYTES_MAX))
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEADERS_BYTES_MAX:
            return problem_reply(problems.headers_too_large(HEADERS_BYTES_MAX))
        if path in PROBES:
            return None
        if self._hosts and _name_of(headers.get("host", "")) not in self._hosts:
            return problem_reply(problems.host_not_allowed())
        client = scope["client"][0] if scope.get("client") else ""
        limited = self._rate.refusal(client)
        if limited is not None:
            return problem_reply(limited)
        if self._token and path not in self._open and not self._is_authorized(scope, headers):
            return problem_reply(problems.unauthorized(), (b"www-authenticate", b'Bearer realm="crashfold"'))
        return None

    def _is_authorized(self, scope: Scope, headers: dict[str, str]) -> bool:
        """Whether the token is right, in time that does not depend on how wrong it is."""
        if scope.get("method") == "OPTIONS" and "access-control-request-method" in headers:
            return True  # a preflight carries none, and is told nothing
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip().encode("latin-1") if scheme.lower() == "bearer" else b""
        return hmac.compare_digest(given, self._token)

    def _is_origin(self, origin: bytes) -> bool:
        return origin in self._origins or b"*" in self._origins

    def _added(self, headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
        """What every answer carries."""
        added = list(self._security)
        if self._origins:
            origin = headers.get("origin", "").encode("latin-1")
            if b"*" not in self._origins:
                added.append((b"vary", b"Origin"))
            if origin and self._is_origin(origin):
                allowed = b"*" if b"*" in self._origins else origin
                added += [(b"access-control-allow-origin", allowed), (b"access-control-expose-headers", EXPOSED)]
        return added

    def _preflight(self, scope: Scope, headers: dict[str, str]) -> Reply | None:
        """The answer to a browser that asks whether a page of another origin may ask."""
        if scope["method"] != "OPTIONS" or "access-control-request-method" not in headers:
            return None
        if not self._is_origin(headers.get("origin", "").encode("latin-1")):
            return None
        told = (
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", ALLOWED),
            (b"access-control-max-age", b"600"),
        )
        return Reply(204, told, b"")


async def _read_body(receive: Receive, headers: dict[str, str]) -> bytes | Problem | None:
    """The body; None when the client has gone."""
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > BODY_BYTES_MAX:
        return problems.body_too_large(BODY_BYTES_MAX)
    body = bytearray()
    with anyio.move_on_after(BODY_WAIT_S):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > BODY_BYTES_MAX:
                return problems.body_too_large(BODY_BYTES_MAX)
            if not message.get("more_body", False):
                return bytes(body)
    return problems.too_slow()


def _again(body: bytes, receive: Receive) -> Receive:
    """A receive that begins with a body that was read already."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return first.pop() if first else await receive()

    return receive_again


async def send_reply(reply: Reply, send: Callable[[Any], Awaitable[None]], *, closing: bool = False) -> None:
    """Send a reply; with `closing` the connection is not used again."""
    headers = [*reply.headers, (b"connection", b"close")] if closing else [*reply.headers]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def _with_head(allowed: bytes) -> bytes:
    """What Litestar says of a path's methods; it does not know that HEAD is answered as GET."""
    return allowed if b"HEAD" in allowed else allowed.replace(b"GET", b"GET, HEAD")


def _name_of(host: str) -> str:
    """The host of a header `host:port`."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()


def _log_access(scope: Scope, note: Note, duration_s: float) -> None:
    """A line a request: at debug, since a healthy server answers thousands a second; what goes wrong a step higher."""
    write = _log.error if note.status >= 500 and note.status != 503 else _log.info if note.status >= 400 else _log.debug
    client = scope["client"][0] if scope.get("client") else ""
    write(
        "request",
        method=scope["method"],
        path=scope["path"][:200],
        status=note.status,
        source=note.source,
        duration_ms=round(duration_s * 1000, 3),
        client=client,
    )
