"""`RedisReports`: what engines, rebuilds and `verify` tell of themselves, in keys of their own beside the read model.

Imports the client beside it and schemas. A directory names the keys, so that nobody has to scan for them; who tells
something puts it there, and takes out what has expired.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import anyio
from redis.asyncio.client import Pipeline

from crashfold.engine.adapters.redis.client import RedisClient
from crashfold.engine.adapters.redis.cluster import RedisCluster, by_server
from crashfold.schemas import keys
from crashfold.schemas.reports import ReportKind

PRUNE_EVERY_S: Final = 60.0
"""How often the names of reports that have expired are taken out of the directory."""


class RedisReports:
    """Implements `Reports` over the connections of a store or of a reader."""

    def __init__(self, client: "RedisClient | RedisCluster", key_prefix: str) -> None:
        self._client = client
        self._key_prefix = key_prefix
        self._prune_due_s = 0.0

    async def tell(self, kind: ReportKind, reports: Mapping[str, bytes], ttl_s: int | None = None) -> None:
        """See `Reports`."""
        by_key = {keys.report(self._key_prefix, kind, name): report for name, report in reports.items()}
        for server, some in (await by_server(self._client, by_key)).items():

            def build(pipeline: Pipeline, some: Sequence[str] = some) -> None:
                for key in some:
                    pipeline.set(key, by_key[key], ex=ttl_s)

            await server.ask(build)
        if reports:
            await self._enter(kind, reports)

    async def told(self, kind: ReportKind) -> list[bytes]:
        """See `Reports`."""
        found = await self._read(kind, await self._known(kind))
        return [report for report in found.values() if report is not None]

    async def _known(self, kind: ReportKind) -> list[str]:
        directory = keys.reports(self._key_prefix)
        (members,) = await (await self._client.at(directory)).ask(lambda pipeline: pipeline.smembers(directory))
        return sorted(
            member.removeprefix(f"{kind}:") for member in map(_text, members) if member.startswith(f"{kind}:")
        )

    async def _enter(self, kind: ReportKind, names: Iterable[str]) -> None:
        """Put the names into the directory. Every time, for Redis may have lost it since the last time."""
        directory = keys.reports(self._key_prefix)
        gone = await self._expired(kind)

        def build(pipeline: Pipeline) -> None:
            pipeline.sadd(directory, *(f"{kind}:{name}" for name in names))
            if gone:
                pipeline.srem(directory, *(f"{kind}:{name}" for name in gone))

        await (await self._client.at(directory)).ask(build)

    async def _expired(self, kind: ReportKind) -> list[str]:
        """Return the names in the directory of which there is no report any more; looked for once a minute."""
        now_s = anyio.current_time()
        if now_s < self._prune_due_s:
            return []
        self._prune_due_s = now_s + PRUNE_EVERY_S
        found = await self._read(kind, await self._known(kind))
        return [name for name, report in found.items() if report is None]

    async def _read(self, kind: ReportKind, names: Sequence[str]) -> dict[str, bytes | None]:
        by_key = {keys.report(self._key_prefix, kind, name): name for name in names}
        found: dict[str, bytes | None] = {}
        for server, some in (await by_server(self._client, by_key)).items():

            def build(pipeline: Pipeline, some: Sequence[str] = some) -> None:
                for key in some:
                    pipeline.get(key)

            for key, report in zip(some, await server.ask(build), strict=True):
                found[by_key[key]] = report
        return found


def _text(name: bytes | str) -> str:
    return name if isinstance(name, str) else name.decode(errors="replace")
