"""What stands in deploy/ fits the code: rules name metrics that are served, alerts have tests and runbooks."""

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from engine.adapters.api_metrics import ApiMetrics
from engine.adapters.metrics import Metrics

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = PROMETHEUS / "crashfold.rules.yaml"
TESTS = sorted(PROMETHEUS.glob("*.tests.yaml"))
DASHBOARDS = ROOT / "deploy" / "grafana" / "build.py"
RUNBOOKS = ROOT / "docs" / "runbooks"
THEIRS = frozenset({"up", "process_start_time_seconds", "process_cpu_seconds_total", "process_resident_memory_bytes"})
"""Metrics of Prometheus itself and of its client library."""


def rules(kind: str) -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        yield from (rule for rule in group["rules"] if kind in rule)


def served() -> set[str]:
    """Every name under which a sample is served."""
    names = set()
    for metrics in (Metrics(), ApiMetrics()):
        for family in metrics.registry.collect():
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
            names |= {family.name + suffix for suffix in suffixes}
    return names


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\b((?:crashfold|process)_\w+|up)\b(?!\s*\()", expression)) - {"crashfold_api", "process"}


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    return found


@pytest.mark.parametrize("tested", TESTS, ids=lambda path: path.name)
def test_the_rules_do_what_their_tests_say(promtool: str, tested: Path) -> None:
    done = subprocess.run([promtool, "test", "rules", tested], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_to_fire() -> None:
    fired = {
        check["alertname"]
        for path in TESTS
        for test in yaml.safe_load(path.read_text())["tests"]
        for check in test["alert_rule_test"]
        if check["exp_alerts"]
    }
    assert fired == {rule["alert"] for rule in rules("alert")}


def test_every_alert_has_a_severity_an_objective_and_a_runbook() -> None:
    for rule in rules("alert"):
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert rule["annotations"]["objective"], rule["alert"]
        page = ROOT / rule["annotations"]["runbook_url"]
        assert f"`{rule['alert']}`" in page.read_text(), rule["alert"]
        assert rule["alert"] in (RUNBOOKS / "README.md").read_text(), rule["alert"]


def test_every_rule_asks_for_metrics_that_are_served() -> None:
    recorded = {rule["record"] for rule in rules("record")}
    asked = {name for rule in [*rules("record"), *rules("alert")] for name in metrics_in(rule["expr"])}
    assert {name for name in asked if ":" not in name} - served() - THEIRS == set()
    assert all(":" not in name or name in recorded for name in asked)


@pytest.fixture(scope="module")
def dashboards() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboards", DASHBOARDS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dashboards"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def test_the_dashboards_are_as_their_builder_says(dashboards: ModuleType) -> None:
    for board in dashboards.BOARDS:
        assert (dashboards.DASHBOARDS / f"{board.uid}.json").read_text() == dashboards.built(board), board.uid


def test_every_panel_asks_for_metrics_that_are_served(dashboards: ModuleType) -> None:
    asked = {name for board in dashboards.BOARDS for query in dashboards.queries(board) for name in metrics_in(query)}
    assert asked - served() - THEIRS == set()
    assert len(asked) > 30
