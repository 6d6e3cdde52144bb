"""The edge: what every request meets before it is understood, and every answer on its way out. Plain ASGI.

Imports the read side's problems and replies, anyio and structlog; no framework. In order: the prefix, bounds of target
and headers, hosts, whose request it is, the rate limit, the bearer token, the body, answers that are kept; on the way
out the content coding, what the client knows already, the bound of what waits for readers. What is always true: an
answer is a problem of ours or an answer, with the security headers, whatever the application raises; nothing of an
exception, a token or a query is in an answer or a log; and no client can fill the log.
"""

import hmac
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, Final

import anyio
import structlog

from crashfold.engine.http import problems
from crashfold.engine.http.answers import Answers
from crashfold.engine.http.clients import Proxies, RateLimit, is_own_machine
from crashfold.engine.http.codings import Codings
from crashfold.engine.http.problems import Problem
from crashfold.engine.http.replies import Headers, Reply, problem_reply
from crashfold.engine.http.requests import ApiRequest
from crashfold.engine.http.routes import plain
from crashfold.engine.meter import ApiMeter, Source
from crashfold.engine.ports import Clock, RateLimits
from crashfold.engine.settings import ApiSettings
from crashfold.engine.tracing import NullTracer, Tracer

BODY_BYTES_MAX: Final = 64 << 10
"""A hundred values take 2 KiB."""
TARGET_BYTES_MAX: Final = 8 << 10
HEADERS_BYTES_MAX: Final = 32 << 10
BODY_WAIT_S: Final = 5.0
ANSWER_WAIT_S: Final = 20.0
"""Longer than the longest wait for a version."""
PIECE_BYTES: Final = 64 << 10
"""A bigger answer is sent in pieces, each when its reader has taken the one before."""
UNSENT_RETRY_S: Final = 2
DEFECTS_EVERY_S: Final = 10.0
"""How often a defect is logged, at most."""

PROBES: Final = frozenset(("/livez", "/readyz", "/startupz"))
"""No token, no host and no limit for these: whoever restarts processes asks them, and they tell nothing."""
LIVE_EVENTS: Final = "/api/stream"
WEBSOCKET: Final = "/ws"
LIVE: Final = frozenset((LIVE_EVENTS, WEBSOCKET))
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
Page = Callable[[Mapping[str, str]], Awaitable[Reply]]
"""A function that answers the headers of a GET."""

_log = structlog.get_logger("access")


class Note:
    """The measurements of a request."""

    __slots__ = ("client", "route", "source", "status")

    def __init__(self, client: str) -> None:
        self.client = client
        self.route = "other"
        self.source: Source = "none"
        self.status = 0


class Edge:
    """The whole of the ASGI application. `live` serves the live routes, `pages` says what stands at fixed paths, of
    which `open_paths` need no token: they have no data."""

    def __init__(
        self,
        live: App,
        answers: Answers,
        settings: ApiSettings,
        *,
        clock: Clock,
        meter: ApiMeter,
        pages: Mapping[str, Page],
        open_paths: Iterable[str] = (),
        rate_limits: RateLimits | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer or NullTracer()
        self._live = live
        self._answers = answers
        self._clock = clock
        self._meter = meter
        self._pages = pages
        self._root = settings.root_path
        self._token = settings.token.encode()
        self._hosts = frozenset(host.lower() for host in settings.allowed_hosts)
        self._origins = frozenset(origin.encode() for origin in settings.cors_origins)
        self._proxies = Proxies(settings.trusted_proxies)
        self._rate = RateLimit(settings.rate_limit_per_minute, clock, shared=rate_limits)
        self._open = PROBES | frozenset(open_paths)
        self._security: Headers = SECURITY if self._origins else (*SECURITY, SAME_ORIGIN)
        self._codings = Codings()
        self._unsent_bytes = 0
        self._unsent_bytes_max = settings.unsent_bytes_max
        self._live_clients: Counter[str] = Counter()
        self._live_clients_max = settings.live_clients_max
        self._defect_s = -DEFECTS_EVERY_S

    @property
    def unsent_bytes(self) -> int:
        """Bytes of big answers that wait for their readers."""
        return self._unsent_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        match scope["type"]:
            case "http":
                await self._http(scope, receive, send)
            case "websocket":
                await self._websocket(scope, receive, send)
            case _:
                await self._live(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began_s = self._clock.monotonic_s()
        headers = joined(scope["headers"])
        note = Note(self._client_of(scope, headers))
        path = self._path_of(scope)
        added = self._added(headers)

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                note.status = message["status"]
                message = {**message, "headers": _together(message["headers"], added)}
            await send(message)

        try:
            reply = await self._refusal(scope, path, headers, note) or self._preflight(scope, headers)
            if reply is not None:
                await send_reply(reply, send_on)
            elif path in LIVE:
                await self._serve_live(scope, path, receive, send_on, note)
            else:
                with self._tracer.request(scope["method"], headers) as span:
                    await self._answer(scope, path, headers, receive, send_on, note)
                    span.note("http.route", note.route)
                    span.note("http.response.status_code", note.status)
                    span.note("crashfold.source", note.source)
        except Exception:
            self._log_defect(method=scope["method"], route=note.route)
            if note.status == 0:
                await send_reply(problem_reply(problems.internal()), send_on)
        finally:
            duration_s = self._clock.monotonic_s() - began_s
            self._meter.answered(note.route, note.status, note.source, None if path in LIVE else duration_s)
            _log_access(scope, note, duration_s)

    async def _serve_live(self, scope: Scope, path: str, receive: Receive, send: Send, note: Note) -> None:
        """Server-sent events, or what is said instead."""
        note.route = path
        method = scope["method"]
        if path == WEBSOCKET:
            allow = (b"allow", b"GET")
            upgrade = problem_reply(
                problems.upgrade_required(), (b"upgrade", b"websocket"), (b"connection", b"upgrade")
            )
            await send_reply(upgrade if method == "GET" else problem_reply(problems.method_not_allowed(), allow), send)
            return
        if method != "GET":
            await send_reply(_other_method(method, b"GET, OPTIONS"), send)
            return
        with self._counted(note.client) as has_place:
            if has_place:
                await self._live({**scope, "path": path}, receive, send)
            else:
                await send_reply(problem_reply(_no_place()), send)

    async def _answer(
        self, scope: Scope, path: str, headers: dict[str, str], receive: Receive, send: Send, note: Note
    ) -> None:
        """Read the body and answer, in the form that the client wants."""
        method, body = scope["method"], b""
        if method not in ("GET", "HEAD"):
            read = await _read_body(receive, headers)
            if read is None:
                return
            if isinstance(read, Problem):
                await send_reply(problem_reply(read), send, closing=True)
                return
            body = read
        reply: Reply | None
        if path.startswith("/api/"):
            asked, query = "GET" if method == "HEAD" else method, scope["query_string"].decode("latin-1")
            reply = self._answers.kept(asked, path, query, headers, body)
            if reply is None:
                with anyio.move_on_after(ANSWER_WAIT_S):
                    reply = await self._answers.answer(ApiRequest(asked, path, query, body, headers))
            if reply is None:
                reply = problem_reply(problems.unavailable("it took too long", 5))
        else:
            reply = await self._page(method, path, scope["query_string"], headers)
        note.route, note.source = reply.route, reply.source
        size = len(reply.body)
        if size <= PIECE_BYTES:  # bounded by the number of connections
            await self._send(reply, method, headers, send)
        elif self._unsent_bytes and self._unsent_bytes + size > self._unsent_bytes_max:
            full = problems.unavailable("too many answers wait for their readers", UNSENT_RETRY_S)
            await send_reply(problem_reply(full), send)
        else:
            self._unsent_bytes += size
            try:
                await self._send(reply, method, headers, send)
            finally:
                self._unsent_bytes -= size

    async def _send(self, reply: Reply, method: str, headers: dict[str, str], send: Send) -> None:
        """Send what the client lacks of a reply, in the form that it wants."""
        accept = headers.get("accept-encoding")
        known = headers.get("if-none-match") if method in ("GET", "HEAD") else None
        if accept is not None:
            reply = await self._codings.coded(reply, accept, known)
        if known is not None:
            reply = reply.unless_known(known)
        await send_reply(reply, send)

    async def _page(self, method: str, path: str, query: bytes, headers: dict[str, str]) -> Reply:
        """Return the answer at a path that asks no question."""
        page = self._pages.get(path)
        if page is not None:
            return await page(headers) if method in ("GET", "HEAD") else _other_method(method, b"GET, HEAD, OPTIONS")
        if self._root and path == self._root:
            place = f"{self._root}/".encode() + (b"?" + query if query else b"")
            return Reply(308, ((b"location", place), (b"content-length", b"0")), b"")
        if path == "*":
            return Reply(204, ((b"allow", b"GET, HEAD, OPTIONS, POST"),), b"")
        return problem_reply(problems.no_such_route())

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = joined(scope["headers"])
        note = Note(self._client_of(scope, headers))
        path = self._path_of(scope)
        try:
            refusal = await self._refusal(scope, path, headers, note)
            origin = headers.get("origin", "").encode("latin-1")
            host = headers.get("host", "").encode("latin-1")
            if refusal is None and origin and not (self._is_origin(origin) or origin.partition(b"://")[2] == host):
                refusal = problem_reply(problems.host_not_allowed())  # browsers ask no leave for sockets: we must
            if refusal is None and path != WEBSOCKET:
                refusal = problem_reply(problems.no_such_route())
            with self._counted(note.client, refusal is None) as has_place:
                if refusal is None and has_place:
                    await self._live({**scope, "path": path}, receive, send)
                else:
                    await deny(scope, receive, send, refusal or problem_reply(_no_place()), self._security)
        except Exception:
            self._log_defect(method="GET", route=WEBSOCKET)
            raise  # the protocol answers, or closes

    def _client_of(self, scope: Scope, headers: Mapping[str, str]) -> str:
        peer = scope["client"][0] if scope.get("client") else ""
        return self._proxies.client_of(peer, headers.get("x-forwarded-for"))

    def _path_of(self, scope: Scope) -> str:
        """The path without needless escapes, and without the prefix, which a proxy may have taken off or not."""
        # As it was sent: in the decoded one a slash may be part of a value.
        raw = (scope.get("raw_path") or scope["path"].encode()).partition(b"?")[0].decode("latin-1")
        path = plain(raw) if "%" in raw else raw
        root = self._root
        return path[len(root) :] if root and path.startswith(root) and path[len(root) : len(root) + 1] == "/" else path

    async def _refusal(self, scope: Scope, path: str, headers: dict[str, str], note: Note) -> Reply | None:
        """Why the request goes no further."""
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > TARGET_BYTES_MAX:
            return problem_reply(problems.target_too_long(TARGET_BYTES_MAX))
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEADERS_BYTES_MAX:
            return problem_reply(problems.headers_too_large(HEADERS_BYTES_MAX))
        if path in PROBES:
            return None
        if self._hosts and _name_of(headers.get("host", "")) not in self._hosts:
            return problem_reply(problems.host_not_allowed())
        limited = await self._rate.refusal(note.client)
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

    def _added(self, headers: dict[str, str]) -> Headers:
        """Return the headers that every answer carries."""
        if not self._origins:
            return self._security
        added = list(self._security)
        origin = headers.get("origin", "").encode("latin-1")
        if b"*" not in self._origins:
            added.append((b"vary", b"Origin"))
        if origin and self._is_origin(origin):
            allowed = b"*" if b"*" in self._origins else origin
            added += [(b"access-control-allow-origin", allowed), (b"access-control-expose-headers", EXPOSED)]
        return tuple(added)

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

    @contextmanager
    def _counted(self, client: str, comes: bool = True) -> Iterator[bool]:
        """Count a live client of that address while the block runs; whether it leaves places for others."""
        if not comes:
            yield False
            return
        bound = self._live_clients_max - self._live_clients_max // 4
        is_ours = is_own_machine(client) or self._proxies.are_trusted(client)
        self._live_clients[client] += 1
        try:
            yield is_ours or self._live_clients[client] <= bound
        finally:
            self._live_clients[client] -= 1
            if not self._live_clients[client]:
                del self._live_clients[client]

    def _log_defect(self, **fields: str) -> None:
        """Log the exception that is being handled, unless one was logged a moment ago."""
        now_s = self._clock.monotonic_s()
        if now_s - self._defect_s >= DEFECTS_EVERY_S:
            self._defect_s = now_s
            _log.exception("request_failed", **fields)


def joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The fields by name; one in several lines is one list (RFC 9110, 5.3)."""
    found: dict[str, str] = {}
    for name_bytes, value_bytes in headers:
        name, value = name_bytes.decode("latin-1"), value_bytes.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


async def _read_body(receive: Receive, headers: dict[str, str]) -> bytes | Problem | None:
    """The body; None when the client has gone."""
    if headers.get("content-encoding", "identity").lower() not in ("identity", ""):
        return problems.content_coding_unknown()
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


async def send_reply(reply: Reply, send: Callable[[Any], Awaitable[None]], *, closing: bool = False) -> None:
    """Send a reply; with `closing` the connection is not used again. Over when its reader has taken most of it."""
    headers = [*reply.headers, (b"connection", b"close")] if closing else reply.headers
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    body = reply.body
    if len(body) > PIECE_BYTES:
        whole = memoryview(body)
        for start in range(0, len(body) - PIECE_BYTES, PIECE_BYTES):
            await send({"type": "http.response.body", "body": whole[start : start + PIECE_BYTES], "more_body": True})
        body = bytes(whole[(len(body) - 1) // PIECE_BYTES * PIECE_BYTES :])
    await send({"type": "http.response.body", "body": body})


async def deny(scope: Scope, receive: Receive, send: Send, reply: Reply, added: Headers = ()) -> None:
    """Answer the upgrade to a WebSocket with the reply or, through a server that cannot, close at once."""
    await receive()
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = _together(reply.headers, added)
    await send({"type": "websocket.http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": reply.body, "more_body": False})


def _together(own: Iterable[tuple[bytes, bytes]], added: Headers) -> list[tuple[bytes, bytes]]:
    """The headers of an answer, and what every one carries where it says nothing else."""
    headers = [*own]
    names = {name for name, _ in headers}
    headers += [header for header in added if header[0] not in names or header[0] == b"vary"]
    return headers


def _other_method(method: str, allowed: bytes) -> Reply:
    allow = (b"allow", allowed)
    return Reply(204, (allow,), b"") if method == "OPTIONS" else problem_reply(problems.method_not_allowed(), allow)


def _no_place() -> Problem:
    return problems.unavailable("too many live clients of this address", 10)


def _name_of(host: str) -> str:
    """The host of a header `host:port`."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()


def _log_access(scope: Scope, note: Note, duration_s: float) -> None:
    """A line a request, at debug whatever came of it: what a client can cause at will must not fill the log."""
    _log.debug(
        "request",
        method=scope["method"],
        path=scope["path"][:200],
        status=note.status,
        source=note.source,
        duration_ms=round(duration_s * 1000, 3),
        client=note.client,
    )
