"""Gaps: the ids that are missing between two games, as far as they are kept, newest first.

Pure functions of a view and a question. The window knows of the gaps within it alone; the engine keeps the newest
10,000, however old.
"""

from collections.abc import Iterable

import msgspec
import numpy as np

from crashfold.engine.read.questions import GapsQuestion
from crashfold.engine.read.view import View


class Gap(msgspec.Struct, frozen=True):
    """The ids from `first` to `last`, which no game has."""

    first: int
    last: int


class GapsAnswer(msgspec.Struct, frozen=True):
    """`count` holes of `missing` ids in all; the newest of them."""

    count: int
    missing: int
    gaps: list[Gap]


def gaps(view: View, question: GapsQuestion) -> GapsAnswer:
    """The ids that are missing, newest first."""
    ids = view.games.ids
    before = np.flatnonzero(np.diff(ids) > 1)
    return gaps_answer(zip((ids[before] + 1).tolist(), (ids[before + 1] - 1).tolist(), strict=True), question)


def gaps_answer(found: Iterable[tuple[int, int]], question: GapsQuestion) -> GapsAnswer:
    """The answer from first and last ids of all gaps, in any order."""
    newest = sorted(found, reverse=True)
    missing = sum(last - first + 1 for first, last in newest)
    return GapsAnswer(len(newest), missing, [Gap(first, last) for first, last in newest[: question.limit]])
