"""What the tests of the line share: a deployment of memory twins, engines over it, and what must hold in the end."""

import itertools
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from crashfold.engine.adapters.memory.clock import MemoryClock
from crashfold.engine.adapters.memory.log import MemoryDeadLetters, MemoryLog, MemoryTopic
from crashfold.engine.adapters.memory.store import MemoryStore
from crashfold.engine.adapters.prometheus.engine import Metrics
from crashfold.engine.games.fairness import FairnessCheck
from crashfold.engine.games.fairness_count import FairnessCount
from crashfold.engine.games.folding import GameFolding
from crashfold.engine.ports import Checkpoint, Commit, EventLog, Folding, Manifest, Outcome, Record, StateStore
from crashfold.engine.runtime.folder import Folder
from crashfold.engine.runtime.health import HealthBoard
from crashfold.engine.runtime.pacing import EngineLimits
from crashfold.engine.runtime.rebuild import Progress, Rebuild, RebuildReport, RebuildRequest
from crashfold.engine.runtime.service import Service
from crashfold.engine.runtime.verify import VerifyReport, verify
from crashfold.engine.tracing import Tracer
from crashfold.projections import Plan, plan
from crashfold.projections.settings import ProjectionSettings
from crashfold.schemas.game import Game, encode
from crashfold.schemas.record import DEFAULT_STREAM
from tests.support.games import SMALL, games_at

STEPS_MAX: Final = 400
"""More than any test needs: who is not done by then goes in circles."""
GAMES: Final = tuple(games_at(*(1.0, 2.0, 1.4, 11.0, 3.0) * 8))
QUICK: Final = EngineLimits(batch_games_max=5, poll_wait_s=0)


class MemoryEngine:
    """A service and the log that it reads."""

    def __init__(
        self, log: MemoryLog, service: Service, metrics: Metrics, health: HealthBoard, clock: MemoryClock
    ) -> None:
        self.log = log
        self.service = service
        self.metrics = metrics
        self.health = health
        self.clock = clock

    def value(self, name: str, **labels: str) -> float:
        """A metric, by its name without the prefix."""
        found = self.metrics.registry.get_sample_value(f"crashfold_{name}", labels)
        assert found is not None, f"there is no metric {name} {labels}"
        return found


class SlowStore(MemoryStore):
    """A store whose commits take time."""

    def __init__(self, clock: MemoryClock, commit_s: float) -> None:
        super().__init__()
        self._clock = clock
        self._commit_s = commit_s

    async def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        self._clock.pass_s(self._commit_s)
        return await super().commit(commits)


class MemoryDeployment:
    """A topic, a store and dead letters; engines come and go."""

    def __init__(
        self,
        partitions: int = 1,
        *,
        only: str | None = None,
        settings: ProjectionSettings = SMALL,
        fairness: FairnessCheck | None = None,
        commit_s: float = 0.0,
        topic_ids: bool = True,
    ) -> None:
        self.topic = MemoryTopic(partitions=partitions, topic_ids=topic_ids)
        self.clock = MemoryClock()
        self.store = SlowStore(self.clock, commit_s)
        self.letters = MemoryDeadLetters()
        self.only = only
        self.settings = settings
        self.fairness = fairness
        self._numbers = itertools.count(1)

    @property
    def plan(self) -> Plan:
        return plan(self.settings, spacing=3, rule="" if self.fairness is None else self.fairness.rule)

    @property
    def folding(self) -> Folding:
        return GameFolding(self.plan, self.fairness)

    def publish(self, *games: Game, stream: str | None = None, partition: int = 0) -> None:
        """Append games to the topic."""
        key = None if stream is None else stream.encode()
        self.topic.extend(map(encode, games), key=key, partition=partition)

    async def topic_records(self) -> list[tuple[int, Record]]:
        """Every record there is, by partition."""
        found = []
        async with MemoryLog(self.topic, None) as log:
            for number in sorted(self.topic.partitions):
                bounds = await log.bounds(number)
                records = [await log.record(number, offset) for offset in range(bounds.begin, bounds.end)]
                found += [(number, record) for record in records if record is not None]
        return found

    def folder(
        self,
        log: EventLog,
        store: StateStore,
        *,
        limits: EngineLimits = QUICK,
        metrics: Metrics | None = None,
        health: HealthBoard | None = None,
    ) -> Folder:
        number = next(self._numbers)
        return Folder(
            log.topic,
            store,
            self.folding,
            only_stream=self.only,
            writer=f"engine-{number}",
            new_generation=lambda: f"g{number}.{next(self._numbers)}",
            new_commit=lambda: f"{next(self._numbers):016x}",
            clock=self.clock,
            meter=metrics or Metrics(),
            health=health or HealthBoard(self.clock),
            limits=limits,
        )

    def service(
        self,
        log: EventLog,
        *,
        limits: EngineLimits = QUICK,
        accept_gap: bool = False,
        metrics: Metrics | None = None,
        health: HealthBoard | None = None,
        tracer: Tracer | None = None,
    ) -> Service:
        metrics, health = metrics or Metrics(), health or HealthBoard(self.clock)
        return Service(
            log,
            self.store,
            self.letters,
            self.folder(log, self.store, limits=limits, metrics=metrics, health=health),
            clock=self.clock,
            meter=metrics,
            health=health,
            limits=limits,
            observer=None if self.fairness is None else FairnessCount(self.fairness, metrics),
            accept_gap=accept_gap,
            tracer=tracer,
        )

    @asynccontextmanager
    async def engine(self, *, limits: EngineLimits = QUICK, accept_gap: bool = False) -> AsyncIterator[MemoryEngine]:
        """An engine in the group; it ends without a word, as when killed."""
        metrics, health = Metrics(), HealthBoard(self.clock)
        async with MemoryLog(self.topic) as log:
            service = self.service(log, limits=limits, accept_gap=accept_gap, metrics=metrics, health=health)
            yield MemoryEngine(log, service, metrics, health, self.clock)

    async def catch_up(self, *engines: MemoryEngine) -> None:
        """Let the engines take turns until everything on the topic is committed, and noted."""
        for _ in range(STEPS_MAX):
            for engine in engines:
                self.clock.pass_s(1)
                await engine.service.step()
            if await self.is_caught_up(engines):
                return
        raise AssertionError(f"not caught up after {STEPS_MAX} steps")

    async def is_caught_up(self, engines: Iterable[MemoryEngine]) -> bool:
        positions: dict[int, int] = {}
        for engine in engines:
            positions |= engine.service.next_offsets
        if positions.keys() != self.topic.partitions:
            return False
        async with MemoryLog(self.topic, None) as log:
            ends = {number: (await log.bounds(number)).end for number in positions}
        for number in positions:
            manifest = await self.manifest(number)
            if manifest is None or manifest.low_water < ends[number]:
                return False
        return all(positions[number] >= end for number, end in ends.items())

    async def manifest(self, number: int) -> Manifest | None:
        """What is noted of the partition, without a call that could be meant to fail."""
        return self.store.snapshot().manifests.get((self.topic.name, number))

    async def run(self, *, limits: EngineLimits = QUICK, accept_gap: bool = False) -> None:
        """One engine, until it has caught up."""
        async with self.engine(limits=limits, accept_gap=accept_gap) as engine:
            await self.catch_up(engine)

    async def rebuild(
        self, request: RebuildRequest | None = None, progressed: list[Progress] | None = None
    ) -> RebuildReport:
        """What `replay` does."""
        reports: list[Progress] = [] if progressed is None else progressed
        async with MemoryLog(self.topic, None) as log:
            shadow = self.store.shadow()
            return await Rebuild(
                log,
                self.store,
                shadow,
                self.folder(log, shadow),
                request or RebuildRequest(),
                self.clock,
                reports.append,
                dead_letters=self.letters,
                poll_wait_s=0,
            ).run()

    async def verify(self, *streams: str) -> VerifyReport:
        """What `verify` says."""
        async with MemoryLog(self.topic, None) as log:
            names = streams or (self.only or DEFAULT_STREAM,)
            return await verify(log, self.store, self.folding, names, poll_wait_s=0)

    async def check(self, *streams: str) -> None:
        """The stored state is what the topic says."""
        report = await self.verify(*streams)
        assert report.differences == (), report.differences

    async def checkpoint(self, stream: str = DEFAULT_STREAM) -> Checkpoint:
        stored = await self.store.load(stream)
        assert stored is not None
        return stored.checkpoint

    async def versions(self, stream: str = DEFAULT_STREAM) -> int:
        """How many commits were made."""
        stored = await self.store.load(stream)
        return 0 if stored is None else stored.version

    async def games(self, stream: str = DEFAULT_STREAM) -> int:
        """How many games readers see."""
        read = await self.store.read_model(stream)
        if read is None:
            return 0
        occurrences = read[1].get(f"occurrences:{self.settings.predicates[0]}")
        return int(occurrences["total_games"]) if isinstance(occurrences, dict) else 0

    def reasons(self, only: Collection[int] | None = None) -> list[tuple[int, str]]:
        """The dead letters, as offset and reason."""
        return sorted(
            (letter.offset, letter.reason) for letter in self.letters.letters if only is None or letter.offset in only
        )


async def steps(engine: MemoryEngine, count: int, every_s: float = 1) -> None:
    """Let the engine take so many turns, with some time between them."""
    for _ in range(count):
        engine.clock.pass_s(every_s)
        await engine.service.step()
