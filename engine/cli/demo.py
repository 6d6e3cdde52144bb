"""`crashfold demo`: everything on embedded servers, with a provably fair chain of games."""

import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from os import environ
from time import monotonic, time
from typing import Final

import anyio
import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from crashfold.engine import logs
from crashfold.engine.adapters.embedded import create_topic, embedded_api, embedded_kafka, embedded_redis
from crashfold.engine.cli import options, output
from crashfold.engine.cli.bootstrap import only_stream, open_store, run_engine
from crashfold.engine.cli.options import Common
from crashfold.engine.cli.replay import replay_topic
from crashfold.engine.cli.verify import verify_topic
from crashfold.engine.errors import CrashfoldError
from crashfold.engine.publisher import GamePublisher
from crashfold.engine.runtime.rebuild import RebuildRequest
from crashfold.engine.settings import Settings, load
from crashfold.projections.delta import Value
from crashfold.schemas import keys
from crashfold.schemas.aggregates import LastGame, Series
from crashfold.schemas.chain import chain_of_games
from crashfold.schemas.game import Game
from crashfold.schemas.predicate import Predicate

BATCH_GAMES: Final = 5_000
LIVE_GAMES: Final = 100_000
"""How long the chain goes on behind the history: at a game a second, more than a day."""
LOOK_EVERY_S: Final = 0.5
SHOWN: Final = tuple(
    Predicate.parse(text) for text in ("min:2", "min:10", "min:100", "min:1000", "max:1.01", "floor:7")
)


def demo(
    *, games: int = 20_000, rate: float = 2.0, seed: int = 1, once: bool = False, common: Common | None = None
) -> int:
    """Start an embedded broker and Valkey, publish a provably fair chain of games, fold it, and show it on the page.

    The address of the page comes first. Nothing is left behind. Ctrl-C ends it.

    Parameters
    ----------
    games
        How many games of history to publish as fast as it goes.
    rate
        How many games a second follow, live.
    seed
        Of the chain of games.
    once
        No live part: publish, fold, replay, verify, a table of results; exit code 0 when everything is equal.
    """
    if games < 1 or rate <= 0:
        raise CrashfoldError("--games must be 1 or more, and --rate more than 0")
    show = _show_once if once else _show_live
    try:
        return options.run(show, common or Common(), games, rate, seed)
    except KeyboardInterrupt:
        return 0


async def _show_once(common: Common, games: int, rate: float, seed: int) -> int:
    """Publish, fold, replay, verify: each timed, in a table of its own."""
    steps: list[tuple[str, str, str]] = []

    def done(step: str, count: int, started_s: float, detail: str) -> None:
        duration_s = monotonic() - started_s
        steps.append((step, f"{duration_s:.2f} s", f"{count / duration_s:,.0f}/s, {detail}"))

    async with _servers(common) as settings:
        started_s = monotonic()
        async with GamePublisher(settings.kafka, settings.engine.stream) as publisher:
            await _publish(publisher, chain_of_games(seed, games))
        done("publish", games, started_s, f"{games} games to topic {settings.kafka.topic}")

        started_s = monotonic()
        await run_engine(settings, until_caught_up=True)
        done("fold", games, started_s, "each committed with its offset")

        started_s = monotonic()
        rebuilt = await replay_topic(settings, RebuildRequest())
        done("replay", games, started_s, f"{sum(one.games for one in rebuilt.streams)} games rebuilt and swapped in")

        started_s = monotonic()
        report = await verify_topic(settings)
        compared = sum(one.keys for one in report.streams)
        verdict = "equal" if not report.differences else f"{len(report.differences)} differences"
        done("verify", games, started_s, f"{compared} keys against the plain recomputation: {verdict}")

        output.print_rendered(Group(*_results(await _read_model(settings))))
    output.print_table("what was done", ("step", "took", "result"), steps)
    complete = all(one.games == games for one in report.streams)
    return 0 if complete and not report.differences else 1


async def _show_live(common: Common, games: int, rate: float, seed: int) -> int:
    """History, then games at the chosen rate, until Ctrl-C."""
    async with _servers(common) as settings, _api(common, settings), anyio.create_task_group() as tasks:

        async def engine() -> None:
            await run_engine(settings)
            tasks.cancel_scope.cancel()  # the engine was told to stop, and so is the rest

        tasks.start_soon(engine)
        tasks.start_soon(_publish_live, settings, games, rate, seed)
        await _watch(settings)
        tasks.cancel_scope.cancel()
    return 0


@asynccontextmanager
async def _servers(common: Common) -> AsyncIterator[Settings]:
    """Embedded servers, and the settings to reach them: the user's own but for addresses."""
    async with embedded_redis() as redis_url, embedded_kafka() as bootstrap_servers:
        overrides = {
            "redis.timeout_ms": "5000",  # a busy laptop is slow, and nobody fails over here
            **options.overrides_of(common),
            "kafka.bootstrap_servers": bootstrap_servers,
            "kafka.security_protocol": "PLAINTEXT",
            "kafka.enable_idempotence": "false",
            "kafka.assignment": "all",  # one engine needs no group, which takes five seconds to settle
            "redis.url": redis_url,
            "engine.port": "0",
            "log.level": "warning",
        }
        settings = load(common.config, environ, overrides).settings
        logs.configure(settings.log)
        output.print_error(f"Redis {redis_url}, Kafka {bootstrap_servers}")
        await create_topic(bootstrap_servers, settings.kafka.topic)
        yield settings


@asynccontextmanager
async def _api(common: Common, settings: Settings) -> AsyncIterator[None]:
    """The API and its page as a process of its own, beside whatever the engine has to do; its address is told."""
    servers = {
        "kafka.bootstrap_servers": settings.kafka.bootstrap_servers,
        "kafka.security_protocol": settings.kafka.security_protocol,
        "redis.url": settings.redis.url,
        "log.level": settings.log.level,
    }
    given = replace(common, set=(*common.set, *(f"{name}={value}" for name, value in servers.items())))
    words = ["serve", *options.tokens_of(common), "--api.host", "127.0.0.1", "--api.port", "{port}"]
    command = [sys.executable, "-m", "crashfold.engine.cli", *words]
    async with embedded_api(command, options.environment_of(given), settings.api.port) as port:
        output.print_line(f"The page: http://127.0.0.1:{port}/")
        yield


async def _publish(publisher: GamePublisher, games: Iterator[Game]) -> None:
    while batch := list(islice(games, BATCH_GAMES)):
        await publisher.publish(*batch)


async def _publish_live(settings: Settings, history: int, rate: float, seed: int) -> None:
    """The history so that it ends about now, then one game after the other, each ending when it is published."""
    chain = list(chain_of_games(seed, history + LIVE_GAMES, first_begin_time_ms=0))
    shift_ms = _now_ms() - chain[history - 1].end_time
    async with GamePublisher(settings.kafka, settings.engine.stream) as publisher:
        await _publish(publisher, (_moved(game, shift_ms) for game in chain[:history]))
        for game in chain[history:]:
            await anyio.sleep(1 / rate)
            await publisher.publish(_moved(game, _now_ms() - game.end_time))


def _moved(game: Game, shift_ms: int) -> Game:
    return msgspec.structs.replace(
        game,
        prepare_time=None if game.prepare_time is None else game.prepare_time + shift_ms,
        begin_time=None if game.begin_time is None else game.begin_time + shift_ms,
        end_time=game.end_time + shift_ms,
    )


def _now_ms() -> int:
    return int(time() * 1000)


async def _watch(settings: Settings) -> None:
    """Show the read model as it changes, table after table where there is no terminal; return when nobody reads it."""
    console = Console()
    with Live(console=console, refresh_per_second=4) if console.is_terminal else nullcontext() as live:
        reads = True
        while reads:
            model = await _read_model(settings)
            shown = Group(*_results(model), "Ctrl-C ends the demo") if model else Text("waiting for the first games …")
            if live is None:
                reads = output.print_rendered(shown)
            else:
                live.update(shown)
            await anyio.sleep(LOOK_EVERY_S if console.is_terminal else 4 * LOOK_EVERY_S)


async def _read_model(settings: Settings) -> dict[str, Value]:
    async with open_store(settings) as store:
        read = await store.read_model(only_stream(settings) or settings.engine.stream)
    return {} if read is None else read[1]


def _results(model: dict[str, Value]) -> Sequence[Table]:
    """Read the keys as a reader would."""
    table = Table(title="from Redis", title_justify="left")
    for column in ("predicate", "games", "share", "last seen", "since", "longest series"):
        table.add_column(column, justify="left" if column == "predicate" else "right")
    for predicate in SHOWN:
        occurrences, series = model.get(keys.occurrences(predicate)), model.get(keys.series(predicate))
        last_game = model.get(keys.last_game(predicate))
        if not isinstance(occurrences, dict):
            continue
        count, total = int(occurrences["count"]), int(occurrences["total_games"])
        row = [str(predicate), f"{count:,}", f"{count / total:.2%}", "–", "–", "–"]
        if isinstance(last_game, bytes):
            newest = msgspec.json.decode(last_game, type=LastGame)
            row[3:5] = [f"#{newest.game_id} at {newest.crash_point:.2f}", f"{total - newest.ordinal:,}"]
        if isinstance(series, list):
            row[5] = f"{max(msgspec.json.decode(one, type=Series).length for one in series):,}"
        table.add_row(*row)
        table.title = f"from Redis, {total:,} games"
    return [table]
