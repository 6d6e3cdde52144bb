"""Clients: whose request it is, where proxies stand between, and how often each may ask.

Imports the port of limits. What is always true: what a client says of itself counts only behind proxies that the
settings trust; and a limit is kept by this process alone while the store that counts for all cannot be asked.
"""

from collections import OrderedDict
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from math import ceil
from typing import Final

import structlog

from crashfold.engine.errors import CrashfoldError
from crashfold.engine.http import problems
from crashfold.engine.http.places import host_of_peer
from crashfold.engine.http.problems import Problem
from crashfold.engine.ports import Clock, RateLimits

CLIENTS_MAX: Final = 10_000
"""Clients whose rate is known; who was silent for longest is forgotten first."""
ALONE_S: Final = 1.0
"""How long the store is not asked after it could not be."""

_log = structlog.get_logger()


class Proxies:
    """The proxies that are trusted, as networks."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = [ip_network(network, strict=False) for network in networks]
        self.are_trusted = lru_cache(maxsize=CLIENTS_MAX)(self._are_trusted)

    def client_of(self, peer: str, forwarded_for: str | None) -> str:
        """The client of what came from `peer`: the last address of `X-Forwarded-For` that is no trusted proxy.

        An entry that is no address, which one of ours has written, hides who is behind it: then it is that proxy.
        """
        client = peer
        if forwarded_for is not None and self.are_trusted(peer):
            for entry in reversed(forwarded_for.split(",")):
                address = address_in(entry)
                if address is None:
                    break
                client = address
                if not self.are_trusted(address):
                    break
        return client

    def _are_trusted(self, host: str) -> bool:
        if not self._networks:
            return False
        try:
            address = ip_address(host.partition("%")[0])
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def is_own_machine(host: str) -> bool:
    """Whether the address is loopback: a proxy of this machine or its operator."""
    return host.startswith("127.") or host in ("::1", "")


def address_in(entry: str) -> str | None:
    """The address in an entry of `X-Forwarded-For`: with or without port, IPv6 with or without brackets."""
    entry = entry.strip().strip('"').strip()
    if entry.startswith("["):
        host, bracket, port = entry[1:].partition("]")
        if not bracket or not (not port or _is_port(port.removeprefix(":"))):
            return None
    else:
        host, colon, port = entry.rpartition(":")
        if not colon or ":" in host:
            host = entry
        elif not _is_port(port):
            return None
    try:
        address: IPv4Address | IPv6Address = ip_address(host)
    except ValueError:
        return None
    return host_of_peer(str(address).partition("%")[0])


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5


class RateLimit:
    """So many requests per minute for each client, all of which may come at once; 0 is no limit.

    `shared` counts over all processes of a deployment; without it, and while it fails, this process counts alone.
    """

    def __init__(
        self, per_minute: int, clock: Clock, clients_max: int = CLIENTS_MAX, shared: RateLimits | None = None
    ) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._clients_max = clients_max
        self._shared = shared if per_minute else None
        self._alone_until_s = 0.0
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def refusal(self, client: str) -> Problem | None:
        """Why the client must wait, if it must; otherwise one request of its own is taken off."""
        if not self._per_minute:
            return None
        wait_s = self._alone(client) if self._shared is None else await self._together(client, self._shared)
        return problems.too_many_requests(ceil(wait_s)) if wait_s > 0 else None

    async def _together(self, client: str, shared: RateLimits) -> float:
        if self._clock.monotonic_s() >= self._alone_until_s:
            try:
                wait_s = await shared.take(client, self._per_minute)
            except CrashfoldError as error:
                if not self._alone_until_s:
                    _log.warning("rate_limit_is_kept_alone", fault=str(error))
                self._alone_until_s = self._clock.monotonic_s() + ALONE_S
            else:
                if self._alone_until_s:
                    _log.info("rate_limit_is_kept_together")
                self._alone_until_s = 0.0
                return wait_s
        return self._alone(client)

    def _alone(self, client: str) -> float:
        """How many seconds the client must wait."""
        now_s, rate = self._clock.monotonic_s(), self._per_minute / 60
        left, then_s = self._left.pop(client, (float(self._per_minute), now_s))
        left = min(float(self._per_minute), left + (now_s - then_s) * rate)
        refused = left < 1
        self._left[client] = (left if refused else left - 1, now_s)
        if len(self._left) > self._clients_max:
            self._left.popitem(last=False)
        return (1 - left) / rate if refused else 0.0
