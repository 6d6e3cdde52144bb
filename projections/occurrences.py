"""Occurrences: how many games match each predicate, of all games, of the newest N and of the newest H hours.

State is one histogram over bands, from which every predicate's all-time count follows. The samples are counted from the
window whenever keys are made, so a late game needs no bookkeeping at all.
"""

import msgspec
import numpy as np

from projections.columns import Ints
from projections.delta import Delta, Value, WriteHash, changed_fields
from projections.games import Bands, Games
from projections.projection import Moment
from projections.settings import HOUR_MS, ProjectionSettings
from schemas import keys
from schemas.aggregates import Sample


class OccurrencesState(msgspec.Struct, frozen=True):
    """How many games of each band there have been."""

    histogram: np.ndarray


class Occurrences:
    """See SPEC section 3, item 1."""

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
        common = self._common(moment)
        values: dict[str, Value] = {keys.SAMPLES: self._sample_fields(moment)}
        for name, counts in zip(self._names, self._counts(moment).tolist(), strict=True):
            fields = zip(self._fields, counts, strict=True)
            values[name] = common | {field: b"%d" % count for field, count in fields}
        return values

    def delta(
        self, before: Moment[OccurrencesState], after: Moment[OccurrencesState], kept: int
    ) -> Delta:
        """Only the fields whose number changed. `kept` does not matter: both sides are counted."""
        old_common, common = self._common(before), self._common(after)
        common = {field: value for field, value in common.items() if old_common[field] != value}
        delta: Delta = {}
        samples = changed_fields(self._sample_fields(before), self._sample_fields(after))
        if samples.set:
            delta[keys.SAMPLES] = samples
        counts = self._counts(after)
        differs = counts != self._counts(before)
        for i, name in enumerate(self._names):
            fields = common
            if differs[i].any():
                row = counts[i].tolist()
                fields = common | {self._fields[j]: b"%d" % row[j] for j in np.flatnonzero(differs[i]).tolist()}
            if fields:
                delta[name] = WriteHash(fields)
        return delta

    def _common(self, moment: Moment[OccurrencesState]) -> dict[str, bytes]:
        return {
            "total_games": b"%d" % moment.totals.games,
            "first_game_time": b"%d" % (moment.totals.first_game_time or 0),
            "last_game_time": b"%d" % int(moment.window.end_times[-1]),
        }

    def _counts(self, moment: Moment[OccurrencesState]) -> Ints:
        """Predicates × (all time, each sample)."""
        bands = moment.window.band_numbers
        histograms = [moment.state.histogram]
        histograms += [self._bands.histogram(bands[rows]) for rows in self._sample_rows(moment)]
        return self._bands.counts(np.stack(histograms)).T

    def _sample_rows(self, moment: Moment[OccurrencesState]) -> list[slice | Ints]:
        """Which games of the window each sample holds."""
        end_times = moment.window.end_times
        rows: list[slice | Ints] = [slice(max(0, len(end_times) - n), None) for n in self._settings.samples_games]
        for hours in self._settings.samples_hours:
            inside = np.flatnonzero(end_times >= (moment.totals.event_time or 0) - hours * HOUR_MS)
            rows.append(inside)
        return rows

    def _sample_fields(self, moment: Moment[OccurrencesState]) -> dict[str, bytes]:
        fields = {}
        for sample, rows in zip(self._samples, self._sample_rows(moment), strict=True):
            times = moment.window.end_times[rows]
            first, last = (int(times[0]), int(times[-1])) if len(times) else (None, None)
            fields[sample] = msgspec.json.encode(Sample(len(times), first, last))
        return fields
