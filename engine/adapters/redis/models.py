"""The read model as `verify` reads it: every key of a stream, all of one version.

Imports the client, listings and packing beside it, the ports' facts and schemas.
"""

from collections.abc import Sequence
from typing import Final

from redis.asyncio.client import Pipeline

from crashfold.engine.adapters.redis import packing
from crashfold.engine.adapters.redis.client import RedisClient
from crashfold.engine.adapters.redis.cluster import RedisCluster
from crashfold.engine.adapters.redis.listings import TRIES_MAX, KeyListing, Listings
from crashfold.engine.adapters.redis.loading import of_another_type, stored
from crashfold.engine.errors import CrashfoldError, StateError, StoreRefused
from crashfold.engine.ports import Stored
from crashfold.projections.delta import SortedSet, Value
from crashfold.schemas import keys
from crashfold.schemas.keys import Keys

_READS: Final = {
    b"string": lambda pipeline, key: pipeline.get(key),
    b"hash": lambda pipeline, key: pipeline.hgetall(key),
    b"list": lambda pipeline, key: pipeline.lrange(key, 0, -1),
    b"zset": lambda pipeline, key: pipeline.zrange(key, 0, -1, withscores=True),
}
"""How to read a key of each type whole."""


async def read_models(
    client: RedisClient | RedisCluster, listings: Listings, several: Sequence[Keys]
) -> list[tuple[Stored, dict[str, Value]] | None]:
    """The checkpoint and every key of each of these streams, each of a version of its own; None where there is no
    checkpoint. Raises StateError when a key cannot be read, StoreRefused when keys keep being created."""
    found: dict[Keys, tuple[Stored, dict[str, Value]] | None] = {}
    due = list(several)
    for _ in range(TRIES_MAX):
        changed = []
        for names, listing in zip(due, await listings.of_each(due), strict=True):
            found[names] = None if listing is None else await _read(client, names, listing)
            if listing is not None and found[names] is None:
                changed.append(names)
        if not changed:
            return [found[names] for names in several]
        due = changed
    raise StoreRefused(f"the keys under {due[0].prefix} change faster than they can be listed: try again")


async def _read(
    client: RedisClient | RedisCluster, names: Keys, listing: KeyListing
) -> tuple[Stored, dict[str, Value]] | None:
    """Everything that is listed, of one version; None when the list is out of date."""
    server = await client.at(names.checkpoint)
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
            raise of_another_type(key, reply)
        if reply is not None and reply != [] and reply != {}:
            model[key.removeprefix(names.key(""))] = packing.value(kind, reply)
    window = model.get(keys.GAMES, SortedSet({}))
    if not isinstance(window, SortedSet):
        raise StateError(f"{names.key(keys.GAMES)} is no sorted set: {packing.WAY_OUT}")
    newest = next(reversed(window.members), None)
    return stored(names, fields, version, list(window.members.values()), newest), model
