"""A pipeline written by hand: aiokafka's `getmany`, a fold in memory, one MSET a second with the offset in it.

The offset stands in Redis beside the state and is written with it, so a restart goes on exactly where the state stands.
Tuned: 1 MiB a partition and fetch as in the floor, up to 20,000 records a poll, uvloop.
"""

import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition
from redis.asyncio import Redis

from benchmarks.peers.folds import Fold, fold_of
from benchmarks.peers.job import NEXT_OFFSET, PREFIX, Job, Pace, Stopwatch, decode, told

RECORDS_MAX = 20_000


async def main(job: Job) -> None:
    watch, pace, fold = Stopwatch(), Pace(job.write_every_s), fold_of(job)
    partition = TopicPartition(job.topic, 0)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=job.bootstrap_servers, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    consumer.assign([partition])
    async with Redis.from_url(job.redis_url) as redis, consumer:
        next_offset = await restored(redis, fold)
        consumer.seek(partition, next_offset)
        while next_offset < job.games:
            for records in (await consumer.getmany(timeout_ms=1000, max_records=RECORDS_MAX)).values():
                fold.fold([decode(record.value) for record in records])
                next_offset = records[-1].offset + 1
            if pace.is_due() or next_offset == job.games:
                await redis.mset(fold.documents(next_offset, with_recent=True))
        watch.finish(fold.games)


async def restored(redis: Redis, fold: Fold) -> int:
    """Take up the state that stands in Redis; the offset to go on from."""
    if not await redis.exists(NEXT_OFFSET):
        return 0
    keys = [key.decode() async for key in redis.scan_iter(PREFIX + "*")]
    return fold.restore(dict(zip(keys, await redis.mget(keys), strict=True)))


if __name__ == "__main__":
    uvloop.run(main(told()))
