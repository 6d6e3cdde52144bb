"""A stream's stored state as a restart reads it: of one version, and only when its parts fit together.

Imports the client and the packing beside it, the ports' facts and schemas.
"""

from redis.asyncio.client import Pipeline

from crashfold.engine.adapters.redis import packing
from crashfold.engine.adapters.redis.client import RedisClient
from crashfold.engine.adapters.redis.cluster import RedisCluster
from crashfold.engine.errors import CrashfoldError, StateError
from crashfold.engine.ports import Stored
from crashfold.schemas import keys
from crashfold.schemas.keys import Keys


async def load(client: RedisClient | RedisCluster, names: Keys) -> Stored | None:
    """Read the stored state of a stream, by one MULTI; None when it has no checkpoint.

    Raises StateError, naming the key, when it cannot be read.
    """
    games = names.key(keys.GAMES)

    def build(pipeline: Pipeline) -> None:
        pipeline.hgetall(names.checkpoint)
        pipeline.get(names.version)
        pipeline.zrange(games, 0, -1)
        pipeline.zrange(games, -1, -1, withscores=True)

    replies = await (await client.at(names.checkpoint)).ask_at_once(build)
    for key, reply in zip((names.checkpoint, names.version, games, games), replies, strict=True):
        if isinstance(reply, CrashfoldError):
            raise of_another_type(key, reply)
    fields, version, members, last = replies
    newest = int(last[0][1]) if last else None
    return stored(names, fields, version, members, newest) if fields else None


def stored(
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
    made = fields.get(b"made", version)
    if made != version:
        raise StateError(
            f"{names.version} is {version.decode()}, but the last commit made {made.decode('utf-8', 'replace')}: one "
            f"ran twice; {packing.WAY_OUT}"
        )
    if fields.get(b"newest", b"") != (b"" if newest is None else b"%d" % newest):
        raise StateError(f"{names.key(keys.GAMES)} does not end with the newest game: {packing.WAY_OUT}")
    total_games = packing.total_games(names.checkpoint, fields)
    return Stored(checkpoint, int(version), packing.state(fields), window, total_games)


def of_another_type(key: str, error: CrashfoldError) -> CrashfoldError:
    """The error that names the key, where Redis says that it is of another type; any other error as it is."""
    return StateError(f"{key} has another type: {packing.WAY_OUT}") if isinstance(error, StateError) else error
