"""Which games do not fit their hashes: the same for columns as for one game, whatever is known already."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashfold.engine.core.fairness import FairnessCheck, Faults
from crashfold.projections.games import Bands, Games
from crashfold.schemas.chain import chain_of_games
from crashfold.schemas.fairness import DEFAULT_SALT, Mismatch, Variant, chain_holds, check
from crashfold.schemas.game import HUNDREDTHS_MAX, Game
from tests.support.games import game, hashes

BANDS = Bands(())
COUNTING = FairnessCheck(DEFAULT_SALT, "exact", rejects=False)
REJECTING = FairnessCheck(DEFAULT_SALT, "exact", rejects=True)
CHAIN = tuple(chain_of_games(7, 12))


def columns(*games: Game) -> Games:
    return Games.of(BANDS, sorted(games, key=lambda game: game.game_id))


def other(of: Game, **fields: object) -> Game:
    return msgspec.structs.replace(of, **fields)


def test_a_fair_chain_has_no_faults() -> None:
    assert COUNTING.faults(columns(*CHAIN[:5]), columns(*CHAIN[5:])) == Faults(0, 0)
    assert COUNTING.faults(columns(), columns()) == Faults(0, 0)


def test_each_broken_link_counts_once_whichever_game_came_first() -> None:
    wrong = other(CHAIN[5], hash="ab" * 32, crash_point=CHAIN[5].crash_point)
    games = [*CHAIN[:5], wrong, *CHAIN[6:]]
    assert COUNTING.faults(columns(), columns(*games)).chain == 2
    assert COUNTING.faults(columns(*games[:5]), columns(*games[5:])).chain == 2
    assert COUNTING.faults(columns(*games[:6]), columns(*games[6:])).chain == 1
    assert COUNTING.faults(columns(*games[:5], *games[6:]), columns(wrong)).chain == 2  # it came late


def test_games_that_come_one_by_one_are_judged_as_all_at_once() -> None:
    wrong = other(CHAIN[5], hash="ab" * 32)
    games = [*CHAIN[:2], other(CHAIN[2], hash=None), CHAIN[3], CHAIN[4], wrong, *CHAIN[6:9], CHAIN[10], CHAIN[11]]
    for check_of in (COUNTING, FairnessCheck(DEFAULT_SALT, "nine_digits", rejects=False)):
        one_by_one = [check_of.faults(columns(*games[:i]), columns(games[i])) for i in range(len(games))]
        assert sum(one_by_one, Faults()) == check_of.faults(columns(), columns(*games)) == Faults(1, 2)


def test_holes_and_games_without_hashes_break_no_chain() -> None:
    assert COUNTING.faults(columns(CHAIN[0]), columns(CHAIN[2], CHAIN[4])) == Faults(0, 0)
    assert COUNTING.faults(columns(CHAIN[0]), columns(other(CHAIN[1], hash=None), CHAIN[2])) == Faults(0, 0)
    assert COUNTING.faults(columns(), columns(game(1), game(2))) == Faults(0, 0)


points = st.integers(100, 10_000) | st.integers(100, HUNDREDTHS_MAX)
salts = st.sampled_from((DEFAULT_SALT, "s", "x" * 64, "x" * 65, "y" * 200))


@given(st.lists(st.tuples(hashes(), points)), salts, st.sampled_from(("exact", "nine_digits")))
def test_columns_are_judged_as_single_games_are(drawn: list[tuple[str, int]], salt: str, variant: Variant) -> None:
    games = []
    for game_id, (digits, hundredths) in enumerate(drawn, 1):
        one = game(game_id, hundredths / 100, hash=digits)
        if hundredths % 2:  # half of them are fair
            verdict = check(one, salt, variant)
            fits = verdict.calculated if isinstance(verdict, Mismatch) else None
            one = other(one, crash_point=min(fits or 1.0, HUNDREDTHS_MAX / 100))
        games.append(one)
    found = FairnessCheck(salt, variant, rejects=False).faults(columns(), columns(*games))
    assert found.hash == sum(isinstance(check(one, salt, variant), Mismatch) for one in games)
    assert found.chain == sum(chain_holds(a, b) is False for a, b in pairwise(games))


def test_a_rejection_says_what_would_have_been_right() -> None:
    wrong = other(CHAIN[0], crash_point=CHAIN[0].crash_point + 1)
    assert REJECTING.rejection(CHAIN[0]) is None
    assert REJECTING.rejection(game(1)) is None
    assert str(CHAIN[0].crash_point) in str(REJECTING.rejection(wrong))
    assert COUNTING.rejection(wrong) is None


def test_only_a_rule_that_rejects_has_a_name() -> None:
    assert COUNTING.rule == ""
    rules = {
        FairnessCheck(salt, variant, rejects=True).rule for salt in ("a", "b") for variant in ("exact", "nine_digits")
    }
    assert len(rules) == 4


@pytest.mark.parametrize(("setting", "rejects"), [("off", None), ("count", False), ("reject", True)])
def test_the_setting_says_what_is_done(setting: str, rejects: bool | None) -> None:
    found = FairnessCheck.of(setting, "s", "exact")  # type: ignore[arg-type]
    assert (None if found is None else found.rejects) is rejects
