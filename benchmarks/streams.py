"""Many tables in one engine: the line over a topic in memory and a real Redis, some games a table and commit.

What is measured is the engine and Redis alone: no broker takes part.
"""

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import msgspec
from redis.asyncio import Redis

from benchmarks.curves import Costs
from benchmarks.servers import Servers, assignments
from crashfold.engine.adapters.memory.log import MemoryDeadLetters, MemoryLog, MemoryTopic
from crashfold.engine.cli.bootstrap import folding_of, new_service, open_store
from crashfold.engine.errors import CrashfoldError
from crashfold.engine.ports import Polled
from crashfold.engine.runtime.service import Service
from crashfold.engine.runtime.verify import verify
from crashfold.engine.settings import Settings, load
from crashfold.schemas.chain import chain_of_games
from crashfold.schemas.game import encode

GAMES_MAX = 20_000
"""Of a table; all play the same ones."""
FIRST_GAMES = 20
"""Games that every table has before anything is measured."""
POLLS = 21
"""Of one measurement; the last one does not count."""
AT_ONCE_MAX = 100
"""Tables that have a game in one poll."""
CHECKED_MAX = 10
"""Tables that are verified: each is read by looking through all keys."""


class Rounds(MemoryLog):
    """A log whose polls bring at most `at_once` records, and none when they do not wait.

    An engine that is behind gathers several polls into a commit. This one never looks as if it were: a poll brings less
    than the most it might have, and what comes while a commit is made is left for the next.
    """

    def __init__(self, topic: MemoryTopic, at_once: int) -> None:
        super().__init__(topic)
        self._at_once = at_once

    async def poll(self, games_max: int, wait_s: float) -> Polled:
        """What has come, but for a poll that only looks by."""
        polled = await super().poll(min(games_max, self._at_once) if wait_s else 0, wait_s)
        return msgspec.structs.replace(polled, has_more=False)


class Tables:
    """Tables, the engine that follows them, and its store."""

    def __init__(
        self,
        settings: Settings,
        topic: MemoryTopic,
        event_log: MemoryLog,
        service: Service,
        seed: int,
        count: int,
        games_each: int,
    ) -> None:
        self._settings = settings
        self._topic = topic
        self._event_log = event_log
        self._service = service
        self._count = count
        self._at_once = min(AT_ONCE_MAX, count)
        self._games_each = games_each
        self._values = [encode(game) for game in chain_of_games(seed, GAMES_MAX)]
        self._played = [FIRST_GAMES] * count
        self._next = 0
        self._memory_before = _resident_kib()

    @classmethod
    @asynccontextmanager
    async def opened(cls, servers: Servers, seed: int, count: int, games_each: int = 1) -> AsyncIterator[Self]:
        """`count` tables of `FIRST_GAMES` games, all in memory and in Redis; a poll brings `games_each` of a table."""
        given = assignments(servers, "tables") | {
            "redis.key_prefix": "bench:{stream}",
            "engine.batch_games_max": str(AT_ONCE_MAX * games_each + 1),
        }
        settings = load(None, {}, given).settings
        topic = MemoryTopic(settings.kafka.topic)
        async with open_store(settings) as store, Rounds(topic, min(AT_ONCE_MAX, count) * games_each) as event_log:
            service = new_service(settings, event_log, store, MemoryDeadLetters())
            tables = cls(settings, topic, event_log, service, seed, count, games_each)
            for number in range(count):
                topic.extend(tables._values[:FIRST_GAMES], key=tables._name(number))
            await tables._catch_up()
            yield tables

    async def play(self, servers: Servers) -> Costs:
        """`POLLS` polls of games, one table after the other. A commit has the games that a poll brings of a table."""
        first = (await self._event_log.bounds(0)).end
        for _ in range(self._at_once * POLLS):
            number, self._next = self._next, (self._next + 1) % self._count
            played = self._played[number]
            self._topic.extend(self._values[played : played + self._games_each], key=self._name(number))
            self._played[number] += self._games_each
        redis_before = await _redis_counts(servers)
        began_s, cpu_began_s = time.perf_counter(), time.process_time()
        games = 0
        while games < self._at_once * self._games_each * (POLLS - 1):  # behind the last poll a step would wait for more
            await self._service.step()
            games = self._service.next_offsets[0] - first
        cpu_s, clock_s = time.process_time() - cpu_began_s, time.perf_counter() - began_s
        redis_cpu_s, redis_bytes = (
            after - before for after, before in zip(await _redis_counts(servers), redis_before, strict=True)
        )
        await self._catch_up()
        async with Redis.from_url(servers.redis_url) as client:
            redis_kib = int((await client.info("memory"))["used_memory"]) / 1024
        return {
            "CPU of the engine": cpu_s * 1e6 / games,
            "by the clock, Redis included": clock_s * 1e6 / games,
            "CPU of Redis": redis_cpu_s * 1e6 / games,
            "bytes to Redis": redis_bytes / games,
            "engine": (_resident_kib() - self._memory_before) / self._count,
            "Redis": redis_kib / self._count,
        }

    async def check(self) -> None:
        """No figure of a wrong result: some of the tables against the plain oracle."""
        names = [self._name(n).decode() for n in range(0, self._count, -(-self._count // CHECKED_MAX))]
        async with open_store(self._settings) as store, MemoryLog(self._topic, None) as event_log:
            report = await verify(event_log, store, folding_of(self._settings), names, poll_wait_s=0)
        if report.differences:
            raise CrashfoldError(f"the result is wrong, so its figures are worth nothing: {report.differences[0]}")

    async def _catch_up(self) -> None:
        """Step until everything on the topic is committed."""
        end = (await self._event_log.bounds(0)).end
        while self._service.next_offsets.get(0, 0) < end:
            await self._service.step()

    def _name(self, number: int) -> bytes:
        return b"table-%d" % number


async def _redis_counts(servers: Servers) -> tuple[float, int]:
    """CPU seconds of Redis, and the bytes that it was sent."""
    async with Redis.from_url(servers.redis_url) as client:
        info = await client.info()
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"]), int(info["total_net_input_bytes"])


def _resident_kib() -> float:
    with open("/proc/self/statm", encoding="ascii") as numbers:
        return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024
