"""`make audit` says what it knows and never takes silence for good news."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest


def loaded() -> Any:
    path = Path(__file__).parents[3] / "tools" / "audit.py"
    spec = importlib.util.spec_from_file_location("audit", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


AUDIT = loaded()
GOOD = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
SKIPPED = {"name": "c", "skip_reason": "Dependency not found"}


@pytest.mark.parametrize(
    ("packages", "code", "told"),
    [
        ([GOOD], 0, "none known of 1"),
        ([GOOD, BAD], 1, "CVE-1"),
        ([GOOD, SKIPPED], 75, "NOT LOOKED UP for 1 of 2"),
        ([BAD, SKIPPED], 1, "NOT LOOKED UP for 1 of 2"),
    ],
)
def test_a_package_that_was_skipped_is_no_package_without_faults(
    packages: list[object], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert AUDIT.judged(json.dumps({"dependencies": packages}), "") == code
    assert told in capsys.readouterr().out


def test_a_service_that_is_away_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert AUDIT.judged("", "ERROR: cannot reach the service") == 75
    assert "NOT LOOKED UP" in capsys.readouterr().out


@pytest.mark.parametrize("licence", ["MIT", "BSD-3-Clause", "Apache-2.0 OR BSD-2-Clause", "PSF-2.0"])
def test_permissive_licences_are_allowed(licence: str) -> None:
    assert AUDIT.ALLOWED.search(licence)


@pytest.mark.parametrize("licence", ["", "GPL-3.0-only", "AGPL-3.0", "Proprietary"])
def test_others_are_not(licence: str) -> None:
    assert not AUDIT.ALLOWED.search(licence)
