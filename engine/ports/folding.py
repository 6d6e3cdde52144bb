"""Folding: what the engine asks of those who know what an event is.

`engine.core` and `engine.runtime` read records, keep streams, commit, rebuild and compare. What an event is, which of
them are folded, and what keys come of them they learn through these protocols alone. The composition root hands in a
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
"""What is not folded: its row or position, the reason in one word, and the detail in words."""


class DecodedRecords(msgspec.Struct, frozen=True):
    """Some records, decoded: the record of row `rows[i]`, ascending, holds the event `cells[:, i]`. The others are
    `rejected`, by row."""

    rows: Ints
    cells: Cells
    rejected: Sequence[Rejection] = ()


class RejectedGame(Protocol):
    """An event that the fold rejects."""

    @property
    def position(self) -> int:
        """Its position among those that arrived."""

    @property
    def reason(self) -> str:
        """The reason of its dead letter."""

    @property
    def detail(self) -> str:
        """The same, in words."""


class StreamTotals(Protocol):
    """Totals over all events of a stream so far. Times are epoch milliseconds."""

    @property
    def games(self) -> int:
        """How many there are."""

    @property
    def event_time(self) -> int | None:
        """The largest time; None before the first event."""

    @property
    def newest_id(self) -> int | None:
        """The id of the newest event; None before the first."""


class FoldResult(Protocol):
    """The result of `State.fold_cells`."""

    @property
    def state(self) -> "State":
        """The state afterwards."""

    @property
    def accepted(self) -> int:
        """How many events took their place, those that came late included."""

    @property
    def duplicates(self) -> int:
        """How many had been folded before."""

    @property
    def late_accepted(self) -> int:
        """How many took a place before others."""

    @property
    def rejected(self) -> Sequence[RejectedGame]:
        """Those that are dead letters."""

    @property
    def kept(self) -> int:
        """The first so many events of the stream are the same before and after."""


class State(Protocol):
    """The state of one stream after some prefix of its events. Immutable, and a function of that prefix alone."""

    @property
    def games(self) -> int:
        """How many events the stream has had. Cheap; `totals` may not be."""

    @property
    def totals(self) -> StreamTotals:
        """The totals of all events."""

    @property
    def newest_end_time(self) -> int | None:
        """The time of the newest event, in epoch milliseconds; None before the first."""

    @property
    def games_held(self) -> int:
        """How many events are in memory."""

    @property
    def bytes_held(self) -> int:
        """How many bytes of memory the state takes, as far as they grow with the events."""

    def fold_cells(self, arrived: Cells) -> FoldResult:
        """Fold events in the order in which they came."""

    def keys(self) -> Mapping[str, Value]:
        """The whole read model of the stream, by name without the prefix."""

    def delta(self, before: Self, kept: int) -> Writes:
        """The writes that turn the keys of `before` into those of this state, and bring along what `load` needs.

        The first `kept` events of the stream are the same in both: the least `FoldResult.kept` of the folds in between.
        """

    def create(self) -> Writes:
        """The writes that store this state where nothing is."""


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
    """One stream, recomputed. It shares nothing with `State` but the decoding of records."""

    def take(self, record: Record) -> None:
        """Take the stream's next record."""

    def result(self) -> Recounted:
        """What the records come to. Called once, after the last one."""


class Folding(Protocol):
    """What is folded, and how: one for all streams of a deployment."""

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with everything that decides what comes of a record."""

    @property
    def aggregates(self) -> tuple[str, ...]:
        """The names of the keys, or their part before the first colon."""

    @property
    def window_games(self) -> int:
        """How many events the key `games`, the window, has once it is full; 0 when there is none."""

    def decode(self, records: Records) -> DecodedRecords:
        """Decode the values. The verdict on a record depends on that record alone."""

    def unfit(self, stream: str, cells: Cells) -> Sequence[Rejection]:
        """Those events that are not folded by a rule of their stream, by position in `cells`."""

    def empty(self) -> State:
        """A stream without events."""

    def load(self, state: Mapping[str, bytes], window: Sequence[bytes]) -> State:
        """The state that was stored as those fields of the checkpoint and those members of the window.

        Raises ValueError, KeyError, TypeError, IndexError, OverflowError or a MsgspecError when they do not fit."""

    def newest(self, window: Sequence[bytes]) -> Newest | None:
        """The newest event of a stored window, whatever it was made with; None where there is none, or none that can be
        read."""

    def recount(self, stream: str) -> Recount:
        """Recompute the stream, from its first record on."""


class StreamFold(msgspec.Struct, frozen=True):
    """One fold of one stream: the state before it, and what came of it."""

    stream: str
    before: State
    folded: FoldResult


class FoldObserver(Protocol):
    """Is shown what a live engine has folded, to count what it finds there. Changes nothing, and never waits."""

    def observe(self, partition: int, rejected: Sequence[Rejection], folds: Sequence[StreamFold]) -> None:
        """These records of the partition were sorted out and folded; `rejected` are those that were put aside."""
