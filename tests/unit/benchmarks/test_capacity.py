"""Capacity: what follows from costs by arithmetic, with numbers that can be worked out by hand."""

import math

import pytest

from benchmarks.capacity import BUSY_MAX, DELAY_MAX_S, GAMES_A_COMMIT, Cost, Costs, Load, needed, needs, turn
from benchmarks.streams import FIRST_GAMES, GAMES_MAX, POLLS

COSTS = Costs(
    engine_s=Cost(0.001, 0.0001),
    redis_s=Cost(0.0005, 0.00005),
    net_bytes=Cost(15_000.0, 1_000.0),
    engine_mib=40.0,
    redis_mib=32.0,
)


def test_a_price_is_the_line_through_what_was_measured() -> None:
    fitted = Cost.fitted({1: 1.1, 2: 1.2, 20: 3.0})
    assert [fitted.commit, fitted.game] == pytest.approx([1.0, 0.1])


def test_a_price_is_never_negative() -> None:
    assert Cost.fitted({1: 1.0, 10: 20.0}).commit == 0.0


def test_while_there_is_time_each_game_is_a_commit_of_its_own() -> None:
    found = turn(Load(10_000, 100.0), COSTS.engine_s)
    assert found is not None
    assert found.commits_per_s == pytest.approx(100.0, rel=0.001)
    assert found.busy == pytest.approx(100 * 0.0011, rel=0.001)


def test_one_busy_stream_settles_where_its_games_share_commits() -> None:
    """5,000 games a second: 0.5 of the core for the games, and the rest goes to 500 commits of 10."""
    found = turn(Load(1, 5_000.0), COSTS.engine_s)
    assert found is not None
    assert found.busy == pytest.approx(1.0, abs=0.01)
    assert found.seconds == pytest.approx(0.002, rel=0.01)
    assert found.commits_per_s == pytest.approx(500, rel=0.01)


def test_a_process_falls_behind_for_ever_when_the_games_alone_take_all_its_time() -> None:
    assert turn(Load(1, 10_000.0), COSTS.engine_s) is None
    assert needed(Load(1, 10_000.0), COSTS.engine_s) is None
    assert needed(Load(2, 10_000.0), COSTS.engine_s) is not None


@pytest.mark.parametrize("load", [Load(100, 1_000.0), Load(10_000, 2_000.0), Load(10_000, 10_000.0)])
def test_the_least_number_that_keeps_up_is_found(load: Load) -> None:
    found = needed(load, COSTS.engine_s)
    assert found is not None
    count, seen = found
    assert seen.busy <= BUSY_MAX
    assert seen.seconds <= DELAY_MAX_S
    fewer = turn(Load(math.ceil(load.streams / (count - 1)), load.games_per_s / (count - 1)), COSTS.engine_s)
    assert fewer is None or fewer.busy > BUSY_MAX
    assert count >= load.games_per_s * 0.0011 / BUSY_MAX - 1


def test_the_wall_is_what_asks_for_most_servers() -> None:
    quiet, busy = needs(Load(10_000, 100.0), COSTS), needs(Load(100, 20_000.0), COSTS)
    assert (quiet.engines_by_cpu, quiet.redis_by_memory, quiet.engines_by_memory) == (1, 20, 98)
    assert quiet.wall == "memory of engines"
    assert quiet.redis_gib == pytest.approx(312.5)
    assert busy.wall == "CPU of engines"
    assert needs(Load(1, 50_000.0), COSTS).engines_by_cpu is None


def test_a_measurement_has_enough_games() -> None:
    assert FIRST_GAMES + 2 * POLLS * max(GAMES_A_COMMIT) <= GAMES_MAX
