"""The port for the domain: what an event is, and how events are folded.

`engine.core` and `engine.runtime` read records, keep streams, commit, rebuild and compare. They learn through
these protocols alone what an event is, which events are folded, and which keys follow. The composition root hands in a
`Folding`; the one that is shipped is `engine.games.folding.GameFolding`. "Game" is the word for an event here too.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, TypeAlias

import msgspec
from numpy.typing import NDArray

from crashfold.engine.ports.log import Record, Records
from crashfold.projections.columns import Ints
from crashfold.projections.delta import Value, Writes

Cells: TypeAlias = NDArray[Any]
"""Events as columns: event i is `cells[:, i]`. What the rows mean is known to the folding alone."""

Rejection: TypeAlias = tuple[int, str, str]
"""An event that is not folded: its row or position, the reason in one word, and the detail in words."""


class DecodedRecords(msgspec.Struct, frozen=True):
    """Decoded records: the record of row `rows[i]`, ascending, holds the event `cells[:, i]`. The others are
    `rejected`, by row."""

    rows: Ints
    cells: Cells
    rejected: Sequence[Rejection] = ()


class RejectedGame(Protocol):
    """An event that the fold rejects."""

    @property
    def position(self) -> int:
        """The event's position among those that arrived."""

    @property
    def reason(self) -> str:
        """The reason that its dead letter states."""

    @property
    def detail(self) -> str:
        """The reason in words."""


class StreamTotals(Protocol):
    """Totals over all events of a stream so far. Times are epoch milliseconds."""

    @property
    def games(self) -> int:
        """The number of events."""

    @property
    def event_time(self) -> int | None:
        """The largest time; None before the first event."""


class FoldResult(Protocol):
    """The result of `State.fold_cells`."""

    @property
    def state(self) -> "State":
        """Return the state after the fold."""

    @property
    def accepted(self) -> int:
        """Count the events that were accepted, late ones included."""

    @property
    def duplicates(self) -> int:
        """Count the duplicates: events that had been folded before."""

    @property
    def late_accepted(self) -> int:
        """Count the late events that were accepted: those that took a place before others."""

    @property
    def rejected(self) -> Sequence[RejectedGame]:
        """List the events that are rejected, and so dead letters."""

    @property
    def kept(self) -> int:
        """Count the first events of the stream that are the same before and after the fold."""


class State(Protocol):
    """The state of one stream after some prefix of its events. Immutable, and a function of that prefix alone."""

    @property
    def games(self) -> int:
        """Count the events of the stream. Cheap; `totals` may not be."""

    @property
    def totals(self) -> StreamTotals:
        """The totals of all events."""

    @property
    def newest_id(self) -> int | None:
        """The id of the newest event; None before the first."""

    @property
    def newest_end_time(self) -> int | None:
        """The time of the newest event, in epoch milliseconds; None before the first."""

    @property
    def games_held(self) -> int:
        """Count the events in memory."""

    @property
    def bytes_held(self) -> int:
        """Return the bytes of memory that the state takes, as far as they grow with the events."""

    def fold_cells(self, arrived: Cells) -> FoldResult:
        """Fold events in the order in which they came."""

    def keys(self) -> Mapping[str, Value]:
        """Return all keys of the stream with their values, by name without the prefix."""

    def delta(self, before: Self, kept: int) -> Writes:
        """Make the writes that turn the keys of `before` into those of this state, with what `load` needs.

        The first `kept` events of the stream are the same in both: the least `FoldResult.kept` of the folds in between.
        """

    def create(self) -> Writes:
        """Make the writes that store this state where nothing is stored."""


class Newest(msgspec.Struct, frozen=True):
    """The newest event of a window: its id and its time in epoch milliseconds."""

    id: int
    time_ms: int


class Recounted(msgspec.Struct, frozen=True):
    """A stream, recomputed by the plain definition: its events, those that are not folded, and its keys."""

    games: int
    duplicates: int
    rejected: int
    keys: Mapping[str, Value]


class Recount(Protocol):
    """The recomputation of one stream, fed record by record. It shares nothing with `State` but the decoding of
    records."""

    def take(self, record: Record) -> None:
        """Take the stream's next record."""

    def result(self) -> Recounted:
        """Return the events, the rejected records and the keys that follow from the records taken. Called once, after
        the last one."""


class Folding(Protocol):
    """The domain that the engine folds: decoder, rules, states and fingerprint, one for all streams of a deployment."""

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with everything that decides what comes of a record."""

    @property
    def aggregates(self) -> tuple[str, ...]:
        """Return the names of the keys, or their part before the first colon."""

    @property
    def window_games(self) -> int:
        """The size of a full window, the key `games`, in events; 0 when there is no such key."""

    def decode(self, records: Records) -> DecodedRecords:
        """Decode the values of records into events. The verdict on a record depends on that record alone."""

    def unfit(self, stream: str, cells: Cells) -> Sequence[Rejection]:
        """Find the events that a rule of their stream keeps from the fold, by position in `cells`."""

    def empty(self) -> State:
        """Return the state of a stream without events."""

    def load(self, state: Mapping[str, bytes], window: Sequence[bytes]) -> State:
        """Load a state from the stored fields of its checkpoint and the members of its window.

        Raises ValueError, KeyError, TypeError, IndexError, OverflowError or a MsgspecError when they do not fit."""

    def newest(self, window: Sequence[bytes]) -> Newest | None:
        """Return the newest event of a stored window, whatever settings made it; None when there is none, or none that
        can be read."""

    def recount(self, stream: str) -> Recount:
        """Begin to recompute the stream from its first record, by the plain definition."""


class StreamFold(msgspec.Struct, frozen=True):
    """One fold of one stream: the state before it, and its result."""

    stream: str
    before: State
    folded: FoldResult


class FoldObserver(Protocol):
    """An observer of the records that a live engine has folded, such as a counter of faults. Changes nothing, and never
    waits."""

    def observe(self, partition: int, rejected: Sequence[Rejection], folds: Sequence[StreamFold]) -> None:
        """Take note of records of the partition that were folded; `rejected` are those that were put aside."""
