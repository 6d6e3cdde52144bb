import hmac
import json
import math
from fractions import Fraction
from hashlib import sha256
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashfold.schemas.fairness import (
    Match,
    Mismatch,
    NoHash,
    Rule,
    RuleBook,
    TableRules,
    chain_holds,
    chance_of_reaching,
    check,
    crash_point,
    previous_hash,
)
from tests.support.games import DATA, game, hashes, sample_games

NINE_DIGITS = Rule(variant="nine_digits")
FORMULAS: list[dict[str, Any]] = json.loads((DATA / "fairness_formulas.json").read_text())
VECTORS: list[dict[str, Any]] = json.loads((DATA / "fairness_vectors.json").read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["note"])
def test_published_vectors_hold_in_both_variants(vector: dict[str, Any]) -> None:
    assert crash_point(vector["hash"], Rule(vector["salt"])) == vector["crash_point"]
    assert crash_point(vector["hash"], Rule(vector["salt"], "nine_digits")) == vector["nine_digits"]


def test_the_vectors_are_all_there() -> None:
    assert len(VECTORS) == 20
    assert any(vector["crash_point"] != vector["nine_digits"] for vector in VECTORS)


def test_every_sample_game_matches_its_hash() -> None:
    for sample in sample_games():
        assert check(sample) == Match(sample.crash_point)


def test_the_sample_games_form_one_chain() -> None:
    assert all(chain_holds(older, newer) for older, newer in pairwise(sample_games()))


def test_the_hash_before_is_that_of_the_characters_not_of_the_bytes() -> None:
    digits = "4092dae09e5ce2eb3f685570619815eab16ab32c1c114acd5516673fc94a4480"
    assert previous_hash(digits) == sha256(digits.encode()).hexdigest()
    assert previous_hash(digits) != sha256(bytes.fromhex(digits)).hexdigest()


def test_the_verdict_is_a_match_a_mismatch_or_that_there_is_no_hash() -> None:
    zeros = "0" * 64
    assert check(game(1, 2.04, hash=zeros)) == Match(2.04)
    assert check(game(1, 2.05, hash=zeros)) == Mismatch(2.04)
    assert check(game(1, 2.04)) == NoHash()
    assert check(game(1, 1.24, hash=zeros), Rule("")) == Match(1.24)


def test_a_chain_holds_between_neighbours_only_and_says_nothing_without_hashes() -> None:
    newer = "ab" * 32
    older = previous_hash(newer)
    assert chain_holds(game(1, hash=older), game(2, hash=newer)) is True
    assert chain_holds(game(1, hash=newer), game(2, hash=older)) is False
    assert chain_holds(game(1, hash=previous_hash(older)), game(2, hash=newer)) is False
    assert chain_holds(game(1), game(2, hash=newer)) is None
    assert chain_holds(game(1, hash=older), game(2)) is None


@given(hashes(), st.text(st.characters(codec="ascii"), max_size=70))
def test_every_hash_has_a_crash_point_of_whole_hundredths(digits: str, salt: str) -> None:
    point = crash_point(digits, Rule(salt))
    assert point is not None
    assert point >= 1
    assert round(point * 100) / 100 == point


@given(st.binary(min_size=32, max_size=32), st.text(st.characters(codec="ascii"), max_size=70))
def test_the_exact_variant_is_the_formula_up_to_the_rounding_of_doubles(message: bytes, salt: str) -> None:
    r = int(hmac.new(salt.encode(), message, "sha256").hexdigest()[:13], 16)
    in_fractions = Fraction(99) / (1 - Fraction(r, 2**52))
    point = crash_point(message.hex(), Rule(salt))
    assert point is not None
    if in_fractions - math.floor(in_fractions) > Fraction(1, 10**6) and in_fractions < 10**6:
        assert point == max(1, math.floor(in_fractions) / 100)


def _with_x(monkeypatch: pytest.MonkeyPatch, r: int) -> None:
    """Make HMAC answer with `r` as its first 52 bits: hashes for the rarest X cannot be found by trying."""
    mac = (r << 204).to_bytes(32, "big")
    monkeypatch.setattr(hmac, "digest", lambda *_: mac)


def test_an_x_that_rounds_to_one_has_no_crash_point(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_x(monkeypatch, 2**52 - 1)
    digits = "0" * 64
    assert crash_point(digits) == 99 * 2**52 / 100
    assert crash_point(digits, NINE_DIGITS) is None
    assert check(game(1, 1.0, hash=digits), NINE_DIGITS) == Mismatch(None)


def test_the_largest_x_that_does_not_round_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_x(monkeypatch, math.ceil(0.9999999985 * 2**52))
    assert crash_point("0" * 64, NINE_DIGITS) == math.floor(99 / (1 - 0.999999999)) / 100
    _with_x(monkeypatch, math.ceil(0.99999999951 * 2**52))
    assert crash_point("0" * 64, NINE_DIGITS) is None


@pytest.mark.parametrize(("r", "point"), [(0, 1.0), (2**51, 1.98), (2**52 // 100, 1.0), (2**52 // 100 + 1, 1.0)])
def test_small_x_never_give_less_than_one(monkeypatch: pytest.MonkeyPatch, r: int, point: float) -> None:
    _with_x(monkeypatch, r)
    assert crash_point("0" * 64) == point


def test_a_half_in_the_tenth_digit_goes_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for j in range(103, 1024, 2):  # j / 1024 has ten significant digits, the last of which is 5
        _with_x(monkeypatch, j * 2**42)
        up = (j * 10**10 // 1024 + 5) // 10 / 10**9
        assert crash_point("0" * 64, NINE_DIGITS) == max(1, math.floor(99 / (1 - up)) / 100)


@pytest.mark.parametrize("digits", ["", "zz" * 32])
def test_a_hash_that_is_no_hash_and_a_salt_that_is_not_ascii_are_value_errors(digits: str) -> None:
    if digits:
        with pytest.raises(ValueError, match="non-hexadecimal"):
            crash_point(digits)
    with pytest.raises(ValueError, match="ascii"):
        crash_point("0" * 64, Rule("sält"))


@pytest.mark.parametrize("vector", FORMULAS, ids=lambda vector: f"{vector['table']} {vector['hash'][:8]}")
def test_the_formulas_of_other_tables_give_what_they_have_published(vector: dict[str, Any]) -> None:
    rule = Rule(vector["salt"], vector["variant"], vector["house_edge_percent"])
    assert crash_point(vector["hash"], rule) == vector["crash_point"]


def test_the_vectors_of_other_tables_have_instant_crashes_and_name_their_sources() -> None:
    assert {vector["table"] for vector in FORMULAS} >= {"bustabit until 2017", "bustabit from 2018", "Roobet", "Stake"}
    assert {vector["house_edge_percent"] for vector in FORMULAS if vector["crash_point"] == 1} >= {1, 3, 4, 5}
    assert all(vector["source"] for vector in FORMULAS)


def test_the_house_edge_is_in_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_x(monkeypatch, 2**51)  # X is a half
    points = {edge: crash_point("0" * 64, Rule(house_edge_percent=edge)) for edge in (0, 1, 2.5, 4, 60)}
    assert points == {0: 2.0, 1: 1.98, 2.5: 1.95, 4: 1.92, 60: 1.0}
    _with_x(monkeypatch, 2**51 - 2**20)  # i + 1 is half of 2^32
    points = {edge: crash_point("0" * 64, Rule(variant="stake", house_edge_percent=edge)) for edge in (0, 1, 4)}
    assert points == {0: 2.0, 1: 1.98, 4: 1.92}


@pytest.mark.parametrize(
    ("rule", "value", "chance"),
    [
        (Rule(), 2, 0.495),
        (Rule(house_edge_percent=0), 2, 0.5),
        (Rule(house_edge_percent=4), 2, 0.48),
        (Rule(variant="stake", house_edge_percent=4), 10, 0.096),
        (Rule(variant="bustabit_v1"), 2, 100 / 101 * 99 / 199),
        (Rule(variant="bustabit_v1", house_edge_percent=5), 2, 19 / 20 * 99 / 199),
        (Rule(variant="bustabit_v1", house_edge_percent=0), 1.01, 0.99),
        (Rule(variant="bustabit_v1", house_edge_percent=5), 1, 1.0),
    ],
)
def test_the_chance_of_reaching_a_crash_point_follows_from_formula_and_edge(
    rule: Rule, value: float, chance: float
) -> None:
    assert chance_of_reaching(value, rule) == pytest.approx(chance)


@pytest.mark.parametrize("value", [1.01, 1.5, 2, 10])
@pytest.mark.parametrize("edge", [1, 5])
@pytest.mark.parametrize("variant", ["exact", "bustabit_v1", "stake"])
def test_games_reach_a_crash_point_as_often_as_the_chance_says(variant: Any, edge: float, value: float) -> None:
    rule, count = Rule("some salt", variant, edge), 20_000
    points = [crash_point(sha256(b"%d" % n).hexdigest(), rule) for n in range(count)]
    share = sum(point is not None and point >= value for point in points) / count
    chance = chance_of_reaching(value, rule)
    assert abs(share - chance) < 4 * math.sqrt(chance * (1 - chance) / count)


def test_a_rule_holds_from_its_game_on_and_the_chain_begins_anew_with_it() -> None:
    old, newer, newest = Rule("old"), Rule("newer"), Rule("newest")
    rules = TableRules(old, [(500, newest), (100, newer)])
    assert [rules.at(id_) for id_ in (1, 99, 100, 499, 500, 2**53 - 1)] == [old, old, newer, newer, newest, newest]
    assert [id_ for id_ in (1, 99, 100, 101, 500) if rules.begins_anew(id_)] == [100, 500]
    assert TableRules(old, [(1, newer)]).at(1) is newer


def test_a_rule_book_has_rules_for_every_stream_and_a_name_that_changes_with_them() -> None:
    book = RuleBook(Rule("others"), {"b": TableRules(Rule("old"), [(7, Rule("new"))])})
    assert book.of("a").at(9) == Rule("others")
    assert (book.of("b").at(6), book.of("b").at(7)) == (Rule("old"), Rule("new"))
    names = {
        one.name
        for one in (
            book,
            RuleBook(Rule("others")),
            RuleBook(Rule("others", house_edge_percent=2)),
            RuleBook(Rule("others", "stake")),
            RuleBook(Rule("others"), {"b": TableRules(Rule("old"), [(8, Rule("new"))])}),
            RuleBook(Rule("others"), {"c": TableRules(Rule("old"), [(7, Rule("new"))])}),
        )
    }
    assert len(names) == 6
    assert RuleBook(Rule("s")).name == "exact:s"  # part of fingerprints that stand in Redis
