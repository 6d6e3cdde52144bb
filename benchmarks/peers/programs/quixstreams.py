"""Quix Streams: a dataframe into a batching sink, which folds what came since the last checkpoint and sends one MSET.

The sink is where its documentation has writing to a database done; the state lives in it. A result a checkpoint.
Tuned: a decoder of our own, librdkafka's fetch settings, a checkpoint a second, no changelogs, logs off.
"""

from quixstreams import Application
from quixstreams.models.serializers import Deserializer
from quixstreams.sinks import BatchingSink, SinkBatch
from redis import Redis

from benchmarks.peers.folds import fold_of
from benchmarks.peers.job import Job, Stopwatch, decode, told
from crashfold.schemas.game import Game

LIBRDKAFKA = {
    "fetch.queue.backoff.ms": 5,
    "queued.min.messages": 200_000,
    "queued.max.messages.kbytes": 131_072,
    "fetch.message.max.bytes": 4_194_304,
    "check.crcs": False,
    "session.timeout.ms": 10_000,  # a killed process is missed sooner than after 45 s
}


class GameDeserializer(Deserializer):
    def __call__(self, value: bytes, ctx: object) -> Game:
        return decode(value)


class RedisSink(BatchingSink):
    """Folds the games of a checkpoint and writes the result."""

    def __init__(self, job: Job, watch: Stopwatch) -> None:
        super().__init__()
        self._job, self._watch = job, watch
        self._fold = fold_of(job)

    def setup(self) -> None:
        self._redis = Redis.from_url(self._job.redis_url)

    def write(self, batch: SinkBatch) -> None:
        items = list(batch)
        self._fold.fold([item.value for item in items])
        next_offset = items[-1].offset + 1
        self._redis.mset(self._fold.documents(next_offset))
        if next_offset == self._job.games:
            self._watch.finish(self._fold.games)


def main(job: Job) -> None:
    watch = Stopwatch()

    def stop_at_the_end(topic: str, partition: int, offset: int) -> None:
        if offset == job.last_offset:
            app.stop()

    app = Application(
        broker_address=job.bootstrap_servers,
        consumer_group=job.group,
        auto_offset_reset="earliest",
        commit_interval=job.write_every_s,
        consumer_extra_config=LIBRDKAFKA,
        state_dir=job.directory,
        on_message_processed=stop_at_the_end,
        use_changelog_topics=False,
        auto_create_topics=False,
        loglevel=None,
    )
    topic = app.topic(job.topic, key_deserializer="bytes", value_deserializer=GameDeserializer())
    app.dataframe(topic).sink(RedisSink(job, watch))
    app.run()


if __name__ == "__main__":
    main(told())
