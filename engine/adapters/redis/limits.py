"""`RedisRateLimits`: how often each client asked all processes of a deployment, counted in Redis or Valkey.

Imports the client and its line. One script a request, so that no two processes count past one another; by the server's
clock, for those of several machines differ.
"""

from types import TracebackType
from typing import Any, Final, Self

from redis.exceptions import RedisError, ResponseError

from crashfold.engine.adapters.redis.client import RedisClient, Script
from crashfold.engine.adapters.redis.cluster import RedisCluster
from crashfold.engine.adapters.redis.errors import code_of
from crashfold.engine.adapters.redis.pipelined import PipelinedConnection
from crashfold.engine.adapters.redis.watch import Watch
from crashfold.engine.errors import StoreForbidden
from crashfold.schemas import keys

TIMEOUT_S: Final = 0.5
"""A request waits no longer to be counted."""


class RedisRateLimits:
    """`RateLimits`. Entering does nothing, leaving closes the connections. Settings as for `RedisStore`."""

    def __init__(
        self,
        url: str,
        *,
        password: str = "",
        cluster: bool = False,
        key_prefix: str = "analytics",
        timeout_s: float = TIMEOUT_S,
        watch: Watch | None = None,
    ) -> None:
        self._client: RedisClient | RedisCluster = (RedisCluster if cluster else RedisClient)(
            url,
            password=password,
            connect_timeout_s=timeout_s,
            timeout_s=timeout_s,
            bulk_timeout_s=timeout_s,
            commit_connections=1,
            read_connections=2,
            watch=watch,
        )
        self._timeout_s = timeout_s
        self._key_prefix = key_prefix
        self._script = Script.named("limit")
        self._connections: dict[RedisClient, PipelinedConnection] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self._connections.values():
            connection.cut()
        await self._client.aclose()

    async def take(self, client: str, per_minute: int) -> float:
        """See `RateLimits`."""
        key = keys.rate_limit(self._key_prefix, client)
        server = await self._client.at(key)
        connection = self._connections.get(server)
        if connection is None:
            connection = self._connections[server] = server.pipelined(self._timeout_s)
        try:
            (reply,) = await connection.ask([("EVALSHA", self._script.sha, 1, key, per_minute)])
            if isinstance(reply, ResponseError) and code_of(reply) == "NOSCRIPT":
                (reply,) = await connection.ask([("EVAL", self._script.source, 1, key, per_minute)])
        except (RedisError, OSError) as error:
            raise server.translated(error) from error
        if isinstance(reply, ResponseError):
            if code_of(reply) == "READONLY":
                connection.cut()  # after a failover the name may lead to another server
            fault = server.translated(reply)
            if isinstance(fault, StoreForbidden):
                raise StoreForbidden(f"{fault} (the limit runs GET, SET and TIME by EVALSHA and EVAL on {key})")
            raise fault
        wait_us: Any = reply
        return int(wait_us) / 1_000_000
