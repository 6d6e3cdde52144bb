"""Live clients under test: a follower that is told what to hold, a server on loopback, and readers of both transports.

Always true: the server listens on 127.0.0.1, on a port of its own, in this process, and has ended when its block has.
"""

import socket
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import count
from typing import Any, Final, NamedTuple

import anyio
import httpx
import msgspec
import uvicorn
from litestar import Litestar

from crashfold.engine.adapters.memory.reader import MemoryReader
from crashfold.engine.adapters.memory.store import MemoryStore
from crashfold.engine.adapters.process.clock import SystemClock
from crashfold.engine.http.connections import connection_options
from crashfold.engine.http.live import live_routes
from crashfold.engine.http.places import ConnectionBounds, Places
from crashfold.engine.meter import ApiMeter, Transport
from crashfold.engine.ports import Standing
from crashfold.engine.read.fairness import DEFAULT
from crashfold.engine.read.feed import Live, LiveLimits
from crashfold.engine.read.follower import Follower
from crashfold.engine.read.held import HeldState
from crashfold.engine.read.refusals import NotFound
from crashfold.engine.read.subscription import Subscribers
from crashfold.engine.read.times import Zones
from crashfold.projections.games import Bands, Games
from crashfold.schemas.game import Game
from tests.support.games import games_at

HOST: Final = "127.0.0.1"
DEADLINE_S: Final = 30.0
LOOK_AGAIN_S: Final = 0.01
SMALL_BUFFER: Final = 4096
STREAM_REQUEST: Final = b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n"


class ToldFollower(Follower):
    """The follower of one stream, which holds what the test says."""

    def __init__(self, *games: Game, generation: str = "6f1c", version: int = 1) -> None:
        super().__init__("crash", MemoryReader(MemoryStore()), SystemClock())
        self.games = [*games]
        self._commits = count(1)
        self._tell(generation, version)

    def commit(self, *games: Game) -> int:
        """The next version, with these games more; which it is."""
        self.games = sorted([*self.games, *games], key=lambda game: game.game_id)
        return self._tell(self.held.generation, self.held.version + 1)

    def commit_more(self, games: int = 1) -> int:
        """The next version, with so many games more, each after the one before."""
        return self.commit(*self._more(games))

    def go_beyond(self, games: int) -> None:
        """So many games more, which came from the topic while the store is away."""
        self.games += self._more(games)
        self._tell(self.held.generation, self.held.version, self.held.base or self.held.standing)

    def promote(self, generation: str) -> int:
        """The next version, in that generation."""
        return self._tell(generation, self.held.version + 1)

    def lose(self, version: int) -> None:
        """The store came back with an earlier version of the same games."""
        self._tell(self.held.generation, version)

    def end(self) -> None:
        """Nothing comes any more."""
        self._subscribers.end()
        self._subscribers = Subscribers()

    def _more(self, games: int) -> list[Game]:
        return games_at(*[2.0] * games, first_id=self.games[-1].game_id + 1 if self.games else 1)

    def _tell(self, generation: str, version: int, base: Standing | None = None) -> int:
        newest_id, total = self.games[-1].game_id if self.games else 0, len(self.games)
        commit = f"{next(self._commits):016x}"
        standing = Standing(generation, version, "games", 0, total, total, newest_id, commit)
        self._hold(HeldState(standing, window(self.games), base))
        return version


def window(games: Sequence[Game]) -> Games:
    return Games.of(Bands([]), [*games])


class Server(uvicorn.Server):
    """A server that says when it is about to stop, while its connections are still open."""

    def __init__(self, config: uvicorn.Config, about_to_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._about_to_stop = about_to_stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called on the event loop after `should_exit` was set, as signals do."""
        self._about_to_stop()
        await super().shutdown(sockets)


class CountingMeter(ApiMeter):
    """Counts."""

    def __init__(self) -> None:
        self.clients: Counter[Transport] = Counter()
        self.dropped: Counter[Transport] = Counter()
        self.refused: Counter[Transport] = Counter()

    def live_clients(self, transport: Transport, clients: int) -> None:
        self.clients[transport] = clients

    def live_client_dropped(self, transport: Transport) -> None:
        self.dropped[transport] += 1

    def live_client_refused(self, transport: Transport) -> None:
        self.refused[transport] += 1


class Event(NamedTuple):
    """An event as it came; a comment has the name `:`."""

    name: str
    id: str
    data: Any

    @property
    def version(self) -> str:
        """Generation and version, of all that its id says."""
        return self.id.rsplit("-", 2)[0]

    @property
    def ids(self) -> list[int]:
        return [int(game["gameId"]) for game in self.data["games"]]


class Running:
    """The server, and what it serves."""

    def __init__(self, follower: ToldFollower, live: Live, meter: CountingMeter, server: Server, port: int) -> None:
        self.follower = follower
        self.live = live
        self.meter = meter
        self.server = server
        self.port = port
        self.stopped = anyio.Event()
        self.client = httpx.AsyncClient(base_url=f"http://{HOST}:{port}", trust_env=False, timeout=DEADLINE_S)

    @asynccontextmanager
    async def events(self, query: str = "", **headers: str) -> AsyncIterator[AsyncIterator[Event]]:
        """The stream, event by event, after its first line is read."""
        async with self.client.stream("GET", f"/api/stream?{query}", headers=headers) as response:
            assert response.status_code == 200, await response.aread()
            assert response.headers["content-type"] == "text/event-stream"
            async with aclosing(parse_events(response.aiter_lines())) as events:
                yield events

    async def open_without_reading(self, asked: bytes = STREAM_REQUEST) -> socket.socket:
        """A client that asks, by default for the stream, and reads nothing, with a small buffer of its own."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        sock.setblocking(False)
        sock.connect_ex((HOST, self.port))
        await anyio.wait_writable(sock)
        sock.send(asked)
        return sock

    async def stop(self) -> float:
        """Stop the server as a signal does; how many seconds it took."""
        begun_s = anyio.current_time()
        self.server.should_exit = True
        await self.stopped.wait()
        return anyio.current_time() - begun_s


@asynccontextmanager
async def serving(
    follower: ToldFollower, *, bounds: ConnectionBounds | None = None, app: Any = None, **limits: Any
) -> AsyncIterator[Running]:
    """A server with the live routes of that follower."""
    meter = CountingMeter()

    async def follower_of(stream: str) -> Follower:
        if stream != follower.stream:
            raise NotFound("there is no such stream")
        return follower

    live = Live(follower_of, Zones(), lambda _: DEFAULT, meter=meter, limits=LiveLimits(**limits))

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with live.running():
            yield

    routed = Litestar(live_routes(live), lifespan=[lifespan], openapi_config=None)
    listener = socket.socket()
    listener.bind((HOST, 0))
    listener.listen(2048)
    options = connection_options(Places(bounds))
    server = Server(uvicorn.Config(app or routed, log_config=None, access_log=False, **options), live.stop)
    running = Running(follower, live, meter, server, listener.getsockname()[1])

    async def serve() -> None:
        try:
            await server._serve([listener])
        finally:
            running.stopped.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        try:
            await eventually(lambda: server.started)
            yield running
        finally:
            with anyio.CancelScope(shield=True):
                await running.client.aclose()
                await running.stop()
                listener.close()


async def parse_events(lines: AsyncIterator[str]) -> AsyncGenerator[Event, None]:
    fields: dict[str, str] = {}
    async for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        else:
            if "" in fields:
                yield Event(":", "", None)
            elif "event" in fields:
                yield Event(fields["event"], fields["id"], msgspec.json.decode(fields["data"]))
            fields = {}


async def eventually(condition: Any) -> None:
    """Wait until it holds."""
    with anyio.fail_after(DEADLINE_S):
        while not condition():
            await anyio.sleep(LOOK_AGAIN_S)
