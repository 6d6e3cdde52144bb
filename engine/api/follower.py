"""The follower: what one process holds of a stream to answer from, kept up with the read model.

Imports the ports, their facts, projections and schemas. What is always true: what is held is of exactly one version,
and is replaced by what is newer in one assignment, so whoever takes it once and asks it everything gets one version;
and no version is held that is older than one that was held before, unless the store itself lost it.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import anyio
import msgspec
import numpy as np

from projections.columns import Ints
from projections.games import Games, games_of
from schemas.game import Game

CHANGE_GAMES_MAX: Final = 100
"""Games that a change brings along, at most: the newest."""


class Change(msgspec.Struct, frozen=True):
    """What is new in a version. `games` are those that came in since the change before, oldest first, the newest 100
    at most; `skipped` is how many more there were."""

    generation: str
    version: int
    total_games: int
    games: tuple[Game, ...]
    skipped: int

    def then(self, later: "Change") -> "Change":
        """Both in one: the later state, with the games of both that still fit."""
        games = (*self.games, *later.games)
        dropped = max(0, len(games) - CHANGE_GAMES_MAX)
        return Change(
            later.generation,
            later.version,
            later.total_games,
            games[dropped:],
            self.skipped + later.skipped + dropped,
        )


class Held(msgspec.Struct, frozen=True):
    """What is held of a stream, all of one version. `window` is in order of id."""

    generation: str
    version: int
    total_games: int
    window: Games

    @property
    def newest_id(self) -> int:
        """The id of the newest game; 0 without games."""
        return int(self.window.ids[-1]) if len(self.window) else 0

    def snapshot(self) -> Change:
        """The newest games, as the first change that a subscriber sees."""
        return _change(self, self.window.columns.cells, self.total_games)


class Ended(Exception):
    """The follower was stopped; nothing comes any more."""


class Subscription:
    """The changes for one subscriber. Holds one change at most: what is not taken in time is merged into it."""

    def __init__(self) -> None:
        self._pending: Change | None = None
        self._ended = False
        self._arrived = anyio.Event()

    async def next(self) -> Change:
        """The next change, as soon as there is one. Raises Ended when the follower was stopped. May be cancelled."""
        while self._pending is None:
            if self._ended:
                raise Ended
            self._arrived = anyio.Event()
            await self._arrived.wait()
        change, self._pending = self._pending, None
        return change

    def put(self, change: Change) -> None:
        """A change, from the follower."""
        self._pending = change if self._pending is None else self._pending.then(change)
        self._arrived.set()

    def end(self) -> None:
        """Nothing comes after this."""
        self._ended = True
        self._arrived.set()


class Follower:
    """One stream, as far as this process knows it. Made and run by `Followers`."""

    def __init__(self, stream: str, held: Held) -> None:
        self.stream = stream
        self._held = held
        self._subscriptions: set[Subscription] = set()

    @property
    def held(self) -> Held:
        """What is held now. Take it once for an answer: the next call may give a newer one."""
        return self._held

    def snapshot(self) -> Change:
        """What a new subscriber is shown first: the newest games."""
        return self._held.snapshot()

    @asynccontextmanager
    async def _subscribed(self) -> AsyncIterator[Subscription]:
        subscription = Subscription()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def subscribe(self) -> AbstractAsyncContextManager[Subscription]:
        """Every change from now on. Take a snapshot inside the block, before anything is awaited, to miss nothing."""
        return self._subscribed()

    def _hold(self, held: Held) -> None:
        """Replace what is held, and tell."""
        before, self._held = self._held, held
        change = change_between(before, held)
        for subscription in self._subscriptions:
            subscription.put(change)


def change_between(before: Held, after: Held) -> Change:
    """What is new in `after`."""
    ids, known = after.window.ids, before.window.ids
    newest = before.newest_id
    first = int(ids.searchsorted(newest, "right"))
    cells = after.window.columns.cells
    if after.total_games - before.total_games == len(ids) - first:
        return _change(after, cells[:, first:], len(ids) - first)
    new = ~np.isin(ids, known, assume_unique=True)
    return _change(after, cells[:, new], max(int(new.sum()), after.total_games - before.total_games))


def _change(held: Held, cells: Ints, count: int) -> Change:
    games = tuple(games_of(cells[:, -CHANGE_GAMES_MAX:])) if cells.shape[1] else ()
    return Change(held.generation, held.version, held.total_games, games, max(0, count - len(games)))
