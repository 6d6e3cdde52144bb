"""The read side over a read model that somebody has spoiled: every key and field, by every kind of damage.

Whatever stands in Redis, an answer is the right one, or says that it is not to be had. Asked are a process that was
there before, and one that starts with the damage.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import cycle, islice
from typing import Any, Final, NamedTuple

import anyio
from redis.asyncio import Redis

from crashfold.engine.adapters.process.clock import SystemClock
from crashfold.engine.adapters.redis.reader import RedisReader
from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.errors import CrashfoldError
from crashfold.engine.http.answers import Answers
from crashfold.engine.http.replies import Reply
from crashfold.engine.http.requests import ApiRequest
from crashfold.engine.meter import ApiMeter
from crashfold.engine.read.followers import Followers
from crashfold.engine.read.times import Zones
from crashfold.engine.settings import Settings
from crashfold.projections.settings import ProjectionSettings
from crashfold.schemas.game import Game
from tests.support.api_server import Writer

PATIENCE_S = 30
ROOT: Final = "/api/analytics"
SETTINGS: Final = ProjectionSettings(
    min=(2, 25), max=(2,), floor=(2,), samples_games=(10,), samples_hours=(1,), window_games=100
)
GAMES: Final = [
    Game(
        game_id=number,
        crash_point=30.0 if number == 3 else 1.0 + number % 5,
        end_time=1_768_478_400_000 + number * 60_000,
    )
    for number in range(1, 200)
    if number % 7
]
"""One a minute. The only one of 30.00 lies far before the window."""
QUESTIONS: Final = (
    ("/api/games", "per_page=100"),
    ("/api/games/198", ""),
    (f"{ROOT}/occurrences/min-crash-point/2", "games=10"),
    (f"{ROOT}/occurrences/min-crash-point/3.33", "games=10"),
    (f"{ROOT}/series/without-min-crash-point/25", "limit=100"),
    (f"{ROOT}/intervals/min-crash-point/2", "hours=1"),
    (f"{ROOT}/last-game/min-crash-point/2", ""),
    (f"{ROOT}/last-game/min-crash-point/25", ""),
    (f"{ROOT}/last-games/min-crash-point/2", "limit=20"),
)
GARBAGE: Final = (b"\xff\xfe", b"", b"-1", b"9" * 40, b"1_0", b"[" * 5_000, b"\r\nx: y")
OTHER_TYPES: Final[tuple[tuple[Any, ...], ...]] = (
    ("SET", b"\xff"),
    ("RPUSH", b"\xff"),
    ("HSET", b"\xff", b"\xff"),
    ("ZADD", 1, b"\xff"),
)


class Damage(NamedTuple):
    """A command on a key, and whether everybody can know that something is wrong."""

    key: str
    command: tuple[Any, ...]


class Asked(NamedTuple):
    """A process that answers."""

    followers: Followers
    answers: Answers

    async def ask(self, path: str, query: str) -> Reply:
        return await self.answers.answer(ApiRequest("GET", path, query))


class Noon(SystemClock):
    def now_ms(self) -> int:
        return max(one.end_time for one in GAMES) + 1


@asynccontextmanager
async def answering(url: str) -> AsyncIterator[Asked]:
    async with RedisReader(url) as reader, Followers(reader, Noon(), only_stream="crash").running() as followers:
        settings = Settings(projections=SETTINGS)
        yield Asked(followers, Answers(followers, reader, settings, clock=Noon(), meter=ApiMeter(), zones=Zones()))


async def damages(redis: Redis) -> AsyncIterator[Damage]:
    """Every damage to every key and field; of the garbage two kinds each, in turn."""
    kinds = cycle(GARBAGE)
    async for key in redis.scan_iter("analytics:*"):
        name = key.decode()
        if name.endswith((":max:2", ":floor:2")):
            continue  # nobody asks for them
        yield Damage(name, ("DEL",))
        kind = await redis.type(name)
        for command, *rest in OTHER_TYPES:
            yield Damage(name, (command, *rest))
        if kind == b"hash":
            for field in await redis.hkeys(name):
                yield Damage(name, ("HDEL", field))
                for garbage in islice(kinds, 2):
                    yield Damage(name, ("HSET", field, garbage))
        elif kind == b"list":
            yield Damage(name, ("LTRIM", 1, -1))
            for garbage in islice(kinds, 2):
                yield Damage(name, ("LSET", 0, garbage))
        elif kind == b"string":
            for garbage in islice(kinds, 2):
                yield Damage(name, ("SET", garbage))
        else:
            yield Damage(name, ("ZREMRANGEBYRANK", 0, 19))
            yield Damage(name, ("ZREMRANGEBYRANK", -1, -1))
            for garbage in islice(kinds, 2):
                yield Damage(name, ("ZADD", 190.5, garbage))
                yield Damage(name, ("ZADD", "inf", garbage))


async def spoil(redis: Redis, damage: Damage) -> None:
    command, *rest = damage.command
    if command in ("SET", "RPUSH", "ZADD", "HSET") and damage.command in OTHER_TYPES:
        await redis.delete(damage.key)
    await redis.execute_command(command, damage.key, *rest)  # type: ignore[no-untyped-call]


async def test_an_answer_is_right_or_not_to_be_had_whatever_was_spoiled(redis_url: str) -> None:
    async with RedisStore(redis_url) as store:
        writer = Writer(store, SETTINGS)
        for start in range(0, len(GAMES), 30):
            await writer.commit(GAMES[start : start + 30])
    async with Redis.from_url(redis_url) as redis, answering(redis_url) as warm:
        with anyio.fail_after(PATIENCE_S):
            right = {question: await warm.ask(*question) for question in QUESTIONS}
        assert {reply.status for reply in right.values()} == {200}
        found: dict[str, int] = {}
        for damage in [damage async for damage in damages(redis)]:
            before = await redis.dump(damage.key)
            assert before is not None
            await spoil(redis, damage)
            try:
                with anyio.fail_after(PATIENCE_S):
                    follower = await warm.followers.follow("crash")
                    assert follower is not None
                    with suppress(CrashfoldError):
                        await follower.load()
                    for question in QUESTIONS:
                        check(damage, right[question], await warm.ask(*question), is_warm=True)
                    async with answering(redis_url) as fresh:
                        for question in QUESTIONS:
                            reply = await fresh.ask(*question)
                            check(damage, right[question], reply, is_warm=False)
                            found[reply.source] = found.get(reply.source, 0) + 1
            finally:
                await redis.delete(damage.key)
                await redis.restore(damage.key, 0, before)
        assert found["none"] > 100
        assert found["precomputed"] > 100
        assert found["computed"] > 100


def check(damage: Damage, right: Reply, told: Reply, *, is_warm: bool) -> None:
    """Hold an answer against the right one."""
    if told.status == 200:
        assert told.body == right.body or told.source == "replica", (damage, right.route, is_warm, told)
    else:
        assert told.status == 503, (damage, right.route, is_warm, told)
        assert b"retry-after" in dict(told.headers)
        assert not is_warm or b"/last-game/" in right.route.encode(), (damage, right.route, told)
