"""The read side's metrics in Prometheus, all named `crashfold_api_…`.

Implements the meters of the read side without importing them: they are protocols. What is always true: every instance
has a registry of its own, and a label never holds what a client sent.
"""

from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder

from crashfold.engine.adapters.prometheus.engine import LogLinesLost
from crashfold.engine.version import VERSION, revision

_DURATIONS_S: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_AGGREGATES: Final = ("occurrences", "intervals", "series", "last_games")


class ApiMetrics:
    """Counts what the read side says of itself. `worker` is the number of this process among those on one port."""

    def __init__(self, worker: int = 0) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.registry.register(LogLinesLost())
        self._gauge(
            "build_info", "Always 1; which build this is, and which process answered.", "version", "revision", "worker"
        ).labels(VERSION, revision(), worker).set(1)
        self._requests = self._counter(
            "requests", "Requests, by route, status and source.", "route", "status", "source"
        )
        self._duration_s = Histogram(
            "crashfold_api_request_duration_seconds",
            "From the request's headers to the answer's last byte handed on.",
            ("route",),
            buckets=_DURATIONS_S,
            registry=self.registry,
        )
        asked = self._counter(
            "cache_requests", "Answers looked for among those kept, by where and outcome.", "cache", "outcome"
        )
        self._cache = {
            (cache, hit): asked.labels(cache, "hit" if hit else "miss")
            for cache in ("process", "store")
            for hit in (True, False)
        }
        self._missing = self._counter("precomputed_missing", "Keys missing that should be there.", "aggregate")
        self._shadow = self._counter(
            "shadow_comparisons", "Answers compared in shadow, by outcome.", "aggregate", "outcome"
        )
        for aggregate in _AGGREGATES:
            self._missing.labels(aggregate)
            for outcome in ("equal", "different", "missing"):
                self._shadow.labels(aggregate, outcome)
        self._window_age_s = self._gauge(
            "window_age_seconds", "Since the window was last known to be the newest.", "stream"
        )
        self._window_version = self._gauge("window_version", "The version that is answered from.", "stream")
        self._replica = self._gauge(
            "replica", "1 while the store is away and answers come from what is held.", "stream"
        )
        self._clients = self._gauge("stream_clients", "Live clients connected.", "transport")
        self._dropped = self._counter("stream_clients_dropped", "Live clients that were too slow.", "transport")
        self._refused = self._counter(
            "stream_clients_refused", "Live clients for whom there was no place.", "transport"
        )
        for transport in ("sse", "websocket"):
            self._clients.labels(transport)
            self._dropped.labels(transport)
            self._refused.labels(transport)
        self._followed: set[str] = set()
        self._seen: dict[tuple[str, int, str], Counter] = {}
        self._timed: dict[str, Histogram] = {}
        self.look: Callable[[], None] | None = None
        """Called before every scrape, to note what changes by itself."""

    def answered(self, route: str, status: int, source: str, duration_s: float | None) -> None:
        """A request was answered; None of a live client, who stays as long as it likes."""
        key = (route, status, source)
        counter = self._seen.get(key)
        if counter is None:
            counter = self._seen[key] = self._requests.labels(route, status, source)
        counter.inc()
        if duration_s is None:
            return
        histogram = self._timed.get(route)
        if histogram is None:
            histogram = self._timed[route] = self._duration_s.labels(route)
        histogram.observe(duration_s)

    def cache_asked(self, cache: str, *, hit: bool) -> None:
        """An answer was looked for."""
        self._cache[cache, hit].inc()

    def precomputed_missing(self, aggregate: str) -> None:
        """The read model lacked what it should hold."""
        self._missing.labels(aggregate).inc()

    def compared(self, aggregate: str, comparison: str) -> None:
        """Two sources were compared."""
        self._shadow.labels(aggregate, comparison).inc()

    def live_clients(self, transport: str, clients: int) -> None:
        """So many are connected now."""
        self._clients.labels(transport).set(clients)

    def live_client_dropped(self, transport: str) -> None:
        """One was too slow."""
        self._dropped.labels(transport).inc()

    def live_client_refused(self, transport: str) -> None:
        """One came when all places were taken."""
        self._refused.labels(transport).inc()

    def follow(self, streams: Mapping[str, tuple[int, float, bool]]) -> None:
        """What is held of each stream followed: its version, its age in seconds, whether it is a replica."""
        for stream in self._followed - streams.keys():
            for gauge in (self._window_version, self._window_age_s, self._replica):
                gauge.remove(stream)
        for stream, (held_version, age_s, is_replica) in streams.items():
            self._window_version.labels(stream).set(held_version)
            self._window_age_s.labels(stream).set(age_s)
            self._replica.labels(stream).set(is_replica)
        self._followed = set(streams)

    def text(self, accept: str) -> tuple[bytes, str]:
        """The metrics for a client that sends this `Accept`, and their content type."""
        if self.look is not None:
            self.look()
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"crashfold_api_{name}_total", meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(f"crashfold_api_{name}", meaning, labels, registry=self.registry)
