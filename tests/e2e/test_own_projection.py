"""docs/own-projection.md and examples/projections: the package is installed, found, folded, rebuilt and verified."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from crashfold.schemas.game import encode
from tests.support.deployment import Deployment, NewDeployment, chain, in_order

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "own-projection.md"
EXAMPLE: Final = ROOT / "examples" / "projections"
UV: Final = ROOT / ".cache" / "uv" / "bin" / "uv"
BLOCKS: Final = re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("name", "text"), BLOCKS, ids=[name for name, _ in BLOCKS])
def test_the_page_shows_the_files_of_the_example(name: str, text: str) -> None:
    assert (EXAMPLE / name).read_text() == text


def test_the_page_shows_a_module_a_test_an_entry_point_and_a_delta() -> None:
    assert len(BLOCKS) == 4


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the example is installed."""
    if not UV.exists():
        pytest.skip("uv is not at .cache/uv/bin/uv: `make setup` puts it there")
    target = tmp_path_factory.mktemp("packages")
    words = [UV, "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", target, EXAMPLE]
    done = subprocess.run(
        [str(word) for word in [*words, "--python", sys.executable]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return target


def test_the_tests_of_the_example_pass(packages: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-v",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(EXAMPLE),
            str(EXAMPLE / "tests"),
        ],
        cwd=EXAMPLE,
        env={**os.environ, "PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "6 passed" in done.stdout


def by_the_hour(deployment: Deployment) -> int:
    """The games in all hours together."""
    return sum(map(int, deployment.redis.hvals(deployment.key("hours"))))


def test_an_installed_projection_is_folded_rebuilt_and_verified(
    new_deployment: NewDeployment, redis_url: str, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = new_deployment(redis_url)
    monkeypatch.setenv("PYTHONPATH", str(packages))
    games = chain(300)
    deployment.publish(in_order(games[:200]))
    deployment.caught_up()
    highest = max(games[:200], key=lambda game: game.hundredths)
    assert deployment.redis.get(deployment.key("highest")) == encode(highest)
    assert by_the_hour(deployment) == 200
    deployment.publish(in_order(games[200:]))
    deployment.caught_up()
    assert by_the_hour(deployment) == 300
    assert deployment.run("verify").code == 0
    deployment.done("replay")
    assert by_the_hour(deployment) == 300
    assert deployment.run("verify").code == 0


def test_without_the_package_nothing_goes_on_unseen(
    new_deployment: NewDeployment, redis_url: str, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = new_deployment(redis_url)
    monkeypatch.setenv("PYTHONPATH", str(packages))
    deployment.publish(in_order(chain(50)))
    deployment.caught_up()
    monkeypatch.delenv("PYTHONPATH")
    started = deployment.run("run", "--until-caught-up")
    assert started.code == 78
    assert "crashfold replay" in started.err
    refused = deployment.run("replay")
    assert refused.code == 78, refused.err
    assert "highest" in refused.err
    assert "hours" in refused.err
    assert "--drop-keys" in refused.err
    assert by_the_hour(deployment) == 50
    assert deployment.run("replay", "--drop-keys").code == 0
    assert by_the_hour(deployment) == 0
    assert deployment.run("verify").code == 0


def test_a_projection_that_cannot_be_kept_is_refused_by_name(
    new_deployment: NewDeployment, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = new_deployment(redis_url)
    (deployment.directory / "mine.py").write_text(
        "class Mine:\n"
        "    name, version, aggregates = 'mine', 1, ('my:floors',)\n"
        "    def empty(self): return 0\n"
        "    def fold(self, state, games): return state + len(games)\n"
        "    def keys(self, moment): return {'my:floors': b'1'}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(deployment.directory))
    deployment.configure({"projections": {"own": ["mine:Mine"]}})
    for command in ("run", "replay", "verify"):
        done = deployment.run(command)
        assert done.code == 78, done.err
        assert "projection mine: the aggregate 'my:floors'" in done.err
        assert "Traceback" not in done.err
