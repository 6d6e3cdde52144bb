"""Where a game's time goes: the stages of a replay, and of an engine that is behind, by samples of the running code."""

from collections.abc import Sequence

from benchmarks.measure import Figure, announce
from benchmarks.sampler import Profile
from benchmarks.servers import Inspector, Servers, assignments, forget
from benchmarks.topic import contest
from benchmarks.topics import fill, one_stream
from crashfold.schemas.chain import chain_of_games

TIMES_GAMES = 5
"""A profile takes so many times the games of the other parts, for enough samples."""
FUNCTIONS_SHOWN = 25


async def figures(
    servers: Servers, games: int, runs: int, seed: int
) -> tuple[list[Figure], dict[str, dict[str, float]]]:
    """Per stage of a replay, and of an engine that is behind, the µs of CPU a game; and the same per function."""
    settings, games = assignments(servers, "bench-profile"), games * TIMES_GAMES
    await fill(settings, one_stream(chain_of_games(seed, games)))
    found: list[Figure] = []
    functions: dict[str, dict[str, float]] = {}
    for name in ("replay", "run"):
        inspector = Inspector()
        seen: list[tuple[float, Profile]] = []
        for run in range(runs + 1):
            announce(f"profile {name}", run, runs)
            await forget(servers)
            outcome = await contest(name, games, settings | {"kafka.group_id": f"profile-{run}"}, profiled=True)
            await inspector.check(games, settings, chain_of_games(seed, games), games)
            if run and outcome.profile is not None:
                seen.append((outcome.cpu_s * 1e6 / games, outcome.profile))
        found += _by_stage(name, games, seen)
        functions[name] = _by_function(seen)
    return found, functions


def _by_stage(name: str, games: int, seen: Sequence[tuple[float, Profile]]) -> list[Figure]:
    """The most expensive stage first, after the sum of all."""
    note = f"CPU a game, over {games} games"
    stages = {stage for _, profile in seen for stage in profile.stages}
    figures = [
        Figure(
            f"profile {name}: {stage}",
            "µs",
            tuple(cost_us * profile.stages.get(stage, 0) / profile.samples for cost_us, profile in seen),
            note,
        )
        for stage in stages
    ]
    figures.sort(key=lambda figure: figure.median, reverse=True)
    return [Figure(f"profile {name}", "µs", tuple(cost_us for cost_us, _ in seen), note), *figures]


def _by_function(seen: Sequence[tuple[float, Profile]]) -> dict[str, float]:
    """µs of CPU a game, the mean of the runs, of the functions with the most of them."""
    total: dict[str, float] = {}
    for cost_us, profile in seen:
        for function, samples in profile.functions.items():
            total[function] = total.get(function, 0.0) + cost_us * samples / profile.samples / len(seen)
    return dict(sorted(total.items(), key=lambda one: one[1], reverse=True)[:FUNCTIONS_SHOWN])
