"""Fetching: one fetch ahead, and the bytes of every fetch noted as they pass.

aiokafka's fetcher asks for more of a partition when its buffer is empty, so a broker that could send does nothing while
an engine folds; and it wraps what it fetched into a parser that keeps the bytes to itself. `FetchingAhead` stands in
the place of the client that the fetcher asks, and hands everything else on.

Whenever an answer brings records, the fetch behind them is sent at once, and its answer kept for when the fetcher asks
for just that. When it asks for anything else, because it was told to seek or partitions came or went, the answer is
dropped. So at most one answer a broker waits here, as much as `fetch_max_bytes` allows; and nothing that the fetcher
did not ask for reaches it.
"""

import asyncio
import struct
from typing import Any, Final, NamedTuple

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.fetch import FetchRequest

_PLACE: Final = struct.Struct(">qi")
"""Base offset of a batch, and how many bytes come behind this."""
_LAST_DELTA: Final = struct.Struct(">i")
_LAST_DELTA_AT: Final = 23
_MAGIC_AT: Final = 16
_MAGIC: Final = 2

Positions = dict[TopicPartition, int]


class _Ahead(NamedTuple):
    """A fetch that nobody has asked for yet."""

    positions: Positions
    answer: "asyncio.Task[Any]"


class FetchingAhead:
    """A client as the fetcher of a consumer sees it."""

    def __init__(self, client: AIOKafkaClient) -> None:
        self._client = client
        self._fetched: dict[TopicPartition, tuple[int, bytes]] = {}
        self._ahead: dict[int, _Ahead] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def send(self, node_id: int, request: Any, **options: Any) -> Any:
        """Ask that node. Raises what the client does."""
        if not isinstance(request, FetchRequest):
            return await self._client.send(node_id, request, **options)
        positions = _positions(request)
        ahead = self._ahead.pop(node_id, None)
        if ahead is not None and ahead.positions == positions:
            answer = await ahead.answer
        else:
            if ahead is not None:
                ahead.answer.cancel()
            answer = await self._client.send(node_id, request, **options)
        self._fetched.update(_fetched(answer, positions))
        self._fetch_ahead(node_id, request, answer, positions)
        return answer

    def take(self, tp: TopicPartition, next_offset: int) -> bytes | None:
        """Return the fetch from that offset on, once; None when the newest fetch was of another offset."""
        begin, data = self._fetched.pop(tp, (-1, b""))
        return data if begin == next_offset else None

    def close(self) -> None:
        """Drop what nobody asked for."""
        while self._ahead:
            self._ahead.popitem()[1].answer.cancel()

    def _fetch_ahead(self, node_id: int, request: FetchRequest, answer: Any, positions: Positions) -> None:
        """Send the fetch that comes behind this answer, unless there was nothing in it, or trouble."""
        moved = dict(positions)
        for topic, parts in answer.topics:
            for partition, error, *_, data in parts:
                if error:
                    return
                end = _end_of(data)
                if end is not None:
                    moved[TopicPartition(topic, partition)] = end
        if moved == positions:
            return
        topics = [
            (topic, [(partition, moved[TopicPartition(topic, partition)], most) for partition, _, most in parts])
            for topic, parts in request.topics
        ]
        behind = FetchRequest(
            request._max_wait_ms,
            request._min_bytes,
            request._max_bytes,
            request._isolation_level,
            topics,
            request._rack_id,
        )
        answered = asyncio.ensure_future(self._client.send(node_id, behind))
        answered.add_done_callback(_looked_at)
        self._ahead[node_id] = _Ahead(moved, answered)


def _positions(request: FetchRequest) -> Positions:
    return {TopicPartition(topic, partition): begin for topic, parts in request.topics for partition, begin, _ in parts}


def _fetched(answer: Any, positions: Positions) -> dict[TopicPartition, tuple[int, bytes]]:
    """Of each partition where its fetch began, and the bytes."""
    found = {}
    for topic, parts in answer.topics:
        for partition, *_, data in parts:
            tp = TopicPartition(topic, partition)
            found[tp] = positions[tp], data
    return found


def _end_of(data: bytes) -> int | None:
    """The offset behind the last whole batch; None when there is none, or one of a format that does not say."""
    end, position = None, 0
    while position + _LAST_DELTA_AT + _LAST_DELTA.size <= len(data):
        base, length = _PLACE.unpack_from(data, position)
        if position + _PLACE.size + length > len(data):
            break
        if data[position + _MAGIC_AT] != _MAGIC:
            return None
        end = base + _LAST_DELTA.unpack_from(data, position + _LAST_DELTA_AT)[0] + 1
        position += _PLACE.size + length
    return end


def _looked_at(answer: "asyncio.Task[Any]") -> None:
    """A fetch that fails may be one that nobody comes for any more: asyncio would call that an error."""
    if not answer.cancelled():
        answer.exception()
