"""How things are measured: runs, medians, spread, and what the figures were measured on."""

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec
from cyclopts import validators

LIBRARIES = ("crashfold", "aiokafka", "cramjam", "lz4", "redis", "hiredis", "msgspec", "numpy", "uvloop")


class Figure(msgspec.Struct, frozen=True):
    """A quantity measured several times. `values` are the runs in order, without the warm-up."""

    name: str
    unit: str
    values: tuple[float, ...]
    note: str = ""

    @property
    def median(self) -> float:
        """The figure to quote."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest run."""
        return min(self.values), max(self.values)


class Machine(msgspec.Struct, frozen=True):
    """What the figures were measured on."""

    cpu: str
    cores: int
    memory_gib: float
    system: str
    python: str
    libraries: dict[str, str]
    servers: dict[str, str]


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Where a report comes from. `revision` is that of the code, with `+` when files had been changed since; None
    outside a checkout. `command` repeats it."""

    began: str = msgspec.field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
    revision: str | None = msgspec.field(default_factory=lambda: revision())
    command: str = msgspec.field(default_factory=lambda: " ".join(["crashfold", *sys.argv[1:]]))
    machine: Machine
    seed: int
    runs: int


FILE: Final = validators.Path(dir_okay=False)
"""Of the name of a report: refused before anything is measured, and not when there is nowhere to write."""


class Report(Provenance, frozen=True, kw_only=True):
    """A whole run of `crashfold bench`. `functions` are those in which profiled programs spend most: µs of CPU a
    game, by program and function."""

    figures: tuple[Figure, ...]
    functions: dict[str, dict[str, float]] = {}


def write(report: Provenance, path: Path) -> None:
    """Write the report as JSON, with the median and the spread of every figure spelled out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(_spelled_out(report)), indent=1) + b"\n")


def revision() -> str | None:
    """The commit this code is of, with `+` when files have been changed since."""
    root = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def announce(name: str, run: int, runs: int) -> None:
    """Say on standard error what is measured now; run 0 is the warm-up."""
    sys.stderr.write(f"{name}: {f'run {run} of {runs}' if run else 'warm-up'} …\n")


def machine(servers: dict[str, str]) -> Machine:
    """This machine, with the servers that took part."""
    pages, page_size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Machine(
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        memory_gib=round(pages * page_size / 2**30, 1),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        libraries={name: version(name) for name in LIBRARIES},
        servers=servers,
    )


def microseconds(
    name: str, work: Callable[[], object], *, runs: int, per: int = 1, note: str = "", calls: int = 1
) -> Figure:
    """The time of `work`, called `calls` times a run after one run of warm-up, in µs per item (`per` items a call)."""
    values = []
    for run in range(runs + 1):
        started_s = time.perf_counter()
        for _ in range(calls):
            work()
        if run:
            values.append((time.perf_counter() - started_s) * 1e6 / (calls * per))
    return Figure(name, "µs", tuple(values), note)


def ratio(name: str, of: Sequence[float], to: Sequence[float], note: str = "") -> Figure:
    """Run by run the one divided by the other."""
    return Figure(name, "×", tuple(a / b for a, b in zip(of, to, strict=True)), note)


def _spelled_out(value: Any) -> Any:
    """The value as plain containers; figures with what follows from their runs."""
    match value:
        case Figure():
            low, high = value.spread
            return msgspec.structs.asdict(value) | {"median": value.median, "lowest": low, "highest": high}
        case msgspec.Struct():
            return {name: _spelled_out(content) for name, content in msgspec.structs.asdict(value).items()}
        case tuple():
            return [_spelled_out(item) for item in value]
    return value


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def cpu_s_of(pid: int) -> float:
    """The processor time that a process has taken."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as line:
        fields = line.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
