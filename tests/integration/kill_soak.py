"""An engine that is killed again and again while records arrive, and what must be true all the same.

`python -m tests.integration.kill_soak --kills 200 --games 200000 --seed 1` runs it on servers of its own and prints one
line. The same seed sends the same records and draws the same moments; where exactly a kill hits is the machine's.
"""

import argparse
import time
import uuid
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

from tests.support.deployment import PREDICATES, Deployment, Watcher, eventually, expected, traffic
from tests.support.servers import kafka_cluster, redis_server

STREAMS: Final = ("crash", "table-2", "table-3")
PARTITIONS: Final = 2
KEY_PREFIX: Final = "analytics:{stream}"
SETTINGS: Final[dict[str, dict[str, object]]] = {
    "projections": {**PREDICATES, "window_games": 1_000},
    "engine": {"batch_games_max": 500},
}


class Survived(msgspec.Struct, frozen=True):
    """What a run came to. Every stream was equal to the plain recomputation, and every dead letter was there."""

    kills: int
    lives_that_committed: int
    records: int
    games: int
    versions: int
    dead_letters: int
    dead_letters_again: int
    reads: int
    duration_s: float

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.lives_that_committed} of them after commits; {self.records} records, "
            f"{self.games} games, {self.versions} versions; {self.dead_letters} dead letters, handed over "
            f"{self.dead_letters_again} times again; {self.reads} reads without a step back; "
            f"verify equal; {self.duration_s:.0f} s"
        )


def soak(deployment: Deployment, *, kills: int, records: int, seed: int) -> Survived:
    """Kill an engine `kills` times while `records` arrive, let the last one finish, and look at what is there."""
    began_s = time.monotonic()
    random, messages = Random(seed), traffic(seed, records, STREAMS, PARTITIONS)
    wanted = expected(messages, deployment.projections)
    committed = 0
    with Watcher(deployment, STREAMS) as watcher, deployment.flow(messages, per_second=2_000) as flow:
        for life in range(1, kills + 1):
            flow.release(records * life // kills)
            committed += _live_and_die(deployment, random, life)
        flow.finish()
        deployment.caught_up("--kafka.group_id", f"{deployment.topic}-last")
    verified = deployment.verified()
    assert {stream: one["games"] for stream, one in verified.items()} == {
        stream: len(games) for stream, games in wanted.games.items()
    }
    letters = deployment.dead_letters()
    assert set(letters) == wanted.letters
    return Survived(
        kills=kills,
        lives_that_committed=committed,
        records=records,
        games=sum(len(games) for games in wanted.games.values()),
        versions=sum(one["version"] for one in verified.values()),
        dead_letters=len(set(letters)),
        dead_letters_again=len(letters) - len(set(letters)),
        reads=watcher.reads,
        duration_s=time.monotonic() - began_s,
    )


def _live_and_die(deployment: Deployment, random: Random, life: int) -> bool:
    """One engine from start to kill; whether it committed.

    Every other one is killed at a moment counted from its start, so that start-up, joining and loading are hit; the
    rest at a moment counted from its first commit. Each has a consumer group of its own: a group waits for a member
    that was killed, and nearly no life would get to read anything.
    """
    before = _versions(deployment)
    with deployment.engine("--kafka.group_id", f"{deployment.topic}-{life}") as engine:
        if random.random() < 0.5:
            moment_s = time.monotonic() + random.uniform(0.05, 2)
        else:
            engine.until(lambda: _versions(deployment) > before, "a first commit")
            moment_s = time.monotonic() + random.uniform(0, 0.5)
        eventually(lambda: time.monotonic() >= moment_s, "the moment of the kill")
        assert engine.process.poll() is None, f"it ended with {engine.process.returncode}: {engine.said[-3000:]}"
        engine.kill()
    return _versions(deployment) > before


def _versions(deployment: Deployment) -> int:
    return sum(deployment.version(stream) for stream in STREAMS)


def main() -> None:
    """The long proof, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--games", type=int, default=200_000, help="how many records arrive")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    with TemporaryDirectory() as directory, kafka_cluster() as kafka, redis_server() as redis:
        deployment = Deployment(
            Path(directory),
            kafka.bootstrap_servers,
            redis.url,
            f"games-{uuid.uuid4().hex[:8]}",
            key_prefix=KEY_PREFIX,
            settings=SETTINGS,
        )
        deployment.create_topic(PARTITIONS)
        print(soak(deployment, kills=chosen.kills, records=chosen.games, seed=chosen.seed))


if __name__ == "__main__":
    main()
