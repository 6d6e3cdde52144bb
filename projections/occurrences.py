"""Occurrences: how many games match each predicate, of all games, of the newest N and of the newest H hours.

State is one histogram over bands, from which every predicate's all-time count follows. The samples are counted from the
window whenever keys are made, so a late game needs no bookkeeping at all.
"""

import msgspec
import numpy as np

from crashfold.projections.columns import Ints
from crashfold.projections.delta import Delta, Value, WriteHash, changed_fields
from crashfold.projections.games import Bands, Games
from crashfold.projections.projection import Moment
from crashfold.projections.settings import HOUR_MS, ProjectionSettings
from crashfold.schemas import keys
from crashfold.schemas.aggregates import Sample

_encode = msgspec.json.Encoder().encode


class OccurrencesState(msgspec.Struct, frozen=True, gc=False):
    """How many games of each band there have been."""

    histogram: np.ndarray


class Occurrences:
    """Counts the games that match each predicate: of all time and of each sample (docs/rules.md, section 4.1)."""

    name = "occurrences"
    version = 1
    aggregates = ("occurrences", keys.SAMPLES)

    def __init__(self, settings: ProjectionSettings, bands: Bands) -> None:
        self._settings = settings
        self._bands = bands
        self._names = [keys.occurrences(predicate) for predicate in settings.predicates]
        self._samples = [keys.sample_games(games) for games in settings.samples_games]
        self._samples += [keys.sample_hours(hours) for hours in settings.samples_hours]
        self._fields = ["count", *self._samples]

    def empty(self) -> OccurrencesState:
        """No games."""
        return OccurrencesState(np.zeros(self._bands.count, np.int64))

    def fold(self, state: OccurrencesState, games: Games) -> OccurrencesState:
        """The histogram with `games` in it."""
        return OccurrencesState(state.histogram + self._bands.histogram(games.band_numbers))

    def keys(self, moment: Moment[OccurrencesState]) -> dict[str, Value]:
        """One hash per predicate, and `samples`."""
        if moment.totals.games == 0:
            return {}
        counted = self._counted(moment)
        values: dict[str, Value] = {keys.SAMPLES: counted.samples} if counted.samples else {}
        for name, counts in zip(self._names, counted.counts.tolist(), strict=True):
            fields = zip(self._fields, counts, strict=True)
            values[name] = counted.common | {field: b"%d" % count for field, count in fields}
        return values

    def delta(self, before: Moment[OccurrencesState], after: Moment[OccurrencesState], kept: int) -> Delta:
        """Only the fields whose number changed. `kept` does not matter: both sides are counted."""
        old = self._counted(before)
        new = self._counted(after, old.first if kept == before.totals.games else 0)
        delta: Delta = {}
        samples = changed_fields(old.samples, new.samples)
        if samples.set:
            delta[keys.SAMPLES] = WriteHash(samples.set, known=len(old.samples))
        known = len(old.common) + len(self._fields)
        common = changed_fields(old.common, new.common).set
        shared = WriteHash(common, known=known)
        predicates, columns = (new.counts != old.counts).nonzero()
        fields = [self._fields[column] for column in columns.tolist()]
        counts = [b"%d" % count for count in new.counts[predicates, columns].tolist()]
        start = 0
        for name, end in zip(self._names, _ends(predicates, len(self._names)), strict=True):
            if start < end:
                changed = dict(zip(fields[start:end], counts[start:end], strict=True))
                delta[name] = WriteHash(common | changed, known=known)
                start = end
            elif common:
                delta[name] = shared
        return delta

    def _counted(self, moment: Moment[OccurrencesState], first: int = 0) -> "_Counted":
        """All numbers of a moment, counted once. No sample of hours has one of the stream's first `first` games."""
        if moment.memo is None:
            passed = moment.totals.games - len(moment.window)
            rows_by_sample = self._sample_rows(moment, max(0, first - passed))
            end_times, bands = moment.window.end_times, moment.window.band_numbers
            histograms, samples = [moment.state.histogram], {}
            for sample, rows in zip(self._samples, rows_by_sample, strict=True):
                times = end_times[rows]
                oldest, newest = (int(times[0]), int(times[-1])) if len(times) else (None, None)
                samples[sample] = _encode(Sample(len(times), oldest, newest))
                histograms.append(self._bands.histogram(bands[rows]))
            common = {
                "total_games": b"%d" % moment.totals.games,
                "first_game_time": b"%d" % (moment.totals.first_game_time or 0),
                "last_game_time": b"%d" % int(end_times[-1]),
            }
            by_hours = rows_by_sample[len(self._settings.samples_games) :]
            first = passed + min((_first_of(rows, len(end_times)) for rows in by_hours), default=0)
            moment.memo = _Counted(common, samples, self._bands.counts(np.array(histograms)).T, first)
        counted: _Counted = moment.memo
        return counted

    def _sample_rows(self, moment: Moment[OccurrencesState], first: int) -> list[slice | Ints]:
        """Which games of the window each sample holds; those of hours none before row `first`."""
        end_times = moment.window.end_times
        rows: list[slice | Ints] = [slice(max(0, len(end_times) - n), None) for n in self._settings.samples_games]
        by_hours: dict[int, slice | Ints] = {}
        for hours in sorted(self._settings.samples_hours, reverse=True):  # the shorter ones lie within the longer
            since = (moment.totals.event_time or 0) - hours * HOUR_MS
            by_hours[hours] = within = _rows_since(end_times, first, since)
            first = _first_of(within, len(end_times))
        return rows + [by_hours[hours] for hours in self._settings.samples_hours]


def _ends(groups: Ints, count: int) -> list[int]:
    """Where each of so many groups ends; `groups` are ascending numbers from 0."""
    ends: list[int] = np.bincount(groups, minlength=count).cumsum().tolist()
    return ends


def _rows_since(end_times: Ints, first: int, since: int) -> slice | Ints:
    """The rows from `first` on that did not end before `since`: mostly the last ones, for ids follow time."""
    is_in = end_times[first:] >= since
    count = int(np.count_nonzero(is_in))
    if np.logical_and.reduce(is_in[len(is_in) - count :]):
        return slice(len(end_times) - count, len(end_times))
    return is_in.nonzero()[0] + first


def _first_of(rows: slice | Ints, end: int) -> int:
    """The first of these rows; `end` when there is none."""
    if isinstance(rows, slice):
        return int(rows.start)
    return int(rows[0]) if len(rows) else end


class _Counted(msgspec.Struct, frozen=True):
    """The counts of a moment: the fields that all predicates share, those of `samples`, the counts, predicates ×
    (all time, each sample), and how many games of the stream came before all that the samples of hours have."""

    common: dict[str, bytes]
    samples: dict[str, bytes]
    counts: np.ndarray
    first: int
