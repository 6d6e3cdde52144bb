"""An environment of its own for every peer, under `.cache/peers`, made from what is pinned beside this file."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from crashfold.engine.errors import CrashfoldError

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
_CACHE = _ROOT / ".cache" / "peers"
_UV = _ROOT / ".cache" / "uv" / "bin" / "uv"
_JAVA_SOURCES = _HERE / "programs" / "java"
_JAVA_PROGRAMS = {
    "kafka_streams": ("kafka_streams", "KafkaStreamsPeer"),
    "flink": ("flink", "FlinkPeer"),
    "flink_native": ("flink", "FlinkNativePeer"),
}
"""By peer, its Maven project and its main class."""
_FLINK_OPENS = ("java.util", "java.util.concurrent", "java.lang", "java.lang.invoke", "java.time")
"""Packages of Java in which Flink serializes objects by reflection."""
_SHARED = {"per_event": "handrolled", "pathway_native": "pathway"}
"""Programs that need what another one needs, by name."""


def command(name: str) -> list[str]:
    """How the peer's program is started, without its job; its environment is made first when it is not there.

    Raises CrashfoldError when it cannot be made, saying why.
    """
    if name in _JAVA_PROGRAMS:
        return _java_command(*_JAVA_PROGRAMS[name])
    environment = _SHARED.get(name, name)
    requirements = _HERE / "requirements" / f"{environment}.txt"
    home = _CACHE / environment
    if not _is_made(home, requirements):
        _run([str(_UV), "venv", "--quiet", "--clear", "--python", sys.executable, str(home)])
        python = str(home / "bin" / "python")
        _run([str(_UV), "pip", "install", "--quiet", "--python", python, "-r", str(requirements)])
        _note_made(home, requirements)
    return [str(home / "bin" / "python"), "-m", f"benchmarks.peers.programs.{name}"]


def _java_command(project: str, main_class: str) -> list[str]:
    home = _CACHE / project
    pom, shared = _JAVA_SOURCES / project / "pom.xml", _JAVA_SOURCES / "shared"
    sources = [pom, *sorted(shared.glob("*.java")), *sorted(pom.parent.glob("*.java"))]
    if not _is_made(home, *sources):
        maven = shutil.which("mvn")
        if maven is None:
            raise CrashfoldError("Java programs are built by Maven, and there is no mvn: apt-get install maven")
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        _run([maven, "-B", "-q", "-Dstyle.color=never", "-f", str(pom), f"-Ddirectory={home}", "package"])
        _note_made(home, *sources)
    classes = f"{home / 'classes'}:{home / 'libs'}/*"
    options = ["-Xmx512m", "-XX:-UsePerfData", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
    if project == "flink":
        options += [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _FLINK_OPENS]
    return ["java", *options, "-cp", classes, f"crashfold.peers.{main_class}"]


def _is_made(home: Path, *sources: Path) -> bool:
    made = home / "made-from"
    return made.exists() and made.read_text() == _digest(*sources)


def _note_made(home: Path, *sources: Path) -> None:
    (home / "made-from").write_text(_digest(*sources))


def _digest(*sources: Path) -> str:
    digest = hashlib.sha256(sys.executable.encode())
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CrashfoldError(f"{' '.join(command)}\n{(done.stdout + done.stderr)[-2000:]}")
