"""`RedisReader`: reading streams on Redis or Valkey while an engine writes to them, for the read side.

Imports the client, its pipelined connection and the packing beside it. Every read is one MULTI, so nothing of another
version comes in between. All reads of a server share one connection, except whole windows: they have another, so that
nobody waits for them.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import chain, count, islice
from types import TracebackType
from typing import Any, Final, Self

import anyio
import msgspec
from redis.exceptions import RedisError, ResponseError

from crashfold.engine.adapters.redis import packing
from crashfold.engine.adapters.redis.client import RedisClient
from crashfold.engine.adapters.redis.cluster import RedisCluster, by_server
from crashfold.engine.adapters.redis.errors import code_of
from crashfold.engine.adapters.redis.pipelined import Command, PipelinedConnection
from crashfold.engine.adapters.redis.reports import RedisReports
from crashfold.engine.adapters.redis.watch import Watch
from crashfold.engine.errors import StateError
from crashfold.engine.ports import (
    AllFields,
    CachedAnswer,
    Fields,
    First,
    Piece,
    Pieces,
    Read,
    Standing,
    StreamOverview,
    Text,
    Whole,
    WindowPart,
)
from crashfold.projections.delta import SortedSet, Value
from crashfold.schemas import keys
from crashfold.schemas.aggregates import Update
from crashfold.schemas.keys import Keys

TIMEOUT_S: Final = 2.0
"""A request waits no longer: whoever asks has something to answer from."""
CONNECT_TIMEOUT_S: Final = 1.0
WINDOW_TIMEOUT_S: Final = 15.0
STREAMS_MAX: Final = 1_000
"""Connections for subscriptions, one a stream."""

_STANDING: Final = (
    *("generation", "topic", "partition", "next_offset", "total_games"),
    *("newest", "commit", "begun", "made", "topic_id"),
)

_NUMBER: Final = re.compile(r"[0-9]{1,16}")
_NUMBERS_END: Final = 2**63
_NAME: Final = re.compile(r"[0-9A-Za-z._-]{1,64}")
_COMMIT: Final = re.compile(r"[0-9a-f]{16}")

MANIFESTS_AT_ONCE: Final = 64

_OVERVIEW: Final[tuple[Piece, ...]] = (First(keys.GAMES, 1), AllFields(keys.GAPS))

_decode_update = msgspec.json.Decoder(Update).decode


class RedisReader:
    """`LiveReader`. Entering does nothing, leaving closes the connections. Settings as for `RedisStore`."""

    def __init__(
        self,
        url: str,
        *,
        password: str = "",
        cluster: bool = False,
        key_prefix: str = "analytics",
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        timeout_s: float = TIMEOUT_S,
        watch: Watch | None = None,
    ) -> None:
        self._client: RedisClient | RedisCluster = (RedisCluster if cluster else RedisClient)(
            url,
            password=password,
            connect_timeout_s=connect_timeout_s,
            timeout_s=timeout_s,
            bulk_timeout_s=WINDOW_TIMEOUT_S,
            commit_connections=1,
            read_connections=STREAMS_MAX,
            watch=watch,
        )
        self._servers: dict[RedisClient, _Server] = {}
        self._timeout_s = timeout_s
        self._key_prefix = key_prefix

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._client!r} {self._key_prefix}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers.values():
            server.cut()
        await self._client.aclose()

    @asynccontextmanager
    async def updates(self, stream: str) -> AsyncIterator["_Updates"]:
        """See `LiveReader`."""
        channel = self._keys(stream).updates
        async with (await self._client.at(channel)).listening(channel) as message:
            yield _Updates(message)

    async def standing(self, stream: str) -> Standing | None:
        """See `LiveReader`."""
        standing, _ = await self._read(self._keys(stream), [])
        return standing

    async def read_pieces(self, stream: str, pieces: Sequence[Piece]) -> Pieces | None:
        """See `LiveReader`."""
        names = self._keys(stream)
        commands = [_commands(names, piece) for piece in pieces]
        standing, replies = await self._read(names, list(chain.from_iterable(commands)))
        if standing is None:
            return None
        left = iter(replies)
        asked = zip(pieces, commands, strict=True)
        values = [_value(names, piece, [*islice(left, len(some))]) for piece, some in asked]
        return Pieces(standing, values)

    async def streams(self, topic: str) -> list[str]:
        """See `LiveReader`. They stand in the manifests of the topic's partitions, whose number nobody knows here."""
        found: set[str] = set()
        for start in count(0, MANIFESTS_AT_ONCE):
            names = [keys.manifest(self._key_prefix, topic, start + n) for n in range(MANIFESTS_AT_ONCE)]
            before = len(found)
            for client, some in (await by_server(self._client, names)).items():
                server = self._of(client)
                with server.seam():
                    replies = await server.reads.ask([("HKEYS", name) for name in some])
                for reply in replies:
                    found.update(packing.streams_of_manifest(server.good(reply)))
            if len(found) == before:
                return sorted(found)
        raise AssertionError("numbers have no end")

    async def overview(self, stream: str) -> StreamOverview | None:
        """See `LiveReader`."""
        names = self._keys(stream)
        commands: list[Command] = [("ZREVRANGE", names.key(keys.GAMES), 0, 0), ("HGETALL", names.key(keys.GAPS))]
        standing, replies = await self._read(names, commands)
        if standing is None:
            return None
        newest, gaps = (_value(names, piece, [reply]) for piece, reply in zip(_OVERVIEW, replies, strict=True))
        assert isinstance(newest, list)
        assert isinstance(gaps, dict)
        return StreamOverview(standing, newest[0] if newest else None, gaps)

    def reports(self) -> RedisReports:
        """Return the reports of engines and commands, over the same connections."""
        return RedisReports(self._client, self._key_prefix)

    async def read_window(self, stream: str, above_id: int) -> WindowPart | None:
        """See `LiveReader`."""
        names = self._keys(stream)
        games = names.key(keys.GAMES)
        commands: list[Command] = [("ZCARD", games), ("ZRANGEBYSCORE", games, f"({above_id}", "+inf")]
        if not above_id:
            commands.append(("HGETALL", names.checkpoint))
        standing, (size, members, *fields) = await self._read(names, commands, is_bulk=not above_id)
        for reply in (size, members):
            if isinstance(reply, ResponseError):
                raise StateError(f"{games} has another type: {packing.WAY_OUT}")
        if standing is None:
            if size:
                raise StateError(f"{games} stands there without a checkpoint: {packing.WAY_OUT}")
            return None
        stored = packing.state(dict(zip(fields[0][::2], fields[0][1::2], strict=True))) if fields else {}
        return WindowPart(standing, size, members, stored)

    async def cached(self, stream: str, version: int, request: str) -> bytes | None:
        """See `LiveReader`."""
        key = self._keys(stream).cache(version, request)
        server = self._of(await self._client.at(key))
        with server.seam():
            (answer,) = await server.reads.ask([("GET", key)])
        found: bytes | None = server.good(answer)
        return found

    async def keep(self, answers: Sequence[CachedAnswer]) -> None:
        """See `LiveReader`."""
        by_key = {self._keys(kept.stream).cache(kept.version, kept.request): kept for kept in answers}
        for client, some in (await by_server(self._client, by_key)).items():
            server = self._of(client)
            with server.seam():
                replies = await server.reads.ask(
                    [("SET", key, by_key[key].answer, "EX", by_key[key].ttl_s) for key in some]
                )
            for reply in replies:
                if isinstance(reply, ResponseError) and code_of(reply) == "READONLY":
                    server.reads.cut()  # after a failover the name may lead to another server
                server.good(reply)

    def _keys(self, stream: str) -> Keys:
        return Keys.of(self._key_prefix, stream)

    def _of(self, client: RedisClient) -> "_Server":
        server = self._servers.get(client)
        if server is None:
            connections = client.pipelined(self._timeout_s), client.pipelined(WINDOW_TIMEOUT_S)
            server = self._servers[client] = _Server(client, *connections)
        return server

    async def _read(
        self, names: Keys, commands: list[Command], *, is_bulk: bool = False
    ) -> tuple[Standing | None, list[Any]]:
        """Where the stream stands, and the replies to the commands, of the same moment; errors are among these."""
        server = self._of(await self._client.at(names.checkpoint))
        with server.seam():
            fields, version, *replies = await (server.bulk if is_bulk else server.reads).ask_at_once(
                [("HMGET", names.checkpoint, *_STANDING), ("GET", names.version), *commands]
            )
        return _standing(names, server.good(fields), server.good(version)), replies


class _Server:
    """One server, with a connection for short reads and one for whole windows."""

    def __init__(self, client: RedisClient, reads: PipelinedConnection, bulk: PipelinedConnection) -> None:
        self._client = client
        self.reads = reads
        self.bulk = bulk

    def cut(self) -> None:
        """End both."""
        self.reads.cut()
        self.bulk.cut()

    def good(self, reply: Any) -> Any:
        """The reply, if it is none of an error."""
        if isinstance(reply, ResponseError):
            raise self._client.translated(reply)
        return reply

    @contextmanager
    def seam(self) -> Iterator[None]:
        """Where the client's errors end."""
        try:
            yield
        except (RedisError, OSError) as error:
            raise self._client.translated(error) from error


class _Updates:
    """`Updates` over one connection."""

    def __init__(self, message: Callable[[float], Awaitable[bytes | None]]) -> None:
        self._message = message

    async def next(self, wait_s: float) -> Update | None:
        """See `Updates`. What is said on the channel and is no update, such as a trial of rights, is passed over."""
        until_s = anyio.current_time() + wait_s
        while (told := await self._message(max(0.0, until_s - anyio.current_time()))) is not None:
            try:
                return _decode_update(told)
            except msgspec.MsgspecError:
                continue
        return None


def _standing(names: Keys, fields: list[bytes | None], version: bytes | None) -> Standing | None:
    """Where the stream stands; None without a checkpoint. Raises StateError for what no engine has written: headers are
    made of it, and numbers are computed with."""
    if all(field is None for field in fields) and version is None:
        return None
    if version is None:
        raise StateError(f"{names.version} is missing: {packing.WAY_OUT}")
    try:
        generation, topic, partition, next_offset, total_games, newest, commit, begun, made, topic_id = (
            (part or b"").decode() for part in fields
        )
        standing = Standing(
            generation,
            _number(version.decode()),
            topic,
            _number(partition),
            packing.offset(names.checkpoint, next_offset),
            _number(total_games),
            _number(newest or "0"),
            commit,
            topic_id or None,
        )
    except ValueError:
        raise StateError(f"{names.checkpoint} or {names.version} is spoiled: {packing.WAY_OUT}") from None
    if _NAME.fullmatch(generation) is None or (commit and _COMMIT.fullmatch(commit) is None):
        raise StateError(f"{names.checkpoint} has no generation or commit that is one: {packing.WAY_OUT}")
    if any(count and count != version.decode() for count in (begun, made)):
        raise StateError(f"{names.checkpoint} is of a commit that broke off or ran twice: {packing.WAY_OUT}")
    if not 0 <= standing.next_offset < _NUMBERS_END or standing.total_games < (standing.newest_id > 0):
        raise StateError(f"{names.checkpoint} counts what cannot be: {packing.WAY_OUT}")
    return standing


def _number(text: str) -> int:
    """A count or an id. Raises ValueError for what an engine does not write."""
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(text)
    return int(text)


def _commands(names: Keys, piece: Piece) -> list[Command]:
    """Return the commands that read the piece. A key of any kind is asked for in every way, of which one fits: if its
    kind were asked for first, it might be another one by the time it is read."""
    key = names.key(piece.name)
    match piece:
        case Text():
            return [("GET", key)]
        case Fields():
            return [("HMGET", key, *piece.fields)]
        case AllFields():
            return [("HGETALL", key)]
        case First():
            return [("LRANGE", key, 0, piece.count - 1)]
        case Whole():
            members: Command = ("ZRANGEBYSCORE", key, "-inf", "+inf", "WITHSCORES")
            return [("GET", key), ("HGETALL", key), ("LRANGE", key, 0, -1), members]


def _value(names: Keys, piece: Piece, replies: Sequence[Any]) -> Read:
    if isinstance(piece, Whole):
        return _whole(*replies)
    (reply,) = replies
    if isinstance(reply, ResponseError):
        raise StateError(f"{names.key(piece.name)} has another type: {packing.WAY_OUT}")
    if isinstance(piece, AllFields):
        return _fields(reply)
    value: Read = reply
    return value


def _whole(text: Any, fields: Any, elements: Any, members: Any) -> Value | None:
    """The value of a key that was asked for in every way: the replies of the wrong kinds are errors."""
    match text, fields, elements, members:
        case bytes(), _, _, _:
            return text
        case _, [_, *_], _, _:
            return _fields(fields)
        case _, _, [_, *_], _:
            return [*elements]
        case _, _, _, [_, *_]:
            return SortedSet({int(score): member for member, score in zip(members[::2], members[1::2], strict=True)})
    return None


def _fields(reply: list[bytes]) -> dict[str, bytes]:
    return dict(zip([field.decode(errors="replace") for field in reply[::2]], reply[1::2], strict=True))
