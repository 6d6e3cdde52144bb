"""The contract of `EventLog`, on Tansu and Apache Kafka; and what only real brokers do."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.to_thread
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.consumer.fetcher import PartitionRecords

from crashfold.engine.adapters.embedded import free_port
from crashfold.engine.adapters.kafka.errors import kafka_errors
from crashfold.engine.adapters.kafka.log import KafkaLog
from crashfold.engine.adapters.kafka.topic_id import _FetchById
from crashfold.engine.adapters.kafka.topics import ensure_topic, topic_exists
from crashfold.engine.errors import LogUnavailable
from crashfold.engine.ports import Polled
from tests.contract.event_log import (
    DEADLINE_S,
    EventLogContract,
    GroupContract,
    HolesContract,
    Message,
    MessageContract,
    PartitionsContract,
    Reader,
    RecreationContract,
    RetentionContract,
    Topic,
    WideningContract,
    numbered,
)
from tests.support.clients import producing
from tests.support.servers import KafkaCluster, TansuBroker

Unique = Callable[[str], str]


class KafkaTopic(Topic):
    """A topic on real brokers, with a producer of its own."""

    def __init__(self, bootstrap_servers: str, name: str, *, groups: bool) -> None:
        self.name = name
        self._groups = groups
        self.connection: dict[str, Any] = {
            "bootstrap_servers": bootstrap_servers,
            "client_id": "contract",
            "request_timeout_ms": 20_000,
            "metadata_max_age_ms": 500,
        }
        self._producer: AIOKafkaProducer | None = None

    def log(self, group_id: str | None = "group", **options: Any) -> KafkaLog:
        return KafkaLog(
            self.name,
            self.connection,
            group_id=None if group_id is None or not self._groups else f"{self.name}-{group_id}",
            fetch_max_wait_ms=100,
            session_timeout_ms=10_000,
            heartbeat_interval_ms=200,
            **options,
        )

    async def append(self, *values: bytes, partition: int = 0) -> None:
        await self.append_messages([(None, value) for value in values], partition)

    async def append_messages(self, messages: Sequence[Message], partition: int = 0) -> None:
        producer = await self._started()
        batch = producer.create_batch()
        for key, value in messages:
            if batch.append(key=key, value=value, timestamp=None) is None:
                raise ValueError("too much for one batch")
        await (await producer.send_batch(batch, self.name, partition=partition))

    async def leave_hole(self, partition: int = 0) -> None:
        """An aborted transaction: its record and its marker, which the broker writes after it has answered."""
        end = await self.end(partition)
        async with producing(**self.connection, transactional_id=f"{self.name}-holes") as producer:
            await producer.begin_transaction()
            await producer.send_and_wait(self.name, b"aborted", partition=partition)
            await producer.abort_transaction()
        with anyio.fail_after(DEADLINE_S):
            while await self.end(partition) < end + 2:
                await anyio.sleep(0.01)

    async def drop_before(self, offset: int, partition: int = 0) -> None:
        async with self.admin() as admin:
            await admin.delete_records({TopicPartition(self.name, partition): RecordsToDelete(offset)})

    async def add_partition(self) -> None:
        async with self.admin() as admin:
            count = len((await admin.describe_topics([self.name]))[0]["partitions"])
            await admin.create_partitions({self.name: NewPartitions(count + 1)})

    async def end(self, partition: int) -> int:
        """Where the partition's committed records end."""
        async with self.log(None) as log:
            return (await log.bounds(partition)).end

    async def recreate(self) -> None:
        async with self.admin() as admin:
            await admin.delete_topics([self.name])
        with anyio.fail_after(DEADLINE_S):
            while await topic_exists(self.connection, self.name):
                pass
        await ensure_topic(self.connection, self.name, replication_factor=1)
        await self.close()

    async def compact(self) -> None:
        async with self.admin() as admin:
            resource = ConfigResource(ConfigResourceType.TOPIC, self.name, {"cleanup.policy": "compact,delete"})
            await admin.alter_configs([resource])

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(**self.connection)
        try:
            await admin.start()
            yield admin
        finally:
            await admin.close()

    async def close(self) -> None:
        if self._producer is not None:
            await self._producer.stop()
            self._producer = None

    async def _started(self) -> AIOKafkaProducer:
        if self._producer is None:
            self._producer = AIOKafkaProducer(**self.connection, max_batch_size=2**20)
            await self._producer.start()
        return self._producer


@asynccontextmanager
async def kafka_topic(
    bootstrap_servers: str, name: str, partitions: int, *, groups: bool = True
) -> AsyncIterator[KafkaTopic]:
    topic = KafkaTopic(bootstrap_servers, name, groups=groups)
    await ensure_topic(topic.connection, name, partitions, replication_factor=1)
    try:
        yield topic
    finally:
        await topic.close()


# Joining a group takes Tansu 5 s, and as long as the session's time-out where somebody was before: most of the contract
# runs without groups there.
class TestTansu(EventLogContract, MessageContract):
    @pytest.fixture
    async def topic(self, tansu: TansuBroker, unique: Unique) -> AsyncIterator[KafkaTopic]:
        async with kafka_topic(tansu.bootstrap_servers, unique("games"), 1, groups=False) as topic:
            yield topic


class TestTansuPartitions(PartitionsContract):
    @pytest.fixture
    async def topic(self, tansu: TansuBroker, unique: Unique) -> AsyncIterator[KafkaTopic]:
        async with kafka_topic(tansu.bootstrap_servers, unique("games"), 2, groups=False) as topic:
            yield topic


class TestApacheKafka(EventLogContract, MessageContract, HolesContract, RetentionContract, RecreationContract):
    @pytest.fixture
    async def topic(self, kafka: KafkaCluster, unique: Unique) -> AsyncIterator[KafkaTopic]:
        async with kafka_topic(kafka.bootstrap_servers, unique("games"), 1) as topic:
            yield topic


class TestApacheKafkaPartitions(PartitionsContract, WideningContract, GroupContract):
    @pytest.fixture
    async def topic(self, kafka: KafkaCluster, unique: Unique) -> AsyncIterator[KafkaTopic]:
        async with kafka_topic(kafka.bootstrap_servers, unique("games"), 2) as topic:
            yield topic


async def test_two_members_share_partitions_on_tansu_too(tansu: TansuBroker, unique: Unique) -> None:
    async with kafka_topic(tansu.bootstrap_servers, unique("games"), 2) as topic:
        await GroupContract().test_two_members_share_the_partitions(topic)


async def test_what_was_fetched_and_read_is_freed_without_the_collector(kafka: KafkaCluster, unique: Unique) -> None:
    """A fetch is of megabytes, and the collector may not come round for thousands of them."""
    async with kafka_topic(kafka.bootstrap_servers, unique("games"), 1) as topic, topic.log(None) as log:
        reader = Reader(log)
        await reader.until_holding(0)
        gc.collect()
        gc.disable()
        try:
            for number in range(12):
                await topic.append(b"%d" % number)
                await reader.until_at(number + 1)
            parsers = [one for one in gc.get_objects() if isinstance(one, PartitionRecords)]
        finally:
            gc.enable()
    assert len(parsers) <= 1


@pytest.mark.fault(
    "A transaction stays open",
    user="nothing of it, nor behind it",
    operator="end the transaction; lag shows it",
)
async def test_records_of_an_open_transaction_do_not_count(kafka: KafkaCluster, unique: Unique) -> None:
    async with kafka_topic(kafka.bootstrap_servers, unique("games"), 1) as topic:
        await topic.append(b"0")
        transaction = producing(**topic.connection, transactional_id=topic.name)
        async with transaction as producer, topic.log(None) as log:
            await producer.begin_transaction()
            await producer.send_and_wait(topic.name, b"1", partition=0)
            await topic.append(b"2")
            reader = Reader(log)
            await reader.until_read(b"0")
            assert (await reader.poll()).records == ()
            assert (await log.bounds(0)).end == 1
            assert await log.record(0, 1) is None
            await producer.commit_transaction()
            await reader.until_read(b"0", b"1", b"2")


async def test_a_poll_says_whether_the_topic_goes_on(each_kafka: str, unique: Unique) -> None:
    async with kafka_topic(each_kafka, unique("games"), 1, groups=False) as topic:
        await topic.append(*numbered(5))
        async with topic.log(None) as log:
            reader, said = Reader(log), list[bool]()
            while len(reader.values.get(0, ())) < 5:
                polled = await reader.poll(records_max=2)
                said += [polled.has_more] if polled.records else []
            assert said == [True, True, False]


async def test_a_report_is_what_lag_dashboards_see(kafka: KafkaCluster, unique: Unique) -> None:
    async with kafka_topic(kafka.bootstrap_servers, unique("games"), 2) as topic, topic.log() as log:
        await Reader(log).until_holding(0, 1)
        await log.report({0: 7, 1: 9, 5: 11})
        async with topic.admin() as admin:
            offsets = await admin.list_consumer_group_offsets(f"{topic.name}-group")
        assert {tp.partition: committed.offset for tp, committed in offsets.items()} == {0: 7, 1: 9}


async def test_a_topic_that_is_made_later_is_gained(kafka: KafkaCluster, unique: Unique) -> None:
    topic = KafkaTopic(kafka.bootstrap_servers, unique("games"), groups=True)
    async with topic.log() as member, topic.log(None) as loner:
        readers = [Reader(member), Reader(loner)]
        assert await loner.partitions() == frozenset()
        for reader in readers:
            assert await reader.poll() == Polled()
        await ensure_topic(topic.connection, topic.name, 2, replication_factor=1)
        for reader in readers:
            await reader.until_holding(0, 1)


@pytest.mark.parametrize("group_id", ["group", None])
async def test_a_client_whose_background_task_died_connects_anew(
    kafka: KafkaCluster, unique: Unique, group_id: str | None
) -> None:
    async with kafka_topic(kafka.bootstrap_servers, unique("games"), 1) as topic, topic.log(group_id) as log:
        await topic.append(*numbered(3))
        reader = Reader(log)
        await reader.until_read(*numbered(3))
        assert log._consumer is not None
        log._consumer._fetcher._fetch_task.cancel()
        await topic.append(*numbered(3, start=3))
        await reader.until_read(*numbered(6))


async def test_a_broker_that_is_gone_for_a_while_costs_nothing(new_kafka: Callable[..., KafkaCluster]) -> None:
    cluster = new_kafka()
    async with kafka_topic(cluster.bootstrap_servers, "games", 1) as topic, topic.log(silence_max_s=1.0) as log:
        await topic.append(*numbered(3))
        reader = Reader(log)
        await reader.until_read(*numbered(3))
        for away, back in ((cluster.pause, cluster.resume), (cluster.kill, cluster.start)):
            await anyio.to_thread.run_sync(away)
            with pytest.raises(LogUnavailable):
                await reader.until_fault()
            await anyio.to_thread.run_sync(back)
            await topic.close()
            count = len(reader.values[0])
            await topic.append(*numbered(3, start=count))
            with anyio.fail_after(DEADLINE_S):
                while len(reader.values[0]) < count + 3:
                    with suppress(LogUnavailable):
                        await reader.poll()
            assert reader.values == {0: numbered(count + 3)}


@pytest.mark.parametrize("group_id", ["group", None])
async def test_a_log_can_be_left_in_time_and_without_a_trace_while_the_broker_is_away(
    new_kafka: Callable[..., KafkaCluster], group_id: str | None
) -> None:
    cluster = new_kafka()
    before = asyncio.all_tasks()
    topic = KafkaTopic(cluster.bootstrap_servers, "games", groups=True)
    await ensure_topic(topic.connection, "games", replication_factor=1)
    async with topic.log(group_id) as log:
        await Reader(log).until_holding(0)
        cluster.pause()
        left_at_s = anyio.current_time()
    assert anyio.current_time() - left_at_s < 8
    assert asyncio.all_tasks() <= before


async def test_where_no_broker_is_nothing_is_left_behind() -> None:
    before = asyncio.all_tasks()
    topic = KafkaTopic(f"127.0.0.1:{free_port()}", "games", groups=True)
    for group_id in ("group", None):
        with pytest.raises(LogUnavailable):
            async with topic.log(group_id):
                pass
    with pytest.raises(LogUnavailable):
        await topic_exists(topic.connection, "games")
    assert asyncio.all_tasks() <= before


async def test_a_cancelled_log_leaves_nothing_behind(kafka: KafkaCluster, unique: Unique) -> None:
    before = asyncio.all_tasks()
    topic = KafkaTopic(kafka.bootstrap_servers, unique("games"), groups=True)
    await ensure_topic(topic.connection, topic.name, replication_factor=1)
    for milliseconds in range(0, 40, 4):
        with anyio.move_on_after(milliseconds / 1000):
            async with topic.log() as log:
                while True:
                    await log.poll(10, DEADLINE_S)
    assert asyncio.all_tasks() <= before


def test_what_uvloop_makes_of_a_lost_connection_is_mapped() -> None:
    async def write() -> None:
        async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.transport.abort()
        await reader.read()
        with pytest.raises(LogUnavailable, match="testing: "), kafka_errors("testing"):
            writer.write(b"lost")
        server.close()

    anyio.run(write, backend_options={"use_uvloop": True})


def test_a_fault_of_ours_is_not_mapped() -> None:
    with pytest.raises(RuntimeError, match="ours"), kafka_errors("testing"):
        raise RuntimeError("ours")


@pytest.mark.parametrize("group_id", ["group", None])
async def test_where_brokers_cannot_fetch_by_id_a_topic_made_anew_is_told_apart_as_well(
    kafka: KafkaCluster, unique: Unique, monkeypatch: pytest.MonkeyPatch, group_id: str | None
) -> None:
    """As before Kafka 3.1: the id is looked up behind each fetch."""
    monkeypatch.setattr(_FetchById, "prepare", lambda self, versions: self._by_name.prepare(versions))
    async with kafka_topic(kafka.bootstrap_servers, unique("games"), 1) as topic:
        await RecreationContract().test_records_of_a_topic_made_anew_come_only_after_its_partitions_were_gained(
            topic, 8, group_id
        )
