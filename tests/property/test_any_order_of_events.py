"""Whatever comes, is killed, is lost or changes hands, and in whatever order: in the end the store has what the topic
says, every bad record is a dead letter, and no reader ever saw a total or a version go back.

A story is a list of moments. In each moment some things happen at once, let go at every await in turn: engines step,
records arrive, partitions change hands, servers fail, engines are killed at a given await, the store forgets, a rebuild
runs. Hypothesis prints the story that fails.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from random import Random
from typing import Final, NamedTuple

import anyio
import anyio.lowlevel
import pytest
import structlog
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from crashfold.engine.adapters.memory.store import MemoryStore, StoreContents, Trouble
from crashfold.engine.errors import CrashfoldError, Unavailable
from crashfold.engine.games.fairness import FairnessCheck
from crashfold.engine.runtime.pacing import EngineLimits
from crashfold.engine.runtime.rebuild import RebuildRequest
from crashfold.engine.runtime.streams import STREAM_GAMES
from crashfold.projections import plain
from crashfold.schemas.chain import chain_of_games
from crashfold.schemas.fairness import Mismatch, RuleBook
from crashfold.schemas.fairness import check as check_fairness
from crashfold.schemas.game import Game, decode, encode
from crashfold.schemas.record import Unreadable
from tests.support.games import START_MS, json_game, random_arrivals
from tests.support.in_memory import MemoryDeployment, MemoryEngine

STREAMS: Final = ("a", "b", "c", "d")
ENGINES_MAX: Final = 3
PATIENCE_S: Final = 20
MOMENTS_MAX: Final = 25
AWAITS_MAX: Final = 60
"""More than a step has, so that some are killed at each of them and some are not."""


@pytest.fixture(autouse=True, scope="module")
def _silence() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


# --- what happens ----------------------------------------------------------------------------------------------------


class Arrive(NamedTuple):
    """So many of the next games of a stream reach the topic."""

    stream: int
    games: int


class Garbage(NamedTuple):
    """A record that is no game of ours."""

    partition: int
    key: bytes | None
    value: bytes | None


class Hole(NamedTuple):
    """Offsets without records, as transactions leave them."""

    partition: int


class Steps(NamedTuple):
    """An engine takes some turns; it is killed after so many awaits if that is less than it needs."""

    engine: int
    turns: int
    killed_after: int | None


class Rebuilds(NamedTuple):
    """A rebuild, killed after so many awaits if that is less than it needs."""

    stream: int | None
    killed_after: int | None


class Rebalances(NamedTuple):
    """All partitions are dealt out anew."""


class Leaves(NamedTuple):
    """An engine is thrown out of the group and does not know."""

    engine: int


class Fails(NamedTuple):
    """The next call of the store, or the next of a method, fails."""

    trouble: Trouble
    method: str | None
    made: int | None


class Away(NamedTuple):
    """The topic, or the dead letters, cannot be reached for so many awaits."""

    letters: bool
    awaits: int


class Remembers(NamedTuple):
    """A snapshot of the store is taken."""


class Forgets(NamedTuple):
    """The store goes back to the last snapshot, or to nothing."""

    everything: bool


Event = Arrive | Garbage | Hole | Steps | Rebuilds | Rebalances | Leaves | Fails | Away | Remembers | Forgets


class Beginning(NamedTuple):
    """An event begins after so many awaits of its moment."""

    after: int
    event: Event


class Story(NamedTuple):
    partitions: int
    only: bool
    fairness: str
    limits: EngineLimits
    commit_s: float
    games: list[list[Game]]
    moments: list[list[Beginning]]


def story_of(seed: int, moments: int) -> Story:
    """The story of that number, up to that moment. What comes later does not change what comes before, so that a
    failing story can be cut short."""
    chance = Random(seed)
    only = chance.random() < 0.4
    fairness = chance.choice(("off", "off", "count", "reject"))
    games = [random_arrivals(chance, chance.randint(5, 60)) for _ in STREAMS[: 1 if only else 4]]
    if fairness == "reject":
        games[0][10:10] = chain_of_games(seed, 5, first_id=10_000)
    limits = EngineLimits(
        batch_games_max=chance.choice((1, 3, 10, 100)),
        linger_ms=chance.choice((0, 0, 5)),
        games_held_max=chance.choice((2 * STREAM_GAMES, 10**9)),
        poll_wait_s=0,
        streams_at_once=(16, 1, 2)[seed % 3],
    )
    partitions = chance.randint(1, 3)
    told = [[_beginning(chance) for _ in range(chance.randint(1, 6))] for _ in range(moments)]
    commit_s = (0.0, 0.0, 0.5)[seed % 3]
    return Story(partitions, only, fairness, limits, commit_s, games, told)


def _beginning(chance: Random) -> Beginning:
    event = chance.choices(list(_EVENTS), list(_EVENTS.values()))[0](chance)
    return Beginning(chance.choice((0, 0, chance.randint(0, AWAITS_MAX))), event)


def _killed_after(chance: Random) -> int | None:
    return chance.randint(0, AWAITS_MAX) if chance.random() < 0.25 else None


def _garbage(chance: Random) -> Garbage:
    key = chance.choice((b"", b"a b", b"\xff", b"x" * 65, None, b"a", b"z"))
    named = key in (None, b"a", b"z")
    values = (None, b"", b"{}", b'{"game_id":1}', json_game(crash_point=0.5), *(() if named else (json_game(),)))
    return Garbage(chance.randint(0, 2), key, chance.choice(values))


def _fails(chance: Random) -> Fails:
    methods = (None, "commit", "commit", "load", "positions", "read_manifest", "write_manifest")
    return Fails(chance.choice(list(Trouble)), chance.choice(methods), chance.choice((None, None, 0, 1)))


_EVENTS: Final[dict[Callable[[Random], Event], int]] = {
    lambda chance: Steps(chance.randrange(ENGINES_MAX), chance.randint(1, 4), _killed_after(chance)): 30,
    lambda chance: Arrive(chance.randrange(4), chance.randint(1, 8)): 25,
    _garbage: 5,
    lambda chance: Hole(chance.randrange(3)): 3,
    lambda chance: Rebuilds(chance.choice((None, chance.randrange(4))), _killed_after(chance)): 5,
    lambda chance: Rebalances(): 5,
    lambda chance: Leaves(chance.randrange(ENGINES_MAX)): 4,
    _fails: 8,
    lambda chance: Away(chance.random() < 0.5, chance.randint(1, AWAITS_MAX)): 4,
    lambda chance: Remembers(): 6,
    lambda chance: Forgets(chance.random() < 0.2): 5,
}
"""What happens, and how often."""


# --- how it is told --------------------------------------------------------------------------------------------------


class Reader:
    """Who reads the store all the time, and remembers."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._seen: dict[str, tuple[int, int]] = {}

    def look(self) -> None:
        for stream, kept in self._store.snapshot().live.items():
            games = _total(kept.model)
            version, total = self._seen.get(stream, (0, 0))
            assert kept.version >= version, f"version of {stream} went from {version} to {kept.version}"
            assert games >= total, f"games of {stream} went from {total} to {games}"
            assert kept.version > version or games == total, f"{stream} changed without a new version"
            self._seen[stream] = kept.version, games

    def forget(self) -> None:
        self._seen.clear()


def _total(model: object) -> int:
    assert isinstance(model, dict)
    return next((int(value["total_games"]) for name, value in model.items() if name.startswith("occurrences:")), 0)


class Teller:
    def __init__(self, story: Story) -> None:
        fairness = {"off": None, "count": False, "reject": True}[story.fairness]
        self._story = story
        self._only = STREAMS[0] if story.only else None
        self._deployment = MemoryDeployment(
            story.partitions,
            only=self._only,
            fairness=None if fairness is None else FairnessCheck(RuleBook(), rejects=fairness),
            commit_s=story.commit_s,
        )
        self._streams = STREAMS[: len(story.games)]
        self._coming = [list(games) for games in story.games]
        self._reader = Reader(self._deployment.store)
        self._engines: dict[int, tuple[MemoryEngine, AsyncExitStack]] = {}
        self._snapshot: StoreContents = self._deployment.store.snapshot()
        self._rebuilding = False

    async def tell(self) -> None:
        with anyio.fail_after(PATIENCE_S):
            await self._tell()

    async def _tell(self) -> None:
        for moment in self._story.moments:
            busy: set[int] = set()
            async with anyio.create_task_group() as tasks:
                for after, event in moment:
                    if isinstance(event, Steps):
                        if event.engine in busy:
                            continue
                        busy.add(event.engine)
                    tasks.start_soon(self._happen, after, event)
            self._reader.look()
        for number in list(self._engines):
            await self._kill(number)
        for stream in range(len(self._streams)):
            self._arrive(stream, len(self._coming[stream]))
        await self._deployment.run(limits=self._story.limits)
        self._reader.look()
        self._deployment.store.calm()
        await self._check()

    async def _check(self) -> None:
        known = [stream for stream in self._streams if stream in self._deployment.store.snapshot().live]
        if known:
            await self._deployment.check(*known)
        letters = {(letter.partition, letter.offset, letter.reason) for letter in self._deployment.letters.letters}
        expected, streams = await self._expected()
        assert letters == expected
        assert set(known) == streams

    async def _expected(self) -> tuple[set[tuple[int, int, str]], set[str]]:
        """The dead letters there must be, and the streams that have been met, by the plain definition."""
        letters, arrived = set(), dict[str, plain.Arrivals]()
        for number, record in await self._deployment.topic_records():
            offset, key, value = record.offset, record.key, record.value
            reason: str | None = None
            name = (b"crash" if key is None else key).decode("ascii", "replace")
            if name not in (*STREAMS, "crash", "z"):
                reason = "unreadable"
            elif self._only is not None and name != self._only:
                reason = "stream"
            else:
                games = arrived.setdefault(name, plain.Arrivals(self._deployment.settings))
                game = decode(value)
                if isinstance(game, Unreadable):
                    reason = "unreadable"
                elif plain.is_future(self._deployment.settings, game.end_time, record.timestamp_ms):
                    reason = "future"
                elif self._story.fairness == "reject" and isinstance(check_fairness(game), Mismatch):
                    reason = "fairness"
                else:
                    reason = games.arrive(game)
            if reason is not None:
                letters.add((number, offset, reason))
        return letters, arrived.keys() & set(self._streams)

    async def _happen(self, after: int, event: Event) -> None:
        await _awaits(after)
        topic, store = self._deployment.topic, self._deployment.store
        match event:
            case Arrive(stream, games):
                self._arrive(stream % len(self._streams), games)
            case Garbage(partition, key, value):
                self._litter(partition % self._story.partitions, key, value)
            case Hole(partition):
                topic.skip(2, partition=partition % self._story.partitions)
            case Steps(engine, turns, killed_after):
                if not await self._until_killed(killed_after, lambda: self._steps(engine, turns)):
                    await self._kill(engine)
            case Rebuilds(stream, killed_after):
                if not self._rebuilding:
                    self._rebuilding = True
                    await self._until_killed(killed_after, lambda: self._rebuild(stream))
                    self._rebuilding = False
            case Rebalances():
                topic.rebalance()
            case Leaves(engine):
                if engine in self._engines:
                    topic.evict(self._engines[engine][0].log)
            case Fails(trouble, method, made):
                store.fail_next(trouble, method=method, made=made)
            case Away(letters, awaits):
                twin = self._deployment.letters if letters else topic
                twin.available = False
                await _awaits(awaits)
                twin.available = True
            case Remembers():
                self._snapshot = store.snapshot()
            case Forgets(everything):
                store.restore(MemoryStore().snapshot() if everything else self._snapshot)
                self._reader.forget()

    def _arrive(self, stream: int, games: int) -> None:
        coming = self._coming[stream]
        for game in coming[:games]:
            # Some records say when they were written; games that end days later come from the future.
            self._deployment.topic.append(
                encode(game),
                key=self._streams[stream].encode(),
                partition=stream % self._story.partitions,
                timestamp_ms=0 if game.game_id % 4 else START_MS,
            )
        del coming[:games]

    def _litter(self, partition: int, key: bytes | None, value: bytes | None) -> None:
        """A bad record; one of a stream goes where the stream lives."""
        name = (key or b"").decode("ascii", "replace")
        if name in self._streams:
            partition = self._streams.index(name) % self._story.partitions
        elif name == "z" or key is None:
            partition = 0
        self._deployment.topic.append(value, key=key, partition=partition)

    async def _steps(self, number: int, turns: int) -> None:
        if number not in self._engines:
            stack = AsyncExitStack()
            while True:
                try:
                    engine = await stack.enter_async_context(self._deployment.engine(limits=self._story.limits))
                    break
                except Unavailable:
                    await anyio.lowlevel.checkpoint()
            self._engines[number] = engine, stack
        for _ in range(turns):
            self._deployment.clock.pass_s(0.7)
            await self._engines[number][0].service.step()
            self._reader.look()

    async def _kill(self, number: int) -> None:
        if number in self._engines:
            _, stack = self._engines.pop(number)
            await stack.aclose()

    async def _rebuild(self, stream: int | None) -> None:
        name = None if stream is None else self._streams[stream % len(self._streams)]
        # There is nothing of the stream yet, or the shadow was forgotten.
        with suppress(CrashfoldError):
            await self._deployment.rebuild(RebuildRequest(stream=name))

    async def _until_killed(self, after: int | None, do: Callable[[], Awaitable[None]]) -> bool:
        """Whether it came to its end before so many awaits."""
        done = False
        async with anyio.create_task_group() as tasks:

            async def kill() -> None:
                await _awaits(after or 0)
                tasks.cancel_scope.cancel()

            if after is not None:
                tasks.start_soon(kill)
            await do()
            done = True
            tasks.cancel_scope.cancel()
        return done


async def _awaits(count: int) -> None:
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


@settings(
    max_examples=2 * settings().max_examples, report_multiple_bugs=False, suppress_health_check=[HealthCheck.too_slow]
)
@given(st.builds(story_of, st.integers(0, 2**64), st.integers(1, MOMENTS_MAX)))
@example(story_of(497, 9))  # the store was emptied while a partition was being gained
@example(story_of(2300, 15))  # a partition was lost when the store had less of its stream than was committed
@example(story_of(410, 7))  # a poll that brought nothing but a hole took long
def test_whatever_happens_the_store_ends_up_with_what_the_topic_says(story: Story) -> None:
    anyio.run(Teller(story).tell)
