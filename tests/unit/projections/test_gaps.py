import pytest

from crashfold.engine.testing import game, given
from crashfold.projections import ProjectionSettings, StreamState, plain, plan
from crashfold.projections.delta import apply

SETTINGS = ProjectionSettings(
    min=(2,), max=(), floor=(), samples_games=(), samples_hours=(), interval_hours=1, window_games=6
)


def gaps_of(*ids: int) -> object:
    return given(*map(game, ids), settings=SETTINGS).keys().get("gaps")


def test_a_hole_in_the_ids_is_listed_from_its_first_to_its_last() -> None:
    assert gaps_of(1, 2, 4, 9) == {"3": 3, "5": 8}


def test_without_a_hole_there_is_no_key() -> None:
    assert gaps_of(1, 2, 3) is None


def test_before_the_first_game_of_a_stream_there_is_no_hole() -> None:
    assert gaps_of(1_000, 1_001) is None


def test_a_late_game_fills_a_hole() -> None:
    assert gaps_of(1, 3, 2) is None


@pytest.mark.parametrize(
    ("late", "left"),
    [(5, {"2": 4, "6": 9}), (2, {"3": 9}), (9, {"2": 8})],
    ids=["in its middle", "at its start", "at its end"],
)
def test_a_late_game_inside_a_hole_leaves_what_is_still_missing(late: int, left: dict[str, int]) -> None:
    assert gaps_of(1, 10, late) == left


def test_a_late_game_before_the_first_one_opens_a_hole_behind_it() -> None:
    assert gaps_of(10, 3) == {"4": 9}


def test_holes_stay_listed_when_they_have_left_the_window() -> None:
    assert gaps_of(1, 3, *range(4, 40)) == {"2": 2}


def test_the_newest_ten_thousand_holes_are_listed() -> None:
    games = [game(2 * number) for number in range(1, 10_004)]  # the ids 2, 4, … 20006 have 10,002 holes
    for batch_games in (3_000, len(games)):
        state = StreamState.empty(plan(SETTINGS))
        for start in range(0, len(games), batch_games):
            state = state.fold(games[start : start + batch_games]).state
        gaps = state.keys()["gaps"]
        assert isinstance(gaps, dict)
        assert len(gaps) == 10_000
        assert ("3" in gaps, "5" in gaps, "7" in gaps) == (False, False, True)
        assert gaps["20005"] == b"20005"


def test_a_hole_that_is_filled_makes_room_for_one_that_had_fallen_out() -> None:
    games = [game(2 * number) for number in range(1, 10_004)]
    state = StreamState.empty(plan(SETTINGS)).fold(games).state
    folded = state.fold([game(20_001)])
    gaps = folded.state.keys()["gaps"]
    assert isinstance(gaps, dict)
    assert ("5" in gaps, "20001" in gaps, len(gaps)) == (True, False, 10_000)
    assert gaps == plain.read_model(SETTINGS, sorted([*games, game(20_001)], key=lambda one: one.game_id))["gaps"]


def test_a_hole_that_comes_back_is_written_by_the_commit_too() -> None:
    known = StreamState.empty(plan(SETTINGS)).fold([game(2 * number) for number in range(1, 10_003)]).state
    stored = apply({}, known.create())
    folded = known.fold([game(20_003)])
    gaps = apply(stored, folded.state.delta(known, folded.kept))["gaps"]
    assert isinstance(gaps, dict)
    assert ("3" in gaps, "20003" in gaps, len(gaps)) == (True, False, 10_000)
    assert gaps == folded.state.keys()["gaps"]
