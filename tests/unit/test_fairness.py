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

from crashfold.schemas.fairness import Match, Mismatch, NoHash, chain_holds, check, crash_point, previous_hash
from tests.support.games import DATA, game, hashes, sample_games

VECTORS: list[dict[str, Any]] = json.loads((DATA / "fairness_vectors.json").read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["note"])
def test_published_vectors_hold_in_both_variants(vector: dict[str, Any]) -> None:
    assert crash_point(vector["hash"], vector["salt"]) == vector["crash_point"]
    assert crash_point(vector["hash"], vector["salt"], "exact") == vector["crash_point"]
    assert crash_point(vector["hash"], vector["salt"], "nine_digits") == vector["nine_digits"]


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
    assert check(game(1, 1.24, hash=zeros), salt="") == Match(1.24)


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
    point = crash_point(digits, salt)
    assert point is not None
    assert point >= 1
    assert round(point * 100) / 100 == point


@given(st.binary(min_size=32, max_size=32), st.text(st.characters(codec="ascii"), max_size=70))
def test_the_exact_variant_is_the_formula_up_to_the_rounding_of_doubles(message: bytes, salt: str) -> None:
    r = int(hmac.new(salt.encode(), message, "sha256").hexdigest()[:13], 16)
    in_fractions = Fraction(99) / (1 - Fraction(r, 2**52))
    point = crash_point(message.hex(), salt)
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
    assert crash_point(digits, variant="nine_digits") is None
    assert check(game(1, 1.0, hash=digits), variant="nine_digits") == Mismatch(None)


def test_the_largest_x_that_does_not_round_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_x(monkeypatch, math.ceil(0.9999999985 * 2**52))
    assert crash_point("0" * 64, variant="nine_digits") == math.floor(99 / (1 - 0.999999999)) / 100
    _with_x(monkeypatch, math.ceil(0.99999999951 * 2**52))
    assert crash_point("0" * 64, variant="nine_digits") is None


@pytest.mark.parametrize(("r", "point"), [(0, 1.0), (2**51, 1.98), (2**52 // 100, 1.0), (2**52 // 100 + 1, 1.0)])
def test_small_x_never_give_less_than_one(monkeypatch: pytest.MonkeyPatch, r: int, point: float) -> None:
    _with_x(monkeypatch, r)
    assert crash_point("0" * 64) == point


def test_a_half_in_the_tenth_digit_goes_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for j in range(103, 1024, 2):  # j / 1024 has ten significant digits, the last of which is 5
        _with_x(monkeypatch, j * 2**42)
        up = (j * 10**10 // 1024 + 5) // 10 / 10**9
        assert crash_point("0" * 64, variant="nine_digits") == max(1, math.floor(99 / (1 - up)) / 100)


@pytest.mark.parametrize("digits", ["", "zz" * 32])
def test_a_hash_that_is_no_hash_and_a_salt_that_is_not_ascii_are_value_errors(digits: str) -> None:
    if digits:
        with pytest.raises(ValueError, match="non-hexadecimal"):
            crash_point(digits)
    with pytest.raises(ValueError, match="ascii"):
        crash_point("0" * 64, "sält")
