"""Answers about many games are printed by columns; they are, byte for byte, those that are printed object by object."""

from collections.abc import Callable
from unittest import mock

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from crashfold.engine.read.aggregates.games import listed
from crashfold.engine.read.aggregates.last_games import LastGamesQuestion, last_games
from crashfold.engine.read.aggregates.series import SeriesByTimeQuestion, SeriesQuestion, SortBy, series, series_by_time
from crashfold.engine.read.answer import encode
from crashfold.engine.read.fairness import TableFairness
from crashfold.engine.read.past import Opening, Past
from crashfold.engine.read.questions import Threshold
from crashfold.engine.read.times import Zones
from crashfold.engine.read.view import View
from crashfold.projections.games import Bands, Games
from crashfold.schemas.fairness import Rule, TableRules
from crashfold.schemas.game import CRASH_POINT_MAX, Game
from tests.support.games import any_game

ZONES = Zones()
OLD_SALT = Rule(salt="another")
FAIRNESS = (
    TableFairness(TableRules()),
    TableFairness(TableRules(OLD_SALT, [(5_000, Rule())])),
    TableFairness(TableRules(), lambda digits, rule: None),
    TableFairness(TableRules(), lambda digits, rule: CRASH_POINT_MAX if "0" in digits else 1.1),
    TableFairness(TableRules(), lambda digits, rule: CRASH_POINT_MAX * 1_000),
)


def both(answer: Callable[[], object]) -> tuple[bytes, bytes]:
    """The answer printed by columns, and object by object."""
    printed = []
    for many in (1, 1_000_000):
        with (
            mock.patch("crashfold.engine.read.aggregates.games.MANY", many),
            mock.patch("crashfold.engine.read.aggregates.series.MANY", many),
        ):
            printed.append(encode(answer()))
    return printed[0], printed[1]


views = st.builds(
    lambda games, zone, fairness: View.of(
        Games.of(Bands([]), sorted(games, key=lambda game: game.game_id)),
        zone,
        max((game.end_time for game in games), default=0) * 1000,
        fairness=fairness,
    ),
    st.lists(any_game(), max_size=12, unique_by=lambda game: game.game_id),
    st.sampled_from([*map(ZONES.get, ("UTC", "Asia/Kolkata", "America/New_York", "Africa/Monrovia"))]),
    st.sampled_from(FAIRNESS),
)
thresholds = st.sampled_from([1, 1.01, 2, 100]).map(lambda value: Threshold("min", value))


@given(views, thresholds, st.integers(1, 15))
def test_last_games_by_columns_are_those_one_by_one(view: View, threshold: Threshold, limit: int) -> None:
    columns, plain = both(lambda: last_games(view, threshold, LastGamesQuestion(limit=limit)))
    assert columns == plain


@given(views, thresholds, st.integers(1, 15), st.sampled_from(["time", "length"]), st.booleans())
def test_series_by_columns_are_those_one_by_one(
    view: View, threshold: Threshold, limit: int, sort_by: SortBy, is_continued: bool
) -> None:
    if is_continued:
        opening = Past(openings={threshold.predicate: Opening(7, -1_000, 123)})
        view = View.of(view.games, view.zone, view.now_us, past=opening)
    for answer in (
        lambda: series(view, threshold, SeriesQuestion(limit=limit, sort_by=sort_by)),
        lambda: series_by_time(view, threshold, SeriesByTimeQuestion(hours=limit, sort_by=sort_by)),
    ):
        columns, plain = both(answer)
        assert columns == plain


@given(st.lists(st.integers(100, 10**11), min_size=1, max_size=20))
@example([100, 101, 110, 999, 1000, 10**11])
def test_crash_points_are_printed_as_floats_are(points: list[int]) -> None:
    games = [Game(game_id=i, crash_point=point / 100, end_time=1) for i, point in enumerate(points, 1)]
    view = View.of(Games.of(Bands([]), games), ZONES.utc, 0)
    columns, plain = both(lambda: listed(view, np.arange(len(games))))
    assert columns == plain
