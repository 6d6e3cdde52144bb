"""Live: games published at a steady rate, and for each the time until it is committed in Redis.

The moment of the commit is when a subscriber of `P:updates` hears of it, so the way to a reader is in the figure too.
"""

import itertools
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import anyio
import msgspec
from redis.asyncio import Redis

from benchmarks.measure import Figure, announce
from benchmarks.servers import Assignments, Servers, assignments, check
from benchmarks.topics import make_topic
from crashfold.engine.publisher import GamePublisher
from crashfold.engine.settings import load
from crashfold.schemas.aggregates import Update
from crashfold.schemas.game import Game
from crashfold.schemas.keys import Keys

TICK_S = 0.002
DEADLINE_S = 30.0
LINGERS_MS = (0, 5, 20, 50)
FEW_PREDICATES = "1.5,2,3,5,10,20,50,100,200,1000"


class Live(msgspec.Struct, frozen=True):
    """One run: delays in ms, and what the engine used per second of it."""

    p50_ms: float
    p99_ms: float
    cpu_share: float
    peak_mib: float


async def figures(servers: Servers, games: Sequence[Game], runs: int, rate: float, seconds: float) -> list[Figure]:
    """At default settings."""
    return await _figures(servers, games, runs, rate, seconds, {"live": {}})


async def linger_figures(
    servers: Servers, games: Sequence[Game], runs: int, rate: float, seconds: float
) -> list[Figure]:
    """What waiting for fuller batches does, and what fewer predicates do."""
    entrants = {f"linger {wait_ms}": {"engine.linger_ms": str(wait_ms)} for wait_ms in LINGERS_MS}
    entrants[f"{FEW_PREDICATES.count(',') + 1} predicates"] = {
        "projections.min": FEW_PREDICATES,
        "projections.max": "",
        "projections.floor": "",
    }
    return await _figures(servers, games, runs, rate, seconds, entrants)


async def _figures(
    servers: Servers,
    games: Sequence[Game],
    runs: int,
    rate: float,
    seconds: float,
    entrants: Mapping[str, Assignments],
) -> list[Figure]:
    """`runs` runs of each entrant, in turn, each on a topic and keys of its own, after one that does not count; every
    result is verified."""
    measured: dict[str, list[Live]] = {name: [] for name in entrants}
    for run in range(runs + 1):
        for number, (name, more) in enumerate(entrants.items()):
            announce(name, run, runs)
            topic = f"bench-live-{number}-{run}"
            settings = assignments(servers, topic) | {"redis.key_prefix": topic} | more
            await make_topic(settings)
            one = await measure(settings, games, rate, seconds)
            await check(settings)
            if run:
                measured[name].append(one)
    note = f"{rate:g} games a second for {seconds:g} s"
    found = []
    for name, seen in measured.items():
        found += [
            Figure(f"{name} delay p50", "ms", tuple(one.p50_ms for one in seen), note),
            Figure(f"{name} delay p99", "ms", tuple(one.p99_ms for one in seen), note),
            Figure(
                f"{name} CPU", "cores", tuple(one.cpu_share for one in seen), "of the engine, start and end included"
            ),
            Figure(f"{name} memory", "MiB", tuple(one.peak_mib for one in seen), "peak of the engine"),
        ]
    return found


async def measure(given: Assignments, games: Sequence[Game], rate: float, seconds: float) -> Live:
    """Run an engine process on an empty topic, publish at `rate` games a second for `seconds`, and time every game."""
    settings = load(None, {}, given).settings
    flags = [f"--{name}={value}" for name, value in given.items()]
    arguments = [sys.executable, "-m", "crashfold.engine.cli", "run", *flags]
    published: dict[int, float] = {}
    committed: dict[int, float] = {}
    waiting = iter(games)
    async with Redis.from_url(settings.redis.url) as client, client.pubsub() as subscription:
        await subscription.subscribe(Keys.of(settings.redis.key_prefix, settings.engine.stream).updates)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started_s = time.perf_counter()
        async with await anyio.open_process(arguments, stdout=None, stderr=None) as engine:
            async with GamePublisher(settings.kafka) as publisher, anyio.create_task_group() as tasks:
                tasks.start_soon(_listen, subscription, committed)
                await _publish(publisher, itertools.islice(waiting, 1), {})  # the engine is at work when this arrives
                with anyio.fail_after(DEADLINE_S):
                    while not committed:
                        await anyio.sleep(TICK_S)
                await _at_rate(publisher, waiting, published, rate, seconds)
                newest = max(published)
                with anyio.fail_after(DEADLINE_S):
                    while max(committed) < newest:
                        await anyio.sleep(TICK_S)
                tasks.cancel_scope.cancel()
            engine.terminate()
            await engine.wait()
        lived_s = time.perf_counter() - started_s
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    delays = sorted(_delays(published, committed))
    return Live(
        statistics.median(delays) * 1e3, delays[int(len(delays) * 0.99)] * 1e3, cpu_s / lived_s, after.ru_maxrss / 1024
    )


async def _at_rate(
    publisher: GamePublisher, games: Iterator[Game], published: dict[int, float], rate: float, seconds: float
) -> None:
    """As many games as are due at each tick, so that the rate holds whatever a tick takes."""
    began_s = time.perf_counter()
    sent = 0
    async with anyio.create_task_group() as sends:
        while (elapsed_s := time.perf_counter() - began_s) < seconds:
            due = int(elapsed_s * rate) - sent
            if due > 0:
                sent += due
                sends.start_soon(_publish, publisher, itertools.islice(games, due), published)
            await anyio.sleep(TICK_S)


async def _publish(publisher: GamePublisher, games: Iterator[Game], published: dict[int, float]) -> None:
    batch = list(games)
    now_s = time.perf_counter()
    published.update((game.game_id, now_s) for game in batch)
    await publisher.publish(*batch)


async def _listen(subscription: object, committed: dict[int, float]) -> None:
    async for message in subscription.listen():  # type: ignore[attr-defined]
        if message["type"] == "message":
            update = msgspec.json.decode(message["data"], type=Update)
            committed[update.newest or 0] = time.perf_counter()


def _delays(published: dict[int, float], committed: dict[int, float]) -> Iterator[float]:
    """For each game the time to the first commit that has it or a newer one."""
    commits = sorted(committed.items())
    position = 0
    for game_id in sorted(published):
        while commits[position][0] < game_id:
            position += 1
        yield commits[position][1] - published[game_id]
