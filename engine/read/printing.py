"""Printing: JSON objects of many rows as columns of characters, one row an object.

Imports numpy and msgspec. The bytes are those that msgspec makes of the same structs, which the tests compare, in two
thirds of the time or half of it where there are 20,000. A place that a row does not need holds NUL, which no JSON has,
and all of them are left out at the end.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from crashfold.projections.columns import Ints

Characters = NDArray[np.uint8]
"""Characters of many rows: rows × places, or one row that stands for all."""
Printed = tuple[Characters, ...]
"""A value of each row: characters side by side."""

MANY: Final = 500
"""Fewer objects than that are printed one by one, which is as quick."""

_ZERO: Final = ord("0")
_NULL: Final = np.frombuffer(b"null", np.uint8)
_QUOTE: Final = np.frombuffer(b'"', np.uint8)
_HEX: Final = np.frombuffer(bytes(range(256)).hex().encode(), np.uint16)
"""The two hex digits of each byte."""


def objects(kind: type[msgspec.Struct], columns: Mapping[str, Printed]) -> msgspec.Raw:
    """The JSON array of structs of that kind; `columns` has the printed values of each field."""
    parts: list[Characters] = []
    for field in msgspec.structs.fields(kind):
        name = f'{"," if parts else "{"}"{field.encode_name}":'
        parts += (_same(name.encode()), *columns[field.name])
    parts.append(_same(b"},"))
    stops = np.cumsum([part.shape[-1] for part in parts]).tolist()
    count = max(len(part) for part in parts if part.ndim == 2)
    printed = np.empty(1 + count * stops[-1], np.uint8)
    rows = printed[1:].reshape(count, -1)
    for part, stop in zip(parts, stops, strict=True):
        rows[:, stop - part.shape[-1] : stop] = part
    printed[0], printed[-1] = b"[]"  # in the place of the last comma
    return msgspec.Raw(printed[printed != 0].data)


def whole(numbers: Ints) -> Printed:
    """Print whole numbers that are not negative."""
    places = len(str(int(numbers.max(initial=0))))
    printed = np.empty((len(numbers), places), np.uint8)
    left = numbers
    for place in range(places - 1, -1, -1):
        is_there = left > 0
        left, digits = np.divmod(left, 10)
        printed[:, place] = digits + _ZERO
        if place < places - 1:
            printed[:, place] *= is_there
    return (printed,)


def hundredths(numbers: Ints) -> Printed:
    """Decimals that are not negative, given in hundredths, as `float` prints them: at least one digit behind the
    point."""
    before, behind = np.divmod(numbers, 100)
    tenths, last = np.divmod(behind, 10)
    point = np.empty((len(numbers), 3), np.uint8)
    point[:, 0], point[:, 1], point[:, 2] = ord("."), tenths + _ZERO, np.where(last, last + _ZERO, 0)
    return (*whole(before), point)


def hexadecimal(data: Characters) -> Characters:
    """Print bytes (rows × places) as hex digits."""
    return _HEX[data].view(np.uint8).reshape(len(data), -1)


def text(*parts: Characters) -> Printed:
    """Print texts in quotes; their characters need no escape."""
    return (_QUOTE, *parts, _QUOTE)


def unless(absent: NDArray[np.bool_], value: Printed) -> Printed:
    """The printed values, `null` where `absent`."""
    if not absent.any():
        return value
    places = sum(part.shape[-1] for part in value)
    printed = np.zeros((len(absent), max(places, len(_NULL))), np.uint8)
    start = 0
    for part in value:
        printed[:, start : start + part.shape[-1]] = part
        start += part.shape[-1]
    printed[absent] = 0
    printed[absent, : len(_NULL)] = _NULL
    return (printed,)


def _same(characters: bytes) -> Characters:
    """Characters that are the same in every row."""
    return np.frombuffer(characters, np.uint8)
