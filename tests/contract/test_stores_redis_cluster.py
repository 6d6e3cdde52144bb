"""The contract of the stores and of readers on a Redis Cluster of three; a slot that is moved, a primary that dies."""

from collections.abc import AsyncIterator, Callable

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from crashfold.engine.adapters.redis.cluster import RedisCluster as Cluster
from crashfold.engine.adapters.redis.reader import RedisReader
from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.errors import ConfigurationError, StateError, StoreRefused, Unavailable
from crashfold.engine.ports import Applied, Duplicate, Outcome
from crashfold.projections.delta import WriteList
from tests.contract.live_reader import LiveReaderContract
from tests.contract.state_store import PATIENCE_S, ShadowStoreContract, StateStoreContract, at, commit, numbered
from tests.support.servers import RedisCluster, RedisServer

PREFIX = "test:{stream}"
STREAMS = [f"table-{number}" for number in range(30)]

NewCluster = Callable[..., RedisCluster]


@pytest.fixture
async def store(redis_cluster_url: str) -> AsyncIterator[RedisStore]:
    async with RedisStore(redis_cluster_url, cluster=True, key_prefix=PREFIX) as store:
        yield store


@pytest.fixture
async def reader(redis_cluster_url: str) -> AsyncIterator[RedisReader]:
    async with RedisReader(redis_cluster_url, cluster=True, key_prefix=PREFIX) as reader:
        yield reader


class TestStore(StateStoreContract, ShadowStoreContract):
    pass


class TestReader(LiveReaderContract):
    pass


async def commit_all(store: RedisStore, next_offset: int) -> list[Outcome]:
    """Commit to every stream, again and again while a node is away, as an engine does."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            try:
                return await store.commit([numbered(stream, next_offset) for stream in STREAMS])
            except Unavailable:
                await anyio.sleep(0.05)


async def test_streams_live_on_the_nodes_that_have_their_slots(store: RedisStore, redis_cluster: RedisCluster) -> None:
    assert await commit_all(store, 1) == [Applied(1)] * len(STREAMS)
    assert await store.positions(STREAMS) == [at(1)] * len(STREAMS)
    homes = {redis_cluster.primary_of(f"test:{{{stream}}}:version").port for stream in STREAMS}
    assert len(homes) == 3
    assert len(await store.checks().server_infos()) == 3


async def test_a_slot_that_moves_takes_its_streams_along(new_redis_cluster: NewCluster) -> None:
    cluster = new_redis_cluster()
    key = f"test:{{{STREAMS[0]}}}:version"
    async with (
        RedisStore(cluster.url, cluster=True, key_prefix=PREFIX) as store,
        RedisReader(cluster.url, cluster=True, key_prefix=PREFIX) as reader,
    ):
        await commit_all(store, 1)
        assert await reader.standing(STREAMS[0]) is not None
        await anyio.to_thread.run_sync(cluster.move_slot, key, _another(cluster, cluster.primary_of(key)))
        assert all(outcome in (Applied(2), Duplicate(2)) for outcome in await commit_all(store, 2))
        with pytest.raises(Unavailable):
            await reader.standing(STREAMS[0])  # it hears that the slot has moved
        standing = await reader.standing(STREAMS[0])
        assert standing is not None
        assert standing.version == 2


async def test_a_list_is_replaced_whole_while_its_slot_is_on_its_way(
    store: RedisStore, redis_cluster: RedisCluster
) -> None:
    stream = STREAMS[0]
    key = f"test:{{{stream}}}:elements:a"
    home = redis_cluster.primary_of(key)
    target = _another(redis_cluster, home)
    assert await store.commit([commit(stream, None, 1, {"elements:a": WriteList(0, [b"1"], 5)})]) == [Applied(1)]
    redis_cluster.begin_to_move_slot(key, target)
    try:
        replaced = commit(stream, at(1), 2, {"elements:a": WriteList(1, [b"3", b"2"], 5)})
        assert await store.commit([replaced]) == [Applied(2)]
        with home.client() as client:
            assert client.lrange(key, 0, -1) == [b"3", b"2"]
    finally:
        redis_cluster.move_slot(key, target)


async def test_commits_wait_for_a_slot_on_its_way(new_redis_cluster: NewCluster) -> None:
    cluster = new_redis_cluster()
    key = f"test:{{{STREAMS[0]}}}:version"
    async with RedisStore(cluster.url, cluster=True, key_prefix=PREFIX) as store:
        await commit_all(store, 1)
        for next_offset in range(2, 40):
            async with anyio.create_task_group() as tasks:
                if next_offset % 4 == 0:
                    target = _another(cluster, cluster.primary_of(key))
                    tasks.start_soon(anyio.to_thread.run_sync, cluster.move_slot, key, target)
                outcomes = await commit_all(store, next_offset)
            assert all(outcome in (Applied(next_offset), Duplicate(next_offset)) for outcome in outcomes)
        assert await store.positions(STREAMS) == [at(39)] * len(STREAMS)


async def test_a_replica_takes_over_from_a_primary_that_died(new_redis_cluster: NewCluster) -> None:
    cluster = new_redis_cluster(replicas=1)
    key = f"test:{{{STREAMS[0]}}}:version"
    async with RedisStore(cluster.url, cluster=True, key_prefix=PREFIX, timeout_s=0.5) as store:
        await commit_all(store, 1)
        with cluster.primary_of(key).client() as client:
            assert client.wait(1, 30_000) == 1
        await anyio.to_thread.run_sync(cluster.primary_of(key).kill)
        outcomes = await commit_all(store, 2)
        assert all(outcome in (Applied(2), Duplicate(2)) for outcome in outcomes)


async def test_a_node_that_loses_its_slots_while_others_are_asked_is_a_refusal(redis_cluster: RedisCluster) -> None:
    options = {"password": "", "connect_timeout_s": 1.0, "timeout_s": 1.0, "bulk_timeout_s": 1.0}
    cluster = Cluster(redis_cluster.url, **options, commit_connections=1, read_connections=1)
    with anyio.fail_after(PATIENCE_S):
        assert len(await cluster.servers()) == 3
        (slots,) = await cluster._seed.ask(lambda pipeline: pipeline.execute_command("CLUSTER", "SLOTS"))
        cluster._proven.clear()
        _, port = next(iter(cluster._nodes))
        slow = next(node for node in redis_cluster.primaries if node.port == port)
        slow.pause()
        try:
            async with anyio.create_task_group() as tasks:

                async def ask_all() -> None:
                    with pytest.raises(StoreRefused, match="has no slot of the cluster any more"):
                        await cluster.servers()

                tasks.start_soon(ask_all)
                for _ in range(20):
                    await anyio.lowlevel.checkpoint()  # it comes to wait for the word of the first
                await cluster._learn(cluster._seed, [entry for entry in slots if entry[2][1] == port])
                slow.resume()
        finally:
            slow.resume()
            await cluster.aclose()


async def test_what_is_no_cluster_is_said(redis_url: str, redis_cluster_url: str) -> None:
    async with RedisStore(redis_url, cluster=True, key_prefix=PREFIX) as store:
        with pytest.raises((ConfigurationError, StateError), match=r"redis\.cluster"):
            await store.load(STREAMS[0])
    async with RedisStore(redis_cluster_url, key_prefix=PREFIX) as store:
        with pytest.raises(ConfigurationError, match=r"redis\.cluster = true"):
            await store.positions(STREAMS)


def _another(cluster: RedisCluster, node: RedisServer) -> RedisServer:
    return next(one for one in cluster.primaries if one is not node)
