"""Engines that stage every commit of one stream, with faults between any two calls: whatever stands in Redis is always
what `plain` says of the records below its checkpoint, and nobody is told of damage that is none."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any, Final

import msgspec
import pytest
from redis import Redis

from crashfold.engine.adapters.redis import parts, staging
from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.errors import CrashfoldError, StoreUnavailable, Unavailable
from crashfold.engine.ports import Applied, Commit, Conflict, Duplicate, Position
from crashfold.projections import StreamState, plain, plan
from crashfold.schemas.game import Game
from tests.contract.state_store import commit
from tests.support.calls import Interposed, Send
from tests.support.games import SMALL, random_arrivals

STREAM: Final = "crash"
STAGE: Final = "test:{crash}:stage*"
GAMES: Final = 80
TURNS: Final = 25
FAULT: Final = 0.2


class Killed(CrashfoldError):
    """The engine is gone in the middle of a commit."""


class World:
    """One Redis, one topic, and the engines that fold it. `calm` ends the faults."""

    def __init__(self, seed: int, url: str) -> None:
        self.chance = Random(seed)
        self.plan = plan(SMALL, spacing=self.chance.choice((1, 3, 50)))
        self.topic = random_arrivals(self.chance, GAMES)
        self._url = url
        self.redis = Redis.from_url(url)
        self.stores: list[RedisStore] = []
        self.reader = self.start_store()
        self.late: list[Callable[[], Any]] = []
        self.dump: dict[bytes, bytes] = {}
        self.calm = False
        self.engines = [Engine(self, name) for name in "abc"]

    async def aclose(self) -> None:
        self.redis.close()
        for store in self.stores:
            await store.aclose()

    def start_store(self) -> RedisStore:
        """A store over connections of its own, which stay open to the end: what was sent may arrive late."""
        self.stores.append(RedisStore(self._url, key_prefix="test:{stream}", whole_values_max=1))
        return self.stores[-1]

    async def check(self) -> None:
        """Compare what stands in Redis, and what a restart would make of it, with the recomputation."""
        read = await self.reader.read_model(STREAM)
        if read is not None:
            stored, model = read
            accepted = plain.accept(SMALL, self.topic[: stored.checkpoint.next_offset])
            assert model == plain.read_model(SMALL, accepted)
            window = [msgspec.json.decode(member, type=Game) for member in stored.window]
            assert StreamState.load(self.plan, stored.state, window).keys() == model

    def remember(self) -> None:
        """Keep what Redis holds now."""
        found = {bytes(key): self.redis.dump(key) for key in self.redis.scan_iter("test:*")}
        self.dump = {key: value for key, value in found.items() if value is not None}

    def go_back(self) -> None:
        """Redis loses its last writes."""
        pipeline = self.redis.pipeline(transaction=True)
        pipeline.flushdb()
        for key, value in self.dump.items():
            pipeline.restore(key, 0, value)
        pipeline.execute()

    def spoil_stage(self) -> None:
        """Keys of the stage are lost, or others stand there."""
        for key in self.redis.scan_iter(STAGE):
            if self.chance.random() < 0.3:
                self.redis.delete(key)
                if self.chance.random() < 0.3:
                    self.redis.sadd(key, "member")


class Engine:
    """Folds the topic and commits what it folded, the very same commit again while its outcome is unknown."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.commits = 0
        self.is_busy = False
        self.start()

    @property
    def is_done(self) -> bool:
        return self.state is not None and self.commit is None and self.next_offset == GAMES

    async def turn(self) -> None:
        """Load, fold and commit as far as it goes."""
        if self.is_busy:
            return
        self.is_busy = True
        try:
            await self._turn()
        except Killed:
            self.start()
        except Unavailable:
            pass
        finally:
            self.is_busy = False

    def start(self) -> None:
        """Begin with nothing in memory."""
        self.store = self.world.start_store()
        Interposed(self.store, self._between)
        self.state: StreamState | None = None
        self.position: Position | None = None
        self.commit: Commit | None = None
        self.next_offset = 0

    async def _turn(self) -> None:
        if self.state is None:
            await self._load()
        assert self.state is not None
        if self.is_done:
            return
        if self.commit is None:
            start = self.next_offset
            self.next_offset = min(GAMES, start + self.world.chance.choice((1, 2, 10, 40)))
            folded = self.state.fold(self.world.topic[start : self.next_offset])
            self.commits += 1
            self.commit = commit(
                STREAM,
                self.position,
                self.next_offset,
                folded.state.delta(self.state, folded.kept),
                generation=None if self.position else self.name,
                history=f"{self.name}{self.commits}",
                newest_id=folded.state.newest_id,
            )
            checkpoint = msgspec.structs.replace(self.commit.checkpoint, aggregates=self.world.plan.aggregates)
            self.commit = msgspec.structs.replace(
                self.commit, checkpoint=checkpoint, total_games=folded.state.totals.games
            )
            self.folded = folded.state
        (outcome,) = await self.store.commit([self.commit])
        match outcome:
            case Applied() | Duplicate():
                self.state, self.position = self.folded, self.commit.checkpoint.position
            case Conflict():
                self.state = None
        self.commit = None

    async def _load(self) -> None:
        stored, plan_ = await self.store.load(STREAM), self.world.plan
        self.position, self.next_offset, self.state = None, 0, StreamState.empty(plan_)
        if stored is not None:
            self.position, self.next_offset = stored.checkpoint.position, stored.checkpoint.next_offset
            window = [msgspec.json.decode(member, type=Game) for member in stored.window]
            self.state = StreamState.load(plan_, stored.state, window)

    async def _between(self, send: Send, calls: Sequence[Any]) -> list[Any]:
        world = self.world
        if world.calm or world.chance.random() > FAULT:
            return await send(calls)
        some = world.chance.randint(0, len(calls))
        match world.chance.choice(("lost", "late", "killed", "rival", "rival", "remember", "back", "spoil", "full")):
            case "lost":
                await send(calls[:some])
                raise StoreUnavailable("the reply was lost")
            case "late":
                world.late.append(partial(send, calls))
                raise StoreUnavailable("it arrives later")
            case "killed":
                await send(calls[:some])
                raise Killed
            case "rival":
                await world.chance.choice(world.engines).turn()
                if world.late:
                    await world.late.pop()()
            case "remember":
                world.remember()
            case "back":
                done = await send(calls[:some])
                world.go_back()
                return done + await send(calls[some:])
            case "spoil":
                world.spoil_stage()
            case "full":
                world.redis.config_set("maxmemory", "1")
                try:
                    return await send(calls)
                finally:
                    world.redis.config_set("maxmemory", "0")
        return await send(calls)


@pytest.fixture
async def new_world(each_redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[int], World]]:
    monkeypatch.setattr(parts, "staged_parts", partial(parts.staged_parts, part_bytes=1_000))
    monkeypatch.setattr(staging, "PARTS_AT_ONCE", 3)
    worlds: list[World] = []

    def new(seed: int) -> World:
        worlds.append(World(seed, each_redis_url))
        return worlds[-1]

    yield new
    for world in worlds:
        await world.aclose()


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_between_the_calls_of_staged_commits_the_state_is_right(
    new_world: Callable[[int], World], seed: int
) -> None:
    world = new_world(seed)
    for _ in range(TURNS):
        await world.chance.choice(world.engines).turn()
        await world.check()
    world.calm = True
    for late in world.late:
        with suppress(Unavailable):
            await late()
        await world.check()
    for engine in world.engines:
        engine.start()
    while not all(engine.is_done for engine in world.engines):
        for engine in world.engines:
            await engine.turn()
        await world.check()
    checkpoint = await world.reader.checkpoint(STREAM)
    assert checkpoint is not None
    assert checkpoint.next_offset == GAMES
