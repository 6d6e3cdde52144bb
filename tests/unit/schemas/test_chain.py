import math
from itertools import islice, pairwise
from typing import get_args

import pytest

from crashfold.schemas import chain
from crashfold.schemas.chain import FIRST_BEGIN_TIME_MS, PREPARE_MS, chain_of_games
from crashfold.schemas.fairness import Match, Rule, Variant, chain_holds, check
from crashfold.schemas.game import Game, decode, encode

FIRST_HASH = "7871b71af4f8f32141afb6f2275bf4188b72925cd5e80635f7572e5d0eadda31"
FIRST_CRASH_POINT = 1.67
FIRST_TIMES = (1_767_225_600_000, 1_767_225_605_000, 1_767_225_613_646)


def test_a_seed_always_gives_the_same_games() -> None:
    assert list(chain_of_games(7, 50)) == list(chain_of_games(7, 50))


def test_another_seed_gives_other_games() -> None:
    assert {game.hash for game in chain_of_games(7, 50)}.isdisjoint(game.hash for game in chain_of_games(8, 50))


def test_the_first_games_of_seed_one_are_known() -> None:
    """Benchmarks and demos of different versions are compared, so the games of a seed must stay what they are."""
    first, second = islice(chain_of_games(1, 1_000), 2)
    assert (first.hash, first.crash_point) == (FIRST_HASH, FIRST_CRASH_POINT)
    assert (first.prepare_time, first.begin_time, first.end_time) == FIRST_TIMES
    assert second.game_id == 2


@pytest.mark.parametrize("variant", get_args(Variant))
def test_every_game_matches_its_hash_and_the_chain_holds(variant: Variant) -> None:
    games = list(chain_of_games(3, 2_000, rule=Rule("some salt", variant)))
    assert all(check(game, Rule("some salt", variant)) == Match(game.crash_point) for game in games)
    assert all(chain_holds(older, newer) for older, newer in pairwise(games))


def test_games_are_numbered_and_timed_one_after_the_other() -> None:
    games = list(chain_of_games(3, 2_000, first_id=500, first_begin_time_ms=FIRST_BEGIN_TIME_MS + 1))
    assert [game.game_id for game in games] == list(range(500, 2_500))
    assert games[0].begin_time == FIRST_BEGIN_TIME_MS + 1
    for game in games:
        assert game.prepare_time is not None
        assert game.begin_time == game.prepare_time + PREPARE_MS
        assert game.end_time > game.begin_time
    for older, newer in pairwise(games):
        assert newer.prepare_time is not None
        assert newer.prepare_time > older.end_time


def test_a_round_lasts_as_long_as_its_multiplier_takes_to_grow() -> None:
    for game in chain_of_games(3, 500):
        assert game.begin_time is not None
        in_the_air_ms = game.end_time - game.begin_time
        assert 0 <= in_the_air_ms - math.log(game.crash_point) / 0.06 * 1000 <= 514


def test_crash_points_are_spread_as_the_odds_say() -> None:
    games = list(chain_of_games(11, 20_000))
    for threshold in (1.5, 2, 10):
        share = sum(game.crash_point >= threshold for game in games) / len(games)
        chance = 0.99 / threshold
        assert abs(share - chance) < 5 * math.sqrt(chance / len(games))


def test_the_games_are_readable_records() -> None:
    assert all(decode(encode(game)) == game for game in chain_of_games(5, 200))


def test_a_chain_of_no_games_is_empty() -> None:
    assert list(chain_of_games(1, 0)) == []


@pytest.mark.parametrize("point", [None, 1e9 + 0.01, 4e15])
def test_a_hash_whose_crash_point_no_game_can_have_ends_at_the_bound(
    monkeypatch: pytest.MonkeyPatch, point: float | None
) -> None:
    monkeypatch.setattr(chain, "crash_point", lambda *_: point)
    (game,) = chain_of_games(1, 1)
    assert game.crash_point == 1e9
    assert isinstance(decode(encode(game)), Game)
