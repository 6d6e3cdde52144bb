"""The roadmap's lines are true as far as a test can tell: files and tests are there, and figures are served."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from crashfold.engine.adapters.prometheus.api import ApiMetrics
from crashfold.engine.adapters.prometheus.engine import Metrics

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
ITEMS = 90
"""Lines of the checklist, and those beyond it: none is left out."""

_ROW = re.compile(r"^\| (.+) \| `([^`]+)` \| `([^`]+)` \|$", re.MULTILINE)
_TEST = re.compile(r"^\s*(?:async )?def (test_\w+)\(", re.MULTILINE)
_METRIC = re.compile(r"\b(?:crashfold|process)_\w+[a-z]")


def rows() -> list[tuple[str, str, str]]:
    return _ROW.findall((DOCS / "roadmap.md").read_text())


def test_every_line_of_the_checklist_is_there() -> None:
    text = (DOCS / "roadmap.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| item |")]
    assert len(lines) == len(rows()) == ITEMS


@pytest.fixture(scope="module")
def tests() -> frozenset[str]:
    """The name of every test."""
    return frozenset(name for file in (ROOT / "tests").rglob("*.py") for name in _TEST.findall(file.read_text()))


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_what_a_line_names_is_there(row: tuple[str, str, str], tests: frozenset[str]) -> None:
    _item, place, shown_by = row
    assert (ROOT / place).exists(), place
    assert shown_by in tests


def served() -> Iterator[str]:
    """Every name of a sample."""
    for metrics in (Metrics(), ApiMetrics()):
        for family in metrics.registry.collect():
            yield family.name
            yield f"{family.name}_total"


def _named(page: str) -> set[str]:
    return set(_METRIC.findall((DOCS / page).read_text()))


def test_the_figures_to_watch_during_the_rollout_are_served() -> None:
    named = _named("rollout.md")
    assert len(named) >= 10
    assert named - set(served()) == set()


def test_the_figures_of_the_tuning_guide_are_served() -> None:
    named = _named("tuning.md")
    assert len(named) >= 8
    assert named - set(served()) == set()
