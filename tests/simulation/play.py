"""The play: one schedule on simulated servers, what must hold at every moment, and how it must end.

Imports the engine, its twins and the rest of the simulation. What is always true: whatever is wrong is raised as
`Wrong`, with the last things that happened before it; and a schedule that goes through is right in the end, or was
stopped for a reason that it gave itself and mended by `replay`.
"""

import asyncio
import hashlib
import itertools
import logging
import signal
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection
from functools import cache
from random import Random
from typing import Any, Final

import anyio
import msgspec
import structlog

from crashfold.engine.adapters.memory.log import GROUP_ID, MemoryDeadLetters, MemoryLog, MemoryTopic
from crashfold.engine.adapters.memory.store import MemoryStore, StoreContents
from crashfold.engine.errors import (
    ConfigurationError,
    CrashfoldError,
    LostRange,
    StateError,
    StreamMoved,
    TopicRecreated,
)
from crashfold.engine.games.folding import GameFolding
from crashfold.engine.meter import Meter
from crashfold.engine.ports import Checkpoint
from crashfold.engine.read.held import HeldState
from crashfold.engine.runtime.folder import Folder
from crashfold.engine.runtime.health import HealthBoard
from crashfold.engine.runtime.rebuild import Rebuild, RebuildRequest
from crashfold.engine.runtime.service import Service
from crashfold.engine.runtime.supervisor import Supervisor
from crashfold.engine.runtime.verify import compared
from crashfold.projections import Plan, plan
from crashfold.projections.delta import SortedSet, Value
from crashfold.schemas import keys
from crashfold.schemas.game import Game, encode
from tests.simulation import loop as loops
from tests.simulation import schedule as s
from tests.simulation.history import Appended, Told, Topic
from tests.simulation.loop import Process, SimulatedLoop
from tests.simulation.readers import Client, Contents, Instance
from tests.simulation.schedule import STREAMS, Schedule
from tests.simulation.servers import (
    Letter,
    Network,
    SimulatedClock,
    SimulatedLetters,
    SimulatedLog,
    SimulatedShadow,
    SimulatedStore,
    Weather,
    process_name,
)
from tests.support.games import SMALL, json_game

SETTLED_WITHIN_S: Final = 120.0
"""Virtual seconds within which everything must be caught up once faults have stopped."""
LOOK_S: Final = 0.25
STOPPED_WITHIN_S: Final = 12.0
COMPARED_SHARE: Final = 0.1
"""So many of the commits are compared key by key; of the others only the totals."""
SHOWN: Final = 60


class Wrong(AssertionError):
    """Something that must never happen has happened."""


@cache
def _plan() -> Plan:
    return plan(SMALL, spacing=3)


class Outcome(msgspec.Struct, frozen=True):
    """What a run was: everything that happened and a digest of that, and with which errors engines stopped."""

    trace: tuple[str, ...]
    digest: str
    commits: int
    events: tuple[str, ...]
    refusals: tuple[str, ...]


class Running:
    """A process, its work, and how it came out."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.scope = anyio.CancelScope()
        self.ended = asyncio.Event()
        self.error: BaseException | None = None
        self.log: MemoryLog | None = None
        self.simulated: SimulatedLog | None = None
        self.is_told = False
        """Whether it was told to stop."""


class Play:
    """One schedule."""

    def __init__(self, loop: SimulatedLoop, schedule: Schedule) -> None:
        self._loop = loop
        self._schedule = schedule
        self._chance = Random(schedule.seed + 1)
        self._trace: list[str] = []
        self._weather = Weather(Random(schedule.seed + 2))
        self._network = Network(loop, self._weather, self.note)
        self._clock = SimulatedClock(loop)
        self._numbers = itertools.count(1)
        self._streams = STREAMS[: len(schedule.games)]
        self._coming = [list(games) for games in schedule.games]

        self._topic = MemoryTopic(partitions=schedule.partitions)
        self._store = MemoryStore()
        self._letters_twin = MemoryDeadLetters()
        self._letters: set[Letter] = set()
        self._history = {self._topic.topic_id: Topic(SMALL, schedule.only, schedule.partitions)}
        """Every topic that there was, by its id, the one that is there last."""
        self._bases: dict[str, set[int]] = {}
        """From which offsets the state of a stream may have been folded; 0 if not said otherwise."""
        self._ever_begun: dict[str, set[int]] = defaultdict(lambda: {0})
        """The same of all times: readers may hold what is long gone."""
        self._begins: dict[tuple[str | None, int], set[int]] = defaultdict(lambda: {0})
        """Where the partitions of each topic have begun so far."""
        self._replicas: list[StoreContents] = []
        self._excuses: set[str] = set()
        self._spoiled: set[str] = set()
        self._seen: dict[str, tuple[int, int]] = {}
        self._met: set[str] = set()
        """The streams that the store has, or had when they were looked at last."""
        self._forgotten: set[str] = set()
        """The streams of which the store that was gone back to knew nothing: an engine may have asked it by then."""
        self._engines: dict[int, Running] = {}
        self._replay: Running | None = None
        self._instances: dict[int, Running] = {}
        self._serving: dict[int, Instance] = {}
        self._clients: list[tuple[str, Client]] = []
        self._contents = Contents(self)
        self._ever_spoiled: set[str] = set()
        self._slots: list[asyncio.Task[None]] = []
        self._down: dict[int, str] = {}
        self._back_s: dict[int, float] = {}
        self._accept_gap = False
        self._restarts = True
        self._wrong: Exception | None = None
        self._refusals: list[str] = []
        self._commits = 0

    # --- the course of it --------------------------------------------------------------------------------------------

    async def run(self) -> Outcome:
        """Let everything happen, then let faults stop, and see that all is well."""
        for number in range(len(self._schedule.groups)):
            self._slots.append(self._loop.spawn(self._keep_running(number)))
        for number in range(self._schedule.instances):
            self._loop.spawn(self._keep_serving(number))
            for stream in 2 * self._streams:
                client = Client(f"client-{len(self._clients)}", stream, self._those_serving, self._contents, self)
                self._clients.append((stream, client))
                self._loop.spawn(client.run(Random(self._schedule.seed + 100 + len(self._clients))))
        for at_s, event in self._schedule.events:
            await asyncio.sleep(max(0.0, at_s - self._loop.time()))
            self._check_wrong()
            self.note("event", event)
            await self._happen(event)
        await asyncio.sleep(0.5)
        await self._end_well()
        digest = hashlib.sha256("\n".join(self._trace).encode()).hexdigest()[:16]
        events = tuple(type(event).__name__ for _, event in self._schedule.events)
        return Outcome(tuple(self._trace), digest, self._commits, events, tuple(self._refusals))

    def note(self, what: str, *how: object) -> None:
        """Remember what happened."""
        said = " ".join(map(str, how))
        self._trace.append(f"{self._loop.time():9.4f} {process_name():12} {what} {said}")

    @property
    def trace(self) -> list[str]:
        """What happened, in order."""
        return self._trace

    async def _end_well(self) -> None:
        """Faults stop. What runs has to catch up by itself, go on, stop in good order, and start again."""
        self.note("calm")
        self._weather.calm()
        if self._replay is not None:
            self._kill(self._replay)
        self._loop.thaw_all()
        self._arrive_all()
        if not await self._settled():
            await self._mend()
            return
        for stream in range(len(self._streams)):
            self._publish_one(stream)
        if not await self._settled():
            await self._mend()
            return
        await self._stop_all()
        for stream in range(len(self._streams)):
            self._publish_one(stream)
        self._spoiled -= set(self._streams)  # each is loaded now: it proves itself, or is refused
        self._start_all()
        if not await self._settled():
            await self._mend()

    async def _mend(self) -> None:
        """Engines stopped with 78: what the message names as the way out has to lead out."""
        self.note("mend")
        await self._stop_all()
        for stream in range(len(self._streams)):
            self._publish_one(stream)  # so that a rebuild meets every stream, also on a new topic
        if self._excuses & {"recreated", "truncated"}:
            self._accept_gap = True
        rebuilt = {stream: {self._begin(self._home(stream))} for stream in self._streams}
        self._bases = {stream: begin | self._bases.get(stream, {0}) for stream, begin in rebuilt.items()}
        for name, begin in rebuilt.items():
            self._ever_begun[name] |= begin
        replay = self._start("replay", lambda: self._rebuild(RebuildRequest(accept_gap=True)))
        await replay.ended.wait()
        if replay.error is not None:
            raise Wrong(
                f"the engine stopped with {sorted(self._down.values())}, and replay cannot mend it: {replay.error!r}"
            )
        self._spoiled = set(self._stored()) - set(self._streams)  # not on the topic, and so not rebuilt
        self._bases = rebuilt
        self._excuses.clear()
        self._seen.clear()
        self._start_all()
        if not await self._settled():
            raise Wrong(f"the engine stops again after a replay: {sorted(self._down.values())}")
        for stream in range(len(self._streams)):
            self._publish_one(stream)
        if not await self._settled():
            raise Wrong(f"the engine stops again after a replay: {sorted(self._down.values())}")

    async def _settled(self) -> bool:
        """Wait until everything on the topic is in the state or a dead letter, and see that it is right; False when all
        engines stopped with a StateError instead. Raises Wrong when neither comes."""
        until_s = self._loop.time() + SETTLED_WITHIN_S
        while (behind := self._behind()) != "":
            if self._down and len(self._down) == len(self._schedule.groups):
                return False
            if self._loop.time() > until_s:
                raise Wrong(f"not caught up {SETTLED_WITHIN_S:g} s after faults stopped: {behind}")
            await asyncio.sleep(LOOK_S)
            self._check_wrong()
        self.note("settled")
        for stream in self._stored():
            if stream not in self._spoiled:
                self._compare(stream)
        await self._read_up()
        return True

    async def _read_up(self) -> None:
        """Wait until every instance holds what the store has, and every client was told of it."""
        until_s = self._loop.time() + SETTLED_WITHIN_S
        while (behind := self._readers_behind()) != "":
            if self._loop.time() > until_s:
                raise Wrong(f"not read up {SETTLED_WITHIN_S:g} s after everything was committed: {behind}")
            await asyncio.sleep(LOOK_S)
            self._check_wrong()

    def _readers_behind(self) -> str:
        """Which reader does not know what is stored."""
        if len(self._serving) < self._schedule.instances:
            return "an instance is not back yet"
        for stream in self._streams:
            kept = self._store.snapshot().live.get(stream)
            if kept is None or stream in self._ever_spoiled:
                continue
            for instance in self._serving.values():
                held = instance.held(stream)
                if held is None or held.standing.commit != kept.checkpoint.commit or instance.is_replica(stream):
                    has = None if held is None else held.cursor
                    return f"{instance.process.name} has {has} of {stream}, which is at {kept.checkpoint.position}"
            for name, client in self._clients:
                if name == stream and client.total_games != kept.total_games:
                    return f"a client of {stream} knows {client.total_games} games of {kept.total_games}"
        return ""

    def _behind(self) -> str:
        """What is not caught up yet."""
        stored = self._store.snapshot().live
        for number in range(len(self._there.records)):
            begin = self._begin(number)
            told = self._there.told(number)
            for stream, offset in told.last.items():
                if offset < begin or not told.total(stream, offset + 1):
                    continue
                kept = stored.get(stream)
                if kept is None or kept.checkpoint.next_offset <= offset:
                    return f"stream {stream} has no record {offset}"
                if kept.checkpoint.topic_id != self._topic.topic_id:
                    return f"stream {stream} is of a topic that is gone"
            for offset, (_, stream_passing) in told.rejected.items():
                if stream_passing is None and offset >= begin and not self._has_letter(number, offset):
                    return f"record {offset} of partition {number} is no dead letter"
        return ""

    def _has_letter(self, number: int, offset: int) -> bool:
        return any(letter.partition == number and letter.offset == offset for letter in self._letters)

    def _check_wrong(self) -> None:
        if self._wrong is not None:
            raise self._wrong

    # --- processes ---------------------------------------------------------------------------------------------------

    def _start(self, name: str, work: Callable[[], Awaitable[None]]) -> Running:
        running = Running(Process(f"{name}.{next(self._numbers)}"))

        async def main() -> None:
            try:
                with running.scope:
                    await work()
            except CrashfoldError as error:
                running.error = error
            except Exception as error:
                if running.process.is_alive:
                    running.error = error
                    self._wrong = self._wrong or _unexpected(running.process.name, error)
            if running.process.is_alive:
                self.note("ended", repr(running.error))
            running.ended.set()

        self._loop.spawn(main(), running.process)
        return running

    def _kill(self, running: Running) -> None:
        """Nothing that it does from here on has any effect; its group misses it some time later."""
        process = running.process
        if not process.is_alive or running.ended.is_set():
            return
        self.note("kill", process.name)
        process.is_alive = False
        self._loop.thaw(process)
        running.scope.cancel()
        running.ended.set()
        if running.log is not None:
            self._loop.spawn(self._miss(running.log, self._chance.uniform(0.1, 3)))

    def _stop(self, running: Running) -> None:
        """SIGTERM, once: the second one ends a process at once, and that is what `_kill` is for."""
        if not running.is_told:
            running.is_told = running.process.signal(signal.SIGTERM)

    async def _miss(self, log: MemoryLog, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self._topic.evict(log)

    async def _keep_running(self, number: int) -> None:
        """What systemd does: start the engine again, whatever ended it."""
        while self._restarts:
            engine = self._engines[number] = self._start(f"engine-{number}", lambda: self._engine(number))
            await engine.ended.wait()
            if isinstance(engine.error, StateError | ConfigurationError):
                self._excuse(engine.error)
            if isinstance(engine.error, StateError):
                self._down[number] = f"{type(engine.error).__name__}: {engine.error}"
            elif engine.error is not None and not isinstance(engine.error, ConfigurationError):
                self._wrong = self._wrong or Wrong(f"{engine.process.name} ended: {engine.error!r}")
                return
            await asyncio.sleep(self._back_s.pop(number, 0.5 + self._chance.random()))
            self._down.pop(number, None) if self._restarts and number not in self._down else None

    async def _keep_serving(self, number: int) -> None:
        """Start an instance of the read side again whenever it was killed: nothing else may end it."""
        while True:
            running = self._instances[number] = self._start(f"api-{number}", lambda: self._serve(number))
            await running.ended.wait()
            self._serving.pop(number, None)
            if running.process.is_alive:
                self._wrong = self._wrong or Wrong(f"{running.process.name} ended: {running.error!r}")
                return
            await asyncio.sleep(self._back_s.pop(-1 - number, 0.5))

    async def _serve(self, number: int) -> None:
        process = self._instances[number].process
        only = self._schedule.only
        instance = Instance(
            process, self._network, self._store, self._topic, SMALL, only, self._clock, self._contents, self
        )
        self._serving[number] = instance
        await instance.run(self._streams)

    def _those_serving(self) -> list[Instance]:
        return list(self._serving.values())

    def _excuse(self, error: CrashfoldError) -> None:
        """See that the schedule gave a reason for the engine to stop."""
        match error:
            case TopicRecreated():
                needed = {"recreated"}
            case LostRange():
                needed = {"truncated", "recreated"}
            case StreamMoved():
                needed = set()
            case ConfigurationError():
                needed = {"refused"}
            case _:
                needed = {"spoiled", "recreated"}
        if not needed & self._excuses:
            self._wrong = self._wrong or Wrong(f"the engine stopped without a reason: {error!r}")
        self._refusals.append(type(error).__name__)

    async def _engine(self, number: int) -> None:
        group = self._schedule.groups[number]
        twin = MemoryLog(self._topic, group)
        self._engines[number].log = twin
        log = self._engines[number].simulated = SimulatedLog(self._network, twin)
        health = HealthBoard(self._clock)
        store = self._new_store()
        service = Service(
            log,
            store,
            self._new_letters(),
            self._folder(log, store, health),
            clock=self._clock,
            meter=Meter(),
            health=health,
            limits=self._schedule.limits,
            accept_gap=self._accept_gap,
        )
        await Supervisor(service, log, clock=self._clock, meter=Meter(), health=health).run()

    def _folder(self, log: SimulatedLog, store: SimulatedStore, health: HealthBoard) -> Folder:
        return Folder(
            log.topic,
            store,
            GameFolding(_plan()),
            only_stream=self._schedule.only,
            writer=process_name(),
            new_generation=lambda: f"g{next(self._numbers)}",
            new_commit=lambda: f"{next(self._numbers):016x}",
            clock=self._clock,
            meter=Meter(),
            health=health,
            limits=self._schedule.limits,
        )

    async def _rebuild(self, request: RebuildRequest) -> None:
        log = SimulatedLog(self._network, MemoryLog(self._topic, None))
        shadow = SimulatedShadow(self._network, self._store.shadow(), self._committed)
        async with log:
            await Rebuild(
                log,
                self._new_store(),
                shadow,
                self._folder(log, shadow, HealthBoard(self._clock)),
                request,
                self._clock,
                lambda progress: None,
                dead_letters=self._new_letters(),
                poll_wait_s=self._schedule.limits.poll_wait_s,
            ).run()

    def _new_store(self) -> SimulatedStore:
        return SimulatedStore(self._network, self._store, self._committed)

    def _new_letters(self) -> SimulatedLetters:
        return SimulatedLetters(self._network, self._letters_twin, self._letters)

    def _start_all(self) -> None:
        self._restarts = True
        self._down.clear()
        self._slots = [self._loop.spawn(self._keep_running(n)) for n in range(len(self._schedule.groups))]

    async def _stop_all(self) -> None:
        """Tell every engine to stop: all have to, in good order and in time."""
        self._restarts = False
        for engine in self._engines.values():
            if not engine.ended.is_set():
                self._stop(engine)
        until_s = self._loop.time() + STOPPED_WITHIN_S
        for engine in self._engines.values():
            while not engine.ended.is_set():
                if self._loop.time() > until_s:
                    raise Wrong(f"{engine.process.name} does not stop")
                await asyncio.sleep(LOOK_S)
        for slot in self._slots:
            slot.cancel()
        self._check_wrong()

    # --- events ------------------------------------------------------------------------------------------------------

    async def _happen(self, event: s.Event) -> None:
        match event:
            case s.Arrive(stream, games):
                self._arrive(stream % len(self._streams), games)
            case s.Litter(partition, key, value):
                self._litter(partition, key, value)
            case s.Hole(partition):
                self._topic.skip(2, partition=partition % self._schedule.partitions)
            case s.Kill(number, after, back_s):
                await _turns(after)
                if engine := self._engines.get(number):
                    self._back_s[number] = back_s
                    self._kill(engine)
            case s.Stop(number, after, back_s):
                await _turns(after)
                if engine := self._engines.get(number):
                    self._back_s[number] = back_s
                    self._stop(engine)
            case s.Freeze(number, after, for_s):
                await _turns(after)
                if (engine := self._engines.get(number)) and not engine.process.is_frozen:
                    self._loop.freeze(engine.process)
                    self._loop.spawn(self._thaw(engine, for_s))
            case s.Rebalance(after):
                await _turns(after)
                self._topic.rebalance(GROUP_ID)
                self._topic.rebalance(s.OTHER_GROUP)
            case s.Evict(number):
                if (engine := self._engines.get(number)) and engine.log is not None:
                    self._topic.evict(engine.log)
            case s.EndReader(number, back_s, only_frozen):
                if running := self._instances.get(number):
                    if only_frozen and not running.process.is_frozen:
                        self._loop.freeze(running.process)
                        self._loop.spawn(self._until(back_s, lambda: self._loop.thaw(running.process)))
                    elif not only_frozen:
                        self._back_s[-1 - number] = back_s
                        self._kill(running)
            case s.Replay():
                self._start_replay(event)
            case s.Trouble(likely, for_s):
                self._weather.trouble = likely
                self._loop.spawn(self._until(for_s, lambda: setattr(self._weather, "trouble", 0.0)))
            case s.Slow(times, for_s):
                self._weather.slow = times
                self._loop.spawn(self._until(for_s, lambda: setattr(self._weather, "slow", 1.0)))
            case s.Away(server, for_s):
                self._weather.away[server] = self._loop.time() + for_s
            case s.ReadOnly(for_s):
                self._weather.read_only_until_s = self._loop.time() + for_s
            case s.Forbid(server, for_s):
                self._excuses.add("refused")
                self._weather.forbidden[server] = self._loop.time() + for_s
            case s.ListenerFails(number):
                if (engine := self._engines.get(number)) and engine.simulated is not None:
                    engine.simulated.listener_failed = True
                    self._topic.evict(engine.simulated.twin)  # it joins again with its next poll
            case s.AddPartition(games):
                self._add_partition(games)
            case s.Remember():
                self._replicas.append(self._store.snapshot())
            case s.RollBack(replica):
                if self._replicas:
                    self._restore(self._replicas[replica % len(self._replicas)])
            case s.Fork(replica):
                if self._replicas:
                    left = self._store.snapshot()
                    self._restore(self._replicas.pop(replica % len(self._replicas)))
                    self._replicas.append(left)
            case s.Empty():
                self._restore(MemoryStore().snapshot())
            case s.Spoil(stream, damage):
                self._spoil(self._streams[stream % len(self._streams)], damage)
            case s.Truncate(partition, share):
                self._truncate(partition % self._schedule.partitions, share)
            case s.Recreate(same, others):
                self._recreate(same, others)

    async def _until(self, for_s: float, end: Callable[[], None]) -> None:
        await asyncio.sleep(for_s)
        end()

    async def _thaw(self, engine: Running, for_s: float) -> None:
        session_s = 1.5
        await asyncio.sleep(min(for_s, session_s))
        if for_s > session_s and engine.log is not None and engine.process.is_frozen:
            self._topic.evict(engine.log)
            await asyncio.sleep(for_s - session_s)
        self._loop.thaw(engine.process)

    def _start_replay(self, event: s.Replay) -> None:
        if self._replay is not None and not self._replay.ended.is_set():
            return
        only = self._schedule.only
        stream = None if event.stream is None else self._streams[event.stream % len(self._streams)]
        to_offset = None
        if event.to_offset is not None and (self._schedule.partitions == 1 or stream is not None):
            to_offset = int(event.to_offset * self._end(0 if stream is None else self._home(stream)))
        request = RebuildRequest(stream=stream or only, to_offset=to_offset, dry_run=event.dry_run)
        replay = self._replay = self._start("replay", lambda: self._rebuild(request))
        if event.killed_after is not None:
            self._loop.spawn(self._kill_after(replay, event.killed_after))

    async def _kill_after(self, running: Running, turns: int) -> None:
        await _turns(turns)
        self._kill(running)

    def _restore(self, snapshot: StoreContents) -> None:
        self._store.restore(snapshot)
        self._seen.clear()
        self._met = set(snapshot.live)
        named = {stream for manifest in snapshot.manifests.values() for stream in manifest.streams}
        self._forgotten = set(self._streams) - self._met - named

    def _spoil(self, stream: str, damage: str) -> None:
        live = self._store._data.live
        kept = live.get(stream)
        if kept is None:
            return
        self._spoiled.add(stream)
        self._ever_spoiled.add(stream)
        self._seen.pop(stream, None)
        self._excuses.add("spoiled")
        model: dict[str, Value] = dict(kept.model)
        games, state = model.get(keys.GAMES), model.get(keys.CHECKPOINT)
        match damage:
            case "all of its keys":
                del live[stream]
                self._met.discard(stream)
                return
            case "no games":
                model.pop(keys.GAMES, None)
            case "half of the games" if isinstance(games, SortedSet):
                newer = dict(sorted(games.members.items())[len(games.members) // 2 :])
                model[keys.GAMES] = SortedSet(newer)
            case "a game that is none" if isinstance(games, SortedSet) and games.members:
                model[keys.GAMES] = SortedSet({**games.members, max(games.members): b"{}"})
            case "no base" if isinstance(state, dict):
                model[keys.CHECKPOINT] = {field: value for field, value in state.items() if field != "base"}
        live[stream] = msgspec.structs.replace(kept, model=model)

    def _truncate(self, number: int, share: float) -> None:
        begin, end = self._begin(number), self._end(number)
        if end > begin:
            self._excuses.add("truncated")
            self._topic.truncate_before(begin + int(share * (end - begin)), partition=number)
            self._begins[self._topic.topic_id, number].add(self._begin(number))

    def _recreate(self, same: float, others: int) -> None:
        before = self._there.records
        self._excuses.add("recreated")
        self._topic.recreate()
        self._history[self._topic.topic_id] = Topic(SMALL, self._schedule.only, len(before))
        for number, records in enumerate(before):
            for record in records[: int(same * len(records))]:
                self._append(number, record.key, record.value)
        for turn in range(others):
            stream = turn % len(self._streams)
            key = None if self._schedule.only == "crash" else self._streams[stream].encode()
            value = json_game(game_id=1_000 + turn, crash_point=3.0 + turn)
            self._append(stream % self._schedule.partitions, key, value)

    def _add_partition(self, games: int) -> None:
        self._topic.add_partitions()
        self._there.records.append([])
        number = len(self._there.records) - 1
        for game_id in range(1, games + 1):
            self._append(number, f"of-{number}".encode(), json_game(game_id=game_id, crash_point=1.5 * game_id))

    # --- the topic ---------------------------------------------------------------------------------------------------

    @property
    def _there(self) -> Topic:
        """The topic that is there."""
        return self._history[self._topic.topic_id]

    def _home(self, stream: str) -> int:
        return self._streams.index(stream) % self._schedule.partitions

    def _begin(self, number: int) -> int:
        return self._topic._partitions[number].begin

    def _end(self, number: int) -> int:
        return self._topic._partitions[number].end

    def _append(self, number: int, key: bytes | None, value: bytes | None) -> None:
        offset = self._topic.append(value, key=key, partition=number)
        self._there.append(number, Appended(offset, key, value))

    def _arrive(self, stream: int, games: int) -> None:
        coming = self._coming[stream]
        for game in coming[:games]:
            self._publish(stream, game)
        del coming[:games]

    def _arrive_all(self) -> None:
        for stream, coming in enumerate(self._coming):
            self._arrive(stream, len(coming))

    def _publish(self, stream: int, game: Game) -> None:
        self._append(stream % self._schedule.partitions, self._streams[stream].encode(), encode(game))

    def _publish_one(self, stream: int) -> None:
        """The next game, newer than all."""
        number = next(self._numbers)
        value = json_game(game_id=1_000_000 + number, crash_point=1.5 + number % 9, end_time=1_700_100_000_000 + number)
        self._append(stream % self._schedule.partitions, self._streams[stream].encode(), value)

    def _litter(self, partition: int, key: bytes | None, value: bytes | None) -> None:
        """A bad record; one of a stream goes where the stream lives."""
        name = (key or b"").decode("ascii", "replace")
        number = partition % self._schedule.partitions
        if name in self._streams:
            number = self._home(name)
        elif name == "z" or key is None:
            number = 0
        self._append(number, key, value)

    # --- what must hold ----------------------------------------------------------------------------------------------

    def _stored(self) -> list[str]:
        return sorted(self._store.snapshot().live)

    def wrong(self, what: str) -> None:
        """See `readers.Judge`."""
        self._wrong = self._wrong or Wrong(what)

    def is_spoiled(self, stream: str) -> bool:
        """See `readers.Judge`."""
        return stream in self._ever_spoiled

    def judge(self, stream: str, held: HeldState) -> None:
        """See `readers.Judge`: what a reader holds is what the topic says up to there, wherever it was begun."""
        standing = held.standing
        topic = self._history.get(standing.topic_id)
        if stream in self._ever_spoiled or topic is None:
            return
        begins = sorted(self._ever_begun[stream])
        totals = [topic.told(standing.partition, begin).total(stream, standing.next_offset) for begin in begins]
        if held.total_games not in totals:
            self.wrong(f"a reader holds {held.total_games} games of {stream} at {held.cursor}; the topic {totals}")

    def _committed(self, stream: str) -> None:
        """Something was written of the stream: look at it, as a reader would, and ask the oracle."""
        self._commits += 1
        try:
            self._look(stream)
        except Wrong as wrong:
            self._wrong = self._wrong or wrong

    def _look(self, stream: str) -> None:
        kept = self._store.snapshot().live.get(stream)
        if kept is None:
            return
        if stream not in self._met and (stream in self._forgotten or not self._is_known(stream)):
            # It is met for the first time, as far as the store knows: what retention has removed was never needed.
            self._bases.setdefault(stream, {0}).update(
                self._begins[kept.checkpoint.topic_id, kept.checkpoint.partition]
            )
            self._ever_begun[stream] |= self._bases[stream]
        self._met.add(stream)
        self._forgotten.discard(stream)
        if stream in self._spoiled:
            return
        version, total = self._seen.get(stream, (0, 0))
        if kept.version < version:
            raise Wrong(f"the version of stream {stream} went from {version} to {kept.version}")
        if kept.version == version and kept.total_games != total:
            raise Wrong(f"stream {stream} has two contents of version {version}")
        self._seen[stream] = kept.version, kept.total_games
        if self._chance.random() < COMPARED_SHARE:
            self._compare(stream)
        else:
            self._find(stream, kept)

    def _may_begin(self, stream: str, checkpoint: Checkpoint) -> list[int]:
        """From which offset the state was folded, as it says itself; of those that may be."""
        bases = sorted(self._bases.get(stream, {0}))
        first_offset = checkpoint.first_offset
        return bases if first_offset < 0 else [base for base in bases if base <= first_offset][-1:]

    def _is_known(self, stream: str) -> bool:
        """Whether a manifest speaks of the stream."""
        return any(stream in manifest.streams for manifest in self._store.snapshot().manifests.values())

    def _find(self, stream: str, kept: Any) -> Told:
        """What the topic says to whoever begins where the state was begun; it must have the right number of games."""
        checkpoint: Checkpoint = kept.checkpoint
        number = checkpoint.partition
        topic = self._history[checkpoint.topic_id]
        said = []
        for base in self._may_begin(stream, checkpoint):
            told = topic.told(number, base)
            total = told.total(stream, checkpoint.next_offset)
            said.append(total)
            if total == kept.total_games:
                self._check_letters(stream, number, checkpoint.next_offset, told)
                return told
        stands = f"stream {stream} has {kept.total_games} games at offset {checkpoint.next_offset}"
        raise Wrong(f"{stands}; the topic {said}")

    def _check_letters(self, stream: str, number: int, next_offset: int, told: Told) -> None:
        for offset, reason in told.letters(stream, next_offset):
            if offset >= self._begin(number) and not self._has_letter(number, offset):
                raise Wrong(f"the checkpoint of {stream} passed record {offset}, {reason}, which is no dead letter yet")

    def _compare(self, stream: str) -> None:
        """Compare every key with what the topic says."""
        kept = self._store.snapshot().live[stream]
        told = self._find(stream, kept)
        expected = told.read_model(stream, kept.checkpoint.next_offset)
        found = compared(stream, GameFolding(_plan()), expected, kept.stored(), kept.aggregates())
        if found:
            raise Wrong(f"{len(found)} differences, among them {found[:3]}")


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def _unexpected(name: str, error: Exception) -> Wrong:
    wrong = Wrong(f"{name} ended with a traceback: {error!r}")
    wrong.__cause__ = error
    return wrong


class Failed(Exception):
    """A seed failed; the message says how to see it again."""


def play(seed: int, kinds: Collection[str], shown: int = SHOWN) -> Outcome:
    """Play the schedule of that seed. Raises Failed."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    plays: list[Play] = []

    async def main(loop: SimulatedLoop) -> Outcome:
        plays.append(Play(loop, s.schedule_of(seed, kinds)))
        return await plays[0].run()

    try:
        return loops.run(main, Random(seed + 3))
    except Exception as error:
        lines = "\n".join(plays[0].trace[-shown:]) if plays else ""
        raise Failed(f"{lines}\nseed {seed}: {error}\nsee it again: make simulate SEEDS={seed}") from error
    finally:
        structlog.reset_defaults()
