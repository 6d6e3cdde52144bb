"""Which keys a stream has: `Listings`. Keys are looked for, since no directory of them could be believed (ADR 40).

Imports the client and the packing beside it, and schemas. An engine may create keys while they are listed. So a listing
carries `keys_created`, the count that every commit raises which creates one: whoever uses the listing compares it.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

import msgspec
from redis.asyncio.client import Pipeline

from crashfold.engine.adapters.redis import packing
from crashfold.engine.adapters.redis.client import RedisClient, glob_escaped
from crashfold.engine.adapters.redis.cluster import RedisCluster, by_server
from crashfold.engine.errors import StateError
from crashfold.schemas.keys import STREAM_PLACE, Keys

TRIES_MAX: Final = 10
"""How often the keys of a stream are listed again because a commit created one meanwhile. Each listing that fails has
met another new key, and a stream has few."""

_MARKS: Final = ("generation", "keys_created", "next_offset", "commit", "aggregates")
_COUNT_DIGITS_MAX: Final = 18


class KeyListing(msgspec.Struct, frozen=True):
    """The keys of a stream's aggregates by name, and what tells whether there are more by now."""

    generation: str
    keys_created: str
    next_offset: str
    commit: str
    aggregates: frozenset[str]
    names: tuple[str, ...]

    @classmethod
    def of(cls, marks: Sequence[bytes | None]) -> "KeyListing":
        """A listing without its names, by the marks in a checkpoint; all empty without one."""
        generation, created, next_offset, commit_id, aggregates = (
            (part or b"").decode("utf-8", "surrogateescape") for part in marks
        )
        names = frozenset(packing.split_aggregates(aggregates))
        return cls(generation, created, next_offset, commit_id, names, ())

    @property
    def created(self) -> int | None:
        """The count of keys that commits have created; None where it is none that the commit script has written."""
        text = self.keys_created
        return int(text) if text.isascii() and text.isdigit() and len(text) <= _COUNT_DIGITS_MAX else None

    def with_names(self, names: Iterable[str]) -> "KeyListing":
        """The same marks with these names."""
        return msgspec.structs.replace(self, names=tuple(names))


NOTHING: Final = KeyListing.of([None] * len(_MARKS))
"""The listing of a stream without a checkpoint."""


class Listings:
    """Lists the keys of streams by scans of the servers that have them."""

    def __init__(self, client: RedisClient | RedisCluster, key_prefix: str) -> None:
        self._client = client
        self._key_prefix = key_prefix

    @property
    def pattern(self) -> str:
        """The pattern of the prefixes of all streams."""
        return "*".join(glob_escaped(part) for part in self._key_prefix.split(STREAM_PLACE))

    async def of(self, names: Keys) -> KeyListing | None:
        """The keys of the aggregates that the checkpoint names; None without a checkpoint."""
        (listing,) = await self.of_each([names])
        return listing

    async def of_each(self, several: Sequence[Keys]) -> list[KeyListing | None]:
        """`of` each of these streams, by one scan of each server that has some.

        The checkpoints are read first: a key that is created behind the scan's back raises `keys_created`.
        """
        listings: dict[str, KeyListing] = {}
        by_checkpoint = {names.checkpoint: names for names in several}
        for server, places in (await by_server(self._client, by_checkpoint)).items():
            replies = await server.ask(partial(_marks_of, places))
            marks = {place: _marks(place, reply) for place, reply in zip(places, replies, strict=True) if reply[0]}
            found = await self.found(server, [by_checkpoint[place].key("") for place in marks])
            for place, marked in marks.items():
                names = by_checkpoint[place]
                listed = _named(names, found[names.key("")], marked.aggregates)
                listings[place] = marked.with_names(listed)
        return [listings.get(names.checkpoint) for names in several]

    async def marks(self, names: Keys) -> KeyListing | None:
        """A listing without its names; None without a checkpoint."""
        server = await self._client.at(names.checkpoint)
        (reply,) = await server.ask(partial(_marks_of, [names.checkpoint]))
        return _marks(names.checkpoint, reply) if reply[0] else None

    async def marks_of_whatever_stands_there(self, live: Keys) -> KeyListing:
        """A listing without its names, of a live state that may be damaged in any way; all empty without one."""
        server = await self._client.at(live.checkpoint)
        try:
            (reply,) = await server.ask(partial(_marks_of, [live.checkpoint]))
        except StateError:  # it is of another type
            return NOTHING
        return KeyListing.of(reply)

    async def found(self, server: RedisClient, starts: Sequence[str]) -> dict[str, list[str]]:
        """By start, the server's keys that begin so; no start begins another of the same length."""
        found: dict[str, list[str]] = {start: [] for start in starts}
        if not found:
            return found
        pattern = glob_escaped(starts[0]) + "*" if len(found) == 1 else f"{self.pattern}:*"
        lengths = {len(start) for start in starts}
        for key in await server.scan(pattern):
            for length in lengths:
                if key[:length] in found:
                    found[key[:length]].append(key)
        return found


def of_aggregates(names: Iterable[str], aggregates: frozenset[str]) -> tuple[str, ...]:
    """Those names that are called like an aggregate, or so up to the first colon."""
    return tuple(name for name in names if name.partition(":")[0] in aggregates)


def _named(names: Keys, found: Sequence[str], aggregates: frozenset[str]) -> tuple[str, ...]:
    """Of the keys found, by name, those of the aggregates: called like one, or so up to the first colon."""
    start = names.key("")
    return of_aggregates((key.removeprefix(start) for key in found if key.startswith(start)), aggregates)


def _marks_of(checkpoints: Sequence[str], pipeline: Pipeline) -> None:
    for key in checkpoints:
        pipeline.hmget(key, _MARKS)


def _marks(checkpoint: str, reply: list[bytes | None]) -> KeyListing:
    """A listing without its names. Raises StateError for one that was not written to its end."""
    listing = KeyListing.of(reply)
    packing.offset(checkpoint, listing.next_offset)
    return listing
