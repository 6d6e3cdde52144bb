"""Columns: an immutable table of 64-bit integers that grows cheaply at its end.

Imports numpy only. A `Columns` never changes once made. What is made from it by `append` shares its memory: a buffer
with room to spare holds the rows of many generations, each of which sees its own range and no other. Only the
generation that ends where the buffer's rows end may write behind them; any other copies first. A buffer that is full
grows for all generations at once, so old ones hold no memory of their own; unless most of its rows are no longer seen
by the newest, which then goes on in a new one.
"""

from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_ROOM_MIN: Final = 8

LISTED_ENOUGH: Final = 0.8
"""A table of which so much is still wanted is not worth copying: older generations share it as it is."""


class _Buffer:
    """Memory shared by generations of one table: `cells` (columns × capacity), of which `used` rows are written."""

    __slots__ = ("cells", "used")

    def __init__(self, cells: Ints, used: int) -> None:
        self.cells = cells
        self.used = used


class Columns:
    """`width` columns of `len(self)` rows. `columns[c]` is column c as a read-only array, without a copy."""

    __slots__ = ("_buffer", "_start", "_stop")

    def __init__(self, buffer: _Buffer, start: int, stop: int) -> None:
        self._buffer = buffer
        self._start = start
        self._stop = stop

    @classmethod
    def empty(cls, width: int) -> Self:
        """A table of `width` columns and no rows."""
        return cls(_Buffer(np.empty((width, 0), np.int64), 0), 0, 0)

    @classmethod
    def of(cls, cells: Ints) -> Self:
        """A table with the rows of `cells` (columns × rows), which is taken over, not copied."""
        return cls(_Buffer(cells, cells.shape[1]), 0, cells.shape[1])

    @property
    def width(self) -> int:
        """How many columns there are."""
        return int(self._buffer.cells.shape[0])

    @property
    def cells(self) -> Ints:
        """All cells, columns × rows, read-only."""
        view = self._buffer.cells[:, self._start : self._stop]
        view.flags.writeable = False
        return view

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, column: int) -> Ints:
        view: Ints = self._buffer.cells[column, self._start : self._stop]
        view.flags.writeable = False
        return view

    def append(self, cells: Ints) -> "Columns":
        """This table with the rows of `cells` (columns × rows) behind its own."""
        more = cells.shape[1]
        if more == 0:
            return self
        buffer, start, stop = self._buffer, self._start, self._stop
        is_full = stop + more > buffer.cells.shape[1]
        if buffer.used != stop or (is_full and start >= stop - start):
            buffer = _Buffer(_roomy(self.cells, more), len(self))
            start, stop = 0, len(self)
        elif is_full:
            buffer.cells = _roomy(buffer.cells[:, :stop], more)
        buffer.cells[:, stop : stop + more] = cells
        buffer.used = stop + more
        return Columns(buffer, start, stop + more)

    def last(self, rows: int) -> "Columns":
        """The newest `rows` rows, or all when there are fewer."""
        return self if len(self) <= rows else self.part(len(self) - rows, len(self))

    def part(self, start: int, stop: int) -> "Columns":
        """Rows `start` to `stop` (exclusive), counted from this table's first."""
        return Columns(self._buffer, self._start + start, self._start + min(stop, len(self)))

    @property
    def memory(self) -> Ints:
        """The array in which the rows stand, with its room and the rows of others: for those who count bytes."""
        return self._buffer.cells

    def shares_memory_with(self, other: "Columns") -> bool:
        """Whether the rows both see are the same rows of one buffer, and so equal without looking."""
        return self._buffer is other._buffer

    def to_bytes(self, *, is_small: bool = True) -> bytes:
        """The table as bytes: the least value of each column (8 bytes), the size of each column's cells (1 byte), then
        column after column what each cell has above the least, in as few bytes as the greatest of them needs.

        Ids and times of neighbouring games take three bytes and not eight. Unless `is_small`, every cell is above 0 in
        eight bytes, which takes a fifth of the time.
        """
        cells = self.cells
        if not cells.size:
            return b""
        if not is_small:
            return bytes(8 * self.width) + b"\x08" * self.width + cells.astype("<i8").tobytes()
        least = cells.min(axis=1)
        above = np.subtract(cells, least[:, np.newaxis], order="C").astype("<u8")  # modulo 2^64, so right for any two
        sizes = [max(1, (greatest.bit_length() + 7) // 8) for greatest in above.max(axis=1).tolist()]
        digits = above.view(np.uint8).reshape(*cells.shape, 8)
        columns = [column[:, :size].tobytes() for column, size in zip(digits, sizes, strict=True)]
        return b"".join((least.astype("<i8").tobytes(), bytes(sizes), *columns))

    @classmethod
    def from_bytes(cls, width: int, data: bytes) -> Self:
        """The table whose `to_bytes` is `data`. Raises ValueError when there is none."""
        if not data:
            return cls.empty(width)
        sizes, at = data[8 * width : 9 * width], 9 * width
        if len(sizes) < width or not all(1 <= size <= 8 for size in sizes) or (len(data) - at) % sum(sizes):
            raise ValueError(f"no table of {width} columns")
        least, rows = np.frombuffer(data, "<i8", width), (len(data) - at) // sum(sizes)
        digits = np.zeros((width, rows, 8), np.uint8)
        for column, size in zip(digits, sizes, strict=True):
            column[:, :size] = np.frombuffer(data, np.uint8, rows * size, at).reshape(rows, size)
            at += rows * size
        return cls.of(digits.view("<i8").reshape(width, rows) + least[:, np.newaxis])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Columns) and np.array_equal(self.cells, other.cells)

    __hash__ = None  # type: ignore[assignment]  # equality compares contents

    def __repr__(self) -> str:
        return f"Columns(width={self.width}, rows={len(self)})"


def _roomy(cells: Ints, more: int) -> Ints:
    """A copy with room for so many rows more, and half as many again."""
    width, rows = cells.shape
    room = np.empty((width, _ROOM_MIN + rows + rows // 2 + more), np.int64)
    room[:, :rows] = cells
    return room


def ascending(values: Ints) -> Ints:
    """Return the stable sort order of the values. Sorting is quicker for values that lie close together."""
    if not len(values):
        return np.empty(0, np.int64)
    narrow = values - values.min()
    order: Ints = np.argsort(narrow.astype(np.min_scalar_type(narrow.max())), kind="stable")
    return order


def firsts(values: Ints) -> Ints:
    """Where each value stands for the first time; `values` ascend."""
    is_first = np.ones(len(values), np.bool_)
    is_first[1:] = values[1:] != values[:-1]
    return is_first.nonzero()[0]


def newest_of_each(groups: Ints, count: int | Ints) -> NDArray[np.bool_]:
    """Which rows are among the last `count` of their group, or among as many as `count` has of each group; `groups` are
    small numbers from 0."""
    order = ascending(groups)
    behind = np.cumsum(np.bincount(groups))[groups[order]] - np.arange(len(order))
    is_newest = np.empty(len(order), np.bool_)
    is_newest[order] = behind <= (count if isinstance(count, int) else count[groups[order]])
    return is_newest
