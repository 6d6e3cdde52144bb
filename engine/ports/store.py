"""The store: the read model and the checkpoints, written by one compare-and-set per stream."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from crashfold.engine.ports.log import Mark
from crashfold.projections.delta import Value, Writes


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The checkpoint of a stream: how far it has been folded, by which engine and from which topic. The fields of the
    hash `P:checkpoint`, next to those that hold the state (`State.create`, `State.delta`)."""

    next_offset: int
    """The next offset to read."""
    generation: str
    """Names one build of the read model; `promote` brings another."""
    commit: str
    """16 hex digits that no other commit has; '' in a state that was stored before commits had them."""
    writer: str
    """The engine that made the last commit, for an operator who wonders."""
    topic: str
    partition: int
    first_offset: int
    """No game of the state stands below it on the topic; -1 when some did not come from this topic at all, because
    it was recreated and the state kept."""
    topic_id: str | None = None
    """Which topic of that name it was; None where brokers know no ids."""
    mark: Mark | None
    """The last record of the partition that was read."""
    fingerprint: str
    """Of the settings and projections the state was made with (`Folding.fingerprint`)."""
    aggregates: tuple[str, ...]
    """The aggregates of this stream's keys, by which `promote` knows which keys are left over."""

    @property
    def position(self) -> "Position":
        """Return the position that a commit on top of this one expects."""
        return Position(self.generation, self.next_offset, self.commit)


class Position(msgspec.Struct, frozen=True):
    """The fencing token: generation, offset and id of a stream's last commit. A commit names the one it builds on.

    An offset is a place, not a history. After a failover and back, or a restored dump, the expected offset may stand
    there with other snapshots and another version behind it, so two positions are the same only by their `commit`.
    """

    generation: str
    next_offset: int
    commit: str


class Commit(msgspec.Struct, frozen=True):
    """All that one compare-and-set writes: made only if the stream stands at `expected` (None: has no checkpoint).

    A commit that is sent again is recognised by the id in its checkpoint.
    """

    stream: str
    expected: Position | None
    checkpoint: Checkpoint
    delta: Writes
    total_games: int
    newest_id: int | None


class Applied(msgspec.Struct, frozen=True):
    """The commit was made; `version` is the stream's new version."""

    version: int


class Duplicate(msgspec.Struct, frozen=True):
    """The commit had been made before, as this version, and its reply was lost. A success."""

    version: int


class Conflict(msgspec.Struct, frozen=True):
    """A commit conflict, nothing was written: the stream stands at `stored`, not where the commit expected it."""

    stored: Position | None


Outcome = Applied | Duplicate | Conflict


class Stored(msgspec.Struct, frozen=True):
    """The stored state of a stream, all of one version: `state` and `window` are for `Folding.load`."""

    checkpoint: Checkpoint
    version: int
    state: dict[str, bytes]
    window: Sequence[bytes]
    """The members of the key `games`, in order of id."""
    total_games: int
    """The number of games that the state and the window must have together."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest of a partition: the offset at which a restart begins to read, and the position of each stream.

    Every record below `low_water` is in its stream's checkpoint (or a dead letter). `streams` has the `next_offset`
    that each stream's checkpoint had, so that one which has fallen behind it, because Redis lost writes, is noticed.
    The ids of commits are not needed here: a restart loads the stored state, and every history of one topic up to the
    same offset has folded the same records.
    `first_offsets` has the `first_offset` of each, as far as it is known. `mark` is of the last record read below
    `low_water`, None when there was none; `topic_id` says of which topic all this is, None where brokers know no ids.
    """

    low_water: int
    streams: dict[str, int]
    first_offsets: dict[str, int] = {}
    topic_id: str | None = None
    mark: Mark | None


class Promoted(msgspec.Struct, frozen=True):
    """The shadow was promoted: it is live now, as this version."""

    version: int


class Behind(msgspec.Struct, frozen=True):
    """The shadow was not promoted: the live state, at `live`, is ahead of it."""

    live: Position


class ServerUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The memory and the hit rate of one server of the store. Counts are since it was started; 0 for a limit means
    none."""

    address: str
    memory_bytes: int
    memory_max_bytes: int
    evicted_keys: int
    """Keys that it dropped for want of memory: each may be state."""
    expired_keys: int
    hits: int
    """Reads that found their key."""
    misses: int
    clients: int
    commands: int


class StateStore(Protocol):
    """The read model and the checkpoints, one compare-and-set per stream."""

    async def load(self, stream: str) -> Stored | None:
        """Return the stored state of the stream, read at one version; None when it has no checkpoint."""

    async def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        """Make commits of different streams, each whole or not at all; return their outcomes in the same order.

        After `StoreUnavailable` any of them may have been made: send them again. After `StoreRefused` those that were
        refused were not; sending all again is safe too.
        """

    async def check_rights(self, stream: str) -> None:
        """Check that commits of the stream can be made, without changing anything. Raises ConfigurationError naming
        the command and the keys, or the channel, for which this user has no right."""

    async def checkpoint(self, stream: str) -> Checkpoint | None:
        """Read the checkpoint without the state; None when there is none. Raises StateError when it cannot be read."""

    async def positions(self, streams: Sequence[str]) -> list[Position | None]:
        """Read the fencing token of each stream; None where it has no checkpoint."""

    async def read_manifest(self, topic: str, partition: int) -> Manifest | None:
        """Read the partition's manifest; None when there is none."""

    async def write_manifest(self, topic: str, partition: int, manifest: Manifest) -> None:
        """Replace the stored manifest by this one. Manifests of two engines are never merged: both may be right
        alone."""


class ShadowStore(StateStore, Protocol):
    """The store of a generation that is built beside the live one; its manifests are not kept."""

    async def clear(self, streams: Sequence[str]) -> None:
        """Remove what an earlier rebuild of these streams left behind."""

    async def promote(self, stream: str, *, allow_back: bool = False) -> Promoted | Behind:
        """Put the shadow in the place of the live state, at once for every reader, and drop what is left over.

        Refused when the live state is ahead, unless `allow_back`.
        """


class StateReader(Protocol):
    """The reader of all keys of a stream, for `verify` and tests."""

    async def read_model(self, stream: str) -> tuple[Stored, dict[str, Value]] | None:
        """Read the checkpoint and every key of the stream's aggregates, by name, all of one version."""

    async def read_models(self, streams: Sequence[str]) -> list[tuple[Stored, dict[str, Value]] | None]:
        """`read_model` of each stream, each of a version of its own. The store looks through its keys once for all of
        them."""


class StoreUsage(Protocol):
    """Memory of the store's servers and of a stream's keys, for metrics. Advice only: a user of the store may lack the
    rights for it, so nothing else depends on the answers."""

    async def servers(self) -> list[ServerUsage]:
        """One entry a server; those that do not tell are left out."""

    async def stream_bytes(self, stream: str) -> int | None:
        """The memory of the stream's keys, estimated from some elements of each; None where the store does not tell."""
