"""The plain recomputation of everything: all games, simple loops, no tricks.

This is the definition that the fold has to meet, the oracle of the tests, and what `verify` runs. It shares nothing
with the fold but the settings, the names of the keys and the stored structs.
"""

from bisect import insort
from collections.abc import Iterable, Sequence
from itertools import compress, groupby, pairwise
from typing import Final

import msgspec

from crashfold.projections.delta import SortedSet, Value
from crashfold.projections.settings import (
    FOLLOW_GAMES_KEPT,
    GAPS_KEPT,
    HOUR_MS,
    LAST_GAMES_KEPT,
    MINUTE_MS,
    SERIES_KEPT,
    ProjectionSettings,
)
from crashfold.projections.sift import Reason
from crashfold.schemas import keys
from crashfold.schemas.aggregates import FollowGame, FollowStreak, Interval, LastGame, LongestRun, Sample, Series
from crashfold.schemas.game import Game, encode
from crashfold.schemas.predicate import Predicate

AGGREGATES: Final = frozenset(
    ("occurrences", keys.SAMPLES, "intervals", "series", "last_game", "last_games", "records", keys.GAMES, keys.GAPS)
)
"""The aggregates that are recomputed here; projections of a user's own are not."""


def is_future(settings: ProjectionSettings, end_time: int, timestamp_ms: int) -> bool:
    """Whether a game ends too long after its record was written to be believed; times are epoch milliseconds.

    Such a game would move the event time, and with it all hours and buckets, to where no other game is. A record
    without a timestamp is not asked.
    """
    ahead_hours_max = settings.future_hours_max
    return ahead_hours_max > 0 and timestamp_ms > 0 and end_time - timestamp_ms > ahead_hours_max * HOUR_MS


class Arrivals:
    """Games one by one as they arrive: which are accepted, which are duplicates, conflicts or late."""

    def __init__(self, settings: ProjectionSettings) -> None:
        self._window_games = settings.window_games
        self._by_id: dict[int, Game] = {}
        self._ids: list[int] = []
        self.duplicates = 0

    def arrive(self, game: Game) -> Reason | None:
        """Take one game; the reason when it is rejected."""
        if len(self._ids) >= self._window_games and game.game_id < self._ids[-self._window_games]:
            return "late"
        known = self._by_id.get(game.game_id)
        if known is None:
            self._by_id[game.game_id] = game
            insort(self._ids, game.game_id)
            return None
        if known == game:
            self.duplicates += 1
            return None
        return "conflict"

    @property
    def accepted(self) -> list[Game]:
        """The accepted games in order of id."""
        return [self._by_id[game_id] for game_id in self._ids]


def accept(settings: ProjectionSettings, games: Iterable[Game]) -> list[Game]:
    """Those of the games, in the order in which they arrived, that are folded; in order of id."""
    arrivals = Arrivals(settings)
    for game in games:
        arrivals.arrive(game)
    return arrivals.accepted


def read_model(settings: ProjectionSettings, games: Sequence[Game]) -> dict[str, Value]:
    """Every key that the built-in projections have for a stream of these games, which are in order of id."""
    if not games:
        return {}
    samples, buckets = _samples(settings, games), _buckets(settings, games)
    model: dict[str, Value] = {}
    if samples:
        model[keys.SAMPLES] = {name: _sample([games[i] for i in sample]) for name, sample in samples.items()}
    hundredths = [game.hundredths for game in games]
    for predicate in settings.predicates:
        matches = _matches(predicate, hundredths)
        model[keys.occurrences(predicate)] = _occurrences(games, matches, samples)
        model[keys.intervals(predicate)] = _intervals(buckets, matches)
        if series := _series(games, matches):
            model[keys.series(predicate)] = [msgspec.json.encode(one) for one in reversed(series)]
        model[keys.records(predicate)] = _records(games, matches)
        matching = list(compress(range(len(games)), matches))
        if matching:
            newest = matching[-1]
            last_game = LastGame(**msgspec.structs.asdict(games[newest]), ordinal=newest + 1)
            model[keys.last_game(predicate)] = msgspec.json.encode(last_game)
            model[keys.last_games(predicate)] = [encode(games[i]) for i in reversed(matching[-LAST_GAMES_KEPT:])]
    window = games[-settings.window_games :]
    model[keys.GAMES] = SortedSet({game.game_id: encode(game) for game in window})
    gaps = [(a.game_id + 1, b.game_id - 1) for a, b in pairwise(games) if b.game_id - a.game_id > 1]
    if gaps:
        model[keys.GAPS] = {str(first): str(last).encode() for first, last in gaps[-GAPS_KEPT:]}
    return model


def _matches(predicate: Predicate, hundredths: Sequence[int]) -> list[bool]:
    """Of each game whether it matches."""
    low, high = predicate.low, predicate.high
    return [low <= point and (high is None or point < high) for point in hundredths]


def _samples(settings: ProjectionSettings, games: Sequence[Game]) -> dict[str, Sequence[int]]:
    """The positions of the games of each sample."""
    event_time = max(game.end_time for game in games)
    total = len(games)
    window = range(max(0, total - settings.window_games), total)
    samples: dict[str, Sequence[int]] = {
        keys.sample_games(n): range(max(0, total - n), total) for n in settings.samples_games
    }
    for hours in settings.samples_hours:
        start = event_time - hours * HOUR_MS
        samples[keys.sample_hours(hours)] = [i for i in window if games[i].end_time >= start]
    return samples


def _sample(sample: Sequence[Game]) -> bytes:
    times = (sample[0].end_time, sample[-1].end_time) if sample else (None, None)
    return msgspec.json.encode(Sample(len(sample), *times))


def _occurrences(games: Sequence[Game], matches: Sequence[bool], samples: dict[str, Sequence[int]]) -> dict[str, bytes]:
    numbers = {
        "count": sum(matches),
        "total_games": len(games),
        "first_game_time": games[0].end_time,
        "last_game_time": games[-1].end_time,
    }
    for name, sample in samples.items():
        numbers[name] = sum(matches[i] for i in sample)
    return {field: str(number).encode() for field, number in numbers.items()}


def _buckets(settings: ProjectionSettings, games: Sequence[Game]) -> dict[str, list[int]]:
    """The positions of the games of each bucket that is kept, by the name of its field."""
    bucket_ms = settings.interval_minutes * MINUTE_MS
    numbers = [game.end_time // bucket_ms for game in games]
    oldest = max(numbers) - settings.intervals_kept
    buckets: dict[str, list[int]] = {}
    for i, number in enumerate(numbers):
        if number >= oldest:
            buckets.setdefault(keys.bucket(number * bucket_ms // 1000), []).append(i)
    return buckets


def _intervals(buckets: dict[str, list[int]], matches: Sequence[bool]) -> dict[str, bytes]:
    return {
        field: msgspec.json.encode(Interval(sum(matches[i] for i in bucket), len(bucket)))
        for field, bucket in buckets.items()
    }


def _series(games: Sequence[Game], matches: Sequence[bool]) -> list[Series]:
    """The newest series, oldest first."""
    runs: list[tuple[int, int, int]] = []  # where each run begins, where it ends, and where the matches after it end
    stop = 0
    for are_matches, some in groupby(matches):
        start, stop = stop, stop + len(list(some))
        if not are_matches:
            runs.append((start, stop, stop))
        elif runs:
            runs[-1] = (*runs[-1][:2], stop)
    series = []
    for start, stop, streak_stop in runs[-SERIES_KEPT:]:
        follow = games[stop:streak_stop]
        follow_games = [FollowGame(g.game_id, g.crash_point, g.end_time) for g in follow[:FOLLOW_GAMES_KEPT]]
        first, last = games[start], games[stop - 1]
        series.append(
            Series(
                *(first.game_id, first.end_time, last.game_id, last.end_time),
                stop - start,
                FollowStreak(len(follow), follow_games),
            )
        )
    return series


def _records(games: Sequence[Game], matches: Sequence[bool]) -> dict[str, bytes]:
    """The longest run of games that do not match, and the highest game that does; of equal ones the oldest."""
    start = length = 0
    first = last = highest = None
    for i, (game, is_match) in enumerate(zip(games, matches, strict=True)):
        if is_match:
            start = i + 1
            if highest is None or game.hundredths > highest.hundredths:
                highest = game
        elif i + 1 - start > length:
            first, last, length = games[start], game, i + 1 - start
    fields: dict[str, bytes] = {}
    if first is not None and last is not None:
        found = LongestRun(first.game_id, first.end_time, last.game_id, last.end_time, length)
        fields[keys.LONGEST_RUN] = msgspec.json.encode(found)
    if highest is not None:
        fields[keys.HIGHEST_GAME] = encode(highest)
    return fields
