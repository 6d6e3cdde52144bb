"""Promotion: the swap of a stream's shadow for its live state, and the listings of both that it takes.

Imports the client, listings and packing beside it, the ports' facts and schemas. `promote.lua` renames every key of the
shadow, so all of them have to be known, and what the live state has beyond them is removed. An engine may create keys
meanwhile: then the script answers `moved`, nothing has changed, and the listing is brought up to date (ADR 40).
"""

from collections.abc import Sequence
from typing import Final

from redis.asyncio.client import Pipeline

from crashfold.engine.adapters.redis import packing
from crashfold.engine.adapters.redis.client import Call, RedisClient, Script, glob_escaped
from crashfold.engine.adapters.redis.cluster import RedisCluster
from crashfold.engine.adapters.redis.errors import unexpected
from crashfold.engine.adapters.redis.listings import NOTHING, TRIES_MAX, KeyListing, Listings, of_aggregates
from crashfold.engine.errors import StateError, StoreRefused
from crashfold.engine.ports import Behind, Commit, Promoted
from crashfold.schemas import keys
from crashfold.schemas.keys import STREAM_PLACE, Keys

PROMOTE: Final = "promote"


class Promotion:
    """Promotes the shadows of one rebuild, and knows which keys they and the live states have."""

    def __init__(self, client: RedisClient | RedisCluster, key_prefix: str) -> None:
        self._client = client
        self._key_prefix = key_prefix
        self._script = Script.named(PROMOTE)
        self._listings = Listings(client, key_prefix)
        self._written: dict[str, set[str]] = {}
        """By stream the names of all keys of its shadow, where this rebuild wrote the whole of it."""
        self._live_listings: dict[str, KeyListing] | None = None
        """By stream the keys of its live state: listed once for all streams that are promoted."""
        self._promoted: set[str] = set()
        """Streams whose keys are listed one by one, because promoting them was tried before."""
        self._left_over: dict[str, list[str]] | None = None
        """By stream the keys of shadows that others left behind: listed once for all streams that are cleared."""
        self._cleared: set[str] = set()
        self._promoting: dict[str, str] = {}
        """The generation whose promotion was last asked for, per stream: its reply may have been lost."""

    def wrote(self, commits: Sequence[Commit]) -> None:
        """Note the keys that these commits of shadows have written."""
        for commit in commits:
            if commit.expected is None:
                self._written[commit.stream] = {*commit.delta}
            elif commit.stream in self._written:
                self._written[commit.stream].update(commit.delta)

    def cleared(self, streams: Sequence[str]) -> None:
        """Note that the shadows of these streams have no keys any more."""
        for stream in streams:
            self._promoting.pop(stream, None)
            self._written.pop(stream, None)

    async def promote(self, stream: str, *, allow_back: bool = False) -> Promoted | Behind:
        """See `ShadowStore`. Raises StateError when there is no shadow, StoreRefused when keys keep being created.

        May be called again after StoreUnavailable: when the swap was made and its reply lost, it says so.
        """
        for _ in range(TRIES_MAX):
            shadow = await self._shadow_listing(stream)
            if shadow is None:
                return await self._promoted_before(stream)
            call = await self._call(stream, shadow, allow_back)
            self._promoting[stream] = shadow.generation
            (reply,) = await self._client.run(self._script, [call])
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
            raise unexpected(reply)
        raise StoreRefused(f"the keys of stream {stream} change faster than they can be listed: try again")

    def _live(self, stream: str) -> Keys:
        return Keys.of(self._key_prefix, stream)

    async def shadow_keys(self, streams: Sequence[str]) -> list[str]:
        """All keys of the shadows of these streams. With many streams the first call lists those of all, for the calls
        that follow; who writes a shadow behind that is a rival, and a conflict of the first commit says so."""
        starts = [self._live(stream).shadow.key("") for stream in streams]
        servers = await self._client.servers()
        if STREAM_PLACE in self._key_prefix and self._left_over is None:
            self._left_over = {}
            pattern = f"{self._listings.pattern}:{keys.SHADOW}:*"
            for key in [key for server in servers for key in await server.scan(pattern)]:
                self._left_over.setdefault(keys.stream_of(self._key_prefix, key), []).append(key)
        elif self._left_over is None or not (self._written.keys() | self._cleared).isdisjoint(streams):
            scans = [await self._listings.found(server, starts) for server in servers]
            return [key for scan in scans for found in scan.values() for key in found]
        self._cleared.update(streams)
        return [key for stream in streams for key in self._left_over.pop(stream, [])]

    async def _call(self, stream: str, shadow: KeyListing, allow_back: bool) -> Call:
        """The call of `promote.lua` with every key that it touches."""
        names, live = self._live(stream).shadow, self._live(stream)
        marks = await self._live_listing(stream)
        left_over = set(of_aggregates(marks.names, marks.aggregates | shadow.aggregates)) - set(shadow.names)
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

    async def _shadow_listing(self, stream: str) -> KeyListing | None:
        """The keys of the shadow: those that were written, or, where that is not known, those that are found."""
        written = self._written.get(stream)
        if written is None:
            return await self._listings.of(self._live(stream).shadow)
        marks = await self._listings.marks(self._live(stream).shadow)
        if marks is None:
            return None
        return marks.with_names(of_aggregates(sorted(written), marks.aggregates))

    async def _live_listing(self, stream: str) -> KeyListing:
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
                return self._live_listings.get(stream, NOTHING)
        marks = await self._listings.marks_of_whatever_stands_there(live)
        start = live.key("")
        found = await (await self._client.at(live.checkpoint)).scan(glob_escaped(start) + "*")
        listing = marks.with_names(key.removeprefix(start) for key in found)
        if self._live_listings is not None:
            self._live_listings[stream] = listing
        return listing

    async def _knows_new_keys(self, stream: str, shadow: KeyListing) -> bool:
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
        marks = await self._listings.marks_of_whatever_stands_there(live)
        known, now = before.created, marks.created
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
        self._live_listings[stream] = marks.with_names((*before.names, *new))
        return True

    async def _list_all_live(self) -> dict[str, KeyListing]:
        """By stream the listing of its live state, of every stream that has a key."""
        pattern = self._listings.pattern
        marks: dict[str, KeyListing] = {}
        found: dict[str, list[str]] = {}
        shared: dict[str, str] = {}  # a name is one object, however many streams have it
        for server in await self._client.servers():
            for key in await server.scan(f"{pattern}:{keys.CHECKPOINT}"):
                stream = keys.stream_of(self._key_prefix, key)
                marks[stream] = await self._listings.marks_of_whatever_stands_there(self._live(stream))
            for key in await server.scan(f"{pattern}:*"):
                stream = keys.stream_of(self._key_prefix, key)
                name = key.removeprefix(self._live(stream).key(""))
                if name.partition(":")[0] not in keys.RESERVED:
                    found.setdefault(stream, []).append(shared.setdefault(name, name))
        return {
            stream: marks.get(stream, NOTHING).with_names(found.get(stream, ()))
            for stream in marks.keys() | found.keys()
        }

    def _forget_listings(self, stream: str) -> None:
        """List the keys of the stream again when it is promoted again."""
        self._written.pop(stream, None)
        self._promoted.add(stream)
        if self._live_listings is not None:
            self._live_listings.pop(stream, None)

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
