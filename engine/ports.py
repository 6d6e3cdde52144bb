"""The seams between the engine and the world. Each has a contract suite in `tests/contract`, run on every adapter.

Adapters raise only `crashfold.engine.errors`: `LogUnavailable`, `StoreUnavailable`, `StoreRefused`, or a `StateError`.
Every call that reaches a server has a deadline of the adapter's own. All ports may be cancelled at any await.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from crashfold.engine.core.facts import (
    Behind,
    Bounds,
    Commit,
    DeadLetter,
    Manifest,
    Outcome,
    Polled,
    Position,
    Promoted,
    Record,
    ServerUsage,
    Stored,
)
from crashfold.engine.core.reading import (
    CachedAnswer,
    Piece,
    Pieces,
    ReadDeadLetter,
    Standing,
    StreamOverview,
    WindowPart,
)
from crashfold.projections.delta import Value
from crashfold.schemas.aggregates import Update
from crashfold.schemas.reports import ReportKind


class EventLog(AbstractAsyncContextManager["EventLog"], Protocol):
    """A topic, read in order of offsets within each partition. Entering connects, leaving lets the partitions go."""

    @property
    def topic(self) -> str:
        """The topic's name; for a file its path."""

    @property
    def topic_id(self) -> str | None:
        """Which topic of that name is read, by an id that no other has, as soon as partitions were gained; None where
        there are no ids.

        Polls bring records of that topic alone. When another one has the name, all partitions are lost, and with those
        gained then the id is another one.
        """

    async def poll(self, games_max: int, wait_s: float) -> Polled:
        """Records of the partitions held, at most `games_max` in all, as soon as there are any or `wait_s` is over."""

    async def seek(self, partition: int, next_offset: int) -> None:
        """Read the partition from there on. What was fetched before and not yet polled is forgotten."""

    async def bounds(self, partition: int) -> Bounds:
        """Which offsets the partition holds now. Records of open transactions do not count."""

    async def partitions(self) -> frozenset[int]:
        """All partitions of the topic, held or not."""

    async def current_topic_id(self) -> str | None:
        """The id of the topic that has the name now; None where there are no ids. Raises LogUnavailable while there is
        no such topic."""

    async def is_compacted(self) -> bool:
        """Whether records go once others of the same key stand behind them; False where that cannot be known."""

    async def record(self, partition: int, offset: int) -> Record | None:
        """The record at exactly that offset; None when there is none (any more). Does not move the position."""

    async def report(self, next_offsets: Mapping[int, int]) -> None:
        """Tell the log's own bookkeeping how far each partition was read, for lag dashboards. Never read back."""


class DeadLetters(Protocol):
    """Where records go that cannot be folded."""

    async def put(self, letters: Sequence[DeadLetter]) -> None:
        """Keep them for good; returns when they are. May be called again with the same ones."""


class StateStore(Protocol):
    """The read model and the checkpoints, one compare-and-set per stream."""

    async def load(self, stream: str) -> Stored | None:
        """What a restart needs of the stream, read at one version; None when it has no checkpoint."""

    async def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        """Make each commit or not at all, each for itself, of different streams; the outcomes in the same order.

        After `StoreUnavailable` any of them may have been made: send them again. After `StoreRefused` those that were
        refused were not; sending all again is safe too.
        """

    async def check_rights(self, stream: str) -> None:
        """Find out whether commits of the stream can be made at all, changing nothing. Raises ConfigurationError naming
        the command and the keys, or the channel, for which this user has no right."""

    async def positions(self, streams: Sequence[str]) -> list[Position | None]:
        """Where each stream's checkpoint stands; None where there is none."""

    async def read_manifest(self, topic: str, partition: int) -> Manifest | None:
        """The partition's manifest; None when there is none."""

    async def write_manifest(self, topic: str, partition: int, manifest: Manifest, *, anew: bool = False) -> None:
        """Store the manifest as given, but its streams beside those known; with `anew` in place of whatever stands
        there."""


class ShadowStore(StateStore, Protocol):
    """The store of a generation that is built beside the live one; its manifests are not kept."""

    async def clear(self, streams: Sequence[str]) -> None:
        """Remove what an earlier rebuild of these streams left behind."""

    async def promote(self, stream: str, *, allow_back: bool = False) -> Promoted | Behind:
        """Put the shadow in the place of the live state, at once for every reader, and drop what is left over.

        Refused when the live state is ahead, unless `allow_back`.
        """


class StateReader(Protocol):
    """Reading the keys of a stream."""

    async def read_model(self, stream: str) -> tuple[Stored, dict[str, Value]] | None:
        """Checkpoint and every key of the stream's aggregates, by name, all of one version."""

    async def read_models(self, streams: Sequence[str]) -> list[tuple[Stored, dict[str, Value]] | None]:
        """`read_model` of each stream, each of a version of its own. What the store has to go through to find the keys
        it goes through once, however many streams there are."""


class StoreUsage(Protocol):
    """What the store's servers and a stream's keys take, for metrics. Advice only: a user of the store may lack the
    rights for it, so nothing else depends on the answers."""

    async def servers(self) -> list[ServerUsage]:
        """One entry a server; those that do not tell are left out."""

    async def stream_bytes(self, stream: str) -> int | None:
        """The memory of the stream's keys, estimated from some elements of each; None where the store does not tell."""


class Reports(Protocol):
    """What engines, rebuilds and `verify` tell of themselves, for people: nothing is decided by it."""

    async def tell(self, kind: ReportKind, reports: Mapping[str, bytes], ttl_s: int | None = None) -> None:
        """Keep these reports by the names of those they are about, for so long."""

    async def told(self, kind: ReportKind) -> list[bytes]:
        """The reports of that kind that have not expired, by name."""


class Updates(Protocol):
    """What is told of one stream from the moment the block was entered."""

    async def next(self, wait_s: float) -> Update | None:
        """The next update; None when there was none for `wait_s`. Some may be lost with the connection: an update says
        that there is something to read, and none says nothing."""


class LiveReader(Protocol):
    """Reading streams while an engine writes to them. Each call is one round trip, and what it gives of one version."""

    def updates(self, stream: str) -> AbstractAsyncContextManager[Updates]:
        """Updates of the stream, over a connection of their own."""

    async def standing(self, stream: str) -> Standing | None:
        """Where the stream stands; None when it has no checkpoint."""

    async def read_pieces(self, stream: str, pieces: Sequence[Piece]) -> Pieces | None:
        """Some of the read model; None when the stream has no checkpoint. Raises StateError for another type."""

    async def streams(self, topic: str) -> list[str]:
        """The streams that an engine has met on the topic, in a deployment of many, by name."""

    async def overview(self, stream: str) -> StreamOverview | None:
        """What is shown of a stream in a list of all; None when it has no checkpoint."""

    async def read_window(self, stream: str, above_id: int) -> WindowPart | None:
        """The games of the window whose ids are above `above_id`; None when the stream has no checkpoint."""

    async def cached(self, stream: str, version: int, request: str) -> bytes | None:
        """An answer that was kept; None when there is none (any more)."""

    async def keep(self, answers: Sequence[CachedAnswer]) -> None:
        """Keep answers for a while."""


class DeadLetterReader(Protocol):
    """Reading dead letters, for people."""

    async def newest(self, limit: int) -> Sequence[ReadDeadLetter]:
        """The newest letters, newest first, those that were retried among them but not those that were discarded."""


class RateLimits(Protocol):
    """How often each client asked all processes of a deployment."""

    async def take(self, client: str, per_minute: int) -> float:
        """Take one request off those that the client has left, which are `per_minute` at most and come back steadily:
        0.0, or in how many seconds it has one. Raises StoreUnavailable or StoreRefused when nobody can say."""


class Clock(Protocol):
    """Time, so that simulation can bring its own."""

    def now_ms(self) -> int:
        """Epoch milliseconds."""

    def monotonic_s(self) -> float:
        """Seconds since some moment; never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""
