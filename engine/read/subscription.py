"""Subscriptions: how live subscribers are told the changes of one stream.

Imports anyio. What is always true: a subscription holds one change at most, so a slow subscriber gets the newest state
and not a longer queue.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from crashfold.engine.read.held import Change


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


class Subscribers:
    """The subscriptions to one stream."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()
        self._ended = False

    def __bool__(self) -> bool:
        return bool(self._subscriptions)

    @asynccontextmanager
    async def subscribed(self) -> AsyncIterator[Subscription]:
        """A subscription to every change that is put while the block runs."""
        subscription = Subscription()
        if self._ended:
            subscription.end()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def put(self, change: Change) -> None:
        """Tell a change to all."""
        for subscription in self._subscriptions:
            subscription.put(change)

    def end(self) -> None:
        """Nothing comes after this, for those who subscribe later either."""
        self._ended = True
        for subscription in self._subscriptions:
            subscription.end()
