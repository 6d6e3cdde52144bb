"""Curves of the benchmarks: ratios within a run, and drawings that are the same for the same figures."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from benchmarks.curves import Curve, GrowthReport, Limit, lines, read, visited
from benchmarks.measure import machine, write
from benchmarks.plots import draw

SEEN = {"fold": {1.0: [10.0, 20.0, 30.0], 10.0: [5.0, 8.0, 60.0]}}
CURVE = Curve(name="batch", title="Time per game", x="games", unit="µs", lines=lines(SEEN, "µs"), reference=1.0)


def report(*curves: Curve) -> GrowthReport:
    return GrowthReport(machine=machine({}), seed=1, runs=3, curves=curves)


def test_ratios_are_of_values_of_the_same_run() -> None:
    ratios = CURVE.lines[0].ratios(1.0)
    assert ratios[10.0].values == (0.5, 0.4, 2.0)
    assert ratios[10.0].median == 0.5
    assert ratios[1.0].values == (1.0, 1.0, 1.0)


async def test_every_run_visits_all_points_and_the_first_one_does_not_count() -> None:
    visits: list[int] = []

    async def visit(x: int) -> dict[str, float]:
        visits.append(x)
        return {"cost": float(len(visits))}

    seen = await visited("points", (1, 10), 2, visit)
    assert visits == [1, 10] * 3
    assert seen == {"cost": {1: [3.0, 5.0], 10: [4.0, 6.0]}}


def test_the_same_figures_make_the_same_drawing(tmp_path: Path) -> None:
    limited = replace(CURVE, name="limited", reference=None, limit=Limit("a limit", 9.0))
    first = [path.read_bytes() for path in draw([CURVE, limited], tmp_path / "a")]
    again = [path.read_bytes() for path in draw([CURVE, limited], tmp_path / "b")]
    assert first == again
    assert all(b"<svg" in drawing and b"<dc:date>" not in drawing for drawing in first)


def test_what_is_written_is_read_back_and_the_later_of_two_curves_counts(tmp_path: Path) -> None:
    later = replace(CURVE, title="Time per game, again")
    write(report(CURVE), tmp_path / "1.json")
    write(report(later), tmp_path / "2.json")
    assert read([tmp_path / "1.json"]) == [CURVE]
    assert read([tmp_path / "1.json", tmp_path / "2.json"]) == [later]


def test_a_report_says_what_it_was_measured_on() -> None:
    found = report()
    assert found.machine.libraries["msgspec"]
    assert found.began.endswith("Z")
    assert found.command.startswith("crashfold")


@pytest.mark.parametrize("name", ["median", "lowest", "highest"])
def test_a_written_figure_has_its_median_and_spread_beside_its_runs(name: str, tmp_path: Path) -> None:
    write(report(CURVE), tmp_path / "report.json")
    assert f'"{name}":' in (tmp_path / "report.json").read_text()
