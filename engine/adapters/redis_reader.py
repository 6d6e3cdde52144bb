"""`RedisReader`: reading streams on Redis or Valkey while an engine writes to them, for the read side.

Imports the client and the packing beside it. Every read is one MULTI, so nothing of another version comes in between;
connections are its own, two pools, so that no subscription takes one from a request.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from redis.asyncio.client import Pipeline

from engine.adapters import redis_packing as packing
from engine.adapters.redis_client import RedisClient
from engine.core.reading import AllFields, CachedAnswer, Fields, First, Piece, Pieces, Read, Standing, Text, WindowPart
from engine.errors import CrashfoldError, StateError
from schemas import keys
from schemas.aggregates import Update
from schemas.keys import Keys

TIMEOUT_S: Final = 2.0
"""A request waits no longer: whoever asks has something to answer from."""
CONNECT_TIMEOUT_S: Final = 1.0
WINDOW_TIMEOUT_S: Final = 15.0
CONNECTIONS: Final = 32
STREAMS_MAX: Final = 1_000
"""Connections for subscriptions, one a stream."""

_STANDING: Final = ("generation", "topic", "partition", "next_offset", "total_games", "newest")

_decode_update = msgspec.json.Decoder(Update).decode


class RedisReader:
    """`LiveReader`. Entering does nothing, leaving closes the connections. Settings as for `RedisStore`."""

    def __init__(
        self,
        url: str,
        *,
        password: str = "",
        key_prefix: str = "analytics",
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        def client(connections: int) -> RedisClient:
            return RedisClient(
                url,
                password=password,
                connect_timeout_s=connect_timeout_s,
                timeout_s=timeout_s,
                bulk_timeout_s=WINDOW_TIMEOUT_S,
                commit_connections=1,
                read_connections=connections,
            )

        self._client = client(CONNECTIONS)
        self._subscriptions = client(STREAMS_MAX)
        self._key_prefix = key_prefix
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._client!r} {self._key_prefix}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()
        await self._subscriptions.aclose()

    @asynccontextmanager
    async def updates(self, stream: str) -> AsyncIterator["_Updates"]:
        """See `LiveReader`."""
        async with self._subscriptions.listening(self._keys(stream).updates) as message:
            yield _Updates(message)

    async def standing(self, stream: str) -> Standing | None:
        """See `LiveReader`."""
        names = self._keys(stream)
        standing, _ = await self._read(names, lambda _: None)
        return standing

    async def read_pieces(self, stream: str, pieces: Sequence[Piece]) -> Pieces | None:
        """See `LiveReader`."""
        names = self._keys(stream)

        def build(pipeline: Pipeline) -> None:
            for piece in pieces:
                key = names.key(piece.name)
                match piece:
                    case Text():
                        pipeline.get(key)
                    case Fields():
                        pipeline.hmget(key, piece.fields)
                    case AllFields():
                        pipeline.hgetall(key)
                    case First():
                        pipeline.lrange(key, 0, piece.count - 1)

        standing, replies = await self._read(names, build)
        if standing is None:
            return None
        for piece, reply in zip(pieces, replies, strict=True):
            if isinstance(reply, CrashfoldError):
                raise StateError(f"{names.key(piece.name)} has another type: {packing.WAY_OUT}")
        return Pieces(standing, [_value(reply) for reply in replies])

    async def read_window(self, stream: str, above_id: int) -> WindowPart | None:
        """See `LiveReader`."""
        names = self._keys(stream)
        games = names.key(keys.GAMES)

        def build(pipeline: Pipeline) -> None:
            pipeline.zcard(games)
            pipeline.zrangebyscore(games, f"({above_id}", "+inf")

        standing, replies = await self._read(names, build, is_bulk=above_id == 0)
        for reply in replies:
            if isinstance(reply, CrashfoldError):
                raise StateError(f"{games} has another type: {packing.WAY_OUT}")
        return None if standing is None else WindowPart(standing, *replies)

    async def cached(self, stream: str, version: int, request: str) -> bytes | None:
        """See `LiveReader`."""
        key = self._keys(stream).cache(version, request)
        (answer,) = await self._client.ask(lambda pipeline: pipeline.get(key))
        found: bytes | None = answer
        return found

    async def keep(self, answers: Sequence[CachedAnswer]) -> None:
        """See `LiveReader`."""

        def build(pipeline: Pipeline) -> None:
            for kept in answers:
                key = self._keys(kept.stream).cache(kept.version, kept.request)
                pipeline.set(key, kept.answer, ex=kept.ttl_s)

        await self._client.ask(build)

    def _keys(self, stream: str) -> Keys:
        return Keys.of(self._key_prefix, stream)

    async def _read(
        self, names: Keys, build: Callable[[Pipeline], object], *, is_bulk: bool = False
    ) -> tuple[Standing | None, list[Any]]:
        """Where the stream stands, and the replies to what `build` asks, of the same moment."""

        def build_all(pipeline: Pipeline) -> None:
            pipeline.hmget(names.checkpoint, _STANDING)
            pipeline.get(names.version)
            build(pipeline)

        fields, version, *replies = await self._client.ask_at_once(build_all, is_bulk=is_bulk)
        for error in (fields, version):
            if isinstance(error, CrashfoldError):
                raise error
        return _standing(names, fields, version), replies


class _Updates:
    """`Updates` over one connection."""

    def __init__(self, message: Callable[[float], Awaitable[bytes | None]]) -> None:
        self._message = message

    async def next(self, wait_s: float) -> Update | None:
        """See `Updates`."""
        told = await self._message(wait_s)
        if told is None:
            return None
        try:
            return _decode_update(told)
        except msgspec.MsgspecError:
            return None  # somebody else's word on our channel


def _standing(names: Keys, fields: list[bytes | None], version: bytes | None) -> Standing | None:
    if fields[0] is None:
        return None
    generation, topic, partition, next_offset, total_games, newest = ((part or b"").decode() for part in fields)
    try:
        return Standing(
            generation,
            int(version or b"0"),
            topic,
            int(partition),
            packing.offset(names.checkpoint, next_offset),
            int(total_games),
            int(newest or "0"),
        )
    except ValueError:
        raise StateError(f"{names.checkpoint} is no checkpoint: {packing.WAY_OUT}") from None


def _value(reply: Any) -> Read:
    if isinstance(reply, dict):
        return {field.decode(): content for field, content in reply.items()}
    value: Read = reply
    return value
