"""Curves as SVG, the same bytes for the same figures: no dates, fixed ids, text as text.

Imports matplotlib, of the dependency group `bench`, when something is drawn and not before.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.curves import Curve, Limit, Line
from crashfold.engine.errors import CrashfoldError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INCHES = (7.2, 4.2)
COLORS = ("#1f5fa8", "#c2571a", "#3b7d3b", "#7a4ea3")
GREY = "#777777"
MARKERS = ("o", "s", "^", "D")
STYLE: Any = {
    "svg.hashsalt": "crashfold",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def draw(curves: Iterable[Curve], directory: Path) -> list[Path]:
    """One file a curve, named after it."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure as Drawing
    except ImportError as error:
        raise CrashfoldError("plots need matplotlib: pip install matplotlib, or `make setup` in a checkout") from error
    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    with mpl.rc_context(STYLE):
        for curve in curves:
            drawing = Drawing(figsize=INCHES, layout="constrained")
            _draw(curve, drawing.add_subplot())
            path = directory / f"{curve.name}.svg"
            drawing.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
            drawn.append(path)
    return drawn


def _draw(curve: Curve, axes: "Axes") -> None:
    for line, color, marker in zip(curve.lines, COLORS, MARKERS, strict=False):
        xs, middle, low, high = _values(curve, line)
        axes.plot(xs, middle, color=color, marker=marker, markersize=5, linewidth=1.6, label=line.name)
        axes.fill_between(xs, low, high, color=color, alpha=0.15, linewidth=0)
    match curve.limit:
        case Limit(label, value, None):
            axes.axhline(value, color=GREY, linestyle="--", linewidth=1, label=label)
        case Limit(label, value, float(x)):
            axes.plot([x], [value], "x", color=GREY, markersize=8, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_title(curve.title)
    axes.set_xlabel(curve.x)
    axes.set_ylabel(curve.unit if curve.reference is None else f"× the cost at {curve.reference:,.0f}")
    ticks = sorted({point.x for line in curve.lines for point in line.points})
    axes.set_xticks(ticks, [f"{x:,.0f}" for x in ticks])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.yaxis.set_minor_formatter(lambda value, _: "")
    axes.grid(which="major", axis="y", color="#dddddd", linewidth=0.8)
    axes.legend(loc="best")


def _values(curve: Curve, line: Line) -> tuple[list[float], list[float], list[float], list[float]]:
    """Points, medians, and the lowest and highest run, as they are drawn."""
    xs = [point.x for point in line.points]
    if curve.reference is None:
        figures = [point.figure for point in line.points]
    else:
        figures = list(line.ratios(curve.reference).values())
    return xs, [one.median for one in figures], [one.spread[0] for one in figures], [one.spread[1] for one in figures]
