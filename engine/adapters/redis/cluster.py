"""A Redis Cluster: which node has which slot, and a `RedisClient` for each of them.

Imports the client beside it and the library's hash of keys. The library's own cluster client is not used: it follows
redirections and tries again by itself, which would hide that a commit's outcome is unknown. Here a redirection is a
refusal like any other. Nothing was done; the map of the slots is asked for anew; and whoever called tries again. So a
commit of a slot that is being moved waits until it has moved, and no script ever meets half of its keys.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import anyio
from redis.crc import key_slot

from crashfold.engine.adapters.redis.client import Call, RedisClient, Script
from crashfold.engine.errors import CrashfoldError, StoreRefused, StoreUnavailable
from crashfold.engine.settings import redis_address

REFRESH_TIMEOUT_S: Final = 2.0

Address = tuple[str, int]


class RedisCluster:
    """The nodes of a cluster, found through the one at `url`; the other options are those of each `RedisClient`."""

    def __init__(self, url: str, **options: Any) -> None:
        self._url = url
        self._options = options
        self._seed = self._client(url)
        self._nodes: dict[Address, RedisClient] = {}
        self._ranges: list[tuple[int, int, Address]] = []
        self._ids: dict[Address, bytes] = {}
        """The name of each node, as the map has it."""
        self._proven: dict[Address, bytes] = {}
        """Those that have said it themselves."""
        self._is_stale = True
        self._turn = 0
        self._refreshing = anyio.Lock()

    def __repr__(self) -> str:
        return f"<RedisCluster {self._seed.address}>"

    async def at(self, key: str) -> RedisClient:
        """The node that has the key's slot. Raises StoreRefused when none has, StoreUnavailable when none answers."""
        if self._is_stale:
            await self._refresh()
        slot = key_slot(key.encode())
        for first, last, address in self._ranges:
            if first <= slot <= last:
                return await self._checked(address)
        self._strayed()
        raise StoreRefused(f"Redis refused: no node of the cluster has slot {slot}")

    async def servers(self) -> list[RedisClient]:
        """All nodes that have slots."""
        await self._refresh()
        return [await self._checked(address) for address in list(self._nodes)]

    async def run(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """`RedisClient.run`, the calls of each node at once. Where a node does not answer, the error is the reply."""
        replies: list[Any] = [None] * len(calls)

        async def run_at(server: RedisClient, rows: list[int]) -> None:
            try:
                answers = await server.run(script, [calls[row] for row in rows])
            except CrashfoldError as error:
                answers = [error] * len(rows)
            for row, answer in zip(rows, answers, strict=True):
                replies[row] = answer

        rows_at: dict[RedisClient, list[int]] = {}
        for row, call in enumerate(calls):
            rows_at.setdefault(await self.at(call.keys[0]), []).append(row)
        async with anyio.create_task_group() as tasks:
            for server, rows in rows_at.items():
                tasks.start_soon(run_at, server, rows)
        return replies

    async def aclose(self) -> None:
        """Close every connection."""
        for client in (self._seed, *self._nodes.values()):
            await client.aclose()

    def _strayed(self) -> None:
        """The map may be out of date."""
        self._is_stale = True

    def _client(self, url: str) -> RedisClient:
        return RedisClient(url, strayed=self._strayed, **self._options)

    async def _refresh(self) -> None:
        """Ask for the map when it may be out of date; the nodes in turn, for one may be out of date itself."""
        async with self._refreshing:
            if not self._is_stale:
                return
            known = [*self._nodes.values(), self._seed]
            last: CrashfoldError = StoreUnavailable("no node of the Redis Cluster answers")
            for _ in known:
                self._turn += 1
                node = known[self._turn % len(known)]
                try:
                    with anyio.fail_after(REFRESH_TIMEOUT_S):
                        (slots,) = await node.ask(lambda pipeline: pipeline.execute_command("CLUSTER", "SLOTS"))
                except TimeoutError:
                    continue
                except CrashfoldError as error:
                    last = error
                    continue
                await self._learn(node, slots)
                return
            raise last

    async def _learn(self, node: RedisClient, slots: list[list[Any]]) -> None:
        """Take over a map, as the node told it: first slot, last slot, primary, replicas. A node that does not know its
        own host leaves it out, or says `?`: then it is where it was asked."""
        self_host = node.address.rpartition(":")[0].strip("[]")
        ranges, ids = [], {}
        for first, last, (host, port, *about), *_replicas in slots:
            told = (host or b"").decode("ascii", "replace")
            address = (self_host if told in ("", "?") else told, int(port))
            ranges.append((int(first), int(last), address))
            ids[address] = about[0] if about else b""
        fresh = {
            address: self._client(_with_address(self._url, address)) for address in ids.keys() - self._nodes.keys()
        }
        gone = [self._nodes.pop(address) for address in self._nodes.keys() - ids.keys()]
        self._nodes |= fresh
        self._proven = {address: name for address, name in self._proven.items() if ids.get(address) == name}
        self._ranges, self._ids, self._is_stale = sorted(ranges), ids, False
        for client in gone:
            await client.aclose()

    async def _checked(self, address: Address) -> RedisClient:
        """The node there, once it has said that it is the one of which the map told: an address that a server hands out
        may lead to another Redis here. Raises StoreRefused when it is another, or has lost its slots while others were
        asked; StoreForbidden when it is in no cluster.
        """
        node, known = self._nodes.get(address), self._ids.get(address)
        if node is None:
            raise StoreRefused(f"Redis refused: {address[0]}:{address[1]} has no slot of the cluster any more")
        if known and self._proven.get(address) != known:
            (found,) = await node.ask(lambda pipeline: pipeline.execute_command("CLUSTER", "MYID"))
            if found != known:
                self._strayed()
                raise StoreRefused(
                    f"Redis refused: {node.address}, which the cluster names, is another server than it says: look at"
                    " cluster-announce-ip and cluster-announce-port"
                )
            self._proven[address] = known
        return node


async def by_server(client: RedisClient | RedisCluster, keys: Iterable[str]) -> dict[RedisClient, list[str]]:
    """The keys by the server that has them."""
    found: dict[RedisClient, list[str]] = {}
    for key in keys:
        found.setdefault(await client.at(key), []).append(key)
    return found


def _with_address(url: str, address: Address) -> str:
    """The URL with another host and port. Raises StoreRefused for what is no address."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    host, port = address
    netloc = f"{user}{at}[{host}]:{port}" if ":" in host else f"{user}{at}{host}:{port}"
    changed = urlunsplit((parts.scheme, netloc, "", parts.query, ""))
    try:
        redis_address(changed)
    except ValueError:
        raise StoreRefused(f"Redis refused: the cluster names {host!r}, which is no host") from None
    return changed
