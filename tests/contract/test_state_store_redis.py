"""The contract of the stores, on redis-server and on Valkey; and how the keys look there."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import product

import anyio
import pytest
from redis.asyncio import Redis

from crashfold.engine.adapters.redis.client import Call, RedisClient
from crashfold.engine.adapters.redis.listings import KeyListing, Listings
from crashfold.engine.adapters.redis.promotion import Promotion
from crashfold.engine.adapters.redis.store import RedisShadowStore, RedisStore
from crashfold.engine.errors import StateError, StoreRefused
from crashfold.engine.ports import Applied, Commit, Conflict, Position, Promoted
from crashfold.projections.delta import Delta, SetString, Write, WriteHash, WriteList, apply
from crashfold.schemas.keys import Keys
from tests.contract.state_store import (
    PATIENCE_S,
    TOPIC_ID,
    ShadowStoreContract,
    StateStoreContract,
    at,
    commit,
    model,
    model_of,
    numbered,
    rebuild,
    rebuilt,
)

STREAM = "crash"


@pytest.fixture
async def store(each_redis_url: str) -> AsyncIterator[RedisStore]:
    async with RedisStore(each_redis_url, key_prefix="test:{stream}") as store:
        yield store


@pytest.fixture
async def redis(each_redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(each_redis_url, decode_responses=True) as redis:
        yield redis


class TestRedis(StateStoreContract, ShadowStoreContract):
    pass


class TestRedisWhereEveryCommitIsStaged(StateStoreContract, ShadowStoreContract):
    @pytest.fixture
    async def store(self, each_redis_url: str) -> AsyncIterator[RedisStore]:
        async with RedisStore(each_redis_url, key_prefix="test:{stream}", whole_values_max=0) as store:
            yield store


async def test_the_checkpoint_can_be_read_by_eye(store: RedisStore, redis: Redis) -> None:
    await store.commit([numbered(STREAM, 1)])
    assert await redis.hgetall("test:{crash}:checkpoint") == {
        "next_offset": "1",
        "generation": "g1",
        "commit": at(1).commit,
        "writer": "engine-1",
        "topic": "games",
        "topic_id": TOPIC_ID,
        "partition": "3",
        "first_offset": "7",
        "mark_offset": "0",
        "mark_timestamp": "1700000000000",
        "mark_digest": "0123456789abcdef",
        "fingerprint": "fedcba9876543210",
        "aggregates": "text,fields,elements,scores,games",
        "total_games": "1",
        "newest": "1",
        "begun": "1",
        "made": "1",
        "proof": "4a20db8b",
        "keys_created": "5",
        "base": "1",
    }
    assert await redis.get("test:{crash}:version") == "1"


async def test_all_keys_of_a_stream_carry_its_hash_tag(store: RedisStore, redis: Redis) -> None:
    await store.commit([numbered(STREAM, 1)])
    await rebuild(store, STREAM, 1)
    found = [key async for key in redis.scan_iter()]
    assert len(found) == 14
    assert all(key.startswith("test:{crash}:") for key in found)


async def test_each_commit_and_each_promotion_is_published(store: RedisStore, redis: Redis) -> None:
    await store.check_rights(STREAM)
    async with redis.pubsub() as subscriber:
        await subscriber.subscribe("test:{crash}:updates")
        await store.commit([numbered(STREAM, 1)])
        await store.commit([commit(STREAM, numbered(STREAM, 1).checkpoint.position, 2)])
        shadow = await rebuild(store, STREAM, 3)
        await shadow.promote(STREAM)
        received: list[str] = []
        with anyio.fail_after(PATIENCE_S):
            while len(received) < 3:
                message = await subscriber.get_message(ignore_subscribe_messages=True, timeout=1)
                if message:
                    received.append(message["data"])
    assert received == [
        '{"version":1,"total_games":1,"newest":1}',
        '{"version":2,"total_games":0,"newest":null}',
        '{"version":4,"total_games":3,"newest":3}',
    ]


async def test_promote_leaves_keys_alone_that_are_not_of_the_aggregates(store: RedisStore, redis: Redis) -> None:
    foreign = {
        "test:{crash}": "1",
        "test:{crash}:textual:a": "2",
        "test:{crash}:cache:1:text": "3",
        "test:{crash}x:text:a": "4",
        "test:{other}:text:a": "5",
        "tes*": "6",
        "text:a": "7",
    }
    await redis.mset(foreign)
    await store.commit([numbered(STREAM, 1)])
    shadow = await rebuild(store, STREAM, 2)
    await shadow.clear(["other"])
    await shadow.promote(STREAM)
    assert dict(zip(foreign, await redis.mget(list(foreign)), strict=True)) == foreign
    keys = {key async for key in redis.scan_iter()} - set(foreign)
    assert keys == {f"test:{{crash}}:{name}" for name in (*model_of(2), "checkpoint", "version")}


@pytest.mark.parametrize("key_prefix", ["a[bc]*?\\d^-", "a:{stream}:?"])
async def test_a_prefix_with_characters_of_patterns_means_itself(
    each_redis_url: str, redis: Redis, key_prefix: str
) -> None:
    async with RedisStore(each_redis_url, key_prefix=key_prefix) as store:
        await store.commit([numbered(STREAM, 1)])
        shadow = await rebuild(store, STREAM, 2)
        assert await model(store, STREAM) == model_of(1)
        await shadow.clear([STREAM, STREAM])
        assert await shadow.load(STREAM) is None
        await rebuild(store, STREAM, 2)
        await shadow.promote(STREAM)
        assert await model(store, STREAM) == model_of(2)
        assert not [key async for key in redis.scan_iter() if "shadow" in key]


class _Interrupted(Promotion):
    """A promotion during which something happens between the listing of the keys and the swap."""

    meanwhile: Callable[[], Awaitable[object]]
    listings = 0

    async def _call(self, *args: object, **kwargs: object) -> Call:
        call = await super()._call(*args, **kwargs)  # type: ignore[arg-type]
        self.listings += 1
        await self.meanwhile()
        return call


@pytest.fixture
def interrupted(store: RedisStore) -> _Interrupted:
    return _Interrupted(store._client, "test:{stream}")


async def test_a_key_that_a_live_commit_creates_during_a_promotion_is_not_left_behind(
    store: RedisStore, redis: Redis, interrupted: _Interrupted
) -> None:
    live = commit(STREAM, None, 1, {"text:a": SetString(b"live")})
    await store.commit([live])
    await rebuild(store, STREAM, 3)
    creates = commit(STREAM, live.checkpoint.position, 2, {"text:new": SetString(b"live")})

    async def meanwhile() -> None:
        await store.commit([creates])

    interrupted.meanwhile = meanwhile
    assert await interrupted.promote(STREAM) == Promoted(4)
    assert interrupted.listings == 2
    assert await redis.exists("test:{crash}:text:new") == 0
    assert await model(store, STREAM) == model_of(3)


async def test_live_commits_that_create_no_key_do_not_delay_a_promotion(
    store: RedisStore, interrupted: _Interrupted
) -> None:
    live = commit(STREAM, None, 1, {"text:a": SetString(b"live")})
    await store.commit([live])
    await rebuild(store, STREAM, 3)

    async def meanwhile() -> None:
        changes = commit(STREAM, live.checkpoint.position, 2, {"text:a": SetString(b"live again")})
        assert await store.commit([changes]) == [Applied(2)]

    interrupted.meanwhile = meanwhile
    assert await interrupted.promote(STREAM) == Promoted(4)
    assert interrupted.listings == 1


async def test_a_live_engine_that_creates_keys_for_ever_makes_a_promotion_give_up(
    store: RedisStore, interrupted: _Interrupted
) -> None:
    live = commit(STREAM, None, 1)
    await store.commit([live])
    await rebuild(store, STREAM, 99)

    async def meanwhile() -> None:
        nonlocal live
        number = live.checkpoint.next_offset + 1
        live = commit(STREAM, live.checkpoint.position, number, {f"text:{number}": SetString(b"x")})
        await store.commit([live])

    interrupted.meanwhile = meanwhile
    with pytest.raises(StoreRefused, match="try again"):
        await interrupted.promote(STREAM)
    assert (await store.positions([STREAM])) == [live.checkpoint.position]


async def test_a_shadow_that_lost_a_key_is_listed_again(
    store: RedisStore, redis: Redis, interrupted: _Interrupted
) -> None:
    await rebuild(store, STREAM, 2)

    async def meanwhile() -> None:
        await redis.delete("test:{crash}:shadow:text:a")

    interrupted.meanwhile = meanwhile
    assert await interrupted.promote(STREAM) == Promoted(3)
    assert "text:a" not in await model(store, STREAM)


async def test_two_rebuilds_at_once_promote_one_of_them(store: RedisStore, interrupted: _Interrupted) -> None:
    await rebuild(store, STREAM, 2)

    async def meanwhile() -> None:
        other = store.shadow()
        if await other.load(STREAM):
            await other.clear([STREAM])
            await other.commit([rebuilt(STREAM, 1)])
            assert await other.promote(STREAM) == Promoted(2)

    interrupted.meanwhile = meanwhile
    assert await interrupted.promote(STREAM) == Promoted(2)
    assert await model(store, STREAM) == model_of(1)


async def test_a_state_that_was_stored_before_commits_had_ids_is_gone_on_from(store: RedisStore, redis: Redis) -> None:
    await store.commit([numbered(STREAM, 1)])
    await redis.hdel("test:{crash}:checkpoint", "commit")
    stored = await store.load(STREAM)
    assert stored is not None
    assert stored.checkpoint.position == Position("g1", 1, "")
    assert await store.positions([STREAM]) == [Position("g1", 1, "")]
    assert await store.checkpoint(STREAM) == stored.checkpoint
    assert await store.commit([commit(STREAM, at(1), 2)]) == [Conflict(Position("g1", 1, ""))]
    assert await store.commit([numbered(STREAM, 2, stored.checkpoint.position)]) == [Applied(2)]
    assert await store.positions([STREAM]) == [at(2)]


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (("SET", "test:{crash}:checkpoint", "x"), "test:{crash}:checkpoint has another type"),
        (("HDEL", "test:{crash}:checkpoint", "mark_offset"), "test:{crash}:checkpoint is no checkpoint"),
        (("HSET", "test:{crash}:checkpoint", "next_offset", "1.5"), "test:{crash}:checkpoint has the next_offset"),
        (("HSET", "test:{crash}:checkpoint", "topic", b"\xff"), "test:{crash}:checkpoint is no checkpoint"),
        (("DEL", "test:{crash}:version"), "test:{crash}:version is missing"),
        (("SET", "test:{crash}:version", "-1"), "test:{crash}:version is missing or no whole number"),
        (("DEL", "test:{crash}:games"), "test:{crash}:games does not end with the newest game"),
        (("ZADD", "test:{crash}:games", "2", "x"), "test:{crash}:games does not end with the newest game"),
    ],
)
async def test_a_state_that_cannot_be_loaded_names_the_key_and_the_way_out(
    store: RedisStore, redis: Redis, damage: tuple[str | bytes, ...], names: str
) -> None:
    await store.commit([numbered(STREAM, 1)])
    await redis.execute_command(*damage)  # type: ignore[no-untyped-call]  # the library's own gap
    asked = [store.load, store.checkpoint] if "checkpoint" in names else [store.load]
    for ask in asked:
        with pytest.raises(StateError) as raised:
            await ask(STREAM)
        assert names in str(raised.value)
        assert "crashfold replay" in str(raised.value)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (("SET", "test:{crash}:checkpoint", "x"), "test:{crash}:checkpoint is a string, not a hash"),
        (("SET", "test:{crash}:version", "12x"), "test:{crash}:version is no whole number"),
        (("HSET", "test:{crash}:version", "a", "b"), "test:{crash}:version is a hash, not a string"),
        (("DEL", "test:{crash}:version"), "test:{crash}:version is missing"),
        (("SET", "test:{crash}:elements:a", "x"), "test:{crash}:elements:a is a string, not a list"),
    ],
)
async def test_a_commit_that_would_fail_half_way_is_refused_whole(
    store: RedisStore, redis: Redis, damage: tuple[str, ...], fault: str
) -> None:
    await store.commit([numbered(STREAM, 1)])
    if damage[0] != "DEL":
        await redis.delete(damage[1])
    await redis.execute_command(*damage)  # type: ignore[no-untyped-call]  # the library's own gap
    before = await _dump(redis)
    with pytest.raises(StateError) as raised:
        await store.commit([numbered(STREAM, 2)])
    assert fault in str(raised.value)
    assert await _dump(redis) == before


@pytest.mark.parametrize("key", ["text:a", "fields:a", "elements:a", "checkpoint"])
async def test_a_first_commit_does_not_mix_with_what_stands_there(store: RedisStore, redis: Redis, key: str) -> None:
    """Redis evicted the checkpoint and kept the rest, or somebody else has that prefix."""
    match key.partition(":")[0]:
        case "text":
            await redis.set("test:{crash}:" + key, "x")
        case "elements":
            await redis.lpush("test:{crash}:" + key, "x")
        case _:
            await redis.hset("test:{crash}:" + key, "x", "y")
    before = await _dump(redis)
    with pytest.raises(StateError, match=r"test:\{crash\}:" + key):
        await store.commit([numbered(STREAM, 1)])
    assert await _dump(redis) == before


async def test_of_several_commits_one_that_does_not_fit_does_not_stop_the_others(
    store: RedisStore, redis: Redis
) -> None:
    await redis.set("test:{b}:fields:a", "x")
    with pytest.raises(StateError):
        await store.commit([numbered("a", 1), numbered("b", 1), numbered("c", 1)])
    assert await store.positions(["a", "b", "c"]) == [at(1), None, at(1)]


async def _dump(redis: Redis) -> dict[str, object]:
    """Everything on the server."""
    reads = {"string": redis.get, "hash": redis.hgetall}
    found: dict[str, object] = {}
    async for key in redis.scan_iter():
        kind = await redis.type(key)
        if kind in reads:
            found[key] = await reads[kind](key)
        elif kind == "list":
            found[key] = await redis.lrange(key, 0, -1)
        else:
            found[key] = await redis.zrange(key, 0, -1, withscores=True)
    return found


async def test_a_key_of_a_type_that_no_aggregate_has_is_named(store: RedisStore, redis: Redis) -> None:
    await store.commit([numbered(STREAM, 1)])
    await redis.delete("test:{crash}:text:a")
    await redis.sadd("test:{crash}:text:a", "x")
    with pytest.raises(StateError, match=r"test:\{crash\}:text:a is a set"):
        await store.read_model(STREAM)


async def test_a_manifest_or_a_position_that_cannot_be_read_is_named(store: RedisStore, redis: Redis) -> None:
    await redis.hset("test:manifest:games:0", "low_water", "x")
    with pytest.raises(StateError, match="test:manifest:games:0"):
        await store.read_manifest("games", 0)
    await redis.set("test:{crash}:checkpoint", "x")
    with pytest.raises(StateError, match="another type"):
        await store.positions([STREAM])


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The patterns by which keys were looked for, one for each time that a server's keys were gone through."""
    patterns: list[str] = []

    class Counting(RedisClient):
        async def scan(self, pattern: str) -> list[str]:
            patterns.append(pattern)
            return await super().scan(pattern)

    monkeypatch.setattr("crashfold.engine.adapters.redis.store.RedisClient", Counting)
    return patterns


async def test_the_keys_of_many_streams_are_found_by_one_scan(scans: list[str], each_redis_url: str) -> None:
    streams = [f"s{n}" for n in range(40)]
    async with RedisStore(each_redis_url, key_prefix="test:{stream}") as store:
        await store.commit([numbered(stream, 1) for stream in streams])
        read = await store.read_models(streams)
        assert [one[1] for one in read if one is not None] == [model_of(1)] * 40
        assert scans == ["test:*:*"]
        await store.shadow().clear(streams)
        assert scans == ["test:*:*", "test:*:shadow:*"]


async def test_a_list_is_written_as_its_definition_says_whatever_is_replaced_pushed_and_kept(store: RedisStore) -> None:
    """The script has ways of its own for few elements, for a list that is replaced whole, and for one that is full."""
    shapes = {
        f"s{number}": shape
        for number, shape in enumerate(product((0, 1, 2, 9), (0, 1, 2, 9, 99), (0, 1, 2, 9, 10), (0, 1, 9, 50)))
    }
    before, after = dict[str, Commit](), dict[str, Commit]()
    for stream, (size, drop, push, keep) in shapes.items():
        old: Delta = {"elements:a": WriteList(0, [b"old %d" % n for n in range(size)], 50)} if size else {}
        before[stream] = commit(stream, None, 1, old)
        new: Delta = {"elements:a": WriteList(drop, [b"new %d" % n for n in range(push)], keep)}
        after[stream] = commit(stream, before[stream].checkpoint.position, 2, new)
    assert set(await store.commit([*before.values()])) == {Applied(1)}
    assert set(await store.commit([*after.values()])) == {Applied(2)}
    for stream, read in zip(shapes, await store.read_models([*shapes]), strict=True):
        assert read is not None
        assert read[1] == apply(apply({}, before[stream].delta), after[stream].delta), shapes[stream]


async def test_shadows_of_many_streams_are_cleared_and_promoted_by_three_scans(
    scans: list[str], each_redis_url: str
) -> None:
    streams = [f"s{n}" for n in range(40)]
    async with RedisStore(each_redis_url, key_prefix="test:{stream}") as store:
        await store.commit([numbered(stream, 1) for stream in streams])
        await store.shadow().commit([rebuilt(stream, 1) for stream in streams])  # left behind by another rebuild
        shadow = store.shadow()
        for stream in streams:
            await shadow.clear([stream])
            await shadow.commit([rebuilt(stream, 1)])
            assert await shadow.promote(stream) == Promoted(2)
        assert scans == ["test:*:shadow:*", "test:*:checkpoint", "test:*:*"]
        assert [await model(store, stream) for stream in streams] == [model_of(1)] * 40


async def promoted_beside(store: RedisStore) -> tuple[RedisShadowStore, Position]:
    """A rebuild that has listed the keys of two streams and promoted one; and where the live state of the other, `b`,
    stands."""
    live = commit("b", None, 1, {"text:a": SetString(b"live")})
    await store.commit([numbered("a", 1), live])
    shadow = store.shadow()
    await shadow.commit([rebuilt("a", 1), rebuilt("b", 1)])
    await shadow.commit([rebuilt("b", 2)])
    assert await shadow.promote("a") == Promoted(2)
    return shadow, live.checkpoint.position


@pytest.mark.parametrize(
    ("created", "expected_scans"),
    [
        pytest.param(("fields:a",), 2, id="one that the shadow has too"),
        pytest.param(("elements:a", "fields:a"), 2, id="two that the shadow has too"),
        pytest.param(("text:new", "fields:a"), 4, id="one of two that the shadow has not"),
    ],
)
async def test_keys_that_the_shadow_has_too_may_be_created_meanwhile_without_a_scan(
    created: tuple[str, ...], expected_scans: int, scans: list[str], store: RedisStore, redis: Redis
) -> None:
    shadow, live = await promoted_beside(store)
    writes: dict[str, Write] = {
        "fields:a": WriteHash({"number": b"live"}),
        "elements:a": WriteList(0, [b"live"], 5),
        "text:new": SetString(b"live"),
    }
    await store.commit([commit("b", live, 2, {name: writes[name] for name in created})])
    assert await shadow.promote("b") == Promoted(3)
    assert len(scans) == expected_scans
    assert await redis.exists("test:{b}:text:new") == 0
    assert await model(store, "b") == model_of(2)


async def test_a_key_that_was_created_since_all_were_listed_is_not_left_behind(
    scans: list[str], store: RedisStore, redis: Redis
) -> None:
    shadow, live = await promoted_beside(store)
    await store.commit([commit("b", live, 2, {"text:new": SetString(b"live")})])
    assert await shadow.promote("b") == Promoted(3)
    assert len(scans) == 4, "of the stream that changed, shadow and live state are looked for again"
    assert await redis.exists("test:{b}:text:new") == 0
    assert await model(store, "b") == model_of(2)


async def test_only_a_stream_whose_keys_changed_meanwhile_is_looked_for_again(
    scans: list[str], store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    creates = commit("b", numbered("b", 1).checkpoint.position, 2, {"text:new": SetString(b"x")}, newest_id=1)
    of_each = Listings.of_each

    async def interrupted(self: Listings, several: Sequence[Keys]) -> list[KeyListing | None]:
        listings = await of_each(self, several)
        if len(scans) == 1:
            assert await store.commit([creates]) == [Applied(2)]
        return listings

    monkeypatch.setattr(Listings, "of_each", interrupted)
    await store.commit([numbered(stream, 1) for stream in "abc"])
    read = await store.read_models(["a", "b", "c"])
    assert [one[1] for one in read if one is not None] == [
        model_of(1),
        model_of(1) | {"text:new": b"x"},
        model_of(1),
    ]
    assert scans == ["test:*:*", r"test:{b}:*"]


async def test_more_callers_than_connections_wait_for_their_turn(each_redis_url: str) -> None:
    async with RedisStore(each_redis_url, key_prefix="{stream}", commit_connections=1, read_connections=1) as store:
        streams = [f"s{n}" for n in range(30)]

        async def commit_and_read(stream: str) -> None:
            assert await store.commit([numbered(stream, 1)]) == [Applied(1)]
            assert await model(store, stream) == model_of(1)

        async with anyio.create_task_group() as tasks:
            for stream in streams:
                tasks.start_soon(commit_and_read, stream)
        assert await store.positions(streams) == [at(1)] * 30


async def test_the_server_says_what_it_is_and_how_it_keeps_data(
    store: RedisStore, request: pytest.FixtureRequest
) -> None:
    await store.checks().ping()
    (info,) = await store.checks().server_infos()
    assert request.node.callspec.params["each_redis_url"] == info.product
    assert int(info.version.partition(".")[0]) >= 7
    assert (info.role, info.maxmemory_bytes, info.maxmemory_policy) == ("master", 0, "noeviction")
    assert (info.appendonly, info.save) == (False, "")


async def test_a_user_who_may_not_read_the_configuration_still_learns_what_the_server_is(
    each_redis_url: str, redis: Redis
) -> None:
    await redis.acl_setuser("reader", enabled=True, passwords=["+pw"], categories=["+@all"], commands=["-config"])
    try:
        async with RedisStore(each_redis_url.replace("redis://", "redis://reader:pw@")) as store:
            (info,) = await store.checks().server_infos()
            assert info.save is None
            assert info.role == "master"
    finally:
        await redis.acl_deluser("reader")
