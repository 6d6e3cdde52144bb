"""Somebody who looks at the keys in Redis, as a reader without the API would, and compares them with the truth.

Imports the truth and the world. What is always true: what is compared was read in one transaction on one server.
"""

import time
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError

from crashfold.projections.delta import SortedSet, Value
from tests.soak.readers import Findings
from tests.soak.truth import Truth
from tests.soak.world import STREAMS, World

LOOK_AGAIN_S: Final = 0.05


class Watcher:
    """Looks at every stream in turn: the totals always, every key when told to."""

    def __init__(self, world: World, truth: Truth, findings: Findings) -> None:
        self._world = world
        self._truth = truth
        self._findings = findings
        self._seen: dict[str, tuple[int, int, int]] = {}

    def look(self) -> None:
        """Look at every stream once; a Redis that does not answer is looked at another time."""
        for stream in STREAMS:
            try:
                self._look(stream)
            except (RedisError, OSError):
                self._findings.seen["looks at a redis that was away"] += 1

    def compare(self) -> None:
        """Compare every key of every stream with the plain recomputation."""
        for stream in STREAMS:
            try:
                self._compare(stream)
            except (RedisError, OSError):
                self._findings.seen["looks at a redis that was away"] += 1

    def stands(self, stream: str) -> tuple[int, int]:
        """Where the stream stands, and its version; 0 when there is none or nobody answers."""
        key = self._world.deployment.key
        try:
            with self._world.primary.client() as redis:
                offset, version = (
                    redis.hget(key("checkpoint", stream), "next_offset"),
                    redis.get(key("version", stream)),
                )
        except (RedisError, OSError):
            return 0, 0
        return int(offset or 0), int(version or 0)

    def _look(self, stream: str) -> None:
        key, losses = self._world.deployment.key, self._world.losses
        predicates = self._world.deployment.projections.predicates
        with self._world.primary.client(5) as redis:
            pipeline = redis.pipeline(transaction=True)
            pipeline.get(key("version", stream))
            pipeline.hmget(key("checkpoint", stream), "next_offset", "total_games")
            pipeline.zcard(key("games", stream))
            for predicate in predicates:
                pipeline.hget(key(f"occurrences:{predicate}", stream), "total_games")
            version, (next_offset, total), window, *totals = pipeline.execute()
        if next_offset is None:
            return
        version, next_offset, total = int(version or 0), int(next_offset), int(total)
        said = f"{stream} in redis, version {version} at offset {next_offset}, has {total} games"
        if not self._truth.wait_until_known(stream, next_offset):
            self._findings.tell(f"{said}; the topic has no such offset")
            return
        self._findings.seen["looks at the keys"] += 1
        expected = self._truth.total(stream, next_offset)
        if total != expected:
            self._findings.tell(f"{said}; the topic {expected}")
        if {int(one or 0) for one in totals} != {total} or window != min(total, self._truth.settings.window_games):
            self._findings.tell(f"{said}, and by key {totals}, {window} in its window")
        before = self._seen.get(stream)
        is_same_history = before is not None and before[0] == losses == self._world.losses
        if before is not None and is_same_history and (version < before[1] or total < before[2]):
            self._findings.tell(f"{said}; it was at version {before[1]} with {before[2]}")
        self._seen[stream] = losses, version, total

    def _compare(self, stream: str) -> None:
        key = self._world.deployment.key
        with self._world.primary.client(10) as redis:
            if not redis.exists(key("checkpoint", stream)):
                return
            next_offset, found = self._read(redis, stream)
        if not self._truth.wait_until_known(stream, next_offset):
            return
        expected = self._truth.read_model(stream, next_offset)
        self._findings.seen["comparisons of all keys"] += 1
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                said = f"{stream} at offset {next_offset}: {name} is"
                self._findings.tell(f"{said} {str(found.get(name))[:300]} instead of {str(expected.get(name))[:300]}")

    def _read(self, redis: Redis, stream: str) -> tuple[int, dict[str, Value]]:
        """Up to which offset, and every key of the aggregates, of one moment."""
        prefix = self._world.deployment.key("", stream)
        while True:
            names = sorted(name.decode() for name in redis.scan_iter(match=f"{_escaped(prefix)}*", count=1_000))
            names = [name for name in names if _is_aggregate(name.removeprefix(prefix))]
            kinds = [redis.type(name) for name in names]
            pipeline = redis.pipeline(transaction=True)
            pipeline.hget(f"{prefix}checkpoint", "next_offset")
            for name, kind in zip(names, kinds, strict=True):
                _ask(pipeline, name, kind)
            next_offset, *values = pipeline.execute()
            found = {
                name.removeprefix(prefix): _value(value)
                for name, value in zip(names, values, strict=True)
                if value is not None
            }
            if next_offset is not None and self._truth.wait_until_known(stream, int(next_offset)):
                # A key may have come between the listing and the reading.
                missing = self._truth.read_model(stream, int(next_offset)).keys() - found.keys()
                if not missing or redis.hget(f"{prefix}checkpoint", "next_offset") == next_offset:
                    return int(next_offset), found
            time.sleep(LOOK_AGAIN_S)


def _is_aggregate(name: str) -> bool:
    return name.split(":")[0] in (
        "occurrences",
        "samples",
        "intervals",
        "series",
        "last_game",
        "last_games",
        "records",
        "games",
        "gaps",
    )


def _ask(pipeline: Any, name: str, kind: bytes | str) -> None:
    match kind:
        case b"hash":
            pipeline.hgetall(name)
        case b"list":
            pipeline.lrange(name, 0, -1)
        case b"zset":
            pipeline.zrange(name, 0, -1, withscores=True)
        case _:
            pipeline.get(name)


def _value(read: Any) -> Value:
    """What redis-py read, as the value that the plain recomputation makes."""
    if isinstance(read, dict):
        return {field.decode(): value for field, value in read.items()}
    if isinstance(read, list) and read and isinstance(read[0], tuple | list):
        return SortedSet({int(score): member for member, score in read})
    return read if isinstance(read, bytes) else list(read)


def _escaped(prefix: str) -> str:
    """The prefix in a pattern of SCAN."""
    return "".join(f"\\{letter}" if letter in "*?[]\\^" else letter for letter in prefix)
