"""`GameFolding`: crash games for the engine, by `projections`.

Imports projections, schemas and ports; no I/O. What is always true: what becomes of a record follows from the record,
the settings and the games before it, so that live, rebuild and verify agree.
"""

import pickle
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from crashfold.engine.games.fairness import FairnessCheck
from crashfold.engine.ports import DecodedRecords, Newest, Recounted, Rejection
from crashfold.engine.ports.log import Record, Records
from crashfold.projections import Plan, StreamState, plain
from crashfold.projections.columns import Ints
from crashfold.projections.decoding import decode_cells
from crashfold.projections.games import END_TIME, games_of
from crashfold.projections.plain import Arrivals
from crashfold.projections.settings import HOUR_MS
from crashfold.schemas import keys
from crashfold.schemas.game import Game, decode
from crashfold.schemas.record import Unreadable

BLOCK_GAMES: Final = 64
"""Games are packed so many at a time."""

Reason = Literal["unreadable", "stream", "future", "fairness", "conflict", "late"]
"""Why a record can become a dead letter."""
REASONS: Final[tuple[str, ...]] = get_args(Reason)


class GameFolding:
    """Folds games by `plan`; those that `fairness` rejects are not folded. `plan.rule` must be that of `fairness`."""

    def __init__(self, plan: Plan, fairness: FairnessCheck | None = None) -> None:
        assert plan.rule == ("" if fairness is None else fairness.rule), "the plan was made for another rule"
        self._plan = plan
        self._fairness = fairness if fairness is not None and fairness.rejects else None

    @property
    def fingerprint(self) -> str:
        """See `Folding`."""
        return self._plan.fingerprint

    @property
    def aggregates(self) -> tuple[str, ...]:
        """See `Folding`."""
        return self._plan.aggregates

    @property
    def window_games(self) -> int:
        """See `Folding`."""
        return self._plan.settings.window_games

    def decode(self, records: Records) -> DecodedRecords:
        """See `Folding`. Games from the future are rejected too."""
        found = decode_cells(self._plan.bands, records.values)
        rejected = [(row, "unreadable", why.detail) for row, why in found.unreadable]
        hours_max = self._plan.settings.future_hours_max
        is_future = _are_future(records, found.rows, found.cells, hours_max)
        if not is_future.any():
            return DecodedRecords(found.rows, found.cells, rejected)
        facts = zip(
            found.rows[is_future].tolist(),
            found.cells[END_TIME, is_future].tolist(),
            records.timestamps_ms[found.rows[is_future]].tolist(),
            strict=True,
        )
        rejected += [(row, "future", future_detail(end, written, hours_max)) for row, end, written in facts]
        return DecodedRecords(found.rows[~is_future], found.cells[:, ~is_future], rejected)

    def unfit(self, stream: str, cells: Ints) -> Sequence[Rejection]:
        """See `Folding`. Games that do not fit their hashes, where those are rejected."""
        if self._fairness is None:
            return ()
        details = [self._fairness.rejection(stream, game) for game in games_of(cells)]
        return [(position, "fairness", detail) for position, detail in enumerate(details) if detail is not None]

    def empty(self) -> StreamState:
        """See `Folding`."""
        return StreamState.empty(self._plan)

    def load(self, state: Mapping[str, bytes], window: Sequence[bytes]) -> StreamState:
        """See `Folding`."""
        return StreamState.load(self._plan, dict(state), [_stored_game(member) for member in window])

    def newest(self, window: Sequence[bytes]) -> Newest | None:
        """See `Folding`."""
        game = decode(window[-1]) if window else None
        return Newest(game.game_id, game.end_time) if isinstance(game, Game) else None

    def recount(self, stream: str) -> "GameRecount":
        """See `Folding`."""
        return GameRecount(stream, self._plan, self._fairness)


class GameRecount:
    """One stream by the plain oracle. Games are packed until all have been taken, for there may be many thousands of
    streams, and to be read they take ten times as much memory."""

    def __init__(self, stream: str, plan: Plan, fairness: FairnessCheck | None) -> None:
        self._stream = stream
        self._plan = plan
        self._fairness = fairness
        self._rejected = 0
        self._blocks: list[bytes] = []
        self._newest: list[Game] = []

    def take(self, record: Record) -> None:
        """See `Recount`."""
        game = decode(record.value)
        if (
            isinstance(game, Unreadable)
            or plain.is_future(self._plan.settings, game.end_time, record.timestamp_ms)
            or (self._fairness is not None and self._fairness.rejection(self._stream, game) is not None)
        ):
            self._rejected += 1
            return
        self._newest.append(game)
        if len(self._newest) == BLOCK_GAMES:
            self._blocks.append(_packed(self._newest))
            self._newest = []

    def result(self) -> Recounted:
        """See `Recount`."""
        arrivals, rejected = Arrivals(self._plan.settings), self._rejected
        for games in (*map(_unpacked, self._blocks), self._newest):
            for game in games:
                rejected += arrivals.arrive(game) is not None
        accepted = arrivals.accepted
        return Recounted(len(accepted), arrivals.duplicates, rejected, self._keys(accepted))

    def _keys(self, games: list[Game]) -> dict[str, Any]:
        """Return the expected keys: by the plain recomputation, and for projections of one's own by one fold."""
        plan = self._plan
        expected = plain.read_model(plan.settings, games)
        own = set(plan.aggregates) - plain.AGGREGATES
        if own and games:
            folded = StreamState.empty(plan).fold(games).state.keys()
            expected |= {name: value for name, value in folded.items() if name.partition(":")[0] in own}
        return expected


def future_detail(end_time: int, timestamp_ms: int, hours_max: int) -> str:
    """Why a game from the future is rejected."""
    return (
        f"end_time {end_time} lies {(end_time - timestamp_ms) / HOUR_MS:.1f} hours after the record's timestamp, more "
        f"than projections.future_hours_max, {hours_max}"
    )


def _are_future(records: Records, rows: Ints, cells: Ints, hours_max: int) -> NDArray[np.bool_]:
    """Of each game whether it ends too long after its record was written (`plain.is_future`)."""
    if not hours_max:
        return np.zeros(len(rows), np.bool_)
    timestamps_ms = records.timestamps_ms[rows]
    found: NDArray[np.bool_] = (cells[END_TIME] - timestamps_ms > hours_max * HOUR_MS) & (timestamps_ms > 0)
    return found


def _stored_game(member: bytes) -> Game:
    game = decode(member)
    if isinstance(game, Unreadable):
        raise ValueError(f"`{keys.GAMES}` holds something that is no game: {game.detail}")
    return game


def _packed(games: list[Game]) -> bytes:
    return zlib.compress(pickle.dumps(games, pickle.HIGHEST_PROTOCOL), 1)


def _unpacked(data: bytes) -> list[Game]:
    games: list[Game] = pickle.loads(zlib.decompress(data))  # nobody but this process has had it
    return games
