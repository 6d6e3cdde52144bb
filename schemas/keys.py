"""The only place that formats a Redis key, a hash field or a channel name.

A projection names its keys by what follows the prefix (`series:min:2`); `Keys` puts the prefix of a stream in front.
With a prefix that contains `{stream}` every key of a stream carries the hash tag of its name, so that on Redis Cluster
they share a slot.
"""

from typing import Final

import msgspec

from crashfold.schemas.predicate import Predicate

STREAM_PLACE: Final = "{stream}"

SAMPLES: Final = "samples"
GAMES: Final = "games"
GAPS: Final = "gaps"
LONGEST_RUN: Final = "longest_run"
HIGHEST_GAME: Final = "highest_game"
"""The fields of the records of a predicate."""
VERSION: Final = "version"
CHECKPOINT: Final = "checkpoint"
SHADOW: Final = "shadow"
STAGE: Final = "stage"
RESERVED: Final = frozenset(
    (
        *(VERSION, CHECKPOINT, SHADOW, "cache", "limit", "manifest", "updates", "rights"),
        *("engine", "rebuild", "verified", "keys", STAGE),
    )
)
"""Names that no aggregate may have."""


def occurrences(predicate: Predicate) -> str:
    """Hash of `count`, `total_games`, `first_game_time`, `last_game_time` and one count per sample."""
    return f"occurrences:{predicate}"


def intervals(predicate: Predicate) -> str:
    """Hash of buckets."""
    return f"intervals:{predicate}"


def series(predicate: Predicate) -> str:
    """List of series, newest first."""
    return f"series:{predicate}"


def last_game(predicate: Predicate) -> str:
    """String: the newest match."""
    return f"last_game:{predicate}"


def last_games(predicate: Predicate) -> str:
    """List of the newest matches, newest first."""
    return f"last_games:{predicate}"


def records(predicate: Predicate) -> str:
    """Hash of `longest_run` and `highest_game`."""
    return f"records:{predicate}"


BY_PREDICATE: Final = (occurrences, intervals, series, last_game, last_games, records)
"""The names of the keys that each predicate has."""


def sample_games(games: int) -> str:
    """The field of the sample of the last `games` games."""
    return f"games:{games}"


def sample_hours(hours: int) -> str:
    """The field of the sample of the last `hours` hours."""
    return f"hours:{hours}"


def bucket(start_s: int) -> str:
    """The field of the bucket that starts at `start_s` epoch seconds."""
    return f"bucket_{start_s}"


class Keys(msgspec.Struct, frozen=True):
    """The keys of one stream. `prefix` has the stream's name in it already; make it with `Keys.of`."""

    prefix: str

    @classmethod
    def of(cls, key_prefix: str, stream: str) -> "Keys":
        """The keys of `stream` under the setting `redis.key_prefix`."""
        return cls(key_prefix.replace(STREAM_PLACE, "{" + stream + "}"))

    def key(self, name: str) -> str:
        """The whole key for what a projection or this module names `name`."""
        return f"{self.prefix}:{name}"

    @property
    def version(self) -> str:
        """String: counts the commits of the stream."""
        return self.key(VERSION)

    @property
    def checkpoint(self) -> str:
        """Hash: `next_offset` and all else that a restart needs."""
        return self.key(CHECKPOINT)

    @property
    def updates(self) -> str:
        """The channel that carries an `Update` after each commit."""
        return self.key("updates")

    def cache(self, version: int, request: str) -> str:
        """String: a computed answer of one version."""
        return self.key(f"cache:{version}:{request}")

    @property
    def rights(self) -> str:
        """A key with which the engine finds out what it may do; it is there for the length of a script."""
        return self.key("rights")

    @property
    def shadow(self) -> "Keys":
        """The same keys of the generation that a replay builds beside the live one."""
        return Keys(self.key(SHADOW))

    @property
    def stage(self) -> "Keys":
        """Those keys that a big commit writes in parts, until they take the place of the live ones."""
        return Keys(self.key(STAGE))

    @property
    def staged(self) -> str:
        """String: a JSON list of the names of the keys of the stage."""
        return self.key(STAGE)


def manifest(key_prefix: str, topic: str, partition: int) -> str:
    """Hash: where a restart begins to read the partition. Belongs to no stream, so it carries no stream's name."""
    return f"{common_prefix(key_prefix)}:manifest:{topic}:{partition}"


def rate_limit(key_prefix: str, client: str) -> str:
    """String: when a client of the API has its whole rate again. Belongs to no stream."""
    return f"{common_prefix(key_prefix)}:limit:{client}"


def report(key_prefix: str, kind: str, name: str) -> str:
    """String: what an engine, a rebuild or `verify` (the kind) told last of the engine or stream of that name."""
    return f"{common_prefix(key_prefix)}:{kind}:{name}"


def reports(key_prefix: str) -> str:
    """Set: `<kind>:<name>` of every report that there may be, so that nobody has to scan for them."""
    return f"{common_prefix(key_prefix)}:keys"


def stream_of(key_prefix: str, key: str) -> str:
    """The stream whose key that is, under a setting with a place for it; some text when it is no stream's key."""
    start = key_prefix.partition(STREAM_PLACE)[0]
    return key[len(start) + 1 :].partition("}")[0]


def common_prefix(key_prefix: str) -> str:
    """Return the prefix of the keys of all streams."""
    return key_prefix.partition(STREAM_PLACE)[0].rstrip(":") or "crashfold"
