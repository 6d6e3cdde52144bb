"""`KafkaLog`: the `EventLog` over a Kafka topic.

Imports aiokafka, its fetcher's buffer included (`kafka_client.py` says why that is all right). Always true: of a
partition that was not sought nothing is delivered, however it was gained; positions are ours, never the group's; and
the rebalance listener only takes notes.

How a poll works. aiokafka's fetcher fills one buffer a partition, in the background, and does not ask for more of a
partition before its buffer is empty; one fetch ahead of it is under way or waits (`kafka_fetching.py`). That bounds the
memory. A poll waits until a buffer of a sought partition has
something, or partitions change hands, and then takes it without any further await, so a cancelled poll loses nothing.
aiokafka's own `getmany` is not used: it waits without end while the group rebalances, and makes an object a record.

How partitions are gained. The listener is called inside aiokafka's coordination, where exceptions are swallowed and
waiting can deadlock. It notes what changed, pauses what came, and gives it a position (0), so that the fetcher neither
asks for the group's committed offsets nor fetches from there. `seek` sets the position and resumes.

When brokers are away, aiokafka retries for ever and says nothing. A poll counts how long each sought partition has
been silent while it was listening, empty answers being answers, and raises LogUnavailable when that is too long. When
a background task of the client has died, or silence lasts much longer, the next poll connects anew, and all
partitions are lost and gained.

A topic that is made anew is another one. Its id is looked up before partitions are reported as gained, and from then
on records are fetched by that id (`kafka_topic_id.py`). When a broker says that there is no such topic, the next poll
looks the id up again: it raises LogUnavailable while no topic has the name, and connects anew when another one does.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

import anyio
import anyio.lowlevel
import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.consumer.fetcher import FetchError, FetchResult
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from crashfold.engine.adapters.kafka.client import (
    begin,
    check_topic,
    close_consumer,
    connection_options,
    partition_bounds,
    partition_record,
    request_timeout_s,
    topic_partitions,
)
from crashfold.engine.adapters.kafka.errors import Connection, Probe, kafka_errors
from crashfold.engine.adapters.kafka.fetching import FetchingAhead
from crashfold.engine.adapters.kafka.records import FetchedRecords
from crashfold.engine.adapters.kafka.topic_id import OneTopic, find_topic_id, printed
from crashfold.engine.adapters.kafka.topics import cleanup_policy
from crashfold.engine.adapters.process.handover import Handover
from crashfold.engine.errors import CrashfoldError, LogUnavailable, LostRange
from crashfold.engine.ports import Bounds, Polled, Record, Records
from crashfold.engine.settings import KafkaSettings

SILENCE_MAX_S: Final = 10.0
WHOLE_FETCH_BYTES: Final = 4 << 20
"""Bytes of one fetch from one partition, at least, for those who read whole topics: some 20,000 games."""
POLL_BYTES_MAX: Final = 32 << 20
"""A poll that has so many bytes of records takes no more; what one partition has unpacked comes on top."""
_LOOK_AGAIN_S: Final = 0.5
"""How often a waiting poll looks for what nothing wakes it for: new partitions, dead tasks."""
_BETWEEN_POLLS_S: Final = 1.0
_REPORT_S: Final = 5.0

_log = logging.getLogger(__name__)


class KafkaLog:
    """An `EventLog` over `topic`: a member of the group `group_id`, or of none and then holding every partition.

    `connection` has the options that all of aiokafka's clients share (`connection_options` makes them from settings);
    the other names are aiokafka's too. `rebalance_timeout_ms` None means `session_timeout_ms`. `silence_max_s` is how
    long a partition may be silent before a poll raises LogUnavailable; it should be several times
    `fetch_max_wait_ms`, after which a broker answers even when there is nothing.
    """

    def __init__(
        self,
        topic: str,
        connection: Connection,
        *,
        group_id: str | None,
        group_instance_id: str | None = None,
        fetch_min_bytes: int = 1,
        fetch_max_bytes: int = 52_428_800,
        fetch_max_wait_ms: int = 500,
        max_partition_fetch_bytes: int = 1_048_576,
        session_timeout_ms: int = 10_000,
        heartbeat_interval_ms: int = 3_000,
        max_poll_interval_ms: int = 300_000,
        rebalance_timeout_ms: int | None = None,
        silence_max_s: float = SILENCE_MAX_S,
    ) -> None:
        self._topic = topic
        self._group_id = group_id
        self._connection = connection
        self._probe = Probe(connection)
        self._timeout_s = request_timeout_s(connection)
        self._silence_max_s = silence_max_s
        self._options: dict[str, Any] = {
            **connection,
            "group_id": group_id,
            "group_instance_id": group_instance_id,
            "fetch_min_bytes": fetch_min_bytes,
            "fetch_max_bytes": fetch_max_bytes,
            "fetch_max_wait_ms": fetch_max_wait_ms,
            "max_partition_fetch_bytes": max_partition_fetch_bytes,
            "session_timeout_ms": session_timeout_ms,
            "heartbeat_interval_ms": heartbeat_interval_ms,
            "max_poll_interval_ms": max_poll_interval_ms,
            "rebalance_timeout_ms": rebalance_timeout_ms,
            "partition_assignment_strategy": (RoundRobinPartitionAssignor,),
            "isolation_level": "read_committed",
            "auto_offset_reset": "none",  # a position that is gone must be an error, never a jump
            "enable_auto_commit": False,
        }
        self._handover = Handover()
        self._consumer: AIOKafkaConsumer | None = None
        self._fetching: FetchingAhead | None = None
        self._one_topic: OneTopic | None = None
        self._topic_id: bytes | None = None
        self._is_made_anew = False
        self._entered = False
        self._listener_fault: Exception | None = None
        self._silences: dict[int, _Silence] = {}
        self._listened_at_s = 0.0
        self._served_last = -1

    @classmethod
    def from_settings(cls, settings: KafkaSettings, *, group: bool = True) -> Self:
        """The log of `kafka.topic`, in the group of `kafka.group_id` or in none.

        Who is in no group reads a topic from end to end, and gets more of it at a time.
        """
        return cls(
            settings.topic,
            connection_options(settings),
            group_id=settings.group_id if group else None,
            group_instance_id=settings.group_instance_id or None if group else None,
            fetch_min_bytes=settings.fetch_min_bytes,
            fetch_max_bytes=settings.fetch_max_bytes,
            fetch_max_wait_ms=settings.fetch_max_wait_ms,
            max_partition_fetch_bytes=max(settings.max_partition_fetch_bytes, 0 if group else WHOLE_FETCH_BYTES),
            session_timeout_ms=settings.session_timeout_ms,
            heartbeat_interval_ms=settings.heartbeat_interval_ms,
            max_poll_interval_ms=settings.max_poll_interval_ms,
            rebalance_timeout_ms=settings.rebalance_timeout_ms or None,
        )

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self._topic

    @property
    def topic_id(self) -> str | None:
        """The id of the topic that is read, as Kafka's tools show it; None before partitions were gained, and where
        brokers know none."""
        return None if self._topic_id is None else printed(self._topic_id)

    async def __aenter__(self) -> Self:
        with kafka_errors("connecting to Kafka"):
            await self._connect()
        self._entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered = False
        await self._disconnect()

    async def poll(self, records_max: int, wait_s: float) -> Polled:
        """Changes of hands if there are any, else records.

        Raises LostRange while a sought partition's position is not, or no longer, within the topic; LogUnavailable,
        connecting anew by itself when it has to; and LogRefused when the brokers refuse for good.
        """
        try:
            return await self._poll(records_max, wait_s)
        except LogUnavailable:
            if self._consumer is not None:  # a client that is connected fails in silence
                brokers = [(broker.host, broker.port) for broker in self._consumer._client.cluster.brokers()]
                await self._probe.look(f"reading {self._topic}", brokers)
            raise

    async def _poll(self, records_max: int, wait_s: float) -> Polled:
        # Records may be there already; without this the loop would serve nobody else.
        await anyio.lowlevel.checkpoint()
        with kafka_errors(f"reading {self._topic}"):
            consumer = await self._living()
            consumer._coordinator.check_errors()
            check_topic(consumer._client, self._topic)
            began_s = time.monotonic()
            with _activity(consumer), anyio.move_on_after(wait_s):
                self._take_all_partitions(consumer)
                while wait_s and not (self._handover.pending or self._arrived(consumer) or self._is_dead(consumer)):
                    with anyio.move_on_after(_LOOK_AGAIN_S):
                        await consumer._fetcher._create_fetch_waiter()
                    self._take_all_partitions(consumer)
            await self._identify(consumer)
            # No await from here on: whoever is cancelled has been given nothing.
            if self._handover.pending:
                gained, lost = self._handover.report()
                return Polled(gained, lost)
            records = self._take(consumer, records_max)
            self._listen(consumer, began_s, records)
            return Polled(records=records, has_more=self._has_more(consumer))

    async def seek(self, partition: int, next_offset: int) -> None:
        """Read on from there; nothing when the partition was lost meanwhile, as the next poll says."""
        await anyio.lowlevel.checkpoint()
        if self._consumer is not None and self._handover.seek(partition, next_offset):
            self._silences.pop(partition, None)
            tp = TopicPartition(self._topic, partition)
            self._consumer.seek(tp, next_offset)
            self._consumer.resume(tp)

    async def bounds(self, partition: int) -> Bounds:
        """Which offsets of committed records the partition holds, by the brokers' word of now."""
        tp = TopicPartition(self._topic, partition)
        with kafka_errors(f"asking for the bounds of {self._topic}"):
            return await partition_bounds(self._connected()._client, tp, self._timeout_s)

    async def partitions(self) -> frozenset[int]:
        """All partitions of the topic, by the brokers' word of now; none while there is no such topic."""
        with kafka_errors(f"asking for the partitions of {self._topic}"):
            return await topic_partitions(self._connected()._client, self._topic, self._timeout_s)

    async def current_topic_id(self) -> str | None:
        """The id of the topic that has the name, by the brokers' word of now, as Kafka's tools show it."""
        with kafka_errors(f"looking for the topic {self._topic}"):
            found = await find_topic_id(self._connected()._client, self._topic, self._timeout_s)
        return None if found is None else printed(found)

    async def is_compacted(self) -> bool:
        """Whether the topic's `cleanup.policy` has `compact`; False where this user may not read it."""
        with kafka_errors(f"asking for the settings of {self._topic}"):
            policy = await cleanup_policy(self._connected()._client, self._topic, self._timeout_s)
        return policy is not None and "compact" in policy

    async def record(self, partition: int, offset: int) -> Record | None:
        """The committed record at exactly that offset, whoever holds the partition."""
        tp = TopicPartition(self._topic, partition)
        with kafka_errors(f"looking at one record of {self._topic}"):
            return await partition_record(self._connected()._client, tp, offset, self._timeout_s)

    async def report(self, next_offsets: Mapping[int, int]) -> None:
        """Commit the group's offsets of partitions held, as far as that works: nobody reads them back."""
        held = self._handover.held
        offsets = {TopicPartition(self._topic, p): offset for p, offset in next_offsets.items() if p in held}
        if self._group_id is None or self._consumer is None or not offsets:
            await anyio.lowlevel.checkpoint()
            return
        try:
            with anyio.move_on_after(_REPORT_S), kafka_errors("committing the group's offsets"):
                await self._consumer.commit(offsets)
        except CrashfoldError as error:
            _log.debug("the group's offsets were not committed: %s", error)

    async def _connect(self) -> None:
        consumer = AIOKafkaConsumer(**self._options)
        try:
            await begin(consumer.start(), self._connection)
            with anyio.fail_after(self._timeout_s):
                await consumer._client.set_topics([self._topic])
            if self._group_id is not None:
                consumer.subscribe([self._topic], listener=_Listener(self, consumer))
            one_topic = OneTopic(consumer._client, self._topic)
            fetching = consumer._fetcher._client = FetchingAhead(one_topic)
        except BaseException:
            await close_consumer(consumer)
            raise
        self._consumer, self._fetching, self._one_topic, self._is_made_anew = consumer, fetching, one_topic, False

    async def _disconnect(self) -> None:
        self._handover.lose(set(self._handover.held))
        self._silences.clear()
        self._listener_fault = None
        if self._fetching is not None:
            self._fetching.close()
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await close_consumer(consumer)

    def _connected(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise LogUnavailable("there is no connection to Kafka now")
        return self._consumer

    async def _living(self) -> AIOKafkaConsumer:
        """The consumer; a new one when it is broken. Only `poll` does this, so it never happens twice at once."""
        if self._consumer is not None and (self._is_dead(self._consumer) or self._is_deaf()):
            _log.warning("the Kafka client is connected anew")
            await self._disconnect()
        if self._consumer is None:
            if not self._entered:
                raise LogUnavailable("the log was left")
            await self._connect()
        return self._connected()

    def _is_dead(self, consumer: AIOKafkaConsumer) -> bool:
        """Whether a task without which nothing comes any more has ended, or the listener failed."""
        if self._listener_fault is not None or self._is_made_anew or consumer._fetcher._fetch_task.done():
            return True
        return self._group_id is not None and consumer._coordinator._coordination_task.done()

    def _is_deaf(self) -> bool:
        """Whether a partition has been silent for so long that a fault of the client is the likely reason."""
        limit_s = self._silence_max_s + 2 * self._timeout_s
        return any(silence.lasted_s > limit_s for silence in self._silences.values())

    async def _identify(self, consumer: AIOKafkaConsumer) -> None:
        """Find out which topic it is whose partitions are about to be gained, or which a broker did not know.

        A topic made anew is connected to anew: everything that the client knows and holds is of the old one.
        """
        one_topic = self._one_topic
        assert one_topic is not None
        if not (one_topic.is_in_doubt or (self._handover.pending and self._handover.held)):
            return
        found = await find_topic_id(consumer._client, self._topic, self._timeout_s)
        if one_topic.topic_id is not None and found != one_topic.topic_id:
            _log.warning("the topic %s was made anew", self._topic)
            self._is_made_anew = True
            await self._living()
            return
        self._topic_id = one_topic.topic_id = found
        one_topic.is_in_doubt = False

    def _take_all_partitions(self, consumer: AIOKafkaConsumer) -> None:
        """Without a group: hold all partitions that the client has heard of, and go on where each was."""
        if self._group_id is not None:
            return
        known = set(consumer.partitions_for_topic(self._topic) or ())
        if not known:
            consumer._client.force_metadata_update()
        if known <= self._handover.held:
            return
        self._handover.gain(known)
        consumer.assign([TopicPartition(self._topic, partition) for partition in sorted(self._handover.held)])
        for tp in consumer.assignment():
            position = self._handover.positions.get(tp.partition)
            if position is None:
                _park(consumer, tp)
            else:
                consumer.seek(tp, position)

    def _revoked(self, consumer: AIOKafkaConsumer, partitions: set[int]) -> None:
        """The group takes partitions back."""
        if consumer is self._consumer:
            self._handover.lose(partitions)
            self._wake(consumer)

    def _assigned(self, consumer: AIOKafkaConsumer, partitions: set[int]) -> None:
        """The group gives partitions."""
        if consumer is not self._consumer:
            return
        try:
            for partition in partitions:
                _park(consumer, TopicPartition(self._topic, partition))
        except Exception as error:  # it would be swallowed where it goes
            self._listener_fault = error
        self._handover.gain(partitions)
        self._wake(consumer)

    def _wake(self, consumer: AIOKafkaConsumer) -> None:
        for waiter in consumer._fetcher._fetch_waiters:
            consumer._fetcher._notify(waiter)

    def _arrived(self, consumer: AIOKafkaConsumer) -> bool:
        """Whether a buffer of a sought partition has something, be it an error."""
        buffers = consumer._fetcher._records
        return any(TopicPartition(self._topic, partition) in buffers for partition in self._handover.positions)

    def _take(self, consumer: AIOKafkaConsumer, records_max: int) -> tuple[Records, ...]:
        """At most `records_max` records, or enough bytes, the partitions in turn, beginning behind the one that was
        served last.

        Raises an error found in a buffer only when there are no records to return: then nothing is lost by it.
        """
        taken: list[Records] = []
        room = POLL_BYTES_MAX
        positions = self._handover.positions
        for partition in sorted(positions, key=lambda partition: (partition <= self._served_last, partition)):
            try:
                records = self._take_from(consumer, partition, records_max)
            except (KafkaError, LostRange):
                if taken:
                    break
                raise
            if records is None or records.next_offset == positions[partition]:
                continue
            positions[partition] = records.next_offset
            taken.append(records)
            records_max -= len(records)
            room -= records.bytes_held
            self._served_last = partition
            if records_max <= 0 or room <= 0:
                break
        return tuple(taken)

    def _take_from(self, consumer: AIOKafkaConsumer, partition: int, records_max: int) -> Records | None:
        """What the partition's buffer has; None when that is nothing, or of another position than ours."""
        tp = TopicPartition(self._topic, partition)
        fetcher = consumer._fetcher
        buffer = fetcher._records.get(tp)
        if buffer is None:
            return None
        position = self._handover.positions[partition]
        try:
            if isinstance(buffer, FetchError):
                raise buffer._error
            fetched = self._opened(buffer, tp, position)
            records = None if fetched is None else fetched.take(partition, records_max)
        except KafkaError as error:
            # Fetch from here again. After some errors the client would go on elsewhere.
            consumer.seek(tp, position)
            if isinstance(error, OffsetOutOfRangeError):
                raise LostRange(
                    f"partition {partition} of {self._topic} has no offset {position} (any more); "
                    "accept the gap or rebuild"
                ) from error
            raise
        if records is None:
            consumer.seek(tp, position)
            return None
        buffer._update_position()
        if fetched is None or fetched.exhausted:
            del fetcher._records[tp]
            fetcher._notify(fetcher._wait_consume_future)
        return records

    def _has_more(self, consumer: AIOKafkaConsumer) -> bool:
        """Whether a partition goes on behind what was taken, by the answer to its last fetch."""
        for partition, position in self._handover.positions.items():
            state = consumer._subscription._assigned_state(TopicPartition(self._topic, partition))
            end = state.highwater if state.lso is None else state.lso
            if end is not None and position < end:
                return True
        return False

    def _opened(self, buffer: FetchResult, tp: TopicPartition, position: int) -> FetchedRecords | None:
        """The buffer's records as ours, instead of aiokafka's own iterator; None when they are out of date."""
        if not buffer.check_assignment(tp) or buffer._partition_records.next_fetch_offset != position:
            return None
        if not isinstance(buffer._partition_records, FetchedRecords):
            data = self._fetching.take(tp, position) if self._fetching is not None else None
            if data is None:
                return None
            parser = buffer._partition_records
            buffer._partition_records = FetchedRecords(data, parser._aborted_transactions, position)
            # The two refer to each other: the bytes would stay until the collector comes round.
            parser._records_iterator = None
        fetched: FetchedRecords = buffer._partition_records
        return fetched

    def _listen(self, consumer: AIOKafkaConsumer, began_s: float, taken: tuple[Records, ...]) -> None:
        """Count how long each partition has been silent; LogUnavailable when that is too long.

        What counts is time spent listening: the poll that is about to end, and a little of what came before it, so
        that an engine that was busy elsewhere does not take its own silence for the broker's.
        """
        now_s = time.monotonic()
        listened_s = min(now_s - self._listened_at_s, now_s - began_s + _BETWEEN_POLLS_S)
        self._listened_at_s = now_s
        silences = {}
        for partition in self._handover.positions:
            tp = TopicPartition(self._topic, partition)
            heard_ms = consumer._subscription._assigned_state(tp).timestamp
            before = self._silences.get(partition)
            if before is None or before.heard_ms != heard_ms or tp in consumer._fetcher._records:
                silences[partition] = _Silence(heard_ms, 0.0)
            else:
                silences[partition] = _Silence(heard_ms, before.lasted_s + listened_s)
        self._silences = silences
        silent = [partition for partition, silence in silences.items() if silence.lasted_s > self._silence_max_s]
        if silent and not taken:
            raise LogUnavailable(f"{self._topic}: no answer for partitions {silent} in {self._silence_max_s:g} s")


class _Silence(msgspec.Struct, frozen=True):
    """For how long a partition's leader has not answered, and when it last did."""

    heard_ms: int | None
    lasted_s: float


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Takes notes of what the group decided; see the module's docstring for why it does no more."""

    def __init__(self, log: KafkaLog, consumer: AIOKafkaConsumer) -> None:
        self._log = log
        self._consumer = consumer

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """The group takes these back."""
        self._log._revoked(self._consumer, {tp.partition for tp in revoked})

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """The group gives these."""
        self._log._assigned(self._consumer, {tp.partition for tp in assigned})


def _park(consumer: AIOKafkaConsumer, tp: TopicPartition) -> None:
    """Give the partition a position, and keep it from being fetched from there."""
    consumer.pause(tp)
    consumer.seek(tp, 0)


@contextmanager
def _activity(consumer: AIOKafkaConsumer) -> Iterator[None]:
    """Tell the client that somebody reads; after `max_poll_interval_ms` without, it leaves the group."""
    subscription = consumer._subscription
    subscription._fetch_count += 1
    try:
        yield
    finally:
        subscription._fetch_count -= 1
        subscription._last_fetch_ended = time.monotonic()
