"""The guard of the benchmarks' ratios: fails on a loss, not on noise. No time is measured here."""

import random
from collections.abc import Iterator

import pytest

from benchmarks.guard import ATTEMPTS, PAIRS, Baseline, Known, Pair, Verdict, judged, read
from crashfold.engine.errors import CrashfoldError

CPU = "a processor"
BASELINE = Baseline(None, CPU, "3.11", {"fold / decode": Known(2.0, 0.05)})


def pair(ratios: Iterator[float]) -> Pair:
    async def measure() -> float:
        return next(ratios)

    return measure


def noisy(median: float, noise: float, seed: int = 1) -> Iterator[float]:
    chance = random.Random(seed)
    while True:
        yield median * chance.uniform(1 - noise, 1 + noise)


async def verdict(ratios: Iterator[float], cpu: str = CPU) -> Verdict:
    (one,) = await judged({"fold / decode": pair(ratios)}, BASELINE, cpu)
    return one


async def test_a_fabricated_loss_of_half_is_lost() -> None:
    one = await verdict(noisy(3.0, 0.05))
    assert one.is_lost
    assert one.attempts == ATTEMPTS


@pytest.mark.parametrize("seed", range(50))
async def test_noise_around_the_baseline_is_no_loss(seed: int) -> None:
    assert not (await verdict(noisy(2.0, 0.3, seed))).is_lost


async def test_a_loss_within_what_is_allowed_is_none() -> None:
    assert not (await verdict(noisy(2.4, 0.02))).is_lost


async def test_a_loss_that_its_own_noise_explains_is_none() -> None:
    wild = iter([2.7, 1.2, 4.6, 2.7, 5.2, 1.3, 2.7, 4.9] * ATTEMPTS)
    assert not (await verdict(wild)).is_lost


async def test_a_gain_is_no_loss() -> None:
    one = await verdict(noisy(0.5, 0.02))
    assert not one.is_lost
    assert one.loss == pytest.approx(-0.75, abs=0.02)


async def test_what_is_suspicious_once_is_measured_again() -> None:
    def disturbed() -> Iterator[float]:
        for _ in range(PAIRS + 1):
            yield 4.0
        while True:
            yield 2.0

    one = await verdict(disturbed())
    assert not one.is_lost
    assert one.attempts == 2


async def test_one_disturbed_pair_does_not_move_the_verdict() -> None:
    one = await verdict(iter([9.0, 2.0, 2.1, 9.0, 1.9, 2.0, 2.05, 2.0]))
    assert one.attempts == 1


async def test_on_another_processor_more_is_allowed() -> None:
    assert not (await verdict(noisy(2.8, 0.02), "another processor")).is_lost
    assert (await verdict(noisy(3.2, 0.02), "another processor")).is_lost


async def test_a_baseline_of_other_ratios_says_how_to_make_a_new_one() -> None:
    with pytest.raises(CrashfoldError, match="--rebase"):
        await judged({"another": pair(noisy(1, 0))}, BASELINE, CPU)


def test_the_baseline_in_the_repository_can_be_read() -> None:
    assert all(known.median > 0 for known in read().ratios.values())
