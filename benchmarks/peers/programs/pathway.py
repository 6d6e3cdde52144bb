"""Pathway: its engine reads and parses the topic, a subscriber folds each of its minibatches, one MSET a second.

Rows of a minibatch come in any order, so they are sorted by id first. The state lives in the subscriber.
Tuned: librdkafka's fetch settings, a minibatch every 100 ms, no monitoring.
"""

import pathway as pw
from redis import Redis

from benchmarks.peers.folds import fold_of
from benchmarks.peers.job import Job, Pace, Stopwatch, told
from crashfold.schemas.game import Game

MINIBATCH_MS = 100
LIBRDKAFKA = {
    "fetch.queue.backoff.ms": "5",
    "queued.min.messages": "200000",
    "queued.max.messages.kbytes": "131072",
    "fetch.message.max.bytes": "4194304",
    "check.crcs": "false",
    "auto.offset.reset": "earliest",
    "enable.auto.commit": "false",
}


class GameSchema(pw.Schema):
    game_id: int
    hash: str | None
    crash_point: float
    prepare_time: int | None
    begin_time: int | None
    end_time: int


def main(job: Job) -> None:
    watch, pace, fold = Stopwatch(), Pace(job.write_every_s), fold_of(job)
    redis = Redis.from_url(job.redis_url)
    arrived: list[Game] = []

    def on_change(key: pw.Pointer, row: dict, time: int, is_addition: bool) -> None:
        arrived.append(Game(**row))

    def on_time_end(time: int) -> None:
        arrived.sort(key=lambda game: game.game_id)
        fold.fold(arrived)
        arrived.clear()
        next_offset = fold.games
        if next_offset and (pace.is_due() or next_offset == job.games):
            redis.mset(fold.documents(next_offset))
        if next_offset == job.games:
            watch.finish(fold.games)

    games = pw.io.kafka.read(
        {"bootstrap.servers": job.bootstrap_servers, "group.id": job.group, **LIBRDKAFKA},
        topic=job.topic,
        format="json",
        schema=GameSchema,
        autocommit_duration_ms=MINIBATCH_MS,
    )
    pw.io.subscribe(games, on_change=on_change, on_time_end=on_time_end)
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)


if __name__ == "__main__":
    main(told())
