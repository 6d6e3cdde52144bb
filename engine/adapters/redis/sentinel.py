"""Where the primary of a service is now, by Redis Sentinel.

Imports redis. Always true: every new connection asks anew, so after a failover whoever connects finds the new primary;
the sentinels are asked in turn, beginning with the one that answered last.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ConnectionError, NoPermissionError, RedisError, ResponseError

# `errors.py` knows these sayings, for redis-py hides what an error was that comes before a connection is made.
UNKNOWN: Final = "the sentinels know no service"
REFUSED: Final = "the sentinels refuse the login"


class Sentinels:
    """The sentinels of a service. `options` are those of a connection to each of them; times are seconds."""

    def __init__(
        self, addresses: Sequence[tuple[str, int]], service: str, timeout_s: float, options: Mapping[str, Any]
    ) -> None:
        self._service = service
        self._clients = [
            Redis(
                host=host,
                port=port,
                socket_connect_timeout=timeout_s,
                socket_timeout=timeout_s,
                retry=Retry(NoBackoff(), 0),
                driver_info=None,
                protocol=2,
                decode_responses=True,
                **options,
            )
            for host, port in addresses
        ]

    async def primary(self) -> tuple[str, int]:
        """Host and port of the primary. Raises ResponseError when no sentinel knows the service, ConnectionError when
        one refuses the login, and the last fault when none answers."""
        fault: RedisError | OSError = ConnectionError("no sentinel answers")
        answered = 0
        for client in list(self._clients):
            try:
                found = await client.execute_command(  # type: ignore[no-untyped-call]
                    "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service
                )
            except (AuthenticationError, NoPermissionError) as error:
                raise ConnectionError(f"{REFUSED}: {error}") from error
            except (RedisError, OSError) as error:
                fault = error
                continue
            if found:
                self._clients.sort(key=lambda other: other is not client)
                host, port = found
                return str(host), int(port)
            answered += 1
        if answered == len(self._clients):
            raise ResponseError(f"{UNKNOWN} {self._service}")
        raise fault

    @property
    def pools(self) -> list[ConnectionPool]:
        """The connections to the sentinels."""
        return [client.connection_pool for client in self._clients]


class FoundConnection(AbstractConnection):
    """A connection that asks where the primary is before it is made; mixed in before redis-py's own kinds."""

    sentinels: Sentinels
    host: str
    port: int

    async def _connect(self) -> None:
        self.host, self.port = await self.sentinels.primary()
        await super()._connect()  # type: ignore[safe-super,no-untyped-call]  # of the kind behind this one
