"""Damaged state: whatever was deleted, spoiled or evicted in Redis, the engine stops, and a replay mends it.

The engine runs in this process, on a topic in memory and a real server: there are many kinds of damage.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import pytest
from redis import Redis

from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.errors import StateError
from crashfold.engine.ports import Manifest
from crashfold.engine.runtime.pacing import EngineLimits
from tests.support.games import games_at
from tests.support.in_memory import MemoryDeployment

GAMES: Final = tuple(games_at(*(1.0, 2.0, 1.4, 11.0, 3.0) * 9))
FOLDED: Final = 40
PREFIXES: Final = {"crash": "test", None: "test:{stream}"}

Damage = Callable[[Any, Any], object]


class OnRedis(MemoryDeployment):
    """A deployment whose state is on a server."""

    def __init__(self, store: RedisStore, only: str | None) -> None:
        super().__init__(only=only)
        self.store = store  # type: ignore[assignment]  # what is asked of it both can do

    async def manifest(self, number: int) -> Manifest | None:
        return await self.store.read_manifest(self.topic.name, number)


@pytest.fixture(params=["crash", None], ids=["one stream", "many streams"])
async def deployment(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[MemoryDeployment]:
    """Games are folded in some pieces: there is a base, there are blocks, and the window is full."""
    async with RedisStore(redis_url, key_prefix=PREFIXES[request.param]) as store:
        deployment = OnRedis(store, request.param)
        deployment.publish(*GAMES[:FOLDED])
        await deployment.run(limits=EngineLimits(batch_games_max=7, poll_wait_s=0))
        yield deployment


@pytest.fixture
def redis(redis_url: str) -> Redis:
    return Redis.from_url(redis_url)


def _other_type(key: str) -> Damage:
    return lambda redis, start: (redis.delete(start + key), redis.xadd(start + key, {"a": "b"}))


def _a_block(redis: Any, start: str) -> object:
    blocks = [field for field in redis.hkeys(f"{start}checkpoint") if field.startswith(b"before_window:")]
    assert blocks
    return redis.hdel(f"{start}checkpoint", blocks[0])


def _stray(redis: Redis, start: str) -> object:
    return redis.delete(f"{start}checkpoint", *redis.keys("*:manifest:*"))


def _spoiled_shadow(redis: Redis, start: str) -> object:
    redis.set(f"{start}shadow:checkpoint", "x")
    redis.lpush(f"{start}shadow:version", "x")
    return redis.hset(f"{start}shadow:series:min:2", "a", "b")


REFUSED: Final[dict[str, Damage]] = {
    "no version": lambda redis, start: redis.delete(f"{start}version"),
    "a version that is no number": lambda redis, start: redis.set(f"{start}version", "abc"),
    "a negative version": lambda redis, start: redis.set(f"{start}version", "-1"),
    "a version of another type": _other_type("version"),
    "a version that went back": lambda redis, start: redis.decr(f"{start}version"),
    "a version beyond all counting": lambda redis, start: redis.set(f"{start}version", "9" * 19),
    "no window": lambda redis, start: redis.delete(f"{start}games"),
    "half a window": lambda redis, start: redis.zremrangebyrank(f"{start}games", 0, 4),
    "a hole in the window": lambda redis, start: redis.zremrangebyrank(f"{start}games", 4, 4),
    "a window without its newest game": lambda redis, start: redis.zpopmax(f"{start}games"),
    "a window with a game too many": lambda redis, start: redis.zadd(
        f"{start}games",
        {b'{"game_id":1,"hash":null,"crash_point":2.0,"prepare_time":null,"begin_time":null,"end_time":5}': 1},
    ),
    "a window with a stranger": lambda redis, start: redis.zadd(f"{start}games", {"stranger": 0.5}),
    "a window of another type": _other_type("games"),
    "no checkpoint": lambda redis, start: redis.delete(f"{start}checkpoint"),
    "keys without checkpoint and manifest": _stray,
    "a checkpoint of another type": _other_type("checkpoint"),
    "a checkpoint that is a string": lambda redis, start: redis.set(f"{start}checkpoint", "x"),
    "a checkpoint of one field": lambda redis, start: (
        redis.delete(f"{start}checkpoint"),
        redis.hset(f"{start}checkpoint", "a", "b"),
    ),
    "a checkpoint without an offset": lambda redis, start: redis.hdel(f"{start}checkpoint", "next_offset"),
    "a checkpoint with a strange offset": lambda redis, start: redis.hset(f"{start}checkpoint", "next_offset", "1.5"),
    "a checkpoint with a lower offset": lambda redis, start: redis.hincrby(f"{start}checkpoint", "next_offset", -1),
    "a checkpoint with a higher offset": lambda redis, start: redis.hincrby(f"{start}checkpoint", "next_offset", 1),
    "a checkpoint beyond the topic": lambda redis, start: redis.hset(f"{start}checkpoint", "next_offset", "999999"),
    "a checkpoint with another beginning": lambda redis, start: redis.hset(f"{start}checkpoint", "first_offset", "7"),
    "a checkpoint with another mark": lambda redis, start: redis.hset(f"{start}checkpoint", "mark_offset", "3"),
    "a checkpoint of another commit": lambda redis, start: redis.hset(f"{start}checkpoint", "commit", "0" * 16),
    "a checkpoint without its proof": lambda redis, start: redis.hdel(f"{start}checkpoint", "proof"),
    "a checkpoint with a strange total": lambda redis, start: redis.hset(f"{start}checkpoint", "total_games", "x"),
    "a checkpoint with a lower total": lambda redis, start: redis.hset(f"{start}checkpoint", "total_games", "39"),
    "a checkpoint with a higher total": lambda redis, start: redis.hset(f"{start}checkpoint", "total_games", "41"),
    "a checkpoint that is no text": lambda redis, start: redis.hset(f"{start}checkpoint", "generation", b"\xff\xfe"),
    "a newest game that is no text": lambda redis, start: redis.hset(f"{start}checkpoint", "newest", b"\xff\xfe"),
    "a checkpoint without a base": lambda redis, start: redis.hdel(f"{start}checkpoint", "base"),
    "a checkpoint with a spoiled base": lambda redis, start: redis.hset(f"{start}checkpoint", "base", b"\x93\x01"),
    "a checkpoint with an empty base": lambda redis, start: redis.hset(f"{start}checkpoint", "base", b""),
    "a checkpoint without a block": _a_block,
    "a block of a strange name": lambda redis, start: redis.hset(f"{start}checkpoint", "before_window:x", "y"),
    "a block that is none": lambda redis, start: redis.hset(f"{start}checkpoint", "before_window:0", b"\x01"),
    "a commit that broke off": lambda redis, start: redis.hincrby(f"{start}checkpoint", "begun", 1),
    "a commit that ran twice": lambda redis, start: (
        redis.hincrby(f"{start}checkpoint", "begun", 1),
        redis.incr(f"{start}version"),
    ),
    "a count of commits that is none": lambda redis, start: redis.hset(f"{start}checkpoint", "begun", b"\xff"),
    "an aggregate of another type": _other_type("occurrences:min:2"),
    "evictions": lambda redis, start: redis.delete(*sorted(redis.keys(f"{start}*"))[::2]),
    "other evictions": lambda redis, start: redis.delete(*sorted(redis.keys(f"{start}*"))[1::2]),
}
"""What a restart, or its first commit, must refuse."""

BORNE: Final[dict[str, Damage]] = {
    "a version of 16 digits": lambda redis, start: (
        redis.set(f"{start}version", "9" * 16),
        redis.hset(f"{start}checkpoint", mapping={"begun": "9" * 16, "made": "9" * 16}),
    ),
    "a spoiled shadow": _spoiled_shadow,
    "everything gone": lambda redis, start: redis.flushdb(),
}
"""What a restart goes on from."""


@pytest.mark.fault(
    "Keys of the state are lost or spoiled",
    user="what can be computed, `replica`, or 503",
    operator="exit 78 names the stream: `replay`",
)
@pytest.mark.parametrize("name", [*REFUSED, *BORNE])
async def test_a_damaged_state_is_refused_and_mended_by_a_replay(
    deployment: MemoryDeployment, redis: Redis, name: str
) -> None:
    start = "test:" if deployment.only else "test:{crash}:"
    version = await deployment.versions()
    (REFUSED | BORNE)[name](redis, start)
    deployment.publish(*GAMES[FOLDED:42])
    if name in REFUSED:
        with pytest.raises(StateError, match="crashfold replay"):
            await deployment.run()
        with pytest.raises(StateError, match="crashfold replay"):
            await deployment.run()
    else:
        await deployment.run()
    await deployment.rebuild()
    await deployment.check()
    assert await deployment.games() == 42
    # The version never falls while there is anything that it can be read from.
    assert (
        await deployment.versions() > version
        or name in ("evictions", "other evictions", "everything gone")
        or ("checkpoint" in name)
    )
    assert not redis.keys("*:shadow:*")
    deployment.publish(*GAMES[42:])
    await deployment.run()
    await deployment.check()
    assert await deployment.games() == len(GAMES)


@pytest.mark.fault(
    "A manifest is spoiled",
    user="nothing new",
    operator="exit 78: `replay`",
)
@pytest.mark.parametrize(
    "damage",
    [
        lambda redis, key: (redis.delete(key), redis.xadd(key, {"a": "b"})),
        lambda redis, key: redis.hset(key, "low_water", "x"),
        lambda redis, key: redis.hset(key, "mark_digest", b"\xff"),
        lambda redis, key: redis.hset(key, b"\xff", "1"),
        lambda redis, key: redis.hset(key, "stream:crash", "x"),
        lambda redis, key: redis.hdel(key, "mark_offset"),
    ],
    ids=["another type", "no number", "no text", "a field that is no text", "a strange offset", "half of it"],
)
async def test_a_spoiled_manifest_is_refused_and_mended_by_a_replay(
    deployment: MemoryDeployment, redis: Redis, damage: Damage
) -> None:
    (key,) = redis.scan_iter("*:manifest:*")
    damage(redis, key)
    deployment.publish(*GAMES[FOLDED:42])
    if deployment.only is None or redis.type(key) == b"stream":
        with pytest.raises(StateError, match="crashfold replay"):
            await deployment.run()
    await deployment.rebuild()
    deployment.publish(*GAMES[42:])
    await deployment.run()
    await deployment.check()
    assert await deployment.games() == len(GAMES)


SPOILED: Final[dict[str, Damage]] = {
    "games": lambda redis, key: redis.zremrangebyrank(key, 0, 4),
    "occurrences:min:2": lambda redis, key: redis.delete(key),
    "occurrences:min:1.5": lambda redis, key: redis.hdel(key, "count"),
    "samples": lambda redis, key: redis.delete(key),
    "intervals:min:2": lambda redis, key: redis.delete(key),
    "intervals:max:2": lambda redis, key: redis.hdel(key, redis.hkeys(key)[0]),
    "series:min:2": lambda redis, key: redis.delete(key),
    "series:max:2": lambda redis, key: redis.ltrim(key, 0, 4),
    "series:floor:1": lambda redis, key: redis.lpop(key),
    "last_game:min:2": lambda redis, key: redis.delete(key),
    "last_games:min:2": lambda redis, key: redis.delete(key),
    "last_games:max:2": lambda redis, key: redis.ltrim(key, 0, 4),
}
"""What is missing of a key, by its name."""


@pytest.mark.fault(
    "A key loses elements under a running engine",
    user="what can be computed, or 503",
    operator="exit 78 names the key: `replay`",
)
@pytest.mark.parametrize("restarted", [False, True], ids=["live", "restarted"])
@pytest.mark.parametrize("name", SPOILED)
async def test_a_key_that_lost_elements_is_named_by_the_next_commit_that_writes_it(
    deployment: MemoryDeployment, redis: Redis, name: str, restarted: bool
) -> None:
    start = "test:" if deployment.only else "test:{crash}:"
    async with deployment.engine() as engine:
        if not restarted:
            await deployment.catch_up(engine)
        SPOILED[name](redis, start + name)
        deployment.publish(*GAMES[FOLDED:])  # matches and none, for every predicate
        with pytest.raises(StateError, match=f"{name}.*crashfold replay"):
            await deployment.catch_up(engine)
    assert await deployment.games() in (FOLDED, 0), "nothing was written"
    await deployment.rebuild()
    await deployment.check()
    assert await deployment.games() == len(GAMES)
