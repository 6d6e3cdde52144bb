"""Delta: the absolute writes that bring the read model from one state to another.

Pure data. A read model is a mapping from names (what follows a stream's prefix, see `schemas.keys`) to values, and a
delta is a mapping from names to writes. `apply(model, delta)` is the definition that every store has to meet.
Strings are bytes, as Redis keeps them. A write holds nothing that could lead back to it, so the collector need not
know of the hundreds that a commit has.

`known` says how many elements the key has at least before the write, as far as whoever makes it knows; a string has
one. A store that finds fewer has lost some, and refuses.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeVar

import msgspec

T = TypeVar("T")


class SortedSet(msgspec.Struct, frozen=True):
    """A sorted set: member by score. Scores are game ids, so no two members share one."""

    members: dict[int, bytes]


Value = bytes | dict[str, bytes] | list[bytes] | SortedSet
"""The value of a key: a string, a hash, a list with its newest element first, or a sorted set."""

Model = Mapping[str, Value]


class ReadModel(dict[str, Value]):
    """All keys of a stream with their values, by name without the prefix; and each value as the kind that it is.

    The methods raise KeyError when there is no such key, and TypeError when it holds another kind.
    """

    def string(self, name: str) -> bytes:
        """The string at that key."""
        return self._of(name, bytes)

    def hash(self, name: str) -> dict[str, bytes]:
        """The fields of the hash at that key."""
        return self._of(name, dict)

    def list(self, name: str) -> list[bytes]:
        """The elements of the list at that key, newest first."""
        return self._of(name, list)

    def sorted_set(self, name: str) -> dict[int, bytes]:
        """The members of the sorted set at that key, by score."""
        return self._of(name, SortedSet).members

    def _of(self, name: str, kind: type[T]) -> T:
        value: object = self[name]
        if not isinstance(value, kind):
            raise TypeError(f"{name} holds a {type(value).__name__}, not a {kind.__name__}")
        return value


class SetString(msgspec.Struct, frozen=True, gc=False):
    """The write that sets a string to `value`."""

    value: bytes
    known: int = 0


class WriteHash(msgspec.Struct, frozen=True, gc=False):
    """The write to a hash: the fields in `set` get these values, those in `delete` are removed."""

    set: dict[str, bytes]
    delete: tuple[str, ...] = ()
    known: int = 0


class WriteList(msgspec.Struct, frozen=True, gc=False):
    """The write to a list: `push` (newest first) replaces the newest `drop` elements, and at most `keep` remain."""

    drop: int
    push: list[bytes]
    keep: int
    known: int = 0


class WriteSortedSet(msgspec.Struct, frozen=True, gc=False):
    """The write to a sorted set: the members in `add` get their scores, those with a score below `remove_below` are
    removed."""

    add: dict[int, bytes]
    remove_below: int = 0
    known: int = 0


class Remove(msgspec.Struct, frozen=True, gc=False):
    """The write that removes a key."""


Write = SetString | WriteHash | WriteList | WriteSortedSet | Remove
Delta = dict[str, Write]
Writes = Mapping[str, Write]
"""A delta that is only read; it may be one that is `Unfolding`."""


class Unfolding(Mapping[str, Write]):
    """A delta that is made piece by piece, when somebody comes to its writes, and then kept.

    So the first writes may be on their way while those behind them are being made.
    """

    def __init__(self, pieces: Iterable[Delta]) -> None:
        self._made: Delta = {}
        self._names: list[str] = []
        self._pieces = iter(pieces)

    def __iter__(self) -> Iterator[str]:
        given = 0
        while given < len(self._names) or self._unfold():
            names = self._names[given:]
            given += len(names)
            yield from names

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, name: str) -> Write:
        while name not in self._made and self._unfold():
            pass
        return self._made[name]

    def _unfold(self) -> bool:
        """Make the next piece; False when there is none."""
        for piece in self._pieces:
            self._made |= piece
            self._names += piece
            return True
        return False


_ALL: Final = 2**31 - 1


def apply(model: Model, delta: Mapping[str, Write]) -> dict[str, Value]:
    """Return the read model after `delta`; a hash, list or sorted set without elements does not exist.

    Raises TypeError when a write meets a value of another kind, or one with fewer elements than are `known`.
    """
    after = dict(model)
    for name, write in delta.items():
        value = _written(after.get(name), write)
        if value is None:
            after.pop(name, None)
        else:
            after[name] = value
    return after


def create(model: Model) -> Delta:
    """Make the delta that creates `model` where nothing is."""
    return diff({}, model)


def diff(before: Model, after: Model) -> Delta:
    """Make the delta between two read models; it is all that a projection with small values needs."""
    delta: Delta = {name: Remove() for name in before.keys() - after.keys()}
    for name, value in after.items():
        old = before.get(name)
        if value != old:
            delta[name] = _difference(old, value)
    return delta


def changed_fields(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> WriteHash:
    """Make the write that turns one hash into another."""
    return WriteHash(
        {field: value for field, value in after.items() if before.get(field) != value},
        tuple(sorted(before.keys() - after.keys())),
    )


def _difference(old: Value | None, value: Value) -> Write:
    match value:
        case bytes():
            return SetString(value)
        case dict():
            return changed_fields(old if isinstance(old, dict) else {}, value)
        case list():
            return WriteList(drop=_ALL if old else 0, push=value, keep=_ALL)
        case SortedSet(members):
            known = old.members if isinstance(old, SortedSet) else {}
            add = {score: member for score, member in members.items() if known.get(score) != member}
            return WriteSortedSet(add, min(members, default=0))


def _size(value: Value | None) -> int:
    match value:
        case None:
            return 0
        case bytes():
            return 1
        case SortedSet(members):
            return len(members)
    return len(value)


def _written(old: Value | None, write: Write) -> Value | None:
    if not isinstance(write, Remove) and _size(old) < write.known:
        raise TypeError(f"{type(write).__name__} met {_size(old)} elements, not {write.known}")
    match write, old:
        case SetString(value), bytes() | None:
            return value
        case WriteHash(fields, delete), dict() | None:
            return {k: v for k, v in {**(old or {}), **fields}.items() if k not in delete} or None
        case WriteList(drop, push, keep), list() | None:
            return [*push, *(old or [])[drop:]][:keep] or None
        case WriteSortedSet(add, remove_below), SortedSet() | None:
            members = {**(old.members if old else {}), **add}
            left = {score: members[score] for score in sorted(members) if score >= remove_below}
            return SortedSet(left) if left else None
        case Remove(), _:
            return None
    raise TypeError(f"{type(write).__name__} met a {type(old).__name__}")
