"""The plain recomputation of everything: all games, simple loops, no tricks.

This is the definition that the fold has to meet, the oracle of the tests, and what `verify` runs. It shares nothing with
the fold but the settings, the names of the keys and the stored structs, and it is meant to be read beside SPEC section 3.
"""

from bisect import insort
from collections.abc import Iterable, Sequence
from itertools import pairwise

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
    model: dict[str, Value] = {keys.SAMPLES: _samples(settings, games)}
    for predicate in settings.predicates:
        model[keys.occurrences(predicate)] = _occurrences(settings, games, predicate)
        model[keys.intervals(predicate)] = _intervals(settings, games, predicate)
        matches = [(ordinal, game) for ordinal, game in enumerate(games, 1) if _matches(predicate, game)]
        if matches:
            ordinal, newest = matches[-1]
            model[keys.last_game(predicate)] = msgspec.json.encode(
                LastGame(**msgspec.structs.asdict(newest), ordinal=ordinal)
            )
            newest_matches = [game for _, game in matches[-LAST_GAMES_KEPT:]]
            model[keys.last_games(predicate)] = [encode(game) for game in reversed(newest_matches)]
        series = _series(games, predicate)
        if series:
            model[keys.series(predicate)] = [msgspec.json.encode(s) for s in reversed(series[-SERIES_KEPT:])]
    window = games[-settings.window_games :]
    model[keys.GAMES] = SortedSet({game.game_id: encode(game) for game in window})
    gaps = [(a.game_id + 1, b.game_id - 1) for a, b in pairwise(games) if b.game_id - a.game_id > 1]
    if gaps:
        model[keys.GAPS] = {str(first): str(last).encode() for first, last in gaps[-GAPS_KEPT:]}
    return model


def _matches(predicate: Predicate, game: Game) -> bool:
    return predicate.matches(game.hundredths)


def _sampled(settings: ProjectionSettings, games: Sequence[Game]) -> dict[str, list[Game]]:
    """The games of each sample."""
    event_time = max(game.end_time for game in games)
    window = games[-settings.window_games :]
    samples = {keys.sample_games(n): list(games[-n:]) for n in settings.samples_games}
    for hours in settings.samples_hours:
        start = event_time - hours * HOUR_MS
        samples[keys.sample_hours(hours)] = [game for game in window if game.end_time >= start]
    return samples


def _samples(settings: ProjectionSettings, games: Sequence[Game]) -> dict[str, bytes]:
    return {
        name: msgspec.json.encode(
            Sample(len(sample), sample[0].end_time, sample[-1].end_time) if sample else Sample(0, None, None)
        )
        for name, sample in _sampled(settings, games).items()
    }


def _occurrences(settings: ProjectionSettings, games: Sequence[Game], predicate: Predicate) -> dict[str, bytes]:
    numbers = {
        "count": sum(_matches(predicate, game) for game in games),
        "total_games": len(games),
        "first_game_time": games[0].end_time,
        "last_game_time": games[-1].end_time,
    }
    for name, sample in _sampled(settings, games).items():
        numbers[name] = sum(_matches(predicate, game) for game in sample)
    return {field: str(number).encode() for field, number in numbers.items()}


def _intervals(settings: ProjectionSettings, games: Sequence[Game], predicate: Predicate) -> dict[str, bytes]:
    bucket_ms = settings.interval_minutes * MINUTE_MS
    newest = max(game.end_time // bucket_ms for game in games)
    counts: dict[int, int] = {}
    totals: dict[int, int] = {}
    for game in games:
        number = game.end_time // bucket_ms
        if number >= newest - settings.intervals_kept:
            totals[number] = totals.get(number, 0) + 1
            counts[number] = counts.get(number, 0) + _matches(predicate, game)
    return {
        keys.bucket(number * bucket_ms // 1000): msgspec.json.encode(Interval(counts[number], total))
        for number, total in totals.items()
    }


def _series(games: Sequence[Game], predicate: Predicate) -> list[Series]:
    """All series, oldest first."""
    series: list[Series] = []
    open_run: list[Game] = []
    runs: list[tuple[list[Game], list[Game]]] = []
    for game in games:
        if not _matches(predicate, game):
            if not open_run:
                runs.append((open_run, []))
            open_run.append(game)
        else:
            if runs:
                runs[-1][1].append(game)
            open_run = []
    for run, follow in runs:
        first = follow[:FOLLOW_GAMES_KEPT]
        follow_games = [FollowGame(game.game_id, game.crash_point, game.end_time) for game in first]
        start, end = run[0], run[-1]
        streak = FollowStreak(len(follow), follow_games)
        series.append(Series(start.game_id, start.end_time, end.game_id, end.end_time, len(run), streak))
    return series
