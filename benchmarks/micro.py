"""Micro: decoding, columns, the fold of each projection, delta, load, and the commit script."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import anyio
from redis.asyncio import Redis

from benchmarks.measure import Figure, microseconds
from benchmarks.stages import Commits
from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.ports import Commit
from crashfold.projections import ProjectionSettings, StreamState, plan
from crashfold.projections.columns import Columns, Ints
from crashfold.projections.games import Bands, Games, cells_of
from crashfold.projections.projection import Projection
from crashfold.schemas.game import Game, decode, encode

BATCHES = (1, 100, 20_000)
COMMITS = 200


def figures(games: Sequence[Game], runs: int) -> list[Figure]:
    """Everything that needs no server."""
    settings = ProjectionSettings()
    made = plan(settings)
    values = [encode(game) for game in games]
    cells = cells_of(made.bands, games)
    found = [
        microseconds("decode", lambda: [decode(value) for value in values], runs=runs, per=len(games), note="a record"),
        microseconds("columns", lambda: cells_of(made.bands, games), runs=runs, per=len(games), note="a game"),
    ]
    before = StreamState.empty(made).fold_cells(cells[:, : len(games) // 2]).state.settled()
    rest = cells[:, len(games) // 2 :]
    for size in BATCHES:
        if size > rest.shape[1]:
            continue
        found += _batch_figures(before, rest[:, :size].copy(), runs)
    for projection in made.projections:
        fold = partial(_fold_from_nothing, projection, made.bands, rest)
        note = f"a game, {rest.shape[1]} a batch"
        found.append(microseconds(f"fold {projection.name}", fold, runs=runs, per=rest.shape[1], note=note))
    stored, window = before.stored(), before.window.to_games()
    found.append(
        microseconds(
            "load",
            lambda: StreamState.load(made, stored, window),
            runs=runs,
            note=f"a stream with {len(window)} games in its window",
        )
    )
    return found


def _fold_from_nothing(projection: Projection[Any], bands: Bands, cells: Ints) -> object:
    return projection.fold(projection.empty(), Games(bands, Columns.of(cells)))


def _batch_figures(before: StreamState, batch: Ints, runs: int) -> list[Figure]:
    size = batch.shape[1]
    calls, note = max(1, 1000 // size), f"a game, {size} a batch"

    def fold_and_delta() -> None:
        folded = before.fold_cells(batch)
        folded.state.delta(before, folded.kept)

    return [
        microseconds(
            f"fold {size}",
            lambda: before.fold_cells(batch).state.settled(),
            runs=runs,
            per=size,
            calls=calls,
            note=note,
        ),
        microseconds(f"fold and delta {size}", fold_and_delta, runs=runs, per=size, calls=calls, note=note),
    ]


async def commit_figures(redis_url: str, games: Sequence[Game], runs: int) -> list[Figure]:
    """One-game commits to a real server: the whole round trip, and the part of it inside Redis."""
    made = plan(ProjectionSettings())
    state = StreamState.empty(made).fold(games[:-COMMITS]).state.settled()
    round_trips, inside = [], []
    async with RedisStore(redis_url, key_prefix="bench:{stream}") as store:
        for run in range(runs + 1):
            commits = _commits(state, games[-COMMITS:], f"run{run}")
            await store.commit(commits[:1])
            calls_before, usec_before = await _script_time(redis_url)
            started_s = anyio.current_time()
            for commit in commits[1:]:
                await store.commit([commit])
            took_s = anyio.current_time() - started_s
            calls, usec = await _script_time(redis_url)
            if run:
                round_trips.append(took_s * 1e6 / COMMITS)
                inside.append((usec - usec_before) / (calls - calls_before))
    return [
        Figure("commit", "µs", tuple(round_trips), "one game, there and back"),
        Figure("commit in Redis", "µs", tuple(inside), "one game, inside the server"),
    ]


def _commits(state: StreamState, games: Sequence[Game], stream: str) -> list[Commit]:
    """First the whole state, then one commit per game on top of it."""
    line = Commits(state, stream)
    commits = [line.first(state)]
    for game in games:
        folded = state.fold([game])
        commits.append(line.next(folded.state, folded.state.delta(state, folded.kept)))
        state = folded.state
    return commits


async def _script_time(redis_url: str) -> tuple[int, int]:
    """How often scripts were called, and the µs that took inside the server."""
    async with Redis.from_url(redis_url) as client:
        stats = (await client.info("commandstats"))["cmdstat_evalsha"] if await _called(client) else {}
    return int(stats.get("calls", 0)), int(stats.get("usec", 0))


async def _called(client: "Redis") -> bool:
    return "cmdstat_evalsha" in await client.info("commandstats")
