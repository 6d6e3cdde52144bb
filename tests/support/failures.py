"""`docs/failures.md`: the faults that tests bring about, out of the tests themselves.

A test that brings a fault about is marked: `@pytest.mark.fault("name", user="…", operator="…")`. `pytest --failures`
writes down how often each was tried; `python -m tests.support.failures` makes the page. Imports the standard library
alone. What is always true: rows come from the marks in the sources, and numbers from `docs/figures/failures.json`; a
test proves that the page has just these.
"""

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "failures.md"
RESULTS: Final = ROOT / "docs" / "figures" / "failures.json"
PLACES: Final = ("contract", "e2e", "integration", "soak")

HEAD: Final = """\
# Failures

What breaks around Crashfold, what a user sees of it, and what an operator does. Each row is a test on real servers
(redis-server, Valkey, Apache Kafka, nginx); *tried* is how often the fault was brought about and withstood when this
page was made, over all variants of the test. `make failures` makes the page: rows come from marks in the tests, numbers
from their runs.

| fault | tried | what a user sees | what an operator does | test |
|---|---|---|---|---|
"""
SOAK: Final = """
## All at once

A [soak](soak.md) of {minutes:g} minutes with seed {seed}: {records} records, {games} games, {faults} faults, of which
some were under way at the same time; {answers} answers and {events} live events were compared with the recomputation of
their version. Wrong: {wrongs}.

| fault | times |
|---|---|
"""
SIMULATION: Final = """
## In simulation

The engine's own code on [simulated servers](simulation.md): {schedules} schedules (seeds {seeds}), {commits} commits;
{failed} failed.

| event | times |
|---|---|
"""


class Fault(NamedTuple):
    """A mark, and the test that has it."""

    name: str
    user: str
    operator: str
    path: str
    test: str


def marked() -> Iterator[Fault]:
    """All faults, in order of files and lines."""
    for place in PLACES:
        for path in sorted((ROOT / "tests" / place).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    for mark in node.decorator_list:
                        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                            words: dict[str, Any] = {
                                word.arg or "": ast.literal_eval(word.value) for word in mark.keywords
                            }
                            name = ast.literal_eval(mark.args[0])
                            where = str(path.relative_to(ROOT))
                            yield Fault(name, words["user"], words["operator"], where, node.name)


def page(results: dict[str, Any]) -> str:
    """The page, with these results."""
    lines = [HEAD]
    tried: dict[str, dict[str, int]] = results["tests"]
    for fault in sorted(marked(), key=lambda fault: fault.name.casefold()):
        found = tried.get(fault.test)
        times = "not yet" if found is None else str(found["passed"])
        if found is not None and found["failed"]:
            times += f", {found['failed']} failed"
        link = f"[{Path(fault.path).name}](../{fault.path}) `{fault.test}`"
        lines.append(f"| {fault.name} | {times} | {fault.user} | {fault.operator} | {link} |\n")
    if soak := results.get("soak"):
        lines.append(SOAK.format(**soak))
        lines += [f"| {name} | {times} |\n" for name, times in soak["by_name"].items()]
    if simulation := results.get("simulation"):
        lines.append(SIMULATION.format(**simulation))
        lines += [f"| {name} | {times} |\n" for name, times in simulation["by_name"].items()]
    return "".join(lines)


def read_results() -> dict[str, Any]:
    """The results of the last runs."""
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"tests": {}}
    return results


def write_results(results: dict[str, Any]) -> None:
    """Keep them."""
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


class Counting:
    """A plugin of pytest: counts how often each marked test went well. A test that brings its fault about many times
    says so by `record_property("times", …)`."""

    def __init__(self) -> None:
        self._tried: dict[str, dict[str, int]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called with each phase of each test, where it was started, also under xdist."""
        properties = dict(report.user_properties)
        if "fault" not in properties or report.skipped or (report.when != "call" and report.passed):
            return
        found = self._tried.setdefault(properties["fault"], {"passed": 0, "failed": 0})
        found["passed" if report.passed else "failed"] += int(properties.get("times", 1))

    def pytest_sessionfinish(self) -> None:
        """Called at the end."""
        results = read_results()
        names = {fault.test for fault in marked()}
        tests = {**results["tests"], **self._tried}
        write_results({**results, "tests": {name: tests[name] for name in sorted(tests.keys() & names)}})


def main() -> None:
    """Write the page; with a report of a soak, as `make soak ARGS="--report FILE"` writes it, that goes in first."""
    results = read_results()
    if len(sys.argv) > 1:
        report = json.loads(Path(sys.argv[1]).read_text())
        results["soak"] = {
            **{name: report[name] for name in ("minutes", "seed", "records", "games", "wrongs")},
            "faults": sum(report["faults"].values()),
            "answers": report["seen"].get("answers compared", 0),
            "events": sum(times for name, times in report["seen"].items() if name.startswith("events: ")),
            "by_name": report["faults"],
        }
        write_results(results)
    PAGE.write_text(page(read_results()))


if __name__ == "__main__":
    main()
