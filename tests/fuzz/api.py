"""The API: any request gets an answer or a problem, and never a 500.

The input is a request: a line with method and target, lines of headers, an empty line, the body. It goes through the
whole application, over a store in memory that the engine's own fold has filled.
"""

import asyncio
import math
import re
from contextlib import AsyncExitStack
from typing import Any, Final

import msgspec

from crashfold.engine import logs
from crashfold.engine.adapters.memory.limits import MemoryRateLimits
from crashfold.engine.adapters.memory.reader import MemoryReader
from crashfold.engine.adapters.memory.store import MemoryStore
from crashfold.engine.adapters.process.clock import SystemClock
from crashfold.engine.http.answers import Answers
from crashfold.engine.http.app import create_app
from crashfold.engine.http.edge import Edge
from crashfold.engine.http.routes import ROUTES
from crashfold.engine.meter import ApiMeter
from crashfold.engine.read.followers import Followers
from crashfold.engine.read.health import ApiHealth
from crashfold.engine.read.times import Zones
from crashfold.engine.settings import LogSettings, Settings
from crashfold.projections.settings import ProjectionSettings
from tests.support.api_server import Writer
from tests.support.games import sample_games

TOKENS: Final = (
    *(route.path.replace("{value}", "2").encode() for route in ROUTES),
    *(b"?games=", b"&hours=", b"&by_time=true", b"?limit=", b"&sort_by=length", b"?interval_minutes=", b"&page="),
    *(b"?start_date=2026-01-14", b"&end_date=2026-01-15", b"&games_per_set=", b"&total_games=", b"&at=", b"&stream="),
    *(b"&per_page=", b"X-Timezone: Europe/Vienna\n", b"If-None-Match: ", b"Accept-Encoding: gzip\n", b"%20", b"%2F"),
    *(b'{"values":[', b'"comparison":false', b'"by_time":true', b"2026-01-14T12:00:00Z", b"1e400", b"9" * 20, b"nan"),
)
GAMES: Final = 400
STATUSES: Final = frozenset((200, 204, 304, 308, 400, 404, 405, 411, 413, 414, 415, 421, 422, 426, 431))
PROJECTIONS: Final = ProjectionSettings(
    min=(1.5, 2, 10), max=(1, 1.2), floor=(1, 7), samples_games=(100,), window_games=300
)
METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"DELETE"))

_LIVE: Final = (b"/api/stream", b"/ws")
_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00\r\n]*?)[ \t]*")
_MIN_VERSION: Final = re.compile(rb"min_version|min%5|%5f|%6d|%4", re.IGNORECASE)
"""A request that waits for a version, in any writing; what it waits for never comes."""


class _Api:
    """The application, with its followers, on an event loop that runs while a request does."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._is_up = asyncio.Event()
        self._app: Edge | None = None
        self._keeping = self._loop.create_task(self._keep())
        self._loop.run_until_complete(self._is_up.wait())

    async def _keep(self) -> None:
        logs.configure(LogSettings(level="error"))
        clock, store = SystemClock(), MemoryStore()
        await Writer(store, PROJECTIONS).commit(sample_games()[:GAMES])
        reader, settings = MemoryReader(store), Settings(projections=PROJECTIONS)
        async with AsyncExitStack() as stack:
            followers = Followers(reader, clock, only_stream="crash")
            await stack.enter_async_context(followers.running())
            assert await followers.follow("crash") is not None
            meter = ApiMeter()
            answers = Answers(followers, reader, settings, clock=clock, meter=meter, zones=Zones())
            self._app = create_app(
                answers,
                ApiHealth(followers, list),
                settings,
                clock=clock,
                meter=meter,
                metrics=no_metrics,
                rate_limits=MemoryRateLimits(clock),
            )
            self._is_up.set()
            await asyncio.Event().wait()

    def ask(self, scope: dict[str, Any], body: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
        """Status, headers and body of the answer."""
        return self._loop.run_until_complete(self._ask(scope, body))

    async def _ask(self, scope: dict[str, Any], body: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
        received = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[Any] = []

        async def receive() -> Any:
            return received.pop() if received else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        assert self._app is not None
        await self._app(scope, receive, send)
        begin, *pieces = sent
        return begin["status"], dict(begin["headers"]), b"".join(piece.get("body", b"") for piece in pieces)


async def no_metrics(accept: str) -> tuple[bytes, str]:
    """What `/metrics` says."""
    return b"", "text/plain"


_api: _Api | None = None


def check(data: bytes) -> None:
    """Ask."""
    global _api
    asked = request_in(data)
    if asked is None:
        return
    _api = _api or _Api()
    scope, body = asked
    status, headers, answer = _api.ask(scope, body)
    assert status in STATUSES, f"{status}: {answer[:500]!r}"
    if scope["method"] == "HEAD":
        return
    if status >= 400:
        assert headers[b"content-type"] == b"application/problem+json"
        problem = msgspec.json.decode(answer)
        assert problem["status"] == status
        assert problem["title"]
    elif headers.get(b"content-type") == b"application/json" and b"content-encoding" not in headers:
        found = msgspec.json.decode(answer)
        assert found["status"] in ("success", "ok"), found
        assert_finite(found)


def assert_finite(value: Any) -> None:
    """No number is one that JSON has not."""
    if isinstance(value, float):
        assert math.isfinite(value)
    elif isinstance(value, dict):
        for inner in value.values():
            assert_finite(inner)
    elif isinstance(value, list):
        for inner in value[:50]:
            assert_finite(inner)


def request_in(data: bytes) -> tuple[dict[str, Any], bytes] | None:
    """The request that an input means, as ASGI has it; None for one that HTTP would not let through, or that waits."""
    head, _, body = data.partition(b"\n\n")
    first, *lines = head.split(b"\n")
    method, _, target = first.partition(b" ")
    path, _, query = target.partition(b"?")
    headers = [found.groups() for line in lines if (found := _HEADER.fullmatch(line)) is not None]
    if method not in METHODS or not path.startswith(b"/") or re.search(rb"[\x00-\x20\x7f]", target):
        return None
    if path in _LIVE or b"%" in path[:8] or _MIN_VERSION.search(query):
        return None
    headers = [(name.lower(), value) for name, value in headers if name.lower() not in (b"content-length", b"expect")]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method.decode("ascii"),
        "scheme": "http",
        "path": path.decode("latin-1"),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1"), *headers, (b"content-length", b"%d" % len(body))],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "extensions": {},
        "state": {},
    }
    return scope, body
