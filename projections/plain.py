"""The plain recomputation of everything: all games, simple loops, no tricks.

This is the definition that the fold has to meet, the oracle of the tests, and what `verify` runs. It shares nothing
with the fold but the settings, the names of the keys and the stored structs.
"""

from bisect import insort
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from projections.delta import SortedSet, Value
from projections.settings import (
    FOLLOW_GAMES_KEPT,
    GAPS_KEPT,
    HOUR_MS,
    LAST_GAMES_KEPT,
    MINUTE_MS,
    SERIES_KEPT,
    ProjectionSettings,
)
from projections.sift import Reason
from schemas import keys
from schemas.aggregates import FollowGame, FollowStreak, Interval, LastGame, Sample, Series
from schemas.game import Game, encode
from schemas.predicate import Predicate

AGGREGATES: Final = frozenset(
    ("occurrences", keys.SAMPLES, "intervals", "series", "last_game", "last_games", keys.GAMES, keys.GAPS)
)
"""What is recomputed here; projections of a user's own are not."""


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
    samples = _samples(settings, games)
    model: dict[str, Value] = {}
    if samples:
        model[keys.SAMPLES] = {name: _sample(sample) for name, sample in samples.items()}
    for predicate in settings.predicates:
        matching = _matching(predicate, games)
        model[keys.occurrences(predicate)] = _occurrences(games, matching, samples)
        model[keys.intervals(predicate)] = _intervals(settings, games, matching)
        if series := _series(games, matching):
            model[keys.series(predicate)] = [msgspec.json.encode(one) for one in reversed(series[-SERIES_KEPT:])]
        matches = [(ordinal, game) for ordinal, game in enumerate(games, 1) if game.game_id in matching]
        if matches:
            ordinal, newest = matches[-1]
            last_game = LastGame(**msgspec.structs.asdict(newest), ordinal=ordinal)
            model[keys.last_game(predicate)] = msgspec.json.encode(last_game)
            last_games = [encode(game) for _, game in reversed(matches[-LAST_GAMES_KEPT:])]
            model[keys.last_games(predicate)] = last_games
    window = games[-settings.window_games :]
    model[keys.GAMES] = SortedSet({game.game_id: encode(game) for game in window})
    gaps = [(a.game_id + 1, b.game_id - 1) for a, b in pairwise(games) if b.game_id - a.game_id > 1]
    if gaps:
        model[keys.GAPS] = {str(first): str(last).encode() for first, last in gaps[-GAPS_KEPT:]}
    return model


def _matching(predicate: Predicate, games: Sequence[Game]) -> set[int]:
    """The ids of the games that match."""
    low, high = predicate.low, predicate.high
    return {game.game_id for game in games if low <= game.hundredths and (high is None or game.hundredths < high)}


def _samples(settings: ProjectionSettings, games: Sequence[Game]) -> dict[str, list[Game]]:
    """The games of each sample."""
    event_time = max(game.end_time for game in games)
    window = games[-settings.window_games :]
    samples = {keys.sample_games(n): list(games[-n:]) for n in settings.samples_games}
    for hours in settings.samples_hours:
        start = event_time - hours * HOUR_MS
        samples[keys.sample_hours(hours)] = [game for game in window if game.end_time >= start]
    return samples


def _sample(sample: Sequence[Game]) -> bytes:
    times = (sample[0].end_time, sample[-1].end_time) if sample else (None, None)
    return msgspec.json.encode(Sample(len(sample), *times))


def _occurrences(games: Sequence[Game], matching: set[int], samples: dict[str, list[Game]]) -> dict[str, bytes]:
    numbers = {
        "count": len(matching),
        "total_games": len(games),
        "first_game_time": games[0].end_time,
        "last_game_time": games[-1].end_time,
    }
    for name, sample in samples.items():
        numbers[name] = sum(game.game_id in matching for game in sample)
    return {field: str(number).encode() for field, number in numbers.items()}


def _intervals(settings: ProjectionSettings, games: Sequence[Game], matching: set[int]) -> dict[str, bytes]:
    bucket_ms = settings.interval_minutes * MINUTE_MS
    newest = max(game.end_time for game in games) // bucket_ms
    counts: dict[int, int] = {}
    totals: dict[int, int] = {}
    for game in games:
        number = game.end_time // bucket_ms
        if number >= newest - settings.intervals_kept:
            totals[number] = totals.get(number, 0) + 1
            counts[number] = counts.get(number, 0) + (game.game_id in matching)
    return {
        keys.bucket(number * bucket_ms // 1000): msgspec.json.encode(Interval(counts[number], total))
        for number, total in totals.items()
    }


def _series(games: Sequence[Game], matching: set[int]) -> list[Series]:
    """All series, oldest first."""
    runs: list[tuple[list[Game], list[Game]]] = []  # each run and the matches right after it
    is_open = False
    for game in games:
        if game.game_id not in matching:
            if not is_open:
                runs.append(([], []))
            runs[-1][0].append(game)
            is_open = True
        else:
            if runs:
                runs[-1][1].append(game)
            is_open = False
    series = []
    for run, follow in runs:
        follow_games = [FollowGame(g.game_id, g.crash_point, g.end_time) for g in follow[:FOLLOW_GAMES_KEPT]]
        streak = FollowStreak(len(follow), follow_games)
        start, end = run[0], run[-1]
        series.append(Series(start.game_id, start.end_time, end.game_id, end.end_time, len(run), streak))
    return series
