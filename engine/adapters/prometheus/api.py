"""The read side's metrics in Prometheus, all named `crashfold_api_…`.

What is always true: every instance has a registry of its own, and a label never holds what a client sent.
"""

from collections.abc import Callable, Mapping
from typing import Final

import anyio.to_thread
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
from crashfold.engine.adapters.prometheus.shared import LEAVE_EVERY_S, SharedMetrics, SharedPlaces, Together
from crashfold.engine.meter import ApiMeter, Cache, Comparison, Source, Transport
from crashfold.engine.ports import Clock
from crashfold.engine.version import VERSION, revision

_DURATIONS_S: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_AGGREGATES: Final = ("occurrences", "intervals", "series", "last_games")


TOGETHER: Final[Mapping[str, Together]] = {
    "crashfold_api_connections": "sum",
    "crashfold_api_unsent_bytes": "sum",
    "crashfold_api_live_clients": "sum",
    "crashfold_api_window_age_seconds": "max",
    "crashfold_api_window_version": "min",
    "crashfold_api_replica": "max",
}
"""How the gauges of several processes are one."""
_ENDS: Final = ("stalled", "evicted", "refused")


class ApiMetrics(ApiMeter):
    """Counts what the read side says of itself. `worker` is the number of this process among those on one port, which
    leave what they count in `places`."""

    def __init__(self, worker: int = 0, places: SharedPlaces | None = None) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.registry.register(LogLinesLost())
        self._gauge("build_info", "Always 1; which build this is, by process.", "version", "revision").labels(
            VERSION, revision()
        ).set(1)
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
        self._clients = self._gauge("live_clients", "Live clients connected.", "transport")
        self._dropped = self._counter("live_clients_dropped", "Live clients that were too slow.", "transport")
        self._refused = self._counter("live_clients_refused", "Live clients for whom there was no place.", "transport")
        self._connections = self._gauge("connections", "Connections open.")
        self._ended = self._counter(
            "connections_ended",
            "Connections ended by the server: stalled readers, those that gave a place up, those without one.",
            "cause",
        )
        self._ended_so_far = dict.fromkeys(_ENDS, 0)
        for cause in _ENDS:
            self._ended.labels(cause)
        self._unsent_bytes = self._gauge("unsent_bytes", "Bytes of big answers that wait for their readers.")
        for transport in ("sse", "websocket"):
            self._clients.labels(transport)
            self._dropped.labels(transport)
            self._refused.labels(transport)
        self._followed: set[str] = set()
        self._seen: dict[tuple[str, int, str], Counter] = {}
        self._timed: dict[str, Histogram] = {}
        self.look: Callable[[], None] = lambda: None
        """Called before every scrape, to note what changes by itself."""
        self.shared = SharedMetrics(self.registry, places or SharedPlaces(1), worker, TOGETHER)

    def answered(self, route: str, status: int, source: Source, duration_s: float | None) -> None:
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

    def cache_asked(self, cache: Cache, *, hit: bool) -> None:
        """An answer was looked for."""
        self._cache[cache, hit].inc()

    def precomputed_missing(self, aggregate: str) -> None:
        """The read model lacked what it should hold."""
        self._missing.labels(aggregate).inc()

    def compared(self, aggregate: str, comparison: Comparison) -> None:
        """Two sources were compared."""
        self._shadow.labels(aggregate, comparison).inc()

    def live_clients(self, transport: Transport, clients: int) -> None:
        """So many are connected now."""
        self._clients.labels(transport).set(clients)

    def live_client_dropped(self, transport: Transport) -> None:
        """One was too slow."""
        self._dropped.labels(transport).inc()

    def live_client_refused(self, transport: Transport) -> None:
        """One came when all places were taken."""
        self._refused.labels(transport).inc()

    def follow(self, streams: Mapping[str, tuple[int, float, bool]]) -> None:
        """Set the gauges of each followed stream: its version, its age in seconds, whether it is a replica."""
        for stream in self._followed - streams.keys():
            for gauge in (self._window_version, self._window_age_s, self._replica):
                gauge.remove(stream)
        for stream, (held_version, age_s, is_replica) in streams.items():
            self._window_version.labels(stream).set(held_version)
            self._window_age_s.labels(stream).set(age_s)
            self._replica.labels(stream).set(is_replica)
        self._followed = set(streams)

    def connected(self, connections: int, ended: Mapping[str, int], unsent_bytes: int) -> None:
        """So many connections are open, so many were ended so far by cause, and so many bytes wait for readers."""
        self._connections.set(connections)
        self._unsent_bytes.set(unsent_bytes)
        for cause, count in ended.items():
            self._ended.labels(cause).inc(count - self._ended_so_far[cause])
            self._ended_so_far[cause] = count

    async def text(self, accept: str) -> tuple[bytes, str]:
        """The metrics of all processes on the port for a client that sends this `Accept`, and their content type. Made
        in a thread: it takes tens of milliseconds, which no other request waits for."""
        self.look()
        encode, content_type = choose_encoder(accept)
        return await anyio.to_thread.run_sync(encode, self.shared.registry), content_type

    async def keep_leaving(self, clock: Clock) -> None:
        """Leave what is counted for the other processes to show, every few seconds, until cancelled."""
        while True:
            self.look()
            await anyio.to_thread.run_sync(self.shared.leave)
            await clock.sleep(LEAVE_EVERY_S)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"crashfold_api_{name}_total", meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(f"crashfold_api_{name}", meaning, labels, registry=self.registry)
