"""Projections of one's own: what stands under their keys, whatever kind of key it is.

Pure but for finding the projections that the settings name, once. The window cannot answer: only the engine folds them.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from crashfold.engine.ports import Standing, Whole
from crashfold.engine.read.aggregate import Aggregate, Asked, Route, StoredAnswer, always_stored
from crashfold.engine.read.questions import ITEMS_MAX, Question
from crashfold.engine.read.refusals import NotFound, NotNow, OutOfBounds
from crashfold.engine.read.view import View
from crashfold.projections.delta import SortedSet, Value
from crashfold.projections.plan import AnyProjection, own_projections
from crashfold.projections.settings import ProjectionSettings
from crashfold.projections.shown import shown


class ProjectionQuestion(Question, frozen=True, kw_only=True):
    """The keys of one projection that are named as its aggregates, or the one of that name."""

    key: str = ""


class Member(msgspec.Struct, frozen=True):
    """A member of a sorted set."""

    score: int
    member: Any


class ProjectionAnswer(msgspec.Struct, frozen=True):
    """What stands under the keys of a projection: text for a string, an object for a hash, a list for a list, members
    by score for a sorted set. What is JSON is given as that."""

    projection: str
    version: int
    keys: dict[str, Any]


def projection(view: View, name: str, question: ProjectionQuestion) -> ProjectionAnswer:
    """The keys of a projection of one's own."""
    _found(view.settings, name)
    raise NotNow("keys of projections of one's own are read from the store, which cannot be read now")


def _stored(asked: Asked, view: View) -> StoredAnswer:
    question: ProjectionQuestion = asked.question
    assert isinstance(asked.subject, str)
    found = _found(view.settings, asked.subject)
    names = _names(found, question.key)

    def build(values: Sequence[Any], standing: Standing, view: View) -> ProjectionAnswer | NotFound | OutOfBounds:
        there = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        if question.key and not there:
            return NotFound("the stream has no such key")
        items = sum(1 if isinstance(value, bytes) else len(_elements(value)) for value in there.values())
        if items > ITEMS_MAX:
            return OutOfBounds(f"the keys have {items} elements, more than {ITEMS_MAX}", "key")
        return ProjectionAnswer(found.name, found.version, {name: _shown(value) for name, value in there.items()})

    return StoredAnswer(tuple(map(Whole, names)), build)


def _found(settings: ProjectionSettings, name: str) -> AnyProjection:
    """The projection of that name. Raises NotFound."""
    own = _own(settings)
    if name not in own:
        raise NotFound(f"no projection of one's own has that name; those there are: {', '.join(sorted(own)) or 'none'}")
    return own[name]


@lru_cache(maxsize=8)
def _own(settings: ProjectionSettings) -> Mapping[str, AnyProjection]:
    return {projection.name: projection for projection in own_projections(settings)}


def _names(found: AnyProjection, key: str) -> tuple[str, ...]:
    """The keys to read: the one asked for, or those that are named as the projection's aggregates. Raises NotFound for
    one that it cannot have."""
    if not key:
        return found.aggregates
    if key.partition(":")[0] not in found.aggregates:
        raise NotFound(f"the projection has no key of that name: its aggregates are {', '.join(found.aggregates)}")
    return (key,)


def _elements(value: Value) -> Sequence[Any] | Mapping[Any, Any]:
    match value:
        case bytes():
            return ()
        case SortedSet(members):
            return members
    return value


def _shown(value: Value) -> Any:
    told: Any = shown(value)
    return [*map(Member, told.keys(), told.values())] if isinstance(value, SortedSet) else told


PROJECTIONS: Final = Aggregate(
    name="projections",
    routes=(
        Route(
            "GET",
            "/api/projections/{name}",
            ProjectionQuestion,
            projection,
            stored=_stored,
            example=ProjectionAnswer("hours", 1, {"hours": {"2026-01-15T11": 172, "2026-01-15T12": 98}}),
        ),
    ),
    source=always_stored,
    of_all_time=True,
)
