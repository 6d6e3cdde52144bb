"""Blocks: where the long runs of games are that a predicate does not match, without a look at each of its games.

Imports numpy and columns. A *mask* has a bit a predicate: of a game those that match it, of a block those that match
any of its games. Blocks of 1, 2, 4, … games are laid over the games, each over two of the level below. A run of n games
covers a whole block of more than n / 4. So the longer a run must be to count, the fewer blocks are looked at, and the
way down through the levels finds where it begins and ends.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from crashfold.projections.columns import Ints

_BITS: Final = 64
_EVERY: Final = np.uint64(2**_BITS - 1)
_ONE: Final = np.uint64(1)


class Masks:
    """The mask of each band, 64 predicates a word."""

    def __init__(self, matches: NDArray[np.bool_]) -> None:
        """`matches` says which predicates match each band (bands × predicates)."""
        bands, self.predicates = matches.shape
        bits = np.zeros((bands, -(-self.predicates // _BITS) * _BITS), np.bool_)
        bits[:, : self.predicates] = matches
        packed = np.packbits(bits, axis=1, bitorder="little").view("<u8")
        self.words = np.ascontiguousarray(packed.T, np.uint64)
        """Words × bands."""
        self.word, bit = np.divmod(np.arange(self.predicates), _BITS)
        self.bit = bit.astype(np.uint64)


class Blocks:
    """The blocks over the games of these bands. Games are numbered from 1; number 0 and that behind the last one stand
    for games that every predicate matches."""

    def __init__(self, masks: Masks, bands: Ints) -> None:
        self._masks = masks
        end = len(bands) + 1
        level = np.full((len(masks.words), 1 << end.bit_length()), _EVERY)
        level[:, 1:end] = masks.words[:, bands]
        self._levels = [level]
        while level.shape[1] > 2:
            level = level[:, ::2] | level[:, 1::2]
            self._levels.append(level)

    def longer(self, lengths: Ints) -> tuple[Ints, Ints, Ints]:
        """The longest run of each predicate, if it has more games than `lengths` says, and some others: predicate, and
        the numbers of the matches before and behind the run; a predicate's in order."""
        found = [self._longer(level, *some) for level, *some in self._levels_of(lengths)]
        if not found:
            return (np.empty(0, np.int64),) * 3
        return tuple(map(np.concatenate, zip(*found, strict=True)))  # type: ignore[return-value]

    def _levels_of(self, lengths: Ints) -> list[tuple[int, list[int]]]:
        """At which level to look for runs of more than `lengths` games, and of which predicates; of those alone that
        have an empty block there."""
        masks = self._masks
        is_empty = np.array([~self._bits(np.bitwise_and.reduce(level, axis=1)[masks.word]) for level in self._levels])
        # The highest level with an empty block says of a run that has as many games.
        highest = len(is_empty) - 1 - is_empty[::-1].argmax(axis=0)
        least = np.maximum(lengths + 1, 1 << highest)
        level = np.frexp(least + 1)[1] - 2  # as many games as two blocks have, and one less, always cover one
        due = is_empty.any(axis=0) & (level <= highest)
        return [(one, np.flatnonzero(due & (level == one)).tolist()) for one in np.unique(level[due]).tolist()]

    def _longer(self, level: int, predicates: list[int]) -> tuple[Ints, Ints, Ints]:
        """The runs of these predicates that cover a block of that level."""
        masks, words = self._masks, self._levels[level]
        empty = [np.flatnonzero(words[masks.word[one]] & (_ONE << masks.bit[one]) == 0) for one in predicates]
        blocks = np.concatenate(empty)
        which = np.repeat(predicates, [len(some) for some in empty])
        is_first = np.ones(len(blocks) + 1, np.bool_)
        is_first[1:-1] = (which[1:] != which[:-1]) | (blocks[1:] != blocks[:-1] + 1)
        before, behind = blocks[is_first[:-1]] - 1, blocks[is_first[1:]] + 1
        which = which[is_first[:-1]]
        for below in range(level - 1, -1, -1):
            before = 2 * before + self._match(below, which, 2 * before + 1)
            behind = 2 * behind + ~self._match(below, which, 2 * behind)
        return which, before, behind

    def _match(self, level: int, which: Ints, blocks: Ints) -> NDArray[np.bool_]:
        """Whether each of the blocks has a match of the predicate beside it."""
        words = self._levels[level][self._masks.word[which], blocks]
        found: NDArray[np.bool_] = (words >> self._masks.bit[which]) & _ONE != 0
        return found

    def _bits(self, words: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """The bit of each predicate in the word beside it."""
        found: NDArray[np.bool_] = (words >> self._masks.bit) & _ONE != 0
        return found
