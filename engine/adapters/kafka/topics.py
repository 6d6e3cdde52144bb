"""Topics on a Kafka cluster: are they there, make them, what their settings say.

Imports aiokafka's admin client. Each call connects, asks and disconnects, within the request's deadline; but
`cleanup_policy` asks by a client that is connected.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import anyio
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    NoError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.protocol.admin import DescribeConfigsRequest

from crashfold.engine.adapters.kafka.client import begin, request_timeout_s
from crashfold.engine.adapters.kafka.errors import Connection, kafka_errors

_LOOK_AGAIN_S: Final = 0.05
_CLOSE_S: Final = 3.0
_TOPIC: Final = 2
"""The type of a resource that is a topic."""
_CLEANUP_POLICY: Final = "cleanup.policy"


async def topic_exists(connection: Connection, topic: str) -> bool:
    """Whether there is a topic of that name. Raises LogUnavailable."""
    async with _admin(connection, f"looking for the topic {topic}") as admin:
        return topic in await admin.list_topics()


async def ensure_topic(
    connection: Connection,
    topic: str,
    partitions: int = 1,
    *,
    replication_factor: int | None = None,
    configs: Mapping[str, str] | None = None,
) -> bool:
    """Make the topic unless it is there, and wait until every partition has a leader; whether it was made.

    `replication_factor` None leaves it to the brokers; `configs` are Kafka's own names and values. A topic that is
    there stays as it is. Raises LogUnavailable, and LogRefused when it may not be made.
    """
    async with _admin(connection, f"making the topic {topic}") as admin:
        made = False
        if topic not in await admin.list_topics():
            # An empty assignment of replicas is how the client lets a number be left open (-1).
            assignments: dict[int, list[int]] | None = {} if replication_factor is None else None
            new = NewTopic(topic, partitions, replication_factor or -1, assignments, dict(configs or {}))
            for _topic, code, *message in (await admin.create_topics([new])).topic_errors:
                if code not in (NoError.errno, TopicAlreadyExistsError.errno):
                    raise for_code(code)(*message)
                made = code == NoError.errno
        while not await _has_leaders(admin, topic):
            await anyio.sleep(_LOOK_AGAIN_S)
        return made


async def cleanup_policy(client: AIOKafkaClient, topic: str, timeout_s: float) -> str | None:
    """The topic's `cleanup.policy`; None where it may not be read or the broker has no such thing.

    Raises aiokafka's errors. Goes over the connection that heartbeats use: on the other one answers wait behind long
    fetches. All settings are asked for: Tansu hangs up on who asks for some.
    """
    request = DescribeConfigsRequest([(_TOPIC, topic, None)])
    try:
        with anyio.fail_after(timeout_s):
            answer = await client.send(client.get_random_node(), request, group=ConnectionGroup.COORDINATION)
    except (IncompatibleBrokerVersion, NotImplementedError):
        return None
    settings = [entry for error, _, _, _, entries in answer.resources if not error for entry in entries]
    return next((value for name, value, *_ in settings if name == _CLEANUP_POLICY), None)


async def check_topic_can_be_made(connection: Connection, topic: str, configs: Mapping[str, str] | None = None) -> None:
    """Ask the brokers whether the topic, which is not seen, might be made, without making it. Raises LogRefused with
    the reason if not; also when it is there all the same, for then the user has no right on it."""
    async with _admin(connection, f"trying whether {topic} can be made") as admin:
        new = NewTopic(topic, 1, -1, {}, dict(configs or {}))
        for _topic, code, *message in (await admin.create_topics([new], validate_only=True)).topic_errors:
            if code == TopicAlreadyExistsError.errno and topic not in await admin.list_topics():
                raise TopicAuthorizationFailedError(topic)
            if code not in (NoError.errno, TopicAlreadyExistsError.errno):
                raise for_code(code)(*message)


@asynccontextmanager
async def _admin(connection: Connection, doing: str) -> AsyncIterator[AIOKafkaAdminClient]:
    with kafka_errors(doing):
        admin = AIOKafkaAdminClient(**connection)
        try:
            await begin(admin.start(), connection)
            with anyio.fail_after(request_timeout_s(connection)):
                yield admin
        finally:
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await admin.close()


async def _has_leaders(admin: AIOKafkaAdminClient, topic: str) -> bool:
    (described,) = await admin.describe_topics([topic])
    if described["error_code"] == TopicAuthorizationFailedError.errno:  # it may be made, and not be known of
        raise TopicAuthorizationFailedError(topic)
    partitions = described["partitions"]
    return bool(partitions) and all(partition["leader"] >= 0 for partition in partitions)
