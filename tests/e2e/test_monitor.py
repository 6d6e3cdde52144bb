"""The example of a monitor, as a process, against a site that drops connections: every game once, in order."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import anyio.from_thread
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from crashfold.schemas.game import Game, decode
from tests.support.deployment import Deployment, chain, eventually
from tests.support.servers import TansuBroker

MONITOR: Final = Path(__file__).parents[2] / "examples" / "monitor" / "monitor.py"
GAMES: Final = [game for game in chain(400) if game.game_id % 50]
"""With ids that are missing for good."""
BEFORE: Final = 120
"""Games that the history has when the monitor comes for the first time."""


class FakeSite:
    """A crash site that plays a game whenever somebody is connected, tells some twice or not at all, and hangs up."""

    def __init__(self) -> None:
        self.played = BEFORE
        self.connections = 0
        self.asked = 0
        self.port = 0

    async def live(self, connection: ServerConnection) -> None:
        """Tell games as they end, and hang up after some."""
        self.connections += 1
        try:
            for _ in range(7 + 5 * (self.connections % 4)):
                if self.played == len(GAMES):
                    await connection.wait_closed()
                    return
                self.played += 1
                if self.played % 11 == 0:
                    continue  # not told: the history has it
                for _ in range(2 if self.played % 7 == 0 else 1):
                    await connection.send(json.dumps({"type": "game_ended", "game": told(GAMES[self.played - 1])}))
                await connection.send('{"type":"players","count":3}')
        except ConnectionClosed:
            return
        self.played = min(len(GAMES), self.played + 3)  # while nobody listens
        connection.transport.abort()

    def history(self, connection: ServerConnection, request: Request) -> Response | None:
        """The history; now and then it fails."""
        where = urlsplit(request.path)
        if where.path != "/history":
            return None
        self.asked += 1
        if self.asked % 5 == 0:
            return connection.respond(HTTPStatus.INTERNAL_SERVER_ERROR, "not now\n")
        query = parse_qs(where.query)
        after, limit = int(query["after"][0]), int(query["limit"][0])
        found = [told(game) for game in GAMES[: self.played] if game.game_id > after][:limit]
        body = json.dumps(found).encode()
        return Response(200, "OK", Headers({"Content-Length": str(len(body)), "Connection": "close"}), body)

    @contextmanager
    def running(self) -> Iterator[None]:
        """The site, in a thread of its own."""
        with anyio.from_thread.start_blocking_portal() as portal, portal.wrap_async_context_manager(self._serving()):
            yield

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        async with serve(self.live, "127.0.0.1", 0, process_request=self.history) as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            yield


def told(game: Game) -> dict[str, Any]:
    return {"id": game.game_id, "hash": game.hash, "crash": game.crash_point, "begin": None, "end": game.end_time}


@contextmanager
def monitor(site: FakeSite, deployment: Deployment) -> Iterator[subprocess.Popen[bytes]]:
    """The example, as a process; it keeps its position in the deployment's directory."""
    words = ["--site", f"127.0.0.1:{site.port}", "--config", str(deployment.config)]
    with (deployment.directory / "monitor.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, str(MONITOR), *words, "--state", str(deployment.directory / "monitor.json")],
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def position(deployment: Deployment) -> int:
    path = deployment.directory / "monitor.json"
    return int(json.loads(path.read_text())["game_id"]) if path.exists() else 0


def test_every_game_of_a_site_that_hangs_up_is_on_the_topic_once_and_in_order(
    tansu: TansuBroker, redis_url: str, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    settings: dict[str, dict[str, object]] = {
        "kafka": {"enable_idempotence": False},  # the embedded broker cannot number producers
        "projections": {"min": [1.5, 2, 10], "max": [1.2], "floor": [1], "window_games": 1_000},
    }
    deployment = Deployment(tmp_path, tansu.bootstrap_servers, redis_url, unique("games"), settings=settings)
    deployment.create_topic()
    site = FakeSite()
    with site.running():
        with monitor(site, deployment) as process:
            eventually(lambda: position(deployment) >= GAMES[200].game_id, "half of the games")
            process.terminate()
            assert process.wait(20) == 0
        with monitor(site, deployment):
            eventually(lambda: position(deployment) == GAMES[-1].game_id, "all games")
    assert site.connections > 5
    deployment.caught_up()
    (verified,) = deployment.verified().values()
    assert verified["next_offset"] == len(GAMES), "a record for each game and no other"
    stored = [decode(member) for member in deployment.redis.zrange(deployment.key("games"), 0, -1)]
    assert stored == [
        Game(game_id=game.game_id, hash=game.hash, crash_point=game.crash_point, end_time=game.end_time)
        for game in GAMES
    ]
