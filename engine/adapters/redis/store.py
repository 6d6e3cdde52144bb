"""The read model and its checkpoints on Redis or Valkey: `RedisStore`, and `RedisShadowStore` for a rebuild.

Imports the modules beside it, the ports' facts and schemas. A stream's state changes by one script call
and no other way, so what stands in Redis is always of one version. Whether there is one server or a cluster shows here
only in that every question goes to the server that has the key (`at`).
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Final, Self

from redis.asyncio.client import Pipeline

from crashfold.engine.adapters.redis import packing
from crashfold.engine.adapters.redis.checks import RedisChecks
from crashfold.engine.adapters.redis.client import Call, RedisClient, Script
from crashfold.engine.adapters.redis.cluster import RedisCluster, by_server
from crashfold.engine.adapters.redis.errors import unexpected
from crashfold.engine.adapters.redis.listings import Listings
from crashfold.engine.adapters.redis.loading import load, of_another_type
from crashfold.engine.adapters.redis.models import read_models
from crashfold.engine.adapters.redis.parts import LAST_BYTES_MAX, WRITE_BYTES, Part, parts_in_turn, parts_made
from crashfold.engine.adapters.redis.promotion import Promotion
from crashfold.engine.adapters.redis.reports import RedisReports
from crashfold.engine.adapters.redis.staging import Rivals, clear_stages, commit_staged, in_turn
from crashfold.engine.adapters.redis.usage import RedisUsage
from crashfold.engine.adapters.redis.watch import Watch
from crashfold.engine.errors import (
    StateError,
    StoreUnavailable,
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
from crashfold.projections.delta import Value
from crashfold.schemas import keys
from crashfold.schemas.keys import Keys
from crashfold.schemas.predicate import Predicate

TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 2.0
BULK_TIMEOUT_S: Final = 30.0
"""For a call that reads the whole state of a stream."""

COMMIT: Final = "commit"
UNLINK_KEYS: Final = 500
"""Keys a call removes."""


class RedisStore:
    """Implements `StateStore` and `StateReader`. Entering does nothing, leaving closes the connections.

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
        self._rivals = Rivals()
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

    def checks(self) -> RedisChecks:
        """Return the checks of the user's rights and of the servers, over the same connections."""
        return RedisChecks(self._client, self._key_prefix)

    def usage(self, predicates: Sequence[Predicate]) -> RedisUsage:
        """Return the memory usage of the servers and of a stream's keys, over the same connections."""
        return RedisUsage(self._client, self._key_prefix, predicates)

    def reports(self) -> RedisReports:
        """Return the reports of engines and commands, over the same connections."""
        return RedisReports(self._client, self._key_prefix)

    async def load(self, stream: str) -> Stored | None:
        """See `StateStore`. Raises StateError, naming the key, when what is stored cannot be read."""
        self._stages_cleared.discard(stream)  # others may have had it meanwhile
        return await load(self._client, self._keys(stream))

    async def check_rights(self, stream: str) -> None:
        """See `StateStore`."""
        await self.checks().writing(self._keys(stream), Keys.of(self._key_prefix, stream))
        self._rights_are_known = True

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
                reply = await commit_staged(self._client, self._commit_script, names, commit, last_bytes, self._rivals)
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
            raise of_another_type(key, error) from None
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
        """See `StateReader`. Raises StateError when a key cannot be read, StoreRefused when keys keep being created."""
        (read,) = await self.read_models([stream])
        return read

    async def read_models(self, streams: Sequence[str]) -> list[tuple[Stored, dict[str, Value]] | None]:
        """See `StateReader`. Raises what `read_model` does."""
        listings = Listings(self._client, self._key_prefix)
        return await read_models(self._client, listings, [self._keys(stream) for stream in streams])

    def _keys(self, stream: str) -> Keys:
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
        raise unexpected(reply)


class RedisShadowStore(RedisStore):
    """Implements `ShadowStore`, under keys of its own. Made by `RedisStore.shadow`; that store closes the connections.

    Nobody reads a shadow before it is promoted. So a big commit goes in parts, between which Redis serves others.
    """

    def __init__(self, client: RedisClient | RedisCluster, key_prefix: str, *, rights_are_known: bool = False) -> None:
        self._client = client
        self._key_prefix = key_prefix
        self._commit_script = Script.named(COMMIT)
        self._rights_are_known = rights_are_known
        self._whole_values_max = packing.WHOLE_VALUES_MAX
        self._rivals = Rivals()
        self._stages_cleared = set()
        self._promotion = Promotion(client, key_prefix)

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
        self._promotion.wrote(commits)
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
        for server, found in (await by_server(self._client, await self._promotion.shadow_keys(streams))).items():
            for start in range(0, len(found), UNLINK_KEYS):
                await server.ask(partial(_unlink, found[start : start + UNLINK_KEYS]))
        self._promotion.cleared(streams)

    async def promote(self, stream: str, *, allow_back: bool = False) -> Promoted | Behind:
        """See `ShadowStore`. Raises what `Promotion.promote` does."""
        return await self._promotion.promote(stream, allow_back=allow_back)

    def _keys(self, stream: str) -> Keys:
        return super()._keys(stream).shadow

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


def _tokens(checkpoints: Sequence[str], pipeline: Pipeline) -> None:
    for key in checkpoints:
        pipeline.hmget(key, ("generation", "next_offset", "commit"))


def _unlink(some: Sequence[str], pipeline: Pipeline) -> None:
    for key in some:  # one by one: in a cluster they do not share a slot
        pipeline.unlink(key)
