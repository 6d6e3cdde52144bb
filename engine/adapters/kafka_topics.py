"""Topics on a Kafka cluster: are they there, and make them.

Imports aiokafka's admin client. Each call connects, asks and disconnects, within the request's deadline.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import anyio
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import NoError, TopicAlreadyExistsError, for_code

from engine.adapters.kafka_client import begin, request_timeout_s
from engine.adapters.kafka_errors import Connection, kafka_errors

_LOOK_AGAIN_S: Final = 0.05
_CLOSE_S: Final = 3.0


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
    partitions = described["partitions"]
    return bool(partitions) and all(partition["leader"] >= 0 for partition in partitions)
