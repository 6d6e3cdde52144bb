"""How cost grows: with predicates, games a commit, window, streams, partitions, history. `crashfold bench growth`.

What needs no server is measured stage by stage in this process, by CPU time; the rest from the topic to committed
state, in processes of their own, and then the result is verified.
"""

import gc
import time
import tracemalloc
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Literal

import anyio
import numpy as np

from benchmarks.contestants import Outcome
from benchmarks.curves import Costs, Curve, Limit, lines, visited
from benchmarks.servers import Assignments, Inspector, Servers, assignments, check, forget
from benchmarks.stages import Commits, timed, warmed
from benchmarks.streams import Tables
from benchmarks.topic import contest
from benchmarks.topics import fill, many_streams, one_stream
from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.cli.bootstrap import folding_of, open_store
from crashfold.engine.settings import load
from crashfold.projections import ProjectionSettings, StreamState, plan
from crashfold.schemas.chain import chain_of_games
from crashfold.schemas.game import Game
from crashfold.schemas.record import DEFAULT_STREAM

Dimension = Literal["predicates", "batch", "window", "memory", "streams", "processes", "history"]
DIMENSIONS: tuple[Dimension, ...] = ("predicates", "batch", "window", "memory", "streams", "processes", "history")

BATCH = 20_000
"""Games that a replay folds at once."""
COMMITS = 200
"""Commits of one game each, where these are measured."""

PREDICATES = (10, 30, 100, 300, 1000)
BATCHES = (1, 10, 100, 1000, 5000, 20_000)
WINDOWS = (1000, 5000, 10_000, 50_000, 100_000, 500_000)
HISTORIES_IN_MEMORY = (20, 100, 1000, 10_000, 100_000)
STREAMS = (1, 10, 100, 1000, 10_000)
PROCESSES = (1, 2, 3, 4)
HISTORIES = (1, 100, 10_000, 100_000, 1_000_000)
LONG_HISTORIES = (10_000_000, 20_000_000)


async def curves(
    servers: Servers, dimensions: Sequence[Dimension], games: int, runs: int, seed: int, long: bool
) -> list[Curve]:
    """The curves of these dimensions."""
    found: list[Curve] = []
    chain = list(chain_of_games(seed, max(games, 3 * BATCH)))
    if "predicates" in dimensions:
        found += await over_predicates(servers, chain, runs)
    if "batch" in dimensions:
        found += await over_batches(servers, chain, runs)
    if "window" in dimensions:
        found += await over_windows(servers, seed, runs)
    if "memory" in dimensions:
        found += await over_memory(seed)
    if "streams" in dimensions:
        found += await over_streams(servers, seed, runs)
    if "processes" in dimensions:
        found += await over_processes(servers, seed, games, runs)
    if "history" in dimensions:
        found += await over_history(servers, seed, runs, HISTORIES + (LONG_HISTORIES if long else ()))
    return found


def predicates(count: int) -> ProjectionSettings:
    """As many predicates, of the three kinds in the proportions of the defaults."""
    floors, maxima = max(1, count * 10 // 43), max(1, count * 8 // 43)
    return ProjectionSettings(
        min=_thresholds(1.05, 1000, count - floors - maxima),
        max=_thresholds(1.01, 10, maxima),
        floor=tuple(range(1, floors + 1)),
    )


async def over_predicates(servers: Servers, games: Sequence[Game], runs: int) -> list[Curve]:
    """Cost per game of the fold, of a commit, and of a whole replay."""
    plans = {count: plan(predicates(count)) for count in PREDICATES}
    before = {count: warmed(made, games[:BATCH]) for count, made in plans.items()}
    base = assignments(servers, "growth-predicates")
    await fill(base, one_stream(games))

    inspector = Inspector()

    async def visit(count: int) -> Costs:
        state, more = before[count], games[BATCH : 3 * BATCH]
        big, _ = timed(state, more, BATCH)
        small, _ = timed(state, more[:COMMITS], 1)
        await forget(servers)
        settings = base | _as_assignments(predicates(count))
        outcome = await contest("replay", len(games), settings)
        await inspector.check(count, settings, games, len(games))
        return {
            "fold, 20,000 games at once": big.fold_us,
            "fold, delta and pack, one game at a time": small.all_us,
            f"replay of {len(games):,} games, topic to Redis": outcome.cpu_s * 1e6 / len(games),
        }

    seen = await visited("predicates", PREDICATES, runs, visit)
    title = "CPU per game over the number of predicates"
    return [
        Curve(
            name="predicates", title=title, x="predicates", unit="µs", lines=lines(seen, "µs"), reference=PREDICATES[0]
        )
    ]


async def over_batches(servers: Servers, games: Sequence[Game], runs: int) -> list[Curve]:
    """Cost per game over games a commit."""
    before = warmed(plan(ProjectionSettings()), games[:BATCH])
    more = games[BATCH : 2 * BATCH]

    async def visit(batch: int) -> Costs:
        some = more[: max(batch, min(len(more), batch * COMMITS))]
        stages, _ = timed(before, some, batch)
        await forget(servers)
        async with RedisStore(servers.redis_url, key_prefix="bench:{stream}") as store:
            commits, state = Commits(before), before
            await store.commit([commits.first(before)])
            took_s = 0.0
            for start in range(0, len(some), batch):
                folded = state.fold(some[start : start + batch])
                after = folded.state.settled()
                commit = commits.next(after, after.delta(state, folded.kept))
                began_s = time.perf_counter()
                await store.commit([commit])
                took_s += time.perf_counter() - began_s
                state = after
            await _require_equal(store, state)
        return {
            "fold": stages.fold_us,
            "delta and pack": stages.rest_us,
            "commit: pack, to Redis and back (by the clock)": took_s * 1e6 / len(some),
        }

    seen = await visited("batch", BATCHES, runs, visit)
    return [
        Curve(
            name="batch",
            title="Time per game over the games of a commit",
            x="games a commit",
            unit="µs",
            lines=lines(seen, "µs"),
            reference=BATCHES[0],
        )
    ]


async def over_windows(servers: Servers, seed: int, runs: int) -> list[Curve]:
    """Cost per game, and of a restart, over the size of a full window."""
    games = list(chain_of_games(seed, max(WINDOWS) + 3 * BATCH))
    base = assignments(servers, "growth-window")
    await fill(base, one_stream(games))
    before = {
        window: warmed(plan(ProjectionSettings(window_games=window)), games[: window + 2 * BATCH]) for window in WINDOWS
    }

    inspector = Inspector()

    async def visit(window: int) -> Costs:
        state, more = before[window], games[window + 2 * BATCH :]
        big, _ = timed(state, more[:BATCH], BATCH)
        small, _ = timed(state, more[:COMMITS], 1)
        await forget(servers)
        settings = base | {"projections.window_games": str(window)}
        count = window + 2 * BATCH
        outcome = await contest("replay_to", count, settings)
        await inspector.check(window, settings, games[:count], count)
        return {
            "fold, 20,000 games at once": big.fold_us,
            "fold, delta and pack, one game at a time": small.all_us,
            "replay, topic to Redis": outcome.cpu_s * 1e6 / count,
            "restart": await _restart_s(settings),
            "replay": outcome.peak_mib,
        }

    seen = await visited("window", WINDOWS, runs, visit)
    x = "games in the window"
    costs = lines(seen, "µs", *list(seen)[:3])
    restart, memory = lines(seen, "s", "restart"), lines(seen, "MiB", "replay")
    limit = Limit("1 s at 50,000", 1.0, 50_000.0)
    title = "Time to load a stream from Redis over its window"
    return [
        Curve(name="window", title="CPU per game over the window", x=x, unit="µs", lines=costs, reference=WINDOWS[0]),
        Curve(name="restart", title=title, x=x, unit="s", lines=restart, limit=limit),
        Curve(name="window-memory", title="Peak memory of a replay over the window", x=x, unit="MiB", lines=memory),
    ]


async def over_memory(seed: int) -> list[Curve]:
    """What one stream takes in memory beyond the games of its window, as an engine holds it and as a restart would.

    Allocations are counted, not sampled, so one run says it all.
    """
    made = plan(ProjectionSettings())

    async def visit(count: int) -> Costs:
        games = list(chain_of_games(seed, count))
        step = max(1, count // 100)

        def held() -> StreamState:
            state = StreamState.empty(made)
            for start in range(0, count, step):
                state = state.fold(games[start : start + step]).state.settled()
            return state

        def loaded() -> StreamState:
            return StreamState.load(made, stored, games[-made.settings.window_games :]).settled()

        stored = held().stored()
        cells_kib = min(count, made.settings.window_games) * 88 / 1024
        return {
            "folded as games came": _allocated_kib(held) - cells_kib,
            "loaded from Redis": _allocated_kib(loaded) - cells_kib,
        }

    seen = await visited("memory", HISTORIES_IN_MEMORY, 1, visit)
    return [
        Curve(
            name="memory",
            title="Memory of a stream beyond the games of its window, 88 bytes each",
            x="games of the stream",
            unit="KiB",
            lines=lines(seen, "KiB"),
            limit=Limit("50 KiB", 50.0),
        )
    ]


async def over_streams(servers: Servers, seed: int, runs: int) -> list[Curve]:
    """Cost per game and memory over the number of streams that one engine holds, one game a stream and commit."""
    seen: dict[str, dict[float, list[float]]] = {}
    for count in STREAMS:
        await forget(servers)
        async with Tables.opened(servers, seed, count) as tables:

            async def visit(_: int, tables: Tables = tables) -> Costs:
                return await tables.play(servers)

            for name, values in (await visited("streams", [count], runs, visit)).items():
                seen.setdefault(name, {}).update(values)
            await tables.check()
    x = "streams"
    cost, memory = ("CPU of the engine", "by the clock, Redis included"), ("engine", "Redis")
    title = "Time per game over the streams of one engine, one game a stream and commit"
    return [
        Curve(name="streams", title=title, x=x, unit="µs", lines=lines(seen, "µs", *cost), reference=STREAMS[0]),
        Curve(
            name="streams-memory",
            title="Memory per stream of some thirty games",
            x=x,
            unit="KiB",
            lines=lines({n: {k: v for k, v in seen[n].items() if k >= 100} for n in memory}, "KiB"),
            limit=Limit("50 KiB", 50.0),
        ),
    ]


async def over_processes(servers: Servers, seed: int, games: int, runs: int) -> list[Curve]:
    """Time for the whole over as many partitions and engine processes, each behind by its share."""
    base = {
        count: assignments(servers, f"growth-processes-{count}") | {"redis.key_prefix": "bench:{stream}"}
        for count in PROCESSES
    }
    for count, settings in base.items():
        await fill(settings, many_streams(seed, games, 12), partitions=count)
    turn = 0

    async def visit(count: int) -> Costs:
        nonlocal turn
        turn += 1
        await forget(servers)
        settings = base[count] | {"kafka.group_id": f"growth-{turn}"}
        outcomes: list[Outcome] = []

        async def one() -> None:
            outcomes.append(await contest("run", games, settings))

        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(one)
        await check(settings)
        return {
            "by the clock": max(one.duration_s for one in outcomes) * 1e6 / games,
            "CPU of all engines": sum(one.cpu_s for one in outcomes) * 1e6 / games,
        }

    seen = await visited("processes", PROCESSES, runs, visit)
    return [
        Curve(
            name="processes",
            title="Time per game over partitions, each with an engine process, on two cores with broker and Redis",
            x="partitions and processes",
            unit="µs",
            lines=lines(seen, "µs"),
            reference=1,
        )
    ]


async def over_history(servers: Servers, seed: int, runs: int, histories: Sequence[int]) -> list[Curve]:
    """Time of a replay over the games replayed: one topic, read up to so many."""
    settings = assignments(servers, "growth-history")
    await fill(settings, one_stream(chain_of_games(seed, max(histories))))

    inspector = Inspector()

    async def visit(count: int) -> Costs:
        await forget(servers)
        outcome = await contest("replay_to", count, settings)
        await inspector.check(count, settings, islice(chain_of_games(seed, max(histories)), count), count)
        return {"by the clock": outcome.duration_s, "CPU of its process": outcome.cpu_s}

    seen = await visited("history", histories, runs, visit)
    return [
        Curve(
            name="history",
            title="Time of a replay, topic to promoted in Redis, over its games",
            x="games",
            unit="s",
            lines=lines(seen, "s"),
            limit=Limit("60 s at 10 million", 60.0, 10_000_000.0),
        )
    ]


def _thresholds(low: float, high: float, count: int) -> tuple[float, ...]:
    """As many different hundredths from `low` to `high`, spread so that each step is about as rare."""
    wanted = np.geomspace(low, high, count)
    found: list[int] = []
    for hundredths in np.rint(wanted * 100).astype(int).tolist():
        found.append(max(hundredths, found[-1] + 1) if found else hundredths)
    return tuple(hundredths / 100 for hundredths in found)


def _as_assignments(settings: ProjectionSettings) -> Assignments:
    values = {"min": settings.min, "max": settings.max, "floor": settings.floor}
    return {f"projections.{name}": ",".join(f"{value:g}" for value in kind) for name, kind in values.items()}


async def _restart_s(given: Assignments) -> float:
    """The time from a connection to a stream that can be folded on."""
    settings = load(None, {}, given).settings
    folding = folding_of(settings)
    async with open_store(settings) as store:
        await store.positions([DEFAULT_STREAM])  # connected
        began_s = time.perf_counter()
        stored = await store.load(DEFAULT_STREAM)
        assert stored is not None
        folding.load(stored.state, stored.window).settled()
        return time.perf_counter() - began_s


async def _require_equal(store: RedisStore, state: StreamState) -> None:
    """No figure of a wrong result."""
    read = await store.read_model(DEFAULT_STREAM)
    assert read is not None
    assert read[1] == state.keys(), "what stands in Redis is not what was folded"


def _allocated_kib(make: Callable[[], StreamState]) -> float:
    """What the result of `make()` keeps allocated."""
    gc.collect()
    tracemalloc.start()
    kept = make()
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return size / 1024
