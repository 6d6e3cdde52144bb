"""How soon what is committed is seen: by a live client while others ask without pause, and by several processes.

The first on Kafka, with an engine: from the call that publishes a game to the event of `/api/stream` that has it. The
second on Redis alone: from the moment that a commit is sent to when the last of the processes has answered from it. And
what a hundred pages that are left open take of a core, on Redis alone.
"""

import itertools
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Final

import anyio
import anyio.to_thread
import msgspec
from redis.asyncio import Redis

from benchmarks.api import CLIENTS, History, Timed, ending_now, filled, served, serving
from benchmarks.api_client import HOST, Answer, Clients, request
from benchmarks.api_questions import ROOT
from benchmarks.measure import Figure, announce, cpu_s_of
from benchmarks.servers import Servers, assignments, check
from benchmarks.topics import fill, one_stream
from crashfold.engine.cli.bootstrap import run_engine
from crashfold.engine.errors import CrashfoldError
from crashfold.engine.publisher import GamePublisher
from crashfold.engine.settings import Settings, load
from crashfold.schemas.aggregates import Update
from crashfold.schemas.game import Game
from crashfold.schemas.keys import Keys

PROCESSES: Final = 3
COMMITS: Final = 150
"""Of each run."""
GAMES_PER_S: Final = 20
SECONDS: Final = 8.0
DEADLINE_S: Final = 30.0
TABS: Final = 100
TAB_GAMES: Final = 8
TAB_GAMES_PER_S: Final = 0.4
"""Games a second of one table."""
TAB_LOOKS_S: Final = 5.0
"""How often the page asks engines how they are."""
AT_THE_SERVER_S: Final = 0.005
"""So long before a commit those who wait for it have asked."""

_ID: Final = re.compile(rb'"gameId":"(\d+)"')


class Load(msgspec.Struct, frozen=True):
    """What the clients beside it got."""

    requests: int
    duration_s: float
    p99_ms: float


async def stream_figures(servers: Servers, games: Sequence[Game], count: int, runs: int) -> list[Figure]:
    """From publishing to a live client, over a history of `count` games; alone, and while 16 clients ask."""
    given = assignments(servers, "bench-api-live") | {"redis.key_prefix": "bench-api-live"}
    settings = load(None, {}, given).settings
    await fill(given, one_stream(ending_now(games[:count])))
    await run_engine(settings, until_caught_up=True)
    flags = [f"--{name}={value}" for name, value in given.items()]
    waiting = iter(games[count:])
    quiet: list[Timed] = []
    busy: list[tuple[Timed, Load]] = []
    last_way: list[Timed] = []
    with serving(servers.redis_url, *flags) as port, ExitStack() as stack:
        engine = subprocess.Popen([sys.executable, "-m", "crashfold.engine.cli", "run", *flags])
        stack.callback(engine.wait)
        stack.callback(engine.terminate)
        async with (
            GamePublisher(settings.kafka) as publisher,
            _listening(port) as seen,
            _committing(settings) as committed,
        ):
            await _publish(publisher, waiting, seen, 0.1)  # the engine is at work when these have come
            for run in range(runs + 1):
                announce("api-live, from topic to stream", run, runs)
                alone = await _publish(publisher, waiting, seen, SECONDS / 4)
                committed.clear()
                with _asking(SECONDS + 1, [port]) as load_process:
                    loaded = await _publish(publisher, waiting, seen, SECONDS)
                    told = await anyio.to_thread.run_sync(load_process.communicate)
                if run:
                    quiet.append(alone)
                    busy.append((loaded, msgspec.json.decode(told[0], type=Load)))
                    ways = [seen[game_id] - at_s for game_id, at_s in committed.items() if game_id in seen]
                    last_way.append(Timed(ways, sum(ways)))
    await check(given)
    rates = tuple(one.requests / one.duration_s for _, one in busy)
    note = f"{GAMES_PER_S} games/s for {SECONDS:g} s, {CLIENTS} clients ask for new default intervals"
    return [
        *_delays("topic to stream, quiet", quiet, f"{GAMES_PER_S} games/s"),
        *_delays("topic to stream, busy", [timed for timed, _ in busy], note),
        *_delays("commit to stream, busy", last_way, "of these, from when the commit is told on Redis's channel"),
        Figure("topic to stream, busy: answers meanwhile", "1/s", rates, "each new"),
        Figure("topic to stream, busy: their p99", "ms", tuple(one.p99_ms for _, one in busy), "each new"),
    ]


async def agreement_figures(redis_url: str, games: Sequence[Game], count: int, runs: int) -> list[Figure]:
    """From a commit to when each of several processes answers from it; alone, and while clients ask all of them."""
    quiet, busy = [], []
    wanted = "/api/games?per_page=1&min_version="
    async with filled(redis_url, History.of(games, count), "agree") as committer:
        with ExitStack() as stack:
            ports = [stack.enter_context(serving(redis_url)) for _ in range(PROCESSES)]
            clients = stack.enter_context(Clients(ports, PROCESSES))

            async def commits() -> Timed:
                delays = []
                for _ in range(COMMITS):
                    version = committer.version + 1
                    async with anyio.create_task_group() as tasks:
                        answered_s: list[float] = []
                        tasks.start_soon(_all_answer, clients, request(f"{wanted}{version}"), version, answered_s)
                        await anyio.sleep(AT_THE_SERVER_S)
                        sent_s = time.perf_counter()
                        await committer.commit()
                    delays.append(max(answered_s) - sent_s)
                return Timed(delays, sum(delays))

            for run in range(runs + 1):
                announce("api-live, several processes", run, runs)
                alone = await commits()
                with _asking(DEADLINE_S, ports) as load_process:
                    loaded = await commits()
                    load_process.terminate()
                if run:
                    quiet.append(alone)
                    busy.append(loaded)
    note = f"{PROCESSES} processes, {COMMITS} commits a run"
    return [
        *_delays("commit to all processes, quiet", quiet, note),
        *_delays("commit to all processes, busy", busy, f"{note}, {CLIENTS} clients ask for new default intervals"),
    ]


async def tab_figures(redis_url: str, games: Sequence[Game], count: int, runs: int) -> list[Figure]:
    """Measure the share of a core that a hundred live connections take, alone and with what pages ask beside."""
    found: dict[str, list[float]] = {"live connections": [], "pages": []}
    for run in range(runs + 1):
        announce("api-live, pages left open", run, runs)
        for kind, shares in found.items():
            async with filled(redis_url, History.of(games, count), "tabs") as committer:
                with served(redis_url) as (port, pid):
                    async with _tabs(port, asking=kind == "pages"):
                        share = await _core_share(pid, committer.commit)
            if run:
                shares.append(100 * share)
    note = f"{TAB_GAMES_PER_S} games/s for {TAB_GAMES / TAB_GAMES_PER_S:.0f} s"
    notes = {"live connections": note, "pages": f"{note}, each asks for the engines every {TAB_LOOKS_S:.0f} s"}
    return [Figure(f"{TABS} {kind}: of a core", "%", tuple(shares), notes[kind]) for kind, shares in found.items()]


async def _core_share(pid: int, commit: Callable[[], Awaitable[object]]) -> float:
    """Measure the share of a core of the process while games are committed at the pace of a table."""
    began_s, began_cpu_s = time.perf_counter(), cpu_s_of(pid)
    for number in range(1, TAB_GAMES + 1):
        await commit()
        await anyio.sleep(max(0.0, began_s + number / TAB_GAMES_PER_S - time.perf_counter()))
    return (cpu_s_of(pid) - began_cpu_s) / (time.perf_counter() - began_s)


@asynccontextmanager
async def _tabs(port: int, *, asking: bool) -> AsyncIterator[None]:
    """A hundred clients of `/api/stream`, each with its snapshot; and as many that ask as pages do."""
    listening = 0

    async def listen() -> None:
        nonlocal listening
        async with await anyio.connect_tcp(HOST, port) as stream:
            await stream.send(request("/api/stream", headers="Accept-Encoding: br\r\n"))
            await stream.receive()
            listening += 1
            async for _ in stream:
                pass

    async def look(delay_s: float) -> None:
        await anyio.sleep(delay_s)
        async with await anyio.connect_tcp(HOST, port) as stream:
            while True:
                await stream.send(request("/api/engine", headers="Accept-Encoding: br\r\n"))
                await stream.receive()
                await anyio.sleep(TAB_LOOKS_S)

    async with anyio.create_task_group() as tasks:
        for _ in range(TABS):
            tasks.start_soon(listen)
        with anyio.fail_after(DEADLINE_S):
            while listening < TABS:
                await anyio.sleep(0.01)
        for number in range(TABS if asking else 0):
            tasks.start_soon(look, number * TAB_LOOKS_S / TABS)
        yield
        tasks.cancel_scope.cancel()


async def _all_answer(clients: Clients, wire: bytes, version: int, answered_s: list[float]) -> None:
    def ask() -> None:
        for answer in clients.asking([wire] * PROCESSES):
            if answer.status != 200 or int(answer.header("x-crashfold-version") or 0) < version:
                raise CrashfoldError(f"this process does not answer from version {version}: {answer.head.decode()}")
            answered_s.append(time.perf_counter())

    await anyio.to_thread.run_sync(ask)


async def _publish(publisher: GamePublisher, games: Iterator[Game], seen: dict[int, float], seconds: float) -> Timed:
    """Publish one game after the other at the steady rate; how long each took to be seen."""
    published: dict[int, float] = {}
    began_s = time.perf_counter()
    for number in itertools.count():
        if number >= seconds * GAMES_PER_S:
            break
        await anyio.sleep(max(0.0, began_s + number / GAMES_PER_S - time.perf_counter()))
        game = msgspec.structs.replace(next(games), end_time=time.time_ns() // 1_000_000)
        published[game.game_id] = time.perf_counter()
        await publisher.publish(game)
    with anyio.fail_after(DEADLINE_S):
        while not published.keys() <= seen.keys():
            await anyio.sleep(0.01)
    return Timed([seen[game_id] - at_s for game_id, at_s in published.items()], time.perf_counter() - began_s)


@asynccontextmanager
async def _listening(port: int) -> AsyncIterator[dict[int, float]]:
    """When each game came over `/api/stream`, by id."""
    seen: dict[int, float] = {}
    async with await anyio.connect_tcp(HOST, port) as stream, anyio.create_task_group() as tasks:
        await stream.send(request("/api/stream"))

        async def listen() -> None:
            rest = b""
            async for part in stream:
                now_s = time.perf_counter()
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    for game_id in _ID.findall(line):
                        seen.setdefault(int(game_id), now_s)

        tasks.start_soon(listen)
        with anyio.fail_after(DEADLINE_S):
            while not seen:
                await anyio.sleep(0.01)
        yield seen
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def _committing(settings: Settings) -> AsyncIterator[dict[int, float]]:
    """When Redis told of the commit with each game, by id."""
    committed: dict[int, float] = {}
    async with (
        Redis.from_url(settings.redis.url) as client,
        client.pubsub() as subscription,
        anyio.create_task_group() as tasks,
    ):
        await subscription.subscribe(Keys.of(settings.redis.key_prefix, settings.engine.stream).updates)

        async def listen() -> None:
            async for message in subscription.listen():
                if message["type"] == "message":
                    committed[msgspec.json.decode(message["data"], type=Update).newest or 0] = time.perf_counter()

        tasks.start_soon(listen)
        yield committed
        tasks.cancel_scope.cancel()


@contextmanager
def _asking(seconds: float, ports: Sequence[int]) -> Iterator["subprocess.Popen[bytes]"]:
    """Clients in a process of their own, which ask without pause; at the end it prints a `Load`."""
    command = [sys.executable, "-m", "benchmarks.api_live", str(seconds), *map(str, ports)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.terminate()


def main() -> None:
    """Ask for new default intervals for so many seconds: `python -m benchmarks.api_live SECONDS PORT…`."""
    seconds, *ports = sys.argv[1:]
    began_s = time.perf_counter()

    def until_late() -> Iterator[bytes]:
        for hundredths in itertools.count(101):
            if time.perf_counter() - began_s > float(seconds):
                return
            yield request(f"{ROOT}/intervals/min-crash-point/{hundredths / 100}")

    with Clients([int(port) for port in ports], CLIENTS) as clients:
        latencies_s = [_good(answer).latency_s for answer in clients.asking(until_late())]
    duration_s = time.perf_counter() - began_s
    p99_ms = Timed(latencies_s, duration_s).quantile_ms(0.99)
    sys.stdout.write(msgspec.json.encode(Load(len(latencies_s), duration_s, p99_ms)).decode())


def _good(answer: Answer) -> Answer:
    if answer.status != 200:
        raise CrashfoldError(f"this was not asked for: {answer.head.decode()}")
    return answer


def _delays(name: str, timed: Sequence[Timed], note: str) -> list[Figure]:
    return [
        Figure(f"{name}: p50", "ms", tuple(one.quantile_ms(0.5) for one in timed), note),
        Figure(f"{name}: p99", "ms", tuple(one.quantile_ms(0.99) for one in timed), note),
    ]


if __name__ == "__main__":
    main()
