"""From the topic to committed Redis state: contestants in processes of their own, one after the other, run after run.

After every run what stands in Redis is compared, as `verify` does it, with what the plain oracle makes of the games.
"""

import sys
from collections.abc import Mapping, Sequence
from subprocess import PIPE

import anyio
import msgspec

from benchmarks.contestants import PROFILED, Outcome
from benchmarks.measure import Figure, announce, ratio
from benchmarks.servers import Assignments, Oracle, Servers, assignments, forget
from benchmarks.topics import CODECS, fill, one_stream
from crashfold.schemas.game import Game

UNCHECKED = "run, hashes not checked"


async def figures(servers: Servers, games: Sequence[Game], runs: int) -> list[Figure]:
    """The bare loop, `replay`, and `run` with the games' hashes checked and without, over the same topic."""
    settings = assignments(servers, "bench-topic")
    await fill(settings, one_stream(games))
    entrants = {name: (name, settings) for name in ("bare", "replay", "run")}
    entrants[UNCHECKED] = ("run", settings | {"fairness.check": "off"})
    outcomes = await take_turns(servers, entrants, games, runs)
    found = []
    for name, seen in outcomes.items():
        rates = tuple(one.records / one.duration_s for one in seen)
        found.append(Figure(f"{name} rate", "games/s", rates, f"{len(games)} games from topic to result"))
        cpu = tuple(one.cpu_s * 100_000 / one.records for one in seen)
        found.append(Figure(f"{name} CPU", "s per 100,000", cpu, "of its process"))
        found.append(Figure(f"{name} memory", "MiB", tuple(one.peak_mib for one in seen), "peak of its process"))
    for name in ("replay", "run", UNCHECKED):
        found += _beside_bare(name, outcomes["bare"], outcomes[name], "1 is as much as the bare loop")
    return found


async def codec_figures(servers: Servers, games: Sequence[Game], runs: int) -> list[Figure]:
    """The bare loop and `replay`, over the same games in every compression that Kafka knows."""
    entrants: dict[str, tuple[str, Assignments]] = {}
    for codec in CODECS:
        settings = assignments(servers, f"bench-{codec}")
        await fill(settings, one_stream(games), codec=codec)
        entrants |= {f"{name} {codec}": (name, settings) for name in ("bare", "replay")}
    outcomes = await take_turns(servers, entrants, games, runs)
    found = []
    for codec in CODECS:
        bare, replay = outcomes[f"bare {codec}"], outcomes[f"replay {codec}"]
        rates = tuple(one.records / one.duration_s for one in replay)
        found.append(Figure(f"replay {codec} rate", "games/s", rates, f"{len(games)} games from topic to result"))
        found += _beside_bare(f"replay {codec}", bare, replay, "of the bare loop on the same topic")
    return found


async def take_turns(
    servers: Servers, entrants: Mapping[str, tuple[str, Assignments]], games: Sequence[Game], runs: int
) -> dict[str, list[Outcome]]:
    """Per entrant (a contestant and its settings) the outcomes of `runs` runs, after one that does not count."""
    outcomes: dict[str, list[Outcome]] = {entrant: [] for entrant in entrants}
    oracle = Oracle(games)
    for run in range(runs + 1):
        for entrant, (name, settings) in entrants.items():
            announce(entrant, run, runs)
            await forget(servers)
            outcome = await contest(name, len(games), settings | {"kafka.group_id": f"bench-{run}"})
            if name != "bare":
                await oracle.check(settings)
            if run:
                outcomes[entrant].append(outcome)
    return outcomes


async def contest(name: str, records: int, settings: Assignments, *, profiled: bool = False) -> Outcome:
    """Run one contestant in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.contestants", *([PROFILED] if profiled else []), name, str(records)]
    command += [f"{setting}={value}" for setting, value in settings.items()]
    finished = await anyio.run_process(command, stdout=PIPE, stderr=None)
    return msgspec.json.decode(finished.stdout, type=Outcome)


def _beside_bare(name: str, bare: Sequence[Outcome], seen: Sequence[Outcome], note: str) -> list[Figure]:
    """How fast it is, and how much CPU it takes, beside the bare loop of the same run."""
    return [
        ratio(f"{name} / bare", [one.duration_s for one in bare], [one.duration_s for one in seen], f"speed, {note}"),
        ratio(f"{name} / bare CPU", [one.cpu_s for one in seen], [one.cpu_s for one in bare], f"CPU, {note}"),
    ]
