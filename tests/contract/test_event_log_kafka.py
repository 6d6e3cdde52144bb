"""The contract of `EventLog`, on Tansu and Apache Kafka; and what only real brokers do."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, RecordsToDelete

from engine.adapters.kafka import KafkaLog
from engine.adapters.kafka_topics import ensure_topic
from tests.contract.event_log import (
    DEADLINE_S,
    EventLogContract,
    GroupContract,
    HolesContract,
    Message,
    MessageContract,
    PartitionsContract,
    RetentionContract,
    Topic,
    WideningContract,
)
from tests.servers import KafkaCluster, TansuBroker

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
        producer = AIOKafkaProducer(**self.connection, transactional_id=f"{self.name}-holes")
        async with producer:
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


class TestApacheKafka(EventLogContract, MessageContract, HolesContract, RetentionContract):
    @pytest.fixture
    async def topic(self, kafka: KafkaCluster, unique: Unique) -> AsyncIterator[KafkaTopic]:
        async with kafka_topic(kafka.bootstrap_servers, unique("games"), 1) as topic:
            yield topic


class TestApacheKafkaPartitions(PartitionsContract, WideningContract, GroupContract):
    @pytest.fixture
    async def topic(self, kafka: KafkaCluster, unique: Unique) -> AsyncIterator[KafkaTopic]:
        async with kafka_topic(kafka.bootstrap_servers, unique("games"), 2) as topic:
            yield topic
