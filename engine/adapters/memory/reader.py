"""The shipped twin of the Redis reader: `MemoryReader`, over a `MemoryStore`.

Imports anyio and the store beside it, whose troubles it shares: they are asked for there, by the names of its methods.
"""

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio

from crashfold.engine.adapters.memory.store import MemoryStore
from crashfold.engine.errors import StateError
from crashfold.engine.ports import (
    AllFields,
    CachedAnswer,
    Fields,
    First,
    Piece,
    Pieces,
    Read,
    Standing,
    StreamOverview,
    Text,
    Whole,
    WindowPart,
)
from crashfold.projections.delta import SortedSet, Value
from crashfold.schemas import keys
from crashfold.schemas.aggregates import Update


class MemoryReader:
    """`LiveReader` over what `store` holds. Answers that are kept never expire."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._data = store._data

    @asynccontextmanager
    async def updates(self, stream: str) -> AsyncIterator["_Updates"]:
        """See `LiveReader`."""
        await self._meet("updates")
        waiting: deque[Update] = deque()
        subscribers = self._data.subscribers.setdefault(stream, [])
        subscribers.append(waiting)
        try:
            yield _Updates(self, waiting)
        finally:
            subscribers[:] = [other for other in subscribers if other is not waiting]

    async def standing(self, stream: str) -> Standing | None:
        """See `LiveReader`."""
        await self._meet("standing")
        return self._standing(stream)

    async def read_pieces(self, stream: str, pieces: Sequence[Piece]) -> Pieces | None:
        """See `LiveReader`."""
        await self._meet("read_pieces")
        standing = self._standing(stream)
        if standing is None:
            return None
        model = self._data.live[stream].model
        return Pieces(standing, [_read(model.get(piece.name), piece) for piece in pieces])

    async def streams(self, topic: str) -> list[str]:
        """See `LiveReader`."""
        await self._meet("streams")
        return sorted({name for (of, _), one in self._data.manifests.items() if of == topic for name in one.streams})

    async def overview(self, stream: str) -> StreamOverview | None:
        """See `LiveReader`."""
        await self._meet("overview")
        standing = self._standing(stream)
        if standing is None:
            return None
        model = self._data.live[stream].model
        window, gaps = model.get(keys.GAMES, SortedSet({})), model.get(keys.GAPS, {})
        if not isinstance(window, SortedSet) or not isinstance(gaps, dict):
            raise StateError(f"a key of stream {stream} has another type; `crashfold replay` rebuilds")
        return StreamOverview(standing, window.members.get(max(window.members, default=0)), dict(gaps))

    async def read_window(self, stream: str, above_id: int) -> WindowPart | None:
        """See `LiveReader`."""
        await self._meet("read_window")
        standing = self._standing(stream)
        if standing is None:
            return None
        window = self._data.live[stream].model.get(keys.GAMES, SortedSet({}))
        if not isinstance(window, SortedSet):
            raise StateError(f"{keys.GAMES} of stream {stream} is no sorted set; `crashfold replay` rebuilds")
        games = [member for game_id, member in sorted(window.members.items()) if game_id > above_id]
        stored = {} if above_id else self._data.live[stream].model.get(keys.CHECKPOINT, {})
        assert isinstance(stored, dict)
        return WindowPart(standing, len(window.members), games, dict(stored))

    async def cached(self, stream: str, version: int, request: str) -> bytes | None:
        """See `LiveReader`."""
        await self._meet("cached")
        return self._data.cache.get((stream, version, request))

    async def keep(self, answers: Sequence[CachedAnswer]) -> None:
        """See `LiveReader`."""
        await self._meet("keep")
        self._data.cache.update({(kept.stream, kept.version, kept.request): kept.answer for kept in answers})

    async def _meet(self, method: str) -> None:
        await self._store._end(await self._store._begin(method))

    def _standing(self, stream: str) -> Standing | None:
        kept = self._data.live.get(stream)
        if kept is None:
            return None
        checkpoint = kept.checkpoint
        return Standing(
            checkpoint.generation,
            kept.version,
            checkpoint.topic,
            checkpoint.partition,
            checkpoint.next_offset,
            kept.total_games,
            kept.newest_id or 0,
            checkpoint.commit,
            checkpoint.topic_id,
        )


class _Updates:
    """`Updates` of one subscriber."""

    def __init__(self, reader: MemoryReader, waiting: deque[Update]) -> None:
        self._reader = reader
        self._waiting = waiting

    async def next(self, wait_s: float) -> Update | None:
        """See `Updates`."""
        await self._reader._meet("updates")
        with anyio.move_on_after(wait_s):
            while not self._waiting:
                await self._reader._data.published.wait()
        return self._waiting.popleft() if self._waiting else None


def _read(value: Value | None, piece: Piece) -> Read:
    match piece, value:
        case Text(), None | bytes():
            return value
        case Fields(), None | dict():
            return [(value or {}).get(field) for field in piece.fields]
        case AllFields(), None | dict():
            return {} if value is None else dict(value)
        case First(), None | list():
            return [] if value is None else value[: piece.count]
        case Whole(), _:
            return value
    raise StateError(f"{piece.name} has another type; `crashfold replay` rebuilds")
