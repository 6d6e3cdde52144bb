"""How things are measured: runs, medians, spread, and what the figures were measured on."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version

import msgspec

LIBRARIES = ("crashfold", "aiokafka", "redis", "hiredis", "msgspec", "numpy", "uvloop")


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


class Report(msgspec.Struct, frozen=True):
    """A whole run of the harness."""

    machine: Machine
    seed: int
    runs: int
    figures: tuple[Figure, ...]


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


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
