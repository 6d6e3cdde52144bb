"""A monitor: follows a crash site over its WebSocket, and publishes every game to the topic, in order and once.

    python examples/monitor/monitor.py --site 127.0.0.1:9000 --config crashfold.toml --state monitor.json

`Site` is the part to change for a site of your own: how it tells a game, and how it is asked for older ones. All else
stays: the WebSocket is connected first and the history read then, so that no game falls between the two. What comes
twice is left out. A hole is filled from the history before anything behind it is published. Whatever fails, the site or
Kafka, is tried again with growing pauses, from the last game that is known to be on the topic.
"""

import argparse
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import anyio
import anyio.to_thread
import structlog
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from crashfold.engine.errors import CrashfoldError, Unavailable
from crashfold.engine.publisher import GamePublisher
from crashfold.engine.runtime.tasks import task_group
from crashfold.engine.settings import load
from crashfold.schemas.game import Game
from crashfold.schemas.record import DEFAULT_STREAM

PAUSE_FIRST_S: Final = 0.2
PAUSE_MAX_S: Final = 30.0
HISTORY_AT_ONCE: Final = 100
HISTORY_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 0.5
"""For the site to say goodbye: whoever has games unread would wait for that in vain."""

log = structlog.get_logger()


class SiteAway(Exception):
    """The site answers with nothing that can be used; trying again is right."""


class Site:
    """How this site tells its games. `address` is `host:port`."""

    def __init__(self, address: str) -> None:
        self._address = address

    @asynccontextmanager
    async def games(self) -> AsyncIterator[AsyncIterator[Game]]:
        """The games that end from now on."""
        async with connect(f"ws://{self._address}/live", close_timeout=CLOSE_TIMEOUT_S) as connection:

            async def told() -> AsyncIterator[Game]:
                async for message in connection:
                    found = json.loads(message)
                    if found.get("type") == "game_ended":
                        yield game_of(found["game"])

            yield told()

    async def history(self, after_id: int) -> list[Game]:
        """Games behind that id, oldest first; an empty list when there are no more."""
        url = f"http://{self._address}/history?after={after_id}&limit={HISTORY_AT_ONCE}"
        return [game_of(one) for one in await anyio.to_thread.run_sync(_read_json, url, abandon_on_cancel=True)]


def game_of(told: dict[str, Any]) -> Game:
    """A game as the site tells it. Raises SiteAway for what is none: the history may have it right."""
    try:
        return Game(
            game_id=told["id"],
            hash=told.get("hash"),
            crash_point=told["crash"],
            begin_time=told.get("begin"),
            end_time=told["end"],
        )
    except (KeyError, TypeError) as error:
        raise SiteAway(f"no game: {told!r:.200}") from error


class Position:
    """The newest game that is known to be on the topic, in a file, so that a monitor that is started again goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.game_id = int(json.loads(path.read_text())["game_id"]) if path.exists() else 0

    def advance(self, game_id: int) -> None:
        """Everything up to that game is on the topic."""
        self.game_id = game_id
        fresh = self._path.with_name(f"{self._path.name}.new")
        fresh.write_text(json.dumps({"game_id": game_id}))
        os.replace(fresh, self._path)


async def follow(site: Site, publisher: GamePublisher, position: Position) -> None:
    """Publish every game of the site until cancelled. Raises CrashfoldError for what waiting does not mend."""
    failures = 0
    while True:
        try:
            async with site.games() as games:
                await fill(site, publisher, position)
                log.info("following", game_id=position.game_id)
                failures = 0
                async for game in games:
                    if game.game_id > position.game_id + 1:
                        await fill(site, publisher, position)
                    if game.game_id > position.game_id:
                        await publish(publisher, position, [game])
            fault: object = "the site closed the connection"
        except (OSError, TimeoutError, WebSocketException, SiteAway, ValueError, Unavailable) as error:
            fault = error
        failures += 1
        pause_s = min(PAUSE_MAX_S, PAUSE_FIRST_S * 2 ** min(failures, 10)) * random.uniform(0.5, 1)
        log.warning("away", fault=str(fault), pause_s=round(pause_s, 2), game_id=position.game_id)
        await anyio.sleep(pause_s)


async def fill(site: Site, publisher: GamePublisher, position: Position) -> None:
    """Publish what the history has behind the position."""
    while games := [game for game in await site.history(position.game_id) if game.game_id > position.game_id]:
        await publish(publisher, position, sorted(games, key=lambda game: game.game_id))


async def publish(publisher: GamePublisher, position: Position, games: list[Game]) -> None:
    """Publish games in order. When it is not known that they arrived, the position stays, and they come again: the
    engine takes them for duplicates."""
    await publisher.publish(*games)
    position.advance(games[-1].game_id)


def _read_json(url: str) -> Any:
    with urlopen(url, timeout=HISTORY_TIMEOUT_S) as answer:
        return json.load(answer)


async def _main(options: argparse.Namespace) -> None:
    kafka = load(options.config, os.environ, {}).settings.kafka
    async with task_group() as tasks, GamePublisher(kafka, options.stream) as publisher:
        tasks.start_soon(_stop_on_signal, tasks.cancel_scope)
        await follow(Site(options.site), publisher, Position(options.state))


async def _stop_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()


def main() -> int:
    """Follow until SIGTERM or Ctrl-C; the exit code."""
    parser = argparse.ArgumentParser(description="Publish the games of a crash site to the topic of Crashfold.")
    parser.add_argument("--site", required=True, metavar="HOST:PORT")
    parser.add_argument("--stream", default=DEFAULT_STREAM)
    parser.add_argument("--config", type=Path, help="the settings file; of it only [kafka] counts")
    parser.add_argument("--state", type=Path, default=Path("monitor.json"), help="where the position is kept")
    options = parser.parse_args()
    try:
        anyio.run(_main, options)
    except CrashfoldError as error:
        print(f"monitor: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
