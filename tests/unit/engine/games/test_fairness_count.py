"""Games that do not fit their hashes are counted, or rejected."""

from collections.abc import Sequence

import msgspec
import pytest

from crashfold.engine.errors import (
    FingerprintMismatch,
)
from crashfold.engine.games.fairness import FairnessCheck
from crashfold.schemas.chain import chain_of_games
from crashfold.schemas.fairness import RuleBook, crash_point
from crashfold.schemas.game import Game
from tests.support.games import game
from tests.support.in_memory import GAMES, MemoryDeployment


def unfair_games() -> tuple[Sequence[Game], int]:
    """A chain of which one game does not fit its hash and two links are broken, and the offset of that game."""
    games = list(chain_of_games(3, 20))
    games[7] = msgspec.structs.replace(games[7], crash_point=games[7].crash_point + 1)
    games[12] = msgspec.structs.replace(games[12], hash=None)
    games[16] = game(games[16].game_id, games[16].crash_point, hash="ab" * 32)
    games[16] = msgspec.structs.replace(games[16], crash_point=_point("ab" * 32))
    return games, 7


def _point(digits: str) -> float:
    found = crash_point(digits)
    assert found is not None
    return found


@pytest.mark.parametrize(("rejects", "folded"), [(False, 20), (True, 19)])
async def test_unfair_games_are_counted_once_or_rejected(rejects: bool, folded: int) -> None:
    deployment = MemoryDeployment(fairness=FairnessCheck(RuleBook(), rejects=rejects))
    games, wrong = unfair_games()
    deployment.publish(*games, *games)
    async with deployment.engine() as engine:
        await deployment.catch_up(engine)
        assert engine.value("fairness_mismatches_total", kind="hash") == (2 if rejects else 1)
        assert engine.value("fairness_mismatches_total", kind="chain") == 2
    assert await deployment.games() == folded
    again = {(20 + wrong, "fairness"), (wrong, "fairness")} if rejects else set()
    late = {(offset, "late") for offset in range(20, 30 - rejects)} - {(20 + wrong, "late")}
    assert {one for one in deployment.reasons() if one[1] == "fairness"} == again
    assert late <= set(deployment.reasons())
    await deployment.check()
    await deployment.rebuild()
    assert await deployment.games() == folded
    await deployment.check()


async def test_without_a_check_nothing_is_counted() -> None:
    deployment = MemoryDeployment()
    deployment.publish(*unfair_games()[0])
    async with deployment.engine() as engine:
        await deployment.catch_up(engine)
        assert engine.value("fairness_mismatches_total", kind="hash") == 0
    assert await deployment.games() == 20


async def test_a_rule_that_rejects_makes_another_state_and_one_that_counts_does_not() -> None:
    deployment = MemoryDeployment()
    deployment.publish(*GAMES[:5])
    await deployment.run()
    deployment.fairness = FairnessCheck(RuleBook(), rejects=False)
    await deployment.run()
    deployment.fairness = FairnessCheck(RuleBook(), rejects=True)
    with pytest.raises(FingerprintMismatch):
        await deployment.run()
    await deployment.rebuild()
    deployment.publish(*GAMES[5:])
    await deployment.run()
    await deployment.check()
