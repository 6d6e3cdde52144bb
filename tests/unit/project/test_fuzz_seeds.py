"""Each seed of the fuzzer, and each input that it once failed on, passes its target's check."""

from pathlib import Path

import pytest

from tests.fuzz.__main__ import SEEDS, TARGETS, target
from tests.fuzz.oracle import Unclear, game_in

INPUTS = sorted(path for name in TARGETS for path in (SEEDS / name).iterdir())


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_seed_passes_the_check_of_its_target(path: Path) -> None:
    target(path.parent.name).check(path.read_bytes())


def test_every_target_has_seeds() -> None:
    assert {path.parent.name for path in INPUTS} == set(TARGETS)


def test_the_oracle_knows_games_from_what_is_none() -> None:
    def is_game(name: str) -> bool:
        return game_in((SEEDS / "decoding" / name).read_bytes()) is not None

    assert all(map(is_game, ("full", "small", "extra", "nested")))
    assert not any(map(is_game, ("float_id", "nan", "upper_hash", "array", "too_nested", "bad_utf8", "key")))
    with pytest.raises(Unclear):
        is_game("twice")
