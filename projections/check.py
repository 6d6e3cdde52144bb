"""Checks of a projection that somebody else wrote: its face, its states and its keys.

The engine runs them when it registers the projection, `crashfold.engine.testing` when it tries one, and every delta of
such a projection is checked again. A fault names the projection, the key and the field. Imports schemas and numpy only.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
import numpy as np

from crashfold.projections.columns import Columns
from crashfold.projections.delta import (
    Remove,
    SetString,
    SortedSet,
    Value,
    Write,
    WriteHash,
    WriteList,
    WriteSortedSet,
    apply,
)
from crashfold.projections.games import Bands, Games
from crashfold.projections.projection import Incremental, Moment, Projection, Totals
from crashfold.projections.settings import ProjectionSettings
from crashfold.projections.stored import decode_state, encode_state
from crashfold.schemas import keys
from crashfold.schemas.chain import chain_of_games

TRIAL_GAMES: Final = 64
"""Games that a projection folds when it is registered: enough for states and keys of every form."""
SCORE_MAX: Final = 2**53
"""Redis keeps scores as doubles: beyond, two ids could be one."""

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_METHODS: Final = ("empty", "fold", "keys")


class ProjectionFault(ValueError):
    """A projection breaks a rule. The message names the projection, and the key and the field if there are any."""


def check(projection: Projection[Any], settings: ProjectionSettings, bands: Bands) -> None:
    """Check the projection's face, then fold some games with it and check the states and keys it makes.

    Raises ProjectionFault.
    """
    check_face(projection)
    games = Games.of(bands, list(chain_of_games(seed=1, games=TRIAL_GAMES)))
    before = _moment(projection, projection.empty(), games, TRIAL_GAMES // 2)
    after = _moment(projection, before.state, games, TRIAL_GAMES)
    for state in (projection.empty(), before.state, after.state):
        _check_stored(projection, state)
    old, new = projection.keys(before), projection.keys(after)
    check_keys(projection, old)
    check_keys(projection, new)
    if isinstance(projection, Incremental):
        delta = projection.delta(before, after, TRIAL_GAMES // 2)
        check_delta(projection, delta)
        if apply(old, delta) != new:
            raise _fault(projection, "`delta` does not turn the keys before into the keys after")


def check_face(projection: Projection[Any]) -> None:
    """Check `name`, `version`, `aggregates` and that the methods are there. Raises ProjectionFault."""
    name = getattr(projection, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        kind = type(projection)
        raise ProjectionFault(
            f"the projection {kind.__module__}.{kind.__qualname__} has the name {name!r}: "
            "a name is a small letter, then up to 63 small letters, digits and _"
        )
    missing = [method for method in _METHODS if not callable(getattr(projection, method, None))]
    if missing:
        raise _fault(projection, f"it has no method `{missing[0]}`")
    version = getattr(projection, "version", None)
    if type(version) is not int or version < 1:
        raise _fault(projection, f"its version is {version!r}: a version is a whole number from 1 on")
    aggregates: object = getattr(projection, "aggregates", None)
    if not isinstance(aggregates, tuple) or not aggregates:
        raise _fault(projection, f"its aggregates are {aggregates!r}: they are a tuple of at least one name")
    for aggregate in aggregates:
        if not isinstance(aggregate, str) or not _NAME.fullmatch(aggregate):
            raise _fault(
                projection,
                f"the aggregate {aggregate!r} is no name: small letters, digits and _, and what follows a colon in a "
                "key is left out (`floors` for `floors:7`)",
            )
        if aggregate in keys.RESERVED:
            raise _fault(projection, f"the aggregate {aggregate!r} is the name of a key that Crashfold has itself")


def check_keys(projection: Projection[Any], model: Mapping[str, Value]) -> None:
    """Check that every key is announced and has a form that Redis holds. Raises ProjectionFault."""
    if not isinstance(model, Mapping):
        raise _fault(projection, f"`keys` gives a {type(model).__name__}, not a dict of values by key")
    for key, value in model.items():
        _check_key(projection, key)
        if not _elements(projection, key, value):
            raise _fault(projection, f"the key {key!r} is empty: leave it out, as Redis does")


def check_delta(projection: Projection[Any], delta: Mapping[str, Write]) -> None:
    """Check that every write is of an announced key and brings what Redis holds. Raises ProjectionFault."""
    for key, write in delta.items():
        _check_key(projection, key)
        match write:
            case SetString(value):
                _elements(projection, key, value)
            case WriteHash(fields, delete):
                _elements(projection, key, fields)
                _elements(projection, key, dict.fromkeys(delete, b""))
            case WriteList(_, push, _):
                _elements(projection, key, push)
            case WriteSortedSet(add, _):
                _elements(projection, key, SortedSet(add))
            case Remove():
                pass
            case _:
                raise _fault(projection, f"the write of key {key!r} is a {type(write).__name__}")


def stored_state(projection: Projection[Any], state: Any) -> bytes:
    """The bytes of a state in the checkpoint. Raises ProjectionFault for one that cannot be stored."""
    try:
        return encode_state(state)
    except (TypeError, ValueError, OverflowError) as error:
        raise _fault(projection, f"its state cannot be stored: {error}") from error


def _moment(projection: Projection[Any], state: Any, games: Games, stop: int) -> Moment[Any]:
    """The moment after the first `stop` of the games; `state` stands for the first half of them, or for none."""
    start = stop - TRIAL_GAMES // 2
    part, so_far = games.part(start, stop), games.part(0, stop)
    totals = Totals(stop, int(so_far.end_times[0]), int(so_far.end_times.max()), int(so_far.ids[-1]))
    return Moment(projection.fold(state, part), totals, so_far)


def _check_stored(projection: Projection[Any], state: Any) -> None:
    """A state that was stored and read again is the same one."""
    kind, like = type(state), projection.empty()
    if kind is not type(like):
        raise _fault(projection, f"`empty` gives a {type(like).__name__}, `fold` a {kind.__name__}: give one type")
    data = stored_state(projection, state)
    try:
        again = decode_state(data, kind)
    except (TypeError, ValueError) as error:
        raise _fault(projection, f"its state cannot be read again once it is stored: {error}") from error
    if not _same(state, again):
        raise _fault(
            projection,
            f"its state is another one once it has been stored and read again: {again!r} instead of {state!r}. Are its "
            "fields annotated with their types?",
        )


def _same(one: object, other: object) -> bool:
    """Whether two states are the same, down to the types of their parts."""
    if type(one) is not type(other):
        return False
    match one, other:
        case np.ndarray(), np.ndarray():
            return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
        case Columns(), Columns():
            return one.width == other.width and one.to_bytes() == other.to_bytes()
        case msgspec.Struct(), msgspec.Struct():
            return _same(msgspec.structs.astuple(one), msgspec.structs.astuple(other))
        case dict(), dict():
            return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
        case tuple(), tuple():
            return len(one) == len(other) and all(_same(*pair) for pair in zip(one, other, strict=True))
        case list(), list():
            return _same(tuple(one), tuple(other))
        case float(), float():
            return one == other or one != one != other
    return one == other


def _check_key(projection: Projection[Any], key: object) -> None:
    if not isinstance(key, str):
        raise _fault(projection, f"the key {key!r} is a {type(key).__name__}, not a text")
    if key.partition(":")[0] not in projection.aggregates:
        raise _fault(projection, f"`aggregates` does not announce the key {key!r}")


def _elements(projection: Projection[Any], key: str, value: object) -> int:
    """How many elements a value has. Raises ProjectionFault for one that Redis does not hold."""
    count = 0
    for part, element in _parts(projection, key, value):
        count += 1
        if not isinstance(element, bytes):
            kind = type(element).__name__
            raise _fault(projection, f"{part} is a {kind}: encode it to bytes, which is what Redis holds")
    return count


def _parts(projection: Projection[Any], key: str, value: object) -> Iterator[tuple[str, object]]:
    match value:
        case bytes() | str() | int() | float() | None:
            yield f"the key {key!r}", value
        case dict():
            for field, element in value.items():
                if not isinstance(field, str):
                    raise _fault(
                        projection, f"key {key!r} has the field {field!r}, a {type(field).__name__}: fields are texts"
                    )
                yield f"the field {field!r} of key {key!r}", element
        case list():
            for index, element in enumerate(value):
                yield f"element {index} of key {key!r}", element
        case SortedSet(members):
            for score, member in members.items():
                if type(score) is not int or not 0 <= score <= SCORE_MAX:
                    raise _fault(
                        projection, f"key {key!r} has the score {score!r}: a score is a whole number up to 2^53"
                    )
                yield f"the member of key {key!r} at {score}", member
        case _:
            kind = type(value).__name__
            raise _fault(projection, f"the key {key!r} is a {kind}: a key holds bytes, a dict, a list or a SortedSet")


def _fault(projection: Projection[Any], what: str) -> ProjectionFault:
    return ProjectionFault(f"projection {projection.name}: {what}")


__all__ = ["ProjectionFault", "check", "check_delta", "check_face", "check_keys", "stored_state"]
