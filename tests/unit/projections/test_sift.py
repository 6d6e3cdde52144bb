import msgspec
from hypothesis import given
from hypothesis import strategies as st

from crashfold.projections.games import Bands, Games, cells_of
from crashfold.projections.plain import Arrivals
from crashfold.projections.sift import Rejected, Sifted, sift
from crashfold.schemas.game import Game
from tests.support.games import SMALL, arrivals, game, ordered_games

BANDS = Bands(SMALL.predicates)


def sifted(window: list[Game], arrived: list[Game], window_games: int = 4) -> Sifted:
    return sift(Games.of(BANDS, window), window_games, cells_of(BANDS, arrived))


def ids(result: Sifted) -> list[int]:
    return [int(game_id) for game_id in result.accepted.ids]


def test_newer_games_in_order_are_accepted() -> None:
    result = sifted([game(1), game(2)], [game(3), game(5)])
    assert (ids(result), result.duplicates, result.rejected) == ([3, 5], 0, ())


def test_a_game_seen_before_is_a_duplicate() -> None:
    result = sifted([game(1), game(2)], [game(2), game(3), game(3)])
    assert (ids(result), result.duplicates, result.rejected) == ([3], 2, ())


def test_the_same_id_with_any_other_field_is_a_conflict() -> None:
    known = game(2, 2.0, prepare_time=1, begin_time=2, hash="ab" * 32)
    others = [
        msgspec.structs.replace(known, **change)
        for change in (
            {"crash_point": 2.01},
            {"end_time": known.end_time + 1},
            {"prepare_time": None},
            {"begin_time": 3},
            {"hash": None},
            {"hash": "ab" * 31 + "ac"},
            {"hash": "0" * 64},
        )
    ]
    result = sifted([known], others)
    assert (ids(result), result.duplicates) == ([], 0)
    assert result.rejected == tuple(Rejected(i, "conflict") for i in range(len(others)))


def test_no_hash_and_a_hash_of_zeros_are_not_the_same() -> None:
    assert sifted([game(1)], [game(1, hash="0" * 64)]).rejected == (Rejected(0, "conflict"),)


def test_an_older_game_inside_the_window_takes_its_place() -> None:
    result = sifted([game(1), game(4), game(6), game(7)], [game(8), game(5)])
    assert ids(result) == [5, 8]


def test_below_a_full_window_everything_is_late_seen_before_or_not() -> None:
    result = sifted([game(4), game(5), game(6), game(7)], [game(3), game(3, 9.0), game(2)])
    assert result.rejected == (Rejected(0, "late"), Rejected(1, "late"), Rejected(2, "late"))


def test_a_window_that_is_not_full_reaches_back_without_end() -> None:
    assert ids(sifted([game(100)], [game(1), game(50)])) == [1, 50]


def test_the_window_moves_with_every_game_of_the_batch() -> None:
    # 8 pushes 4 out of the window of four, so what was a duplicate before it is late behind it.
    result = sifted([game(4), game(5), game(6), game(7)], [game(4), game(8), game(4)])
    assert (ids(result), result.duplicates, result.rejected) == ([8], 1, (Rejected(2, "late"),))


def test_a_late_game_that_fills_a_hole_pushes_the_oldest_out_too() -> None:
    result = sifted([game(1), game(4), game(5), game(7)], [game(6), game(1)])
    assert (ids(result), result.rejected) == ([6], (Rejected(1, "late"),))


def test_of_two_games_with_one_id_in_a_batch_the_first_counts() -> None:
    result = sifted([], [game(1, 2.0), game(1, 3.0), game(1, 2.0)])
    assert [accepted.crash_point for accepted in result.accepted.to_games()] == [2.0]
    assert (result.duplicates, result.rejected) == (1, (Rejected(1, "conflict"),))


def test_a_window_of_one_game_takes_newer_games_only() -> None:
    result = sifted([game(5)], [game(4), game(5), game(6), game(5)], window_games=1)
    assert (ids(result), result.duplicates) == ([6], 1)
    assert result.rejected == (Rejected(0, "late"), Rejected(3, "late"))


@given(ordered_games(games_max=20), arrivals(games_max=60), st.sampled_from((1, 2, 5, 10)))
def test_a_batch_gets_the_verdicts_of_its_games_one_by_one(
    before: list[Game], arrived: list[Game], window_games: int
) -> None:
    settings = msgspec.structs.replace(SMALL, window_games=window_games, samples_games=())
    oracle = Arrivals(settings)
    for older in before:
        oracle.arrive(older)
    known = {older.game_id for older in oracle.accepted}
    window = oracle.accepted[-window_games:]
    verdicts = [oracle.arrive(one) for one in arrived]
    result = sifted(window, arrived, window_games)
    assert result.rejected == tuple(Rejected(i, reason) for i, reason in enumerate(verdicts) if reason)
    assert result.duplicates == oracle.duplicates
    assert result.accepted.to_games() == [one for one in oracle.accepted if one.game_id not in known]
