"""Many streams: ten thousand tables through one engine and one Redis; and at what rate one Redis is full.

The moment of a commit is when a subscriber of the streams' updates hears of it, as in `live`.
"""

import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import cycle

import anyio
import msgspec
from redis.asyncio import Redis

from benchmarks.measure import Figure, announce, cpu_s_of
from benchmarks.servers import Assignments, Servers, assignments, forget
from benchmarks.stages import Commits
from benchmarks.topics import make_topic
from crashfold.engine.adapters.kafka.client import connection_options
from crashfold.engine.adapters.kafka.sink import KafkaSink
from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.cli.verify import verify_topic
from crashfold.engine.errors import CrashfoldError
from crashfold.engine.ports import Applied
from crashfold.engine.settings import load
from crashfold.projections import ProjectionSettings, StreamState, plan
from crashfold.schemas.aggregates import Update
from crashfold.schemas.game import Game, encode

TICK_S = 0.002
DEADLINE_S = 600.0
GAMES_BEFORE = 5
"""Games that each stream has before the clock starts."""
VERIFIED = 10
"""Streams whose result is recomputed."""
PREFIX = "bench:{stream}"
COMMITS = 300
HISTORY = 60_000
"""Games of the stream whose commits are timed, those of the commits among them."""
PREDICATES = (10, 43, 100)
GAMES_A_COMMIT = (1, 5, 20, 100)


async def figures(servers: Servers, games: Sequence[Game], count: int, rate: float, seconds: float) -> list[Figure]:
    """One run: `count` streams get some games each, then `rate` games a second in all for `seconds`."""
    announce(f"{count} streams", 1, 1)
    given = assignments(servers, "bench-streams") | {"redis.key_prefix": PREFIX, "kafka.group_id": "bench-streams"}
    await forget(servers)
    await make_topic(given)
    names, coming = [f"table-{number}" for number in range(count)], _arrivals(count, games)
    seen = _Seen()
    async with Redis.from_url(servers.redis_url) as client, client.pubsub() as subscription:
        await subscription.psubscribe("bench:*:updates")
        flags = [f"--{name}={value}" for name, value in given.items()]
        async with (
            await anyio.open_process(
                [sys.executable, "-m", "crashfold.engine.cli", "run", *flags], stderr=None
            ) as engine,
            KafkaSink(connection_options(load(None, {}, given).settings.kafka)) as sink,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(seen.listen, subscription)
            await _send(sink, given, [("first", games[0])])
            await seen.until(1)
            before_kib = _resident_kib(engine.pid)
            for _ in range(GAMES_BEFORE):
                await _send(sink, given, [(name, next(coming[name])) for name in names])
            await seen.until_all(names, GAMES_BEFORE)
            after_kib = _resident_kib(engine.pid)
            cpu_s, redis_cpu_s, began_s = cpu_s_of(engine.pid), await _redis_cpu_s(client), time.perf_counter()
            sent = await _at_rate(sink, given, names, coming, rate, seconds)
            await seen.until_committed(sent)
            took_s = time.perf_counter() - began_s
            cpu_s, redis_cpu_s = cpu_s_of(engine.pid) - cpu_s, await _redis_cpu_s(client) - redis_cpu_s
            tasks.cancel_scope.cancel()
            engine.terminate()
            await engine.wait()
    report = await verify_topic(load(None, {}, given).settings, random.Random(1).sample(names, VERIFIED)[0])
    if report.differences:
        raise CrashfoldError(f"the result is wrong, so its figures are worth nothing: {report.differences[0]}")
    delays = sorted(seen.delays(sent))
    what = f"{count} streams, {rate:g} games a second in all for {seconds:g} s"
    return [
        Figure("streams delay p50", "ms", (statistics.median(delays) * 1e3,), what),
        Figure("streams delay p99", "ms", (delays[int(len(delays) * 0.99)] * 1e3,), what),
        Figure("streams engine CPU", "cores", (cpu_s / took_s,), what),
        Figure("streams Redis CPU", "cores", (redis_cpu_s / took_s,), what),
        Figure("streams memory", "KiB", ((after_kib - before_kib) / count,), f"a stream with {GAMES_BEFORE} games"),
    ]


async def saturation_figures(servers: Servers, games: Sequence[Game]) -> list[Figure]:
    """The time of a commit inside Redis, by the number of predicates and of games in it: what sets the rate at which
    one Redis is full."""
    found = []
    for predicates in PREDICATES:
        for size in GAMES_A_COMMIT:
            announce(f"commits of {size} games under {predicates} predicates", 1, 1)
            await forget(servers)
            micros = await _inside_us(servers, games, predicates, size)
            note = f"{size} games, {predicates} predicates: full at {size * 1e6 / micros:,.0f} games a second"
            found.append(Figure(f"in Redis {predicates}/{size}", "µs", (micros,), note))
    return found


class _Seen:
    """What was told of commits: per stream the newest game and when it was told."""

    def __init__(self) -> None:
        self._commits: dict[str, list[tuple[int, int, float]]] = {}

    async def listen(self, subscription: object) -> None:
        async for message in subscription.listen():  # type: ignore[attr-defined]
            if message["type"] == "pmessage":
                update = msgspec.json.decode(message["data"], type=Update)
                name = message["channel"].decode().partition("{")[2].partition("}")[0]
                row = (update.newest or 0, update.total_games, time.perf_counter())
                self._commits.setdefault(name, []).append(row)

    async def until(self, streams: int) -> None:
        with anyio.fail_after(DEADLINE_S):
            while len(self._commits) < streams:
                await anyio.sleep(0.02)

    async def until_all(self, names: Sequence[str], games: int) -> None:
        with anyio.fail_after(DEADLINE_S):
            while not all(name in self._commits and self._commits[name][-1][1] >= games for name in names):
                await anyio.sleep(0.2)

    async def until_committed(self, sent: dict[tuple[str, int], float]) -> None:
        with anyio.fail_after(DEADLINE_S):
            while not all(self._commits[name][-1][0] >= game_id for name, game_id in sent):
                await anyio.sleep(0.2)

    def delays(self, sent: dict[tuple[str, int], float]) -> Iterator[float]:
        """For each game the time to the first commit of its stream that has it or a newer one."""
        for (name, game_id), sent_s in sent.items():
            yield next(told_s for newest, _, told_s in self._commits[name] if newest >= game_id) - sent_s


def _arrivals(count: int, games: Sequence[Game]) -> dict[str, Iterator[Game]]:
    """The same games for every stream, each from the first on."""
    return {f"table-{number}": iter(cycle(games)) for number in range(count)}


async def _send(sink: KafkaSink, given: Assignments, games: Sequence[tuple[str, Game]]) -> None:
    for name, game in games:
        await sink.send(given["kafka.topic"], name.encode(), encode(game), partition=0)
    await sink.flush()


async def _at_rate(
    sink: KafkaSink,
    given: Assignments,
    names: Sequence[str],
    coming: dict[str, Iterator[Game]],
    rate: float,
    seconds: float,
) -> dict[tuple[str, int], float]:
    """When each game was sent, by stream and id. Streams take turns in an order that has no order."""
    order = cycle(random.Random(1).sample(list(names), len(names)))
    sent: dict[tuple[str, int], float] = {}
    began_s = time.perf_counter()
    while (elapsed_s := time.perf_counter() - began_s) < seconds:
        for _ in range(int(elapsed_s * rate) - len(sent)):
            name = next(order)
            game = next(coming[name])
            sent[name, game.game_id] = time.perf_counter()
            await sink.send(given["kafka.topic"], name.encode(), encode(game), partition=0)
        await anyio.sleep(TICK_S)
    await sink.flush()
    return sent


async def _inside_us(servers: Servers, games: Sequence[Game], predicates: int, size: int) -> float:
    made = plan(_settings(predicates))
    start = len(games) - COMMITS * size
    state = StreamState.empty(made).fold(games[:start]).state
    async with RedisStore(servers.redis_url, key_prefix=PREFIX) as store, Redis.from_url(servers.redis_url) as client:
        commits = Commits(state, "full")
        await store.commit([commits.first(state)])
        await client.config_resetstat()
        for number in range(COMMITS):
            folded = state.fold(games[start + number * size : start + (number + 1) * size])
            delta = folded.state.delta(state, folded.kept)
            (outcome,) = await store.commit([commits.next(folded.state, delta)])
            assert isinstance(outcome, Applied)
            state = folded.state
        stats = (await client.info("commandstats"))["cmdstat_evalsha"]
    return float(stats["usec"]) / float(stats["calls"])


def _settings(predicates: int) -> ProjectionSettings:
    """The default predicates, or so many thresholds from 1.5 to 1,000, as far from each other as the default ones."""
    if predicates == len(ProjectionSettings().predicates):
        return ProjectionSettings()
    last = predicates - 1
    return ProjectionSettings(
        min=tuple(round(1.5 * (1000 / 1.5) ** (number / last), 2) for number in range(predicates)), max=(), floor=()
    )


def _resident_kib(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


async def _redis_cpu_s(client: Redis) -> float:
    info = await client.info("cpu")
    return float(info["used_cpu_sys"]) + float(info["used_cpu_user"])
