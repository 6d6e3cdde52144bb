"""Capacity: the engines, partitions and Redis servers that a load asks for, worked out from what a commit costs.

A commit costs an engine and Redis time, and each game in it costs a little more. These costs are measured; everything
else is arithmetic. Streams share nothing, so engines and Redis servers are added one beside the other: only a
single stream cannot be divided.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from benchmarks.measure import Provenance, announce
from benchmarks.servers import Servers, forget
from benchmarks.stages import Commits
from benchmarks.streams import Tables
from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.cli import output
from crashfold.engine.errors import CrashfoldError
from crashfold.projections import ProjectionSettings, StreamState, plan
from crashfold.schemas.game import Game

BUSY_MAX: Final = 0.7
"""The part of a core that may be in use, so that a burst has room."""
DELAY_MAX_S: Final = 0.5
REDIS_MIB: Final = 32 * 1024
"""The memory of a server of Redis, half of which is left for snapshots, fail-overs and rebuilds."""
ENGINE_MIB: Final = 4 * 1024
"""The memory of an engine, which is one process on one core. A stream that is not in memory has to be loaded."""
NET_BYTES: Final = 125_000_000
"""The bytes that a network card of 1 Gbit/s carries in a second."""
GAMES_A_COMMIT: Final = (1, 2, 5, 20)
TABLES: Final = 20
"""The streams among which the games of a measurement go round."""
FULL_GAMES: Final = 80_000
"""Games of the stream whose memory is measured: with so many the default window is full."""
STREAM: Final = "full"
TURN_MIN_S: Final = 0.002


class Cost(msgspec.Struct, frozen=True):
    """The cost of a commit, and the cost of each game in it."""

    commit: float
    game: float

    @classmethod
    def fitted(cls, seen: Mapping[float, float]) -> "Cost":
        """Fit the line to the measured costs of commits, by their number of games: least squares of relative errors."""
        sizes, took = np.array([*seen]), np.array([*seen.values()])
        terms = np.stack((np.ones_like(sizes, dtype=float), sizes), axis=1)
        (commit, game), *_ = np.linalg.lstsq(terms / took[:, None], np.ones(len(took)), rcond=None)
        return cls(max(0.0, float(commit)), max(0.0, float(game)))


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """Measured: CPU seconds of an engine and of Redis, bytes to Redis, and the MiB of a stream with a full window."""

    engine_s: Cost
    redis_s: Cost
    net_bytes: Cost
    redis_mib: float
    engine_mib: float


class Load(msgspec.Struct, frozen=True):
    """Streams, and the games of all of them together in a second."""

    streams: int
    games_per_s: float


class Turn(msgspec.Struct, frozen=True):
    """What one process does with its share of a load: how long it takes to come round, the commits of a second, and how
    busy it is (1 is a whole core)."""

    seconds: float
    commits_per_s: float
    busy: float


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What a load asks for. `wall` says which of them comes to its end first when the load grows."""

    load: Load
    engines_by_cpu: int | None
    engines_by_memory: int
    redis_by_cpu: int | None
    redis_by_memory: int
    redis_by_network: int
    engine_gib: float
    redis_gib: float
    wall: str


class CapacityReport(Provenance, frozen=True, kw_only=True):
    """A whole run of `crashfold bench capacity`."""

    costs: Costs
    needs: tuple[Needs, ...]


def turn(load: Load, cost: Cost) -> Turn | None:
    """How a process comes round with this load; None when it falls behind for ever.

    In a turn of T seconds a stream with r games a second has a game with probability 1 - exp(-r T), if games come as
    a Poisson process does, and all its games are one commit. So the longer a turn, the fewer commits a game costs, and
    the turn settles where its work takes as long as itself.
    """

    def commits(seconds: float) -> float:
        return load.streams * -math.expm1(-load.games_per_s / load.streams * seconds)

    def work_s(seconds: float) -> float:
        return commits(seconds) * cost.commit + load.games_per_s * seconds * cost.game

    if load.games_per_s * cost.game >= 1:
        return None
    low = high = TURN_MIN_S
    while work_s(high) > high:
        low, high = high, 2 * high
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if work_s(middle) > middle else (low, middle)
    return Turn(high, commits(high) / high, work_s(high) / high)


def needed(load: Load, cost: Cost) -> tuple[int, Turn] | None:
    """The least number of equal processes that keep up with the load, none busier than `BUSY_MAX` where more of them
    would help, and come round within `DELAY_MAX_S`; None when even one for each stream does not."""
    count = 1
    while count <= load.streams:
        share = Load(math.ceil(load.streams / count), load.games_per_s / count)
        found = turn(share, cost)
        if found is not None and found.seconds <= DELAY_MAX_S and (found.busy <= BUSY_MAX or count == load.streams):
            return count, found
        count = max(count + 1, math.floor(count * 1.02))
    return None


def needs(load: Load, costs: Costs) -> Needs:
    """What this load asks for."""
    engines, redis = needed(load, costs.engine_s), needed(load, costs.redis_s)
    commits_per_s = engines[0] * engines[1].commits_per_s if engines is not None else load.games_per_s
    net = commits_per_s * costs.net_bytes.commit + load.games_per_s * costs.net_bytes.game
    redis_mib = load.streams * costs.redis_mib
    counts = {
        "CPU of engines": math.inf if engines is None else engines[0],
        "CPU of Redis": math.inf if redis is None else redis[0],
        "memory of engines": math.ceil(load.streams * costs.engine_mib / ENGINE_MIB),
        "memory of Redis": math.ceil(redis_mib / (REDIS_MIB / 2)),
        "network of Redis": math.ceil(net / (NET_BYTES * BUSY_MAX)),
    }
    return Needs(
        load=load,
        engines_by_cpu=None if engines is None else engines[0],
        engines_by_memory=int(counts["memory of engines"]),
        redis_by_cpu=None if redis is None else redis[0],
        redis_by_memory=int(counts["memory of Redis"]),
        redis_by_network=int(counts["network of Redis"]),
        engine_gib=load.streams * costs.engine_mib / 1024,
        redis_gib=redis_mib / 1024,
        wall=max(counts, key=lambda name: counts[name]),
    )


async def measured(servers: Servers, games: Sequence[Game], seed: int) -> Costs:
    """The costs on this machine: a topic in memory, the engine's own loop, a real Redis. The memory is that of a
    stream that has had `games`."""
    engine: dict[float, float] = {}
    redis: dict[float, float] = {}
    net: dict[float, float] = {}
    for size in GAMES_A_COMMIT:
        await forget(servers)
        async with Tables.opened(servers, seed, TABLES, size) as tables:
            for run in range(2):
                announce(f"commits of {size} games", run, 1)
                costs = await tables.play(servers)
            await tables.check()
        engine[size] = costs["CPU of the engine"] * size / 1e6
        redis[size] = costs["CPU of Redis"] * size / 1e6
        net[size] = costs["bytes to Redis"] * size
    await forget(servers)
    engine_mib, redis_mib = await _full_stream_mib(servers, games)
    return Costs(
        engine_s=Cost.fitted(engine),
        redis_s=Cost.fitted(redis),
        net_bytes=Cost.fitted(net),
        engine_mib=engine_mib,
        redis_mib=redis_mib,
    )


async def _full_stream_mib(servers: Servers, games: Sequence[Game]) -> tuple[float, float]:
    """The memory of a stream of these games, in the engine and in Redis."""
    settings = ProjectionSettings()
    state = StreamState.empty(plan(settings)).fold(games).state.settled()
    async with RedisStore(servers.redis_url, key_prefix="bench:{stream}") as store:
        await store.commit([Commits(state, STREAM).first(state)])
        stored = await store.usage(settings.predicates).stream_bytes(STREAM)
    if stored is None:
        raise CrashfoldError("Redis does not tell how much memory a key takes")
    return state.bytes_held / 2**20, stored / 2**20


LOADS: Final = (
    Load(1, 1_000),
    Load(100, 1_000),
    Load(1_000, 50),
    Load(10_000, 500),
    Load(10_000, 1_000),
    Load(10_000, 10_000),
    Load(100_000, 5_000),
    Load(1_000_000, 50_000),
)
"""Some with a game every 20 s, as crash tables have them, and some that are busier."""


def show(report: CapacityReport) -> None:
    """The costs and the needs for people."""
    costs = report.costs
    rows = [
        ("engine, CPU", f"{costs.engine_s.commit * 1e6:,.0f} µs", f"{costs.engine_s.game * 1e6:,.0f} µs"),
        ("Redis, CPU", f"{costs.redis_s.commit * 1e6:,.0f} µs", f"{costs.redis_s.game * 1e6:,.0f} µs"),
        ("to Redis", f"{costs.net_bytes.commit / 1e3:,.1f} kB", f"{costs.net_bytes.game / 1e3:,.1f} kB"),
        ("a full stream", f"{costs.engine_mib:,.1f} MiB in the engine", f"{costs.redis_mib:,.1f} MiB in Redis"),
    ]
    output.print_table("costs", ("what", "a commit", "each game in it"), rows)
    loads = [
        (
            f"{one.load.streams:,}",
            f"{one.load.games_per_s:,g}",
            _number(one.engines_by_cpu),
            _number(one.engines_by_memory),
            _number(one.redis_by_cpu),
            _number(one.redis_by_memory),
            _number(one.redis_by_network),
            f"{one.engine_gib:,.1f}",
            f"{one.redis_gib:,.1f}",
            one.wall,
        )
        for one in report.needs
    ]
    columns = (
        *("streams", "games/s", "engines by CPU", "by memory", "Redis by CPU", "by memory", "by network"),
        *("GiB in engines", "GiB in Redis", "wall"),
    )
    output.print_table("needs", columns, loads)


def _number(count: int | None) -> str:
    return "no number" if count is None else f"{count:,}"
