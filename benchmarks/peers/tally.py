"""What user code holds of a stream whichever way it folds, and the documents it becomes in Redis.

Imports the standard library, msgspec and numpy only. Games come in order of id and of time, each once: the peers do not
deal with late games, duplicates and conflicts, which Crashfold does.
"""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from benchmarks.peers.job import NEXT_OFFSET, PREFIX, Sizes
from crashfold.schemas.aggregates import FollowGame, FollowStreak, Interval, LastGame, Sample, Series
from crashfold.schemas.game import Game

RECENT = PREFIX + "recent"
"""The games that the samples need: written by those who take up their state again from Redis."""

HOUR_MS = 3_600_000


@dataclass(slots=True)
class Run:
    """A closed series: `length` games that do not match, and the streak of matches after it."""

    start: Game
    end: Game
    length: int
    count: int = 0
    follow: list[Game] = field(default_factory=list)


class Tally:
    """Everything that is kept of one predicate. `start` is the first game of the open series, None when none is open.

    `run` is the series that the next match belongs to: the newest closed one, before the first a dummy.
    """

    def __init__(self, name: str, low: int, high: int | None, series_kept: int) -> None:
        self.name = name
        self.low = low
        self.high = high if high is not None else 2**62
        self.count = 0
        self.buckets: defaultdict[int, int] = defaultdict(int)
        self.last: Game | None = None
        self.last_ordinal = 0
        self.start: Game | None = None
        self.start_ordinal = 0
        self.run: Run = Run(None, None, 0)  # type: ignore[arg-type]  # never shown
        self.series: deque[Run] = deque(maxlen=series_kept)

    def close(self, end: Game, length: int) -> None:
        """A match came: the open series ended with the game before it."""
        assert self.start is not None
        self.run = Run(self.start, end, length)
        self.series.append(self.run)
        self.start = None


class Tallies:
    """The state of a stream: a tally for each predicate, totals, and the recent games that the samples need."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self.each = [Tally(name, low, high, sizes.series_kept) for name, (low, high) in sizes.predicates.items()]
        self.games = 0
        self.first_time = 0
        self.newest: Game | None = None
        self.buckets: defaultdict[int, int] = defaultdict(int)
        self.recent: deque[Game] = deque()
        thresholds = {edge for tally in self.each for edge in (tally.low, tally.high)}
        self.cuts = np.array(sorted(thresholds), dtype=np.int64)
        """Between two neighbouring cuts every crash point matches the same predicates: a band."""

    def bands_of(self, tally: Tally) -> slice:
        """The bands that match, as `searchsorted(cuts, …, "right")` numbers them."""
        low, high = np.searchsorted(self.cuts, (tally.low, tally.high), side="right").tolist()
        return slice(low, high)

    def documents(self, next_offset: int, *, with_recent: bool = False) -> dict[str, bytes]:
        """The whole result; with the recent games it is enough to go on from (`restored`)."""
        assert self.newest is not None
        self._forget()
        samples = self._samples()
        cumulated = {name: self._cumulated(sample) for name, sample in samples.items()}
        encode = msgspec.json.encode
        made = {
            NEXT_OFFSET: b"%d" % next_offset,
            PREFIX + "samples": encode(
                {name: Sample(len(of), of[0].end_time, of[-1].end_time) for name, of in samples.items()}
            ),
        }
        for tally in self.each:
            bands = self.bands_of(tally)
            occurrences = {
                "count": tally.count,
                "total_games": self.games,
                "first_game_time": self.first_time,
                "last_game_time": self.newest.end_time,
            } | {name: counts[bands.stop] - counts[bands.start] for name, counts in cumulated.items()}
            made[f"{PREFIX}occurrences:{tally.name}"] = encode(occurrences)
            buckets = {self._bucket_name(at): Interval(tally.buckets[at], n) for at, n in self.buckets.items()}
            made[f"{PREFIX}intervals:{tally.name}"] = encode(buckets)
            if series := self._series(tally):
                made[f"{PREFIX}series:{tally.name}"] = encode(series)
            if tally.last is not None:
                last = LastGame(**msgspec.structs.asdict(tally.last), ordinal=tally.last_ordinal)
                made[f"{PREFIX}last_game:{tally.name}"] = encode(last)
        if with_recent:
            made[RECENT] = encode(list(self.recent))
        return made

    def restore(self, documents: dict[str, bytes]) -> int:
        """Go on from documents that hold the recent games too; the offset to read from."""
        decode = msgspec.json.decode
        self.recent = deque(decode(documents[RECENT], type=list[Game]))
        self.newest = self.recent[-1]
        hundredths = round(self.newest.crash_point * 100)
        for tally in self.each:
            occurrences = decode(documents[f"{PREFIX}occurrences:{tally.name}"], type=dict[str, int])
            self.games, self.first_time = occurrences["total_games"], occurrences["first_game_time"]
            tally.count = occurrences["count"]
            buckets = decode(documents[f"{PREFIX}intervals:{tally.name}"], type=dict[str, Interval])
            for name, interval in buckets.items():
                at = int(name.removeprefix("bucket_")) * 1000 // self.sizes.interval_ms
                self.buckets[at], tally.buckets[at] = interval.total_games, interval.count
            if last := documents.get(f"{PREFIX}last_game:{tally.name}"):
                tally.last, tally.last_ordinal = decode(last, type=Game), decode(last)["ordinal"]
            series = decode(documents.get(f"{PREFIX}series:{tally.name}", b"[]"), type=list[Series])
            is_open = not tally.low <= hundredths < tally.high
            for one in reversed(series[is_open:]):
                follow = [
                    Game(game_id=game.game_id, crash_point=game.crash_point, end_time=game.time)
                    for game in one.follow_streak.games
                ]
                start = Game(game_id=one.start_game, crash_point=1.0, end_time=one.start_time)
                end = Game(game_id=one.end_game, crash_point=1.0, end_time=one.end_time)
                tally.run = Run(start, end, one.length, one.follow_streak.count, follow)
                tally.series.append(tally.run)
            if is_open:
                tally.start = Game(game_id=series[0].start_game, crash_point=1.0, end_time=series[0].start_time)
                tally.start_ordinal = self.games - series[0].length + 1
        return int(documents[NEXT_OFFSET])

    def _series(self, tally: Tally) -> list[Series]:
        made = []
        if tally.start is not None:
            assert self.newest is not None
            length = self.games - tally.start_ordinal + 1
            made.append(_series(Run(tally.start, self.newest, length)))
        made += map(_series, reversed(tally.series))
        return made[: self.sizes.series_kept]

    def _bucket_name(self, at: int) -> str:
        return f"bucket_{at * self.sizes.interval_ms // 1000}"

    def _forget(self) -> None:
        """Let go what no sample and no interval needs any more."""
        assert self.newest is not None
        oldest_ms = self.newest.end_time - max(self.sizes.samples_hours) * HOUR_MS
        games_kept = max(self.sizes.samples_games)
        while len(self.recent) > games_kept and self.recent[0].end_time < oldest_ms:
            self.recent.popleft()
        oldest = self.newest.end_time // self.sizes.interval_ms - self.sizes.intervals_kept
        for at in [at for at in self.buckets if at < oldest]:
            del self.buckets[at]
            for tally in self.each:
                tally.buckets.pop(at, None)

    def _samples(self) -> dict[str, list[Game]]:
        assert self.newest is not None
        recent = list(self.recent)
        samples = {f"games:{games}": recent[-games:] for games in self.sizes.samples_games}
        for hours in self.sizes.samples_hours:
            start = self.newest.end_time - hours * HOUR_MS
            samples[f"hours:{hours}"] = [game for game in recent if game.end_time >= start]
        return samples

    def _cumulated(self, sample: Sequence[Game]) -> list[int]:
        """How many of the sample lie below each band."""
        hundredths = np.rint(np.array([game.crash_point for game in sample]) * 100)
        counts = np.bincount(np.searchsorted(self.cuts, hundredths, side="right"), minlength=len(self.cuts) + 1)
        below: list[int] = np.concatenate(([0], np.cumsum(counts))).tolist()
        return below


def _series(run: Run) -> Series:
    games = [FollowGame(game.game_id, game.crash_point, game.end_time) for game in run.follow]
    streak = FollowStreak(run.count, games)
    return Series(run.start.game_id, run.start.end_time, run.end.game_id, run.end.end_time, run.length, streak)
