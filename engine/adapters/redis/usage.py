"""Memory, hits and evictions as Redis reports them: `RedisUsage`, for metrics.

Imports the client beside it and schemas. INFO and MEMORY are withheld from many users, and managed servers lack some of
their fields. So an answer that is refused is no answer, and never an error.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from redis.asyncio.client import Pipeline

from crashfold.engine.adapters.redis.client import RedisClient
from crashfold.engine.adapters.redis.cluster import RedisCluster
from crashfold.engine.errors import ConfigurationError, StoreRefused
from crashfold.engine.ports import ServerUsage
from crashfold.schemas import keys
from crashfold.schemas.keys import Keys
from crashfold.schemas.predicate import Predicate

SAMPLES: Final = 5
"""Elements of a key that Redis looks at to estimate what all of them take; five is its own default."""

_ONE_A_STREAM: Final = (keys.GAMES, keys.GAPS, keys.SAMPLES, keys.CHECKPOINT, keys.VERSION)


class RedisUsage:
    """Implements `StoreUsage` over the connections of a store. `predicates` are those that have keys."""

    def __init__(
        self, client: "RedisClient | RedisCluster", key_prefix: str, predicates: Iterable[Predicate] = ()
    ) -> None:
        self._client = client
        self._key_prefix = key_prefix
        self._names: Sequence[str] = (
            *_ONE_A_STREAM,
            *(name(predicate) for predicate in predicates for name in keys.BY_PREDICATE),
        )

    async def servers(self) -> list[ServerUsage]:
        """See `StoreUsage`."""
        told = []
        for server in await self._client.servers():
            try:
                (info,) = await server.ask(lambda pipeline: pipeline.info("everything"))
            except (ConfigurationError, StoreRefused):
                continue
            told.append(_usage(server.address, info))
        return told

    async def stream_bytes(self, stream: str) -> int | None:
        """See `StoreUsage`."""
        names = Keys.of(self._key_prefix, stream)

        def build(pipeline: Pipeline) -> None:
            for name in self._names:
                pipeline.memory_usage(names.key(name), samples=SAMPLES)

        try:
            sizes = await (await self._client.at(names.checkpoint)).ask(build)
        except (ConfigurationError, StoreRefused):
            return None
        return sum(size or 0 for size in sizes)


def _usage(address: str, info: Mapping[str, Any]) -> ServerUsage:
    return ServerUsage(
        address=address,
        memory_bytes=int(info.get("used_memory", 0)),
        memory_max_bytes=int(info.get("maxmemory", 0)),
        evicted_keys=int(info.get("evicted_keys", 0)),
        expired_keys=int(info.get("expired_keys", 0)),
        hits=int(info.get("keyspace_hits", 0)),
        misses=int(info.get("keyspace_misses", 0)),
        clients=int(info.get("connected_clients", 0)),
        commands=int(info.get("total_commands_processed", 0)),
    )
