"""What stands in deploy/ fits the code: rules name metrics that are served, alerts have tests and runbooks."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
import yaml

from crashfold.engine.adapters.prometheus.api import ApiMetrics
from crashfold.engine.adapters.prometheus.engine import Metrics
from crashfold.engine.settings import load, settings_by_name

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
MANIFESTS = sorted(path for path in (DEPLOY / "kubernetes").glob("*.yaml") if path.name != "kustomization.yaml")
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


def missing(what: str) -> NoReturn:
    """Skip the test; in CI fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        missing("promtool is not installed (Debian: prometheus)")
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


@cache
def dashboards_builder() -> ModuleType:
    """deploy/grafana/build.py."""
    spec = importlib.util.spec_from_file_location("dashboards", DASHBOARDS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dashboards"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def dashboards() -> ModuleType:
    return dashboards_builder()


def test_the_dashboards_are_as_their_builder_says(dashboards: ModuleType) -> None:
    for board in dashboards.BOARDS:
        assert (dashboards.DASHBOARDS / f"{board.uid}.json").read_text() == dashboards.built(board), board.uid


def test_every_panel_asks_for_metrics_that_are_served(dashboards: ModuleType) -> None:
    asked = {name for board in dashboards.BOARDS for query in dashboards.queries(board) for name in metrics_in(query)}
    assert asked - served() - THEIRS == set()
    assert len(asked) > 30


def run_tool(name: str, *args: str | Path) -> None:
    """A tool of the environment that these tests run in says nothing against a file."""
    done = subprocess.run([Path(sys.executable).parent / name, *args], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_file_is_one() -> None:
    run_tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")


def test_the_image_is_made_as_images_should_be() -> None:
    run_tool("hadolint", DEPLOY / "Dockerfile")


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_has_only_what_kubernetes_knows(manifest: Path) -> None:
    run_tool("kubernetes-validate", "--strict", manifest)


def test_the_kustomization_names_every_manifest() -> None:
    kustomization = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())
    assert sorted(kustomization["resources"]) == [path.name for path in MANIFESTS]
    for generated in kustomization["configMapGenerator"]:
        for name in generated["files"]:
            load(DEPLOY / "kubernetes" / name, {}, {})


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in MANIFESTS:
        for thing in yaml.safe_load_all(path.read_text()):
            for container in thing.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ()):
                yield thing["metadata"]["name"], container


def test_every_variable_of_a_deployment_is_a_setting() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    units = "".join(path.read_text() for path in sorted((DEPLOY / "systemd").iterdir()))
    named = {name for service in compose.values() for name in service.get("environment", ())}
    named |= {variable["name"] for _, container in containers() for variable in container["env"]}
    named |= set(re.findall(r"CRASHFOLD_\w+", units + (DEPLOY / "Dockerfile").read_text()))
    ours = {name.removesuffix("_FILE") for name in named if name.startswith("CRASHFOLD_")} - {"CRASHFOLD_REVISION"}
    known = {setting.variable for setting in settings_by_name().values()}
    assert ours - known == set()
    assert len(ours) > 8


def test_no_container_may_do_more_than_it_needs() -> None:
    for name, container in containers():
        assert container["securityContext"]["readOnlyRootFilesystem"], name
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys(), name
    for name, service in yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].items():
        assert name == "topics" or "healthcheck" in service, name
        assert service.get("image") != "crashfold" or service["read_only"], name


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_takes_the_unit(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze is not installed (Debian: systemd)")
    installed = tmp_path / unit.name.replace("@", "@1")
    installed.write_text(unit.read_text().replace("/opt/crashfold/bin/crashfold", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", installed], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_make_secrets_makes_each_once(tmp_path: Path) -> None:
    script = tmp_path / "make-secrets"
    shutil.copy(DEPLOY / "make-secrets", script)
    subprocess.run([script], check=True, capture_output=True)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    wanted = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["secrets"]
    assert {f"secrets/{name}" for name in made} == {secret["file"] for secret in wanted.values()}
    assert all(re.fullmatch(r"[0-9a-f]{32}", secret) for secret in made.values())
    assert len(set(made.values())) == len(made)
    subprocess.run([script], check=True, capture_output=True)
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == made
