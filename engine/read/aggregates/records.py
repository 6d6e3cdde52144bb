"""Records: per predicate the longest run of games that do not match it, and the highest game that does, of all time.

Pure functions of a view and a question. The engine keeps the records of all time; the window knows its own games alone.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np

from crashfold.engine.ports import AllFields, Standing
from crashfold.engine.read.aggregate import Aggregate, Asked, Lack, Route, StoredAnswer, always_stored
from crashfold.engine.read.aggregates.games import GameObject, shown
from crashfold.engine.read.questions import Question
from crashfold.engine.read.times import Instant
from crashfold.engine.read.view import View, matching
from crashfold.projections.games import games_of
from crashfold.schemas import keys
from crashfold.schemas.aggregates import LongestRun
from crashfold.schemas.game import Game
from crashfold.schemas.predicate import Predicate

_decode_run = msgspec.json.Decoder(LongestRun).decode
_decode_game = msgspec.json.Decoder(Game).decode


class RecordsQuestion(Question, frozen=True, kw_only=True):
    """The records of every predicate of the settings."""

    def cost(self, view: View) -> int:
        """The number of games: each is compared with every predicate."""
        return len(view.games)


class RunItem(msgspec.Struct, frozen=True):
    """A run of `length` games that do not match."""

    start_game_id: str
    start_time: Instant
    end_game_id: str
    end_time: Instant
    length: int


class RecordItem(msgspec.Struct, frozen=True):
    """The records of one predicate; null where there is none yet. Of equal ones the oldest stands."""

    predicate: str
    longest_run: RunItem | None
    highest_game: GameObject | None


class RecordsAnswer(msgspec.Struct, frozen=True):
    """The records of every predicate, in the order of the settings."""

    count: int
    records: list[RecordItem]


def records(view: View, question: RecordsQuestion) -> RecordsAnswer:
    """The longest run and the highest game of every predicate, of all time."""
    return _answer(view, [_within(view, predicate) for predicate in view.settings.predicates])


def _within(view: View, predicate: Predicate) -> tuple[LongestRun | None, Game | None]:
    """The records of the games in the window."""
    games = view.games
    rows = np.flatnonzero(matching(games.hundredths, predicate))
    bounds = np.concatenate(([-1], rows, [len(games)]))
    lengths = np.diff(bounds) - 1
    longest = int(lengths.argmax())
    run = highest = None
    if lengths[longest]:
        first, last = int(bounds[longest]) + 1, int(bounds[longest + 1]) - 1
        ids, times = games.ids[[first, last]].tolist(), games.end_times[[first, last]].tolist()
        run = LongestRun(ids[0], times[0], ids[1], times[1], last - first + 1)
    if len(rows):
        row = int(rows[games.hundredths[rows].argmax()])
        (highest,) = games_of(games.columns.cells[:, row : row + 1])
    return run, highest


def _answer(view: View, found: Sequence[tuple[LongestRun | None, Game | None]]) -> RecordsAnswer:
    games = {game.game_id: game for _, game in found if game is not None}
    objects = dict(zip(games, shown(view, [*games.values()]), strict=True))
    items = [
        RecordItem(
            str(predicate),
            None if run is None else _shown_run(view, run),
            None if game is None else objects[game.game_id],
        )
        for predicate, (run, game) in zip(view.settings.predicates, found, strict=True)
    ]
    return RecordsAnswer(len(items), items)


def _shown_run(view: View, run: LongestRun) -> RunItem:
    start, end = (view.zone.isoformat(time_ms * 1000) for time_ms in (run.start_time, run.end_time))
    return RunItem(str(run.start_game), start, str(run.end_game), end, run.length)


def _stored(asked: Asked, view: View) -> StoredAnswer:
    predicates = view.settings.predicates

    def build(values: Sequence[Any], standing: Standing, view: View) -> RecordsAnswer | Lack:
        found = []
        for predicate, fields in zip(predicates, values, strict=True):
            if standing.total_games and not fields:
                return Lack.MISSING  # every game matches or is in a run
            run, game = fields.get(keys.LONGEST_RUN), fields.get(keys.HIGHEST_GAME)
            found.append(
                _checked(
                    None if run is None else _decode_run(run),
                    None if game is None else _decode_game(game),
                    predicate,
                    standing,
                    view,
                )
            )
        return _answer(view, found)

    return StoredAnswer(tuple(AllFields(keys.records(predicate)) for predicate in predicates), build)


def _checked(
    run: LongestRun | None, game: Game | None, predicate: Predicate, standing: Standing, view: View
) -> tuple[LongestRun | None, Game | None]:
    """The records. Raises ValueError for those that cannot be: the newest game alone says that there must be one."""
    if run is not None and not 1 <= run.length <= standing.total_games:
        raise ValueError("a longest run is spoiled")
    if game is not None and not predicate.matches(round(game.crash_point * 100)):
        raise ValueError("a highest game is spoiled")
    if len(view.games):
        is_match = predicate.matches(int(view.games.hundredths[-1]))
        if (game if is_match else run) is None:
            raise ValueError("a record is missing")
    return run, game


RECORDS: Final = Aggregate(
    name="records",
    routes=(Route("GET", "/api/records", RecordsQuestion, records, stored=_stored),),
    source=always_stored,
    of_all_time=True,
)
