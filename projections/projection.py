"""The protocol of a projection: a pure fold over games, and the keys that its state stands for.

Imports schemas and numpy only. The engine knows projections by these protocols and no other way. A projection holds no
state of its own, reads no clock and does no I/O: the same games give the same keys, in however many batches they came.
"""

from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import msgspec

from crashfold.projections.delta import Delta, Value
from crashfold.projections.games import Games

S = TypeVar("S")


class Totals(msgspec.Struct, frozen=True, gc=False):
    """Totals over all games of a stream so far. Times are epoch milliseconds."""

    games: int = 0
    first_game_time: int | None = None
    """When the oldest game (by id) ended."""
    event_time: int | None = None
    """The largest end time."""
    newest_id: int | None = None


class Moment(Generic[S]):
    """A projection's state, and beside it what all share: the totals and the window. The newest game is its last."""

    __slots__ = ("memo", "state", "totals", "window")

    def __init__(self, state: S, totals: Totals, window: Games) -> None:
        self.state = state
        self.totals = totals
        self.window = window
        self.memo: Any = None
        """A memo of the projection: results for this moment that it uses again when the next one is made."""


class Projection(Protocol[S]):
    """The protocol of an aggregate: a pure fold over games, and the keys that its state stands for. `S` is its state: a
    `msgspec.Struct` or a plain value, never changed in place.

    Two sentences are all the engine asks for. `fold` sees every game once and in order of id: when a late game arrives,
    the engine folds again from a state before it. And `keys` is true of the state it is given and of nothing else.
    """

    @property
    def name(self) -> str:
        """The projection's name in the fingerprint of the configuration; unique."""

    @property
    def version(self) -> int:
        """The projection's version, to be raised when states or keys change their meaning: the engine then asks for a
        rebuild."""

    @property
    def aggregates(self) -> tuple[str, ...]:
        """The names of its keys, or their part before the first colon: `("series",)` for `series:min:2`. No two
        projections share one."""

    def empty(self) -> S:
        """Return the state before the first game."""

    def fold(self, state: S, games: Games) -> S:
        """Return the state after `games`, all of which are newer than every game folded before."""

    def keys(self, moment: Moment[S]) -> dict[str, Value]:
        """Return all keys with their values, by name without the stream's prefix."""


@runtime_checkable
class Trimming(Projection[S], Protocol[S]):
    """A projection that lists the newest of something, so an old state has much that newer games have pushed out."""

    def trimmed(self, state: S, newest: S) -> S:
        """Return `state` without what can no longer show in a key: once the games from `state` to `newest`, and any
        late ones among them, are folded again, the keys are the same."""


@runtime_checkable
class Incremental(Projection[S], Protocol[S]):
    """A projection that knows a quicker way from one moment to the next than comparing all its keys."""

    def delta(self, before: Moment[S], after: Moment[S], kept: int) -> Delta:
        """A delta that turns `keys(before)` into `keys(after)`.

        The first `kept` games of the stream are the same in both: `kept` is `before.totals.games` unless a late game
        came in. `before` has at least one game, and its window reaches back at least to game `kept`.
        """
