"""The files that a repository has for those who come to it: they say what is true, and their programs run."""

import subprocess
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]
PACKAGES = ("engine", "projections", "schemas")


def test_the_workflow_runs_what_a_change_has_to_pass_on_every_python_that_is_promised() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yaml").read_text())["jobs"]
    job = jobs["run"]
    assert any(".ci/run" in step.get("run", "") for step in job["steps"])
    assert any(step.get("run") == "make coverage" for step in jobs["coverage"]["steps"])
    promised = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    pythons = {line.rpartition(" ")[2] for line in promised if line.startswith("Programming Language :: Python :: 3.")}
    assert set(job["strategy"]["matrix"]["python"]) == pythons


def test_release_notes_are_the_version_s_part_of_the_changelog() -> None:
    known = [str(ROOT / "tools" / "release-notes"), "0.1.0"]
    notes = subprocess.run(known, capture_output=True, text=True, check=True).stdout
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert notes.strip() in changelog.partition("## [0.1.0]")[2]
    assert "## [" not in notes
    unknown = subprocess.run([ROOT / "tools" / "release-notes", "9.9.9"], capture_output=True, text=True, check=False)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "9.9.9" in unknown.stderr


def test_every_folder_that_has_an_owner_is_there() -> None:
    lines = (ROOT / ".github" / "CODEOWNERS").read_text().splitlines()
    owned = [line.split()[0] for line in lines if line.startswith("/")]
    assert owned != []
    assert [path for path in owned if not (ROOT / path.strip("/")).is_dir()] == []


def test_a_unit_test_stands_where_its_module_does() -> None:
    """`tests/unit/engine/runtime/test_rebuild.py` is of `engine/runtime/rebuild.py`."""
    unit = ROOT / "tests" / "unit"
    tests = [path.relative_to(unit) for name in PACKAGES for path in (unit / name).rglob("test_*.py")]
    assert len(tests) > 60
    of = {test: ROOT / test.parent / test.stem.removeprefix("test_") for test in tests}
    assert [test for test, place in of.items() if not (place.with_suffix(".py").exists() or place.is_dir())] == []
