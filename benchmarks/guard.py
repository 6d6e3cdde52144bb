"""The guard: has a ratio become worse than the one in the repository? `crashfold bench guard`, after the tests in CI.

Times say nothing on a machine that others use too, so only ratios are compared: of CPU time, one side measured right
after the other, several such pairs, the median. A ratio is *suspicious* when it lies more than a quarter above its
baseline and further than its noise explains; it is measured again then, and *lost* only when it is so every time.
"""

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from benchmarks.growth import predicates
from benchmarks.measure import machine, revision
from benchmarks.servers import Inspector, Servers, assignments, forget
from benchmarks.stages import timed, warmed
from benchmarks.topic import contest
from benchmarks.topics import fill, one_stream
from crashfold.engine.errors import CrashfoldError
from crashfold.projections import ProjectionSettings, StreamState, plan
from crashfold.projections.decoding import decode_cells
from crashfold.projections.packed import Packed
from crashfold.schemas.chain import chain_of_games
from crashfold.schemas.game import Game, encode

BASELINE = Path(__file__).parent / "baseline.json"

ALLOWED = 0.25
ALLOWED_ELSEWHERE = 0.5
"""On another processor than the baseline's, where what waits for memory and what does not compare otherwise."""
NOISES = 2.0
"""So many times its own noise and the baseline's together a loss has to be."""
ATTEMPTS = 3
PAIRS = 7
REBASE_PAIRS = 15

BATCH = 20_000
COMMITS = 100
REPLAYED = 100_000

Pair = Callable[[], Awaitable[float]]
"""Measures both sides of a ratio, one right after the other, and returns it."""


class Known(msgspec.Struct, frozen=True):
    """A ratio as it should be. `noise` is half the distance between the quartiles, relative to the median."""

    median: float
    noise: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> "Known":
        """Out of as many pairs."""
        low, median, high = statistics.quantiles(ratios, n=4)
        return cls(median, (high - low) / 2 / median)


class Baseline(msgspec.Struct, frozen=True):
    """The ratios in the repository, and what they were measured on."""

    revision: str | None
    cpu: str
    python: str
    ratios: dict[str, Known]


class Verdict(msgspec.Struct, frozen=True):
    """What was found of one ratio; `attempts` counts how often it had to be measured."""

    name: str
    known: Known
    found: Known
    allowed: float
    attempts: int = 1

    @property
    def loss(self) -> float:
        """By how much it has become worse; below 0 it has become better."""
        return self.found.median / self.known.median - 1

    @property
    def is_lost(self) -> bool:
        """Whether that is more than is allowed, and more than noise explains."""
        return self.loss > self.allowed and self.loss > NOISES * (self.found.noise + self.known.noise)


async def judged(pairs: Mapping[str, Pair], baseline: Baseline, cpu: str, count: int = PAIRS) -> list[Verdict]:
    """A verdict for each ratio. Raises CrashfoldError when the baseline is of other ratios than these."""
    if pairs.keys() != baseline.ratios.keys():
        odd = ", ".join(sorted(pairs.keys() ^ baseline.ratios.keys()))
        raise CrashfoldError(
            f"the baseline is of other ratios ({odd}): write a new one by `crashfold bench guard --rebase`"
        )
    allowed = ALLOWED if cpu == baseline.cpu else ALLOWED_ELSEWHERE
    verdicts = []
    for name, pair in pairs.items():
        for attempt in range(1, ATTEMPTS + 1):
            found = Known.of(await measured(pair, count))
            verdict = Verdict(name, baseline.ratios[name], found, allowed, attempt)
            if not verdict.is_lost:
                break
        verdicts.append(verdict)
    return verdicts


async def measured(pair: Pair, count: int) -> list[float]:
    """So many ratios, after one that does not count."""
    await pair()
    return [await pair() for _ in range(count)]


async def rebased(pairs: Mapping[str, Pair]) -> Baseline:
    """A new baseline, of this code on this machine."""
    here = machine({})
    ratios = {name: Known.of(await measured(pair, REBASE_PAIRS)) for name, pair in pairs.items()}
    return Baseline(revision(), here.cpu, here.python, ratios)


def read(path: Path = BASELINE) -> Baseline:
    """The baseline in the repository."""
    return msgspec.json.decode(path.read_bytes(), type=Baseline)


def write(baseline: Baseline, path: Path = BASELINE) -> None:
    """Make it the one in the repository."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(baseline), indent=2) + b"\n")


async def ratios(servers: Servers, seed: int = 1) -> dict[str, Pair]:
    """Everything that is guarded. The yardstick is msgspec's decoder over the same games, as nobody can do with less;
    for a whole replay it is the bare loop over the same topic."""
    games = list(chain_of_games(seed, max(REPLAYED, 4 * BATCH)))
    made, wide = plan(ProjectionSettings()), plan(predicates(10 * len(ProjectionSettings().predicates)))
    before, wide_before = warmed(made, games[: 2 * BATCH]), warmed(wide, games[: 2 * BATCH])
    batch, few = games[2 * BATCH : 3 * BATCH], games[2 * BATCH : 2 * BATCH + COMMITS]
    values = [encode(game) for game in batch]  # not the first games: ids of one to five digits are no common sight
    packed = Packed.of(values)
    stored, window = before.stored(), before.window.to_games()
    bare = msgspec.json.Decoder(Game).decode
    settings, inspector = assignments(servers, "guard"), Inspector()
    await fill(settings, one_stream(games[:REPLAYED]))

    def yardstick() -> float:
        return _cpu_s(lambda: [bare(value) for value in values])

    async def decoding() -> float:
        return _cpu_s(lambda: decode_cells(made.bands, packed)) / yardstick()

    async def folding() -> float:
        return timed(before, batch, BATCH)[0].fold_s / yardstick()

    async def writing() -> float:
        stages, _ = timed(before, batch, BATCH)
        return (stages.delta_s + stages.pack_s) / yardstick()

    async def committing() -> float:
        return timed(before, few, 1)[0].all_us * COMMITS / 1e6 / yardstick()

    async def loading() -> float:
        return _cpu_s(lambda: StreamState.load(made, stored, window).settled()) / yardstick()

    async def widening() -> float:
        return timed(wide_before, batch, BATCH)[0].fold_s / timed(before, batch, BATCH)[0].fold_s

    async def widening_commits() -> float:
        return timed(wide_before, few[:20], 1)[0].all_us / timed(before, few[:20], 1)[0].all_us

    async def replaying() -> float:
        await forget(servers)
        replay = await contest("replay", REPLAYED, settings)
        await inspector.check(REPLAYED, settings, games[:REPLAYED], REPLAYED)
        return replay.cpu_s / (await contest("bare", REPLAYED, settings)).cpu_s

    return {
        "decode 20,000 / bare decode": decoding,
        "fold 20,000 / bare decode": folding,
        "delta and pack of 20,000 / bare decode": writing,
        "100 commits of one game / bare decode of 20,000": committing,
        "load 40,000 games / bare decode of 20,000": loading,
        "fold with 10 × the predicates": widening,
        "a commit of one game with 10 × the predicates": widening_commits,
        "replay / bare loop, topic to Redis": replaying,
    }


def _cpu_s(work: Callable[[], object]) -> float:
    began_s = time.thread_time()
    work()
    return time.thread_time() - began_s
