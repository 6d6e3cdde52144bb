"""Faust (faust-streaming): an agent over events, the state in memory, one MSET a second.

Offsets are committed by the framework, a second late. A table of its own would send every change of every predicate
to a changelog topic; that is slower by far, so the state stays in the agent.
Tuned: raw values, large buffers and fetches, no web server, uvloop; `take_events` was slower, by CPU and by the clock.
"""

import logging

from mode.loop import use

use("uvloop")  # before faust is imported, as its documentation says

import faust  # noqa: E402
from redis.asyncio import Redis  # noqa: E402

from benchmarks.peers.folds import fold_of  # noqa: E402
from benchmarks.peers.job import Job, Pace, Stopwatch, decode, told  # noqa: E402


def main(job: Job) -> None:
    watch, pace, fold = Stopwatch(), Pace(job.write_every_s), fold_of(job)
    app = faust.App(
        job.group,
        broker=f"kafka://{job.bootstrap_servers}",
        store="memory://",
        datadir=job.directory,
        consumer_auto_offset_reset="earliest",
        broker_commit_interval=1.0,
        broker_session_timeout=10.0,  # a killed worker is missed sooner than after a minute
        broker_max_poll_records=20_000,
        consumer_max_fetch_size=4_194_304,
        stream_buffer_maxsize=65_536,
        stream_wait_empty=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        worker_redirect_stdouts=False,
    )
    topic = app.topic(job.topic, key_serializer="raw", value_serializer="raw", internal=False)
    redis = Redis.from_url(job.redis_url)

    @app.agent(topic)
    async def analytics(stream: faust.Stream[bytes]) -> None:
        async for event in stream.events():
            fold.fold((decode(event.value),))
            next_offset = event.message.offset + 1
            if pace.is_due() or next_offset == job.games:
                await redis.mset(fold.documents(next_offset))
            if next_offset == job.games:
                watch.finish(fold.games)

    faust.Worker(app, loglevel=logging.WARNING, quiet=True).execute_from_commandline()


if __name__ == "__main__":
    main(told())
