"""Decoding: the values of many records into the columns of games, by shape instead of one by one.

Imports schemas and numpy. What is always true: the verdict on each value is that of `schemas.game.decode`, and so are
the fields of a game; `tests/property/test_decoding.py` holds the two together.

A producer writes its games in one form, and values of equal length differ in digits only. So one value of such a group
is decoded and taken apart, which gives the group's *shape*: for every character the lowest and the highest that may
stand there, and which of them are the digits of which field. All other values are held against the shape at once. What
fits differs from the decoded value in digits of numbers and hashes alone, so it is a game too, unless a number is out
of bounds; whatever does not fit, or has no shape, is decoded by itself.
"""

import re
from binascii import Error as NoHex
from binascii import unhexlify
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from crashfold.projections.columns import Ints
from crashfold.projections.games import (
    ABSENT,
    BAND,
    COLUMN,
    HASH,
    HUNDREDTHS,
    WIDTH,
    Bands,
)
from crashfold.projections.games import cells_of as cells_of_games
from crashfold.projections.packed import Packed, Text
from crashfold.schemas.fields import WHOLE_NUMBERS
from crashfold.schemas.game import HASH_DIGITS, HUNDREDTHS_MAX, HUNDREDTHS_MIN, NESTING_MAX, Game, decode, decode_all
from crashfold.schemas.record import Unreadable

ALIKE_MIN: Final = 128
"""Fewer values than that are decoded one by one. By shape, a commit of one game takes 1.3 times the CPU; one by one, a
rebuild of 300,000 games takes twice the CPU."""
SHAPES_MAX: Final = 8
"""Shapes that values of one length may have, as far as it pays to look for them."""
AT_ONCE: Final = 2048
"""Values looked at together: some 400 KB, which the processor's cache still holds."""
_SHAPED_BYTES_MAX: Final = NESTING_MAX
"""Longer values are looked at one by one, as `decode` does."""

_BLANKS: Final = rb"[ \t\r\n]*"
_NAMED: Final = _BLANKS + rb'"([^"\\]*)"' + _BLANKS + b":" + _BLANKS + rb'("[^"\\]*"|[^][{}," \t\r\n]+)' + _BLANKS
_MEMBER: Final = re.compile(_NAMED)
_FLAT: Final = re.compile(_BLANKS + rb"\{" + _NAMED + b"(?:," + _NAMED + rb")*\}" + _BLANKS)
_INTEGER: Final = re.compile(rb"[0-9]{1,16}")
_DECIMAL: Final = re.compile(rb"([0-9]{1,10})(?:\.([0-9]{1,2}))?")

_COLUMNS: Final = {name.encode(): column for name, column in COLUMN.items()}
_BOUNDS: Final = {HUNDREDTHS: (HUNDREDTHS_MIN, HUNDREDTHS_MAX)} | {
    COLUMN[name]: (number.low, number.high) for name, number in WHOLE_NUMBERS.items()
}
_CASES: Final = 0x2020202020202020
"""Set in eight digits and lower-case letters, not all of it where one is an upper-case letter."""
_SIDE_BY_SIDE: Final = 8
_WORD: Final = 8
"""Characters that are read as one integer."""
_IS_HEX: Final = np.isin(np.arange(256), np.frombuffer(b"0123456789abcdef", np.uint8))


class Decoded(msgspec.Struct, frozen=True):
    """The result of decoding: `cells` (WIDTH × games) has a column of cells for each row in `rows`, which ascend; every
    other row is `unreadable`, in order too."""

    cells: Ints
    rows: Ints
    unreadable: list[tuple[int, Unreadable]]


def decode_cells(bands: Bands, values: Packed) -> Decoded:
    """Decode the values of many records: what `schemas.game.decode` makes of each, as columns."""
    total = len(values)
    cells = np.empty((WIDTH, total), np.int64)
    done = np.zeros(total, np.bool_)
    if total >= ALIKE_MIN:
        order = np.argsort(values.lengths.astype(np.uint16), kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(values.lengths[order])) + 1):
            _decode_alike(values, rows, cells, done)
    unreadable = _decode_others(bands, values, np.flatnonzero(~done), cells)
    rows = np.arange(total)
    if unreadable:
        rows = np.delete(rows, [row for row, _ in unreadable])
        cells = np.ascontiguousarray(cells[:, rows])
    cells[BAND] = bands.of(cells[HUNDREDTHS])
    return Decoded(cells, rows, unreadable)


class _Digits(msgspec.Struct, frozen=True):
    """At most eight digits of a number in `column`: the last of the eight characters from `start` on. `worth` is that
    of the last one."""

    column: int
    start: int
    count: int
    worth: int


class _Shape:
    """The form of a value. `lowest` and `highest` bound each of its characters; what is not said in `numbers` of a
    number is null. The hash begins at `hash_at`, if there is one. None of the characters at `free` may end the string
    that it is in."""

    def __init__(self, value: bytes) -> None:
        self.lowest = np.frombuffer(value, np.uint8).copy()
        self.highest = self.lowest.copy()
        self.numbers: list[_Digits] = []
        self.hash_at: int | None = None
        self.free: list[int] = []

    def take_digits(self, start: int, stop: int) -> None:
        """From `start` to `stop` any digits may stand."""
        self.lowest[start:stop], self.highest[start:stop] = ord("0"), ord("9")

    def take_whole_number(self, start: int, stop: int) -> None:
        """From `start` to `stop` any whole number may stand: of several digits the first is not 0."""
        self.take_digits(start, stop)
        if stop - start > 1:
            self.lowest[start] = ord("1")

    def take_number(self, column: int, start: int, stop: int, worth: int = 1) -> None:
        """From `start` to `stop` the digits of a number in `column` stand, the last of that worth."""
        while start < stop:
            self.numbers.append(_Digits(column, stop - _WORD, min(_WORD, stop - start), worth))
            stop, worth = stop - _WORD, worth * 10**_WORD

    def take_hash(self, start: int) -> None:
        """From `start` on a hash stands. The bounds leave in more than that: `_hashes` looks at it again."""
        self.hash_at = start
        self.lowest[start : start + HASH_DIGITS], self.highest[start : start + HASH_DIGITS] = ord("0"), ord("f")

    def take_string(self, start: int, stop: int) -> None:
        """From `start` to `stop` any printable ASCII may stand that neither ends the string nor escapes."""
        self.lowest[start:stop], self.highest[start:stop] = ord(" "), ord("~")
        self.free += range(start, stop)

    def fitting(self, text: Text) -> NDArray[np.bool_]:
        """Which of the values have this shape, as far as the bounds tell."""
        fits = np.ones(len(text), np.bool_)
        outside = (_over(np.minimum, text) < self.lowest) | (_over(np.maximum, text) > self.highest)
        if outside.any():
            some = text[:, outside]
            fits &= ((some >= self.lowest[outside]) & (some <= self.highest[outside])).all(axis=1)
        if self.free:
            free = text[:, self.free]
            fits &= ~((free == ord('"')) | (free == ord("\\"))).any(axis=1)
        return fits


def _shape_of(value: bytes) -> _Shape | None:
    """The shape of a value that is a game; None when it is none, or has a form whose like cannot be told from it."""
    if not value.isascii() or _FLAT.fullmatch(value) is None or isinstance(decode(value), Unreadable):
        return None
    shape, names = _Shape(value), set()
    for member in _MEMBER.finditer(value, value.index(b"{") + 1):
        name, token = member.groups()
        if name in names or not _add(shape, name, token, *member.span(2)):
            return None
        names.add(name)
    return shape if all(digits.start >= 0 for digits in shape.numbers) else None


def _add(shape: _Shape, name: bytes, token: bytes, start: int, stop: int) -> bool:
    """Let the shape know of a member; False when its values cannot be told by their characters."""
    if token in (b"null", b"true", b"false"):
        return True
    if name == b"crash_point":
        return _add_crash_point(shape, token, start, stop)
    if name == b"hash":
        shape.take_hash(start + 1)
        return True
    if token.startswith(b'"'):
        shape.take_string(start + 1, stop - 1)
        return True
    if _INTEGER.fullmatch(token) is None:
        return False
    shape.take_whole_number(start, stop)
    if name in _COLUMNS:
        shape.take_number(_COLUMNS[name], start, stop)
    return True


def _add_crash_point(shape: _Shape, token: bytes, start: int, stop: int) -> bool:
    decimal = _DECIMAL.fullmatch(token)
    if decimal is None:
        return False
    point = start + len(decimal[1])
    shape.take_whole_number(start, point)
    shape.take_number(HUNDREDTHS, start, point, 100)
    if decimal[2] is not None:
        shape.take_digits(point + 1, stop)
        shape.take_number(HUNDREDTHS, point + 1, stop, 10 ** (2 - len(decimal[2])))
    return True


def _decode_alike(values: Packed, rows: Ints, cells: Ints, done: NDArray[np.bool_]) -> None:
    """Decode those of the rows, all of one length, that have the shape of others; note which."""
    length = int(values.lengths[rows[0]])
    if not 0 < length <= _SHAPED_BYTES_MAX:
        return
    shapes: list[_Shape] = []
    for first in range(0, len(rows), AT_ONCE):
        left = rows[first : first + AT_ONCE]
        for number in range(SHAPES_MAX):
            if number == len(shapes):
                shape = _shape_of(values[int(left[0])] or b"") if len(left) >= ALIKE_MIN else None
                if shape is None:
                    break
                shapes.append(shape)
            left = _read(shapes[number], values.text(left, length), left, cells, done)
            if not len(left):
                break


def _read(shape: _Shape, text: Text, rows: Ints, cells: Ints, done: NDArray[np.bool_]) -> Ints:
    """Read those of the values that have that shape, unless a number is out of bounds; the rows of the others."""
    fits = shape.fitting(text)
    words = None
    if shape.hash_at is not None:
        digits = text[:, shape.hash_at : shape.hash_at + HASH_DIGITS]
        words = _hash_words(digits)
        if words is None:
            fits &= _IS_HEX[digits].all(axis=1)
            words = _hash_words(digits[fits])
        elif not fits.all():
            words = words[fits]
    others = rows[~fits]
    if len(others):
        rows, text = rows[fits], text[fits]
    if len(rows):
        cells[HASH, rows] = words is not None
        for word in range(4):
            cells[HASH + 1 + word, rows] = 0 if words is None else words[:, word]
        done[rows] = _read_numbers(shape, text, rows, cells)
    return others


def _over(reduce: np.ufunc, text: Text) -> Text:
    """Each column of the characters reduced: of several rows side by side first, for numpy is quick over long rows."""
    rows, length = text.shape
    wide = text[: rows // _SIDE_BY_SIDE * _SIDE_BY_SIDE].reshape(-1, _SIDE_BY_SIDE * length)
    if len(wide):
        text = np.concatenate((reduce.reduce(wide).reshape(-1, length), text[_SIDE_BY_SIDE * len(wide) :]))
    found: Text = reduce.reduce(text)
    return found


def _hash_words(digits: Text) -> Ints | None:
    """The hashes as four integers each; None unless all are hashes."""
    whole = digits.tobytes()
    try:
        words = np.frombuffer(unhexlify(whole), np.int64).reshape(-1, 4)
    except NoHex:
        return None
    is_lower = not whole or int(np.bitwise_and.reduce(np.frombuffer(whole, np.uint64))) & _CASES == _CASES
    return words if is_lower else None


def _read_numbers(shape: _Shape, text: Text, rows: Ints, cells: Ints) -> NDArray[np.bool_]:
    """Read the numbers; which of the values have all of theirs within bounds."""
    found: dict[int, Ints] = {}
    for digits, read in zip(shape.numbers, _read_digits(shape.numbers, text), strict=True):
        number = read if digits.worth == 1 else read * digits.worth
        found[digits.column] = found[digits.column] + number if digits.column in found else number
    within = np.ones(len(rows), np.bool_)
    for column, (low, high) in _BOUNDS.items():
        if column not in found:
            cells[column, rows] = ABSENT
            continue
        number = found[column]
        if number.min() < low or number.max() > high:
            within &= (number >= low) & (number <= high)
        cells[column, rows] = number
    return within


def _read_digits(parts: list[_Digits], text: Text) -> Ints:
    """The number that each of these digits are, in each value: parts × values.

    Eight characters are one word. Each step makes one number of two neighbours, in all places of the word at once.
    """
    words = np.empty((len(parts), len(text)), "<u8")
    for row, digits in enumerate(parts):
        words[row] = np.ndarray((len(text),), "<u8", text, digits.start, text.strides[:1])
        words[row] &= np.uint64((1 << 8 * _WORD) - (1 << 8 * (_WORD - digits.count)))
    words &= np.uint64(0x0F0F0F0F0F0F0F0F)
    words *= np.uint64(10 << 8 | 1)
    words >>= np.uint64(8)
    words &= np.uint64(0x00FF00FF00FF00FF)
    words *= np.uint64(100 << 16 | 1)
    words >>= np.uint64(16)
    words &= np.uint64(0x0000FFFF0000FFFF)
    words *= np.uint64(10_000 << 32 | 1)
    words >>= np.uint64(32)
    return words.astype(np.int64)


def _decode_others(bands: Bands, values: Packed, rows: Ints, cells: Ints) -> list[tuple[int, Unreadable]]:
    """Decode these rows one by one; the unreadable ones."""
    games: list[Game] = []
    game_rows: list[int] = []
    unreadable: list[tuple[int, Unreadable]] = []
    for row, verdict in zip(rows.tolist(), decode_all(list(values.rows(rows))), strict=True):
        if isinstance(verdict, Unreadable):
            unreadable.append((row, verdict))
        else:
            games.append(verdict)
            game_rows.append(row)
    if games:
        cells[:, game_rows] = cells_of_games(bands, games)
    return unreadable
