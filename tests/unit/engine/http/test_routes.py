"""The examples of the specification's data: every request, from 20,000 real games, with the answer they must get."""

import gzip
from pathlib import Path
from typing import Any

import msgspec
import pytest

from crashfold.engine.http.requests import ApiRequest
from crashfold.engine.http.routes import answer
from crashfold.engine.read.times import Zones
from crashfold.projections.games import Bands, Games
from crashfold.projections.settings import ProjectionSettings
from crashfold.schemas.game import Game

DATA = Path(__file__).parents[3] / "data"
EXAMPLES: list[dict[str, Any]] = [
    msgspec.json.decode(line) for line in (DATA / "api_examples.jsonl").read_bytes().splitlines()
]
NOW_MS = 1_768_480_500_000
"""Past the moment that every example asks about."""


@pytest.fixture(scope="module")
def window() -> Games:
    lines = gzip.decompress((DATA / "games.jsonl.gz").read_bytes()).splitlines()
    return Games.of(Bands([]), [msgspec.json.decode(line, type=Game) for line in lines])


@pytest.fixture(scope="module")
def zones() -> Zones:
    return Zones()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example['method']} {example['path']}")
def test_every_example_gets_its_answer(example: dict[str, Any], window: Games, zones: Zones) -> None:
    request = ApiRequest(
        example["method"],
        example["path"],
        example["query"],
        b"" if example["body"] is None else msgspec.json.encode(example["body"]),
        {name.lower(): value for name, value in example["headers"].items()},
    )
    status, body = answer(request, window, NOW_MS, settings=ProjectionSettings(), zones=zones)
    assert status == example["expect_status"]
    served = msgspec.json.decode(msgspec.json.encode(body))
    if status == 200:
        assert served["status"] == "success"
        assert_same(served["data"], example["expect_data"])
        for member in ("count", "pagination"):
            if f"expect_{member}" in example:
                assert served[member] == example[f"expect_{member}"]
    else:
        assert served["status"] == status
        assert served["type"].startswith("urn:crashfold:problem:")


def assert_same(served: Any, expected: Any) -> None:
    """The same data: numbers with a fraction to 1e-9, everything else exactly."""
    match expected:
        case dict():
            assert served.keys() == expected.keys()
            for key, value in expected.items():
                assert_same(served[key], value)
        case list():
            assert len(served) == len(expected)
            for one, other in zip(served, expected, strict=True):
                assert_same(one, other)
        case float():
            assert served == pytest.approx(expected, abs=1e-9, rel=0)
        case _:
            assert served == expected
            assert type(served) is type(expected)
