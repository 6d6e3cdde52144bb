"""Intervals: per predicate and bucket of time, how many games ended in it and how many of them match.

State is a histogram over bands for every bucket kept: that of the event time and those before it, as far as the
settings say. Buckets are numbered by their start divided by their length, aligned to UTC.
"""

from collections.abc import Iterator
from itertools import repeat

import msgspec
import numpy as np

from crashfold.projections.columns import Ints, firsts
from crashfold.projections.delta import Delta, Value, WriteHash
from crashfold.projections.games import Bands, Games
from crashfold.projections.projection import Moment
from crashfold.projections.settings import MINUTE_MS, ProjectionSettings
from crashfold.schemas import keys
from crashfold.schemas.aggregates import Interval

_encode = msgspec.json.Encoder().encode


class IntervalsState(msgspec.Struct, frozen=True, gc=False):
    """By bucket number, how many games of each band ended in it. The newest bucket is that of the event time."""

    buckets: dict[int, np.ndarray]


class Intervals:
    """Counts games and matches per bucket of time (docs/rules.md, section 4.2)."""

    name = "intervals"
    version = 1
    aggregates = ("intervals",)

    def __init__(self, settings: ProjectionSettings, bands: Bands) -> None:
        self._bands = bands
        self._names = [keys.intervals(predicate) for predicate in settings.predicates]
        self._bucket_ms = settings.interval_minutes * MINUTE_MS
        self._kept = settings.intervals_kept

    def empty(self) -> IntervalsState:
        """No buckets."""
        return IntervalsState({})

    def fold(self, state: IntervalsState, games: Games) -> IntervalsState:
        """The buckets with `games` in them, without those that have become too old."""
        numbers = games.end_times // self._bucket_ms
        newest_before = max(state.buckets, default=0)
        newest = max(int(np.maximum.reduce(numbers)), newest_before)
        oldest = newest - self._kept
        buckets = state.buckets.copy()
        for number, histogram in self._histograms(numbers, games.band_numbers, oldest):
            buckets[number] = buckets[number] + histogram if number in buckets else histogram
        if newest > newest_before and min(buckets) < oldest:
            buckets = {number: histogram for number, histogram in buckets.items() if number >= oldest}
        return IntervalsState(buckets)

    def keys(self, moment: Moment[IntervalsState]) -> dict[str, Value]:
        """One hash per predicate, with a field for each bucket that holds a game."""
        written = self._written(moment.state.buckets)
        return {name: write.set for name, write in written.items() if isinstance(write, WriteHash) and write.set}

    def delta(self, before: Moment[IntervalsState], after: Moment[IntervalsState], kept: int) -> Delta:
        """The buckets that changed and those that expired. `kept` does not matter: buckets are compared."""
        old, new = before.state.buckets, after.state.buckets
        changed = {
            number: histogram
            for number, histogram in new.items()
            if (known := old.get(number)) is not histogram and (known is None or (known != histogram).any())
        }
        expired: tuple[str, ...] = ()
        if len(new) < len(old) + sum(number not in old for number in changed):
            expired = tuple(self._field(number) for number in sorted(old.keys() - new.keys()))
        return self._written(changed, expired, len(old)) if changed or expired else {}

    def _histograms(self, numbers: Ints, bands: Ints, oldest: int) -> Iterator[tuple[int, Ints]]:
        """The histogram of each bucket from `oldest` on that has a game."""
        order = numbers.argsort(kind="stable")
        numbers, bands = numbers[order], bands[order]
        starts = firsts(numbers)
        stops = [*starts[1:].tolist(), len(numbers)]
        for number, start, stop in zip(numbers[starts].tolist(), starts.tolist(), stops, strict=True):
            if number >= oldest:
                yield number, self._bands.histogram(bands[start:stop])

    def _written(self, buckets: dict[int, np.ndarray], expired: tuple[str, ...] = (), known: int = 0) -> Delta:
        """Each predicate's write: the given buckets set, the expired fields deleted, of the `known` ones."""
        totals = [int(histogram.sum()) for histogram in buckets.values()]
        counts = [self._bands.counts(histogram).tolist() for histogram in buckets.values()]
        fields = [self._field(number) for number in buckets]
        written: dict[tuple[int, ...], WriteHash] = {}
        delta: Delta = {}
        rows = zip(*counts, strict=True) if counts else repeat((), len(self._names))
        for name, key in zip(self._names, rows, strict=True):
            if key not in written:  # many predicates have the same counts
                found = zip(fields, key, totals, strict=True)
                written[key] = WriteHash({field: _encode(Interval(*count)) for field, *count in found}, expired, known)
            delta[name] = written[key]
        return delta

    def _field(self, number: int) -> str:
        return keys.bucket(number * self._bucket_ms // 1000)
