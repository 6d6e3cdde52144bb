"""The best algorithm we know for user code in Python: games gathered, and folded as columns when a result is due.

The crash points are sorted into bands between neighbouring thresholds, so one histogram answers every predicate. Runs
are found where a predicate's column of matches changes, and only those are made that will be kept.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.job import Sizes
from benchmarks.peers.tally import Run, Tallies, Tally
from crashfold.schemas.game import Game

GATHERED_MAX = 50_000


class ColumnFold:
    """Games in, documents out; what was gathered is folded at the latest when it is `GATHERED_MAX` games."""

    def __init__(self, sizes: Sizes) -> None:
        self._state = Tallies(sizes)
        self._gathered: list[Game] = []
        self._matching = np.zeros((len(self._state.each), len(self._state.cuts) + 1), dtype=bool)
        for row, tally in zip(self._matching, self._state.each, strict=True):
            row[self._state.bands_of(tally)] = True

    @property
    def games(self) -> int:
        """How many were taken."""
        return self._state.games + len(self._gathered)

    def fold(self, games: Iterable[Game]) -> None:
        """The next games of the stream."""
        self._gathered += games
        if len(self._gathered) >= GATHERED_MAX:
            self._fold_gathered()

    def documents(self, next_offset: int, *, with_recent: bool = False) -> dict[str, bytes]:
        """The result so far."""
        self._fold_gathered()
        return self._state.documents(next_offset, with_recent=with_recent)

    def restore(self, documents: dict[str, bytes]) -> int:
        """Go on from documents; the offset to read from."""
        return self._state.restore(documents)

    def _fold_gathered(self) -> None:
        games, self._gathered = self._gathered, []
        if not games:
            return
        state = self._state
        if state.newest is None:
            state.first_time = games[0].end_time
        hundredths = np.rint(np.array([game.crash_point for game in games]) * 100)
        bands = np.searchsorted(state.cuts, hundredths, side="right")
        self._count(games, bands)
        for tally, matching in zip(state.each, self._matching, strict=True):
            self._find_runs(tally, games, matching[bands])
        state.recent.extend(games)
        state.newest = games[-1]
        state.games += len(games)

    def _count(self, games: list[Game], bands: NDArray[np.int64]) -> None:
        state = self._state
        width = len(state.cuts) + 1
        buckets = np.array([game.end_time for game in games]) // state.sizes.interval_ms
        names, rows = np.unique(buckets, return_inverse=True)
        table = np.bincount(rows * width + bands, minlength=len(names) * width).reshape(-1, width)
        newest_by_band = np.full(width, -1)
        newest_by_band[bands] = np.arange(len(games))
        kept = table[-state.sizes.intervals_kept - 1 :]
        kept_names = names[-len(kept) :].tolist()
        for name, total in zip(kept_names, kept.sum(1).tolist(), strict=True):
            state.buckets[name] += total
        everything = table.sum(0)
        for tally in state.each:
            mine = state.bands_of(tally)
            tally.count += int(everything[mine].sum())
            for name, count in zip(kept_names, kept[:, mine].sum(1).tolist(), strict=True):
                tally.buckets[name] += count
            newest = int(newest_by_band[mine].max())
            if newest >= 0:
                tally.last, tally.last_ordinal = games[newest], state.games + newest + 1

    def _find_runs(self, tally: Tally, games: list[Game], matches: NDArray[np.bool_]) -> None:
        """Extend the open run or streak, and make the newest of the runs that closed among these games."""
        state = self._state
        was_matching = tally.start is None
        changes: list[int] = (np.flatnonzero(matches[1:] != matches[:-1]) + 1).tolist()
        if bool(matches[0]) != was_matching:
            changes.insert(0, 0)
        if was_matching:
            head = changes[0] if changes else len(games)
            room = state.sizes.follow_games_kept - len(tally.run.follow)
            tally.run.follow += games[: min(head, room)]
            tally.run.count += head
            starts, closes = changes[0::2], changes[1::2]
        else:
            starts, closes = changes[1::2], changes[0::2]
            if closes:
                assert tally.start is not None
                end = games[closes[0] - 1] if closes[0] else state.newest
                assert end is not None
                tally.close(end, state.games + closes[0] + 1 - tally.start_ordinal)
                self._follow(tally.run, games, closes[0], starts[0] if starts else len(games))
            closes = closes[1:]
        for place in range(max(0, len(closes) - state.sizes.series_kept), len(closes)):
            start, close = starts[place], closes[place]
            run = Run(games[start], games[close - 1], close - start)
            self._follow(run, games, close, starts[place + 1] if place + 1 < len(starts) else len(games))
            tally.series.append(run)
            tally.run = run
        if len(starts) > len(closes):
            tally.start, tally.start_ordinal = games[starts[-1]], state.games + starts[-1] + 1
        elif starts:
            tally.start = None

    def _follow(self, run: Run, games: list[Game], start: int, stop: int) -> None:
        run.count = stop - start
        run.follow = games[start : min(stop, start + self._state.sizes.follow_games_kept)]
