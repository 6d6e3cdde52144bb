"""The state of a stream that a process holds to answer from, and the changes between two of them.

Imports the ports' facts, projections and schemas. What is always true: a `HeldState` is of exactly one version and
never changes. States are told apart by their `Cursor`, never by a version alone: a store that lost writes gives its
numbers again.
"""

from typing import Final

import msgspec
import numpy as np

from crashfold.engine.ports import Cursor, Standing
from crashfold.engine.read.questions import LIVE_GAMES
from crashfold.projections.columns import Ints
from crashfold.projections.games import Bands, Games, games_of
from crashfold.schemas.game import Game

CHANGE_GAMES_MAX: Final = LIVE_GAMES
"""Games that a change has at most: the newest."""
NO_BANDS: Final = Bands([])


class Change(msgspec.Struct, frozen=True):
    """A change of the state. `games` are those that came in since the change before, oldest first, the newest 100
    at most; `skipped` is how many more there were."""

    cursor: Cursor
    total_games: int
    games: tuple[Game, ...]
    skipped: int
    is_restart: bool = False
    """Whether it builds on nothing that was told before: another generation, or a store that has lost writes."""

    def then(self, later: "Change") -> "Change":
        """Join this change with the next one: the later state, with the games of both that still fit."""
        games = (*self.games, *later.games)
        dropped = max(0, len(games) - CHANGE_GAMES_MAX)
        return Change(
            later.cursor,
            later.total_games,
            games[dropped:],
            self.skipped + later.skipped + dropped,
            self.is_restart or later.is_restart,
        )


class HeldState(msgspec.Struct, frozen=True):
    """The window of a stream, all of one state. `window` is in order of id."""

    standing: Standing
    window: Games
    base: Standing | None = None
    """The store's state, where the window has games of the topic that the store lacks; else None."""

    @property
    def is_beyond(self) -> bool:
        """Whether the state has games from the topic beyond those of its version."""
        return self.base is not None

    @property
    def cursor(self) -> Cursor:
        """Return the cursor of this state, which no other state has."""
        return self.standing.cursor

    @property
    def generation(self) -> str:
        """The build of the read model; empty before the first commit."""
        return self.standing.generation

    @property
    def version(self) -> int:
        """The version that was last read; 0 before the first commit."""
        return self.standing.version

    @property
    def total_games(self) -> int:
        """All games of the stream, those before the window included."""
        return self.standing.total_games

    def snapshot(self) -> Change:
        """The newest games, as the first change that a subscriber sees."""
        return _change(self, self.window.columns.cells, self.total_games)


def change_between(before: HeldState, after: HeldState) -> Change:
    """Return the change from `before` to `after`."""
    ids, cells = after.window.ids, after.window.columns.cells
    is_restart = not _goes_on(before, after)
    first = int(ids.searchsorted(before.standing.newest_id, "right"))
    more = after.total_games - before.total_games
    if more == len(ids) - first and not is_restart:
        return _change(after, cells[:, first:], more)
    new = ~np.isin(ids, before.window.ids, assume_unique=True)
    return _change(after, cells[:, new], max(int(new.sum()), more), is_restart)


def _change(held: HeldState, cells: Ints, count: int, is_restart: bool = False) -> Change:
    games = tuple(games_of(cells[:, -CHANGE_GAMES_MAX:])) if cells.shape[1] else ()
    return Change(held.cursor, held.total_games, games, max(0, count - len(games)), is_restart)


def _goes_on(before: HeldState, after: HeldState) -> bool:
    """Whether `after` has all that `before` had, as far as its window reaches, and goes back in nothing."""
    if (
        before.generation != after.generation
        or before.version > after.version
        or before.total_games > after.total_games
    ):
        return False
    old, new = before.window, after.window
    if old.columns.shares_memory_with(new.columns):
        return True
    if not len(new):
        return not len(old)
    kept = old.part(int(old.ids.searchsorted(new.ids[0])), len(old))
    rows = new.ids.searchsorted(kept.ids)
    return bool((rows < len(new)).all() and (new.columns.cells[:, rows] == kept.columns.cells).all())
