"""Pathway, natively: occurrences, intervals and last games as tables that its engine keeps up to date, no fold of ours.

Series are not made: a run of games would be a session window of every predicate, some forty rows for every game.
The engine counts by band: between two neighbouring thresholds every crash point matches the same predicates. A
subscriber keeps the rows of the one table in which everything ends; a result that is due adds up the bands of each
predicate, and is one MSET.
Tuned: fetch settings as in `pathway.py`, a minibatch as long as the time between two results (shorter ones cost more,
for each looks at the last day anew), bands found by the batch, games forgotten after a day.
"""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import msgspec
import pathway as pw
from redis import Redis

from benchmarks.peers.job import NEXT_OFFSET, PREFIX, Job, Pace, Sizes, Stopwatch, told
from benchmarks.peers.programs.pathway import LIBRDKAFKA, MINIBATCH_MS, GameSchema
from crashfold.schemas.aggregates import Interval, LastGame, Sample

BATCH = 20_000
HOUR_MS = 3_600_000
SPARE_MS = HOUR_MS
"""Games are forgotten so much later than they are needed, for the engine is a minibatch late with that."""


def main(job: Job) -> None:
    watch, pace = Stopwatch(), Pace(job.write_every_s)
    redis = Redis.from_url(job.redis_url)
    result = Result(job.sizes)

    def on_change(key: pw.Pointer, row: dict[str, Any], time: int, is_addition: bool) -> None:
        if is_addition:
            result.rows[key] = row
        elif result.rows.get(key) == row:  # else it has been replaced
            del result.rows[key]

    def on_time_end(time: int) -> None:
        games = result.games
        if games and (pace.is_due() or games == job.games):
            redis.mset(result.documents())
        if games == job.games:
            watch.finish(games)

    games = pw.io.kafka.read(
        {"bootstrap.servers": job.bootstrap_servers, "group.id": job.group, **LIBRDKAFKA},
        topic=job.topic,
        format="json",
        schema=GameSchema,
        autocommit_duration_ms=max(MINIBATCH_MS, round(job.write_every_s * 1000)),
    )
    pw.io.subscribe(counted(games, job.sizes, result.cuts), on_change=on_change, on_time_end=on_time_end)
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)


def counted(games: pw.Table, sizes: Sizes, cuts: list[int]) -> pw.Table:
    """All counts by band: of all time, of the samples, of the buckets; and the oldest and the newest game of each."""

    @pw.udf(max_batch_size=BATCH, deterministic=True)
    def band_of(crash_points: list[float]) -> list[int]:
        return [bisect_right(cuts, round(crash_point * 100)) for crash_point in crash_points]

    games = games.with_columns(band=band_of(games.crash_point))
    newest = games.reduce(game_id=pw.reducers.max(games.game_id), end_time=pw.reducers.max(games.end_time))
    day_ms = max(max(sizes.samples_hours) * HOUR_MS, sizes.intervals_kept * sizes.interval_ms) + SPARE_MS
    today = games.forget(games.end_time, day_ms)
    lately = games.forget(games.game_id, max(sizes.samples_games) + BATCH)
    today = today.with_columns(now=newest.ix_ref().end_time)
    lately = lately.with_columns(behind=newest.ix_ref().game_id - lately.game_id)
    hours = {f"hours:{n}": today.filter(today.end_time >= today.now - n * HOUR_MS) for n in sizes.samples_hours}
    some = {f"games:{n}": lately.filter(lately.behind < n) for n in sizes.samples_games}
    kept_ms = sizes.intervals_kept * sizes.interval_ms
    kept = today.filter(today.end_time >= today.now // sizes.interval_ms * sizes.interval_ms - kept_ms)
    buckets = kept.windowby(
        kept.end_time, window=pw.temporal.tumbling(sizes.interval_ms, origin=0), instance=kept.band
    ).reduce(of="", bucket=pw.this._pw_window_start, band=pw.this._pw_instance, **reduced())
    samples = {"all": games} | hours | some
    return pw.Table.concat_reindex(
        *(
            table.groupby(table.band).reduce(of=name, bucket=0, band=table.band, **reduced())
            for name, table in samples.items()
        ),
        buckets,
    )


def reduced() -> dict[str, pw.ColumnExpression]:
    """What is kept of the games of a band."""
    fields = (pw.this[name] for name in ("game_id", "end_time", "hash", "crash_point", "prepare_time", "begin_time"))
    return {
        "count": pw.reducers.count(),
        "first_time": pw.reducers.min(pw.this.end_time),
        "newest": pw.reducers.max(pw.make_tuple(*fields)),
    }


class Result:
    """The rows by their keys, and the documents that they come to."""

    def __init__(self, sizes: Sizes) -> None:
        self.rows: dict[pw.Pointer, dict[str, Any]] = {}
        self._sizes = sizes
        ranges = {name: (low, high or 2**62) for name, (low, high) in sizes.predicates.items()}
        self.cuts = sorted({edge for both in ranges.values() for edge in both})
        self._bands = {
            name: (bisect_right(self.cuts, low), bisect_right(self.cuts, high)) for name, (low, high) in ranges.items()
        }

    @property
    def games(self) -> int:
        """How many are counted."""
        return sum(row["count"] for row in self.rows.values() if row["of"] == "all")

    def documents(self) -> dict[str, bytes]:
        """The result but for its series."""
        of: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows.values():
            of.setdefault(row["of"] or f"bucket_{row['bucket'] // 1000}", []).append(row)
        below = {name: self._below(rows) for name, rows in of.items()}
        samples = {name: _sample(rows) for name, rows in of.items()}
        everything = samples.pop("all")
        buckets = [name for name in of if name.startswith("bucket_")]
        encode = msgspec.json.encode
        made = {
            NEXT_OFFSET: b"%d" % everything.total_games,
            PREFIX + "samples": encode({n: s for n, s in samples.items() if n not in buckets}),
        }
        for name, (low, high) in self._bands.items():
            counts = {n: counts[high] - counts[low] for n, counts in below.items()}
            occurrences = msgspec.structs.asdict(everything) | {n: counts[n] for n in samples if n not in buckets}
            made[f"{PREFIX}occurrences:{name}"] = encode({"count": counts["all"]} | occurrences)
            intervals = {bucket: Interval(counts[bucket], samples[bucket].total_games) for bucket in buckets}
            made[f"{PREFIX}intervals:{name}"] = encode(intervals)
            if matching := [row for row in of["all"] if low <= row["band"] < high]:
                made[f"{PREFIX}last_game:{name}"] = encode(_last(max(row["newest"] for row in matching)))
        return made

    def _below(self, rows: Iterable[dict[str, Any]]) -> list[int]:
        """How many of the games lie below each band."""
        counts = [0] * (len(self.cuts) + 1)
        for row in rows:
            counts[row["band"]] = row["count"]
        return list(accumulate(counts, initial=0))


def _sample(rows: list[dict[str, Any]]) -> Sample:
    return Sample(
        sum(row["count"] for row in rows),
        min(row["first_time"] for row in rows),
        max(row["newest"][1] for row in rows),
    )


def _last(fields: tuple[Any, ...]) -> LastGame:
    game_id, end_time, digits, crash_point, prepare_time, begin_time = fields
    return LastGame(
        game_id=game_id,
        hash=digits,
        crash_point=crash_point,
        prepare_time=prepare_time,
        begin_time=begin_time,
        end_time=end_time,
        ordinal=game_id,  # ids begin with 1 and have no holes in the job
    )


if __name__ == "__main__":
    main(told())
