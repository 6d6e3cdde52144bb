"""The live states that a rebuild is to replace: what they have, and whether a swap may bring less.

Imports ports and core. A rebuild that would lose games or keys is refused before it swaps anything in, unless that was
asked for. A live state is read once, when the first record of its stream is about to be folded.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial

import msgspec
import structlog

from crashfold.engine.core.start import was_recreated
from crashfold.engine.errors import DroppedKeys, FewerGames, LostRange, StateError
from crashfold.engine.ports import Checkpoint, EventLog, Manifest, StateStore
from crashfold.engine.runtime.partitions import Partitions
from crashfold.engine.runtime.retry import Retry

log = structlog.get_logger()


class Allowed(msgspec.Struct, frozen=True):
    """The losses that a rebuild may bring."""

    lost_records: bool = False
    """The topic no longer has all that a live state was folded from."""
    fewer_games: bool = False
    """The rebuild has fewer games than the live state."""
    dropped_keys: bool = False
    """The live state has keys that no projection of these settings makes."""


class LiveStates:
    """The live states of the streams that a rebuild folds: what they have, and when a swap would lose some of it.

    `aggregates` are those of the rebuild's own keys; `partitions` say how far it has folded.
    """

    def __init__(
        self,
        event_log: EventLog,
        store: StateStore,
        aggregates: Iterable[str],
        partitions: Partitions,
        allowed: Allowed,
        retry: Retry,
    ) -> None:
        self._log = event_log
        self._store = store
        self._aggregates = frozenset(aggregates)
        self._partitions = partitions
        self._allowed = allowed
        self._retry = retry
        self._manifests: dict[int, Manifest | None] = {}
        """As they were found; without those that cannot be read."""
        self._lives: dict[str, _Live] = {}
        """The live states at the first record of their streams; without those that are missing or damaged."""
        self._homes: dict[str, int] = {}
        """The partitions of the streams that were compared."""
        self._count_at: dict[str, int] = {}
        """The offsets of their checkpoints, until records at that offset or beyond it are folded."""
        self._counted: dict[str, int] = {}
        """The games of the rebuild below that offset."""
        self._from_elsewhere: set[str] = set()
        """The streams whose live offsets say nothing about this topic's."""
        self._damaged: set[str] = set()
        """The streams whose live state cannot be read, so that it is never ahead."""
        self._shortened: set[str] = set()
        """The streams whose first records are gone: a later record may mean something else now."""

    async def read_manifest(self, number: int) -> None:
        """Note which streams the partition had, as far as its manifest can be read."""
        with suppress(StateError):
            read = partial(self._store.read_manifest, self._log.topic, number)
            self._manifests[number] = await self._retry.with_store(read)

    async def meet(self, stream: str) -> None:
        """Read what the live state of a stream has, before its first record is folded. Raises DroppedKeys.

        The rebuild's games are to be counted up to the offset where the live checkpoint stands now: only there the two
        counts can be compared, since the live engine may be behind, or go on meanwhile. A live state that cannot be
        read is one that the rebuild mends.
        """
        try:
            stored = await self._retry.with_store(partial(self._store.load, stream))
        except StateError as error:
            log.warning("live_state_damaged", stream=stream, error=str(error))
            self._damaged.add(stream)
            return
        if stored is not None:
            self._refuse_dropped_keys(stream, stored.checkpoint)
            self._lives[stream] = _Live(stored.checkpoint, stored.total_games)
            self._count_at[stream] = stored.checkpoint.next_offset

    def counts_due(self, streams: Iterable[str], next_offset: int) -> dict[str, int]:
        """The offsets below `next_offset` up to which the games of these streams are to be counted."""
        return {
            stream: self._count_at.pop(stream)
            for stream in streams
            if stream in self._count_at and self._count_at[stream] < next_offset
        }

    def count(self, stream: str, games: int) -> None:
        """Note how many games the rebuild has below the offset of `counts_due`."""
        self._counted[stream] = games

    async def compare(self, stream: str, number: int, begin: int, topic_id: str | None) -> None:
        """Find out whether the offsets of the live state mean the same records as those of the rebuild's topic.

        Raises LostRange when the partition, which begins at `begin`, no longer holds all that the live state was folded
        from, unless that is allowed.
        """
        self._homes[stream] = number
        live = self._lives.get(stream)
        if live is None:
            self._compare_with_manifest(stream, number, begin, topic_id)
            return
        checkpoint = live.checkpoint
        if checkpoint.topic != self._log.topic or checkpoint.partition != number:
            self._from_elsewhere.add(stream)
            return
        gone = None
        if await self._was_recreated(checkpoint, topic_id):
            self._from_elsewhere.add(stream)
            gone = "it was recreated"
        elif checkpoint.first_offset < 0:
            gone = "some came from an earlier topic of that name"
        elif checkpoint.first_offset < begin:
            gone = f"offsets {checkpoint.first_offset} to {begin - 1} are gone"
            self._shortened.add(stream)
        if gone is not None and not self._allowed.lost_records:
            raise LostRange(
                f"{self._log.topic}/{number} no longer has all that stream {stream} was folded from ({gone}): a "
                "rebuild would have fewer games. If that is what you want, add --accept-gap."
            )

    async def compare_counts(self, stream: str, games: int) -> None:
        """Raise FewerGames when the live state of the stream has more games than the rebuild, of the same records as
        far as offsets mean the same, unless that is allowed."""
        live = self._lives.get(stream)
        if self._allowed.fewer_games:
            return
        if stream not in self._homes or stream in self._from_elsewhere:
            with suppress(StateError):
                stored = await self._retry.with_store(partial(self._store.load, stream))
                live = None if stored is None else _Live(stored.checkpoint, stored.total_games)
        elif stream in self._counted:
            games = self._counted[stream]
        elif live is not None and live.checkpoint.next_offset > self._partitions.folded_to[self._homes[stream]]:
            return  # the live engine is ahead: promoting says so, and the rebuild reads on
        if live is not None and games < live.games:
            raise FewerGames(
                f"a rebuild of stream {stream} from {self._log.topic} would have {games} games up to offset "
                f"{live.checkpoint.next_offset}, and the live state has {live.games}: compaction or retention removed "
                "records, the topic or file is another one, or these settings reject more. The live state stays; if "
                "fewer games are what you want, add --accept-gap."
            )

    async def compare_missing(self) -> None:
        """`compare_counts` of the streams that the manifests name, and of which the rebuild met no record."""
        for stream in sorted({name for one in self._manifests.values() if one for name in one.streams}):
            if stream not in self._homes:
                await self.compare_counts(stream, 0)

    def may_go_back(self, stream: str) -> bool:
        """Whether the offset of the live state says nothing, so that promoting may not be refused because of it."""
        return stream in self._from_elsewhere or stream in self._damaged

    def is_judged_anew(self, stream: str) -> bool:
        """Whether records below the live checkpoint may be judged otherwise than when they were folded into it."""
        return self.may_go_back(stream) or stream in self._shortened

    async def next_offsets(self, streams: Sequence[str]) -> dict[str, int | None]:
        """The offsets up to which the live checkpoints have passed their partitions; None where none can be read."""
        try:
            positions = await self._retry.with_store(partial(self._store.positions, streams))
        except StateError:
            if len(streams) == 1:
                return {streams[0]: None}
            return {
                name: next_offset
                for stream in streams
                for name, next_offset in (await self.next_offsets([stream])).items()
            }
        return {
            stream: None if position is None else position.next_offset
            for stream, position in zip(streams, positions, strict=True)
        }

    def _refuse_dropped_keys(self, stream: str, live: Checkpoint) -> None:
        dropped = sorted(set(live.aggregates) - self._aggregates)
        if dropped and not self._allowed.dropped_keys:
            raise DroppedKeys(
                f"a rebuild of stream {stream} would drop its keys {', '.join(dropped)}: no projection of these "
                "settings makes them. Install the package that has it or name it in projections.own; if the keys are "
                "not wanted any more, add --drop-keys."
            )

    def _compare_with_manifest(self, stream: str, number: int, begin: int, topic_id: str | None) -> None:
        """Raise LostRange when a stream would have less than before its keys were lost or damaged. The manifest may
        know where it began; nobody knows it of a damaged state without a manifest."""
        manifest = self._manifests.get(number)
        if manifest is not None and stream in manifest.streams:
            first = manifest.first_offsets.get(stream, 0) if manifest.topic_id == topic_id else begin
        else:
            first = 0 if stream in self._damaged else begin
        if first < begin and not self._allowed.lost_records:
            raise LostRange(
                f"retention removed offsets {max(0, first)} to {begin - 1} of {self._log.topic}/{number}, from which "
                f"stream {stream} was folded before its keys were lost or spoiled: a rebuild would have fewer games. "
                "If that is what you want, add --accept-gap."
            )

    async def _was_recreated(self, checkpoint: Checkpoint, topic_id: str | None) -> bool:
        """Whether the partition holds other records than those the live state was folded from."""
        mark, number = checkpoint.mark, checkpoint.partition
        bounds = await self._retry.with_log(partial(self._log.bounds, number))
        found = await self._retry.with_log(partial(self._log.record, number, mark.offset)) if mark else None
        return was_recreated(checkpoint.topic_id, mark, topic_id, bounds, found) is not None


class _Live(msgspec.Struct, frozen=True):
    """The checkpoint of a live state, and how many games it has."""

    checkpoint: Checkpoint
    games: int
