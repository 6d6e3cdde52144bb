"""`python -m tests.simulation 1..2000`: play the schedules of these seeds, on every core; `make simulate` runs it.

Exit code 1 when any seed failed: each is printed with what happened last and the command that plays it again.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Final

from tests.simulation import schedule
from tests.simulation.play import Failed, Outcome, play

CHUNK: Final = 20
SHOWN_MAX: Final = 3
"""Failures that are shown with what happened before; of further ones only what is wrong."""
ALL_OF_IT: Final = 10**9


def main(arguments: Sequence[str] | None = None) -> int:
    """Play; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seeds", help="one seed, or the first and the last of a range: 1..2000")
    parser.add_argument("--only", metavar="KIND,…", help=f"let only these happen: {', '.join(sorted(schedule.ALL))}")
    parser.add_argument("--without", metavar="KIND,…", help="let these not happen")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--trace", action="store_true", help="print all that happened, also when all was well")
    options = parser.parse_args(arguments)
    kinds = schedule.DEFAULT if options.only is None else _kinds(options.only)
    kinds -= _kinds(options.without or "")
    first, _, last = options.seeds.partition("..")
    return run(range(int(first), int(last or first) + 1), kinds, options.jobs, trace=options.trace)


def run(seeds: Sequence[int], kinds: frozenset[str], jobs: int, *, trace: bool = False) -> int:
    """Play these seeds; the exit code."""
    begun_s = time.monotonic()
    failed: list[int] = []
    events: Counter[str] = Counter()
    refusals: Counter[str] = Counter()
    commits = 0
    jobs = min(jobs, len(seeds))
    with ProcessPoolExecutor(jobs) as pool:
        one = partial(_one, kinds=kinds, shown=ALL_OF_IT if trace or len(seeds) == 1 else None)
        for seed, outcome, failure in pool.map(one, seeds, chunksize=min(CHUNK, -(-len(seeds) // jobs))):
            if outcome is None:
                failed.append(seed)
                told = failure if len(failed) <= SHOWN_MAX else failure.splitlines()[-2]
                print(told, end="\n\n", flush=True)
                continue
            if trace:
                print("\n".join(outcome.trace), end="\n\n")
            events.update(outcome.events)
            refusals.update(outcome.refusals)
            commits += outcome.commits
    print(f"{len(seeds)} schedules, {commits} commits, {time.monotonic() - begun_s:.0f} s, {jobs} at a time")
    print("what happened:", _counts(events))
    print("stopped with 78:", _counts(refusals))
    print("failed:", " ".join(map(str, failed)) or "none")
    return 1 if failed else 0


def _one(seed: int, kinds: frozenset[str], shown: int | None) -> tuple[int, Outcome | None, str]:
    try:
        return seed, play(seed, kinds, **({} if shown is None else {"shown": shown})), ""
    except Failed as failed:
        return seed, None, str(failed)


def _kinds(names: str) -> frozenset[str]:
    kinds = frozenset(name for name in names.split(",") if name)
    if unknown := kinds - schedule.ALL:
        raise SystemExit(f"there is no kind {', '.join(sorted(unknown))}; there are {', '.join(sorted(schedule.ALL))}")
    return kinds


def _counts(found: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in found.most_common()) or "none"


if __name__ == "__main__":
    sys.exit(main())
