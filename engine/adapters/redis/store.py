"""The read model and its checkpoints on Redis or Valkey: `RedisStore`, and `RedisShadowStore` for a rebuild.

Imports the client and the packing beside it, the ports' facts and schemas. A stream's state changes by one script call
and no other way, so what stands in Redis is always of one version. Whether there is one server or a cluster shows here
only in that every question goes to the server that has the key (`at`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from redis.asyncio.client import Pipeline
from redis.exceptions import ResponseError

from crashfold.engine.adapters.redis import packing
from crashfold.engine.adapters.redis.client import Call, RedisClient, Script, glob_escaped
from crashfold.engine.adapters.redis.cluster import RedisCluster, by_server
from crashfold.engine.adapters.redis.errors import translated
from crashfold.engine.adapters.redis.parts import LAST_BYTES_MAX, WRITE_BYTES, Part, parts_in_turn, parts_made
from crashfold.engine.adapters.redis.reports import RedisReports
from crashfold.engine.adapters.redis.staging import clear_stages, commit_staged, in_turn
from crashfold.engine.adapters.redis.usage import RedisUsage
from crashfold.engine.adapters.redis.watch import Watch
from crashfold.engine.errors import (
    ConfigurationError,
    CrashfoldError,
    StateError,
    StoreForbidden,
    StoreRefused,
    StoreUnavailable,
    Unavailable,
)
from crashfold.engine.ports import (
    Applied,
    Behind,
    Checkpoint,
    Commit,
    Conflict,
    Duplicate,
    Manifest,
    Outcome,
    Position,
    Promoted,
    Stored,
)
from crashfold.projections.delta import SortedSet, Value
from crashfold.schemas import keys
from crashfold.schemas.keys import STREAM_PLACE, Keys
from crashfold.schemas.predicate import Predicate

TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 2.0
BULK_TIMEOUT_S: Final = 30.0
"""For a call that reads the whole state of a stream."""

LISTINGS_MAX: Final = 10
"""How often the keys of a stream are listed anew because a commit created one meanwhile: each does so but once."""

COMMIT: Final = "commit"
PROMOTE: Final = "promote"
RIGHTS: Final = "rights"
UNLINK_KEYS: Final = 500
"""Keys a call removes."""

_READS: Final = {
    b"string": lambda pipeline, key: pipeline.get(key),
    b"hash": lambda pipeline, key: pipeline.hgetall(key),
    b"list": lambda pipeline, key: pipeline.lrange(key, 0, -1),
    b"zset": lambda pipeline, key: pipeline.zrange(key, 0, -1, withscores=True),
}
"""How to read a key of each type whole."""


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


class _Listing(msgspec.Struct, frozen=True):
    """The keys of a stream's aggregates by name, and what tells whether there are more by now."""

    generation: str
    keys_created: str
    next_offset: str
    commit: str
    aggregates: frozenset[str]
    names: tuple[str, ...]


class RedisStore:
    """`StateStore` and `StateReader`. Entering does nothing, leaving closes the connections.

    `url` is `redis://`, `rediss://` (TLS) or `unix://`, with `cluster` that of any node; `password` goes before one in
    it; `key_prefix` may have `{stream}` in it, and has with `cluster`. Times are seconds.
    `watch` is told how long each call takes.
    """

    def __init__(
        self,
        url: str,
        *,
        password: str = "",
        cluster: bool = False,
        key_prefix: str = "analytics",
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        timeout_s: float = TIMEOUT_S,
        bulk_timeout_s: float = BULK_TIMEOUT_S,
        commit_connections: int = 4,
        read_connections: int = 16,
        whole_values_max: int = packing.WHOLE_VALUES_MAX,
        watch: Watch | None = None,
    ) -> None:
        self._client: RedisClient | RedisCluster = (RedisCluster if cluster else RedisClient)(
            url,
            password=password,
            connect_timeout_s=connect_timeout_s,
            timeout_s=timeout_s,
            bulk_timeout_s=bulk_timeout_s,
            commit_connections=commit_connections,
            read_connections=read_connections,
            watch=watch,
        )
        self._key_prefix = key_prefix
        self._commit_script = Script.named(COMMIT)
        self._rights_are_known = False
        self._whole_values_max = whole_values_max
        self._stages_cleared: set[str] = set()
        """Streams with nothing in their stage but what this store puts there."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._client!r} {self._key_prefix}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def shadow(self) -> "RedisShadowStore":
        """The generation that a rebuild makes beside this one, over the same connections."""
        return RedisShadowStore(self._client, self._key_prefix, rights_are_known=self._rights_are_known)

    def usage(self, predicates: Sequence[Predicate]) -> RedisUsage:
        """Return the memory usage of the servers and of a stream's keys, over the same connections."""
        return RedisUsage(self._client, self._key_prefix, predicates)

    def reports(self) -> RedisReports:
        """Return the reports of engines and commands, over the same connections."""
        return RedisReports(self._client, self._key_prefix)

    async def load(self, stream: str) -> Stored | None:
        """See `StateStore`. Raises StateError, naming the key, when what is stored cannot be read."""
        self._stages_cleared.discard(stream)  # others may have had it meanwhile
        names = self._keys(stream)
        games = names.key(keys.GAMES)

        def build(pipeline: Pipeline) -> None:
            pipeline.hgetall(names.checkpoint)
            pipeline.get(names.version)
            pipeline.zrange(games, 0, -1)
            pipeline.zrange(games, -1, -1, withscores=True)

        server = await self._client.at(names.checkpoint)
        replies = await server.ask_at_once(build)
        for key, reply in zip((names.checkpoint, names.version, games, games), replies, strict=True):
            if isinstance(reply, CrashfoldError):
                raise _about(key, reply)
        fields, version, members, last = replies
        newest = int(last[0][1]) if last else None
        return _stored(names, fields, version, members, newest) if fields else None

    async def check_rights(self, stream: str) -> None:
        """See `StateStore`."""
        names, live = self._keys(stream), self._live(stream)
        beside = live.stage.rights if names == live else live.rights
        call = Call([names.rights, beside, live.checkpoint, live.version], [live.updates])
        (reply,) = await self._client.run(Script.named(RIGHTS), [call])
        match reply:
            case [b"granted"]:
                await self._check_keys_of_all_streams()
                self._rights_are_known = True
            case [b"refused", command, subject, said]:
                raise _refused(names, command.decode(), subject.decode(), said.decode("utf-8", "replace"))
            case Unavailable() | StateError():
                raise reply
            case CrashfoldError():  # Redis asks for the right to a script's keys before it runs
                raise _lacks("EVALSHA", f"keys {names.prefix}:*", str(reply))
            case _:
                raise _unexpected(reply)

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

    async def check_reading(self, stream: str) -> None:
        """Ask each question that a start, `verify` or an API asks, of a key that is not there. Raises StoreForbidden,
        naming the command that the user may not run."""
        names = self._keys(stream)
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

    async def check_channel(self, stream: str) -> None:
        """Subscribe to the stream's updates for a moment. Raises StoreForbidden when the user may not."""
        names = self._keys(stream)
        async with (await self._client.at(names.checkpoint)).listening(names.updates):
            pass

    async def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        """See `StateStore`. Raises StateError when a key is of another type than is written to it; nothing is then.

        A commit that would keep Redis busy for long is staged, one after the other, when the small ones are made.

        Raises ConfigurationError, before the first commit of this store, when the user lacks a right.
        """
        if commits and not self._rights_are_known:
            await self.check_rights(commits[0].stream)
        await self._clear_stages(commit.stream for commit in commits)
        calls = [packing.whole_call(self._keys(commit.stream), commit, self._whole_values_max) for commit in commits]
        small = [(commit, call) for commit, call in zip(commits, calls, strict=True) if call is not None]
        replies = await self._client.run(self._commit_script, [call for _, call in small]) if small else []
        packing.raise_worst(replies)
        outcomes = {
            commit.stream: self._outcome(commit, reply) for (commit, _), reply in zip(small, replies, strict=True)
        }
        for commit, call in zip(commits, calls, strict=True):
            if call is None:
                last_bytes = min(LAST_BYTES_MAX, self._whole_values_max * WRITE_BYTES)
                names = self._keys(commit.stream)
                reply = await commit_staged(self._client, self._commit_script, names, commit, last_bytes)
                outcomes[commit.stream] = self._outcome(commit, reply)
        return [outcomes[commit.stream] for commit in commits]

    async def _clear_stages(self, streams: Iterable[str]) -> None:
        """Remove, once, what an engine that ended in the middle of a staged commit has left."""
        if due := [stream for stream in streams if stream not in self._stages_cleared]:
            by_names = {self._keys(stream): stream for stream in due}
            self._stages_cleared.update(by_names[names] for names in await clear_stages(self._client, [*by_names]))

    async def checkpoint(self, stream: str) -> Checkpoint | None:
        """See `StateStore`."""
        key, names = self._keys(stream).checkpoint, packing.CHECKPOINT_FIELDS
        server = await self._client.at(key)
        try:
            (found,) = await server.ask(lambda pipeline: pipeline.hmget(key, names))
        except StateError as error:
            raise _about(key, error) from None
        fields = {name.encode(): part for name, part in zip(names, found, strict=True) if part is not None}
        return packing.checkpoint(key, fields) if fields else None

    async def positions(self, streams: Sequence[str]) -> list[Position | None]:
        """See `StateStore`."""
        places = [self._keys(stream).checkpoint for stream in streams]
        found: dict[str, list[bytes | None]] = {}
        for server, some in (await by_server(self._client, places)).items():
            found.update(zip(some, await server.ask(partial(_tokens, some)), strict=True))
        return [packing.position(place, *(part or b"" for part in found[place])) for place in places]

    async def read_manifest(self, topic: str, partition: int) -> Manifest | None:
        """See `StateStore`."""
        key = keys.manifest(self._key_prefix, topic, partition)
        server = await self._client.at(key)
        try:
            (fields,) = await server.ask(lambda pipeline: pipeline.hgetall(key))
        except StateError:
            raise StateError(f"{key} is no manifest: `crashfold replay` writes it anew") from None
        return packing.manifest(key, fields) if fields else None

    async def write_manifest(self, topic: str, partition: int, manifest: Manifest) -> None:
        """See `StateStore`."""
        key = keys.manifest(self._key_prefix, topic, partition)
        fields = [*packing.flattened(packing.manifest_fields(manifest).items())]

        def build(pipeline: Pipeline) -> None:
            pipeline.unlink(key)
            pipeline.execute_command("HSET", key, *fields)

        server = await self._client.at(key)
        # At once: without a manifest a start would take what retention removed for lost.
        for reply in await server.ask_at_once(build):
            if isinstance(reply, Exception):
                raise reply

    async def read_model(self, stream: str) -> tuple[Stored, dict[str, Value]] | None:
        """See `StateReader`. Raises StateError when a key cannot be read, StoreRefused when keys come without end."""
        (read,) = await self.read_models([stream])
        return read

    async def read_models(self, streams: Sequence[str]) -> list[tuple[Stored, dict[str, Value]] | None]:
        """See `StateReader`. Raises what `read_model` does."""
        found: dict[str, tuple[Stored, dict[str, Value]] | None] = {}
        due = list(streams)
        for _ in range(LISTINGS_MAX):
            changed = []
            for stream, listing in zip(due, await self._listings([self._keys(stream) for stream in due]), strict=True):
                found[stream] = None if listing is None else await self._read(self._keys(stream), listing)
                if listing is not None and found[stream] is None:
                    changed.append(stream)
            if not changed:
                return [found[stream] for stream in streams]
            due = changed
        raise StoreRefused(f"the keys of stream {due[0]} change faster than they can be listed: try again")

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

    def _keys(self, stream: str) -> Keys:
        return Keys.of(self._key_prefix, stream)

    def _live(self, stream: str) -> Keys:
        return Keys.of(self._key_prefix, stream)

    def _call(self, commit: Commit, part: Part) -> Call:
        return packing.call(self._keys(commit.stream), commit, part)

    def _outcome(self, commit: Commit, reply: list[bytes]) -> Outcome:
        match reply:
            case [b"applied", version]:
                return Applied(int(version))
            case [b"duplicate", version]:
                return Duplicate(int(version))
            case [b"conflict", generation, next_offset, commit_id]:
                place = self._keys(commit.stream).checkpoint
                return Conflict(packing.position(place, generation, next_offset, commit_id))
        raise _unexpected(reply)

    async def _listing(self, names: Keys) -> _Listing | None:
        """The keys of the aggregates that the checkpoint names; None without a checkpoint."""
        (listing,) = await self._listings([names])
        return listing

    async def _listings(self, several: Sequence[Keys]) -> list[_Listing | None]:
        """The listing of each of these streams, by one scan of each server that has some.

        The checkpoints are read first: a key that is created behind the scan's back raises `keys_created`.
        """
        listings: dict[str, _Listing] = {}
        by_checkpoint = {names.checkpoint: names for names in several}
        for server, places in (await by_server(self._client, by_checkpoint)).items():
            replies = await server.ask(partial(_marks_of, places))
            marks = {place: _marks(place, reply) for place, reply in zip(places, replies, strict=True) if reply[0]}
            found = await self._scanned(server, [by_checkpoint[place].key("") for place in marks])
            for place, marked in marks.items():
                names = by_checkpoint[place]
                listed = _named(names, found[names.key("")], marked.aggregates)
                listings[place] = msgspec.structs.replace(marked, names=listed)
        return [listings.get(names.checkpoint) for names in several]

    async def _marks(self, names: Keys) -> _Listing | None:
        """A listing without its names."""
        server = await self._client.at(names.checkpoint)
        (reply,) = await server.ask(partial(_marks_of, [names.checkpoint]))
        return _marks(names.checkpoint, reply) if reply[0] else None

    async def _scanned(self, server: RedisClient, starts: Sequence[str]) -> dict[str, list[str]]:
        """By start, the server's keys that begin so; no start begins another of the same length."""
        found: dict[str, list[str]] = {start: [] for start in starts}
        if not found:
            return found
        if len(found) == 1:
            pattern = glob_escaped(starts[0]) + "*"
        else:
            pattern = "*".join(glob_escaped(part) for part in self._key_prefix.split(STREAM_PLACE)) + ":*"
        lengths = {len(start) for start in starts}
        for key in await server.scan(pattern):
            for length in lengths:
                if key[:length] in found:
                    found[key[:length]].append(key)
        return found

    async def _read(self, names: Keys, listing: _Listing) -> tuple[Stored, dict[str, Value]] | None:
        """Everything that is listed, of one version; None when the list is out of date."""
        server = await self._client.at(names.checkpoint)
        whole = [names.key(name) for name in listing.names]
        kinds = await server.ask(lambda pipeline: [pipeline.type(key) for key in whole]) if whole else []

        def build(pipeline: Pipeline) -> None:
            pipeline.hgetall(names.checkpoint)
            pipeline.get(names.version)
            for key, kind in present:
                _READS[kind](pipeline, key)

        present = [(key, kind) for key, kind in zip(whole, kinds, strict=True) if kind != b"none"]
        for key, kind in present:
            if kind not in _READS:
                raise StateError(f"{key} is a {kind.decode()}, which no aggregate is: {packing.WAY_OUT}")
        fields, version, *replies = await server.ask_at_once(build)
        for error in (fields, version):
            if isinstance(error, CrashfoldError):
                raise error
        marks = (listing.generation.encode(), listing.keys_created.encode())
        if (fields.get(b"generation"), fields.get(b"keys_created")) != marks:
            return None
        model: dict[str, Value] = {}
        for (key, kind), reply in zip(present, replies, strict=True):
            if isinstance(reply, CrashfoldError):
                raise _about(key, reply)
            if reply is not None and reply != [] and reply != {}:
                model[key.removeprefix(names.key(""))] = packing.value(kind, reply)
        window = model.get(keys.GAMES, SortedSet({}))
        if not isinstance(window, SortedSet):
            raise StateError(f"{names.key(keys.GAMES)} is no sorted set: {packing.WAY_OUT}")
        newest = next(reversed(window.members), None)
        return _stored(names, fields, version, list(window.members.values()), newest), model


class RedisShadowStore(RedisStore):
    """`ShadowStore`: the same, under keys of its own; made by `RedisStore.shadow`, which closes its connections.

    Nobody reads a shadow before it is promoted. So a big commit goes in parts, between which Redis serves others.
    """

    def __init__(self, client: RedisClient | RedisCluster, key_prefix: str, *, rights_are_known: bool = False) -> None:
        self._client = client
        self._key_prefix = key_prefix
        self._commit_script = Script.named(COMMIT)
        self._rights_are_known = rights_are_known
        self._whole_values_max = packing.WHOLE_VALUES_MAX
        self._stages_cleared = set()
        self._promote_script = Script.named(PROMOTE)
        self._written: dict[str, set[str]] = {}
        """By stream the names of all keys of its shadow, where this store wrote the whole of it."""
        self._live_listings: dict[str, _Listing] | None = None
        """By stream the keys of its live state: listed once for all streams that are promoted."""
        self._promoted: set[str] = set()
        """Streams whose keys are listed one by one, because promoting them was tried before."""
        self._left_over: dict[str, list[str]] | None = None
        """By stream the keys of shadows that others left behind: listed once for all streams that are cleared."""
        self._cleared: set[str] = set()
        self._promoting: dict[str, str] = {}
        """The generation whose promotion was last asked for, per stream: its reply may have been lost."""

    async def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        """See `StateStore`. Commits that need several calls are made one after the other, the rest at once before."""
        small: list[int] = []
        big: dict[int, Iterator[Part]] = {}
        for index, commit in enumerate(commits):
            parts = parts_in_turn(commit)
            first = next(parts)
            if first.is_last:
                small.append(index)
            else:
                big[index] = chain([first], parts)
        outcomes: dict[int, Outcome] = {}
        if small:
            done = await super().commit([commits[index] for index in small])
            outcomes.update(zip(small, done, strict=True))
        for index, parts in big.items():
            outcomes[index] = await self._commit_in_parts(commits[index], parts)
        for commit in commits:
            if commit.expected is None:
                self._written[commit.stream] = {*commit.delta}
            elif commit.stream in self._written:
                self._written[commit.stream].update(commit.delta)
        return [outcomes[index] for index in range(len(commits))]

    async def _clear_stages(self, streams: Iterable[str]) -> None:
        """Nothing: no commit of a shadow is staged, since nobody reads it."""

    async def read_manifest(self, topic: str, partition: int) -> Manifest | None:
        """None: a shadow keeps no manifests."""
        return None

    async def write_manifest(self, topic: str, partition: int, manifest: Manifest) -> None:
        """Nothing: a shadow keeps no manifests."""

    async def clear(self, streams: Sequence[str]) -> None:
        """See `ShadowStore`."""
        if not streams:
            return
        for server, found in (await by_server(self._client, await self._shadow_keys(streams))).items():
            for start in range(0, len(found), UNLINK_KEYS):
                await server.ask(partial(_unlink, found[start : start + UNLINK_KEYS]))
        for stream in streams:
            self._promoting.pop(stream, None)
            self._written.pop(stream, None)

    async def promote(self, stream: str, *, allow_back: bool = False) -> Promoted | Behind:
        """See `ShadowStore`. Raises StateError when there is no shadow, StoreRefused when keys come without end.

        May be called again after StoreUnavailable: when the swap was made and its reply lost, it says so.
        """
        for _ in range(LISTINGS_MAX):
            shadow = await self._shadow_listing(stream)
            if shadow is None:
                return await self._promoted_before(stream)
            call = await self._promotion(stream, shadow, allow_back)
            self._promoting[stream] = shadow.generation
            (reply,) = await self._client.run(self._promote_script, [call])
            packing.raise_worst([reply])
            match reply:
                case [b"promoted", version]:
                    self._forget_listings(stream)
                    return Promoted(int(version))
                case [b"behind", generation, next_offset, commit_id]:
                    live = packing.position(self._live(stream).checkpoint, generation, next_offset, commit_id)
                    assert live is not None
                    return Behind(live)
                case [b"moved"]:
                    if not await self._knows_new_keys(stream, shadow):
                        self._forget_listings(stream)
                    continue
            raise _unexpected(reply)
        raise StoreRefused(f"the keys of stream {stream} change faster than they can be listed: try again")

    def _keys(self, stream: str) -> Keys:
        return self._live(stream).shadow

    async def _shadow_keys(self, streams: Sequence[str]) -> list[str]:
        """All keys of the shadows of these streams. With many streams the first call lists those of all, for the calls
        that follow; who writes a shadow behind that is a rival, and a conflict of the first commit says so."""
        starts = [self._keys(stream).key("") for stream in streams]
        servers = await self._client.servers()
        if STREAM_PLACE in self._key_prefix and self._left_over is None:
            self._left_over = {}
            pattern = f"{_pattern(self._key_prefix)}:{keys.SHADOW}:*"
            for key in [key for server in servers for key in await server.scan(pattern)]:
                self._left_over.setdefault(keys.stream_of(self._key_prefix, key), []).append(key)
        elif self._left_over is None or not (self._written.keys() | self._cleared).isdisjoint(streams):
            scans = [await self._scanned(server, starts) for server in servers]
            return [key for scan in scans for found in scan.values() for key in found]
        self._cleared.update(streams)
        return [key for stream in streams for key in self._left_over.pop(stream, [])]

    async def _promotion(self, stream: str, shadow: _Listing, allow_back: bool) -> Call:
        """The call of `promote.lua` with every key that it touches."""
        names, live = self._keys(stream), self._live(stream)
        marks = await self._live_listing(stream)
        left_over = set(_of_aggregates(marks.names, marks.aggregates | shadow.aggregates)) - set(shadow.names)
        pairs = [key for name in shadow.names for key in (names.key(name), live.key(name))]
        return Call(
            [
                *(live.checkpoint, live.version, names.checkpoint, names.version),
                *pairs,
                *(live.key(name) for name in sorted(left_over)),
            ],
            [
                str(len(shadow.names)),
                *(shadow.generation, shadow.next_offset, shadow.commit, shadow.keys_created),
                *(mark.encode("utf-8", "surrogateescape") for mark in (marks.generation, marks.keys_created)),
                "1" if allow_back else "0",
                live.updates,
            ],
        )

    async def _shadow_listing(self, stream: str) -> _Listing | None:
        """The keys of the shadow: those that were written, or, where that is not known, those that are found."""
        written = self._written.get(stream)
        if written is None:
            return await self._listing(self._keys(stream))
        marks = await self._marks(self._keys(stream))
        if marks is None:
            return None
        return msgspec.structs.replace(marks, names=_of_aggregates(sorted(written), marks.aggregates))

    async def _live_listing(self, stream: str) -> _Listing:
        """List the keys in the place of the live state, with its marks as they were before the listing.

        With many streams all are listed at once when the first is promoted, by two scans instead of one for each. A key
        that an engine creates later raises `keys_created`, so promoting this stream answers `moved`: see
        `_knows_new_keys`.
        """
        live = self._live(stream)
        if STREAM_PLACE in self._key_prefix:
            if self._live_listings is None:
                self._live_listings = await self._list_all_live()
            if stream in self._live_listings or stream not in self._promoted:
                return self._live_listings.get(stream, _listing(_NO_MARKS))
        marks = await self._marks_of_whatever_stands_there(live)
        start = live.key("")
        found = await (await self._client.at(live.checkpoint)).scan(glob_escaped(start) + "*")
        listing = msgspec.structs.replace(marks, names=tuple(key.removeprefix(start) for key in found))
        if self._live_listings is not None:
            self._live_listings[stream] = listing
        return listing

    async def _knows_new_keys(self, stream: str, shadow: _Listing) -> bool:
        """Whether every key that an engine has created since the listing of the live state is one of the shadow's; the
        listing is up to date then, without a scan.

        In order: the marks say how many keys were created; then those of the shadow's names that were not listed are
        looked for. When as many stand there, no other key was created: each of them accounts for one. A key that is
        created between the two looks may be counted for another one, but it raises `keys_created` again, and the next
        call of `promote.lua` answers `moved`.
        """
        before = (self._live_listings or {}).get(stream)
        if before is None:
            return False
        live = self._live(stream)
        marks = await self._marks_of_whatever_stands_there(live)
        known, now = _count(before.keys_created), _count(marks.keys_created)
        if marks.generation != before.generation or known is None or now is None:
            return False
        created = now - known
        unlisted = sorted({*shadow.names}.difference(before.names))
        if not 0 < created <= len(unlisted):
            return False
        server = await self._client.at(live.checkpoint)
        stand = await server.ask(lambda pipeline: [pipeline.exists(live.key(name)) for name in unlisted])
        new = [name for name, stands in zip(unlisted, stand, strict=True) if stands]
        if len(new) < created:
            return False
        assert self._live_listings is not None
        self._live_listings[stream] = msgspec.structs.replace(marks, names=(*before.names, *new))
        return True

    async def _list_all_live(self) -> dict[str, _Listing]:
        """By stream the listing of its live state, of every stream that has a key."""
        pattern = _pattern(self._key_prefix)
        marks: dict[str, _Listing] = {}
        found: dict[str, list[str]] = {}
        shared: dict[str, str] = {}  # a name is one object, however many streams have it
        for server in await self._client.servers():
            for key in await server.scan(f"{pattern}:{keys.CHECKPOINT}"):
                stream = keys.stream_of(self._key_prefix, key)
                marks[stream] = await self._marks_of_whatever_stands_there(self._live(stream))
            for key in await server.scan(f"{pattern}:*"):
                stream = keys.stream_of(self._key_prefix, key)
                name = key.removeprefix(self._live(stream).key(""))
                if name.partition(":")[0] not in keys.RESERVED:
                    found.setdefault(stream, []).append(shared.setdefault(name, name))
        none = _listing(_NO_MARKS)
        return {
            stream: msgspec.structs.replace(marks.get(stream, none), names=tuple(found.get(stream, ())))
            for stream in marks.keys() | found.keys()
        }

    def _forget_listings(self, stream: str) -> None:
        """List the keys of the stream again when it is promoted again."""
        self._written.pop(stream, None)
        self._promoted.add(stream)
        if self._live_listings is not None:
            self._live_listings.pop(stream, None)

    async def _marks_of_whatever_stands_there(self, live: Keys) -> _Listing:
        """A listing without its names, of a live state that may be damaged in any way; all empty without one."""
        server = await self._client.at(live.checkpoint)
        try:
            (reply,) = await server.ask(partial(_marks_of, [live.checkpoint]))
        except StateError:  # it is of another type
            return _listing(_NO_MARKS)
        return _listing(reply)

    async def _promoted_before(self, stream: str) -> Promoted:
        """The answer of a promotion that was made although its reply was lost."""
        live = self._live(stream)

        def build(pipeline: Pipeline) -> None:
            pipeline.hget(live.checkpoint, "generation")
            pipeline.get(live.version)

        generation, version = await (await self._client.at(live.checkpoint)).ask(build)
        if generation is not None and generation.decode() == self._promoting.get(stream):
            return Promoted(int(version))
        raise StateError(f"stream {stream} has no shadow to promote: run `crashfold replay` again")

    async def _commit_in_parts(self, commit: Commit, parts: Iterator[Part]) -> Outcome:
        """Make the parts in order.

        One that fails lets all behind it meet a conflict. Those that an earlier try has made, its reply lost, are left
        out as soon as that is known.
        """
        made = 0
        calls = ((part, self._call(commit, part)) for part in parts if part.number > made or part.is_last)
        async with aclosing(in_turn(self._client, self._commit_script, calls)) as replies:
            async for part, reply in replies:
                match reply:
                    case [b"applied" | b"duplicate", _] if not part.is_last:
                        made = part.number
                    case [b"conflict", generation, next_offset, commit_id] if (
                        found := parts_made(commit, generation, next_offset, commit_id)
                    ) is not None and not (part.is_last and found >= part.number):
                        if found < part.number:
                            raise StoreUnavailable("Redis has lost a part of a rebuild's commit; it is made again")
                        made = found
                    case _:
                        return self._outcome(commit, reply)
        raise AssertionError("the last part of a commit has an outcome")


_MARKS: Final = ("generation", "keys_created", "next_offset", "commit", "aggregates")


_COUNT_DIGITS_MAX: Final = 18
_NO_MARKS: Final[list[bytes | None]] = [None] * len(_MARKS)


def _pattern(key_prefix: str) -> str:
    """The pattern of the prefixes of all streams."""
    return "*".join(glob_escaped(part) for part in key_prefix.split(STREAM_PLACE))


def _save_fault(info: Mapping[str, Any], stops: bool) -> str | None:
    """Why the server takes no writes."""
    if stops and info.get("rdb_last_bgsave_status", "ok") != "ok":
        return "its last snapshot failed, and stop-writes-on-bgsave-error is set (MISCONF)"
    if info.get("aof_last_write_status", "ok") != "ok":
        return "it could not write its append-only file (MISCONF)"
    return None


def _execute(command: Sequence[str | int], pipeline: Pipeline) -> None:
    pipeline.execute_command(*command)


def _marks_of(checkpoints: Sequence[str], pipeline: Pipeline) -> None:
    for key in checkpoints:
        pipeline.hmget(key, _MARKS)


def _marks(checkpoint: str, reply: list[bytes | None]) -> _Listing:
    """A listing without its names. Raises StateError for one that was not written to its end."""
    listing = _listing(reply)
    packing.offset(checkpoint, listing.next_offset)
    return listing


def _count(text: str) -> int | None:
    """The count that the commit script writes; None for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _COUNT_DIGITS_MAX else None


def _listing(reply: list[bytes | None]) -> _Listing:
    generation, keys_created, next_offset, commit_id, aggregates = (
        (part or b"").decode("utf-8", "surrogateescape") for part in reply
    )
    known = frozenset(packing.split_aggregates(aggregates))
    return _Listing(generation, keys_created, next_offset, commit_id, known, ())


def _tokens(checkpoints: Sequence[str], pipeline: Pipeline) -> None:
    for key in checkpoints:
        pipeline.hmget(key, ("generation", "next_offset", "commit"))


def _unlink(some: Sequence[str], pipeline: Pipeline) -> None:
    for key in some:  # one by one: in a cluster they do not share a slot
        pipeline.unlink(key)


def _named(names: Keys, found: Sequence[str], aggregates: frozenset[str]) -> tuple[str, ...]:
    """Of the keys found, by name, those of the aggregates: called like one, or so up to the first colon."""
    start = names.key("")
    return _of_aggregates((key.removeprefix(start) for key in found if key.startswith(start)), aggregates)


def _of_aggregates(names: Iterable[str], aggregates: frozenset[str]) -> tuple[str, ...]:
    """Those names that are called like an aggregate, or so up to the first colon."""
    return tuple(name for name in names if name.partition(":")[0] in aggregates)


def _stored(
    names: Keys, fields: dict[bytes, bytes], version: bytes | None, window: list[bytes], newest: int | None
) -> Stored:
    """Return the stored state. Raises StateError when its parts do not fit together, as after evictions."""
    checkpoint = packing.checkpoint(names.checkpoint, fields)
    if version is None or not version.isdigit():
        raise StateError(f"{names.version} is missing or no whole number: {packing.WAY_OUT}")
    begun = fields.get(b"begun", version)
    if begun != version:
        raise StateError(
            f"{names.version} is {version.decode()}, but {begun.decode('utf-8', 'replace')} commits were begun: one "
            f"broke off or ran twice; {packing.WAY_OUT}"
        )
    if fields.get(b"newest", b"") != (b"" if newest is None else b"%d" % newest):
        raise StateError(f"{names.key(keys.GAMES)} does not end with the newest game: {packing.WAY_OUT}")
    total_games = packing.total_games(names.checkpoint, fields)
    return Stored(checkpoint, int(version), packing.state(fields), window, total_games)


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


def _about(key: str, error: CrashfoldError) -> CrashfoldError:
    return StateError(f"{key} has another type: {packing.WAY_OUT}") if isinstance(error, StateError) else error


def _unexpected(reply: object) -> StateError:
    return StateError(f"a script answered {reply!r}: the server runs another version of it")
