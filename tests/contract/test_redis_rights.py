"""What a Redis user may do: a right that commits need and the user lacks is found out before anything is written."""

import re
from collections.abc import AsyncIterator, Iterator
from importlib.resources import files
from typing import Final

import pytest
from redis import Redis

from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.errors import CrashfoldError, StateError, StoreRefused
from crashfold.engine.ports import Applied, Promoted
from tests.contract.state_store import commit, model, model_of, numbered, rebuild, rebuilt

STREAM: Final = "crash"


def called(script: str) -> set[str]:
    """The commands that a script calls."""
    source = files("crashfold.engine.adapters.redis").joinpath("lua", f"{script}.lua").read_text("utf-8")
    table = re.search(r"SIZE = \{(.*?)\}", source)
    sizes = re.findall(r"'([A-Z]+)'", table[1]) if table else []
    return {*re.findall(r"(?:call|in_chunks)\('([A-Z]+)'", source), *sizes}


COMMANDS: Final = sorted(called("commit") | called("promote") | called("stage"))
BESIDE: Final = {"HGETALL", "SADD", "SMEMBERS", "SREM", "ZRANGE"}
"""What a start and reports call, outside of scripts."""


def tried() -> set[str]:
    """The commands that the probe tries."""
    source = files("crashfold.engine.adapters.redis").joinpath("lua", "rights.lua").read_text("utf-8")
    return set(re.findall(r"^  \{ '([A-Z]+)'", source, re.MULTILINE))


def test_every_command_that_the_scripts_call_is_tried() -> None:
    assert {"HSET", "LPUSH", "INCR", "HINCRBY", "RENAME", "ZCARD", "PUBLISH"} <= set(COMMANDS)
    assert set(COMMANDS) | BESIDE == tried()


@pytest.fixture
def redis(each_redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(each_redis_url, decode_responses=True) as redis:
        redis.acl_deluser("engine")
        yield redis
        redis.acl_deluser("engine")


def allow(redis: Redis, *rules: str) -> None:
    """Let the user `engine` do this and nothing else."""
    redis.execute_command("ACL", "SETUSER", "engine", "reset", "on", ">secret", *rules)  # type: ignore[no-untyped-call]


@pytest.fixture
async def store(each_redis_url: str, redis: Redis) -> AsyncIterator[RedisStore]:
    url = each_redis_url.replace("redis://", "redis://engine:secret@")
    async with RedisStore(url, key_prefix="test:{stream}") as store:
        yield store


DOCUMENTED: Final = ["+@read", "+@write", "+@scripting", "+@transaction", "+@pubsub", "+@connection", "+info"]
"""What the manual says is enough."""
TRIED: Final = [f"+{command}" for command in sorted(tried())]
READ: Final = ["+evalsha", "+script", "+multi", "+exec", "+hgetall", "+zrange", "+scan", "+lrange"]


@pytest.mark.parametrize("rights", [DOCUMENTED, [*TRIED, *READ]], ids=["as documented", "no more than is tried"])
async def test_a_user_with_the_rights_that_are_tried_may_do_everything(
    store: RedisStore, redis: Redis, rights: list[str]
) -> None:
    allow(redis, "~test:*", "&test:*", *rights)
    for number in range(1, 25):
        assert await store.commit([numbered(STREAM, number)]) == [Applied(number)]
    shadow = await rebuild(store, STREAM, 24)
    assert await shadow.promote(STREAM) == Promoted(25)
    assert await store.commit([rebuilt(STREAM, 25)]) == [Applied(26)]
    assert await model(store, STREAM) == model_of(25)
    assert not redis.keys("*rights*")


@pytest.mark.fault(
    "A right is missing in Redis",
    user="nothing new",
    operator="exit 78 names command and key before anything is written",
)
@pytest.mark.parametrize("command", COMMANDS)
async def test_a_command_that_is_forbidden_is_named_before_anything_is_written(
    store: RedisStore, redis: Redis, command: str
) -> None:
    allow(redis, "~test:*", "&test:*", "+@all", f"-{command}")
    for target in (store, store.shadow()):
        with pytest.raises(CrashfoldError, match=rf"may not run {command} on") as raised:
            await target.commit([numbered(STREAM, 1)])
        assert raised.value.exit_code == 78
        with pytest.raises(CrashfoldError, match=f"may not run {command}"):
            await target.check_rights(STREAM)
    assert not redis.exists("test:{crash}:checkpoint", "test:{crash}:version", "test:{crash}:games")
    assert command == "UNLINK" or not redis.keys("*")
    allow(redis, "~test:*", "&test:*", "+@all")
    assert await store.commit([numbered(STREAM, 1)]) == [Applied(1)]


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        (("~other:*", "&test:*"), r"keys test:\{crash\}:\*"),
        (("~test:*", "resetchannels"), r"the channel test:\{crash\}:updates"),
        (("~test:*", "&other:*"), r"the channel test:\{crash\}:updates"),
        (("%R~test:*", "&test:*"), r"keys test:\{crash\}:\*"),
        (("%W~test:*", "&test:*"), r"keys test:\{crash\}:\*"),
    ],
    ids=["other keys", "no channel", "another channel", "keys to read", "keys to write"],
)
async def test_keys_and_channels_that_are_forbidden_are_named_too(
    store: RedisStore, redis: Redis, rules: tuple[str, ...], named: str
) -> None:
    allow(redis, "+@all", *rules)
    with pytest.raises(CrashfoldError, match=named) as raised:
        await store.commit([numbered(STREAM, 1)])
    assert raised.value.exit_code == 78
    assert not redis.keys("*")


@pytest.mark.fault(
    "A right in Redis is taken away under the engine",
    user="answers, or 503",
    operator="give it back, then `replay` where the engine ends with 78",
)
@pytest.mark.parametrize("command", ["HSET", "INCR", "LPUSH", "SET", "ZADD"])
async def test_a_right_that_is_taken_away_meanwhile_leaves_no_commit_that_passes_for_whole(
    store: RedisStore, redis: Redis, command: str
) -> None:
    """Half of it is written; everyone who comes to it says so, and only a rebuild mends it."""
    allow(redis, "~test:*", "&test:*", "+@all")
    await store.commit([numbered(STREAM, 1)])
    allow(redis, "~test:*", "&test:*", "+@all", f"-{command}")
    second = numbered(STREAM, 2)
    with pytest.raises(CrashfoldError) as raised:
        await store.commit([second])
    assert raised.value.exit_code == 78
    allow(redis, "~test:*", "&test:*", "+@all")
    for again in (store.commit([second]), store.commit([commit(STREAM, None, 5)])):
        with pytest.raises(StateError, match="crashfold replay"):
            await again
    with pytest.raises(StateError, match="crashfold replay"):
        await store.load(STREAM)
    shadow = await rebuild(store, STREAM, 2)
    assert await shadow.promote(STREAM, allow_back=True) == Promoted(3)
    assert await model(store, STREAM) == model_of(2)
    assert await store.commit([rebuilt(STREAM, 3)]) == [Applied(4)]


async def test_subscribers_are_told_again_what_stands(store: RedisStore, redis: Redis) -> None:
    allow(redis, "~test:*", "&test:*", "+@all")
    with redis.pubsub(ignore_subscribe_messages=True) as subscriber:  # type: ignore[no-untyped-call]
        subscriber.subscribe("test:{crash}:updates")
        told: list[str] = []

        def take() -> str:
            while (message := subscriber.get_message(timeout=1)) is None:
                pass
            told.append(message["data"])
            return told[-1]

        await store.check_rights(STREAM)
        assert take() == '{"version":0,"total_games":0,"newest":null}'
        await store.commit([numbered(STREAM, 1)])
        assert take() == '{"version":1,"total_games":1,"newest":1}'
        await store.check_rights(STREAM)
        assert take() == told[-2]


async def test_a_server_that_takes_no_writes_for_now_is_no_lack_of_rights(store: RedisStore, redis: Redis) -> None:
    allow(redis, "~test:*", "&test:*", "+@all")
    redis.config_set("min-replicas-to-write", 1)
    try:
        with pytest.raises(StoreRefused):
            await store.check_rights(STREAM)
    finally:
        redis.config_set("min-replicas-to-write", 0)
    await store.check_rights(STREAM)
