"""Writing to Kafka: `KafkaSink`, for records of any topic, and `KafkaDeadLetters` on top of it.

Imports aiokafka. What a sink took is on the topic once `flush` has returned; what it could not deliver makes `send` or
`flush` raise, and such a sink is of no use any more: leave it, enter another, and send again.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import anyio
import anyio.lowlevel
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    KafkaError,
    LeaderNotAvailableError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownError,
)
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.produce import ProduceRequest

from crashfold.engine.adapters.dead_letters import (
    LetterMark,
    ListedDeadLetter,
    Listing,
    StoredDeadLetter,
    StoredLetter,
    shown_by_api,
)
from crashfold.engine.adapters.kafka.client import (
    begin,
    close_producer,
    connected,
    connection_options,
    partition_bounds,
    partition_records,
    request_timeout_s,
    topic_is_there,
    topic_partitions,
)
from crashfold.engine.adapters.kafka.errors import Connection, kafka_errors
from crashfold.engine.adapters.kafka.topics import check_topic_can_be_made, ensure_topic, topic_exists
from crashfold.engine.errors import LogRefused, LogUnavailable
from crashfold.engine.ports import DeadLetter, ReadDeadLetter, Record
from crashfold.engine.settings import KafkaSettings

IN_FLIGHT_MAX: Final = 10_000
_LINGER_MS: Final = 0
"""A batch goes out at once, and what comes while it is on its way makes the next one."""
_BATCH_BYTES: Final = 128 * 1024
_ONE_BY_ONE: Final = 1
"""So few bytes that each record is a batch of its own."""
_LETTERS_AT_ONCE: Final = 500
"""After so many others get their turn."""
_REQUEST_BYTES_MAX: Final = 1024 * 1024
_BLOCK_RECORDS: Final = 2_000
"""Read at once when only the newest letters are wanted."""
_KEEP_FOREVER: Final = {"retention.ms": "-1", "cleanup.policy": "delete"}


class Outgoing(NamedTuple):
    """A record to be sent."""

    key: bytes | None
    value: bytes
    headers: Sequence[tuple[str, bytes]] = ()


class KafkaSink:
    """A producer that waits for all replicas and has at most `in_flight_max` records unacknowledged.

    `idempotent` keeps a record from being written twice when an answer is lost, and records of one partition in the
    order in which they were sent. False is for brokers that cannot do that; the order is kept all the same, for
    aiokafka never has two batches of a partition on their way. `topic` is what will be written to, where that is known
    beforehand: a broker numbers no producer that may not write, and the error names the topic.
    """

    def __init__(
        self,
        connection: Connection,
        topic: str | None = None,
        *,
        idempotent: bool = True,
        in_flight_max: int = IN_FLIGHT_MAX,
        batch_bytes: int = _BATCH_BYTES,
    ) -> None:
        self._options: dict[str, Any] = {
            **connection,
            "acks": "all",
            "enable_idempotence": idempotent,
            "linger_ms": _LINGER_MS,
            "max_batch_size": batch_bytes,
            "max_request_size": _REQUEST_BYTES_MAX,
        }
        self._connection = connection
        self._connecting = "connecting to Kafka" if topic is None else f"connecting to Kafka to write to {topic}"
        self._timeout_s = request_timeout_s(connection)
        self._in_flight_max = in_flight_max
        self._producer: AIOKafkaProducer | None = None
        self._in_flight = 0
        self._acknowledged = 0
        self._fault: BaseException | None = None
        self._answered = anyio.Event()

    @property
    def acknowledged(self) -> int:
        """How many records are on their topics."""
        return self._acknowledged

    async def __aenter__(self) -> Self:
        with kafka_errors(self._connecting):
            try:
                self._producer = await self._started()
            except UnknownError:  # once may be an accident; a broker that cannot number producers says it each time
                try:
                    self._producer = await self._started()
                except UnknownError as error:
                    if not self._options["enable_idempotence"]:
                        raise
                    raise LogRefused(
                        f"the broker cannot number producers ({error}): update it, or set"
                        " kafka.enable_idempotence = false"
                    ) from error
        return self

    async def _started(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(**self._options)
        try:
            await begin(producer.start(), self._connection)
        except BaseException:
            await close_producer(producer)
            raise
        return producer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await close_producer(producer)

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes,
        *,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int | None = None,
    ) -> "asyncio.Future[Any]":
        """Take a record; without `partition`, the key decides as it does with Kafka's own clients. Once it is on the
        topic, and so after a flush, the result of what is returned has the record's `partition` and `offset`.

        Waits while too many are unacknowledged. Cancelled, it has either taken the record or not.
        Raises LogUnavailable or LogRefused when this or an earlier record cannot be delivered.
        """
        with kafka_errors(f"writing to {topic}"):
            await self._until_in_flight(self._in_flight_max - 1)
            if self._producer is None:
                raise LogUnavailable("the sink was left")
            with anyio.fail_after(self._timeout_s):
                sent: asyncio.Future[Any] = await self._producer.send(
                    topic, value, key, partition, headers=list(headers)
                )
            self._in_flight += 1
            sent.add_done_callback(partial(self._note, 1))
        return sent

    async def send_all(self, topic: str, records: Sequence[Outgoing]) -> None:
        """Take many records as whole batches, those of a partition in this order: a fifth of the time that `send` takes
        for as many. Raises as `send` does."""
        with kafka_errors(f"writing to {topic}"):
            if self._producer is None:
                raise LogUnavailable("the sink was left")
            with anyio.fail_after(self._timeout_s):
                await self._producer.client._wait_on_metadata(topic)
            partitions: dict[bytes | None, int] = {}
            by_partition: dict[int, list[Outgoing]] = {}
            for record in records:
                if (partition := partitions.get(record.key)) is None:
                    partition = self._producer._partition(topic, None, None, None, record.key, record.value)
                    partitions[record.key] = partition
                by_partition.setdefault(partition, []).append(record)
        for partition, some in by_partition.items():
            await self._send_batches(topic, partition, some)

    async def _send_batches(self, topic: str, partition: int, records: Sequence[Outgoing]) -> None:
        batch = None
        for record in records:
            if batch is None or not self._fits(batch, record):
                if batch is not None:
                    await self._send_batch(topic, partition, batch)
                batch = self._new_batch()
                if not self._fits(batch, record):
                    batch = None
                    await self.send(topic, record.key, record.value, headers=record.headers, partition=partition)
        if batch is not None:
            await self._send_batch(topic, partition, batch)

    def _new_batch(self) -> BatchBuilder:
        if self._producer is None:
            raise LogUnavailable("the sink was left")
        return self._producer.create_batch()

    @staticmethod
    def _fits(batch: BatchBuilder, record: Outgoing) -> bool:
        """Put the record into the batch, if it has room."""
        added = batch.append(timestamp=None, key=record.key, value=record.value, headers=list(record.headers))
        return added is not None

    async def _send_batch(self, topic: str, partition: int, batch: BatchBuilder) -> None:
        with kafka_errors(f"writing to {topic}"):
            await self._until_in_flight(self._in_flight_max - 1)
            if self._producer is None:
                raise LogUnavailable("the sink was left")
            count = batch.record_count()
            with anyio.fail_after(self._timeout_s):
                sent = await self._producer.send_batch(batch, topic, partition=partition)
            self._in_flight += count
            sent.add_done_callback(partial(self._note, count))

    async def flush(self) -> None:
        """Wait until every record that was taken is on its topic. Raises LogUnavailable."""
        with kafka_errors("writing to Kafka"):
            await self._until_in_flight(0)

    async def _until_in_flight(self, count: int) -> None:
        while self._in_flight > count and self._fault is None:
            if self._answered.is_set():
                self._answered = anyio.Event()
            # An idempotent producer tries for ever. While answers come in, all is well.
            with anyio.fail_after(self._timeout_s):
                await self._answered.wait()
        if self._fault is not None:
            raise self._fault

    def _note(self, count: int, sent: "asyncio.Future[Any]") -> None:
        self._in_flight -= count
        if sent.cancelled():
            self._fault = KafkaError("the producer was closed")
        elif (error := sent.exception()) is not None:
            self._fault = error
        else:
            self._acknowledged += count
        self._answered.set()


class KafkaDeadLetters:
    """Implements `DeadLetters` on a Kafka topic, which is made with the first letter and has no retention limit.

    Connects only when there is something to write or read.
    """

    def __init__(self, topic: str, connection: Connection, *, idempotent: bool = True) -> None:
        self._topic = topic
        self._connection = connection
        self._idempotent = idempotent
        self._batch_bytes = _BATCH_BYTES
        self._sink: KafkaSink | None = None

    @classmethod
    def from_settings(cls, settings: KafkaSettings, *, idempotent: bool = True) -> Self:
        """The dead letters of `kafka.topic`."""
        return cls(settings.dead_letters, connection_options(settings), idempotent=idempotent)

    @property
    def topic(self) -> str:
        """The topic they stand on."""
        return self._topic

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave_sink()

    async def put(self, letters: Sequence[DeadLetter]) -> None:
        """Write them; returns once all replicas have them. Raises LogUnavailable, and then some may stand there, or
        LogRefused."""
        if not letters:
            return
        try:
            sink = await self._entered_sink()
            for start in range(0, len(letters), _LETTERS_AT_ONCE):
                stored = [StoredDeadLetter.of(letter) for letter in letters[start : start + _LETTERS_AT_ONCE]]
                await sink.send_all(self._topic, [Outgoing(one.key, one.body(), one.headers()) for one in stored])
                await anyio.lowlevel.checkpoint()
            await sink.flush()
        except LogUnavailable:
            await self._leave_sink()
            raise
        except LogRefused as error:
            await self._leave_sink()
            is_too_large = isinstance(error.__cause__, MessageSizeTooLargeError | RecordListTooLargeError)
            if not is_too_large or self._batch_bytes == _ONE_BY_ONE:
                raise
            self._batch_bytes = _ONE_BY_ONE  # the batch is too large, which says nothing of a letter
            await self.put(letters)

    async def check(self) -> None:
        """Try all that the first letter will need, and write none. Raises LogRefused, or LogUnavailable.

        A produce request without records is refused for its lack of them, but only after the right has been asked for.
        """
        if not await topic_exists(self._connection, self._topic):
            await check_topic_can_be_made(self._connection, self._topic, _KEEP_FOREVER)
        else:
            with kafka_errors(f"trying to write to {self._topic}"):
                async with connected(self._connection) as client:
                    await _try_to_write(client, self._topic, request_timeout_s(self._connection))
        async with KafkaSink(self._connection, self._topic, idempotent=self._idempotent):
            pass

    async def mark(self, marks: Sequence[tuple[ListedDeadLetter, LetterMark]]) -> None:
        """Write what became of letters, each to the partition where its letter stands; returns once all replicas have
        it. Raises LogUnavailable, and then some may stand there."""
        sink = await self._entered_sink()
        for listed, mark in marks:
            await sink.send(self._topic, None, b"", headers=mark.headers(), partition=listed.partition)
        await sink.flush()

    async def read(self, *, values: bool = True) -> list[ListedDeadLetter]:
        """All letters that stand there now, each once, oldest first; none without the topic.

        What takes memory are the values: there may be hundreds of thousands of letters. Raises LogUnavailable.
        """
        listing = Listing(values=values)
        timeout_s = request_timeout_s(self._connection)
        with kafka_errors(f"reading {self._topic}"):
            async with connected(self._connection) as client:
                for partition in await self._partitions(client, timeout_s):
                    tp = TopicPartition(self._topic, partition)
                    async for record in partition_records(client, tp, timeout_s):
                        listing.add(_stored(partition, record))
        return listing.letters()

    async def newest(self, limit: int) -> list[ReadDeadLetter]:
        """List the newest dead letters, newest first: retried ones included, discarded ones not.

        Reads from the end, no further than it must (a mark stands behind its letter), so it is quick however many
        letters there are; of a letter that stands there twice the later time counts. Raises LogUnavailable.
        """
        found: list[ListedDeadLetter] = []
        timeout_s = request_timeout_s(self._connection)
        with kafka_errors(f"reading {self._topic}"):
            async with connected(self._connection) as client:
                for partition in await self._partitions(client, timeout_s):
                    found += await _newest(client, TopicPartition(self._topic, partition), limit, timeout_s)
        newest = sorted(found, key=lambda one: one.time_ms, reverse=True)[:limit]
        return [shown_by_api(one) for one in newest]

    async def _partitions(self, client: AIOKafkaClient, timeout_s: float) -> list[int]:
        """The partitions of the topic; none without it. Looking for it never makes it."""
        if not await topic_is_there(client, self._topic):
            return []
        return sorted(await topic_partitions(client, self._topic, timeout_s))

    async def _entered_sink(self) -> KafkaSink:
        if self._sink is None:
            await ensure_topic(self._connection, self._topic, configs=_KEEP_FOREVER)
            sink = KafkaSink(self._connection, self._topic, idempotent=self._idempotent, batch_bytes=self._batch_bytes)
            await sink.__aenter__()
            self._sink = sink
        return self._sink

    async def _leave_sink(self) -> None:
        if self._sink is not None:
            sink, self._sink = self._sink, None
            await sink.__aexit__(None, None, None)


async def _try_to_write(client: AIOKafkaClient, topic: str, timeout_s: float) -> None:
    partition = min(await topic_partitions(client, topic, timeout_s), default=0)
    leader = client.cluster.leader_for_partition(TopicPartition(topic, partition))
    if leader is None or leader == -1:
        raise LeaderNotAvailableError(topic)
    request = ProduceRequest(None, -1, int(timeout_s * 1000), [(topic, [(partition, b"")])])
    for _topic, answers in (await client.send(leader, request)).topics:
        for _partition, code, *_ in answers:
            if code == TopicAuthorizationFailedError.errno:
                raise TopicAuthorizationFailedError(topic)


async def _newest(client: AIOKafkaClient, tp: TopicPartition, limit: int, timeout_s: float) -> list[ListedDeadLetter]:
    """The newest letters of a partition, at least `limit` if there are as many, read block by block from its end."""
    bounds = await partition_bounds(client, tp, timeout_s)
    end, blocks = bounds.end, list[list[StoredLetter]]()
    while True:
        begin = max(bounds.begin, end - _BLOCK_RECORDS)
        blocks.append(
            [_stored(tp.partition, one) async for one in partition_records(client, tp, timeout_s, begin, end)]
        )
        listing = Listing()
        for stored in (one for block in blocks for one in reversed(block)):
            listing.add(stored)
        letters = [one for one in listing.letters() if one.mark is None or one.mark.became == "retried"]
        if len(letters) >= limit or begin == bounds.begin:
            return letters
        end = begin


def _stored(partition: int, record: Any) -> StoredLetter:
    return StoredLetter(partition, Record(record.offset, record.timestamp, record.key, record.value), record.headers)
