"""The rollout guide, walked through on real servers with the answers that were recorded of the old system."""

import json
import re
from collections import Counter

from tests.support.deployment import NewDeployment
from tests.support.games import DATA
from tests.support.machine import ROOT, Machine, blocks

GUIDE = ROOT / "docs" / "rollout.md"
LAST_GAME = "curl -sf -D - -o /dev/null 'http://127.0.0.1:8000/api/analytics/last-game/min-crash-point/2'"


def comparisons(machine: Machine) -> Counter[tuple[str, str]]:
    """How often the answers of an aggregate compared as they did."""
    found: Counter[tuple[str, str]] = Counter()
    for sample, value in machine.services["serve"].metrics().items():
        if value and (
            match := re.match(r'crashfold_api_shadow_comparisons_total\{aggregate="(\w+)",outcome="(\w+)"', sample)
        ):
            found[match[1], match[2]] += int(value)
    return found


def test_the_guide_leads_from_computed_answers_to_precomputed_ones_and_back(
    new_deployment: NewDeployment, redis_url: str
) -> None:
    deployment = new_deployment(redis_url, settings={"projections": {}})
    machine = Machine(deployment, redis_url)
    (machine.directory / "games.jsonl.gz").write_bytes((DATA / "games.jsonl.gz").read_bytes())
    fold, follow, shadow, recorded, by_hand, switch, back, all_over = blocks(GUIDE)
    try:
        machine.block(fold)
        machine.block(follow)

        machine.block(shadow)
        machine.block(recorded)
        machine.block(by_hand)
        seen = comparisons(machine)
        assert {aggregate for aggregate, outcome in seen if outcome == "equal"} >= {"occurrences", "last_games"}
        assert [outcome for _, outcome in seen if outcome != "equal"] == []

        machine.block(switch)
        assert "x-crashfold-source: precomputed" in machine.said[LAST_GAME].lower()
        assert ("last_games", "equal") not in comparisons(machine)

        machine.block(back)
        assert "x-crashfold-source: computed" in machine.said[LAST_GAME].lower()

        machine.block(all_over)
        assert comparisons(machine) == Counter()

        spoiled = json.loads((DATA / "api_examples.jsonl").read_text().splitlines()[0])
        spoiled["expect_data"]["occurrences"]["count"] += 1
        (machine.directory / "spoiled.jsonl").write_text(json.dumps(spoiled))
        machine.block([again := "tools/ask-again http://127.0.0.1:8000 spoiled.jsonl"], {again: 1})
        assert "data.occurrences.count: 14 became 13" in machine.said[again]
    finally:
        machine.close()
