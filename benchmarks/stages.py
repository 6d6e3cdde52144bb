"""The stages between a record and a commit, called one after the other on one stream, each timed by itself.

CPU time of this thread: what other processes take does not count.
"""

import time
from collections.abc import Sequence

import msgspec

from crashfold.engine.adapters.redis import packing
from crashfold.engine.adapters.redis.parts import whole
from crashfold.engine.ports import Checkpoint, Commit, Mark, Position
from crashfold.projections import Plan, StreamState
from crashfold.projections.delta import Delta, Writes
from crashfold.schemas.game import Game
from crashfold.schemas.keys import Keys
from crashfold.schemas.record import DEFAULT_STREAM

NAMES = Keys.of("bench:{stream}", DEFAULT_STREAM)


class Stages(msgspec.Struct, frozen=True):
    """CPU seconds of each stage over `games` games."""

    games: int
    fold_s: float
    delta_s: float
    pack_s: float

    @property
    def fold_us(self) -> float:
        """Columns, sift and fold, µs a game."""
        return self.fold_s * 1e6 / self.games

    @property
    def rest_us(self) -> float:
        """Delta and packing, µs a game."""
        return (self.delta_s + self.pack_s) * 1e6 / self.games

    @property
    def all_us(self) -> float:
        """Everything, µs a game."""
        return self.fold_us + self.rest_us


def warmed(plan: Plan, games: Sequence[Game]) -> StreamState:
    """The state after these games."""
    return StreamState.empty(plan).fold(games).state.settled()


def timed(state: StreamState, games: Sequence[Game], batch: int) -> tuple[Stages, StreamState]:
    """Fold `games` in batches of `batch`, and make and pack a commit of each; the state after them."""
    fold_s = delta_s = pack_s = 0.0
    commits = Commits(state)
    for start in range(0, len(games), batch):
        piece = games[start : start + batch]
        began_s = time.thread_time()
        folded = state.fold(piece)
        after = folded.state.settled()
        folded_s = time.thread_time()
        delta = after.delta(state, folded.kept)
        made_s = time.thread_time()
        commit = commits.next(after, delta)
        packing.call(NAMES, commit, whole(commit))
        packed_s = time.thread_time()
        fold_s, delta_s, pack_s = fold_s + folded_s - began_s, delta_s + made_s - folded_s, pack_s + packed_s - made_s
        state = after
    return Stages(len(games), fold_s, delta_s, pack_s), state


class Commits:
    """Commits of one stream, each on top of the one before; the first on `state`."""

    def __init__(self, state: StreamState, stream: str = DEFAULT_STREAM) -> None:
        self._stream = stream
        self._checkpoint = Checkpoint(
            next_offset=1,
            generation="bench",
            commit=f"{1:016x}",
            writer="bench",
            topic="bench",
            partition=0,
            first_offset=0,
            mark=Mark(0, 0, "0" * 16),
            fingerprint=state.plan.fingerprint,
            aggregates=state.plan.aggregates,
        )

    def first(self, state: StreamState) -> Commit:
        """The one that stores the whole state where nothing is."""
        return self._commit(None, state, state.create())

    def next(self, state: StreamState, delta: Delta) -> Commit:
        """The one that brings `state` by `delta`."""
        before = self._checkpoint
        next_offset = before.next_offset + 1
        self._checkpoint = msgspec.structs.replace(before, next_offset=next_offset, commit=f"{next_offset:016x}")
        return self._commit(before.position, state, delta)

    def _commit(self, expected: Position | None, state: StreamState, delta: Writes) -> Commit:
        totals = state.totals
        return Commit(self._stream, expected, self._checkpoint, delta, totals.games, totals.newest_id)
