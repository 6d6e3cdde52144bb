"""The shipped twin of the Redis store: `MemoryStore` and its shadow, for tests and simulations.

Imports anyio, the ports' facts and `projections.delta`, whose `apply` it runs for every write; nothing is repeated here
that a store could get wrong by itself. A commit is made whole or not at all, and what was made stays readable until
`restore`. Trouble is asked for with `fail_next`.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from enum import Enum

import anyio
import anyio.lowlevel
import msgspec

from crashfold.engine.errors import StateError, StoreRefused, StoreUnavailable
from crashfold.engine.ports import (
    Applied,
    Behind,
    Checkpoint,
    Commit,
    Conflict,
    Duplicate,
    Manifest,
    Outcome,
    Position,
    Promoted,
    Stored,
)
from crashfold.projections.delta import SortedSet, Value, Writes, apply
from crashfold.schemas import keys
from crashfold.schemas.aggregates import Update
from crashfold.schemas.reports import ReportKind


class Trouble(Enum):
    """A fault of a call."""

    REFUSED = "refused"
    """Nothing is done; `StoreRefused`."""
    UNAVAILABLE = "unavailable"
    """Nothing is done; `StoreUnavailable`, so the caller cannot know that."""
    LOST_REPLY = "lost reply"
    """All is done; `StoreUnavailable`, so the caller cannot know that."""


class StoreContents(msgspec.Struct, frozen=True):
    """All that a store held at one moment, for `MemoryStore.restore`."""

    live: "dict[str, _Kept]"
    shadow: "dict[str, _Kept]"
    manifests: dict[tuple[str, int], Manifest]


class MemoryStore:
    """`StateStore` and `StateReader` in memory. Several engines may share one, as they would share a server."""

    def __init__(self) -> None:
        self._data = _Data()
        self._streams = self._data.live

    def shadow(self) -> "MemoryShadowStore":
        """The generation beside this one; there is one, however often it is asked for."""
        return MemoryShadowStore(self._data)

    async def load(self, stream: str) -> Stored | None:
        """See `StateStore`."""
        await self._end(await self._begin("load"))
        kept = self._streams.get(stream)
        return None if kept is None else kept.stored()

    async def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        """See `StateStore`."""
        trouble = await self._begin("commit")
        made = len(commits) if trouble is None or trouble.made is None else trouble.made
        outcomes = [self._commit(commit) for commit in commits[:made]]
        await self._end(trouble)
        return outcomes

    async def check_rights(self, stream: str) -> None:
        """See `StateStore`. Here everyone may do everything."""
        await self._end(await self._begin("check_rights"))

    async def checkpoint(self, stream: str) -> Checkpoint | None:
        """See `StateStore`."""
        await self._end(await self._begin("checkpoint"))
        kept = self._streams.get(stream)
        return None if kept is None else kept.checkpoint

    async def positions(self, streams: Sequence[str]) -> list[Position | None]:
        """See `StateStore`."""
        await self._end(await self._begin("positions"))
        found = [self._streams.get(stream) for stream in streams]
        return [None if kept is None else kept.checkpoint.position for kept in found]

    async def read_manifest(self, topic: str, partition: int) -> Manifest | None:
        """See `StateStore`."""
        await self._end(await self._begin("read_manifest"))
        return self._data.manifests.get((topic, partition))

    async def write_manifest(self, topic: str, partition: int, manifest: Manifest) -> None:
        """See `StateStore`."""
        trouble = await self._begin("write_manifest")
        self._data.manifests[topic, partition] = manifest
        await self._end(trouble)

    async def read_model(self, stream: str) -> tuple[Stored, dict[str, Value]] | None:
        """See `StateReader`."""
        await self._end(await self._begin("read_model"))
        kept = self._streams.get(stream)
        return None if kept is None else (kept.stored(), kept.aggregates())

    async def read_models(self, streams: Sequence[str]) -> list[tuple[Stored, dict[str, Value]] | None]:
        """See `StateReader`."""
        return [await self.read_model(stream) for stream in streams]

    def snapshot(self) -> StoreContents:
        """All that the store and its shadow hold now."""
        data = self._data
        return StoreContents(dict(data.live), dict(data.shadow), dict(data.manifests))

    def restore(self, snapshot: StoreContents) -> None:
        """Go back to what was held then: what a server does that lost its last writes, or all of them."""
        for held, then in (
            (self._data.live, snapshot.live),
            (self._data.shadow, snapshot.shadow),
        ):
            held.clear()
            held.update(then)
        self._data.manifests.clear()
        self._data.manifests.update(snapshot.manifests)

    def fail_next(self, trouble: Trouble, *, method: str | None = None, made: int | None = None) -> None:
        """Let the next call fail, or the next of that `method`; several are met in the order they were asked for.

        `made` says how many of the commits of one call are made before a reply is lost; all when it is None.
        """
        self._data.troubles.append(_Asked(trouble, method, made))

    def calm(self) -> None:
        """Let no call fail that was to fail and has not come."""
        self._data.troubles.clear()

    async def _begin(self, method: str) -> "_Asked | None":
        """Meet the trouble that is due. Returned is one that comes after the work was done."""
        await anyio.lowlevel.checkpoint()
        troubles = self._data.troubles
        asked = next((asked for asked in troubles if asked.method in (None, method)), None)
        if asked is None:
            return None
        troubles.remove(asked)
        match asked.trouble:
            case Trouble.REFUSED:
                raise StoreRefused("the store refused on request: try again")
            case Trouble.UNAVAILABLE:
                raise StoreUnavailable("the store did not answer on request: try again")
            case Trouble.LOST_REPLY:
                return asked

    async def _end(self, trouble: "_Asked | None") -> None:
        """Lose the reply if so asked. A call that is cancelled here has done its work, as most that are cancelled."""
        if trouble is not None:
            raise StoreUnavailable("the store's reply was lost on request: try again")
        await anyio.lowlevel.checkpoint()

    def _commit(self, commit: Commit) -> Outcome:
        kept, new = self._streams.get(commit.stream), commit.checkpoint
        stored = None if kept is None else kept.checkpoint.position
        if stored == commit.expected:
            version = 1 if kept is None else kept.version + 1
            model = _applied({} if kept is None else kept.model, commit.delta)
            self._streams[commit.stream] = _Kept(new, version, model, commit.total_games, commit.newest_id)
            if self._streams is self._data.live:
                self._data.publish(commit.stream)
            return Applied(version)
        if kept is not None and stored == new.position:
            return Duplicate(kept.version)
        return Conflict(stored)


class MemoryShadowStore(MemoryStore):
    """`ShadowStore` in memory; made by `MemoryStore.shadow`."""

    def __init__(self, data: "_Data") -> None:
        self._data = data
        self._streams = data.shadow

    async def read_manifest(self, topic: str, partition: int) -> Manifest | None:
        """None: a shadow keeps no manifests."""
        await self._end(await self._begin("read_manifest"))
        return None

    async def write_manifest(self, topic: str, partition: int, manifest: Manifest) -> None:
        """Nothing: a shadow keeps no manifests."""
        await self._end(await self._begin("write_manifest"))

    async def clear(self, streams: Sequence[str]) -> None:
        """See `ShadowStore`."""
        trouble = await self._begin("clear")
        for stream in streams:
            self._streams.pop(stream, None)
            self._data.promoted.pop(stream, None)
        await self._end(trouble)

    async def promote(self, stream: str, *, allow_back: bool = False) -> Promoted | Behind:
        """See `ShadowStore`. Raises StateError when there is no shadow."""
        trouble = await self._begin("promote")
        live, shadow = self._data.live.get(stream), self._streams.get(stream)
        if shadow is None:
            if live is not None and self._data.promoted.get(stream) == live.checkpoint.generation:
                return Promoted(live.version)
            raise StateError(f"stream {stream} has no shadow to promote: run `crashfold replay` again")
        if live is not None and live.checkpoint.next_offset > shadow.checkpoint.next_offset and not allow_back:
            return Behind(live.checkpoint.position)
        version = max(shadow.version, 0 if live is None else live.version) + 1
        self._data.live[stream] = msgspec.structs.replace(shadow, version=version)
        self._data.promoted[stream] = shadow.checkpoint.generation
        del self._streams[stream]
        self._data.publish(stream)
        await self._end(trouble)
        return Promoted(version)


class _Kept(msgspec.Struct, frozen=True):
    """One stream: `model` has the state fields too, as the hash `checkpoint`."""

    checkpoint: Checkpoint
    version: int
    model: dict[str, Value]
    total_games: int
    newest_id: int | None

    def stored(self) -> Stored:
        state, games = self.model.get(keys.CHECKPOINT, {}), self.model.get(keys.GAMES, SortedSet({}))
        assert isinstance(state, dict)
        assert isinstance(games, SortedSet)
        return Stored(self.checkpoint, self.version, state, list(games.members.values()), self.total_games)

    def aggregates(self) -> dict[str, Value]:
        return {name: value for name, value in self.model.items() if name != keys.CHECKPOINT}


class _Asked(msgspec.Struct, frozen=True):
    trouble: Trouble
    method: str | None
    made: int | None


class _Data:
    """The data that a store shares with its shadow, as both would share a server."""

    def __init__(self) -> None:
        self.live: dict[str, _Kept] = {}
        self.shadow: dict[str, _Kept] = {}
        self.manifests: dict[tuple[str, int], Manifest] = {}
        self.promoted: dict[str, str] = {}
        """The generation that was promoted last, per stream: promoting it again is a success."""
        self.troubles: deque[_Asked] = deque()
        self.cache: dict[tuple[str, int, str], bytes] = {}
        self.subscribers: dict[str, list[deque[Update]]] = {}
        """Per stream what each subscriber has not taken yet."""
        self.published = anyio.Event()

    def publish(self, stream: str) -> None:
        """Tell the subscribers where the stream stands."""
        kept = self.live[stream]
        for waiting in self.subscribers.get(stream, ()):
            waiting.append(Update(kept.version, kept.total_games, kept.newest_id))
        self.published.set()
        self.published = anyio.Event()


def _applied(model: Mapping[str, Value], delta: Writes) -> dict[str, Value]:
    try:
        return apply(model, delta)
    except TypeError as error:
        raise StateError(f"nothing was written: {error}; `crashfold replay` rebuilds") from None


class MemoryReports:
    """The twin of `RedisReports`. Nothing expires but by `expire`."""

    def __init__(self) -> None:
        self._reports: dict[tuple[ReportKind, str], tuple[bytes, int | None]] = {}

    async def tell(self, kind: ReportKind, reports: Mapping[str, bytes], ttl_s: int | None = None) -> None:
        """See `Reports`."""
        await anyio.lowlevel.checkpoint()
        self._reports.update({(kind, name): (report, ttl_s) for name, report in reports.items()})

    async def told(self, kind: ReportKind) -> list[bytes]:
        """See `Reports`."""
        await anyio.lowlevel.checkpoint()
        return [report for (of, _), (report, _) in sorted(self._reports.items()) if of == kind]

    def expire(self, seconds: int) -> None:
        """Let so much time pass for all that has a time to live."""
        self._reports = {
            name: (report, None if ttl_s is None else ttl_s - seconds)
            for name, (report, ttl_s) in self._reports.items()
            if ttl_s is None or ttl_s > seconds
        }
