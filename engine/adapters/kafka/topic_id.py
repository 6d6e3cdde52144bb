"""Fetching by topic id (KIP-516): records of one topic, whatever bears its name by now.

A topic that is deleted and made again has its old name, other records, and another id. aiokafka fetches by name, so it
would go on in the new topic at the offset where it stood in the old one. `OneTopic` stands in the place of its client
and sends the same fetches by id: a broker refuses those of a topic that is gone. So whatever arrives is of the topic
that was asked for, by the protocol itself, and no time of asking has to be chosen.

Brokers know topic ids since Kafka 2.8 (Metadata v10) and fetch by them since 3.1 (Fetch v13). In between the id is
looked up at the same broker behind each fetch: a broker learns of a topic before it serves it, so an unchanged id says
that what it sent before is of that topic. Older ones have no ids; there `OneTopic` does nothing.

Imports aiokafka, which has no types, and nothing of ours.
"""

import base64
from io import BytesIO
from typing import Any, Final

import anyio
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.errors import IncompatibleBrokerVersion, UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactBytes,
    CompactString,
    Int8,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

_UNKNOWN_TOPIC: Final = UnknownTopicOrPartitionError.errno
_ID_ERRORS: Final = frozenset({_UNKNOWN_TOPIC, 100, 103, 106})
"""UNKNOWN_TOPIC_OR_PARTITION, UNKNOWN_TOPIC_ID, INCONSISTENT_TOPIC_ID, FETCH_SESSION_TOPIC_ID_ERROR."""
_NO_ID: Final = bytes(16)
_NONE: Final = -1
_FINAL_EPOCH: Final = -1
"""Of a fetch that belongs to no session."""


class _Uuid(AbstractType[bytes]):  # type: ignore[misc]
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)


_TAGS: Final = ("tags", TaggedFields)


class OneTopic:
    """A client, as a fetcher sees it, whose fetches bring records of the topic with `topic_id` alone.

    Until that is set they bring what bears the name. `is_in_doubt` is set when a broker says that there is no such
    topic; it may be behind, or the topic is gone.
    """

    def __init__(self, client: AIOKafkaClient, topic: str) -> None:
        self._client = client
        self._topic = topic
        self.topic_id: bytes | None = None
        self.is_in_doubt = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def send(self, node_id: int, request: Any, **options: Any) -> Any:
        """Ask that node. Raises what the client does."""
        topic_id = self.topic_id
        if topic_id is None or not isinstance(request, FetchRequest):
            return await self._client.send(node_id, request, **options)
        answer = await self._client.send(node_id, _FetchById(request, topic_id), **options)
        if answer.API_VERSION >= _FetchRequest.API_VERSION:
            if answer.error_code:
                raise for_code(answer.error_code)(self._topic)
            answer.topics = [(self._topic, [_as_by_name(part) for part in parts]) for _, parts, _ in answer.topics]
        elif any(part[-1] for _, parts in answer.topics for part in parts) and not await self._is_at(node_id, topic_id):
            answer.topics = [(topic, [_refused(part) for part in parts]) for topic, parts in answer.topics]
        if any(part[1] == _UNKNOWN_TOPIC for _, parts in answer.topics for part in parts):
            self.is_in_doubt = True
        return answer

    async def _is_at(self, node_id: int, topic_id: bytes) -> bool:
        try:
            return await _topic_id_at(self._client, self._topic, node_id) == topic_id
        except UnknownTopicOrPartitionError:
            return False


async def find_topic_id(client: AIOKafkaClient, topic: str, timeout_s: float) -> bytes | None:
    """The id of the topic that has this name, by a broker's word of now; None where brokers know no ids.

    Raises UnknownTopicOrPartitionError when there is no such topic.
    """
    with anyio.fail_after(timeout_s):
        return await _topic_id_at(client, topic, client.get_random_node())


def printed(topic_id: bytes) -> str:
    """The id as Kafka's own tools show it."""
    return base64.urlsafe_b64encode(topic_id).rstrip(b"=").decode()


async def _topic_id_at(client: AIOKafkaClient, topic: str, node_id: int) -> bytes | None:
    """Over the connection that heartbeats use: on the other one answers wait behind long fetches."""
    try:
        answer = await client.send(node_id, _TopicIds(topic), group=ConnectionGroup.COORDINATION)
    except (IncompatibleBrokerVersion, NotImplementedError):
        return None
    ((error, _, topic_id, *_),) = answer.topics
    if error:
        raise for_code(error)(topic)
    return None if topic_id == _NO_ID else bytes(topic_id)


def _as_by_name(part: tuple[Any, ...]) -> tuple[Any, ...]:
    """A partition's part of an answer as it is in answers to fetches by name."""
    partition, error, end, stable_end, begin, aborted, replica, records, _ = part
    pairs = None if aborted is None else [(producer, offset) for producer, offset, _ in aborted]
    return (
        partition,
        _UNKNOWN_TOPIC if error in _ID_ERRORS else error,
        *(end, stable_end, begin, pairs, replica, records or b""),
    )


def _refused(part: tuple[Any, ...]) -> tuple[Any, ...]:
    return (part[0], _UNKNOWN_TOPIC, *part[2:-1], b"")


class _FetchResponse(Response):  # type: ignore[misc]
    API_KEY = 1
    API_VERSION = 13
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("session_id", Int32),
        (
            "topics",
            CompactArray(
                ("topic_id", _Uuid),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("highwater_offset", Int64),
                        ("last_stable_offset", Int64),
                        ("log_start_offset", Int64),
                        (
                            "aborted_transactions",
                            CompactArray(("producer_id", Int64), ("first_offset", Int64), _TAGS),
                        ),
                        ("preferred_read_replica", Int32),
                        ("message_set", CompactBytes),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _FetchRequest(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 1
    API_VERSION = 13
    RESPONSE_TYPE = _FetchResponse
    SCHEMA = Schema(
        ("replica_id", Int32),
        ("max_wait_time", Int32),
        ("min_bytes", Int32),
        ("max_bytes", Int32),
        ("isolation_level", Int8),
        ("session_id", Int32),
        ("session_epoch", Int32),
        (
            "topics",
            CompactArray(
                ("topic_id", _Uuid),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("current_leader_epoch", Int32),
                        ("fetch_offset", Int64),
                        ("last_fetched_epoch", Int32),
                        ("log_start_offset", Int64),
                        ("max_bytes", Int32),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        (
            "forgotten_topics_data",
            CompactArray(("topic_id", _Uuid), ("partitions", CompactArray(Int32)), _TAGS),
        ),
        ("rack_id", CompactString("utf-8")),
        _TAGS,
    )


class _FetchById(Request[_FetchRequest]):  # type: ignore[misc]
    """The fetch, by id where the broker can do that, else as it is."""

    API_KEY = 1

    def __init__(self, request: FetchRequest, topic_id: bytes) -> None:
        self._by_name = request
        self._topic_id = topic_id

    def prepare(self, versions: dict[int, tuple[int, int]]) -> Any:
        oldest, newest = versions.get(self.API_KEY, (0, 0))
        if oldest <= _FetchRequest.API_VERSION <= newest:
            return self.build(_FetchRequest)
        return self._by_name.prepare(versions)

    def build(self, request_struct_class: type[_FetchRequest]) -> _FetchRequest:
        request = self._by_name
        ((_, wanted),) = request.topics
        parts: list[tuple[object, ...]] = [
            (partition, _NONE, offset, _NONE, _NONE, max_bytes, {}) for partition, offset, max_bytes in wanted
        ]
        return request_struct_class(
            _NONE,
            request._max_wait_ms,
            request._min_bytes,
            request._max_bytes,
            request._isolation_level,
            0,
            _FINAL_EPOCH,
            [(self._topic_id, parts, {})],
            [],
            request._rack_id,
            {},
        )


_TOPICS: Final = ("topics", CompactArray(("topic_id", _Uuid), ("topic", CompactString("utf-8")), _TAGS))


def _metadata(*tail: tuple[str, Any]) -> Schema:
    """The answer to a request for metadata, which grew shorter at its end."""
    return Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32), ("host", CompactString()), ("port", Int32), ("rack", CompactString()), _TAGS
            ),
        ),
        ("cluster_id", CompactString()),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString()),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline", CompactArray(Int32)),
                        _TAGS,
                    ),
                ),
                ("authorized_operations", Int32),
                _TAGS,
            ),
        ),
        *tail,
        _TAGS,
    )


class _MetadataResponse10(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = _metadata(("cluster_authorized_operations", Int32))


class _MetadataRequest10(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 10
    RESPONSE_TYPE = _MetadataResponse10
    SCHEMA = Schema(
        _TOPICS,
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        _TAGS,
    )


class _MetadataResponse12(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 12
    SCHEMA = _metadata()


class _MetadataRequest12(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 12
    RESPONSE_TYPE = _MetadataResponse12
    SCHEMA = Schema(
        _TOPICS,
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        _TAGS,
    )


class _TopicIds(Request[_MetadataRequest10 | _MetadataRequest12]):  # type: ignore[misc]
    """Metadata of one topic, which is not made by asking."""

    API_KEY = 3

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def build(self, request_struct_class: type[Any]) -> Any:
        refusals = (False,) * (len(request_struct_class.SCHEMA) - 2)
        return request_struct_class([(_NO_ID, self._topic, {})], *refusals, {})
