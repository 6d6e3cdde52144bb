"""The follower on the memory twins: what subscribers are told, what is held, and when a store is believed."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from crashfold.engine.adapters.memory.reader import MemoryReader
from crashfold.engine.adapters.memory.store import MemoryStore, Trouble
from crashfold.engine.adapters.process.clock import SystemClock
from crashfold.engine.errors import CrashfoldError, StateError, StoreRefused, StoreUnavailable
from crashfold.engine.ports import Cursor, Standing, WindowPart
from crashfold.engine.read.follower import Follower
from crashfold.engine.read.followers import Followers, TooManyStreams
from crashfold.engine.read.health import ApiHealth
from crashfold.engine.read.held import CHANGE_GAMES_MAX, Change
from crashfold.engine.read.subscription import Ended, Subscription
from crashfold.projections.settings import ProjectionSettings
from tests.support.api_server import Writer
from tests.support.games import game

PATIENCE_S = 10
SMALL = ProjectionSettings(window_games=10, samples_games=(5,))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def writer(store: MemoryStore) -> Writer:
    return Writer(store, SMALL)


@asynccontextmanager
async def following(store: MemoryStore, streams_max: int = 64) -> AsyncIterator[Followers]:
    with anyio.fail_after(PATIENCE_S):
        async with Followers(MemoryReader(store), SystemClock(), streams_max=streams_max).running() as followers:
            yield followers


@asynccontextmanager
async def followed(store: MemoryStore) -> AsyncIterator[Follower]:
    async with following(store) as followers:
        follower = await followers.follow("crash")
        assert follower is not None
        yield follower


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await anyio.sleep(0.01)


def ids(change: Change) -> list[int]:
    return [one.game_id for one in change.games]


async def test_a_subscriber_is_told_the_games_of_every_version(store: MemoryStore, writer: Writer) -> None:
    await writer.commit([game(1), game(2)])
    async with followed(store) as follower, follower.subscribe() as subscription:
        assert ids(follower.snapshot()) == [1, 2]
        for number in range(3, 30):
            version = await writer.commit([game(number)])
            change = await subscription.next()
            assert (change.cursor.version, change.total_games, ids(change), change.skipped) == (
                version,
                number,
                [number],
                0,
            )
        assert follower.held.window.ids.tolist() == list(range(20, 30))


async def test_a_late_game_is_told_and_takes_its_place(store: MemoryStore, writer: Writer) -> None:
    await writer.commit([game(1), game(4)])
    async with followed(store) as follower, follower.subscribe() as subscription:
        await writer.commit([game(2), game(5)])
        assert ids(await subscription.next()) == [2, 5]
        assert follower.held.window.ids.tolist() == [1, 2, 4, 5]


async def test_more_games_than_the_window_holds_are_counted_as_skipped(store: MemoryStore, writer: Writer) -> None:
    await writer.commit([game(1)])
    async with followed(store) as follower, follower.subscribe() as subscription:
        await writer.commit([game(number) for number in range(2, 40)])
        change = await subscription.next()
        assert (ids(change), change.skipped) == (list(range(30, 40)), 28)


async def test_who_is_slow_gets_the_newest_state_and_never_a_longer_queue() -> None:
    subscription = Subscription()
    for version in range(1, 500):
        subscription.put(Change(Cursor("g", version, "0" * 16, version), version, (game(version),), 0))
    change = await subscription.next()
    assert (change.cursor.version, len(change.games), change.skipped) == (499, CHANGE_GAMES_MAX, 399)
    assert ids(change) == list(range(400, 500))


async def test_subscriptions_end_with_the_follower(store: MemoryStore, writer: Writer) -> None:
    await writer.commit([game(1)])
    async with following(store) as followers:
        follower = await followers.follow("crash")
        assert follower is not None
        subscription_context = follower.subscribe()
        subscription = await subscription_context.__aenter__()
    with pytest.raises(Ended):
        await subscription.next()
    await subscription_context.__aexit__(None, None, None)
    async with follower.subscribe() as late:
        with pytest.raises(Ended):
            await late.next()


async def test_a_store_that_lost_its_last_commits_is_not_believed_until_it_has_caught_up(
    store: MemoryStore, writer: Writer
) -> None:
    await writer.commit([game(1)])
    then, again = store.snapshot(), writer.saved()
    for number in (2, 3):
        await writer.commit([game(number)])
    async with followed(store) as follower, follower.subscribe() as subscription:
        known = follower.held.cursor
        store.restore(then)
        await until(lambda: follower.is_replica)
        assert (follower.held.version, follower.held.total_games) == (3, 3)
        assert await again.commit([game(number) for number in (2, 3, 4)]) == 2
        await until(lambda: not follower.is_replica)
        assert (follower.held.version, follower.held.total_games) == (2, 4)
        change = await subscription.next()
        assert (change.is_restart, change.total_games) == (True, 4)
        assert await again.commit([game(5)]) == known.version
        change = await subscription.next()
        assert (change.cursor.version, change.is_restart, ids(change)) == (known.version, False, [5])
        assert change.cursor != known


@pytest.mark.parametrize("commits", [[[2, 5, 6]], [[2, 5], [6]], [[2], [5], [6]], [[2], [5], [6], [7]]])
async def test_the_window_of_another_history_is_read_whole_whatever_its_version(
    store: MemoryStore, writer: Writer, commits: list[list[int]]
) -> None:
    """Also where it has as many games more as there are new ones, and differs below them alone."""
    await writer.commit([game(1)])
    then, again = store.snapshot(), writer.saved()
    for number in (3, 5):
        await writer.commit([game(number)])
    async with followed(store) as follower, follower.subscribe() as subscription:
        store.fail_next(Trouble.UNAVAILABLE, method="read_window")
        await until(lambda: follower.is_replica)
        store.restore(then)
        for numbers in commits:
            await again.commit([game(number) for number in numbers])
        await until(lambda: not follower.is_replica)
        assert follower.held.window.ids.tolist() == [1, *(number for numbers in commits for number in numbers)]
        assert follower.held.version == 1 + len(commits)
        assert (await subscription.next()).is_restart


async def test_a_store_that_went_back_without_losing_a_game_is_believed_in_the_end(
    store: MemoryStore, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit that was lost had passed other records only, so no engine has anything to make again."""
    monkeypatch.setattr("crashfold.engine.read.follower.HOLD_S", 0)
    await writer.commit([game(1)])
    then = store.snapshot()
    await writer.commit([], offset=9)
    async with followed(store) as follower:
        assert follower.held.version == 2
        store.restore(then)
        await until(lambda: follower.held.version == 1 and not follower.is_replica)


async def test_a_store_that_is_read_again_after_a_fault_goes_on_where_it_was(
    store: MemoryStore, writer: Writer
) -> None:
    await writer.commit([game(number) for number in range(1, 15)])
    async with followed(store) as follower, follower.subscribe() as subscription:
        store.fail_next(Trouble.UNAVAILABLE, method="read_window")
        await until(lambda: follower.is_replica)
        await writer.commit([game(20)])
        change = await subscription.next()
        assert (change.is_restart, ids(change), change.skipped) == (False, [20], 0)


async def test_a_store_that_does_not_answer_makes_a_replica_until_it_does(store: MemoryStore, writer: Writer) -> None:
    await writer.commit([game(1)])
    async with followed(store) as follower:
        store.fail_next(Trouble.UNAVAILABLE, method="read_window")
        await writer.commit([game(2)])
        while not follower.is_replica:
            await anyio.sleep(0)
        assert follower.held.version == 1
        assert await follower.wait_for(2, PATIENCE_S)
        assert not follower.is_replica


async def test_an_unknown_stream_is_not_followed(store: MemoryStore) -> None:
    async with following(store) as followers:
        assert await followers.follow("nobody") is None
        assert followers.all() == []


async def test_streams_that_nobody_uses_make_room_for_others(store: MemoryStore) -> None:
    for name in ("a", "b", "c"):
        await Writer(store, SMALL, stream=name).commit([game(1)])
    async with following(store, streams_max=2) as followers:
        for name in ("a", "b", "c"):
            assert await followers.follow(name) is not None
        assert {one.stream for one in followers.all()} == {"b", "c"}
        one, two = followers.get("b"), followers.get("c")
        assert one is not None
        assert two is not None
        with one.used(), two.used(), pytest.raises(TooManyStreams):
            await followers.follow("a")
        async with one.subscribe(), two.subscribe():  # a feed listens on when its last client has gone
            assert await followers.follow("a") is not None


async def test_a_stream_that_cannot_be_read_yet_says_so(store: MemoryStore, writer: Writer) -> None:
    await writer.commit([game(1)])
    reader = MemoryReader(store)
    follower = Follower("crash", reader, SystemClock())
    store.fail_next(Trouble.UNAVAILABLE)
    with pytest.raises(StoreUnavailable):
        await follower.load()
    assert await follower.load()


class _Sick(MemoryReader):
    """A reader to which strange things happen with one stream."""

    def __init__(self, store: MemoryStore, stream: str) -> None:
        super().__init__(store)
        self.stream = stream
        self.error: Exception | None = None
        self.healed = anyio.Event()

    async def read_window(self, stream: str, above_id: int) -> WindowPart | None:
        if stream == self.stream:
            if self.error is not None:
                raise self.error
            await self.healed.wait()
        return await super().read_window(stream, above_id)


@pytest.fixture
async def sick(store: MemoryStore) -> _Sick:
    for name in ("a", "b"):
        await Writer(store, SMALL, stream=name).commit([game(1)])
    return _Sick(store, "a")


async def test_a_stream_that_takes_long_to_read_holds_nobody_else_up(
    sick: _Sick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor those who ask for it: they are told to come again, and it is read on meanwhile."""
    monkeypatch.setattr("crashfold.engine.read.followers.START_WAIT_S", 0.05)
    with anyio.fail_after(PATIENCE_S):
        async with Followers(sick, SystemClock()).running() as followers:
            for _ in range(2):
                with pytest.raises(StoreUnavailable):
                    await followers.follow("a")
                assert await followers.follow("b") is not None
            sick.healed.set()
            await until(lambda: followers.get("a") is not None)


@pytest.mark.parametrize("error", [ValueError("a defect"), StateError("damaged"), StoreRefused("full")])
async def test_whatever_goes_wrong_with_a_stream_is_its_own_trouble(sick: _Sick, error: Exception) -> None:
    with anyio.fail_after(PATIENCE_S):
        async with Followers(sick, SystemClock()).running() as followers:
            sick.error = error
            with pytest.raises(CrashfoldError):
                await followers.follow("a")
            sick.error = None
            sick.healed.set()
            one, other = await followers.follow("a"), await followers.follow("b")
            assert one is not None
            assert other is not None
            sick.error = error
            await until(lambda: one.is_replica or followers.get("a") is None)
            assert followers.get("b") is other
            assert await followers.follow("b") is other
            sick.error = None
            await until(lambda: not other.is_replica)
            again = await followers.follow("a")
            assert again is not None
            await until(lambda: not again.is_replica)


async def test_who_waits_for_a_stream_is_told_when_the_process_ends(sick: _Sick) -> None:
    told: list[str] = []

    async def ask(followers: Followers) -> None:
        try:
            await followers.follow("a")
        except StoreUnavailable as error:
            told.append(str(error))

    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks, Followers(sick, SystemClock()).running() as followers:
            tasks.start_soon(ask, followers)
            await anyio.sleep(0.01)
    assert told == ["this process is about to end"]


async def test_a_follower_that_is_let_go_takes_no_other_with_it(store: MemoryStore) -> None:
    """The one that was let go ends after the next of the same stream has begun."""
    for name in ("a", "b"):
        await Writer(store, SMALL, stream=name).commit([game(1)])
    async with following(store, streams_max=1) as followers:
        for _ in range(3):
            for name in ("a", "b"):
                assert await followers.follow(name) is not None
                for _ in range(3):
                    await anyio.sleep(0)
                assert [one.stream for one in followers.all()] == [name]


class _Time(SystemClock):
    now_s = 1_000.0

    def monotonic_s(self) -> float:
        return self.now_s


async def test_what_was_told_is_waited_for_until_it_is_held(store: MemoryStore, writer: Writer) -> None:
    """Another process may have shown it already."""
    await writer.commit([game(1)])
    async with followed(store) as follower:
        for number in range(2, 20):
            version = await writer.commit([game(number)])
            while follower.held.version < version and not follower.is_behind:
                await anyio.sleep(0)  # nobody can know what was not told yet
            await follower.catch_up()
            assert follower.held.version == version
            assert not follower.is_behind


async def test_a_version_that_the_store_lost_is_not_waited_for_long(store: MemoryStore, writer: Writer) -> None:
    await writer.commit([game(1)])
    async with followed(store) as follower:
        await follower.catch_up([Cursor("g1", 7, "0" * 16, 7)])
        assert follower.held.version == 1


class _DamagedDefault(MemoryReader):
    """What stands of the default stream is no checkpoint."""

    async def standing(self, stream: str) -> Standing | None:
        if stream == "crash":
            raise StateError("analytics:{crash}:checkpoint is spoiled")
        return await super().standing(stream)


async def test_a_default_stream_that_cannot_be_read_keeps_no_process_from_answering_about_others(
    store: MemoryStore,
) -> None:
    await Writer(store, SMALL, stream="b").commit([game(1)])
    with anyio.fail_after(PATIENCE_S):
        async with Followers(_DamagedDefault(store), SystemClock()).running() as followers:
            health = ApiHealth(followers)
            await until(lambda: health.ready() == [])
            assert health.notes() == ["stream crash cannot be read: analytics:{crash}:checkpoint is spoiled"]
            assert await followers.follow("b") is not None


async def test_a_process_of_one_stream_that_cannot_be_read_is_not_ready(store: MemoryStore) -> None:
    with anyio.fail_after(PATIENCE_S):
        async with Followers(_DamagedDefault(store), SystemClock(), only_stream="crash").running() as followers:
            health = ApiHealth(followers)
            await until(lambda: bool(followers.unreadable))
            assert health.ready() != []
