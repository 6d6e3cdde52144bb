"""The engine's metrics in Prometheus, all named `crashfold_…`.

Implements `crashfold.engine.meter.Meter`. What is always true: every instance has a registry of its own, and every
label value that can be known beforehand is there from the start with 0, so that a rate never misses its first step.
"""

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from crashfold.engine.errors import StoreRefused, Unavailable
from crashfold.engine.games.folding import REASONS
from crashfold.engine.logs import lines_lost
from crashfold.engine.meter import FairnessFault, Meter
from crashfold.engine.ports import Applied, Bounds, Conflict, Duplicate, Outcome, ServerUsage
from crashfold.engine.version import VERSION, revision
from crashfold.schemas.reports import RebuildProgress, Verification

_DURATIONS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_GAMES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
STREAMS_NAMED_MAX: Final = 1_000
"""Streams with labels of their own."""
_OUTCOMES: Final = ("applied", "duplicate", "conflict", "unknown", "refused")
_OUTCOME_NAMES: Final = {Applied: "applied", Duplicate: "duplicate", Conflict: "conflict"}


class LogLinesLost(Collector):
    """How many lines of its log the process could not write."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The count at this moment."""
        meaning = "Lines of the log that could not be written: disk full, pipe closed, nobody reads."
        yield CounterMetricFamily("crashfold_log_lines_lost", meaning, lines_lost())


class Metrics(Meter):
    """A `Meter` over `registry`, which also holds what the process and the interpreter say of themselves."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._gauge("build_info", "Always 1; which build this is.", "version", "revision", "python").labels(
            VERSION, revision(), platform.python_version()
        ).set(1)

        commits = self._counter("commits", "Commits of one stream each, by outcome.", "outcome")
        self._commits = {outcome: commits.labels(outcome) for outcome in _OUTCOMES}
        self._applied = self._counter("games_applied", "Games folded; again after a conflict counts again.")
        self._duplicates = self._counter("games_duplicate", "Games that had been folded before.")
        self._late = self._counter("games_late", "Games folded that took their place behind newer ones.")
        self._rejected = self._counter("records_rejected", "Records that cannot be folded, by reason.", "reason")
        self._dead_letters = self._counter("dead_letters", "Dead letters handed over, by reason.", "reason")
        self._waiting = self._gauge(
            "dead_letters_waiting", "Dead letters that were neither retried nor discarded, by reason.", "reason"
        )
        self._waiting_reasons = set(REASONS)
        for reason in REASONS:
            self._waiting.labels(reason)
            self._rejected.labels(reason)
            self._dead_letters.labels(reason)
        self._unfair = self._counter("fairness_mismatches", "Games that do not fit their hashes.", "kind")
        for fault in get_args(FairnessFault):
            self._unfair.labels(fault)
        self._rebalances = self._counter("rebalances", "How often partitions were gained or lost.")
        self.registry.register(LogLinesLost())

        self._commit_s = self._histogram("commit_duration_seconds", "The store's answer to one call.", _DURATIONS_S)
        self._script_s = Histogram(
            "crashfold_script_duration_seconds",
            "The store's answer to the calls of a script.",
            ("script",),
            buckets=_DURATIONS_S,
            registry=self.registry,
        )
        for script in ("commit", "promote"):
            self._script_s.labels(script)
        self._step_s = self._histogram("step_duration_seconds", "One turn of the loop.", _DURATIONS_S)
        self._batch = self._histogram("batch_games", "Records taken in by one turn of the loop.", _GAMES)
        self._loop_lag_s = self._histogram("loop_lag_seconds", "How late the event loop wakes.", _DURATIONS_S)

        self._lag = self._gauge("lag_records", "Records of the partition not committed yet.", "partition")
        self._freshness_s = self._gauge(
            "freshness_seconds", "Age of the last record committed while there is lag, else 0.", "partition"
        )
        self._partitions = self._gauge("partitions_held", "Partitions that this engine reads.")
        self._streams = self._gauge("streams_held", "Streams whose state is in memory.")
        self._log_begin = self._gauge("log_begin_offset", "The first offset that the partition still has.", "partition")
        self._log_end = self._gauge("log_end_offset", "The offset that the partition's next record gets.", "partition")
        self._next_offset = self._gauge("next_offset", "Everything below it is committed.", "partition")
        self._headroom = self._gauge(
            "retention_headroom_records",
            "Records that retention may still remove before it reaches what is not committed.",
            "partition",
        )
        self._last_commit_s = self._gauge(
            "last_commit_timestamp_seconds", "When a commit of the partition was last made, in Unix time.", "partition"
        )
        self._newest_game_s = self._gauge(
            "newest_game_timestamp_seconds",
            "When the newest committed game of the stream ended, in Unix time.",
            "stream",
        )
        self._stream_bytes = self._gauge(
            "stream_memory_bytes", "What the keys of the stream take in the store, estimated.", "stream"
        )
        self._streams_named: set[str] = set()
        self._store = StoreMetrics(self.registry)
        self._told = ToldMetrics(self.registry)
        self._replayed = self._gauge("replay_records", "Records read by the replay under way.")
        self._replay_progress = self._gauge("replay_progress_ratio", "How far it is, from 0 to 1.")

    def step_took(self, duration_s: float, games: int) -> None:
        """One turn of the loop is over."""
        self._step_s.observe(duration_s)
        self._batch.observe(games)

    def folded(self, accepted: int, duplicates: int, late: int) -> None:
        """So many games took their place, or had been folded before."""
        self._applied.inc(accepted)
        self._duplicates.inc(duplicates)
        self._late.inc(late)

    def committed(self, duration_s: float, outcomes: Sequence[Outcome]) -> None:
        """The store answered."""
        self._commit_s.observe(duration_s)
        for outcome in outcomes:
            self._commits[_OUTCOME_NAMES[type(outcome)]].inc()

    def stands(self, stream: str, newest_end_time_ms: int | None) -> None:
        """The newest game of the stream ended then. The first `STREAMS_NAMED_MAX` streams have a label of their own."""
        if newest_end_time_ms is not None and self._is_named(stream):
            self._newest_game_s.labels(stream).set(newest_end_time_ms / 1000)

    def script_took(self, script: str, duration_s: float) -> None:
        """The store answered calls of a script, sent together."""
        self._script_s.labels(script).observe(duration_s)

    def told(self, verified: Sequence[Verification], rebuilds: Sequence[RebuildProgress]) -> None:
        """Take the reports of `verify` and of rebuilds, wherever they run."""
        self._told.verified = tuple(verified[:STREAMS_NAMED_MAX])
        self._told.rebuilds = tuple(rebuilds[:STREAMS_NAMED_MAX])

    def moved(self, partition: int, now_ms: int) -> None:
        """A commit of a stream of this partition was made."""
        self._last_commit_s.labels(partition).set(now_ms / 1000)

    def commit_failed(self, error: Unavailable) -> None:
        """The store refused, or did not answer."""
        self._commits["refused" if isinstance(error, StoreRefused) else "unknown"].inc()

    def rejected(self, reason: str, count: int = 1) -> None:
        """So many records cannot be folded."""
        self._rejected.labels(reason).inc(count)

    def buried(self, reason: str, count: int = 1) -> None:
        """So many dead letters were handed over."""
        self._dead_letters.labels(reason).inc(count)

    def letters_waiting(self, counts: Mapping[str, int]) -> None:
        """So many dead letters wait for somebody, by reason."""
        self._waiting_reasons |= counts.keys()
        for reason in self._waiting_reasons:
            self._waiting.labels(reason).set(counts.get(reason, 0))

    def unfair(self, fault: FairnessFault, games: int = 1) -> None:
        """So many games do not fit their hashes."""
        self._unfair.labels(fault).inc(games)

    def rebalanced(self) -> None:
        """Partitions were gained or lost."""
        self._rebalances.inc()

    def holding(self, *, partitions: int, streams: int) -> None:
        """So many are held now."""
        self._partitions.set(partitions)
        self._streams.set(streams)

    def lagging(self, partition: int, next_offset: int, bounds: Bounds, freshness_s: float = 0.0) -> None:
        """The partition is committed up to `next_offset`, and the log holds `bounds` of it."""
        lag = max(0, bounds.end - next_offset)
        self._lag.labels(partition).set(lag)
        self._freshness_s.labels(partition).set(freshness_s if lag else 0.0)
        self._log_begin.labels(partition).set(bounds.begin)
        self._log_end.labels(partition).set(bounds.end)
        self._next_offset.labels(partition).set(next_offset)
        self._headroom.labels(partition).set(next_offset - bounds.begin)

    def released(self, partition: int) -> None:
        """The partition is held no longer: what stood here would go on raising alerts."""
        for gauge in self._of_partition:
            with suppress(KeyError):
                gauge.remove(partition)

    def store_used(self, servers: Sequence[ServerUsage]) -> None:
        """Take the usage that the servers of the store report."""
        self._store.servers = tuple(servers)

    def stream_takes(self, stream: str, memory_bytes: int) -> None:
        """The keys of the stream take so much of the store's memory."""
        if self._is_named(stream):
            self._stream_bytes.labels(stream).set(memory_bytes)

    def replayed(self, records: int, records_total: int) -> None:
        """The replay under way has read so many of so many records."""
        self._replayed.set(records)
        self._replay_progress.set(records / records_total if records_total else 1.0)

    def loop_lagged(self, duration_s: float) -> None:
        """The event loop woke so much later than it was asked to."""
        self._loop_lag_s.observe(duration_s)

    def _is_named(self, stream: str) -> bool:
        """Whether the stream has labels of its own: so many series more would cost the scraper more than they tell."""
        if stream not in self._streams_named and len(self._streams_named) >= STREAMS_NAMED_MAX:
            return False
        self._streams_named.add(stream)
        return True

    @property
    def _of_partition(self) -> tuple[Gauge, ...]:
        return (
            self._lag,
            self._freshness_s,
            self._log_begin,
            self._log_end,
            self._next_offset,
            self._headroom,
            self._last_commit_s,
        )

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"crashfold_{name}_total", meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(f"crashfold_{name}", meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"crashfold_{name}", meaning, buckets=buckets, registry=self.registry)


class StoreMetrics(Collector):
    """The usage that the servers of the store reported last. Counters are theirs, so they fall when one is restarted,
    as a scraper expects it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.servers: tuple[ServerUsage, ...] = ()
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """One sample a server and metric."""
        gauges = (
            ("memory_bytes", "Memory that the server uses.", [one.memory_bytes for one in self.servers]),
            (
                "memory_max_bytes",
                "Memory that it may use; 0: any.",
                [one.memory_max_bytes for one in self.servers],
            ),
            ("clients", "Connections to it.", [one.clients for one in self.servers]),
        )
        counters = (
            ("evicted_keys", "Keys dropped for want of memory.", [one.evicted_keys for one in self.servers]),
            ("expired_keys", "Keys whose time to live was over.", [one.expired_keys for one in self.servers]),
            ("keyspace_hits", "Reads that found their key.", [one.hits for one in self.servers]),
            ("keyspace_misses", "Reads that found no key.", [one.misses for one in self.servers]),
            ("commands", "Commands that it was given.", [one.commands for one in self.servers]),
        )
        kinds = ((GaugeMetricFamily, gauges), (CounterMetricFamily, counters))
        for kind, metrics in kinds:
            for name, meaning, values in metrics:
                family = kind(f"crashfold_store_{name}", meaning, labels=("server",))
                for server, value in zip(self.servers, values, strict=True):
                    family.add_metric([server.address], value)
                yield family


class ToldMetrics(Collector):
    """The reports that rebuilds and `verify`, processes that end, left in the store. A stream is here for as long
    as its report is there."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.verified: tuple[Verification, ...] = ()
        self.rebuilds: tuple[RebuildProgress, ...] = ()
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """One sample a stream and metric."""
        differences = _of_stream("verify_differences", "Differences that the last verify of the stream found.")
        verified_s = _of_stream("verify_timestamp_seconds", "When the stream was last verified, in Unix time.")
        for verified in self.verified:
            differences.add_metric([verified.stream], verified.differences)
            verified_s.add_metric([verified.stream], verified.time / 1000)
        progress = _of_stream("rebuild_progress_ratio", "How far the last rebuild is, from 0 to 1; of all streams: *.")
        records = _of_stream("rebuild_records", "Records that the last rebuild has read.")
        for rebuild in self.rebuilds:
            progress.add_metric([rebuild.stream], rebuild.progress)
            records.add_metric([rebuild.stream], rebuild.records)
        yield from (differences, verified_s, progress, records)


def _of_stream(name: str, meaning: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"crashfold_{name}", meaning, labels=("stream",))
