"""The engine, every command and the API on a Redis Cluster of three, while slots move and a primary dies."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import cycle
from threading import Event, Thread

import anyio
import anyio.to_thread
import httpx
import pytest

from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.errors import Unavailable
from tests.support.api_server import Writer, api_server
from tests.support.deployment import Deployment, NewDeployment, Service, Watcher, expected, traffic
from tests.support.games import games_at
from tests.support.servers import RedisCluster

STREAMS = [f"table-{number}" for number in range(20)]
MANY = [f"table-{number}" for number in range(300)]
RECORDS_EACH = 20
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


class Asker:
    """Asks an API about streams in turn while its `with` block lasts, and notes what no client may ever see."""

    def __init__(self, api: Service, streams: Sequence[str]) -> None:
        self.statuses: Counter[int] = Counter()
        self.faults: list[str] = []
        self._api = api
        self._streams = streams
        self._contents: dict[tuple[str, str], bytes] = {}
        self._stopped = Event()
        self._thread = Thread(target=self._run)

    def __enter__(self) -> "Asker":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(30)

    def _run(self) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{self._api.port}", timeout=20, trust_env=False) as client:
            for stream in cycle(self._streams):
                if self._stopped.is_set():
                    return
                with suppress(httpx.TransportError):  # it is still starting
                    self._judge(stream, client.get("/api/games", params={"stream": stream}))

    def _judge(self, stream: str, told: httpx.Response) -> None:
        self.statuses[told.status_code] += 1
        if told.status_code not in (200, 404, 503):
            self.faults.append(f"{stream}: {told.status_code} {told.text[:300]}")
        tag = told.headers.get("ETag")
        if tag is not None and self._contents.setdefault((stream, tag), told.content) != told.content:
            self.faults.append(f"{stream}: two contents under {tag}")


@pytest.mark.fault(
    "Redis Cluster loses a primary, and then another",
    user="answers as `replica` until the fail-over is done, and 503 for streams that nobody has asked about before",
    operator="nothing",
)
def test_two_primaries_are_lost_in_turn_and_nothing_of_300_streams_is_lost_or_counted_twice(
    on_cluster: Callable[[RedisCluster], Deployment], new_redis_cluster: Callable[..., RedisCluster]
) -> None:
    cluster = new_redis_cluster(replicas=1)
    deployment = on_cluster(cluster)
    records = {stream: iter(traffic(number, RECORDS_EACH, [stream], 1)) for number, stream in enumerate(MANY, start=22)}
    homes = {stream: number % PARTITIONS for number, stream in enumerate(MANY)}
    messages = [next(records[stream])._replace(partition=homes[stream]) for _ in range(RECORDS_EACH) for stream in MANY]
    wanted = expected(messages, deployment.projections)
    games = {stream: len(games) for stream, games in wanted.games.items()}
    flow = deployment.flow(messages, per_second=2_000)
    flow.release(len(messages) // 3)
    with deployment.engine() as engine, deployment.api() as api, flow, Asker(api, MANY) as asker:

        def commits() -> float:
            told = engine.metrics().items()
            return sum(
                count for name, count in told if name.startswith("crashfold_commits_total{") and "applied" in name
            )

        for number, primary in enumerate(cluster.primaries[1:], start=2):
            before = commits()
            flow.release(len(messages) * number // 3)
            engine.until(lambda before=before: commits() > before, "it commits")  # type: ignore[misc]
            primary.kill()  # its last writes may not have reached the replica
            cluster.until_taken_over(primary)
        flow.finish()
        lags = [f'crashfold_lag_records{{partition="{number}"}}' for number in range(PARTITIONS)]
        engine.until(lambda: [engine.metrics().get(lag) for lag in lags] == [0] * PARTITIONS, "it has caught up")
        with httpx.Client(base_url=f"http://127.0.0.1:{api.port}", trust_env=False) as client:
            for stream, count in list(games.items())[::3]:
                api.until(lambda stream=stream, count=count: answered(client, stream) == count, stream)  # type: ignore[misc]
        assert engine.terminate()[0] == 0, engine.said[-3000:]
        assert api.terminate()[0] == 0, api.said[-3000:]
    assert asker.faults == []
    assert asker.statuses[200] > 0
    assert {stream: one["games"] for stream, one in deployment.verified().items()} == games
    assert set(deployment.dead_letters()) == wanted.letters


def answered(client: httpx.Client, stream: str) -> int | None:
    """How many games the API has of a stream, by the store's word; None while it has no such word."""
    told = client.get("/api/games", params={"stream": stream})
    if told.status_code != 200 or told.headers["X-Crashfold-Source"] == "replica":
        return None
    return int(told.json()["pagination"]["total_items"])


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
