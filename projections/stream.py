"""The state of one stream: all projections folded together, the window, late games, dump and load.

Imports schemas and numpy. A `StreamState` never changes; `fold` makes the next one. It holds the newest games, those
of the window and some before it, and *snapshots*: what the projections' states were at several positions of the
stream. The oldest snapshot, the *base*, stands before all games held. So the games held and the base say everything: a
late game is folded by taking the newest snapshot before its place and folding again from there, and a restart needs
only the base and the games since.

Games that arrive are sifted and held at once; the projections fold them when somebody looks at the state, and at the
latest when `SPACINGS_UNFOLDED_MAX` spacings of them wait. So a rebuild of millions of games, which looks at the end
alone, folds few big pieces instead of many small ones. When a game was folded shows in nothing but the time it took.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Final

import msgspec
import numpy as np

from crashfold.projections.check import check_delta, check_keys, stored_state
from crashfold.projections.columns import Columns, Ints
from crashfold.projections.delta import Delta, ReadModel, Unfolding, WriteHash, diff
from crashfold.projections.games import BAND, END_TIME, ID, Games, cells_of
from crashfold.projections.plan import Plan
from crashfold.projections.projection import Moment, Totals, Trimming
from crashfold.projections.sift import Rejected, sift
from crashfold.projections.stored import BASE, BLOCK, decode_state, opened, sealed
from crashfold.projections.window import window_delta, window_keys
from crashfold.schemas import keys
from crashfold.schemas.game import Game

APART_MIN: Final = 64
"""Snapshots that are closer are not worth their memory: so many games are folded again in a millisecond."""
SPACINGS_UNFOLDED_MAX: Final = 16
"""So many spacings of games may wait to be folded: by default 200,000 games, some 20 MB."""
BLOCK_GAMES: Final = 32
"""Games that left the window but are not in the base are stored in blocks of so many, one field each."""


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """The projections' states after the first `totals.games` games of the stream."""

    totals: Totals
    states: tuple[Any, ...]


class Folded(msgspec.Struct, frozen=True):
    """The result of `StreamState.fold`; `games` are those that were accepted.

    The first `kept` games of the stream are the same before and after: all that there were, unless one came late.
    """

    state: "StreamState"
    accepted: int
    duplicates: int
    late_accepted: int
    rejected: tuple[Rejected, ...]
    kept: int
    games: Games


class StreamState:
    """The state of one stream after some prefix of its games. Immutable."""

    def __init__(self, plan: Plan, held: Games, snapshots: tuple[Snapshot, ...], *, is_loaded: bool = False) -> None:
        self.plan = plan
        self._held = held
        self._snapshots = snapshots
        self._is_loaded = is_loaded
        self._games = snapshots[0].totals.games + len(held)

    @classmethod
    def empty(cls, plan: Plan) -> "StreamState":
        """Return the state of a stream without games."""
        return cls(plan, Games.empty(plan.bands), (Snapshot(Totals(), plan.empty()),))

    @property
    def games(self) -> int:
        """Count the games of the stream."""
        return self._games

    @property
    def totals(self) -> Totals:
        """The totals over all games of the stream."""
        return self.settled()._snapshots[-1].totals

    @property
    def newest_id(self) -> int | None:
        """The highest id; None before the first game."""
        return int(self._held.ids[-1]) if len(self._held) else None

    @property
    def newest_end_time(self) -> int | None:
        """When the newest game (by id) ended, in epoch milliseconds; None before the first game."""
        return int(self._held.columns.cells[END_TIME, -1]) if len(self._held) else None

    @property
    def games_held(self) -> int:
        """Count the games in memory."""
        return len(self._held)

    @property
    def bytes_held(self) -> int:
        """Return the bytes of the games held and of the tables of all snapshots, each counted once; not of that before
        the first game, which all streams share."""
        own = [snapshot.states for snapshot in self._snapshots if snapshot.totals.games]
        arrays = [self._held.columns.memory, *_arrays_in(own)]
        return sum({id(array): array.nbytes for array in arrays}.values())

    @cached_property
    def window(self) -> Games:
        """The window: the newest games."""
        return self._held.last(self.plan.settings.window_games)

    def fold(self, arrived: Sequence[Game]) -> Folded:
        """Fold `arrived` games, in the order in which they came."""
        return self.fold_cells(cells_of(self.plan.bands, arrived))

    def fold_cells(self, arrived: Ints) -> Folded:
        """`fold` for games that are cells already."""
        sifted = sift(self.window, self.plan.settings.window_games, arrived)
        accepted, kept = sifted.accepted, self.games
        if not len(accepted):
            return Folded(self, 0, sifted.duplicates, 0, sifted.rejected, kept, accepted)
        held, snapshots = self._held, self._snapshots
        late = int(np.searchsorted(accepted.ids, held.ids[-1])) if len(held) else 0
        if late:
            at = int(np.searchsorted(held.ids, accepted.ids[0]))
            kept = snapshots[0].totals.games + at
            snapshots = tuple(snapshot for snapshot in snapshots if snapshot.totals.games <= kept)
            held = held.part(0, at).append(held.part(at, len(held)).merged(accepted))
        else:
            held = held.append(accepted)
        state = StreamState(self.plan, held, snapshots)
        if state.games - snapshots[-1].totals.games > SPACINGS_UNFOLDED_MAX * self.plan.spacing:
            state = state._folded_to(state._unspaced)._rebased()
        return Folded(state, len(accepted), sifted.duplicates, late, sifted.rejected, kept, accepted)

    def settled(self) -> "StreamState":
        """Return this state with every game folded by the projections; worked out once.

        What it was folded from is let go: for a stream of few games that would be half of its memory.
        """
        if self.games > self._snapshots[-1].totals.games:
            folded = self._folded_to(self.games)
            # The base of a state that was loaded is the stored one: the next delta says how another differs from it.
            folded = folded if self._is_loaded else folded._rebased()
            self._held, self._snapshots = folded._held, folded._snapshots
        return self

    def keys(self) -> ReadModel:
        """Return all keys of the stream with their values, by name without the prefix."""
        state = self.settled()
        values = ReadModel(window_keys(state.window))
        for projection, moment in zip(self.plan.projections, state._moments, strict=True):
            values.update(projection.keys(moment))
        state.window.forget_json()
        return values

    def delta(self, before: "StreamState", kept: int) -> Delta:
        """The writes that turn the keys of `before` into those of this state, and bring along what a restart needs.

        The first `kept` games of the stream are the same in both (`Folded.kept`, the least over several folds).
        """
        delta: Delta = {}
        after, before = self.settled(), before.settled()
        if after.totals != before.totals or kept < after.games:
            plan = self.plan
            if before.games:
                delta |= window_delta(before.window, after.window, before.games - kept, after.games - kept)
            else:
                delta |= diff({}, window_keys(after.window))
            parts = zip(plan.projections, plan.incremental, plan.checked, before._moments, after._moments, strict=True)
            for projection, incremental, is_checked, old, new in parts:
                if incremental is not None and before.games:
                    writes = incremental.delta(old, new, kept)
                    if is_checked:
                        check_delta(projection, writes)
                else:
                    model = projection.keys(new)
                    if is_checked:
                        check_keys(projection, model)
                    writes = diff(projection.keys(old), model)
                delta |= writes
        after.window.forget_json()
        stored = after._stored_since(before)
        if stored.set or stored.delete:
            delta[keys.CHECKPOINT] = stored
        return delta

    def create(self) -> Unfolding:
        """The writes that store this state where nothing is, made as somebody comes to them.

        The window's writes come first: they are made before the last games are folded, and take the store longest.
        """
        return Unfolding(self._created())

    def _created(self) -> Iterator[Delta]:
        yield diff({}, window_keys(self.window))
        state = self.settled()
        parts = zip(self.plan.projections, self.plan.checked, state._moments, strict=True)
        for projection, is_checked, moment in parts:
            model = projection.keys(moment)
            if is_checked:
                check_keys(projection, model)
            yield diff({}, model)
        yield {keys.CHECKPOINT: WriteHash(self.stored())}

    def stored(self) -> dict[str, bytes]:
        """Return the fields of the checkpoint that a restart needs beside the games of the window."""
        state = self.settled()
        base, window = state._snapshots[0].totals.games, state._window_start
        return {BASE: state._stored_base()} | state._blocks(base, window)

    @classmethod
    def load(cls, plan: Plan, stored: dict[str, bytes], window: Sequence[Game]) -> "StreamState":
        """Load a state from the fields that `stored()` made and the games of its window. Raises ValueError when they do
        not fit together."""
        base = _decode(plan, opened(BASE, stored[BASE]))
        held = Games.of(plan.bands, window)
        blocks = sorted(
            (int(name.removeprefix(BLOCK)), opened(name, data))
            for name, data in stored.items()
            if name.startswith(BLOCK)
        )
        if blocks:
            cells = np.concatenate([Columns.from_bytes(BAND, data).cells for _, data in blocks], axis=1)
            cells = cells[:, cells[ID] > (base.totals.newest_id or 0)]
            held = Games.of_cells(plan.bands, cells).append(held)
        if any(b <= a for a, b in pairwise(held.ids.tolist())):
            raise ValueError("the games stored before the window do not fit the window")
        return cls(plan, held, (base,), is_loaded=True)

    def dump(self) -> bytes:
        """Encode the whole state as bytes, for `loads`."""
        cells = self.window.columns.cells[:BAND]
        return msgspec.msgpack.encode((self.stored(), Columns.of(cells).to_bytes()))

    @classmethod
    def loads(cls, plan: Plan, data: bytes) -> "StreamState":
        """Decode the state that `dump` wrote. Raises ValueError when `data` is no dump."""
        stored, cells = msgspec.msgpack.decode(data, type=tuple[dict[str, bytes], bytes])
        window = Games.of_cells(plan.bands, Columns.from_bytes(BAND, cells).cells)
        return cls.load(plan, stored, window.to_games())

    @property
    def _window_start(self) -> int:
        """How many games of the stream came before the window."""
        return self.games - min(len(self._held), self.plan.settings.window_games)

    @cached_property
    def _moments(self) -> list[Moment[Any]]:
        newest, window = self._snapshots[-1], self.window
        return [Moment(state, newest.totals, window) for state in newest.states]

    @property
    def _unspaced(self) -> int:
        """Up to where no snapshot is needed but the newest: the window no longer reaches there, so nothing comes late.
        One spacing less, for the base to stand there."""
        return self._window_start - self.plan.spacing

    @property
    def _old(self) -> int:
        """The games behind a snapshot that is old."""
        return max(1, self.plan.spacing // 4)

    def _folded_to(self, stop: int) -> "StreamState":
        """The state with the first `stop` games folded by the projections, and a snapshot wherever one is due."""
        snapshots, base = self._snapshots, self._snapshots[0].totals.games
        first = start = snapshots[-1].totals.games
        while start < stop:
            end = min(stop, max(start + self.plan.spacing, self._unspaced))
            piece = self._held.part(start - base, end - base)
            snapshots = self._thinned((*snapshots, self._next(snapshots[-1], piece)))
            start = end
        if first // self._old < stop // self._old:
            snapshots = self._lightened(snapshots)
        return StreamState(self.plan, self._held, snapshots)

    def _next(self, snapshot: Snapshot, games: Games) -> Snapshot:
        totals = snapshot.totals
        event_time = int(games.end_times.max())
        return Snapshot(
            Totals(
                totals.games + len(games),
                int(games.end_times[0]) if totals.first_game_time is None else totals.first_game_time,
                event_time if totals.event_time is None else max(event_time, totals.event_time),
                int(games.ids[-1]),
            ),
            tuple(
                projection.fold(state, games)
                for projection, state in zip(self.plan.projections, snapshot.states, strict=True)
            ),
        )

    def _thinned(self, snapshots: tuple[Snapshot, ...]) -> tuple[Snapshot, ...]:
        """The base, the newest, and between them ever fewer the older they are.

        A snapshot that passed a multiple of a power of two is kept until it is twice as old as that power, if the power
        is worth it; one that passed a multiple of the spacing is kept for good.
        """
        total, newest = snapshots[-1].totals.games, snapshots[-1]
        worth = min(APART_MIN, self.plan.spacing)
        kept = [snapshots[0]]
        for previous, snapshot in pairwise(snapshots):
            games = snapshot.totals.games
            reach = 1 << (previous.totals.games ^ games).bit_length() - 1
            spaced = previous.totals.games // self.plan.spacing < games // self.plan.spacing
            if snapshot is newest or spaced or (reach >= worth and total - games <= 2 * reach):
                kept.append(snapshot)
        return tuple(kept)

    def _lightened(self, snapshots: tuple[Snapshot, ...]) -> tuple[Snapshot, ...]:
        """The snapshots, the old ones without what newer games have pushed out of every list.

        A young one shares the tables of the newest.
        """
        newest = snapshots[-1]
        return tuple(
            one if newest.totals.games - one.totals.games < self._old else _trimmed(self.plan, one, newest)
            for one in snapshots
        )

    def _rebased(self) -> "StreamState":
        """The same state with a newer base, when more games than a spacing are held before the window."""
        base, window = self._snapshots[0].totals.games, self._window_start
        if window - base <= self.plan.spacing:
            return self
        snapshots = self._snapshots
        first = max(i for i, snapshot in enumerate(snapshots) if snapshot.totals.games <= window)
        skipped = snapshots[first].totals.games - base
        return StreamState(self.plan, self._held.part(skipped, len(self._held)), snapshots[first:])

    def _stored_since(self, before: "StreamState") -> WriteHash:
        """How the stored fields differ from those of `before`."""
        old_base, base = before._snapshots[0].totals.games, self._snapshots[0].totals.games
        old_window, window = before._window_start, self._window_start
        fields = self._blocks(max(base, old_window), window) if window > old_window else {}
        gone: tuple[str, ...] = ()
        if base > old_base or before.games == 0:
            fields[BASE] = self._stored_base()
            stop = min(base // BLOCK_GAMES, -(-old_window // BLOCK_GAMES))
            gone = tuple(f"{BLOCK}{block}" for block in range(old_base // BLOCK_GAMES, stop))
        return WriteHash(fields, gone)

    def _stored_base(self) -> bytes:
        return sealed(BASE, _encode(self.plan, _trimmed(self.plan, self._snapshots[0], self._snapshots[-1])))

    def _blocks(self, start: int, stop: int) -> dict[str, bytes]:
        """The fields of the blocks that hold games number `start` to `stop` (exclusive, from 0) of the stream.

        A block holds the games with numbers from BLOCK_GAMES times its own that are held and before the window.
        """
        base, window = self._snapshots[0].totals.games, self._window_start
        fields = {}
        for block in range(start // BLOCK_GAMES, -(-stop // BLOCK_GAMES)):
            low, high = max(base, block * BLOCK_GAMES), min(window, (block + 1) * BLOCK_GAMES)
            if low < high:
                cells = self._held.columns.cells[:BAND, low - base : high - base]
                is_full = high == (block + 1) * BLOCK_GAMES  # until then it is written again with the next commits
                name = f"{BLOCK}{block}"
                fields[name] = sealed(name, Columns.of(cells).to_bytes(is_small=is_full))
        return fields


def _arrays_in(value: object) -> Iterator[np.ndarray]:
    """The arrays that a projection's state consists of."""
    match value:
        case Columns():
            yield value.memory
        case np.ndarray():
            yield value
        case msgspec.Struct():
            for field in value.__struct_fields__:
                yield from _arrays_in(getattr(value, field))
        case dict():
            for one in value.values():
                yield from _arrays_in(one)
        case tuple() | list():
            for one in value:
                yield from _arrays_in(one)


def _trimmed(plan: Plan, snapshot: Snapshot, newest: Snapshot) -> Snapshot:
    """The snapshot without what the games that lead to the newest have pushed out of every list."""
    states = tuple(
        one.trimmed(state, last) if isinstance(one, Trimming) else state
        for one, state, last in zip(plan.projections, snapshot.states, newest.states, strict=True)
    )
    return Snapshot(snapshot.totals, states)


def _encode(plan: Plan, snapshot: Snapshot) -> bytes:
    states = [stored_state(one, state) for one, state in zip(plan.projections, snapshot.states, strict=True)]
    return msgspec.msgpack.encode((snapshot.totals, states))


def _decode(plan: Plan, data: bytes) -> Snapshot:
    totals, states = msgspec.msgpack.decode(data, type=tuple[Totals, list[bytes]])
    empty = [projection.empty() for projection in plan.projections]
    if len(states) != len(empty):
        raise ValueError(f"the state is of {len(states)} projections, not of {len(empty)}")
    return Snapshot(totals, tuple(decode_state(state, type(like)) for state, like in zip(states, empty, strict=True)))
