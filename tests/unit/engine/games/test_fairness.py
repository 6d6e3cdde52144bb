"""Which games do not fit their hashes: the same for columns as for one game, whatever is known already."""

from itertools import pairwise
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashfold.engine.games.fairness import Arrival, FairnessCheck, Faults
from crashfold.projections.games import Bands, Games
from crashfold.schemas.chain import chain_of_games
from crashfold.schemas.fairness import DEFAULT_SALT, Mismatch, Rule, RuleBook, TableRules, Variant, chain_holds, check
from crashfold.schemas.game import HUNDREDTHS_MAX, Game
from tests.support.games import game, hashes

BANDS = Bands(())
COUNTING = FairnessCheck(RuleBook(), rejects=False)
REJECTING = FairnessCheck(RuleBook(), rejects=True)
CHAIN = tuple(chain_of_games(7, 12))


def columns(*games: Game) -> Games:
    return Games.of(BANDS, sorted(games, key=lambda game: game.game_id))


def other(of: Game, **fields: object) -> Game:
    return msgspec.structs.replace(of, **fields)


def faults(check: FairnessCheck, stream: str, known: Games, accepted: Games) -> Faults:
    return check.faults([Arrival(stream, known, accepted)])


def test_a_fair_chain_has_no_faults() -> None:
    assert faults(COUNTING, "crash", columns(*CHAIN[:5]), columns(*CHAIN[5:])) == Faults(0, 0)
    assert faults(COUNTING, "crash", columns(), columns()) == Faults(0, 0)


def test_each_broken_link_counts_once_whichever_game_came_first() -> None:
    wrong = other(CHAIN[5], hash="ab" * 32, crash_point=CHAIN[5].crash_point)
    games = [*CHAIN[:5], wrong, *CHAIN[6:]]
    assert faults(COUNTING, "crash", columns(), columns(*games)).chain == 2
    assert faults(COUNTING, "crash", columns(*games[:5]), columns(*games[5:])).chain == 2
    assert faults(COUNTING, "crash", columns(*games[:6]), columns(*games[6:])).chain == 1
    assert faults(COUNTING, "crash", columns(*games[:5], *games[6:]), columns(wrong)).chain == 2  # it came late


def test_games_that_come_one_by_one_are_judged_as_all_at_once() -> None:
    wrong = other(CHAIN[5], hash="ab" * 32)
    games = [*CHAIN[:2], other(CHAIN[2], hash=None), CHAIN[3], CHAIN[4], wrong, *CHAIN[6:9], CHAIN[10], CHAIN[11]]
    for check_of in (COUNTING, FairnessCheck(RuleBook(Rule(variant="nine_digits")), rejects=False)):
        one_by_one = [faults(check_of, "crash", columns(*games[:i]), columns(games[i])) for i in range(len(games))]
        assert sum(one_by_one, Faults()) == faults(check_of, "crash", columns(), columns(*games)) == Faults(1, 2)


def test_holes_and_games_without_hashes_break_no_chain() -> None:
    assert faults(COUNTING, "crash", columns(CHAIN[0]), columns(CHAIN[2], CHAIN[4])) == Faults(0, 0)
    assert faults(COUNTING, "crash", columns(CHAIN[0]), columns(other(CHAIN[1], hash=None), CHAIN[2])) == Faults(0, 0)
    assert faults(COUNTING, "crash", columns(), columns(game(1), game(2))) == Faults(0, 0)


@given(
    st.lists(st.tuples(st.sampled_from(("known", "new", "none")), st.booleans()), min_size=12, max_size=48),
    st.sampled_from([1, 7]),
)
def test_streams_that_are_looked_at_together_have_the_faults_of_each_by_the_definition(
    fates: list[tuple[str, bool]], second_rule: int
) -> None:
    """Each stream has games of one chain: some known, some new, in any order, some with the hash of another game."""
    rules = TableRules(Rule(), [(second_rule, Rule("another salt"))])
    arrivals, expected = [], Faults()
    for number in range(0, len(fates), len(CHAIN)):
        known: list[Game] = []
        new: list[Game] = []
        for (fate, is_right), one in zip(fates[number:], CHAIN, strict=False):
            held = one if is_right else other(one, hash=CHAIN[one.game_id % len(CHAIN)].hash)
            {"known": known, "new": new, "none": []}[fate].append(held)
        if new:
            arrivals.append(Arrival(f"s{number}", columns(*known), columns(*new)))
            every = sorted((*known, *new), key=lambda game: game.game_id)
            expected += Faults(
                sum(isinstance(check(one, rules.at(one.game_id)), Mismatch) for one in new),
                sum(
                    later.game_id == earlier.game_id + 1
                    and (earlier in new or later in new)
                    and not rules.begins_anew(later.game_id)
                    and not chain_holds(earlier, later)
                    for earlier, later in pairwise(every)
                ),
            )
    book = RuleBook(tables={arrival.stream: rules for arrival in arrivals})
    assert FairnessCheck(book, rejects=False).faults(arrivals) == expected


points = st.integers(100, 10_000) | st.integers(100, HUNDREDTHS_MAX)
salts = st.sampled_from((DEFAULT_SALT, "s", "x" * 64, "x" * 65, "y" * 200))


@given(st.lists(st.tuples(hashes(), points)), salts, st.sampled_from(get_args(Variant)))
def test_columns_are_judged_as_single_games_are(drawn: list[tuple[str, int]], salt: str, variant: Variant) -> None:
    rule = Rule(salt, variant)
    games = []
    for game_id, (digits, hundredths) in enumerate(drawn, 1):
        one = game(game_id, hundredths / 100, hash=digits)
        if hundredths % 2:  # half of them are fair
            verdict = check(one, rule)
            fits = verdict.calculated if isinstance(verdict, Mismatch) else None
            one = other(one, crash_point=min(fits or 1.0, HUNDREDTHS_MAX / 100))
        games.append(one)
    found = faults(FairnessCheck(RuleBook(rule), rejects=False), "crash", columns(), columns(*games))
    assert found.hash == sum(isinstance(check(one, rule), Mismatch) for one in games)
    assert found.chain == sum(chain_holds(a, b) is False for a, b in pairwise(games))


def test_a_rejection_says_what_would_have_been_right() -> None:
    wrong = other(CHAIN[0], crash_point=CHAIN[0].crash_point + 1)
    assert REJECTING.rejection("crash", CHAIN[0]) is None
    assert REJECTING.rejection("crash", game(1)) is None
    assert str(CHAIN[0].crash_point) in str(REJECTING.rejection("crash", wrong))
    assert COUNTING.rejection("crash", wrong) is None


def test_only_a_rule_that_rejects_has_a_name() -> None:
    assert COUNTING.rule == ""
    rules = {
        FairnessCheck(RuleBook(Rule(salt, variant)), rejects=True).rule
        for salt in ("a", "b")
        for variant in get_args(Variant)
    }
    assert len(rules) == 8


@pytest.mark.parametrize(("setting", "rejects"), [("off", None), ("count", False), ("reject", True)])
def test_the_setting_says_what_is_done(setting: str, rejects: bool | None) -> None:
    found = FairnessCheck.of(setting, RuleBook())  # type: ignore[arg-type]
    assert (None if found is None else found.rejects) is rejects


def test_after_a_reseed_old_games_keep_their_rule_and_the_new_chain_need_not_lead_to_the_old_one() -> None:
    new = Rule("another salt", "bustabit_v1", 5)
    games = [*CHAIN[:6], *chain_of_games(8, 6, first_id=7, rule=new)]
    reseeded = RuleBook(Rule(), {"crash": TableRules(Rule(), [(7, new)])})
    check = FairnessCheck(reseeded, rejects=False)
    assert faults(check, "crash", columns(), columns(*games)) == Faults()
    one_by_one = [faults(check, "crash", columns(*games[:i]), columns(games[i])) for i in range(len(games))]
    assert sum(one_by_one, Faults()) == Faults()
    late_first = faults(check, "crash", columns(*games[6:]), columns(*games[:6]))  # the old ones came last
    assert late_first == Faults()
    assert faults(COUNTING, "crash", columns(), columns(*games)).chain == 1
    assert faults(COUNTING, "crash", columns(), columns(*games)).hash > 0
    assert faults(check, "other", columns(), columns(*games)).hash > 0  # a rule is its stream's alone
    broken = [*games[:6], other(games[6], hash="ab" * 32), *games[7:]]
    assert faults(check, "crash", columns(), columns(*broken)) == Faults(1, 1)


def test_with_reject_each_game_is_judged_by_the_rule_of_its_stream_and_id() -> None:
    new = Rule("another salt")
    check = FairnessCheck(RuleBook(Rule(), {"b": TableRules(Rule(), [(7, new)])}), rejects=True)
    (later,) = chain_of_games(8, 1, first_id=7, rule=new)
    assert check.rejection("b", CHAIN[0]) is None
    assert check.rejection("b", later) is None
    assert check.rejection("a", later) is not None
    assert check.rejection("b", other(later, game_id=6)) is not None
