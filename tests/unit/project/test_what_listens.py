"""The tables of docs/security.md: where each process listens, and what each route tells who has no token."""

from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import httpx
from prometheus_client import CollectorRegistry

from crashfold.engine.adapters.memory.reader import MemoryReader
from crashfold.engine.adapters.memory.store import MemoryStore
from crashfold.engine.adapters.process.clock import SystemClock
from crashfold.engine.adapters.web.probes import serve_probes
from crashfold.engine.http import page
from crashfold.engine.http.answers import Answers
from crashfold.engine.http.app import create_app
from crashfold.engine.http.edge import Edge
from crashfold.engine.http.live import live_routes
from crashfold.engine.http.routes import ROUTES
from crashfold.engine.meter import ApiMeter
from crashfold.engine.read.feed import Live
from crashfold.engine.read.followers import Followers
from crashfold.engine.read.health import ApiHealth
from crashfold.engine.read.times import Zones
from crashfold.engine.runtime.health import HealthBoard
from crashfold.engine.settings import ApiSettings, EngineSettings, Settings
from tests.support.api_server import Writer
from tests.support.games import games_at
from tests.support.pages import table_below

TOKEN: Final = "0123456789abcdef"
LISTENERS: Final = table_below("What binds where")
SEEN: Final = {(listener, route): seen for listener, route, seen in table_below("What a reader without the token sees")}
LIVE: Final = ("GET /api/stream", "GET /ws")


def on_the_page(listener: str) -> dict[str, str]:
    """What a reader without the token sees, by the routes of a listener."""
    return {route: seen for (where, route), seen in SEEN.items() if where == listener}


async def metrics(_accept: str) -> tuple[bytes, str]:
    return b"crashfold_games_total 2\n", "text/plain"


@asynccontextmanager
async def api(token: str) -> AsyncIterator[Edge]:
    """The whole application over two games."""
    clock, store, settings = SystemClock(), MemoryStore(), Settings(api=ApiSettings(token=token))
    await Writer(store).commit(games_at(2.0, 3.0))
    reader, meter, zones = MemoryReader(store), ApiMeter(), Zones()
    followers = Followers(reader, clock, only_stream="crash")
    async with followers.running():
        assert await followers.follow("crash") is not None
        answers = Answers(followers, reader, settings, clock=clock, meter=meter, zones=zones)
        live = Live(followers.required, zones, answers.fairness_of, default_stream="crash")
        async with live.running():
            yield create_app(
                answers,
                ApiHealth(followers, list),
                settings,
                clock=clock,
                meter=meter,
                metrics=metrics,
                handlers=lambda: live_routes(live),
                files_at=page.pages(),
            )


def routes_of(app: Edge) -> list[str]:
    """Every route of the application, as the page writes it: files by their folder."""
    pages = [f"GET {path}" for path in app._pages]
    asked = [f"{route.method} {route.path}" for route in ROUTES]
    return [*map(folded, pages), *asked, *LIVE]


def folded(route: str) -> str:
    """The route of a file, as the page has it."""
    for folder in ("GET /page/", "GET /docs/"):
        if route.startswith(folder):
            return f"{folder}{{file}}"
    return route


async def status_of(app: Edge, route: str, token: str = "") -> int:
    """The status with which a route begins to answer a request; that of the first message to a WebSocket."""
    method, path = route.split()
    path = path.replace("{value}", "2").replace("{game_id}", "1")
    path = path.replace("/page/{file}", "/page/page.js").replace("/docs/{file}", "/docs/reference.js")
    headers = [(b"host", b"localhost"), (b"content-length", b"0")]
    if token:
        headers.append((b"authorization", f"Bearer {token}".encode()))
    is_websocket = path == "/ws"
    scope: dict[str, Any] = {
        "type": "websocket" if is_websocket else "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "scheme": "ws" if is_websocket else "http",
        "http_version": "1.1",
        "root_path": "",
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
        "state": {},
    }
    if not is_websocket:
        scope["method"] = method
    statuses: list[int] = []
    asked: list[dict[str, Any]] = [
        {"type": "websocket.connect"} if is_websocket else {"type": "http.request", "body": b""}
    ]

    async with anyio.create_task_group() as tasks:

        async def receive() -> MutableMapping[str, Any]:
            if asked:
                return asked.pop()
            await anyio.sleep_forever()
            raise AssertionError

        async def send(message: MutableMapping[str, Any]) -> None:
            statuses.append(101 if message["type"] == "websocket.accept" else message["status"])
            tasks.cancel_scope.cancel()
            await anyio.sleep_forever()

        with anyio.fail_after(10):
            await app(scope, receive, send)
    return statuses[0]


def test_the_defaults_of_the_page_are_those_of_the_settings() -> None:
    engine, api = EngineSettings(), ApiSettings()
    defaults = {
        "engine.host, engine.port": f"{engine.host}:{engine.port}",
        "api.host, api.port": f"{api.host}:{api.port}",
        "engine.host": "nothing",
        "–": "127.0.0.1, free ports",
    }
    assert [default for _, _, default, _ in LISTENERS] == [defaults[settings] for _, settings, _, _ in LISTENERS]


async def test_every_route_has_a_row_that_says_what_is_seen_without_the_token() -> None:
    wanted = on_the_page("API")
    async with api(TOKEN) as app, api("") as open_to_all:
        assert sorted(set(routes_of(app))) == sorted(wanted)
        for route, seen in wanted.items():
            without = await status_of(app, route)
            assert (without == 401) == (seen == "401"), f"{route}: {without}"
            assert await status_of(app, route, "another-token-1") == without
            assert await status_of(app, route, TOKEN) != 401, route
            assert await status_of(open_to_all, route) != 401, route


async def test_a_stranger_does_not_learn_which_paths_there_are() -> None:
    async with api(TOKEN) as app:
        assert await status_of(app, "GET /api/nothing") == 401
        assert await status_of(app, "GET /nothing") == 401
        assert await status_of(app, "GET /nothing", TOKEN) == 404


async def test_the_engine_serves_the_routes_of_the_page_and_no_other() -> None:
    wanted = on_the_page("engine")
    async with (
        serve_probes("127.0.0.1", 0, HealthBoard(SystemClock()), CollectorRegistry()) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        for route in wanted:
            assert (await client.get(route.split()[1])).status_code in (200, 503), route
        other = await client.get("/")
        assert other.status_code == 404
        assert all(route.split()[1] in other.text for route in wanted)
