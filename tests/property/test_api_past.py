"""A short window with what the read model remembers of the time before answers like a window without end."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from crashfold.engine.read.aggregates import last_games, series
from crashfold.engine.read.aggregates.last_games import LastGamesQuestion, older_matches
from crashfold.engine.read.aggregates.series import SeriesByTimeQuestion, SeriesQuestion, opening_of
from crashfold.engine.read.past import Past
from crashfold.engine.read.questions import Nothing, Threshold
from crashfold.engine.read.times import Zones
from crashfold.engine.read.view import View
from crashfold.projections import plain
from crashfold.projections.games import Bands, Games
from crashfold.projections.settings import ProjectionSettings
from crashfold.schemas import keys
from crashfold.schemas.aggregates import LastGame, Series
from crashfold.schemas.game import Game
from crashfold.schemas.predicate import Kind, Predicate
from tests.property.test_api_answers import windows
from tests.support.api_oracle import Oracle

SETTINGS = ProjectionSettings(
    min=(1.5, 2, 20), max=(1, 2), floor=(1, 7), samples_games=(1,), samples_hours=(1,), window_games=8
)
NOON_MS = 1_768_478_400_000
UTC = Zones().utc


def read_past(games: list[Game], window: Games, predicate: Predicate) -> Past:
    """What a reader of the keys knows."""
    model: dict[str, Any] = plain.read_model(SETTINGS, games)
    stored_series = [msgspec.json.decode(item, type=Series) for item in model.get(keys.series(predicate), [])]
    opening = opening_of(window, stored_series)
    newest = model.get(keys.last_game(predicate))
    matches = older_matches(
        window,
        len(games),
        None if newest is None else msgspec.json.decode(newest, type=LastGame),
        [msgspec.json.decode(item, type=Game) for item in model.get(keys.last_games(predicate), [])],
        {int(first): int(last) for first, last in model.get(keys.GAPS, {}).items()},
    )
    return Past({} if opening is None else {predicate: opening}, {predicate: matches})


@given(st.data())
def test_the_past_makes_up_for_the_end_of_the_window(data: st.DataObject) -> None:
    games = data.draw(windows(NOON_MS))
    predicate = data.draw(st.sampled_from(SETTINGS.predicates))
    kind: Kind = predicate.kind
    value = int(predicate.value) if kind == "floor" else float(predicate.value)
    window = Games.of(Bands([]), games[-SETTINGS.window_games :])
    before_ms = max((game.end_time for game in games[: -SETTINGS.window_games]), default=NOON_MS)
    moments_us = [max(time, before_ms) * 1000 for time in (before_ms, *window.end_times.tolist())]
    at_us = data.draw(st.none() | st.sampled_from(moments_us))
    now_us = max((game.end_time for game in games), default=NOON_MS) * 1000
    view = View.of(window, UTC, now_us, at_us, read_past(games, window, predicate))
    oracle, threshold = Oracle(games, "UTC", now_us, at_us), Threshold(kind, value)

    found = msgspec.to_builtins(last_games.last_game(view, threshold, Nothing()))
    assert found == oracle.last_game(kind, value)
    limit = data.draw(st.integers(1, 60))
    found = msgspec.to_builtins(last_games.last_games(view, threshold, LastGamesQuestion(limit=limit)))
    assert found == oracle.last_games(kind, value, limit)
    if kind == "min" and len(view.games):
        limit = data.draw(st.integers(1, len(view.games)))
        served = series.series(view, threshold, SeriesQuestion(limit=limit, sort_by="length"))
        assert msgspec.to_builtins(served) == oracle.series(value, limit, "length")


def test_an_older_match_beyond_the_gaps_that_are_kept_has_no_known_distance() -> None:
    matches = [Game(game_id=id_, crash_point=9.0, end_time=NOON_MS) for id_ in (90_000, 5)]
    window = Games.of(Bands([]), [Game(game_id=100_000, crash_point=1.0, end_time=NOON_MS)])
    gaps = {first: first for first in range(70_000, 90_000, 2)}
    older = older_matches(window, 50_000, None, matches, gaps)
    assert [match.games_between for match in older] == [9_999, None]


def test_a_moment_before_all_that_is_known_has_no_last_game() -> None:
    games = [Game(game_id=id_, crash_point=2.0, end_time=NOON_MS + id_) for id_ in range(1, 30)]
    window = Games.of(Bands([]), games[-8:])
    predicate = Predicate.of("min", 2)
    view = View.of(window, UTC, NOON_MS, NOON_MS * 1000, read_past(games, window, predicate))
    assert last_games.last_game(view, Threshold("min", 2.0), Nothing()) is None
    question = SeriesByTimeQuestion(hours=1)
    assert series.series_by_time(view, Threshold("min", 2.0), question).series == []
