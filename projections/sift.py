"""Which of the games that arrived are folded: duplicates are left out, conflicts and games that are too late rejected.

Imports numpy only. The verdict on each game follows from those that arrived before it, one by one, whatever batch they
came in.
"""

import heapq
from typing import Final, Literal

import msgspec
import numpy as np

from crashfold.projections.columns import Columns, Ints
from crashfold.projections.games import BAND, ID, Games

Reason = Literal["conflict", "late"]

_FIELDS: Final = BAND
"""The columns that make two games the same: all but the band, which follows from them."""


_DETAILS: Final[dict[Reason, str]] = {
    "conflict": "another game with this id has been folded already",
    "late": "older than every game of the full window",
}


class Rejected(msgspec.Struct, frozen=True):
    """A game that cannot be folded: its position among those that arrived, and why."""

    position: int
    reason: Reason

    @property
    def detail(self) -> str:
        """The reason, in words."""
        return _DETAILS[self.reason]


class Sifted(msgspec.Struct, frozen=True):
    """The games that arrived, sifted: `accepted` is in order of id."""

    accepted: Games
    duplicates: int
    rejected: tuple[Rejected, ...]


def sift(window: Games, window_games: int, arrived: Ints) -> Sifted:
    """Sort out the games whose cells arrived, in that order, at a stream with that window.

    `window_games` is the size of a full window: a game older than all of a full window is late.
    """
    ids = arrived[ID]
    newest = window.ids[-1] if len(window) else 0
    if len(ids) == 0 or (ids[0] > newest and bool((ids[1:] > ids[:-1]).all())):
        return Sifted(Games(window.bands, Columns.of(arrived)), 0, ())
    return _sift_one_by_one(window, window_games, arrived)  # for all games, a rebuild would take 3.8 times the CPU


def _sift_one_by_one(window: Games, window_games: int, arrived: Ints) -> Sifted:
    known = window.ids
    oldest = 0  # position in `known` of the oldest game that is still in the window
    positions: dict[int, int] = {}  # of the accepted games, by id
    inside: list[int] = []  # a heap of the accepted ids that are still in the window
    rejected: list[Rejected] = []
    duplicates = 0
    for position, game_id in enumerate(arrived[ID].tolist()):
        full = len(known) - oldest + len(inside) >= window_games
        if full:
            first = min(known[oldest] if oldest < len(known) else inside[0], inside[0] if inside else known[oldest])
            if game_id < first:
                rejected.append(Rejected(position, "late"))
                continue
        same = _cells_of(game_id, window, arrived, positions)
        if same is not None:
            if np.array_equal(same, arrived[:_FIELDS, position]):
                duplicates += 1
            else:
                rejected.append(Rejected(position, "conflict"))
            continue
        positions[game_id] = position
        heapq.heappush(inside, game_id)
        if full:
            if oldest < len(known) and known[oldest] < inside[0]:
                oldest += 1
            else:
                heapq.heappop(inside)
    order = np.array([positions[game_id] for game_id in sorted(positions)], np.int64)
    return Sifted(Games(window.bands, Columns.of(arrived[:, order])), duplicates, tuple(rejected))


def _cells_of(game_id: int, window: Games, arrived: Ints, positions: dict[int, int]) -> Ints | None:
    """The fields of the game of that id, when there is one."""
    if game_id in positions:
        return arrived[:_FIELDS, positions[game_id]]
    at = int(np.searchsorted(window.ids, game_id))
    if at < len(window) and window.ids[at] == game_id:
        return window.columns.cells[:_FIELDS, at]
    return None
