"""`make bench-peers`: set the peers up, run them in turn, check every result, print one table, write a JSON report."""

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from subprocess import CalledProcessError
from typing import Annotated

import msgspec
from cyclopts import App, Parameter

from benchmarks.contestants import Outcome
from benchmarks.measure import FILE, Machine, announce, machine, revision
from benchmarks.peers import environments
from benchmarks.peers.catalogue import Peer, chosen
from benchmarks.peers.contest import Contest, topic_of
from benchmarks.servers import assignments, check, forget, running_servers
from benchmarks.topic import contest as contest_own
from benchmarks.topics import fill, one_stream
from crashfold.engine.cli import options, output
from crashfold.engine.errors import CrashfoldError
from crashfold.schemas.chain import chain_of_games

RESULTS = Path(__file__).parents[1] / "results"
SEED = 1
OURS = ("bare", "batches", "replay", "run")
"""Run by the project's own environment, as contestants of the harness."""
UNCHECKED = ("bare", "batches", "confluent")

Entrant = tuple[Peer, str]

app = App(name="python -m benchmarks.peers", help_format="plaintext", result_action="return_value")


class Line(msgspec.Struct, frozen=True):
    """A line of the table. The tuples are the counted runs in order, empty when one failed; CPU seconds are per 100,000
    games. `to_bare` is empty also when the reference failed."""

    name: str
    variant: str
    what: str
    games: int
    rate: tuple[float, ...]
    to_bare: tuple[float, ...]
    cpu_s: tuple[float, ...]
    peak_mib: tuple[float, ...]
    after_a_kill: str
    exactly_once: str


class PeersReport(msgspec.Struct, frozen=True):
    """A whole run. `failed` says why of those that could not be set up or did not get through, by name and variant."""

    began: str
    revision: str | None
    command: str
    machine: Machine
    seed: int
    runs: int
    lines: tuple[Line, ...]
    failed: dict[str, str]


@app.default
def bench_peers(
    *,
    peers: str = "",
    games: int = 200_000,
    runs: int = 5,
    kill: bool = True,
    out: Annotated[Path | None, Parameter(help="Where the JSON report goes.", validator=FILE)] = None,
) -> int:
    """Measure the peers side by side.

    Parameters
    ----------
    peers
        Their names, separated by commas; all by default. The reference is always there.
    games
        On the topic. Slow peers get a part of them, as the table says.
    runs
        Counted runs of each, after one that is not.
    kill
        Also kill each once half-way and start it again.
    """
    began = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    report = options.run(_measure, began, chosen(peers), games, runs, kill)
    sys.stdout.write(table(report) + "\n")
    path = out or RESULTS / f"peers-{began.replace(':', '')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    output.print_error(f"report: {path}")
    return 1 if report.failed else 0


async def _measure(began: str, peers: Sequence[Peer], games: int, runs: int, kill: bool) -> PeersReport:
    failed: dict[str, str] = {}
    _set_up(peers, failed)
    entrants = [(peer, variant) for peer in peers for variant in peer.variants]
    chain = list(chain_of_games(SEED, int(games * max(1.0, *(peer.share for peer in peers)))))
    verdicts: dict[str, str] = {}
    async with running_servers() as servers:
        for count in {_games(peer, games) for peer in peers}:
            await fill(assignments(servers, topic_of(count)), one_stream(chain[:count]))
        contest = Contest(servers, chain)
        outcomes = await _take_turns(contest, entrants, games, runs, failed)
        for entrant in entrants:
            if kill and entrant[0].kind == "peer" and _name(entrant) not in failed:
                verdicts[_name(entrant)] = await _killed(contest, entrant, games)
        names = servers.names
    lines = tuple(_line(entrant, games, outcomes, verdicts.get(_name(entrant), "–")) for entrant in entrants)
    command = " ".join(["python -m benchmarks.peers", *sys.argv[1:]])
    return PeersReport(began, revision(), command, machine(names), SEED, runs, lines, failed)


def _set_up(peers: Sequence[Peer], failed: dict[str, str]) -> None:
    """Make the environments; all variants of a peer whose cannot be made have failed."""
    for peer in peers:
        try:
            if peer.name not in OURS:
                output.print_error(f"setting up {peer.name} …")
                environments.command(peer.name)
        except CrashfoldError as error:
            output.print_error(f"{peer.name} cannot be set up: {error}")
            failed |= {_name((peer, variant)): f"cannot be set up: {error}" for variant in peer.variants}


async def _take_turns(
    contest: Contest, entrants: Sequence[Entrant], games: int, runs: int, failed: dict[str, str]
) -> dict[str, list[Outcome]]:
    """The outcomes of the counted runs, run by run; one that fails is left out from then on."""
    outcomes: dict[str, list[Outcome]] = {_name(entrant): [] for entrant in entrants}
    for run in range(runs + 1):
        for entrant in entrants:
            name = _name(entrant)
            if name in failed:
                continue
            announce(name, run, runs)
            await forget(contest.servers)
            try:
                outcome = await _run(contest, entrant, games)
            except (CrashfoldError, CalledProcessError) as error:
                output.print_error(str(error))
                failed[name] = str(error)
                outcomes[name].clear()
                continue
            if run:
                outcomes[name].append(outcome)
    return outcomes


async def _killed(contest: Contest, entrant: Entrant, games: int) -> str:
    """What came of it when it was killed half-way."""
    peer, variant = entrant
    output.print_error(f"{_name(entrant)}: killed half-way …")
    await forget(contest.servers)
    try:
        return await contest.kill(peer.name, variant, _games(peer, games), peer.aggregates, peer.kill_write_every_s)
    except CrashfoldError as error:
        output.print_error(str(error))
        return "does not come back"


async def _run(contest: Contest, entrant: Entrant, games: int) -> Outcome:
    peer, variant = entrant
    games = _games(peer, games)
    if peer.name not in OURS:
        return await contest.run(peer.name, variant, games, () if peer.name in UNCHECKED else peer.aggregates)
    settings = assignments(contest.servers, topic_of(games))
    outcome = await contest_own(peer.name, games, settings)
    if peer.name not in UNCHECKED:
        await check(settings)
    return outcome


def _games(peer: Peer, games: int) -> int:
    return int(games * peer.share)


def _line(entrant: Entrant, games: int, outcomes: Mapping[str, Sequence[Outcome]], after_a_kill: str) -> Line:
    peer, variant = entrant
    seen, bare = outcomes[_name(entrant)], outcomes["bare"]
    rates, floor = ([one.records / one.duration_s for one in those] for those in (seen, bare))
    return Line(
        name=peer.name,
        variant=variant,
        what=peer.what,
        games=_games(peer, games),
        rate=tuple(rates),
        to_bare=tuple(rate / one for rate, one in zip(rates, floor, strict=bool(rates and floor))),
        cpu_s=tuple(one.cpu_s * 100_000 / one.records for one in seen),
        peak_mib=tuple(one.peak_mib for one in seen),
        after_a_kill=after_a_kill,
        exactly_once=peer.exactly_once,
    )


def _name(entrant: Entrant) -> str:
    peer, variant = entrant
    return f"{peer.name} {variant}".strip()


def table(report: PeersReport) -> str:
    """The report as a table in Markdown."""
    columns = ("peer", "games", "games/s", "to bare", "CPU s per 100,000", "MiB", "after a kill", "exactly once")
    rows = [columns, ("---", *["---:"] * 5, "---", "---")]
    for line in report.lines:
        name = f"{line.what}{', ' * bool(line.variant)}{line.variant}"
        if fault := report.failed.get(f"{line.name} {line.variant}".strip()):
            rows.append((name, f"{line.games:,}", f"failed: {fault.splitlines()[0]}", *[""] * 4, line.exactly_once))
            continue
        figures = (_figure(line.rate, ",.0f"), _figure(line.to_bare, ".3g"), _figure(line.cpu_s, ".2f"))
        rows.append(
            (name, f"{line.games:,}", *figures, _figure(line.peak_mib, ".0f"), line.after_a_kill, line.exactly_once)
        )
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)


def _figure(values: Sequence[float], form: str) -> str:
    """The median, and the lowest and the highest where there are several."""
    if not values:
        return "–"
    spread = f" ({min(values):{form}} to {max(values):{form}})" if len(values) > 1 else ""
    return f"{median(values):{form}}{spread}"


if __name__ == "__main__":
    try:
        sys.exit(app())
    except (CrashfoldError, ValueError) as error:
        output.print_error(f"bench-peers: {error}")
        sys.exit(1)
