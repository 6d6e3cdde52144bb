"""The connection to one Redis or Valkey server: pools, scripts, deadlines, and the seam where its errors end.

Imports redis, anyio, msgspec, settings and the engine's errors; `redis_errors.py` says what those of Redis mean.
Nothing is ever retried in here: whoever calls knows whether sending again is safe. No message and no repr has a
password in it.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from errno import ECONNRESET
from functools import partial
from hashlib import sha1
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import msgspec
from hiredis import pack_command
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, NoScriptError, RedisError, TimeoutError

from crashfold.engine.adapters.redis.errors import STRAYED, TOO_LARGE, code_of, translated
from crashfold.engine.adapters.redis.pipelined import Command, PipelinedConnection
from crashfold.engine.adapters.redis.sentinel import FoundConnection, Sentinels
from crashfold.engine.adapters.redis.watch import Asked, Watch
from crashfold.engine.adapters.tls import alert_of
from crashfold.engine.errors import ConfigurationError, CrashfoldError, StoreForbidden, StoreRefused, StoreUnavailable
from crashfold.engine.settings import RedisAddress, redis_address

LEAST_LIMIT_BYTES: Final = 1024 * 1024
"""The least that the limits of a server can be set to."""
LARGE_LOSSES_MAX: Final = 5
LOST: Final = (ConnectionError, ConnectionResetError, BrokenPipeError)
"""How a connection that the server ended shows; a server that is slow shows in other ways."""

CLOSE_S: Final = 1.0
"""So long connections may take to end in good order; TLS asks the other side to agree."""
ALERT_EVERY_S: Final = 5.0
"""How often a lost connection over TLS is asked for a reason, at most."""

SCRIPT_LOADS_MAX: Final = 3
"""How often a script is loaded for one call: a server that forgets it again and again is being restarted."""


class Script(msgspec.Struct, frozen=True):
    """A Lua script and the digest it is called by."""

    name: str
    source: str
    sha: str

    @classmethod
    def named(cls, name: str) -> "Script":
        """The script in `lua/<name>.lua`."""
        source = files("crashfold.engine.adapters.redis").joinpath("lua", f"{name}.lua").read_text("utf-8")
        return cls(name, source, sha1(source.encode(), usedforsecurity=False).hexdigest())


class Call(msgspec.Struct, frozen=True):
    """One call of a script."""

    keys: Sequence[str]
    args: Sequence[str | bytes]


class _Connection(AbstractConnection):
    """Two things that the library does for its blocking connections alone.

    It packs commands with hiredis: a commit of 150 keys takes some 0.03 ms then instead of 0.15. And what is written
    to a connection that has just been lost is a ConnectionError, not the RuntimeError that uvloop makes of it (or the
    TypeError of asyncio in Python 3.12).
    """

    async def _send_packed_command(self, command: Iterable[bytes]) -> None:
        if self._is_lost():
            raise ConnectionResetError(ECONNRESET, "the connection was lost")
        await super()._send_packed_command(command)

    def _is_lost(self) -> bool:
        return self._writer is None or self._writer.transport.is_closing()

    def pack_command(self, *args: Any) -> list[bytes]:
        """One command as it goes over the wire."""
        name, *others = args  # `SCRIPT LOAD` is two words on the wire
        return [pack_command((*name.split(), *others))]

    def hand_over(self, protocol: asyncio.BaseProtocol) -> tuple[asyncio.Transport, object]:
        """Let `protocol` have what comes from now on: the transport, and what must be kept as long as that is used."""
        if self._is_lost():
            raise ConnectionError("the connection was lost")
        writer, self._reader, self._writer = self._writer, None, None
        assert writer is not None
        transport: Any = writer.transport  # uvloop's are no asyncio.Transport, though they do all that one does
        transport.set_protocol(protocol)
        return transport, writer

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        """Several of them."""
        return [packed for command in commands for packed in self.pack_command(*command)]


class RedisClient:
    """Two pools on one server: a slow read never makes a commit wait for a connection.

    Times are seconds: `connect_timeout_s` for a new connection, `timeout_s` for a call and its answer, `bulk_timeout_s`
    for one that reads a whole state. `watch` is told how long each takes. A node of a cluster has `strayed`, which is
    called whenever an answer, or none, means that another node may have the keys now.
    """

    def __init__(
        self,
        url: str,
        *,
        password: str,
        connect_timeout_s: float,
        timeout_s: float,
        bulk_timeout_s: float,
        commit_connections: int,
        read_connections: int,
        watch: Watch | None = None,
        strayed: Callable[[], None] | None = None,
    ) -> None:
        self._watch = watch or Watch()
        self._strayed = strayed
        self._large_losses = 0
        """Of connections in turn that were lost while a large call was on its way."""
        self._timeout_s = timeout_s
        self._bulk_timeout_s = bulk_timeout_s

        try:
            where = redis_address(url)
        except ValueError as error:
            raise ConfigurationError(f"redis.url {error}") from None
        kind, place = _place(where, password)
        self._context: ssl.SSLContext | None = None
        self._alert_due_s = -ALERT_EVERY_S
        self._sentinels: Sentinels | None = None
        self._address = where.path or f"{where.host}:{where.port}"
        if where.sentinels:
            self._sentinels = Sentinels(where.sentinels, where.service, connect_timeout_s, _sentinel_options(where))
            kind = type("Connection", (FoundConnection, kind), {"sentinels": self._sentinels})
            self._address = f"{where.service} of {', '.join(f'{host}:{port}' for host, port in where.sentinels)}"
        elif where.tls:
            self._context = kind(**place).ssl_context.get()  # type: ignore[attr-defined]

        def pool(connections: int, answer_timeout_s: float) -> BlockingConnectionPool:
            return BlockingConnectionPool(
                connection_class=kind,
                max_connections=connections,
                timeout=timeout_s,
                socket_connect_timeout=connect_timeout_s,
                socket_timeout=answer_timeout_s,
                retry=Retry(NoBackoff(), 0),
                retry_on_error=[],
                health_check_interval=0,
                driver_info=None,
                protocol=2,
                **place,
            )

        self._commit_pool = pool(commit_connections, timeout_s)
        self._read_pool = pool(read_connections, bulk_timeout_s)
        self._commits = Redis(connection_pool=self._commit_pool)
        self._reads = Redis(connection_pool=self._read_pool)

    @property
    def address(self) -> str:
        """Where the server is, or who says so."""
        return self._address

    def __repr__(self) -> str:
        return f"<RedisClient {self.address}/{self._read_pool.connection_kwargs.get('db', 0)}>"

    async def at(self, key: str) -> "RedisClient":
        """The server that has the key: this one."""
        return self

    async def servers(self) -> "list[RedisClient]":
        """All servers that hold keys: this one."""
        return [self]

    async def aclose(self) -> None:
        """Close every connection, within a second."""
        pools = [self._commit_pool, self._read_pool, *(self._sentinels.pools if self._sentinels else ())]
        try:
            with anyio.move_on_after(CLOSE_S, shield=True), suppress(RedisError, OSError):
                for pool in pools:
                    await pool.aclose()
        finally:
            for pool in pools:
                await _cut(pool)

    async def run(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """The reply of each call of the script, sent all at once; an error that Redis answered with is its reply.

        Each runs for itself. Raises StoreUnavailable when any may have run without its reply being read, and
        StoreForbidden when a call is larger than Redis takes: it ends the connection then, often without a word.
        """
        try:
            replies = await self._run(script, calls)
        except StoreUnavailable as error:
            largest = max(sum(map(len, call.args)) for call in calls)
            if largest >= LEAST_LIMIT_BYTES and isinstance(error.__cause__, LOST):
                await self._refuse_too_large(largest)
            raise
        if self._large_losses and max(sum(map(len, call.args)) for call in calls) >= LEAST_LIMIT_BYTES:
            self._large_losses = 0
        return replies

    async def _refuse_too_large(self, call_bytes: int) -> None:
        """Raise StoreForbidden when that is why a connection was lost: by the limits of the server, or, where they may
        not be read, because it answers and yet the connection is lost each time."""
        try:
            limits = dict.fromkeys(("proto-max-bulk-len", "client-query-buffer-limit"), 0)
            for name in limits:
                (told,) = await self.ask(partial(_config_get, name))
                limits[name] = int(told.get(name, 0))
        except StoreForbidden:
            self._large_losses += 1
            if self._large_losses < LARGE_LOSSES_MAX:
                return
            raise StoreForbidden(
                f"Redis ends the connection when {call_bytes} bytes come: {TOO_LARGE.advice}"
            ) from None
        except CrashfoldError:
            return
        for name, limit in limits.items():
            if 0 < limit < call_bytes:
                raise StoreForbidden(f"Redis takes {limit} bytes by {name}, not {call_bytes}: {TOO_LARGE.advice}")

    async def _run(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        replies: list[Any] = [None] * len(calls)
        due = list(range(len(calls)))
        for _ in range(SCRIPT_LOADS_MAX):
            async with self._asking(self._timeout_s, script.name):
                pipeline = self._commits.pipeline(transaction=False)
                for index in due:
                    call = calls[index]
                    pipeline.execute_command("EVALSHA", script.sha, len(call.keys), *call.keys, *call.args)
                for index, reply in zip(due, await pipeline.execute(raise_on_error=False), strict=True):
                    replies[index] = reply
                due = [index for index in due if isinstance(replies[index], NoScriptError)]
                if not due:
                    break
                await self._commits.script_load(script.source)
        if due:
            raise StoreUnavailable("Redis forgets scripts as soon as they are loaded")
        errors = [reply for reply in replies if isinstance(reply, RedisError)]
        if any(code_of(error) == "READONLY" for error in errors):
            await self._drop_connections()
        return [self.translated(reply) if isinstance(reply, RedisError) else reply for reply in replies]

    async def ask(self, build: Callable[[Pipeline], object]) -> list[Any]:
        """The replies to the commands that `build` puts on a pipeline. Raises the first error among them."""
        pipeline = self._reads.pipeline(transaction=False)
        build(pipeline)
        async with self._asking(self._timeout_s, _commands(pipeline)):
            return list(await pipeline.execute())

    async def ask_at_once(self, build: Callable[[Pipeline], object], *, is_bulk: bool = True) -> list[Any]:
        """`ask` with nothing of anybody else in between; an error that Redis answered with is its reply."""
        pipeline = self._reads.pipeline(transaction=True)
        build(pipeline)
        async with self._asking(self._bulk_timeout_s if is_bulk else self._timeout_s, _commands(pipeline)):
            replies = await pipeline.execute(raise_on_error=False)
            return [self.translated(reply) if isinstance(reply, RedisError) else reply for reply in replies]

    def pipelined(self, timeout_s: float) -> PipelinedConnection:
        """Return a pipelined connection to the server. `timeout_s` is for a call and its answer."""

        async def connect(protocol: asyncio.BaseProtocol) -> tuple[asyncio.Transport, object]:
            connection: Any = self._read_pool.make_connection()  # type: ignore[no-untyped-call]
            try:
                with anyio.fail_after(self._timeout_s):
                    await connection.connect()
                taken: tuple[asyncio.Transport, object] = connection.hand_over(protocol)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await connection.disconnect(nowait=True)
                raise
            return taken

        def took(asked: Sequence[Command], duration_s: float) -> None:
            self._watch.took(self.address, asked, duration_s)

        return PipelinedConnection(connect, timeout_s, took)

    async def scan(self, pattern: str) -> list[str]:
        """Every key that matches `pattern` from the beginning of the call to its end; others perhaps."""
        found: set[bytes | str] = set()
        cursor = 0
        while True:
            async with self._asking(self._timeout_s, (("SCAN",),)):
                cursor, keys = await self._reads.scan(cursor, match=pattern, count=1000)
            found.update(keys)
            if int(cursor) == 0:
                return sorted(key for key in map(_text, found) if key is not None)

    @asynccontextmanager
    async def listening(self, channel: str) -> AsyncIterator[Callable[[float], Awaitable[bytes | None]]]:
        """Messages of a channel, from the moment that the block is entered. What it gives is asked for the next one,
        with the seconds to wait for it. It holds a connection of the pool for reads."""
        subscriber = self._reads.pubsub(ignore_subscribe_messages=False)

        async def message(wait_s: float) -> bytes | None:
            async with self._asking(wait_s + self._timeout_s):
                told = await subscriber.get_message(timeout=wait_s)
            return told["data"] if told is not None and told["type"] == "message" else None

        try:
            async with self._asking(self._timeout_s):
                await subscriber.subscribe(channel)
                while await subscriber.get_message(timeout=self._timeout_s) is None:
                    pass  # till the server has confirmed it
            yield message
        finally:
            with anyio.move_on_after(1, shield=True):
                await subscriber.aclose()  # type: ignore[no-untyped-call]

    @asynccontextmanager
    async def _asking(self, timeout_s: float, asked: Asked | None = None) -> AsyncIterator[None]:
        """The seam: a deadline, the client's errors turned into ours, and the time that it took; not that of waiting
        for messages, for which nothing is `asked`."""
        began_s = anyio.current_time()
        try:
            with anyio.fail_after(timeout_s):
                yield
        except (RedisError, OSError) as error:  # a TimeoutError is an OSError
            if code_of(error) == "READONLY":
                await self._drop_connections()
            raise self.translated(await self._alert_behind(error)) from error
        finally:
            if asked is not None:
                self._watch.took(self.address, asked, anyio.current_time() - began_s)

    async def _alert_behind(self, error: Exception) -> Exception:
        """The server's alert about our certificate, where a connection was lost that had just been made: the alert may
        have been lost with it. Else the error itself."""
        now_s = anyio.current_time()
        if self._context is None or not isinstance(error, ConnectionError) or now_s < self._alert_due_s:
            return error
        self._alert_due_s = now_s + ALERT_EVERY_S
        host, port = self._address.rsplit(":", 1)
        alert = await anyio.to_thread.run_sync(alert_of, host, int(port), self._context)
        return error if alert is None else alert

    def translated(self, error: Exception) -> CrashfoldError:
        """`translated`, but for what a node of a cluster means by it."""
        if self._strayed is not None:
            code = code_of(error)
            if code in STRAYED:
                self._strayed()
                return StoreRefused(f"Redis refused ({code}): {STRAYED[code]}")
            if isinstance(error, ConnectionError | TimeoutError | OSError):
                self._strayed()
        return translated(error)

    async def _drop_connections(self) -> None:
        """After a failover the name may lead to another server."""
        with anyio.move_on_after(1, shield=True):
            await self._commit_pool.disconnect(inuse_connections=False)
            await self._read_pool.disconnect(inuse_connections=False)


async def _cut(pool: ConnectionPool) -> None:
    """Cut the connections that are still open. It waits for nothing, so nothing keeps it from cutting all of them."""
    for connection in (*pool._available_connections, *pool._in_use_connections):
        await connection.disconnect(nowait=True)


def _commands(pipeline: Pipeline) -> list[tuple[Any, ...]]:
    """The commands on a pipeline, which lets go of them when it is executed."""
    return [words for words, _ in pipeline.command_stack]


def _config_get(name: str, pipeline: Pipeline) -> None:
    pipeline.config_get(name)


def _text(key: bytes | str) -> str | None:
    """The key as text; None when it is none, and so none of ours."""
    try:
        return key if isinstance(key, str) else key.decode()
    except UnicodeDecodeError:
        return None


def glob_escaped(text: str) -> str:
    """The pattern that matches `text` and nothing else."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)


def _place(where: RedisAddress, password: str) -> tuple[type[AbstractConnection], dict[str, Any]]:
    """The kind of connection, and its options. Raises ConfigurationError for a file of TLS that cannot be used."""
    options: dict[str, Any] = {"db": where.db, "username": where.username or None}
    options |= {"password": password or where.password or None, "client_name": where.client_name or None}
    base: type[AbstractConnection] = UnixDomainSocketConnection
    if where.path:
        options["path"] = where.path
    else:
        base = SSLConnection if where.tls else Connection
        options |= {"host": where.host, "port": where.port, "socket_keepalive": True}
    options |= {f"ssl_{name}": value for name, value in where.tls_options.items()}
    if options.get("ssl_cert_reqs") == "none":
        options["ssl_check_hostname"] = False
    kind = type("Connection", (_Connection, base), {})
    if where.tls:
        _check_tls(where.tls_options)
    return kind, options


def _sentinel_options(where: RedisAddress) -> dict[str, Any]:
    """Return the options of a connection to a sentinel: TLS as to the servers, and a login of its own."""
    options: dict[str, Any] = {f"ssl_{name}": value for name, value in where.tls_options.items()}
    if where.tls:
        options |= {"ssl": True}
        if options.get("ssl_cert_reqs") == "none":
            options["ssl_check_hostname"] = False
    return options | {"username": where.sentinel_username or None, "password": where.sentinel_password or None}


def _check_tls(options: Mapping[str, str | bool]) -> None:
    """Raise ConfigurationError, naming the option, for a file that cannot be used: connecting would take it for a
    server that is away."""
    ca_certs, certfile, keyfile = (str(options.get(name, "")) for name in ("ca_certs", "certfile", "keyfile"))
    if keyfile and not certfile:
        raise ConfigurationError("redis.url has the option ssl_keyfile without ssl_certfile")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for option, path in (("ssl_ca_certs", ca_certs), ("ssl_keyfile", keyfile), ("ssl_certfile", certfile)):
        if not path:
            continue
        try:
            Path(path).read_bytes()
            if option == "ssl_ca_certs":
                context.load_verify_locations(path)
            elif option == "ssl_certfile":
                context.load_cert_chain(path, keyfile or None, lambda: str(options.get("password", "")))
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            why = getattr(error, "strerror", None) or getattr(error, "reason", None) or "it is no PEM file"
            raise ConfigurationError(f"redis.url: the file of {option}, {path}, cannot be used: {why}") from None
