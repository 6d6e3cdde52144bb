"""A deployment with its page under test: its servers, `crashfold run`, `crashfold serve`, and a watch on its pages.

Blocks, as `deployment` does. Always true: the watch notes every error on a page's console, every breach of its policy
and every request to another host.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from time import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from crashfold.engine.adapters.embedded import free_port
from crashfold.schemas.game import Game
from tests.support.deployment import Deployment, Engine, Service, chain, in_order
from tests.support.servers import RedisServer

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, ConsoleMessage, Request, WebError

CHAIN_GAMES: Final = 3_000
"""How many games a site can play."""

REPORT_VIOLATIONS: Final = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy violated: ${event.effectiveDirective} by ${event.blockedURI || event.sample}`));
"""


class Site:
    """A deployment whose parts can be ended and started again, each in its place."""

    def __init__(self, deployment: Deployment, redis: RedisServer, stack: ExitStack) -> None:
        self.deployment = deployment
        self.redis = redis
        self.engine: Engine | None = None
        self.api: Service | None = None
        self._stack = stack
        self._port = free_port()
        self._chain = chain(CHAIN_GAMES)
        self._played = 0

    @property
    def url(self) -> str:
        """The page's address."""
        return f"http://127.0.0.1:{self._port}/"

    def start_engine(self, *flags: str) -> Engine:
        """Start `crashfold run`, and wait until it is ready."""
        engine = self.engine = self._stack.enter_context(self.deployment.engine(*flags))
        engine.until(lambda: engine.is_ready, "the engine is ready")
        return engine

    def start_api(self, *flags: str) -> Service:
        """Start `crashfold serve`, where it was before, and wait until it is ready."""
        api = self.api = self._stack.enter_context(self.deployment.api(*flags, port=self._port))
        api.until(lambda: api.is_ready, "the API is ready")
        return api

    def publish(self, games: Sequence[Game], stream: str = "crash", partition: int = 0) -> None:
        """Put games on the topic, and wait until a running engine has committed them."""
        total = self.deployment.total(stream)
        self.deployment.publish(in_order(games, stream, partition))
        if self.engine is not None and self.engine.process.poll() is None:
            self.engine.until(lambda: self.deployment.total(stream) >= total + len(games), "the games are committed")

    def play(self, count: int = 1, *, ended_ms: int | None = None) -> list[Game]:
        """Publish the next games of the site's chain, the newest of which ends now, or at that time."""
        games = self._chain[self._played : self._played + count]
        self._played += count
        shift_ms = (ended_ms or int(time() * 1000)) - games[-1].end_time
        moved = [_moved(game, shift_ms) for game in games]
        self.publish(moved)
        return moved


def _moved(game: Game, by_ms: int) -> Game:
    times = {name: getattr(game, name) + by_ms for name in ("prepare_time", "begin_time", "end_time")}
    return msgspec.structs.replace(game, **times)


class Watch:
    """What the pages of a browser's context did that they should not have done."""

    def __init__(self, context: "BrowserContext", url: str) -> None:
        self.faults: list[str] = []
        self.requests: list[str] = []
        self._host = urlsplit(url).netloc
        self._is_outage = False
        context.add_init_script(REPORT_VIOLATIONS)
        context.on("console", self._hear)
        context.on("weberror", self._note_error)
        context.on("request", self._note_request)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Requests may fail while the block lasts; the browser writes each on the console by itself."""
        self._is_outage = True
        try:
            yield
        finally:
            self._is_outage = False

    def _hear(self, message: "ConsoleMessage") -> None:
        is_expected = self._is_outage and message.text.startswith("Failed to load resource: ")
        if message.type in ("error", "warning") and not is_expected:
            self.faults.append(f"{message.type} on the console: {message.text} ({message.location.get('url')})")

    def _note_error(self, error: "WebError") -> None:
        self.faults.append(f"an exception that nobody caught: {error.error}")

    def _note_request(self, request: "Request") -> None:
        self.requests.append(request.url)
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.netloc != self._host:
            self.faults.append(f"asked another host: {request.url}")
