"""Games as the API shows them: one, or a page of the window, newest first.

Pure functions of a view and a question; the window alone answers them. Ids are strings, for JavaScript's sake. The
calculated point follows from the hash, whatever the crash point on the topic was.
"""

from typing import Final, Literal, cast

import msgspec
import numpy as np

from crashfold.engine.read.aggregate import Aggregate, Route, always_computed
from crashfold.engine.read.printing import MANY, hexadecimal, hundredths, objects, text, unless, whole
from crashfold.engine.read.questions import Nothing, Question
from crashfold.engine.read.times import Instant
from crashfold.engine.read.view import View
from crashfold.projections.columns import Ints
from crashfold.projections.games import ABSENT, COLUMN, END_TIME, HASH, HUNDREDTHS, ID, games_of
from crashfold.schemas.game import CRASH_POINT_MAX, Game


class PageQuestion(Question, frozen=True, kw_only=True):
    """Page number `page`, from 1, of the window, newest first."""

    page: int = 1
    per_page: int = 10


class GameQuestion(Nothing, frozen=True, kw_only=True):
    """One game; its id stands in the path."""


class GameObject(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """One game. `calculatedPoint` is the crash point that follows from the hash, null without one."""

    game_id: str
    hash_value: str | None
    crash_point: float
    calculated_point: float | None
    crashed_floor: int
    end_time: Instant
    prepare_time: Instant | None
    begin_time: Instant | None


class Pagination(msgspec.Struct, frozen=True):
    """Where a page stands; `total_items` are the games in the window."""

    page: int
    per_page: int
    total_items: int
    total_pages: int
    has_next: bool
    has_prev: bool


class GamesPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of games, newest first: the whole body. One past the end is empty."""

    status: Literal["success"] = "success"
    count: int
    pagination: Pagination
    data: list[GameObject]


def games_page(view: View, question: PageQuestion) -> GamesPage:
    """That page of the window."""
    total, per_page = len(view.games), question.per_page
    newest = max(0, total - (question.page - 1) * per_page)
    rows = np.arange(newest - 1, max(0, newest - per_page) - 1, -1)
    pages = -(-total // per_page)
    pagination = Pagination(
        question.page, per_page, total, pages, has_next=question.page < pages, has_prev=question.page > 1
    )
    return GamesPage(count=len(rows), pagination=pagination, data=game_objects(view, rows))


def one_game(view: View, game_id: int, question: GameQuestion) -> GameObject | None:
    """The game of that id; None when the window does not hold it."""
    ids = view.games.ids
    if not len(ids) or not ids[0] <= game_id <= ids[-1]:
        return None
    row = int(np.searchsorted(ids, game_id))
    return game_objects(view, np.array([row]))[0] if ids[row] == game_id else None


def game_objects(view: View, rows: Ints) -> list[GameObject]:
    """The games in those rows of the view, in that order."""
    return shown(view, games_of(view.games.columns.cells[:, rows]))


def listed(view: View, rows: Ints) -> list[GameObject]:
    """`game_objects` for an answer that is only printed: of many games this is their JSON."""
    printed = _json(view, view.games.columns.cells[:, rows]) if len(rows) >= MANY else None
    return game_objects(view, rows) if printed is None else cast(list[GameObject], printed)


def shown(view: View, games: list[Game]) -> list[GameObject]:
    """Make the objects that the API shows for these games, in the same order."""
    times = [
        *(game.end_time for game in games),
        *(ABSENT if game.prepare_time is None else game.prepare_time for game in games),
        *(ABSENT if game.begin_time is None else game.begin_time for game in games),
    ]
    printed = _printed(view, np.array(times, np.int64))
    count, calculate = len(games), view.fairness.calculated_point
    return [
        GameObject(
            str(game.game_id),
            game.hash,
            game.crash_point,
            None if game.hash is None else calculate(game.game_id, game.hash),
            int(game.crash_point),
            end_time or "",
            prepare_time,
            begin_time,
        )
        for game, end_time, prepare_time, begin_time in zip(
            games, printed[:count], printed[count : 2 * count], printed[2 * count :], strict=True
        )
    ]


def _printed(view: View, times_ms: Ints) -> list[str | None]:
    """The times, printed; None for those that are absent."""
    absent = times_ms == ABSENT
    if not absent.any():
        return [*view.zone.isoformats(times_ms)]
    printed = iter(view.zone.isoformats(times_ms[~absent]))
    return [None if missing else next(printed) for missing in absent.tolist()]


def _json(view: View, cells: Ints) -> msgspec.Raw | None:
    """The JSON array of the games in those cells; None where a crash point is too high to be printed in hundredths."""
    ids, points, has_hash = cells[ID], cells[HUNDREDTHS], cells[HASH] != 0
    hashes = np.ascontiguousarray(cells[HASH + 1 : HASH + 5].T).view(np.uint8)
    digits = hashes.tobytes().hex()
    calculated = np.full(len(ids), np.nan)
    calculated[has_hash] = view.fairness.calculated_points(
        ids[has_hash].tolist(), [digits[64 * row : 64 * row + 64] for row in has_hash.nonzero()[0].tolist()]
    )
    is_unknown = np.isnan(calculated)
    if calculated.max(initial=0, where=~is_unknown) > CRASH_POINT_MAX:
        return None
    calculated_hundredths = np.rint(np.where(is_unknown, 0, calculated) * 100).astype(np.int64)
    times = cells[[END_TIME, COLUMN["prepare_time"], COLUMN["begin_time"]]]
    is_absent = times == ABSENT
    printed = view.zone.characters(np.where(is_absent, 0, times).ravel())
    end_times, prepare_times, begin_times = map(text, printed.reshape(3, len(ids), -1))
    columns = {
        "game_id": text(*whole(ids)),
        "hash_value": unless(~has_hash, text(hexadecimal(hashes))),
        "crash_point": hundredths(points),
        "calculated_point": unless(is_unknown, hundredths(calculated_hundredths)),
        "crashed_floor": whole(points // 100),
        "end_time": end_times,
        "prepare_time": unless(is_absent[1], prepare_times),
        "begin_time": unless(is_absent[2], begin_times),
    }
    return objects(GameObject, columns)


GAMES: Final = Aggregate(
    name="games",
    routes=(
        Route("GET", "/api/games", PageQuestion, games_page),
        Route("GET", "/api/games/{game_id}", GameQuestion, one_game),
    ),
    source=always_computed,
)
