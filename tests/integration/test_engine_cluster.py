"""The engine, every command and the API on a Redis Cluster of three, while slots move and a primary dies."""

from collections.abc import Callable
from contextlib import suppress

import anyio
import anyio.to_thread
import pytest

from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.errors import Unavailable
from tests.support.api_server import Writer, api_server
from tests.support.deployment import Deployment, NewDeployment, Watcher, expected, traffic
from tests.support.games import games_at
from tests.support.servers import RedisCluster

STREAMS = [f"table-{number}" for number in range(20)]
PARTITIONS = 4
QUICK = {"redis": {"timeout_ms": 1_000}}


@pytest.fixture
def on_cluster(new_deployment: NewDeployment) -> Callable[[RedisCluster], Deployment]:
    return lambda cluster: new_deployment(
        cluster.url, partitions=PARTITIONS, key_prefix="analytics:{stream}", cluster=True, settings=QUICK
    )


@pytest.mark.fault(
    "Redis Cluster moves slots under load",
    user="nothing",
    operator="nothing",
)
def test_slots_move_while_games_arrive_and_every_command_works(
    on_cluster: Callable[[RedisCluster], Deployment], new_redis_cluster: Callable[..., RedisCluster]
) -> None:
    cluster = new_redis_cluster()
    deployment = on_cluster(cluster)
    messages = traffic(21, 6_000, STREAMS, PARTITIONS)
    wanted = expected(messages, deployment.projections)

    def versions() -> int:
        return sum(map(deployment.version, STREAMS))

    with (
        Watcher(deployment, STREAMS),
        deployment.flow(messages, per_second=500) as flow,
        deployment.engine() as engine,
    ):
        engine.until(lambda: versions() > 20, "it commits")
        for stream in STREAMS[:6]:
            key = deployment.key("version", stream)
            source = cluster.primary_of(key)
            cluster.move_slot(key, next(node for node in cluster.primaries if node is not source))
            before = versions()
            engine.until(lambda before=before: versions() > before + 10, "it goes on")  # type: ignore[misc]
        flow.finish()
        assert engine.terminate()[0] == 0, engine.said[-3000:]
    deployment.caught_up()
    games = {stream: len(games) for stream, games in wanted.games.items()}
    assert {stream: one["games"] for stream, one in deployment.verified().items()} == games
    assert set(deployment.dead_letters()) == wanted.letters

    assert {one["stream"]: one["games"] for one in deployment.done("status", "--json").json["streams"]} == games
    assert len(deployment.done("dead-letters", "list", "--json").json) == len(wanted.letters)
    checked = deployment.done("doctor", "--json").json["findings"]
    assert sum(one["check"] == "redis" for one in checked) == 3
    deployment.done("replay")
    assert {stream: one["games"] for stream, one in deployment.verified().items()} == games


@pytest.mark.fault(
    "Redis Cluster loses a primary",
    user="answers as `replica` until the fail-over is done",
    operator="nothing",
)
def test_a_replica_takes_over_and_nothing_is_lost_or_counted_twice(
    on_cluster: Callable[[RedisCluster], Deployment], new_redis_cluster: Callable[..., RedisCluster]
) -> None:
    cluster = new_redis_cluster(replicas=1)
    deployment = on_cluster(cluster)
    messages = traffic(22, 8_000, STREAMS, PARTITIONS)
    wanted = expected(messages, deployment.projections)
    with deployment.flow(messages, per_second=500) as flow, deployment.engine() as engine:
        engine.until(lambda: sum(map(deployment.version, STREAMS)) > 20, "it commits")
        cluster.primaries[2].kill()  # its last writes may not have reached the replica
        flow.finish()
        engine.until(
            lambda: (
                [engine.metrics().get(f'crashfold_lag_records{{partition="{n}"}}') for n in range(PARTITIONS)]
                == [0] * PARTITIONS
            ),
            "it has caught up",
        )
        assert engine.terminate()[0] == 0, engine.said[-3000:]
    assert {stream: one["games"] for stream, one in deployment.verified().items()} == {
        stream: len(games) for stream, games in wanted.games.items()
    }
    assert set(deployment.dead_letters()) == wanted.letters


def test_a_prefix_without_the_stream_is_refused_with_what_to_do(
    new_deployment: NewDeployment, redis_cluster_url: str
) -> None:
    deployment = new_deployment(redis_cluster_url, cluster=True, partitions=0)
    done = deployment.run("run")
    assert done.code == 78
    assert "{stream}" in done.err


async def test_the_api_answers_from_a_cluster_and_shows_a_commit_wherever_its_slot_is(
    new_redis_cluster: Callable[..., RedisCluster],
) -> None:
    cluster = await anyio.to_thread.run_sync(new_redis_cluster)
    games = games_at(*(1.0, 2.0, 1.4, 11.0, 3.0) * 8)
    async with RedisStore(cluster.url, cluster=True, key_prefix="analytics:{stream}") as store:
        writers = [Writer(store, stream=stream) for stream in STREAMS[:5]]
        for writer in writers:
            await writer.commit(games[:20])
        serving = api_server(cluster.url, "--redis.cluster", "true", "--redis.key_prefix", "analytics:{stream}")
        server = await anyio.to_thread.run_sync(serving.__enter__)
        try:
            async with server.client() as client:
                for number, stream in enumerate(STREAMS[:5]):
                    path, about = "/api/analytics/occurrences/min-crash-point/2", {"stream": stream}
                    first = await client.get(path, params=about)
                    assert (first.status_code, first.headers["X-Crashfold-Source"]) == (200, "precomputed")
                    if number % 2:
                        key = f"analytics:{{{stream}}}:version"
                        source = cluster.primary_of(key)
                        target = next(node for node in cluster.primaries if node is not source)
                        await anyio.to_thread.run_sync(cluster.move_slot, key, target)
                        await refused_once(store, stream)
                    version = await writers[number].commit(games[20:])
                    then = await client.get(path, params={**about, "min_version": version})
                    assert then.headers["X-Crashfold-Version"] == str(version), then.text
                    assert then.json()["data"]["occurrences"]["total_games"] == len(games)
        finally:
            await anyio.to_thread.run_sync(serving.__exit__, None, None, None)


async def refused_once(store: RedisStore, stream: str) -> None:
    """Let the store hear that the stream's slot has moved."""
    with suppress(Unavailable):
        await store.load(stream)
