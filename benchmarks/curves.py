"""Curves: how a cost grows with something, every point measured in every run.

A run visits all points before the next run begins, so that what the machine does meanwhile falls on all of them. A
curve with a `reference` is read as ratios, run by run, to the point there; one without in its own unit.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from benchmarks.measure import Figure, Provenance, announce, ratio
from crashfold.engine.cli import output

Costs = Mapping[str, float]
"""What one visit of a point measured, by the name of the line."""


class Point(msgspec.Struct, frozen=True):
    """A line's figure at `x`."""

    x: float
    figure: Figure


class Line(msgspec.Struct, frozen=True):
    """One cost as it grows."""

    name: str
    points: tuple[Point, ...]

    def ratios(self, reference: float) -> dict[float, Figure]:
        """Per point its value divided by that at `reference` in the same run."""
        base = next(point.figure.values for point in self.points if point.x == reference)
        return {point.x: ratio(self.name, point.figure.values, base) for point in self.points}


class Limit(msgspec.Struct, frozen=True):
    """What may be reached at most, at `x` or, without it, anywhere."""

    label: str
    value: float
    x: float | None = None


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """Some costs of one unit over the same quantity, `x`."""

    name: str
    title: str
    x: str
    unit: str
    lines: tuple[Line, ...]
    reference: float | None = None
    limit: Limit | None = None


class GrowthReport(Provenance, frozen=True, kw_only=True):
    """A whole run of `crashfold bench growth`."""

    curves: tuple[Curve, ...]


async def visited(
    name: str, xs: Sequence[float], runs: int, visit: Callable[[int], Awaitable[Costs]]
) -> dict[str, dict[float, list[float]]]:
    """Per line and point the values of `runs` runs, after one that does not count."""
    seen: dict[str, dict[float, list[float]]] = {}
    for run in range(runs + 1):
        for x in xs:
            announce(f"{name} {x:,}", run, runs)
            for line, value in (await visit(int(x))).items():
                values = seen.setdefault(line, {}).setdefault(x, [])
                if run:
                    values.append(value)
    return seen


def lines(seen: Mapping[str, Mapping[float, Sequence[float]]], unit: str, *names: str) -> tuple[Line, ...]:
    """Those lines out of what `visited` brought, or all."""
    return tuple(
        Line(name, tuple(Point(x, Figure(name, unit, tuple(values))) for x, values in seen[name].items()))
        for name in names or seen
    )


def show(curves: Sequence[Curve]) -> None:
    """The curves for people, one table each."""
    for curve in curves:
        rows = []
        for line in curve.lines:
            ratios = line.ratios(curve.reference) if curve.reference is not None else {}
            for point in line.points:
                low, high = point.figure.spread
                ratio = f"{ratios[point.x].median:.3g}" if ratios else None
                row = (f"{point.x:,.0f}", f"{point.figure.median:,.3g}", f"{low:,.3g} to {high:,.3g}", ratio)
                rows.append((line.name, *row))
        columns = ("cost", curve.x, curve.unit, "lowest to highest", f"× at {curve.reference or 0:,.0f}")
        output.print_table(
            curve.title,
            columns[: 5 if curve.reference is not None else 4],
            [row if curve.reference is not None else row[:4] for row in rows],
        )


def read(paths: Sequence[Path]) -> list[Curve]:
    """The curves of some reports; of two of the same name the later one."""
    reports = [msgspec.json.decode(path.read_bytes(), type=GrowthReport) for path in paths]
    return list({curve.name: curve for report in reports for curve in report.curves}.values())
