"""Simulated readers: instances of the read side, and live clients that wander from one to another.

Imports the read side's real code (followers, replicas, feeds) and the rest of the simulation. What is always true: all
that any instance ever held, and all that any client was ever told, is compared by what names it.
"""

import asyncio
import hashlib
from collections.abc import Callable
from random import Random
from typing import Final, Protocol

import anyio
import anyio.lowlevel

from crashfold.engine.adapters.memory.log import MemoryLog, MemoryTopic
from crashfold.engine.adapters.memory.reader import MemoryReader
from crashfold.engine.adapters.memory.store import MemoryStore
from crashfold.engine.ports import Cursor
from crashfold.engine.read.fairness import TableFairness
from crashfold.engine.read.feed import Feed, Live
from crashfold.engine.read.follower import Follower
from crashfold.engine.read.followers import Followers
from crashfold.engine.read.held import HeldState
from crashfold.engine.read.live import Frame
from crashfold.engine.read.refusals import Refusal
from crashfold.engine.read.replica import Replica
from crashfold.engine.read.times import Zones
from crashfold.projections.settings import ProjectionSettings
from crashfold.schemas.fairness import TableRules
from tests.simulation.loop import Process
from tests.simulation.servers import Network, SimulatedClock, SimulatedLog, SimulatedReader

LOOKS_AGAIN_S: Final = 0.5
PATIENCE_S: Final = 2.0
"""How long a client stays with an instance that says nothing."""

UNCALCULATED: Final = TableFairness(TableRules(), lambda digits, rule: None)


class Judge(Protocol):
    """Hears of what is wrong, and knows what is right."""

    def wrong(self, what: str) -> None:
        """Something must never happen and has happened."""

    def judge(self, stream: str, held: HeldState) -> None:
        """An instance holds this."""

    def note(self, what: str, *how: object) -> None:
        """Remember what happened."""

    def is_spoiled(self, stream: str) -> bool:
        """Whether keys of the stream were ever spoiled: what is read of them is anything."""


class Contents:
    """What stands for what, over all instances and all times: no cursor ever stands for two contents."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._known: dict[tuple[str, str], object] = {}

    def tell(self, stream: str, name: str, content: object, who: str) -> None:
        """`name` stands for that content, says `who`."""
        known = self._known.setdefault((stream, name), content)
        if known != content and not self._judge.is_spoiled(stream):
            self._judge.wrong(f"{name} of stream {stream} stands for {known} and, at {who}, for {content}")


class Instance:
    """One process of the read side."""

    def __init__(
        self,
        process: Process,
        network: Network,
        store: MemoryStore,
        topic: MemoryTopic,
        settings: ProjectionSettings,
        only: str | None,
        clock: SimulatedClock,
        contents: Contents,
        judge: Judge,
    ) -> None:
        self.process = process
        self._contents = contents
        self._judge = judge
        self._followers = Followers(
            SimulatedReader(network, MemoryReader(store)),
            clock,
            only_stream=only,
            replica=lambda stream: Replica(stream, settings, only),
            new_log=lambda: SimulatedLog(network, MemoryLog(topic, None)),
        )
        self._live = Live(
            self._followers.required, Zones(), lambda _: UNCALCULATED, default_stream=self._followers.default_stream
        )
        self._feeds: dict[str, Feed] = {}
        self._watched: set[str] = set()

    async def run(self, streams: tuple[str, ...]) -> None:
        """Serve, until cancelled."""
        async with self._followers.running(), self._live.running(), anyio.create_task_group() as tasks:
            while True:
                for stream in streams:
                    try:
                        feed = await self._live.feed(stream)
                    except Refusal:  # not now, or no such stream yet
                        continue
                    if self._feeds.get(stream) is not feed:
                        self._feeds[stream] = feed
                        follower = self._followers.get(stream)
                        if follower is not None:
                            tasks.start_soon(self._watch, follower)
                await anyio.sleep(LOOKS_AGAIN_S)

    def feed(self, stream: str) -> Feed | None:
        """The live events of the stream, if it serves any."""
        feed = self._feeds.get(stream)
        return None if feed is None or feed.ended or not self.process.is_alive else feed

    def held(self, stream: str) -> HeldState | None:
        """What it answers from."""
        follower = self._followers.get(stream)
        return None if follower is None or not self.process.is_alive else follower.held

    def is_replica(self, stream: str) -> bool:
        """Whether it says that this may not be what the store has."""
        follower = self._followers.get(stream)
        return follower is None or follower.is_replica

    async def _watch(self, follower: Follower) -> None:
        """Look at all that the follower ever holds."""
        before: HeldState | None = None
        while True:
            changed, held = follower._changed, follower.held
            if held is not before and held.generation:
                before = held
                self._judge.note(f"holds {follower.stream}", held.cursor, held.total_games)
                window = hashlib.sha256(held.window.columns.cells.tobytes()).hexdigest()[:8]
                content = f"{held.total_games} games, the newest {held.window.ids[-3:].tolist()}, {window}"
                self._contents.tell(follower.stream, str(held.cursor), content, self.process.name)
                self._judge.judge(follower.stream, held)
            await changed.wait()


class Client:
    """One live client: it remembers the last event it was told, and moves on when an instance ends or falls silent."""

    def __init__(
        self, name: str, stream: str, instances: Callable[[], list[Instance]], contents: Contents, judge: Judge
    ):
        self._name = name
        self._stream = stream
        self._instances = instances
        self._contents = contents
        self._judge = judge
        self._last_id: str | None = None
        self.total_games: int | None = None
        """As the events add up."""

    async def run(self, chance: Random) -> None:
        """Listen, until cancelled."""
        while True:
            serving = [(one, feed) for one in self._instances() if (feed := one.feed(self._stream)) is not None]
            if serving:
                instance, feed = chance.choice(serving)
                await self._listen(instance, feed, chance.uniform(0.2, 3))
            await asyncio.sleep(chance.uniform(0.05, 0.5))

    async def _listen(self, instance: Instance, feed: Feed, for_s: float) -> None:
        known = Cursor.parse(self._last_id)
        with anyio.move_on_after(for_s):
            if known is not None:
                with anyio.move_on_after(PATIENCE_S):
                    await feed.catch_up(known)
            while instance.process.is_alive and not feed.ended:
                if instance.process.is_frozen:
                    await asyncio.sleep(0.1)
                    continue
                changed = feed.changed
                frame = feed.next(known)
                if frame is None:
                    await changed.wait()
                    continue
                self._take(frame, instance)
                known = frame.cursor

    def _take(self, frame: Frame, instance: Instance) -> None:
        change, before = frame.change, self.total_games
        said = f"{frame.name} {frame.cursor}, {change.total_games} games"
        self._judge.note(self._name, f"is told by {instance.process.name}: {said}")
        self._contents.tell(self._stream, f"event {frame.cursor}", change.total_games, instance.process.name)
        if frame.name == "commit":
            if frame.since is None or str(frame.since) != self._last_id:
                self._judge.wrong(f"{self._name} knows {self._last_id} and is told what came after {frame.since}")
            if self._judge.is_spoiled(self._stream):
                pass
            elif before is None or before + len(change.games) + change.skipped != change.total_games:
                more = f"{len(change.games)} games and {change.skipped} skipped"
                self._judge.wrong(f"{self._name} knew {before} games, and {more} do not make {change.total_games}")
        self.total_games, self._last_id = change.total_games, str(frame.cursor)
