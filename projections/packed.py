"""Packed: byte strings end to end in one buffer, as records come from a topic.

Imports numpy only. A `Packed` never changes; what is made from it by `rows` or `part` shares its buffer. One string
costs two integers instead of an object, and many can be looked at by a few array operations.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Self

import numpy as np
from numpy.typing import NDArray

from crashfold.projections.columns import Ints

NULL = -1
"""The length of a string that is not there at all."""

Text = NDArray[np.uint8]
"""Characters of strings of one length: strings × characters."""


class Packed:
    """Byte strings, or None for those that are not there: row i has `lengths[i]` bytes of `buffer` from `starts[i]`."""

    __slots__ = ("buffer", "lengths", "starts")

    def __init__(self, buffer: bytes, starts: Ints, lengths: Ints) -> None:
        self.buffer = buffer
        self.starts = starts
        self.lengths = lengths

    @classmethod
    def of(cls, strings: Sequence[bytes | None]) -> Self:
        """These strings, copied into one buffer."""
        lengths = np.array([NULL if string is None else len(string) for string in strings], np.int64)
        starts = np.cumsum(np.maximum(lengths, 0)) - np.maximum(lengths, 0)
        return cls(b"".join([string for string in strings if string]), starts, lengths)

    @classmethod
    def joined(cls, pieces: Sequence["Packed"]) -> Self:
        """The strings of all pieces, one piece behind the other."""
        shifts = accumulate((len(piece.buffer) for piece in pieces), initial=0)
        starts = [piece.starts + shift for piece, shift in zip(pieces, shifts, strict=False)]
        return cls(
            b"".join([piece.buffer for piece in pieces]),
            np.concatenate(starts),
            np.concatenate([piece.lengths for piece in pieces]),
        )

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int) -> bytes | None:
        start, length = int(self.starts[row]), int(self.lengths[row])
        return None if length == NULL else self.buffer[start : start + length]

    def __iter__(self) -> Iterator[bytes | None]:
        buffer = self.buffer
        for start, length in zip(self.starts.tolist(), self.lengths.tolist(), strict=True):
            yield None if length == NULL else buffer[start : start + length]

    def part(self, start: int, stop: int) -> "Packed":
        """The strings from row `start` to `stop` (exclusive)."""
        return Packed(self.buffer, self.starts[start:stop], self.lengths[start:stop])

    def rows(self, rows: Ints | Sequence[int]) -> "Packed":
        """The strings of those rows, in that order."""
        return Packed(self.buffer, self.starts[rows], self.lengths[rows])

    def text(self, rows: Ints, length: int) -> Text:
        """The characters of those rows, all of which have that length: len(rows) × length, a copy."""
        if not length or not len(rows):
            return np.empty((len(rows), length), np.uint8)
        # An item of `windows` is the `length` bytes from any one position; taking items copies each at one go.
        windows = np.ndarray((len(self.buffer) - length + 1,), f"V{length}", self.buffer, strides=(1,))
        return windows[self.starts[rows]].view(np.uint8).reshape(len(rows), length)

    def are_all(self, string: bytes | None) -> bool:
        """Whether every row is this string."""
        length = NULL if string is None else len(string)
        if not bool((self.lengths == length).all()):
            return False
        if not string:
            return True
        return bool((self.text(np.arange(len(self)), length) == np.frombuffer(string, np.uint8)).all())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Iterable) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # equality compares contents

    def __repr__(self) -> str:
        return f"Packed({list(self)!r})"
