"""What a soak came to, as JSON and as text. Imports numpy and msgspec."""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

WARM_S: Final = 60.0
"""What a process takes in its first minute says nothing of what it will take."""


class Line(msgspec.Struct, frozen=True):
    """Something that took time again and again: how often, seconds, and by how many seconds more each minute."""

    count: int
    median_s: float
    p99_s: float
    median_grows_s_per_minute: float


class Memory(msgspec.Struct, frozen=True):
    """What the longest life of a process took: MiB, and how many more each minute after the first one."""

    life_s: float
    end_mib: float
    grows_mib_per_minute: float | None


class Report(msgspec.Struct, frozen=True):
    """A run."""

    seed: int
    minutes: float
    duration_s: float
    records: int
    games: int
    faults: dict[str, int]
    seen: dict[str, int]
    lives: dict[str, int]
    ends: dict[str, dict[str, int]]
    answers: Line
    events: Line
    memory: dict[str, Memory]
    wrongs: int
    wrong: list[str]

    def __str__(self) -> str:
        faults = ", ".join(f"{name} {times}" for name, times in self.faults.items())
        lines = [
            f"soak of {self.minutes:g} minutes, seed {self.seed}: {self.records} records, {self.games} games, "
            f"{sum(self.faults.values())} faults",
            f"faults: {faults}",
            *(f"  {name}: {times}" for name, times in self.seen.items()),
            f"answers: {_said(self.answers)}",
            f"events after their game was on the topic: {_said(self.events)}",
        ]
        for name, memory in self.memory.items():
            grows = "" if memory.grows_mib_per_minute is None else f", {memory.grows_mib_per_minute:+.2f} MiB a minute"
            ends = ", ".join(f"{times} times {code}" for code, times in self.ends[name].items())
            lines.append(
                f"{name}: {self.lives[name]} lives ({ends or 'none ended'}); the longest {memory.life_s:.0f} s, "
                f"{memory.end_mib:.0f} MiB at its end{grows}"
            )
        if self.wrongs:
            lines += [f"WRONG, {self.wrongs} times:", *(f"  {one}" for one in self.wrong)]
        else:
            lines.append("nothing was wrong")
        return "\n".join(lines)


def _said(line: Line) -> str:
    return (
        f"{line.count}, median {line.median_s * 1000:.1f} ms, 99 % within {line.p99_s * 1000:.0f} ms, "
        f"the median grows by {line.median_grows_s_per_minute * 1000:+.3f} ms a minute"
    )


def line_of(taken: Sequence[tuple[float, float]]) -> Line:
    """Of moments and durations, in seconds."""
    if not taken:
        return Line(0, 0.0, 0.0, 0.0)
    at_s, took_s = np.array(taken).T
    minutes = np.unique(at_s // 60)
    medians = [float(np.median(took_s[at_s // 60 == minute])) for minute in minutes]
    grows = float(np.polyfit(minutes, medians, 1)[0]) if len(minutes) > 2 else 0.0
    return Line(len(taken), float(np.median(took_s)), float(np.quantile(took_s, 0.99)), grows)


def slope(resident: Sequence[tuple[int, float, int]]) -> Memory:
    """Of life, moment in seconds, bytes: the life that was the longest."""
    lives: dict[int, list[tuple[float, int]]] = {}
    for life, at_s, size in resident:
        lives.setdefault(life, []).append((at_s, size))
    if not lives:
        return Memory(0.0, 0.0, None)
    longest = max(lives.values(), key=lambda samples: samples[-1][0] - samples[0][0])
    at_s, size = np.array(longest, dtype=float).T
    life_s = float(at_s[-1] - at_s[0])
    warm = at_s > at_s[0] + WARM_S
    grows = None if life_s < 3 * WARM_S else float(np.polyfit(at_s[warm] / 60, size[warm] / 2**20, 1)[0])
    return Memory(life_s, float(size[-1]) / 2**20, grows)
