"""Shared parts of the Kafka adapters: the connection's options, requests of our own, closing.

Imports aiokafka, some of its internals among them: its version is pinned to one minor for that. Nothing here waits
without a deadline, and closing always ends. What its errors mean is in `kafka_errors.py`.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import anyio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocol
from aiokafka.errors import (
    CorruptRecordException,
    IncompatibleBrokerVersion,
    KafkaError,
    LeaderNotAvailableError,
    MemberIdRequired,
    NoError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import JoinGroupRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest

from crashfold.engine.adapters.kafka.errors import Connection, kafka_errors, reason, verdict_on
from crashfold.engine.adapters.kafka.records import FetchedRecords
from crashfold.engine.adapters.kafka.token import TokenProvider
from crashfold.engine.errors import ConfigurationError, LogUnavailable
from crashfold.engine.ports import Bounds, Record
from crashfold.engine.settings import KafkaSettings

READ_COMMITTED: Final = 1
_EARLIEST: Final = -2
_LATEST: Final = -1
_RETRY_S: Final = 0.1
_GROUP_S: Final = 10.0
"""For a group's coordinator to be found."""
_LOOK_BYTES: Final = 256 * 1024
"""Asked for when one record is looked up; a broker sends a whole batch even if it is longer."""
_NAMES_FIRST: Final = 4
"""The version of JoinGroup from which on a member gets its name before its place."""
_CLOSE_S: Final = 3.0
"""For a client to say goodbye; the whole process has ten seconds."""
_ABANDON_S: Final = 1.0


def connection_options(settings: KafkaSettings) -> Connection:
    """How to reach the brokers. Raises ConfigurationError for a certificate's file or a token's function that cannot be
    used."""
    return {
        "bootstrap_servers": ",".join(server.strip() for server in settings.bootstrap_servers.split(",")),
        "client_id": settings.client_id,
        "request_timeout_ms": settings.request_timeout_ms,
        "metadata_max_age_ms": settings.metadata_max_age_ms,
        "security_protocol": settings.security_protocol,
        "ssl_context": _ssl_context(settings) if settings.security_protocol.endswith("SSL") else None,
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.sasl_plain_username or None,
        "sasl_plain_password": settings.sasl_plain_password or None,
        "sasl_oauth_token_provider": (
            TokenProvider.named(settings.sasl_oauth_token_provider) if settings.sasl_oauth_token_provider else None
        ),
    }


def request_timeout_s(connection: Connection) -> float:
    """The deadline of a request under these options."""
    return float(connection.get("request_timeout_ms", 40_000)) / 1000


async def begin(start: Coroutine[Any, Any, None], connection: Connection) -> None:
    """Await a client's start, within a request's deadline. Raises what it raises, and TimeoutError; but the reason when
    one is found: aiokafka writes it into its log alone.

    Cancelled half-way, aiokafka forgets a connection that it is making. So the start gets a moment to end by itself.
    """
    try:
        await _started(start, request_timeout_s(connection))
    except (KafkaError, OSError, TimeoutError) as error:
        if verdict_on(error).kind is LogUnavailable and (found := await reason(connection)) is not None:
            raise found  # noqa: B904  # its own cause says what is wrong
        raise


async def _started(start: Coroutine[Any, Any, None], timeout_s: float) -> None:
    task = asyncio.ensure_future(start)
    try:
        with anyio.fail_after(timeout_s):
            await asyncio.shield(task)
    finally:
        with anyio.CancelScope(shield=True):
            for _ in range(2):
                if not task.done():
                    await asyncio.wait([task], timeout=_ABANDON_S)
                    task.cancel()
        if task.done() and not task.cancelled():
            task.exception()  # has been looked at


@asynccontextmanager
async def connected(connection: Connection) -> AsyncIterator[AIOKafkaClient]:
    """Open a bare Kafka client for single requests. Raises aiokafka's errors."""
    client = AIOKafkaClient(**connection)
    try:
        await begin(client.bootstrap(), connection)
        yield client
    finally:
        with anyio.move_on_after(_CLOSE_S, shield=True), suppress(KafkaError, OSError, TimeoutError):
            await client.close()


async def partition_bounds(client: AIOKafkaClient, tp: TopicPartition, timeout_s: float) -> Bounds:
    """The offsets of committed records that the partition holds.

    Kafka answers ListOffsets with the last stable offset. Tansu answers the beginning of the last batch + 1, which is
    too low; what a fetch says of the partition's end is right on both, so the greater of the two counts.
    """
    begin = await _list_offset(client, tp, _EARLIEST, timeout_s)
    end = await _list_offset(client, tp, _LATEST, timeout_s)
    return Bounds(begin, max(begin, end, await _stable_end(client, tp, end, timeout_s)))


async def partition_record(client: AIOKafkaClient, tp: TopicPartition, offset: int, timeout_s: float) -> Record | None:
    """The committed record at exactly that offset; None when there is none."""
    try:
        answer = await _fetch(client, tp, offset, timeout_s)
    except OffsetOutOfRangeError:
        return None
    record = FetchedRecords(answer[-1], _aborted(answer), offset).first(tp.partition)
    return record if record is not None and record.offset == offset else None


async def partition_records(
    client: AIOKafkaClient, tp: TopicPartition, timeout_s: float, begin: int | None = None, end: int | None = None
) -> AsyncIterator[Any]:
    """The committed records that the partition holds now, as the parser makes them, in their order: all of them, or
    those from `begin` and before `end`."""
    bounds = await partition_bounds(client, tp, timeout_s)
    offset = bounds.begin if begin is None else max(begin, bounds.begin)
    stop = bounds.end if end is None else min(end, bounds.end)
    while offset < stop:
        answer = await _fetch(client, tp, offset, timeout_s)
        fetched = FetchedRecords(answer[-1], _aborted(answer), offset)
        if fetched.exhausted and fetched.next_fetch_offset == offset:
            raise CorruptRecordException(f"{tp} has nothing at {offset}, below its end {stop}")
        for record in fetched.parsed():
            if record.offset < stop:
                yield record
        offset = fetched.next_fetch_offset


async def topic_partitions(client: AIOKafkaClient, topic: str, timeout_s: float) -> frozenset[int]:
    """The topic's partitions as the brokers know them now; none when there is no such topic. Raises what a broker says
    against the topic: that its name is none, or that the user has no right on it."""
    client.add_topic(topic)
    with anyio.fail_after(timeout_s):
        while not await client.force_metadata_update():
            await anyio.sleep(_RETRY_S)
    check_topic(client, topic)
    return frozenset(client.cluster.partitions_for_topic(topic) or ())


async def topic_is_there(client: AIOKafkaClient, topic: str) -> bool:
    """Whether there is such a topic. Brokers make one that is asked for, by default, unless they are told not to."""
    request = MetadataRequest([topic], allow_auto_topic_creation=False)
    answer = await client.send(client.get_random_node(), request)
    return any(code != UnknownTopicOrPartitionError.errno for code, *_ in answer.topics)


def check_topic(client: AIOKafkaClient, topic: str) -> None:
    """Raise TopicAuthorizationFailedError when the brokers have said that the user may not know of the topic."""
    if topic in client.cluster.unauthorized_topics:
        raise TopicAuthorizationFailedError(topic)


async def check_group(settings: KafkaSettings) -> None:
    """Ask the group's coordinator for a place, and take none: since Kafka 2.2 the first request of a member gets a name
    and no more. Raises LogRefused for a right that is missing, or a session time-out outside the broker's bounds."""
    connection = connection_options(settings)
    with kafka_errors(f"asking for a place in the group {settings.group_id}"):
        async with connected(connection) as client:
            deadline_s = anyio.current_time() + min(_GROUP_S, request_timeout_s(connection))
            while True:
                try:
                    return await _ask_for_a_place(client, settings)
                except KafkaError as error:
                    # New brokers first have to make the topic on which groups are kept.
                    if not error.retriable or anyio.current_time() > deadline_s:
                        raise
                await anyio.sleep(_RETRY_S)


async def _ask_for_a_place(client: AIOKafkaClient, settings: KafkaSettings) -> None:
    coordinator = await client.coordinator_lookup(CoordinationType.GROUP, settings.group_id)
    subscription = ConsumerProtocol.METADATA(0, [settings.topic], b"").encode()
    rebalance_ms = settings.rebalance_timeout_ms or settings.session_timeout_ms
    request = _FirstJoin(
        *(settings.group_id, settings.session_timeout_ms, rebalance_ms, JoinGroupRequest.UNKNOWN_MEMBER_ID),
        *(None, ConsumerProtocol.PROTOCOL_TYPE, [(RoundRobinPartitionAssignor.name, subscription)]),
    )
    answer = await client.send(coordinator, request, group=ConnectionGroup.COORDINATION)
    error = for_code(answer.error_code)
    if error not in (NoError, MemberIdRequired):
        raise error(settings.group_id)


class _FirstJoin(JoinGroupRequest):  # type: ignore[misc]  # aiokafka has no types
    """A first join that never takes a place: in older versions of the request it would."""

    def build(self, request_struct_class: Any) -> Any:
        """Called by the client with the newest version that both sides know."""
        if request_struct_class.API_VERSION < _NAMES_FIRST:
            raise IncompatibleBrokerVersion("the group cannot be asked without joining it")
        return super().build(request_struct_class)


async def close_consumer(consumer: AIOKafkaConsumer) -> None:
    """Leave the group and disconnect; within a deadline, whatever the brokers do, also while being cancelled."""
    await _close(consumer, consumer._client, _consumer_tasks(consumer))


async def close_producer(producer: AIOKafkaProducer) -> None:
    """Send what can be sent and disconnect; within a deadline, whatever the brokers do, also while being cancelled."""
    await _close(producer, producer.client, [producer._sender.sender_task])


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    """Raises ConfigurationError, naming the setting. The files are read one by one, for OpenSSL names none of them."""
    context = ssl.create_default_context()
    if settings.ssl_cafile:
        with _naming("ssl_cafile", settings.ssl_cafile):
            context = ssl.create_default_context(cafile=settings.ssl_cafile)
    if settings.ssl_certfile:
        with _naming("ssl_keyfile", settings.ssl_keyfile or settings.ssl_certfile):
            Path(settings.ssl_keyfile or settings.ssl_certfile).read_bytes()
        with _naming("ssl_certfile", settings.ssl_certfile):
            Path(settings.ssl_certfile).read_bytes()
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile or None, lambda: settings.ssl_password)
    return context


@contextmanager
def _naming(field: str, path: str) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).lower().replace("_", " ")
        hint = " (mend kafka.ssl_password too)" if field == "ssl_certfile" else ""
        raise ConfigurationError(f"kafka.{field}: {path} is no such PEM file: {reason}{hint}") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"kafka.{field}: {path} cannot be read: {why}") from None


async def _close(
    client: AIOKafkaConsumer | AIOKafkaProducer, connections: AIOKafkaClient, tasks: Iterable[asyncio.Task[Any] | None]
) -> None:
    """Stop; what does not stop in time is cancelled, for `stop` waits for answers of brokers that may be gone."""
    with anyio.CancelScope(shield=True):
        # A task of its own, for `stop` may end with the cancellation of a task that it waits for, which is not ours.
        stopping = asyncio.ensure_future(client.stop())
        await asyncio.wait([stopping], timeout=_CLOSE_S)
        stopped = stopping.done() and not stopping.cancelled() and stopping.exception() is None
        if not stopping.done():
            stopping.cancel()
            await asyncio.wait([stopping], timeout=_ABANDON_S)
        running = [task for task in tasks if task is not None and not task.done()]
        if stopped and not running:
            return
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=_ABANDON_S)
        with anyio.move_on_after(_ABANDON_S), suppress(KafkaError, OSError, TimeoutError):
            await connections.close()


def _consumer_tasks(consumer: AIOKafkaConsumer) -> Iterator[asyncio.Task[Any] | None]:
    """Lazily, for some of them begin while others end."""
    for part, names in (
        (consumer._coordinator, ("_coordination_task", "_heartbeat_task", "_commit_refresh_task")),
        (consumer._coordinator, ("_reset_committed_task",)),
        (consumer._fetcher, ("_fetch_task",)),
    ):
        for name in names:
            yield getattr(part, name, None)
    if consumer._fetcher is not None:
        yield from consumer._fetcher._pending_tasks


async def _list_offset(client: AIOKafkaClient, tp: TopicPartition, when: int, timeout_s: float) -> int:
    request = OffsetRequest(-1, READ_COMMITTED, [(tp.topic, [(tp.partition, when)])])
    _error, _timestamp, offset = await _ask(client, tp, request, timeout_s)
    return int(offset)


async def _stable_end(client: AIOKafkaClient, tp: TopicPartition, end: int, timeout_s: float) -> int:
    try:
        return int((await _fetch(client, tp, end, timeout_s))[2])
    except OffsetOutOfRangeError:  # records were removed meanwhile
        return end


async def _fetch(client: AIOKafkaClient, tp: TopicPartition, offset: int, timeout_s: float) -> tuple[Any, ...]:
    """Fetch from the leader at that offset: error, high watermark, last stable offset, …, records.

    It may wait for a millisecond: Tansu says nothing of a partition when it may not wait at all.
    """
    partitions = [(tp.topic, [(tp.partition, offset, _LOOK_BYTES)])]
    return await _ask(client, tp, FetchRequest(1, 1, _LOOK_BYTES, READ_COMMITTED, partitions), timeout_s)


def _aborted(answer: tuple[Any, ...]) -> Iterable[tuple[int, int]]:
    """The aborted transactions in a fetch's answer: they stand before the records, or with newer brokers before the
    preferred replica."""
    return next((part for part in answer[3:-1] if isinstance(part, list)), ())


async def _ask(client: AIOKafkaClient, tp: TopicPartition, request: Any, timeout_s: float) -> tuple[Any, ...]:
    """The partition's part of the leader's answer, from its error code on; asked again until the deadline.

    Goes over the connection that heartbeats use: on the other one answers wait behind long fetches.
    """
    last: KafkaError = LeaderNotAvailableError(tp)
    with anyio.move_on_after(timeout_s):
        while True:
            try:
                return await _ask_once(client, tp, request)
            except KafkaError as error:
                last = error
                if not error.retriable:
                    raise
            with suppress(KafkaError):
                await client.force_metadata_update()
            await anyio.sleep(_RETRY_S)
    raise last


async def _ask_once(client: AIOKafkaClient, tp: TopicPartition, request: Any) -> tuple[Any, ...]:
    leader = client.cluster.leader_for_partition(tp)
    if leader is None or leader == -1:
        client.add_topic(tp.topic)
        raise LeaderNotAvailableError(tp)
    response = await client.send(leader, request, group=ConnectionGroup.COORDINATION)
    for topic, partitions in response.topics:
        for partition, *answer in partitions:
            if (topic, partition) == tp:
                if answer[0] != NoError.errno:
                    raise for_code(answer[0])(tp)
                return tuple(answer)
    raise UnknownTopicOrPartitionError(tp)
