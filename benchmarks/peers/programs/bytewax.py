"""bytewax: KafkaSource, whole batches through one stateful step, recovery on, a sink that sends one MSET a second.

Recovery keeps state and offsets of one epoch together; what was put out after that epoch is put out again.
Tuned: batches of 20,000, librdkafka's fetch settings, an epoch as long as the time between two results.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main
from redis import Redis

from benchmarks.peers.folds import fold_of
from benchmarks.peers.job import Job, Pace, Stopwatch, decode, told
from crashfold.schemas.game import Game

RECORDS_MAX = 20_000
LIBRDKAFKA = {
    "fetch.queue.backoff.ms": "5",
    "queued.min.messages": "200000",
    "queued.max.messages.kbytes": "131072",
    "fetch.message.max.bytes": "4194304",
    "check.crcs": "false",
}

Batch = tuple[list[Game], int]
"""Games and the offset after them."""
Documents = dict[str, bytes]


class FoldLogic(StatefulBatchLogic[Batch, tuple[Documents, int], Documents | None]):
    """Folds batches, and gives a result when one is due."""

    def __init__(self, job: Job, resumed: Documents | None) -> None:
        self._job = job
        self._fold = fold_of(job)
        self._pace = Pace(job.write_every_s)
        self._next_offset = 0 if resumed is None else self._fold.restore(resumed)

    def on_batch(self, batches: list[Batch]) -> tuple[list[tuple[Documents, int]], bool]:
        for games, next_offset in batches:
            self._fold.fold(games)
            self._next_offset = next_offset
        if self._pace.is_due() or self._next_offset == self._job.games:
            return [(self._fold.documents(self._next_offset), self._next_offset)], StatefulBatchLogic.RETAIN
        return [], StatefulBatchLogic.RETAIN

    def snapshot(self) -> Documents | None:
        return self._fold.documents(self._next_offset, with_recent=True) if self._next_offset else None


class RedisSink(DynamicSink[tuple[str, tuple[Documents, int]]]):
    def __init__(self, job: Job, watch: Stopwatch) -> None:
        self._job, self._watch = job, watch

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "RedisPartition":
        return RedisPartition(self._job, self._watch)


class RedisPartition(StatelessSinkPartition[tuple[str, tuple[Documents, int]]]):
    def __init__(self, job: Job, watch: Stopwatch) -> None:
        self._redis = Redis.from_url(job.redis_url)
        self._job, self._watch = job, watch

    def write_batch(self, items: list[tuple[str, tuple[Documents, int]]]) -> None:
        _, (documents, next_offset) = items[-1]
        self._redis.mset(documents)
        if next_offset == self._job.games:
            self._watch.finish(next_offset)


def as_batch(messages: list[KafkaSourceMessage[Any, Any]]) -> list[tuple[str, Batch]]:
    if not messages:
        return []
    return [("crash", ([decode(message.value) for message in messages], messages[-1].offset + 1))]


def main(job: Job) -> None:
    watch = Stopwatch()
    flow = Dataflow("peer")
    source = KafkaSource([job.bootstrap_servers], [job.topic], batch_size=RECORDS_MAX, add_config=LIBRDKAFKA)
    batches = op.flat_map_batch("decode", op.input("topic", flow, source), as_batch)
    results = op.stateful_batch("fold", batches, lambda resumed: FoldLogic(job, resumed))
    op.output("redis", results, RedisSink(job, watch))
    recovery = Path(job.directory, "recovery")
    if not recovery.exists():
        recovery.mkdir()
        init_db_dir(recovery, 1)
    cli_main(flow, epoch_interval=timedelta(seconds=job.write_every_s), recovery_config=RecoveryConfig(str(recovery)))


if __name__ == "__main__":
    main(told())
