from typing import Any

import msgspec

from crashfold.engine.testing import Given, game, given
from crashfold.projections import ProjectionSettings, StreamState, plain, plan
from crashfold.projections.delta import WriteList
from crashfold.schemas.aggregates import FollowGame, FollowStreak, Series
from crashfold.schemas.game import Game
from tests.support.games import games_at

SETTINGS = ProjectionSettings(
    min=(2,), max=(), floor=(), samples_games=(), samples_hours=(), interval_hours=1, window_games=4
)


def stream(*crash_points: float) -> Given:
    return given(*games_at(*crash_points), settings=SETTINGS)


def series(start: int, end: int, *follow: Game, length: int | None = None) -> Series:
    """The run from game `start` to game `end`, ids without holes, and the games of its streak."""
    return Series(
        start_game=start,
        start_time=game(start).end_time,
        end_game=end,
        end_time=game(end).end_time,
        length=end - start + 1 if length is None else length,
        follow_streak=FollowStreak(
            len(follow), [FollowGame(one.game_id, one.crash_point, one.end_time) for one in follow]
        ),
    )


def test_a_series_is_a_run_without_a_match_and_the_streak_of_matches_right_after_it() -> None:
    stream(1.0, 1.99, 2.0, 3.0, 1.5, 9.0).expect(
        "series:min:2", [series(5, 5, game(6, 9.0)), series(1, 2, game(3, 2.0), game(4, 3.0))]
    )


def test_the_newest_run_is_open_until_a_match_ends_it() -> None:
    stream(2.0, 1.0, 1.0).expect("series:min:2", [series(2, 3)])
    stream(2.0, 1.0, 1.0, 1.0).expect("series:min:2", [series(2, 4)])
    stream(2.0, 1.0, 1.0, 1.0, 2.5).expect("series:min:2", [series(2, 4, game(5, 2.5))])


def test_matches_before_the_first_run_belong_to_no_run() -> None:
    stream(2.0, 3.0).expect_none("series:min:2")
    stream(2.0, 3.0, 1.0, 4.0).expect("series:min:2", [series(3, 3, game(4, 4.0))])


def test_the_stored_json_is_as_documented() -> None:
    first, second, third = games_at(1.5, 1.5, 2.5)
    expected: list[dict[str, Any]] = [
        {
            "start_game": 1,
            "start_time": first.end_time,
            "end_game": 2,
            "end_time": second.end_time,
            "length": 2,
            "follow_streak": {
                "count": 1,
                "games": [{"game_id": 3, "crash_point": 2.5, "time": third.end_time}],
            },
        }
    ]
    stream(1.5, 1.5, 2.5).expect("series:min:2", expected)


def test_holes_in_the_ids_do_not_break_a_run() -> None:
    given(game(1, 1.0), game(5, 1.0), game(9, 2.0), settings=SETTINGS).expect(
        "series:min:2", [series(1, 5, game(9, 2.0), length=2)]
    )


def test_a_late_match_splits_a_run() -> None:
    games = [game(1, 1.0), game(3, 1.0), game(4, 1.0), game(2, 2.0)]
    given(*games, settings=SETTINGS).expect("series:min:2", [series(3, 4), series(1, 1, game(2, 2.0))])


def test_a_late_game_without_a_match_splits_a_streak() -> None:
    games = [game(1, 1.0), game(2, 2.0), game(4, 3.0), game(3, 1.0)]
    given(*games, settings=SETTINGS).expect("series:min:2", [series(3, 3, game(4, 3.0)), series(1, 1, game(2, 2.0))])


def test_a_late_game_before_all_others_can_open_the_first_run() -> None:
    games = [game(2, 2.0), game(3, 3.0), game(1, 1.0)]
    given(*games, settings=SETTINGS).expect("series:min:2", [series(1, 1, game(2, 2.0), game(3, 3.0))])


def test_the_true_start_of_a_run_is_kept_however_long_it_is() -> None:
    assert listed(games_at(2.0, *[1.0] * 5_000)) == [series(2, 5_001)]


def test_a_streak_of_more_than_a_thousand_games_keeps_the_first_thousand() -> None:
    games = games_at(1.0, *[2.0] * 1_003)
    (only,) = listed(games)
    assert only.follow_streak.count == 1_003
    assert [one.game_id for one in only.follow_streak.games] == list(range(2, 1_002))
    # One after the other, so that the streak passes its bound in the middle of a batch, at its end, and between two.
    assert listed(games, batch_games=1) == listed(games, batch_games=334) == listed(games, batch_games=1_001) == [only]


def test_the_newest_thousand_series_are_kept() -> None:
    games = games_at(*[1.0, 2.0] * 1_002)
    kept = listed(games)
    assert len(kept) == 1_000
    assert kept[0] == series(2_003, 2_003, games[2_003])
    assert kept[-1] == series(5, 5, games[5])
    assert listed(games, batch_games=1) == listed(games, batch_games=999) == kept


def test_the_open_series_is_one_of_the_thousand() -> None:
    games = games_at(*[1.0, 2.0] * 1_000, 1.0)
    kept = listed(games)
    assert len(kept) == 1_000
    assert kept[0] == series(2_001, 2_001)
    assert kept[-1] == series(3, 3, games[3])


def test_a_late_game_that_adds_a_series_drops_the_oldest() -> None:
    games = games_at(*[1.0, 2.0] * 1_000, 2.0, 2.0, 2.0)
    late = game(2_002, 1.0)
    arrived = [one for one in games if one.game_id != late.game_id]
    assert listed(arrived)[-1] == series(1, 1, games[1])
    kept = listed([*arrived, late])
    assert kept[:2] == [series(2_002, 2_002, games[2_002]), series(1_999, 1_999, games[1_999], games[2_000])]
    assert kept[-1] == series(3, 3, games[3])


def test_a_commit_writes_the_series_that_changed_and_no_other() -> None:
    state = StreamState.empty(plan(SETTINGS)).fold(games_at(1.0, 2.0)).state
    writes = []
    for newest in (game(3, 1.0), game(4, 1.0), game(5, 2.0), game(6, 3.0)):
        folded = state.fold([newest])
        write = folded.state.delta(state, folded.kept)["series:min:2"]
        assert isinstance(write, WriteList)
        assert write.keep == 1_000
        writes.append((write.drop, [msgspec.json.decode(one, type=Series) for one in write.push]))
        state = folded.state
    assert writes == [
        (1, [series(3, 3), series(1, 1, game(2, 2.0))]),
        (1, [series(3, 4)]),
        (1, [series(3, 4, game(5, 2.0))]),
        (1, [series(3, 4, game(5, 2.0), game(6, 3.0))]),
    ]


def listed(games: list[Game], batch_games: int = 10_000) -> list[Series]:
    """The series of so many games that the laws would take long, in batches of that size, checked with `plain`."""
    state = StreamState.empty(plan(SETTINGS))
    for start in range(0, len(games), batch_games):
        state = state.fold(games[start : start + batch_games]).state
    model = state.keys()
    assert model == plain.read_model(SETTINGS, sorted(games, key=lambda one: one.game_id))
    stored = model["series:min:2"]
    assert isinstance(stored, list)
    return [msgspec.json.decode(one, type=Series) for one in stored]


def test_a_long_streak_is_still_known_when_it_has_ended() -> None:
    """More games than are kept of a streak, two predicates long at once, and then both settle."""
    settings = ProjectionSettings(
        min=(2, 1.5), max=(), floor=(), samples_games=(), samples_hours=(), interval_hours=1, window_games=4
    )
    games = games_at(1.0, *[2.0] * 700, 1.6, *[2.0] * 1_400, 1.0, 2.0, 1.0, 2.0)
    expected = plain.read_model(settings, games)
    for batch_games in (1, 2, 699, 1_000, 1_001, 2_000):
        state = StreamState.empty(plan(settings))
        for start in range(0, len(games), batch_games):
            state = state.fold(games[start : start + batch_games]).state
        assert state.keys() == expected
