"""`WaitingLetters`: how many dead letters were neither retried nor discarded, by reason; for metrics.

Imports aiokafka's client through the modules beside it. The first look reads the newest letters, each further one what
has come since, so that it costs little however often it is asked.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient

from crashfold.engine.adapters.dead_letters import LetterMark, Origin, StoredDeadLetter
from crashfold.engine.adapters.kafka.client import (
    connected,
    connection_options,
    partition_bounds,
    partition_records,
    request_timeout_s,
    topic_partitions,
)
from crashfold.engine.adapters.kafka.errors import Connection, kafka_errors
from crashfold.engine.adapters.kafka.topics import topic_exists
from crashfold.engine.ports import Record
from crashfold.engine.settings import KafkaSettings

RECORDS_MAX: Final = 100_000
"""Letters and marks of a partition, the newest: reading more of them would keep an engine that starts from its work."""


class WaitingLetters:
    """The letters on `topic` that nobody has dealt with, of the newest `records_max` records of each partition."""

    def __init__(self, topic: str, connection: Connection, records_max: int = RECORDS_MAX) -> None:
        self._topic = topic
        self._connection = connection
        self._records_max = records_max
        self._read_to: dict[int, int] = {}
        self._waiting: dict[Origin, str] = {}
        self._marked: set[Origin] = set()

    @classmethod
    def from_settings(cls, settings: KafkaSettings) -> "WaitingLetters":
        """Those of `kafka.dead_letter_topic`."""
        return cls(settings.dead_letters, connection_options(settings))

    async def count(self) -> Mapping[str, int]:
        """How many there are now, by reason; none without the topic. Raises LogUnavailable or LogRefused."""
        if not await topic_exists(self._connection, self._topic):
            return {}
        timeout_s = request_timeout_s(self._connection)
        with kafka_errors(f"reading {self._topic}"):
            async with connected(self._connection) as client:
                for partition in sorted(await topic_partitions(client, self._topic, timeout_s)):
                    await self._read(client, TopicPartition(self._topic, partition), timeout_s)
        return Counter(self._waiting.values())

    async def _read(self, client: AIOKafkaClient, tp: TopicPartition, timeout_s: float) -> None:
        bounds = await partition_bounds(client, tp, timeout_s)
        begin = self._read_to.get(tp.partition, max(0, bounds.end - self._records_max))
        if begin > bounds.end:  # the topic was made anew
            self._waiting.clear()
            self._marked.clear()
            self._read_to.clear()
            begin = bounds.begin
        async for record in partition_records(client, tp, timeout_s, begin, bounds.end):
            self._take(Record(record.offset, record.timestamp, record.key, b""), record.headers)
        self._read_to[tp.partition] = bounds.end

    def _take(self, record: Record, headers: list[tuple[str, bytes]]) -> None:
        if (mark := LetterMark.from_headers(headers)) is not None:
            self._marked.add(mark.origin)
            self._waiting.pop(mark.origin, None)
            return
        letter = StoredDeadLetter.from_record(record, headers)
        if letter is not None and letter.origin not in self._marked:
            self._waiting[letter.origin] = letter.reason
