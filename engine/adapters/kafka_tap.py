"""The bytes of every fetch, noted as they pass.

aiokafka's fetcher wraps what it fetched into a parser that keeps the bytes to itself. A `Tap` stands in the place of
the client that the fetcher asks: it hands everything on, and notes the newest fetch of each partition. Two fetches of
one partition are never under way at once, and none is made before the last one was consumed.
"""

from typing import Any

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.fetch import FetchRequest


class Tap:
    """A client as the fetcher sees it."""

    def __init__(self, client: AIOKafkaClient) -> None:
        self._client = client
        self._fetched: dict[TopicPartition, tuple[int, bytes]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def send(self, node_id: int, request: Any, **options: Any) -> Any:
        """Ask that node. Raises what the client does."""
        answer = await self._client.send(node_id, request, **options)
        if isinstance(request, FetchRequest):
            asked = {(topic, part): begin for topic, parts in request.topics for part, begin, _ in parts}
            for topic, parts in answer.topics:
                for partition, *_, data in parts:
                    self._fetched[TopicPartition(topic, partition)] = asked[topic, partition], data
        return answer

    def take(self, tp: TopicPartition, next_offset: int) -> bytes | None:
        """What was fetched of the partition from there on, once; None when the newest fetch was of another place."""
        begin, data = self._fetched.pop(tp, (-1, b""))
        return data if begin == next_offset else None
