"""The harness: starts real servers, measures, prints a table and writes a JSON report.

Every comparison is a ratio within a run: the contestants take turns, run by run, on the same topic.
"""

import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from subprocess import PIPE
from typing import Annotated, Literal

import anyio
import anyio.to_thread
import msgspec
from cyclopts import Parameter
from redis.asyncio import Redis

from benchmarks import live, micro
from benchmarks.contestants import Outcome
from benchmarks.measure import Figure, Report, machine, ratio
from engine.adapters.embedded import embedded_kafka, embedded_redis
from engine.adapters.kafka_client import connection_options
from engine.adapters.kafka_topics import ensure_topic
from engine.cli import options
from engine.cli.verify import verify_topic
from engine.errors import CrashfoldError
from engine.publisher import GamePublisher
from engine.settings import load
from schemas.chain import chain_of_games
from schemas.game import Game

RESULTS = Path(__file__).parent / "results"
PUBLISHED_AT_ONCE = 5_000
KAFKA_JAVA = ("-Xms1g", "-Xmx1g")

Part = Literal["micro", "commit", "topic", "live"]
PARTS: tuple[Part, ...] = ("micro", "commit", "topic", "live")


class Servers(msgspec.Struct, frozen=True):
    """Where they are, and what they are."""

    redis_url: str
    bootstrap_servers: str
    names: dict[str, str]
    idempotent: bool


def bench(
    *parts: Part,
    games: int = 200_000,
    runs: int = 5,
    seed: int = 1,
    rate: float = 1000.0,
    seconds: float = 10.0,
    embedded: bool = False,
    out: Annotated[Path | None, Parameter(help="Where the JSON report goes.")] = None,
) -> int:
    """Measure, print a table, write a report.

    Parameters
    ----------
    parts
        micro: decode, fold, delta, load. commit: the script on a real server. topic: from Kafka to committed Redis
        state, beside a bare loop. live: the delay at a steady rate. All by default.
    games
        On the topic.
    runs
        Counted runs of each, after one that is not.
    seed
        Of the chain of games.
    rate
        Games a second in the live part.
    seconds
        How long each run of the live part publishes.
    embedded
        On the embedded broker and Valkey, although Apache Kafka and redis-server could be had.
    """
    wanted = parts or PARTS
    if games < 1000 or runs < 1:
        raise CrashfoldError("--games must be 1000 or more, --runs 1 or more")
    report = options.run(_measure, wanted, games, runs, seed, rate, seconds, embedded)
    _show(report)
    path = out or RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    options.note(f"report: {path}")
    return 0


async def _measure(
    parts: Sequence[Part], games: int, runs: int, seed: int, rate: float, seconds: float, embedded: bool
) -> Report:
    chain = list(chain_of_games(seed, max(games, int(rate * seconds * 2))))
    found: list[Figure] = []
    if "micro" in parts:
        options.note("micro …")
        found += micro.figures(chain[: min(games, 100_000)], runs)
    names: dict[str, str] = {}
    if set(parts) - {"micro"}:
        async with _servers(embedded) as servers:
            names = servers.names
            if "commit" in parts:
                options.note("commit …")
                found += await micro.commit_figures(servers.redis_url, chain[: min(games, 60_000)], runs)
            if "topic" in parts:
                found += await _topic(servers, chain[:games], runs)
            if "live" in parts:
                found += await _live(servers, chain, runs, rate, seconds)
    return Report(machine(names), seed, runs, tuple(found))


async def _topic(servers: Servers, games: Sequence[Game], runs: int) -> list[Figure]:
    """From the topic to committed state: the bare loop, replay and run, one after the other, run after run."""
    settings = _assignments(servers, "bench-topic")
    await _publish(settings, games)
    outcomes: dict[str, list[Outcome]] = {"bare": [], "replay": [], "run": []}
    for run in range(runs + 1):
        for name, seen in outcomes.items():
            options.note(f"topic, {'warm-up' if run == 0 else f'run {run} of {runs}'}: {name} …")
            await _forget(servers.redis_url)
            outcome = await _contestant(name, len(games), settings | {"kafka.group_id": f"bench-{run}"})
            if name != "bare":
                await _check(settings)
            if run:
                seen.append(outcome)
    found = []
    for name, seen in outcomes.items():
        rates = tuple(one.records / one.duration_s for one in seen)
        found.append(Figure(f"{name} rate", "games/s", rates, f"{len(games)} games from topic to result"))
        cpu = tuple(one.cpu_s * 100_000 / one.records for one in seen)
        found.append(Figure(f"{name} CPU", "s per 100,000", cpu, "of its process"))
        found.append(Figure(f"{name} memory", "MiB", tuple(one.peak_mib for one in seen), "peak of its process"))
    times = {name: [one.duration_s for one in seen] for name, seen in outcomes.items()}
    found += [ratio(f"{name} / bare", times["bare"], times[name], "1 is as fast") for name in ("replay", "run")]
    return found


async def _live(servers: Servers, games: Sequence[Game], runs: int, rate: float, seconds: float) -> list[Figure]:
    measured = []
    for run in range(runs + 1):
        options.note(f"live, {'warm-up' if run == 0 else f'run {run} of {runs}'} …")
        settings = _assignments(servers, f"bench-live-{run}") | {"redis.key_prefix": f"bench-live-{run}"}
        await _make_topic(settings)
        one = await live.measure(settings, games, rate, seconds)
        if run:
            measured.append(one)
    note = f"{rate:g} games a second for {seconds:g} s"
    return [
        Figure("live delay p50", "ms", tuple(one.p50_ms for one in measured), note),
        Figure("live delay p99", "ms", tuple(one.p99_ms for one in measured), note),
        Figure("live CPU", "cores", tuple(one.cpu_share for one in measured), "of the engine, start and end included"),
        Figure("live memory", "MiB", tuple(one.peak_mib for one in measured), "peak of the engine"),
    ]


def _assignments(servers: Servers, topic: str) -> dict[str, str]:
    return {
        "kafka.bootstrap_servers": servers.bootstrap_servers,
        "kafka.topic": topic,
        "kafka.enable_idempotence": str(servers.idempotent).lower(),
        "redis.url": servers.redis_url,
        "redis.key_prefix": "bench",
        "engine.port": "0",
        "log.level": "warning",
    }


async def _make_topic(settings: dict[str, str]) -> None:
    kafka = load(None, {}, settings).settings.kafka
    await ensure_topic(connection_options(kafka), kafka.topic, 1)


async def _publish(settings: dict[str, str], games: Sequence[Game]) -> None:
    await _make_topic(settings)
    async with GamePublisher(load(None, {}, settings).settings.kafka) as publisher:
        for start in range(0, len(games), PUBLISHED_AT_ONCE):
            await publisher.publish(*games[start : start + PUBLISHED_AT_ONCE])


async def _contestant(name: str, records: int, settings: dict[str, str]) -> Outcome:
    arguments = [f"{setting}={value}" for setting, value in settings.items()]
    command = [sys.executable, "-m", "benchmarks.contestants", name, str(records), *arguments]
    finished = await anyio.run_process(command, stdout=PIPE, stderr=None)
    return msgspec.json.decode(finished.stdout, type=Outcome)


async def _check(settings: dict[str, str]) -> None:
    """No figure of a wrong result."""
    report = await verify_topic(load(None, {}, settings).settings)
    if report.differences:
        raise CrashfoldError(f"the result is wrong, so its figures are worth nothing: {report.differences[0]}")


async def _forget(redis_url: str) -> None:
    """Remove what the run before left; the server is the harness's own."""
    async with Redis.from_url(redis_url) as client:
        await client.flushdb()


@asynccontextmanager
async def _servers(embedded: bool) -> AsyncIterator[Servers]:
    """Apache Kafka and redis-server where they can be had, as in the tests; else the embedded ones."""
    if not embedded:
        try:
            from tests.servers import kafka_cluster, redis_server
        except ImportError:
            embedded = True  # an installed package has no tests
    if embedded:
        async with embedded_redis() as redis_url, embedded_kafka() as bootstrap_servers:
            names = {"kafka": "Tansu, embedded", "redis": "Valkey, embedded"}
            yield Servers(redis_url, bootstrap_servers, names, idempotent=False)
        return

    @contextmanager
    def real() -> Iterator[Servers]:
        with redis_server() as redis, kafka_cluster(java_options=KAFKA_JAVA) as kafka:
            names = {"kafka": "Apache Kafka, one broker", "redis": "redis-server"}
            yield Servers(redis.url, kafka.bootstrap_servers, names, idempotent=True)

    with real() as servers:
        yield servers


def _show(report: Report) -> None:
    rows = [
        (one.name, f"{one.median:,.2f}", f"{one.spread[0]:,.2f} to {one.spread[1]:,.2f}", one.unit, one.note)
        for one in report.figures
    ]
    options.print_table(
        f"median of {report.runs} runs", ("figure", "median", "lowest to highest", "unit", "of what"), rows
    )
