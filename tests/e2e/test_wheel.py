"""What is installed: the wheel takes one name in site-packages, and works in an empty environment."""

import os
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from crashfold.engine.adapters.embedded import free_port
from crashfold.schemas.chain import chain_of_games
from crashfold.schemas.game import encode
from tests.support.deployment import Service

ROOT: Final = Path(__file__).parents[2]
UV: Final = ROOT / ".cache" / "uv" / "bin" / "uv"
FOLD: Final = """
from crashfold.projections import ProjectionSettings, StreamState, plan
from crashfold.schemas.chain import chain_of_games

state = StreamState.empty(plan(ProjectionSettings(min=(2, 10))))
print(state.fold(list(chain_of_games(seed=1, games=1000))).state.totals.games)
"""


def done(*words: object, cwd: Path, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**(environ if environ is not None else os.environ)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not UV.exists():
        pytest.skip("uv is not at .cache/uv/bin/uv: `make setup` puts it there")
    out = tmp_path_factory.mktemp("dist")
    built = done(UV, "build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", out, cwd=ROOT)
    assert built.returncode == 0, built.stderr
    return next(out.glob("*.whl"))


def bare() -> dict[str, str]:
    """The environment without settings of ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CRASHFOLD_")}


def installed(tmp_path: Path, what: str) -> Path:
    """An empty environment with that in it; its folder of programs."""
    environ = {**os.environ, "VIRTUAL_ENV": str(tmp_path / "env")}
    made = done(UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "env", cwd=tmp_path, environ=environ)
    assert made.returncode == 0, made.stderr
    put = done(UV, "pip", "install", "--quiet", what, cwd=tmp_path, environ=environ)
    assert put.returncode == 0, put.stderr
    return tmp_path / "env" / "bin"


def test_the_wheel_has_one_package_and_says_that_it_is_typed(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"crashfold"}
    assert "crashfold/py.typed" in names
    assert "crashfold/engine/adapters/redis/lua/commit.lua" in names
    assert "crashfold/engine/http/page/index.html" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_library_alone_needs_numpy_and_msgspec_and_meets_no_folder_called_schemas(
    wheel: Path, tmp_path: Path
) -> None:
    programs = installed(tmp_path, str(wheel))
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "__init__.py").write_text("raise SystemExit('this is not ours')")
    folded = done(programs / "python", "-c", FOLD, cwd=tmp_path)
    assert (folded.stdout, folded.stderr) == ("1000\n", "")
    there = done(UV, "pip", "list", "--format", "freeze", "--python", programs / "python", cwd=tmp_path).stdout
    assert {line.partition("==")[0].partition(" @")[0] for line in there.splitlines()} == {
        "crashfold",
        "msgspec",
        "numpy",
    }
    command = done(programs / "crashfold", "run", cwd=tmp_path)
    assert command.returncode == 1
    assert "pip install 'crashfold[server]'" in command.stderr
    assert "Traceback" not in command.stderr


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The commands of the wheel with everything that they need, in an environment that has nothing else."""
    directory = tmp_path_factory.mktemp("installed")
    yield installed(directory, f"{wheel}[server,embedded]")
    shutil.rmtree(directory)


def test_the_demo_runs_out_of_the_wheel_in_an_empty_environment(programs: Path, tmp_path: Path) -> None:
    demo = done(programs / "crashfold", "demo", "--games", "500", "--once", cwd=tmp_path, environ=bare())
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "500" in demo.stdout
    bench = done(programs / "crashfold", "bench", cwd=tmp_path, environ=bare())
    assert bench.returncode == 2
    assert "clone the repository" in bench.stderr


def test_serve_answers_out_of_the_wheel_in_an_empty_environment(programs: Path, redis_url: str, tmp_path: Path) -> None:
    games = tmp_path / "games.jsonl"
    games.write_bytes(b"".join(encode(game) + b"\n" for game in chain_of_games(seed=1, games=300)))
    words = ("--file", games, "--redis.url", redis_url)
    replay = done(programs / "crashfold", "replay", *words, cwd=tmp_path, environ=bare())
    assert replay.returncode == 0, replay.stderr
    port, log = free_port(), tmp_path / "log"
    serve = [str(programs / "crashfold"), "serve", "--redis.url", redis_url, "--api.port", str(port)]
    with log.open("wb") as err, subprocess.Popen(serve, cwd=tmp_path, env=bare(), stderr=err) as server:
        service = Service(server, port, log)
        try:
            service.until(lambda: service.is_ready, "it is ready")
            streams = service.probe("/api/streams")[1]["data"]["streams"]
            assert [one["total_games"] for one in streams] == [300]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as page:
                assert b"<title>" in page.read()
        finally:
            assert service.terminate()[0] == 0
