"""Places: the connections that a process has, who may have more, and how long each may take over what.

Imports the settings of a connection alone. What is always true: a connection that waits for its client, for whatever
reason and whatever trickles in, has a deadline; and a newcomer gets a place as long as any connection waits so: the one
that has waited longest of the client that has most.
"""

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Callable
from math import inf
from typing import Final, Protocol

import msgspec

OVER: Final = 1_000
"""Connections beyond the bound that are still told so; whoever comes after them is cut off without a word."""


class ConnectionBounds(msgspec.Struct, frozen=True, kw_only=True):
    """How many connections, and how long each may wait for its client."""

    connections_max: int = 10_000
    client_connections_max: int = 7_500
    """Of one address, so that others find a place whatever one does. Trusted proxies may have all."""
    head_s: float = 10.0
    """From the first byte of a request to the end of its headers; also from connecting to the first byte."""
    body_s: float = 5.0
    """From the end of the headers to the end of the body."""
    idle_s: float = 30.0
    """From an answer to the next request."""
    drain_s: float = 5.0
    """How long a connection that is to close goes on taking what its client sends: who closes with bytes unread makes
    TCP reset the connection, and proxies take that for the end of the server."""
    drain_bytes: int = 16 << 20
    stall_s: float = 20.0
    """A reader that takes less than `progress_bytes` in so long is dropped."""
    progress_bytes: int = 16 << 10
    look_s: float = 1.0
    """How often deadlines are looked at."""


class PlacedConnection(Protocol):
    """A connection, as it is seen from here."""

    client_host: str
    until_s: float
    """When it has waited long enough, by the event loop's clock; infinite while nothing waits for the client."""

    def expire(self) -> None:
        """Its time is up."""

    def evict(self) -> None:
        """Its place is wanted."""

    def unsent_bytes(self) -> int | None:
        """Bytes that wait to be written while the client does not read; None while it reads."""

    def drop(self) -> None:
        """End it at once."""


class Stall:
    """How much a reader took since a moment."""

    __slots__ = ("left", "since_s")

    def __init__(self, left: int, since_s: float) -> None:
        self.left = left
        self.since_s = since_s


class Places:
    """The connections of one server. `is_trusted` says of an address whether it is a proxy of ours."""

    def __init__(
        self, bounds: ConnectionBounds | None = None, is_trusted: Callable[[str], bool] = lambda _: False
    ) -> None:
        self.bounds = bounds or ConnectionBounds()
        self._is_trusted = is_trusted
        self._all: dict[PlacedConnection, None] = {}
        self._counts: Counter[str] = Counter()
        self._waiting: dict[str, dict[PlacedConnection, None]] = {}
        """Of each client the connections that wait for it, in the order in which they began to."""
        self._stalls: dict[PlacedConnection, Stall] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.ended = {"stalled": 0, "evicted": 0, "refused": 0}
        """Connections that were ended here: readers that stood still, those whose place was wanted, those for which
        there was none."""

    def __len__(self) -> int:
        return len(self._all)

    def enter(self, connection: PlacedConnection, loop: asyncio.AbstractEventLoop) -> bool:
        """Take a connection in; whether there is a place for it. One that has none is to say so and to close."""
        has_place = self._enter(connection, loop)
        self.ended["refused"] += not has_place
        return has_place

    def _enter(self, connection: PlacedConnection, loop: asyncio.AbstractEventLoop) -> bool:
        client = connection.client_host
        self._all[connection] = None
        self._counts[client] += 1
        if self._timer is None:
            self._timer = loop.call_later(self.bounds.look_s, self._look, loop)
        if self._counts[client] > self.bounds.client_connections_max and not self._is_trusted(client):
            return self._evict_of(client)
        if len(self._all) > self.bounds.connections_max:
            heaviest = max(self._waiting, key=self._weight, default=None)
            return heaviest is not None and self._evict_of(heaviest)
        return True

    def is_beyond(self) -> bool:
        """Whether so many have no place that there is no telling them."""
        return len(self._all) > self.bounds.connections_max + OVER

    def leave(self, connection: PlacedConnection) -> None:
        """Forget a connection."""
        if self._all.pop(connection, self) is self:
            return
        self.keep(connection)
        self._stalls.pop(connection, None)
        client = connection.client_host
        self._counts[client] -= 1
        if not self._counts[client]:
            del self._counts[client]

    def wait(self, connection: PlacedConnection) -> None:
        """Note that the connection now waits for its client."""
        if connection in self._all:
            self._waiting.setdefault(connection.client_host, {})[connection] = None

    def keep(self, connection: PlacedConnection) -> None:
        """Note that the connection's client is now being served."""
        waiting = self._waiting.get(connection.client_host)
        if waiting is not None:
            waiting.pop(connection, None)
            if not waiting:
                del self._waiting[connection.client_host]

    def _weight(self, client: str) -> tuple[bool, int]:
        """Who gives a place up first: whoever has most, trusted proxies last."""
        return not self._is_trusted(client), self._counts[client]

    def _evict_of(self, client: str) -> bool:
        oldest = next(iter(self._waiting.get(client, ())), None)
        if oldest is None:
            return False
        self.leave(oldest)
        self.ended["evicted"] += 1
        oldest.evict()
        return True

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now_s = loop.time()
        for connection in list(self._all):
            if connection.until_s <= now_s:
                connection.until_s = inf
                connection.expire()
            elif (left := connection.unsent_bytes()) is not None:
                self._look_after(connection, left, now_s)
            elif self._stalls:
                self._stalls.pop(connection, None)
        self._timer = loop.call_later(self.bounds.look_s, self._look, loop) if self._all else None

    def _look_after(self, connection: PlacedConnection, left: int, now_s: float) -> None:
        stall = self._stalls.get(connection)
        if stall is None or stall.left - left >= self.bounds.progress_bytes:
            self._stalls[connection] = Stall(left, now_s)
        elif now_s - stall.since_s > self.bounds.stall_s:
            self.ended["stalled"] += 1
            connection.drop()


def host_of_peer(host: str) -> str:
    """An address as clients are told apart by it: one of IPv4 within IPv6 is one of IPv4."""
    if not host.startswith("::ffff:"):
        return host
    mapped = ipaddress.IPv6Address(host.partition("%")[0]).ipv4_mapped
    return host if mapped is None else str(mapped)
