"""One view on the metrics of several processes that share a port: any of them answers a scrape for all.

Imports prometheus_client and msgspec. Each process leaves its samples in memory that all share, made before
they are forked; whoever is scraped leaves its own and adds up what all have left. So a counter never goes back from
scrape to scrape, whichever process answers; a process that is started again goes on from what its predecessor left.

prometheus_client's own way, a directory of mapped files, has no place for what a process says of itself, needs a
writable directory, and is chosen by the environment before the library is imported.
"""

import mmap
import struct
from collections.abc import Iterable, Iterator, Mapping
from threading import Lock
from typing import Final, Literal
from zlib import crc32

import msgspec
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

LEAVE_EVERY_S: Final = 5.0
"""Leaving a thousand samples takes some 10 ms of the processor."""
HALF_BYTES: Final = 4 << 20
"""Room for some 40,000 samples; memory that is never written is never taken."""
PLACE_BYTES: Final = 2 * HALF_BYTES + mmap.PAGESIZE
_HEAD: Final = struct.Struct("<II")
"""Length and checksum of what stands in a half."""

Together = Literal["sum", "max", "min"]
Labels = tuple[tuple[str, str], ...]
_ADDED_UP: Final = frozenset(("counter", "histogram"))
_OF_A_PROCESS: Final = ("process_", "python_")

log = structlog.get_logger()


class Family(msgspec.Struct, frozen=True, array_like=True):
    """A metric of one process: its samples by name and labels."""

    name: str
    documentation: str
    type: str
    samples: dict[tuple[str, Labels], float]


_decode: Final = msgspec.msgpack.Decoder(list[tuple[str, str, str, list[tuple[str, Labels, float]]]]).decode
_encode: Final = msgspec.msgpack.Encoder().encode


class SharedPlaces:
    """A place for each of `count` processes in memory that they share. One writes its own alone, in two halves in turn:
    whoever reads sees the one that is whole."""

    def __init__(self, count: int) -> None:
        self.count = max(1, count)
        self._shared = mmap.mmap(-1, self.count * PLACE_BYTES)

    def leave(self, number: int, data: bytes) -> None:
        """Put the data in the place of that process; when there is no room for it, what stands there stays."""
        if len(data) > HALF_BYTES - _HEAD.size:
            log.error("metrics_not_shared", worker=number, bytes=len(data))
            return
        turn = number * PLACE_BYTES
        half = 1 - self._shared[turn]
        at = self._at(number, half)
        _HEAD.pack_into(self._shared, at, len(data), crc32(data))
        self._shared[at + _HEAD.size : at + _HEAD.size + len(data)] = data
        self._shared[turn] = half

    def left(self, number: int) -> bytes:
        """Return the report that the process left last; an empty one if it left none."""
        half = self._shared[number * PLACE_BYTES]
        for at in (self._at(number, half), self._at(number, 1 - half)):  # one may be written at this moment
            length, checksum = _HEAD.unpack_from(self._shared, at)
            data = self._shared[at + _HEAD.size : at + _HEAD.size + min(length, HALF_BYTES - _HEAD.size)]
            if crc32(data) == checksum:
                return data
        return b""

    @staticmethod
    def _at(number: int, half: int) -> int:
        return number * PLACE_BYTES + mmap.PAGESIZE + half * HALF_BYTES


class SharedMetrics(Collector):
    """The metrics of all processes, as seen by process `number`, whose own are in `own`.

    Counters and histograms are added up; a gauge as `together` says. What is not named there, and what a process says
    of itself, has the label `worker`.
    """

    def __init__(
        self,
        own: CollectorRegistry,
        places: SharedPlaces,
        number: int,
        together: Mapping[str, Together],
    ) -> None:
        self._own = own
        self._places = places
        self._number = number
        self._together = together
        self._lock = Lock()
        self._before = {
            family.name: family.samples for family in _read(places.left(number)) if self._is_added_up(family)
        }
        """The counts of a predecessor in this place."""
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Every metric of every process that has left some."""
        self.leave()
        merged: dict[str, Family] = {}
        for number in range(self._places.count):
            for family in _read(self._places.left(number)):
                one = merged.setdefault(family.name, Family(family.name, family.documentation, family.type, {}))
                self._merge(one, family, number)
        for family in merged.values():
            metric = Metric(family.name, family.documentation, family.type)
            for (name, labels), value in family.samples.items():
                metric.add_sample(name, dict(labels), value)
            yield metric

    def leave(self) -> None:
        """Leave the own samples for the others to show."""
        with self._lock:
            self._places.leave(self._number, _encode([*map(self._printed, self._own.collect())]))

    def _printed(self, metric: Metric) -> tuple[str, str, str, list[tuple[str, Labels, float]]]:
        """The metric as it is left, with what was counted before."""
        samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): float(sample.value)
            for sample in metric.samples
            if not sample.name.endswith("_created")  # a moment, which cannot be added up
        }
        before = self._before.get(metric.name, {})
        for key, value in before.items():
            samples[key] = samples.get(key, 0.0) + value
        return metric.name, metric.documentation, metric.type, [(*key, value) for key, value in samples.items()]

    def _merge(self, into: Family, family: Family, number: int) -> None:
        together = "sum" if self._is_added_up(family) else self._together.get(family.name)
        for (name, labels), value in family.samples.items():
            if together is None:
                into.samples[name, tuple(sorted({**dict(labels), "worker": str(number)}.items()))] = value
                continue
            known = into.samples.get((name, labels))
            if known is None:
                into.samples[name, labels] = value
            elif together == "sum":
                into.samples[name, labels] = known + value
            else:
                into.samples[name, labels] = max(known, value) if together == "max" else min(known, value)

    @staticmethod
    def _is_added_up(family: Family) -> bool:
        return family.type in _ADDED_UP and not family.name.startswith(_OF_A_PROCESS)


def _read(left: bytes) -> Iterable[Family]:
    for name, documentation, kind, samples in _decode(left) if left else ():
        yield Family(name, documentation, kind, {(sample, labels): value for sample, labels, value in samples})
