"""Gaps: the ids that are missing between two games, as far as they are kept, newest first.

Pure functions of a view and a question. The window knows of the gaps within it alone; the engine keeps the newest
10,000, however old.
"""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Final

import msgspec
import numpy as np

from crashfold.engine.ports import AllFields, Standing
from crashfold.engine.read.aggregate import Aggregate, Asked, Lack, Route, StoredAnswer, always_stored
from crashfold.engine.read.questions import Question
from crashfold.engine.read.stored import count_of
from crashfold.engine.read.view import View
from crashfold.projections.settings import GAPS_KEPT
from crashfold.schemas import keys


class GapsQuestion(Question, frozen=True, kw_only=True):
    """The newest `limit` gaps."""

    limit_max: ClassVar[int | None] = GAPS_KEPT
    limit: int = 100


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


def _stored(asked: Asked, view: View) -> StoredAnswer:
    question: GapsQuestion = asked.question

    def build(values: Sequence[Any], standing: Standing, view: View) -> GapsAnswer | Lack:
        (fields,) = values
        newest = standing.newest_id
        found = [(count_of(first.encode(), newest), count_of(last, newest)) for first, last in fields.items()]
        inside = gaps(view, question)
        answer = gaps_answer(found, question)
        if any(first > last for first, last in found) or answer.count < min(inside.count, GAPS_KEPT):
            return Lack.MISSING
        return answer

    return StoredAnswer((AllFields(keys.GAPS),), build)


GAPS: Final = Aggregate(
    name="gaps",
    routes=(Route("GET", "/api/gaps", GapsQuestion, gaps, stored=_stored),),
    source=always_stored,
    of_all_time=True,
)
