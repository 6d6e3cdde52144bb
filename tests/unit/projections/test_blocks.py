"""Blocks: the runs that are found are those that a look at every game finds."""

from itertools import pairwise
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from crashfold.projections.blocks import Blocks, Masks
from crashfold.projections.columns import Ints

BANDS = 4


class Drawn(NamedTuple):
    """Which predicates match which band, the bands of some games, and how long a run is not to count."""

    matches: np.ndarray
    bands: Ints
    lengths: Ints


@st.composite
def drawn(draw: st.DrawFn) -> Drawn:
    predicates = draw(st.sampled_from((1, 5, 63, 64, 65, 130)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    games = draw(st.integers(1, 200))
    bands = np.minimum(rng.geometric(draw(st.sampled_from((0.05, 0.5, 0.95))), games), BANDS) - 1
    matches = rng.random((BANDS, predicates)) < draw(st.sampled_from((0.0, 0.2, 0.8, 1.0)))
    return Drawn(matches, bands, rng.integers(0, draw(st.sampled_from((1, 4, 40, 2**40))), predicates))


@given(drawn())
@example(Drawn(np.zeros((BANDS, 1), np.bool_), np.zeros(1, np.int64), np.zeros(1, np.int64)))
def test_a_run_that_counts_is_found_and_what_is_found_is_a_run(case: Drawn) -> None:
    found = Blocks(Masks(case.matches), case.bands).longer(case.lengths)
    places = list(zip(*(part.tolist() for part in found), strict=True))
    assert sorted(places) == sorted(places, key=itemgetter(0))
    for predicate, least in enumerate(case.lengths.tolist()):
        runs = plain_runs(case.matches[case.bands, predicate].tolist())
        longest = max((behind - before - 1 for before, behind in runs), default=0)
        seen = {(before, behind) for which, before, behind in places if which == predicate}
        assert seen <= set(runs)
        if longest > least:
            assert seen >= {(before, behind) for before, behind in runs if behind - before - 1 == longest}


def plain_runs(matches: list[bool]) -> list[tuple[int, int]]:
    """The numbers of the matches before and behind each run of games that do not match, games being numbered from 1."""
    at = [0, *(number for number, matched in enumerate(matches, 1) if matched), len(matches) + 1]
    return [(before, behind) for before, behind in pairwise(at) if behind - before > 1]
