"""docs/extending.md, recipe by recipe: the diff does what it says, and the lists of files are those of the code."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from crashfold.engine.settings import load
from crashfold.engine.testing import game, given
from crashfold.projections import ProjectionSettings, StreamState, plain, plan

ROOT: Final = Path(__file__).parents[3]
PAGE: Final = (ROOT / "docs" / "extending.md").read_text()
PACKAGES: Final = ("engine", "projections", "schemas")

FIELD: Final = """
from crashfold.engine.testing import game, given
from crashfold.projections import ProjectionSettings

games = [game(n, 2.0, players=n) for n in range(1, 9)]
given(*games, settings=ProjectionSettings(own=())).expect("games", {one.game_id: one for one in games})
"""


def section(title: str) -> str:
    """What stands under a heading."""
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def diff_of(title: str) -> str:
    """The diff of a recipe."""
    (found,) = re.findall(r"^```diff\n(.*?)^```$", section(title), re.DOTALL | re.MULTILINE)
    return str(found)


def files_of(title: str) -> list[str]:
    """The files that a recipe lists."""
    return re.findall(r"^\| `([\w/.]+\.py)` \|", section(title), re.MULTILINE)


def touched_by(named: "re.Pattern[str]") -> set[str]:
    """The files of the product in which that is named."""
    return {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if named.search(path.read_text())
    }


def counted(what: str) -> int:
    """How many files the table at the top says."""
    (count,) = re.findall(rf"^\| {what} \| (?:its own folder, and )?(\d+) \|", PAGE, re.MULTILINE)
    return int(count)


def test_an_optional_field_is_one_line_and_is_folded_and_stored(tmp_path: Path) -> None:
    diff = diff_of("An optional field of the event")
    assert len(re.findall(r"^\+\+\+ b/", diff, re.MULTILINE)) == counted("an optional field of the event")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / "crashfold" / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "crashfold" / "__init__.py", tmp_path / "crashfold")
    (tmp_path / "recipe.diff").write_text(diff)
    applied = run(tmp_path / "crashfold", "git", "apply", "--unidiff-zero", "--recount", str(tmp_path / "recipe.diff"))
    assert applied.returncode == 0, applied.stderr
    done = run(tmp_path, sys.executable, "-c", FIELD)
    assert done.returncode == 0, done.stderr


def test_a_kind_of_predicate_touches_the_files_that_are_listed() -> None:
    named = re.compile(r"""["']range["']|\.range\b(?!\()|^ +range: """, re.MULTILINE)
    assert touched_by(named) == {*files_of("A kind of predicate")}
    assert len(files_of("A kind of predicate")) == counted("a kind of predicate")


def test_a_kind_of_predicate_is_counted_like_the_others_and_read_from_every_layer_of_settings() -> None:
    settings = ProjectionSettings(range=("2-5", "10-10.5"), own=())
    games = [game(n, (100 + n % 1200) / 100) for n in range(1, 3000)]
    keys = StreamState.empty(plan(settings)).fold(games).state.keys()
    assert keys == plain.read_model(settings, games)
    matches = sum(2 <= one.crash_point <= 5 for one in games)
    assert keys.hash("occurrences:range:2-5")["count"] == b"%d" % matches
    assert "series:range:10-10.5" in keys
    given(*games[:20], settings=settings).expect_none("series:range:3-4")
    for text in ("2-5,10-20", '["2-5", "10-20"]'):
        assert load(None, {"CRASHFOLD_PROJECTIONS__RANGE": text}, {}).settings.projections.range == ("2-5", "10-20")
    for wrong in ("5-2", "2", "2-x", "0-5", "2-"):
        with pytest.raises(ValueError, match=r"^range: "):
            ProjectionSettings(range=(wrong,))


def test_an_aggregate_touches_the_files_that_are_listed() -> None:
    named = re.compile(r"\b(RecordsProjection|LongestRun|RECORDS|HIGHEST_GAME)\b")
    assert touched_by(named) == {*files_of("An aggregate with its route")}
    assert len(files_of("An aggregate with its route")) == counted("an aggregate with its route")


def test_a_store_is_opened_by_the_files_that_are_listed() -> None:
    opened = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "engine").rglob("*.py")
        if "engine/adapters/redis" not in str(path) and "crashfold.engine.adapters.redis" in path.read_text()
    }
    assert opened == {*files_of("A store")}
    assert len(opened) == counted("a store")


def run(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """A command in that folder, which imports what lies there."""
    environ = {**os.environ, "PYTHONPATH": str(folder), "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    return subprocess.run(words, cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False)
