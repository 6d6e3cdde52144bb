"""Each event by itself: what a game changes is read from Redis and changed there in one MULTI/EXEC transaction.

Everything stands in Redis, as the hashes and lists of docs/keys.md. The transaction carries the offset too, so a
restart goes on exactly where the state stands. Two round trips a game, however many predicates: one reads, one writes.
Tuned: multi-field commands, hiredis, uvloop; fetch settings as in `handrolled.py`, where they matter.
"""

from typing import Any

import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition
from redis.asyncio import Redis

from benchmarks.peers.job import NEXT_OFFSET, PREFIX, Job, Sizes, Stopwatch, decode, told
from crashfold.schemas.aggregates import FollowGame, FollowStreak, Interval, LastGame, Sample, Series
from crashfold.schemas.game import Game

RECORDS_MAX = 20_000
SAMPLES = PREFIX + "samples"
RECENT = PREFIX + "recent"
"""Sorted set: the newest games by end time, for the samples."""
RECENT_MAX = 50_000
HOUR_MS = 3_600_000

encode = msgspec.json.encode


async def main(job: Job) -> None:
    watch = Stopwatch()
    partition = TopicPartition(job.topic, 0)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=job.bootstrap_servers, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    consumer.assign([partition])
    async with Redis.from_url(job.redis_url) as redis, consumer:
        aggregates = Aggregates(redis, job.sizes)
        next_offset = await aggregates.begin()
        consumer.seek(partition, next_offset)
        while next_offset < job.games:
            for records in (await consumer.getmany(timeout_ms=1000, max_records=RECORDS_MAX)).values():
                for record in records:
                    next_offset = record.offset + 1
                    await aggregates.take(decode(record.value), next_offset)
        watch.finish(aggregates.games)


class Aggregates:
    """Updates what stands in Redis. From game to game it remembers nothing but totals and the newest end time."""

    def __init__(self, redis: Redis, sizes: Sizes) -> None:
        self.games = 0
        self._first_time = 0
        self._newest_time = 0
        self._redis = redis
        self._sizes = sizes
        self._ranges = {name: (low, high or 2**62) for name, (low, high) in sizes.predicates.items()}

    async def begin(self) -> int:
        """Take up the totals; the offset to read from."""
        totals = await self._redis.hgetall(f"{PREFIX}occurrences:{next(iter(self._ranges))}")
        if not totals:
            return 0
        self.games, self._first_time = int(totals[b"total_games"]), int(totals[b"first_game_time"])
        self._newest_time = int(totals[b"last_game_time"])
        return int(await self._redis.get(NEXT_OFFSET))

    async def take(self, game: Game, next_offset: int) -> None:
        """One game, one transaction."""
        bucket = game.end_time // self._sizes.interval_ms
        field = f"bucket_{self._bucket_s(bucket)}"
        async with self._redis.pipeline(transaction=False) as read:
            self._read_current(read, field)
            self._read_samples(read, game)
            found = await read.execute()
        count = len(self._ranges)
        occurrences, intervals, series = found[:count], found[count : 2 * count], found[2 * count : 3 * count]
        samples, leaving = self._samples(game, found[3 * count + 1 :])
        oldest_s = self._bucket_s(bucket - self._sizes.intervals_kept)
        outdated = [name for name in found[3 * count] if int(name.removeprefix(b"bucket_")) < oldest_s]
        self.games += 1
        self._first_time = self._first_time or game.end_time
        self._newest_time = game.end_time
        async with self._redis.pipeline(transaction=True) as write:
            write.set(NEXT_OFFSET, next_offset)
            write.hset(SAMPLES, mapping={name: encode(sample) for name, sample in samples.items()})
            write.zadd(RECENT, {encode(game): game.end_time})
            write.zremrangebyrank(RECENT, 0, -RECENT_MAX - 1)
            for place, (name, (low, high)) in enumerate(self._ranges.items()):
                matches = low <= _hundredths(game) < high
                gone = {sample: sum(low <= one < high for one in some) for sample, some in leaving.items()}
                write.hset(f"{PREFIX}occurrences:{name}", mapping=self._counts(occurrences[place], matches, gone))
                before = msgspec.json.decode(intervals[place] or b'{"count":0,"total_games":0}', type=Interval)
                interval = Interval(before.count + matches, before.total_games + 1)
                write.hset(f"{PREFIX}intervals:{name}", field, encode(interval))
                if outdated:
                    write.hdel(f"{PREFIX}intervals:{name}", *outdated)
                self._change_series(write, f"{PREFIX}series:{name}", series[place], game, matches)
                if matches:
                    last = LastGame(**msgspec.structs.asdict(game), ordinal=self.games)
                    write.set(f"{PREFIX}last_game:{name}", encode(last))
            await write.execute()

    def _read_current(self, read: Any, field: str) -> None:
        """Of every predicate its counts, the bucket and the newest series; and the names of the buckets there are."""
        for name in self._ranges:
            read.hgetall(f"{PREFIX}occurrences:{name}")
        for name in self._ranges:
            read.hget(f"{PREFIX}intervals:{name}", field)
        for name in self._ranges:
            read.lindex(f"{PREFIX}series:{name}", 0)
        read.hkeys(f"{PREFIX}intervals:{next(iter(self._ranges))}")

    def _read_samples(self, read: Any, game: Game) -> None:
        """What leaves the samples for this game, and what is their oldest game then."""
        for kept in self._sizes.samples_games:
            read.zrange(RECENT, -kept, 1 - kept)
        for hours in self._sizes.samples_hours:
            start, before = game.end_time - hours * HOUR_MS, self._newest_time - hours * HOUR_MS
            read.zrange(RECENT, before, f"({start}", byscore=True)
            read.zrange(RECENT, start, "+inf", byscore=True, offset=0, num=1)
            read.zcount(RECENT, start, "+inf")

    def _samples(self, game: Game, found: list[Any]) -> tuple[dict[str, Sample], dict[str, list[int]]]:
        """The samples with this game, and the crash points (hundredths) that leave each for it."""
        samples, leaving, answers = {}, {}, iter(found)
        for kept in self._sizes.samples_games:
            oldest = [decode(value) for value in next(answers)]
            is_full = self.games >= kept
            first_time = oldest[1].end_time if is_full else self._first_time or game.end_time
            samples[f"games:{kept}"] = Sample(min(self.games + 1, kept), first_time, game.end_time)
            leaving[f"games:{kept}"] = [_hundredths(oldest[0])] if is_full else []
        for hours in self._sizes.samples_hours:
            gone, oldest, total = next(answers), next(answers), next(answers)
            first_time = decode(oldest[0]).end_time if oldest else game.end_time
            samples[f"hours:{hours}"] = Sample(total + 1, first_time, game.end_time)
            leaving[f"hours:{hours}"] = [_hundredths(decode(value)) for value in gone]
        return samples, leaving

    def _counts(self, before: dict[bytes, bytes], matches: bool, gone: dict[str, int]) -> dict[str, int]:
        """The fields of a predicate's occurrences; `gone` of its matches leave each sample."""
        return {
            "count": int(before.get(b"count", 0)) + matches,
            "total_games": self.games,
            "first_game_time": self._first_time,
            "last_game_time": self._newest_time,
        } | {name: int(before.get(name.encode(), 0)) + matches - left for name, left in gone.items()}

    def _change_series(self, write: Any, key: str, newest: bytes | None, game: Game, matches: bool) -> None:
        """A match goes to the streak of the newest series; any other game makes that longer or begins another."""
        one = None if newest is None else msgspec.json.decode(newest, type=Series)
        if matches:
            if one is None:
                return
            streak = one.follow_streak
            if len(streak.games) < self._sizes.follow_games_kept:
                streak.games.append(FollowGame(game.game_id, game.crash_point, game.end_time))
            streak = FollowStreak(streak.count + 1, streak.games)
            write.lset(key, 0, encode(msgspec.structs.replace(one, follow_streak=streak)))
        elif one is not None and not one.follow_streak.count:
            longer = msgspec.structs.replace(one, end_game=game.game_id, end_time=game.end_time, length=one.length + 1)
            write.lset(key, 0, encode(longer))
        else:
            begun = Series(game.game_id, game.end_time, game.game_id, game.end_time, 1, FollowStreak(0, []))
            write.lpush(key, encode(begun))
            write.ltrim(key, 0, self._sizes.series_kept - 1)

    def _bucket_s(self, bucket: int) -> int:
        return bucket * self._sizes.interval_ms // 1000


def _hundredths(game: Game) -> int:
    return round(game.crash_point * 100)


if __name__ == "__main__":
    uvloop.run(main(told()))
