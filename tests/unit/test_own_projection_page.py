"""The code of docs/own-projection.md is run as it stands."""

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import projections
from crashfold.engine.testing import game
from crashfold.projections import ProjectionSettings, StreamState
from crashfold.schemas.game import encode

PAGE = Path(__file__).parents[2] / "docs" / "own-projection.md"
BLOCKS = dict(re.findall(r"^```python\n# (\S+)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE))


@pytest.fixture(autouse=True)
def records(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the page, where the page puts it."""
    module = ModuleType("projections.records")
    monkeypatch.setitem(sys.modules, "projections.records", module)
    exec(compile(BLOCKS["projections/records.py"], "docs/own-projection.md", "exec"), vars(module))
    return module


def test_the_page_has_a_module_an_entry_and_a_test() -> None:
    assert list(BLOCKS) == ["projections/records.py", "projections/__init__.py", "tests/unit/test_records.py"]
    assert PAGE.read_text().count("```python") == len(BLOCKS)


def test_the_entry_is_one_line_more_in_todays_tuple(records: ModuleType) -> None:
    line = "        Records(),\n"
    assert line in BLOCKS["projections/__init__.py"]
    assert BLOCKS["projections/__init__.py"].replace(line, "") == inspect.getsource(projections.plan)


def test_with_the_entry_the_read_model_has_records_and_another_fingerprint(records: ModuleType) -> None:
    scope: dict[str, Any] = {**vars(projections), "Records": records.Records}
    exec(compile(BLOCKS["projections/__init__.py"], "docs/own-projection.md", "exec"), scope)
    settings = ProjectionSettings()
    plan = scope["plan"](settings)
    model = StreamState.empty(plan).fold([game(1, 2.0), game(2, 11.5)]).state.keys()
    assert model["records"] == {"highest": encode(game(2, 11.5))}
    assert plan.fingerprint != projections.plan(settings).fingerprint


def _tests_of_the_page() -> list[str]:
    return re.findall(r"^def (test_\w+)", BLOCKS["tests/unit/test_records.py"], re.MULTILINE)


@pytest.mark.parametrize("name", _tests_of_the_page())
def test_the_tests_of_the_page_pass(name: str) -> None:
    scope: dict[str, Any] = {}
    exec(compile(BLOCKS["tests/unit/test_records.py"], "docs/own-projection.md", "exec"), scope)
    test: Callable[[], None] = scope[name]
    test()
