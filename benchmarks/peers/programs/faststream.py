"""FastStream: a batch subscriber, the state in memory, one MSET a second; offsets acknowledged after each batch.

Tuned: batches of up to 20,000 records, a decoder of our own for the whole batch, no type application, uvloop.
"""

import logging

import uvloop
from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker, KafkaMessage
from redis.asyncio import Redis

from benchmarks.peers.folds import fold_of
from benchmarks.peers.job import Job, Pace, Stopwatch, decode, told
from crashfold.schemas.game import Game

RECORDS_MAX = 20_000
Batch = tuple[list[Game], int]
"""Games and the offset after them."""


async def decoded(message: KafkaMessage) -> Batch:
    return [decode(value) for value in message.body], message.raw_message[-1].offset + 1


async def main(job: Job) -> None:
    watch, pace, fold = Stopwatch(), Pace(job.write_every_s), fold_of(job)
    broker = KafkaBroker(job.bootstrap_servers, apply_types=False, logger=None)
    redis = Redis.from_url(job.redis_url)

    @broker.subscriber(
        job.topic,
        batch=True,
        group_id=job.group,
        auto_offset_reset="earliest",
        ack_policy=AckPolicy.ACK,
        max_records=RECORDS_MAX,
        decoder=decoded,
    )
    async def handle(batch: Batch) -> None:
        games, next_offset = batch
        fold.fold(games)
        if pace.is_due() or next_offset == job.games:
            await redis.mset(fold.documents(next_offset))
        if next_offset == job.games:
            watch.finish(fold.games)

    await FastStream(broker).run(log_level=logging.WARNING)


if __name__ == "__main__":
    uvloop.run(main(told()))
