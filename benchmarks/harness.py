"""`crashfold bench`: starts real servers, measures, prints a table and writes a JSON report.

Every comparison is a ratio within a run: the contestants take turns, run by run, on the same topic.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from benchmarks import api, api_live, capacity, curves, live, micro, profiles, tables, topic
from benchmarks import guard as guards
from benchmarks.curves import GrowthReport
from benchmarks.growth import DIMENSIONS, Dimension
from benchmarks.growth import curves as curves_of
from benchmarks.measure import FILE, Figure, Report, machine, write
from benchmarks.plots import draw as draw_curves
from benchmarks.servers import quiet, running_servers
from crashfold.engine.cli import options, output
from crashfold.engine.errors import CrashfoldError
from crashfold.schemas.chain import chain_of_games

TABLES = 10_000
RESULTS = Path(__file__).parent / "results"

Part = Literal["micro", "commit", "topic", "codecs", "profile", "live", "linger", "tables", "full", "api", "api-live"]
PARTS: tuple[Part, ...] = (
    "micro",
    "commit",
    "topic",
    "codecs",
    "profile",
    "live",
    "linger",
    "tables",
    "full",
    "api",
    "api-live",
)

app = App(name="bench", help="Measure, print a table, write a report.")


@app.default
def bench(
    *parts: Part,
    games: int = 200_000,
    runs: int = 5,
    seed: int = 1,
    rate: float = 1000.0,
    seconds: float = 10.0,
    embedded: bool = False,
    out: Annotated[Path | None, Parameter(help="Where the JSON report goes.", validator=FILE)] = None,
) -> int:
    """Measure, print a table, write a report.

    Parameters
    ----------
    parts
        micro: decode, fold, delta, load. commit: the script on a real server. topic: from Kafka to committed Redis
        state, beside a bare loop. codecs: the same from compressed topics. profile: where its time goes. live: the
        delay at a steady rate. linger: the same with other settings. tables: 10,000 of them. full: what sets the rate
        at which one Redis is full. api: answers over HTTP, new and kept. api-live: how soon readers see what is
        committed. All by default.
    games
        On the topic, and behind the API.
    runs
        Counted runs of each, after one that is not.
    seed
        Of the chain of games.
    rate
        Games a second in the live part.
    seconds
        How long each run of the live part publishes.
    embedded
        On the embedded broker and Valkey, although Apache Kafka and redis-server could be had.
    """
    if games < 1000 or runs < 1:
        raise CrashfoldError("--games must be 1000 or more, --runs 1 or more")
    report = options.run(_measure, parts or PARTS, games, runs, seed, rate, seconds, embedded)
    show(report)
    path = out or RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    write(report, path)
    output.print_error(f"report: {path}")
    return 0


@app.command
def growth(
    *dimensions: Dimension,
    games: int = 200_000,
    runs: int = 5,
    seed: int = 1,
    long: bool = False,
    embedded: bool = False,
    plots: Annotated[Path | None, Parameter(help="Draw each curve as SVG into this directory.")] = None,
    out: Annotated[Path | None, Parameter(help="Where the JSON report goes.", validator=FILE)] = None,
) -> int:
    """Measure how cost grows, print tables, write a report.

    Parameters
    ----------
    dimensions
        With what it grows; all by default.
    games
        On the topic, where the number of games is not what grows.
    runs
        Counted runs of each, after one that is not.
    seed
        Of the chains of games.
    long
        Histories of 10 and 20 million games too: 4 GB of disk.
    embedded
        On the embedded broker and Valkey, although Apache Kafka and redis-server could be had.
    """
    report = options.run(_grow, dimensions or DIMENSIONS, games, runs, seed, long, embedded)
    curves.show(report.curves)
    path = out or RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-growth.json"
    write(report, path)
    output.print_error(f"report: {path}")
    if plots is not None:
        draw_curves(report.curves, plots)
    return 0


@app.command
def guard(*, rebase: bool = False, embedded: bool = False) -> int:
    """Compare ratios of CPU time with those in the repository; exit code 1 when one is lost.

    Parameters
    ----------
    rebase
        Make what is measured now the ratios in the repository.
    embedded
        On the embedded broker and Valkey, although Apache Kafka and redis-server could be had.
    """
    verdicts = options.run(_guard, rebase, embedded)
    rows = [
        (
            one.name,
            f"{one.known.median:.3g} ±{one.known.noise:.0%}",
            f"{one.found.median:.3g} ±{one.found.noise:.0%}",
            f"{one.loss:+.0%}",
            one.attempts,
            "lost" if one.is_lost else "",
        )
        for one in verdicts
    ]
    columns = ("ratio", "baseline", "now", "change", "attempts", "")
    output.print_table("CPU time, worse is more", columns, rows)
    return 1 if any(one.is_lost for one in verdicts) else 0


@app.command(name="capacity")
def capacity_(
    *,
    load: Sequence[tuple[int, float]] = (),
    games: int = capacity.FULL_GAMES,
    seed: int = 1,
    embedded: bool = False,
    out: Annotated[Path | None, Parameter(help="Where the JSON report goes.", validator=FILE)] = None,
) -> int:
    """Measure what commits cost here, and work out what loads ask for.

    Parameters
    ----------
    load
        Streams, and the games of all of them in a second; may be given several times. Some examples by default.
    games
        That each stream has had, which decides how much memory it takes.
    seed
        Of the chain of games.
    embedded
        On the embedded Valkey, although redis-server could be had.
    """
    loads = [capacity.Load(*one) for one in load] or capacity.LOADS
    if any(one.streams < 1 or one.games_per_s <= 0 for one in loads):
        raise CrashfoldError("--load takes a number of streams and a number of games a second, both above 0")
    report = options.run(_capacity, loads, games, seed, embedded)
    capacity.show(report)
    path = out or RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-capacity.json"
    write(report, path)
    output.print_error(f"report: {path}")
    return 0


@app.command
def draw(*reports: Path, to: Path) -> int:
    """Draw the curves of growth reports as SVG; of two curves of the same name the later one.

    Parameters
    ----------
    reports
        JSON, written by `crashfold bench growth`.
    to
        The directory.
    """
    for path in draw_curves(curves.read(reports), to):
        output.print_error(str(path))
    return 0


def show(report: Report) -> None:
    """The figures for people."""
    if answers := api.rows(report.figures):
        output.print_table("answers over HTTP: ms, and requests/s", api.COLUMNS, answers)
    rows = [
        (one.name, f"{one.median:,.2f}", f"{one.spread[0]:,.2f} to {one.spread[1]:,.2f}", one.unit, one.note)
        for one in report.figures
        if not api.has_row(one)
    ]
    columns = ("figure", "median", "lowest to highest", "unit", "of what")
    output.print_table(f"median of {report.runs} runs", columns, rows)


async def _grow(
    dimensions: Sequence[Dimension], games: int, runs: int, seed: int, long: bool, embedded: bool
) -> GrowthReport:
    quiet()
    async with running_servers(embedded) as servers:
        found = await curves_of(servers, dimensions, games, runs, seed, long)
        return GrowthReport(machine=machine(servers.names), seed=seed, runs=runs, curves=tuple(found))


async def _capacity(loads: Sequence[capacity.Load], games: int, seed: int, embedded: bool) -> capacity.CapacityReport:
    quiet()
    async with running_servers(embedded) as servers:
        costs = await capacity.measured(servers, list(chain_of_games(seed, games)), seed)
        return capacity.CapacityReport(
            machine=machine(servers.names),
            seed=seed,
            runs=1,
            costs=costs,
            needs=tuple(capacity.needs(one, costs) for one in loads),
        )


async def _guard(rebase: bool, embedded: bool) -> list[guards.Verdict]:
    quiet()
    async with running_servers(embedded) as servers:
        pairs = await guards.ratios(servers)
        if rebase:
            baseline = await guards.rebased(pairs)
            guards.write(baseline)
            # Measured again in this process some ratios would be others: it gets memory that it has had before.
            return [guards.Verdict(name, known, known, guards.ALLOWED) for name, known in baseline.ratios.items()]
        return await guards.judged(pairs, guards.read(), machine({}).cpu)


async def _measure(
    parts: Sequence[Part], games: int, runs: int, seed: int, rate: float, seconds: float, embedded: bool
) -> Report:
    quiet()
    chain = list(chain_of_games(seed, max(games + api.MORE_GAMES, int(rate * seconds * 2), tables.HISTORY)))
    found: list[Figure] = []
    functions: dict[str, dict[str, float]] = {}
    if "micro" in parts:
        found += micro.figures(chain[: min(games, 100_000)], runs)
    names: dict[str, str] = {}
    if set(parts) - {"micro"}:
        async with running_servers(embedded) as servers:
            names = servers.names
            if "commit" in parts:
                found += await micro.commit_figures(servers.redis_url, chain[: min(games, 60_000)], runs)
            if "topic" in parts:
                found += await topic.figures(servers, chain[:games], runs)
            if "codecs" in parts:
                found += await topic.codec_figures(servers, chain[:games], runs)
            if "profile" in parts:
                figures, functions = await profiles.figures(servers, games, runs, seed)
                found += figures
            if "live" in parts:
                found += await live.figures(servers, chain, runs, rate, seconds)
            if "linger" in parts:
                found += await live.linger_figures(servers, chain, runs, rate, seconds)
            if "tables" in parts:
                found += await tables.figures(servers, chain, TABLES, rate, seconds)
            if "full" in parts:
                found += await tables.saturation_figures(servers, chain[: tables.HISTORY])
            if "api" in parts:
                found += await api.figures(servers.redis_url, chain, games, runs)
            if "api-live" in parts:
                found += await api_live.agreement_figures(servers.redis_url, chain, games, runs)
                found += await api_live.stream_figures(servers, chain, games, runs)
                found += await api_live.tab_figures(servers.redis_url, chain, games, runs)
    return Report(machine=machine(names), seed=seed, runs=runs, figures=tuple(found), functions=functions)
