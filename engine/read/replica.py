"""The replica: the window of a stream, kept up from the topic while the store is away.

Imports the ports, the engine's rules for records, and projections. What is always true: the same games end up in the
window as would in the store's, for they are sifted and folded by the same functions; without any aggregate, since
everything else is computed from the window. And the name of what a replica holds follows from the commit it began with
and the records since, whatever batches they came in: two processes never give one name to two states.
"""

import hashlib
from collections.abc import AsyncGenerator
from typing import Final

import anyio.to_thread
import msgspec

from crashfold.engine.core.batch import StreamBatch, after, sort_out
from crashfold.engine.errors import StateError
from crashfold.engine.games.fairness import FairnessCheck
from crashfold.engine.games.folding import GameFolding
from crashfold.engine.ports import EventLog, Records, Standing
from crashfold.projections.games import Bands, Games
from crashfold.projections.plan import Plan
from crashfold.projections.projection import Totals
from crashfold.projections.settings import ProjectionSettings
from crashfold.projections.stored import BASE, sealed
from crashfold.projections.stream import StreamState

GAMES_MAX: Final = 5_000
"""Records of one step: some milliseconds of work between requests."""
WAIT_S: Final = 0.5


class Replicated(msgspec.Struct, frozen=True):
    """A replica after a look at the topic: where the stream stands, its window, and how far it has read."""

    standing: Standing
    window: Games
    next_offset: int
    """The next offset to read; `standing` has that behind the stream's last record."""


class Replica:
    """How the stream is folded from the topic; `only` and `fairness` as the engine has them."""

    def __init__(
        self,
        stream: str,
        settings: ProjectionSettings,
        only: str | None = None,
        fairness: FairnessCheck | None = None,
    ) -> None:
        self._stream = stream
        self._plan = Plan(settings, (), Bands(()), rule="" if fairness is None else fairness.rule)
        self._folding = GameFolding(self._plan, fairness)
        self._only = only

    async def follow(self, event_log: EventLog, standing: Standing, window: Games) -> AsyncGenerator[Replicated, None]:
        """Follow the stream from `standing` and `window` on: its state after each look at the topic.

        Raises LogUnavailable, LostRange, and StateError when the topic is another one.
        """
        if event_log.topic != standing.topic:
            raise StateError(f"the stream was made from topic {standing.topic}, not {event_log.topic}")
        state = await anyio.to_thread.run_sync(self._state, standing, window)
        next_offset = standing.next_offset
        while True:
            polled = await event_log.poll(GAMES_MAX, WAIT_S)
            if standing.partition in polled.gained:
                if None not in (standing.topic_id, event_log.topic_id) and event_log.topic_id != standing.topic_id:
                    raise StateError(f"the stream was made from another topic {standing.topic}: it was made anew since")
                await event_log.seek(standing.partition, standing.next_offset)
                continue
            for records in polled.records:
                if records.partition == standing.partition:
                    state, standing = self._folded(state, standing, records)
                    next_offset = records.next_offset
            yield Replicated(standing, state.window, next_offset)

    def _state(self, standing: Standing, window: Games) -> StreamState:
        """The state whose window that is, with no aggregates."""
        before = standing.total_games - len(window)
        base = Totals(before, None, None, int(window.ids[0]) - 1 if len(window) and before else None)
        stored = {BASE: sealed(BASE, msgspec.msgpack.encode((base, [])))}
        return StreamState.load(self._plan, stored, window.to_games())

    def _folded(self, state: StreamState, standing: Standing, records: Records) -> tuple[StreamState, Standing]:
        found = sort_out(records, self._folding, self._only).streams.get(self._stream)
        if found is None:
            return state, standing
        found = after(found, records, standing.next_offset)
        if not len(found.rows):
            return state, standing
        folded = state.fold_cells(found.cells)
        totals = folded.state.totals
        moved = msgspec.structs.replace(
            standing,
            next_offset=int(records.offsets[found.rows[-1]]) + 1,
            total_games=totals.games,
            newest_id=totals.newest_id or 0,
            commit=_chained(standing.commit, records, found),
        )
        return folded.state, moved


def _chained(commit: str, records: Records, found: StreamBatch) -> str:
    """The identity of what that commit and these records make, one record after the other."""
    offsets = records.offsets[found.rows]
    for offset, cells in zip(offsets.tolist(), found.cells.T, strict=True):
        link = b"%b\0%d\0%b" % (commit.encode(), offset, cells.tobytes())
        commit = hashlib.blake2b(link, digest_size=8).hexdigest()
    return commit
