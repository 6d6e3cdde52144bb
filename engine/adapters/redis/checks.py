"""What a user of Redis may do, and how the servers stand: `RedisChecks`, for `doctor` and the start of an engine.

Imports the client beside it and schemas. Every check leaves the keys as they were. An error about a missing right names
the command and the keys.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from redis.asyncio.client import Pipeline
from redis.exceptions import ResponseError

from crashfold.engine.adapters.redis.client import Call, RedisClient, Script
from crashfold.engine.adapters.redis.cluster import RedisCluster
from crashfold.engine.adapters.redis.errors import translated, unexpected
from crashfold.engine.errors import (
    ConfigurationError,
    CrashfoldError,
    StateError,
    StoreForbidden,
    StoreRefused,
    Unavailable,
)
from crashfold.schemas import keys
from crashfold.schemas.keys import Keys

RIGHTS: Final = "rights"

READS_ASKED: Final = (
    ("EXISTS",),
    ("GET",),
    ("HGET", "field"),
    ("HGETALL",),
    ("HKEYS",),
    ("HMGET", "field"),
    ("LRANGE", 0, -1),
    ("SMEMBERS",),
    ("TYPE",),
    ("ZCARD",),
    ("ZRANGE", 0, -1),
    ("ZRANGEBYSCORE", "-inf", "+inf"),
    ("ZREVRANGE", 0, 0),
)
"""The commands that reading takes, with what follows the key."""


class ServerInfo(msgspec.Struct, frozen=True):
    """Facts about the server for `doctor`. `save` is None when the user may not read the configuration;
    `save_fault` says that it could not save, and takes no writes for that; None when it can."""

    address: str
    product: str
    """`redis` or `valkey`."""
    version: str
    role: str
    maxmemory_bytes: int
    maxmemory_policy: str
    appendonly: bool
    save: str | None
    save_fault: str | None = None


class RedisChecks:
    """Tries the rights of a user and asks the servers about themselves, over the connections of a store."""

    def __init__(self, client: RedisClient | RedisCluster, key_prefix: str) -> None:
        self._client = client
        self._key_prefix = key_prefix

    async def ping(self) -> None:
        """Return when every server answers."""
        for server in await self._client.servers():
            await server.ask(lambda pipeline: pipeline.ping())

    async def server_infos(self) -> list[ServerInfo]:
        """Return the servers' versions and how they persist data; of a cluster, those that hold keys."""
        return [await self._info(server) for server in await self._client.servers()]

    async def _info(self, server: RedisClient) -> ServerInfo:
        info: dict[str, Any]
        (info,) = await server.ask(lambda pipeline: pipeline.info())
        try:
            (config,) = await server.ask(lambda pipeline: pipeline.config_get("save"))
            (stops,) = await server.ask(lambda pipeline: pipeline.config_get("stop-writes-on-bgsave-error"))
        except ConfigurationError:
            config, stops = {}, {}
        product = "valkey" if "valkey_version" in info else "redis"
        return ServerInfo(
            address=server.address,
            product=product,
            version=str(info[f"{product}_version"]),
            role=str(info["role"]),
            maxmemory_bytes=int(info["maxmemory"]),
            maxmemory_policy=str(info["maxmemory_policy"]),
            appendonly=bool(info["aof_enabled"]),
            save=config.get("save"),
            save_fault=_save_fault(info, stops.get("stop-writes-on-bgsave-error") != "no"),
        )

    async def writing(self, names: Keys, live: Keys) -> None:
        """Try every command of a commit to the keys `names`, of a stream with the live keys `live`.

        Raises StoreForbidden, naming the command that the user may not run; StoreRefused when Redis takes no writes.
        """
        beside = live.stage.rights if names == live else live.rights
        call = Call([names.rights, beside, live.checkpoint, live.version], [live.updates])
        (reply,) = await self._client.run(Script.named(RIGHTS), [call])
        match reply:
            case [b"granted"]:
                await self._check_keys_of_all_streams()
            case [b"refused", command, subject, said]:
                raise _refused(names, command.decode(), subject.decode(), said.decode("utf-8", "replace"))
            case Unavailable() | StateError():
                raise reply
            case CrashfoldError():  # Redis asks for the right to a script's keys before it runs
                raise _lacks("EVALSHA", f"keys {names.prefix}:*", str(reply))
            case _:
                raise unexpected(reply)

    async def _check_keys_of_all_streams(self) -> None:
        """Write to the keys that belong to no stream, in ways that change nothing. Raises StoreForbidden."""
        attempts = (
            ("HDEL", keys.manifest(self._key_prefix, RIGHTS, 0), "field"),
            ("UNLINK", keys.report(self._key_prefix, "engine", RIGHTS)),
            ("SREM", keys.reports(self._key_prefix), RIGHTS),
        )
        for command, key, *words in attempts:
            try:
                await (await self._client.at(key)).ask(partial(_execute, (command, key, *words)))
            except StoreForbidden as error:
                raise _lacks(command, f"the key {key}", str(error)) from None

    async def reading(self, names: Keys) -> None:
        """Ask each question that a start, `verify` or an API asks, of a key that is not there. Raises StoreForbidden,
        naming the command that the user may not run."""
        server = await self._client.at(names.rights)
        for command, *words in READS_ASKED:
            try:
                await server.ask(partial(_execute, (command, names.rights, *words)))
            except StoreForbidden as error:
                raise _lacks(command, f"keys {names.prefix}:*", str(error)) from None
        try:
            await server.scan(names.rights)
        except StoreForbidden as error:
            raise _lacks("SCAN", f"keys {names.prefix}:*", str(error)) from None
        try:
            await server.ask_at_once(partial(_execute, ("GET", names.rights)), is_bulk=False)
        except StoreForbidden as error:
            raise _lacks("MULTI and EXEC", f"keys {names.prefix}:*", str(error)) from None

    async def channel(self, names: Keys) -> None:
        """Subscribe to the stream's updates for a moment. Raises StoreForbidden when the user may not."""
        async with (await self._client.at(names.checkpoint)).listening(names.updates):
            pass


def _save_fault(info: Mapping[str, Any], stops: bool) -> str | None:
    """Why the server takes no writes."""
    if stops and info.get("rdb_last_bgsave_status", "ok") != "ok":
        return "its last snapshot failed, and stop-writes-on-bgsave-error is set (MISCONF)"
    if info.get("aof_last_write_status", "ok") != "ok":
        return "it could not write its append-only file (MISCONF)"
    return None


def _execute(command: Sequence[str | int], pipeline: Pipeline) -> None:
    pipeline.execute_command(*command)


def _refused(names: Keys, command: str, subject: str, said: str) -> CrashfoldError:
    """The error for what `rights.lua` was refused: a missing right, unless Redis says that it takes no writes now."""
    error = translated(ResponseError(said.removeprefix("-")))
    if isinstance(error, StoreRefused):
        return error
    return _lacks(command, f"the channel {subject}" if command == "PUBLISH" else f"keys {names.prefix}:*", said)


def _lacks(command: str, subject: str, said: str) -> StoreForbidden:
    return StoreForbidden(
        f"the user in redis.url may not run {command} on {subject}: grant it, by ACL SETUSER or whatever manages your "
        f"users (Redis says: {said})"
    )
