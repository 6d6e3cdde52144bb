"""Games: a batch of games, or the window, as columns.

Imports schemas and numpy. The rows of a `Games` are always in order of `game_id`, each id once; one column a field, and
one more, the *band*: where the crash point lies among all the thresholds of the predicates, so that every later
comparison is of small integers. See `Bands`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from crashfold.projections.columns import Columns, Ints
from crashfold.schemas.fields import OPTIONAL_NUMBERS, WHOLE_NUMBERS
from crashfold.schemas.game import Game, encode
from crashfold.schemas.predicate import Predicate

ABSENT: Final = np.iinfo(np.int64).min
"""Stands for null; no field may be that low."""

ID: Final = 0
HUNDREDTHS: Final = 1
END_TIME: Final = 2
OPTIONAL: Final = 3
"""From here on the whole numbers that a game need not have, one column each, in the order of the struct."""
HASH: Final = OPTIONAL + len(OPTIONAL_NUMBERS)
"""From here on five columns: one that says whether there is a hash, then its 32 bytes."""
BAND: Final = HASH + 5
WIDTH: Final = BAND + 1

COLUMN: Final = {"game_id": ID, "end_time": END_TIME} | {
    name: OPTIONAL + at for at, name in enumerate(OPTIONAL_NUMBERS)
}
"""The column of each field that is a whole number."""
if COLUMN.keys() != WHOLE_NUMBERS.keys():
    raise TypeError(f"a game needs {COLUMN.keys() ^ WHOLE_NUMBERS.keys()}: a field that is added has to be optional")

_ORDER: Final = ("game_id", "crash_point", "end_time", "hash", *OPTIONAL_NUMBERS)
_game: Final[Callable[..., Game]] = eval(  # as namedtuple does it: keywords from a dict cost three times as much
    f"lambda {', '.join(_ORDER)}: Game({', '.join(f'{name}={name}' for name in _ORDER)})", {"Game": Game}
)
_NO_HASH: Final = "0" * 64

NEWEST_FIRST: Final = 4096
NEWEST_GROWTH: Final = 4
"""Among so many of the newest games matches are looked for first, then among so many times as many."""


class Bands:
    """The ranges of crash points between all thresholds: each predicate is a range of bands, and one histogram counts
    for all.

    All thresholds, sorted, cut the crash points into bands, and each predicate matches the bands from `low` to `high`
    (exclusive), one run of them. So one histogram over bands answers how many games match, for every predicate at once.
    """

    def __init__(self, predicates: Sequence[Predicate]) -> None:
        self.predicates = tuple(predicates)
        edges = {predicate.low for predicate in predicates}
        edges.update(predicate.high for predicate in predicates if predicate.high is not None)
        self._edges = np.array(sorted(edges), np.int64)
        self.count = len(edges) + 1
        self.low = self.of(np.array([predicate.low for predicate in predicates], np.int64))
        self.high = np.array(
            [self.count if p.high is None else int(self.of(np.array([p.high]))[0]) for p in predicates],
            np.int64,
        )
        self._spans = np.stack((self.low, self.high), axis=1).ravel()
        bands = np.arange(self.count).reshape(-1, 1)
        self.matches = (self.low <= bands) & (bands < self.high)
        """Which predicates match each band: bands × predicates."""
        self.matched = np.ascontiguousarray(self.matches.T)
        """Which bands each predicate matches."""

    def of(self, hundredths: Ints) -> Ints:
        """Return the band of each crash point."""
        return np.searchsorted(self._edges, hundredths, "right").astype(np.int64)

    def histogram(self, bands: Ints) -> Ints:
        """Count how often each band occurs: an array of `self.count`."""
        found: Ints = np.bincount(bands, minlength=self.count)
        return found

    def counts(self, histogram: Ints) -> Ints:
        """Count the matches of each predicate, from a histogram (bands along the last axis)."""
        below = np.zeros((*histogram.shape[:-1], self.count + 1), np.int64)
        histogram.cumsum(axis=-1, out=below[..., 1:])
        return below[..., self.high] - below[..., self.low]

    def firsts(self, bands: Ints) -> Ints:
        """Find for each predicate the position in `bands` of its first match; `len(bands)` where there is none."""
        return -self.highest(bands, -np.arange(len(bands)), -len(bands))

    def lasts(self, bands: Ints) -> Ints:
        """Find for each predicate the position in `bands` of its last match; -1 where there is none."""
        return self.highest(bands, np.arange(len(bands)), -1)

    def highest(self, bands: Ints, values: Ints, least: int = 0) -> Ints:
        """Find for each predicate the highest of the values that it matches, one value for each of `bands`; `least`
        without one."""
        by_band = np.full(self.count + 1, least, np.int64)
        np.maximum.at(by_band, bands, values)
        found: Ints = np.maximum.reduceat(by_band, self._spans)[::2]
        return found

    def positions(self, bands: Ints, predicates: Ints) -> Iterator[tuple[int, Ints]]:
        """Yield each predicate with the positions in `bands` that match it, ascending.

        The lowest predicate first: what lies below one need not be looked at for those that follow.
        """
        above = bands.astype(np.min_scalar_type(self.count))
        left, low = np.arange(len(bands)), 0
        for predicate in predicates[np.argsort(self.low[predicates], kind="stable")].tolist():
            if self.low[predicate] > low:
                low = int(self.low[predicate])
                kept = np.flatnonzero(above >= low)
                left, above = left[kept], above[kept]
            high = int(self.high[predicate])
            yield predicate, left if high == self.count else left[np.flatnonzero(above < high)]


class Games:
    """A table of games in order of id, one column a field. Immutable; `append` and `part` share memory."""

    __slots__ = ("_json", "bands", "columns")

    def __init__(self, bands: Bands, columns: Columns) -> None:
        self.bands = bands
        self.columns = columns
        self._json: list[bytes] = []

    @classmethod
    def empty(cls, bands: Bands) -> "Games":
        """Return a table without games."""
        return cls(bands, Columns.empty(WIDTH))

    @classmethod
    def of(cls, bands: Bands, games: Sequence[Game]) -> "Games":
        """Make columns of `games`, which must be in order of id."""
        return cls(bands, Columns.of(cells_of(bands, games)))

    @classmethod
    def of_cells(cls, bands: Bands, cells: Ints) -> "Games":
        """The games whose first ten columns are `cells`; their bands are found anew."""
        return cls(bands, Columns.of(np.concatenate((cells, bands.of(cells[HUNDREDTHS]).reshape(1, -1)))))

    @property
    def ids(self) -> Ints:
        """The game ids, ascending."""
        return self.columns[ID]

    @property
    def hundredths(self) -> Ints:
        """The crash points in hundredths."""
        return self.columns[HUNDREDTHS]

    @property
    def end_times(self) -> Ints:
        """The end times in epoch milliseconds."""
        return self.columns[END_TIME]

    @property
    def band_numbers(self) -> Ints:
        """Return the band of each crash point."""
        return self.columns[BAND]

    def __len__(self) -> int:
        return len(self.columns)

    def append(self, more: "Games") -> "Games":
        """Return these games followed by `more`, all of whose ids are higher."""
        return Games(self.bands, self.columns.append(more.columns.cells))

    def part(self, start: int, stop: int) -> "Games":
        """Return the games from position `start` to `stop` (exclusive)."""
        return Games(self.bands, self.columns.part(start, stop))

    def last(self, count: int) -> "Games":
        """Return the newest `count` games."""
        return Games(self.bands, self.columns.last(count))

    def where(self, mask: NDArray[np.bool_]) -> "Games":
        """Return the games for which `mask` is true."""
        return Games(self.bands, Columns.of(self.columns.cells[:, mask]))

    def each_newest(self, take: Callable[[int, Ints], bool]) -> None:
        """Call `take` with each predicate and the positions of its matches among the newest games, ascending: of ever
        more games, until it says that those were enough, or all were looked at."""
        bands, missing = self.band_numbers, np.arange(len(self.bands.predicates))
        looked_at = NEWEST_FIRST
        while len(missing):
            start = max(0, len(bands) - looked_at)
            found = self.bands.positions(bands[start:], missing)
            unsatisfied = [one for one, positions in found if not take(one, positions + start)]
            missing = np.array(unsatisfied if start else [], np.int64)
            looked_at *= NEWEST_GROWTH

    def merged(self, more: "Games") -> "Games":
        """Return these games and `more` in one order of ids; no id is in both."""
        cells = np.concatenate((self.columns.cells, more.columns.cells), axis=1)
        return Games(self.bands, Columns.of(cells[:, np.argsort(cells[ID], kind="stable")]))

    def newest_json(self, count: int) -> list[bytes]:
        """Return the newest `count` games, or all when there are fewer, as JSON, oldest first. Printed once, however
        often asked."""
        count = min(count, len(self))
        if len(self._json) < count:
            missing = self.part(len(self) - count, len(self) - len(self._json))
            self._json = [encode(game) for game in missing.to_games()] + self._json
        return self._json[len(self._json) - count :]

    def forget_json(self) -> None:
        """Drop the JSON that `newest_json` keeps: it takes more memory than the games."""
        self._json = []

    def to_games(self) -> list[Game]:
        """Convert the columns to `Game` structs, in order."""
        return games_of(self.columns.cells)


def cells_of(bands: Bands, games: Sequence[Game]) -> Ints:
    """The cells (WIDTH × len(games)) of `games`, in the order given."""
    cells = np.empty((WIDTH, len(games)), np.int64)
    if not games:
        return cells
    cells[ID] = [game.game_id for game in games]
    crash_points = np.array([game.crash_point for game in games])
    cells[HUNDREDTHS] = np.rint(crash_points * 100)
    cells[END_TIME] = [game.end_time for game in games]
    for column, name in enumerate(OPTIONAL_NUMBERS, OPTIONAL):
        values = [getattr(game, name) for game in games]
        cells[column] = [ABSENT if value is None else value for value in values] if None in values else values
    cells[HASH : HASH + 5] = _hash_cells([game.hash for game in games])
    cells[BAND] = bands.of(cells[HUNDREDTHS])
    return cells


def games_of(cells: Ints) -> list[Game]:
    """Make games of their cells, in the same order."""
    digits = np.ascontiguousarray(cells[HASH + 1 : HASH + 5].T).tobytes().hex()
    ids, hundredths, ends, *optional, has_hash = cells[: HASH + 1].tolist()
    hashes = [digits[64 * i : 64 * i + 64] if has else None for i, has in enumerate(has_hash)]
    points = [number / 100 for number in hundredths]
    columns = [
        [None if one == ABSENT else one for one in column] if ABSENT in column else column for column in optional
    ]
    return [*map(_game, ids, points, ends, hashes, *columns)]


def _hash_cells(hashes: list[str | None]) -> Ints:
    """The five columns of the hashes: whether there is one, then its bytes in four."""
    cells = np.empty((5, len(hashes)), np.int64)
    cells[0] = 1
    if None in hashes:
        cells[0] = [digits is not None for digits in hashes]
        hashes = [digits or _NO_HASH for digits in hashes]
    words = np.frombuffer(bytes.fromhex("".join(hashes)), np.int64)  # type: ignore[arg-type]
    cells[1:] = words.reshape(-1, 4).T
    return cells
