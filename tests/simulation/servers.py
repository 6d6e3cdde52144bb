"""The simulated servers: the shipped twins behind a network that loses and delays calls.

Imports the ports' facts, the twins and the loop. What is always true: what a process asks for happens at one moment or
not at all, whatever becomes of the reply and of the process; and what fate a call meets follows from the seed alone.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import Enum
from random import Random
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

import anyio
import msgspec

from crashfold.engine.adapters.memory.log import MemoryDeadLetters, MemoryLog
from crashfold.engine.adapters.memory.reader import MemoryReader
from crashfold.engine.adapters.memory.store import MemoryShadowStore, MemoryStore
from crashfold.engine.errors import LogRefused, LogUnavailable, StoreForbidden, StoreRefused, StoreUnavailable
from crashfold.engine.ports import (
    Behind,
    Bounds,
    CachedAnswer,
    Checkpoint,
    Commit,
    DeadLetter,
    Manifest,
    Outcome,
    Piece,
    Pieces,
    Polled,
    Position,
    Promoted,
    Record,
    Standing,
    Stored,
    StreamOverview,
    Updates,
    WindowPart,
)
from tests.simulation.loop import Process, SimulatedLoop, current_process

T = TypeVar("T")

FIRST_MS: Final = 1_700_000_000_000
DEADLINE_S: Final = 1.5
"""How long a process waits for a reply."""

Server = Literal["store", "log", "letters"]
WRITES: Final = frozenset(("commit", "write_manifest", "clear", "promote", "keep"))


class Fate(Enum):
    """What becomes of a call."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """The server says no, and does nothing."""
    FORBIDDEN = "forbidden"
    """The server says no for good, and does nothing."""
    UNREACHED = "unreached"
    """The request never gets there; the caller hears of a broken connection."""
    LOST_REPLY = "lost reply"
    """All is done; the connection breaks before the reply."""
    LATE = "late"
    """The connection breaks at once, and the request is carried out some time later."""
    SILENT = "silent"
    """Nothing comes until the caller's deadline; the request is carried out before or after that."""


class Weather:
    """How the network and the servers are now; the schedule changes it."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.trouble = 0.0
        """How likely a call meets some fate."""
        self.slow = 1.0
        self.away: dict[Server, float] = {}
        """Servers that cannot be reached, until when."""
        self.forbidden: dict[Server, float] = {}
        """Servers that refuse for good, until when: the store what writes, the others all."""
        self.read_only_until_s = 0.0
        """Until when the store refuses to write."""

    def calm(self) -> None:
        """From now on all is well."""
        self.trouble, self.slow, self.read_only_until_s = 0.0, 1.0, 0.0
        self.away.clear()
        self.forbidden.clear()

    def fate(self, server: Server, method: str, now_s: float) -> Fate:
        """What becomes of the next call."""
        if self.away.get(server, 0.0) > now_s:
            return self.chance.choice((Fate.UNREACHED, Fate.UNREACHED, Fate.SILENT, Fate.LATE))
        if self.forbidden.get(server, 0.0) > now_s and (server != "store" or method in WRITES | {"check_rights"}):
            return Fate.FORBIDDEN
        if server == "store" and method in WRITES and self.read_only_until_s > now_s:
            return Fate.REFUSED
        if self.trouble and self.chance.random() < self.trouble:
            return self.chance.choice(
                (Fate.UNREACHED, Fate.LOST_REPLY, Fate.LOST_REPLY, Fate.LATE, Fate.SILENT, Fate.REFUSED)
            )
        return Fate.ANSWERED

    def latency_s(self) -> float:
        """How long a message is on its way."""
        return self.chance.choice((0.0, 0.0, 0.001, 0.01)) * self.chance.random() * self.slow


class Network:
    """Where all calls go through; `note` hears of each."""

    def __init__(self, loop: SimulatedLoop, weather: Weather, note: Callable[..., None]) -> None:
        self.loop = loop
        self.weather = weather
        self.note = note

    async def call(
        self,
        server: Server,
        method: str,
        request: Callable[[], Awaitable[T]],
        *,
        is_read: bool = False,
        half: Callable[[], Awaitable[Any]] | None = None,
    ) -> T:
        """Ask a server, on behalf of the current process. A dead one never hears of anything again.

        `half` is what is carried out instead when a connection breaks in the middle. What `is_read` has no effect but
        on the caller.
        """
        await self.live()
        weather = self.weather
        fate = weather.fate(server, method, self.loop.time())
        if is_read and fate not in (Fate.ANSWERED, Fate.REFUSED, Fate.FORBIDDEN):
            fate = Fate.UNREACHED
        if fate is not Fate.ANSWERED:
            self.note(f"{server}.{method}", fate.value)
        await asyncio.sleep(weather.latency_s())
        await self.live()
        match fate:
            case Fate.ANSWERED:
                answer = await request()
                if not is_read:
                    await asyncio.sleep(weather.latency_s())
                    await self.live()
                return answer
            case Fate.REFUSED:
                raise _refused(server)
            case Fate.FORBIDDEN:
                raise _forbidden(server)
            case Fate.LOST_REPLY:
                await (half or request)()
                await self.live()
            case Fate.LATE:
                self._later(server, method, half or request, weather.chance.random() * 2)
            case Fate.SILENT:
                if weather.chance.random() < 0.7:
                    self._later(server, method, half or request, weather.chance.random() * DEADLINE_S * 2)
                await asyncio.sleep(DEADLINE_S)
                await self.live()
            case Fate.UNREACHED:
                pass
        raise _away(server)

    async def live(self) -> None:
        """Return if the current process is alive; never otherwise."""
        process = current_process()
        if process is not None and not process.is_alive:
            await asyncio.get_running_loop().create_future()

    def _later(self, server: Server, method: str, request: Callable[[], Awaitable[Any]], after_s: float) -> None:
        async def carry_out() -> None:
            await asyncio.sleep(after_s)
            self.note(f"{server}.{method}", "carried out late")
            try:
                await request()
            except Exception as error:
                self.note(f"{server}.{method}", f"refused late: {error!r}")

        self.loop.spawn(carry_out())


def _away(server: Server) -> Exception:
    if server == "store":
        return StoreUnavailable("the simulated store did not answer; try again")
    return LogUnavailable(f"the simulated {server} did not answer; try again")


def _refused(server: Server) -> Exception:
    if server == "store":
        return StoreRefused("the simulated store refused; try again")
    return _away(server)


def _forbidden(server: Server) -> Exception:
    if server == "store":
        return StoreForbidden("the simulated store forbids it; give the right")
    return LogRefused(f"the simulated {server} forbids it; give the right")


class SimulatedClock:
    """`Clock` in the loop's time."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop

    def now_ms(self) -> int:
        """Epoch milliseconds."""
        return FIRST_MS + round(self._loop.time() * 1000)

    def monotonic_s(self) -> float:
        """Virtual seconds."""
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await anyio.sleep(seconds)


class SimulatedLog:
    """`EventLog` of one process over the shared topic."""

    def __init__(self, network: Network, log: MemoryLog) -> None:
        self._network = network
        self.twin = log
        self.listener_failed = False

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self.twin.topic

    @property
    def topic_id(self) -> str | None:
        """See `EventLog`."""
        return self.twin.topic_id

    async def __aenter__(self) -> Self:
        await self._network.call("log", "enter", self.twin.__aenter__, is_read=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._network.live()
        await self.twin.__aexit__(kind, error, trace)

    async def poll(self, records_max: int, wait_s: float) -> Polled:
        """See `EventLog`."""
        if self.listener_failed:
            self.listener_failed = False
            raise LogUnavailable("the listener failed; the log connects anew")
        polled = await self._network.call("log", "poll", lambda: self.twin.poll(records_max, wait_s), is_read=True)
        if polled.gained or polled.lost:
            self._network.note("polled", f"gained {sorted(polled.gained)}, lost {sorted(polled.lost)}")
        for records in polled.records:
            read = records.offsets.tolist()
            self._network.note("polled", f"{records.partition}: {read[:1]} to {records.next_offset}")
        return polled

    async def seek(self, partition: int, next_offset: int) -> None:
        """See `EventLog`."""
        await self._network.live()
        self._network.note("seek", f"{partition}: {next_offset}")
        await self.twin.seek(partition, next_offset)

    async def bounds(self, partition: int) -> Bounds:
        """See `EventLog`."""
        return await self._network.call("log", "bounds", lambda: self.twin.bounds(partition))

    async def partitions(self) -> frozenset[int]:
        """See `EventLog`."""
        return await self._network.call("log", "partitions", self.twin.partitions)

    async def current_topic_id(self) -> str | None:
        """See `EventLog`."""
        return await self._network.call("log", "current_topic_id", self.twin.current_topic_id)

    async def is_compacted(self) -> bool:
        """See `EventLog`."""
        return await self._network.call("log", "is_compacted", self.twin.is_compacted)

    async def record(self, partition: int, offset: int) -> Record | None:
        """See `EventLog`."""
        return await self._network.call("log", "record", lambda: self.twin.record(partition, offset))

    async def report(self, next_offsets: Mapping[int, int]) -> None:
        """See `EventLog`."""
        await self._network.call("log", "report", lambda: self.twin.report(next_offsets))


class Letter(msgspec.Struct, frozen=True):
    """A dead letter that was put: the record, and why."""

    partition: int
    offset: int
    reason: str
    key: bytes | None
    value: bytes | None


class SimulatedLetters:
    """`DeadLetters`; `kept` has every one that was ever put."""

    def __init__(self, network: Network, twin: MemoryDeadLetters, kept: set[Letter]) -> None:
        self._network = network
        self._twin = twin
        self._kept = kept

    async def put(self, letters: Sequence[DeadLetter]) -> None:
        """See `DeadLetters`."""
        await self._network.call("letters", "put", lambda: self._put(letters))

    async def _put(self, letters: Sequence[DeadLetter]) -> None:
        await self._twin.put(letters)
        for letter in letters:
            record = letter.record
            self._kept.add(Letter(letter.partition, record.offset, letter.reason, record.key, record.value))
        self._network.note("put", [(letter.partition, letter.record.offset, letter.reason) for letter in letters])


class SimulatedStore:
    """`StateStore` and `StateReader` of one process over the shared store; `changed` hears of every write."""

    def __init__(self, network: Network, twin: MemoryStore, changed: Callable[[str], None]) -> None:
        self._network = network
        self._twin = twin
        self._changed = changed

    async def load(self, stream: str) -> Stored | None:
        """See `StateStore`."""
        return await self._network.call("store", "load", lambda: self._twin.load(stream))

    async def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        """See `StateStore`."""

        async def commit(some: Sequence[Commit] = commits) -> list[Outcome]:
            outcomes: list[Outcome] = []
            for one in some:  # each is a script of its own
                (outcome,) = await self._twin.commit([one])
                expected = None if one.expected is None else one.expected.next_offset
                self._network.note(f"commit {one.stream} {expected}->{one.checkpoint.next_offset}", outcome)
                self._changed(one.stream)
                outcomes.append(outcome)
            return outcomes

        def some() -> Awaitable[list[Outcome]]:
            return commit(commits[: self._network.weather.chance.randint(0, len(commits))])

        return await self._network.call("store", "commit", commit, half=some)

    async def check_rights(self, stream: str) -> None:
        """See `StateStore`."""
        await self._network.call("store", "check_rights", lambda: self._twin.check_rights(stream))

    async def checkpoint(self, stream: str) -> Checkpoint | None:
        """See `StateStore`."""
        return await self._network.call("store", "checkpoint", lambda: self._twin.checkpoint(stream))

    async def positions(self, streams: Sequence[str]) -> list[Position | None]:
        """See `StateStore`."""
        return await self._network.call("store", "positions", lambda: self._twin.positions(streams))

    async def read_manifest(self, topic: str, partition: int) -> Manifest | None:
        """See `StateStore`."""
        return await self._network.call("store", "read_manifest", lambda: self._twin.read_manifest(topic, partition))

    async def write_manifest(self, topic: str, partition: int, manifest: Manifest) -> None:
        """See `StateStore`."""

        async def write() -> None:
            await self._twin.write_manifest(topic, partition, manifest)
            self._network.note(f"manifest {partition}", manifest.low_water, sorted(manifest.streams.items()))

        await self._network.call("store", "write_manifest", write)


class SimulatedShadow(SimulatedStore):
    """`ShadowStore` of one process."""

    _twin: MemoryShadowStore

    def __init__(self, network: Network, twin: MemoryShadowStore, promoted: Callable[[str], None]) -> None:
        super().__init__(network, twin, lambda stream: None)
        self._promoted = promoted

    async def clear(self, streams: Sequence[str]) -> None:
        """See `ShadowStore`."""
        await self._network.call("store", "clear", lambda: self._twin.clear(streams))

    async def promote(self, stream: str, *, allow_back: bool = False) -> Promoted | Behind:
        """See `ShadowStore`."""

        async def promote() -> Promoted | Behind:
            outcome = await self._twin.promote(stream, allow_back=allow_back)
            self._network.note(f"promote {stream}", outcome)
            self._promoted(stream)
            return outcome

        return await self._network.call("store", "promote", promote)


class SimulatedReader:
    """`LiveReader` of one process."""

    def __init__(self, network: Network, twin: MemoryReader) -> None:
        self._network = network
        self._twin = twin

    @asynccontextmanager
    async def updates(self, stream: str) -> AsyncIterator[Updates]:
        """See `LiveReader`."""
        await self._network.call("store", "subscribe", _nothing, is_read=True)
        async with self._twin.updates(stream) as updates:
            yield _Updates(self._network, updates)

    async def standing(self, stream: str) -> Standing | None:
        """See `LiveReader`."""
        return await self._network.call("store", "standing", lambda: self._twin.standing(stream))

    async def read_pieces(self, stream: str, pieces: Sequence[Piece]) -> Pieces | None:
        """See `LiveReader`."""
        return await self._network.call("store", "read_pieces", lambda: self._twin.read_pieces(stream, pieces))

    async def streams(self, topic: str) -> list[str]:
        """See `LiveReader`."""
        return await self._network.call("store", "streams", lambda: self._twin.streams(topic))

    async def overview(self, stream: str) -> StreamOverview | None:
        """See `LiveReader`."""
        return await self._network.call("store", "overview", lambda: self._twin.overview(stream))

    async def read_window(self, stream: str, above_id: int) -> WindowPart | None:
        """See `LiveReader`."""
        return await self._network.call("store", "read_window", lambda: self._twin.read_window(stream, above_id))

    async def cached(self, stream: str, version: int, request: str) -> bytes | None:
        """See `LiveReader`."""
        return await self._network.call("store", "cached", lambda: self._twin.cached(stream, version, request))

    async def keep(self, answers: Sequence[CachedAnswer]) -> None:
        """See `LiveReader`."""
        await self._network.call("store", "keep", lambda: self._twin.keep(answers))


class _Updates:
    """`Updates` whose connection breaks."""

    def __init__(self, network: Network, twin: Updates) -> None:
        self._network = network
        self._twin = twin

    async def next(self, wait_s: float) -> Any:
        """See `Updates`."""
        return await self._network.call("store", "updates", lambda: self._twin.next(wait_s), is_read=True)


async def _nothing() -> None:
    pass


def process_name() -> str:
    """Who acts now."""
    process: Process | None = current_process()
    return "world" if process is None else process.name
