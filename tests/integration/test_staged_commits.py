"""Commits that are too big for one script: what readers see meanwhile, and what is left when one breaks off."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final

import anyio
import anyio.lowlevel
import msgspec
import pytest
from redis import Redis

from crashfold.engine.adapters.redis import packing
from crashfold.engine.adapters.redis.client import Call
from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.errors import StateError, StoreRefused, StoreUnavailable
from crashfold.engine.ports import Applied, Commit, Conflict, Duplicate
from crashfold.projections import ProjectionSettings, StreamState, plan
from crashfold.projections.delta import Delta, Remove, SetString, WriteHash, WriteList, WriteSortedSet, apply
from crashfold.schemas.chain import chain_of_games
from tests.contract.state_store import at, commit, model, numbered
from tests.support.calls import Interposed, Send

STREAM: Final = "crash"
PREFIX: Final = "test:{stream}"
COMMIT_ARGS: Final = 9
RUNS: Final = 4
"""Runs of calls that `second` takes: it is begun, two runs of parts, and made."""


@pytest.fixture
async def store(each_redis_url: str) -> AsyncIterator[RedisStore]:
    async with RedisStore(each_redis_url, key_prefix=PREFIX) as store:
        yield store


@pytest.fixture
def client(each_redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(each_redis_url) as client:
        yield client


async def stop(send: Send, calls: Sequence[Call]) -> list[Any]:
    raise StoreUnavailable("it is stopped here")


def text(number: int, size: int = 300_000) -> bytes:
    return b"%d:" % number + b"x" * size


def big(number: int) -> Delta:
    """Some 9 MB with every kind of key; lists and sorted sets show what is made twice or not at all."""
    delta: Delta = {f"elements:{i}": WriteList(0, [text(number)], 50) for i in range(12)}
    delta |= {f"text:{i}": SetString(text(number)) for i in range(6)}
    delta |= {f"fields:{i}": WriteHash({f"field {number}": text(number), "last": text(number)}) for i in range(6)}
    delta["scores:kept"] = WriteSortedSet({10 * number + i: text(10 * number + i) for i in range(4)}, 10 * number - 7)
    delta["scores:replaced"] = WriteSortedSet({10 * number + i: text(10 * number + i) for i in range(4)}, 10 * number)
    delta["text:small"] = SetString(b"%d" % number)
    delta[f"text:of {number}"] = SetString(b"%d" % number)
    delta[f"text:of {number - 1}"] = Remove()
    return delta


FIRST: Final = commit(STREAM, None, 1, big(1))
SECOND: Final = commit(STREAM, at(1), 2, big(2))
BEFORE: Final = apply({}, big(1))
AFTER: Final = apply(BEFORE, big(2))


def stage_keys(client: "Redis") -> list[bytes]:
    return list(map(bytes, client.scan_iter("test:{crash}:stage*")))


async def test_readers_see_the_state_before_until_the_last_call(store: RedisStore, client: Redis) -> None:
    async with RedisStore(store_url(client), key_prefix=PREFIX) as reader:

        async def look(send: Send, calls: Sequence[Call]) -> list[Any]:
            assert await model(reader, STREAM) == BEFORE
            assert client.get("test:{crash}:version") == b"1"
            replies = await send(calls)
            if hooked.runs == RUNS:
                assert await model(reader, STREAM) == AFTER
            return replies

        assert await store.commit([FIRST]) == [Applied(1)]
        hooked = Interposed(store, look)
        assert await store.commit([SECOND]) == [Applied(2)]
    assert hooked.runs == RUNS
    assert not stage_keys(client)


async def test_no_call_of_a_stream_that_catches_up_by_any_number_of_games_is_big(store: RedisStore) -> None:
    """But for the fields of its checkpoint, which are few."""
    made = plan(ProjectionSettings(window_games=5_000))
    games = list(chain_of_games(3, 40_000))
    largest: list[int] = []

    async def weigh(send: Send, calls: Sequence[Call]) -> list[Any]:
        if weighed.runs > 1:
            largest.extend(writes_bytes(call) for call in calls if len(call.args) == COMMIT_ARGS)
        return await send(calls)

    weighed = Interposed(store, weigh)
    state, before, folded_to = StreamState.empty(made), None, 0
    for number, count in enumerate((8_000, 1, 1_500, 9_000, 20_000), 1):
        folded = state.fold(games[folded_to : folded_to + count])
        folded_to += count
        delta = folded.state.delta(state, folded.kept)
        assert await store.commit([commit(STREAM, before, folded_to, delta, newest_id=folded_to)]) == [Applied(number)]
        state, before = folded.state, at(folded_to)
        stored = await model(store, STREAM)
        assert stored == {name: value for name, value in state.keys().items() if name in stored}
    assert len(largest) > 20
    assert max(largest) <= packing.WHOLE_BYTES_MAX


@pytest.mark.parametrize("run", range(1, RUNS + 1))
@pytest.mark.parametrize("is_made", [False, True], ids=["not made", "made"])
async def test_a_commit_whose_reply_is_lost_anywhere_is_made_once(
    store: RedisStore, client: Redis, run: int, is_made: bool
) -> None:
    async def lose(send: Send, calls: Sequence[Call]) -> list[Any]:
        await send(calls if is_made else calls[: len(calls) // 2])
        raise StoreUnavailable("the connection was lost")

    await store.commit([FIRST])
    Interposed(store, lose, run)
    with pytest.raises(StoreUnavailable):
        await store.commit([SECOND])
    assert await store.commit([SECOND]) == [Duplicate(2) if is_made and run == RUNS else Applied(2)]
    assert await store.commit([SECOND]) == [Duplicate(2)]
    assert await model(store, STREAM) == AFTER
    assert not stage_keys(client)


@pytest.mark.parametrize("run", range(2, RUNS + 1))
async def test_an_engine_that_is_killed_leaves_a_stage_which_the_next_one_removes(
    store: RedisStore, client: Redis, run: int
) -> None:
    async def kill(send: Send, calls: Sequence[Call]) -> list[Any]:
        killed.cancel()
        await anyio.lowlevel.checkpoint()
        return await send(calls)

    await store.commit([FIRST])
    async with RedisStore(store_url(client), key_prefix=PREFIX) as other:
        await other.commit([numbered("other", 1)])
        Interposed(other, kill, run)
        with anyio.CancelScope() as killed:
            await other.commit([SECOND])
        assert killed.cancelled_caught
    assert stage_keys(client)
    small = {"text:small": SetString(b"small")}
    assert await model(store, STREAM) == BEFORE
    async with RedisStore(store_url(client), key_prefix=PREFIX) as following:
        assert await following.commit([commit(STREAM, at(1), 2, small, history="another")]) == [Applied(2)]
        assert not stage_keys(client)
        assert await model(following, STREAM) == apply(BEFORE, small)


async def test_what_another_engine_left_is_removed_when_the_stream_comes_back(store: RedisStore, client: Redis) -> None:
    await store.commit([FIRST])
    async with RedisStore(store_url(client), key_prefix=PREFIX) as other:
        Interposed(other, stop, 4)
        with pytest.raises(StoreUnavailable, match="stopped"):
            await other.commit([SECOND])
    assert stage_keys(client)
    assert await store.load(STREAM) is not None
    assert await store.commit([commit(STREAM, at(1), 2, {"text:small": SetString(b"small")})]) == [Applied(2)]
    assert not stage_keys(client)


@pytest.mark.parametrize("run", range(1, RUNS + 1))
async def test_of_two_engines_that_stage_a_commit_of_one_stream_one_makes_it(
    store: RedisStore, client: Redis, run: int
) -> None:
    rival = commit(STREAM, at(1), 2, big(3), history="rival")
    async with RedisStore(store_url(client), key_prefix=PREFIX) as other:

        async def meet(send: Send, calls: Sequence[Call]) -> list[Any]:
            assert await other.commit([rival]) == [Applied(2)]
            return await send(calls)

        await store.commit([FIRST])
        Interposed(store, meet, run)
        assert await until_answered(store, SECOND) == [Conflict(at(2, history="rival"))]
        assert await model(store, STREAM) == apply(BEFORE, big(3))
        assert not stage_keys(client)


@pytest.mark.parametrize("run", range(2, RUNS + 1))
async def test_two_that_disturb_each_other_in_the_middle_are_told_to_try_again(
    store: RedisStore, client: Redis, run: int
) -> None:
    rival = commit(STREAM, at(1), 2, big(3), history="rival")
    async with RedisStore(store_url(client), key_prefix=PREFIX) as other:

        async def meet(send: Send, calls: Sequence[Call]) -> list[Any]:
            with pytest.raises(StoreUnavailable, match="stopped"):
                await other.commit([rival])
            return await send(calls)

        await store.commit([FIRST])
        Interposed(other, stop, 3)
        Interposed(store, meet, run)
        with pytest.raises(StoreUnavailable, match="disturbed"):
            await store.commit([SECOND])
        assert await model(store, STREAM) == BEFORE
        with pytest.raises(StoreUnavailable, match="waited for"):
            await store.commit([SECOND])
        assert await store.commit([SECOND]) == [Applied(2)], "the other one has stopped"
        assert await model(store, STREAM) == AFTER


async def test_an_engine_waits_while_another_stages_a_commit_and_goes_on(store: RedisStore, client: Redis) -> None:
    rival = commit(STREAM, at(1), 2, big(3), history="rival")
    waited: list[int] = []

    async def wait(send: Send, calls: Sequence[Call]) -> list[Any]:
        if between.runs > 2:  # it has begun
            with pytest.raises(StoreUnavailable, match="waited for"):
                await store.commit([SECOND])
            waited.append(between.runs)
        return await send(calls)

    await store.commit([FIRST])
    async with RedisStore(store_url(client), key_prefix=PREFIX) as other:
        between = Interposed(other, wait)
        assert await other.commit([rival]) == [Applied(2)]
    assert len(waited) > 1
    assert await store.commit([SECOND]) == [Conflict(at(2, history="rival"))]


@pytest.mark.parametrize("instead", ["nothing", "another type"])
@pytest.mark.parametrize(
    ("run", "lost"),
    [(2, "version"), (2, "fields:5"), (2, "scores:kept"), (3, "checkpoint"), *((RUNS, n) for n in ("elements:3", "*"))],
)
async def test_a_stage_that_is_lost_or_spoiled_is_made_again(
    store: RedisStore, client: Redis, run: int, lost: str, instead: str
) -> None:
    """It is no fault of the live keys, whatever the script finds beside them."""

    async def lose(send: Send, calls: Sequence[Call]) -> list[Any]:
        for key in client.keys("test:{crash}:stage:" + lost):
            client.delete(key)
            if instead == "another type":
                client.sadd(key, "member")
        return await send(calls)

    await store.commit([FIRST])
    Interposed(store, lose, run)
    with pytest.raises(StoreUnavailable, match="disturbed"):
        await store.commit([SECOND])
    assert await model(store, STREAM) == BEFORE
    assert await store.commit([SECOND]) == [Applied(2)]
    assert await model(store, STREAM) == AFTER


async def test_a_stage_that_is_refused_for_want_of_memory_is_removed(store: RedisStore, client: Redis) -> None:
    async def fill(send: Send, calls: Sequence[Call]) -> list[Any]:
        client.config_set("maxmemory", "1mb" if filled.runs == 3 else "0")
        return await send(calls)

    await store.commit([FIRST])
    filled = Interposed(store, fill)
    try:
        with pytest.raises(StoreRefused, match="OOM"):
            await store.commit([SECOND])
    finally:
        client.config_set("maxmemory", "0")
    assert not stage_keys(client)
    assert await model(store, STREAM) == BEFORE
    assert await store.commit([SECOND]) == [Applied(2)]


async def test_a_redis_that_is_out_of_memory_is_asked_for_no_copies(store: RedisStore, client: Redis) -> None:
    found: list[list[bytes]] = []

    async def fill(send: Send, calls: Sequence[Call]) -> list[Any]:
        client.config_set("maxmemory", "1mb")
        replies = await send(calls)
        found.append(stage_keys(client))
        return replies

    await store.commit([FIRST])
    Interposed(store, fill)
    try:
        with pytest.raises(StoreRefused, match="OOM"):
            await store.commit([SECOND])
    finally:
        client.config_set("maxmemory", "0")
    assert found == [[]]


async def test_whatever_stands_in_the_stage_keeps_no_commit_from_being_made(store: RedisStore, client: Redis) -> None:
    await store.commit([FIRST])
    for key in ("", ":checkpoint", ":version", ":elements:3", ":text:small"):
        client.hset(f"test:{{crash}}:stage{key}", "field", "1")
    async with RedisStore(store_url(client), key_prefix=PREFIX) as following:
        small = commit(STREAM, at(1), 2, {"text:small": SetString(b"small")})
        assert await following.commit([small]) == [Applied(2)]
        assert await following.commit([commit(STREAM, at(2), 3, big(3))]) == [Applied(3)]


@pytest.mark.parametrize("fault", ["missing", "no number", "raised"])
async def test_a_spoiled_version_is_named_before_anything_is_copied(
    store: RedisStore, client: Redis, fault: str
) -> None:
    await store.commit([FIRST])
    match fault:
        case "missing":
            client.delete("test:{crash}:version")
        case "no number":
            client.set("test:{crash}:version", "x")
        case "raised":
            client.incr("test:{crash}:version")
    with pytest.raises(StateError, match=r"^test:\{crash\}:version is "):
        await store.commit([SECOND])
    assert not stage_keys(client)


async def test_a_live_key_that_lost_elements_is_named(store: RedisStore, client: Redis) -> None:
    kept = commit(STREAM, at(1), 2, big(2) | {"scores:replaced": WriteSortedSet({30: text(30)}, 30, known=4)})
    await store.commit([FIRST])
    client.zremrangebyrank("test:{crash}:scores:replaced", 0, 0)
    with pytest.raises(StateError, match=r"^test:\{crash\}:scores:replaced has 3 elements, not 4"):
        await store.commit([kept])


async def test_a_spoiled_live_key_is_named_and_nothing_is_written(store: RedisStore, client: Redis) -> None:
    await store.commit([FIRST])
    client.delete("test:{crash}:elements:3")
    client.set("test:{crash}:elements:3", "a string")
    with pytest.raises(StateError, match=r"^test:\{crash\}:elements:3 is a string, not a list"):
        await store.commit([SECOND])
    assert client.get("test:{crash}:version") == b"1"
    assert client.lrange("test:{crash}:elements:4", 0, -1) == [text(1)]


def writes_bytes(call: Call) -> int:
    """The bytes of the writes of a call of `commit.lua`."""
    assert isinstance(call.args[-1], bytes)
    *_, writes = msgspec.msgpack.decode(call.args[-1], type=tuple[msgspec.Raw, msgspec.Raw, msgspec.Raw, msgspec.Raw])
    return len(bytes(writes))


def store_url(client: "Redis") -> str:
    where = client.connection_pool.connection_kwargs
    return f"redis://{where['host']}:{where['port']}/{where.get('db', 0)}"


async def until_answered(store: RedisStore, made: Commit) -> list[Any]:
    """Commit again and again, as an engine does."""
    while True:
        try:
            return [*await store.commit([made])]
        except StoreUnavailable:
            pass
