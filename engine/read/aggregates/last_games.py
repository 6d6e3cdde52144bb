"""Last games: the newest match, how many games came after it, the newest matches, and the chance of the next one.

Pure functions of a view and a question. The window may have lost sight of a rare match that the read model still
remembers: the view's past brings it along, and it counts exactly as if the window reached back to it.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Final

import msgspec
import numpy as np

from crashfold.engine.ports import AllFields, Fields, First, Piece, Pieces, Standing, Text
from crashfold.engine.read.aggregate import ANALYTICS, NAMES, Aggregate, Asked, Lack, PastReader, Route, StoredAnswer
from crashfold.engine.read.aggregates.games import GameObject, game_objects, listed, shown
from crashfold.engine.read.past import OlderMatch, Past
from crashfold.engine.read.questions import Echo, Nothing, Question, Threshold
from crashfold.engine.read.stored import count_of, decode_games, joined, only
from crashfold.engine.read.view import View, matching
from crashfold.projections.columns import Ints
from crashfold.projections.games import Games, games_of
from crashfold.projections.settings import GAPS_KEPT, LAST_GAMES_KEPT
from crashfold.schemas import keys
from crashfold.schemas.aggregates import LastGame
from crashfold.schemas.game import Game
from crashfold.schemas.predicate import Kind, Predicate

_STRIDE: Final = 2048

_decode_last_game = msgspec.json.Decoder(LastGame).decode


class LastGamesQuestion(Question, frozen=True, kw_only=True):
    """The newest `limit` matches."""

    limit: int = 10

    def items(self) -> int:
        """Count the games."""
        return self.limit

    def cost(self, view: View) -> int:
        """Count the games."""
        return min(self.limit, len(view.games))


class LastGameQuestion(Nothing, frozen=True, kw_only=True):
    """The newest match; the threshold stands in the path."""


class LastGameBatch(Question, frozen=True, kw_only=True):
    """The newest match of several thresholds."""

    values: tuple[float, ...]


class FloorLastGameBatch(LastGameBatch, frozen=True, kw_only=True):
    """The newest match of several floors."""

    values: tuple[int, ...]


class Probability(msgspec.Struct, frozen=True):
    """The chance that the next game matches, in per cent, whatever `games_since` is: rounds are independent."""

    value: float
    games_since: int


class LastGameAnswer(msgspec.Struct, frozen=True):
    """The newest match, and how many games came after it."""

    game: GameObject
    games_since: int
    probability: Probability


class LastGamesAnswer(Echo, frozen=True, kw_only=True):
    """The newest matches, newest first."""

    limit: int
    count: int
    games: list[GameObject]


def last_game(view: View, threshold: Threshold, question: Question) -> LastGameAnswer | None:
    """The newest match; None when none is known."""
    return _newest(view, [threshold])[0]


def last_game_batch(
    view: View, thresholds: Sequence[Threshold], question: LastGameBatch
) -> dict[str, LastGameAnswer | None]:
    """The newest match of each threshold, None when none is known."""
    labels = (threshold.label for threshold in thresholds)
    return dict(zip(labels, _newest(view, thresholds), strict=True))


def last_games(view: View, threshold: Threshold, question: LastGamesQuestion) -> LastGamesAnswer:
    """The newest matches, `limit` at most: of the window and, where the read model remembers some, before it."""
    limit = question.limit
    rows = np.flatnonzero(matching(view.games.hundredths, threshold.predicate))[::-1][:limit]
    older = [match.game for match in _older(view, threshold)][: limit - len(rows)]
    games = game_objects(view, rows) + shown(view, older) if older else listed(view, rows)
    return LastGamesAnswer(limit=limit, count=len(rows) + len(older), games=games, **threshold.echo)


def probability(threshold: Threshold, percent_reaching: Callable[[float], float]) -> float:
    """The chance that a game matches, in per cent with two decimals (docs/rules.md)."""
    value = threshold.value
    match threshold.kind:
        case "min":
            chance = percent_reaching(value)
        case "max":
            chance = 100 - percent_reaching(value + 0.01)
        case "floor":
            chance = percent_reaching(value) - percent_reaching(value + 1)
    return round(chance, 2)


def answers_of(
    view: View, thresholds: Sequence[Threshold], found: Sequence[tuple[Game, int] | None]
) -> list[LastGameAnswer | None]:
    """The answers about those games, each with how many came after it. A game of several thresholds is printed once."""
    games = {game.game_id: game for game, _ in filter(None, found)}
    objects = dict(zip(games, shown(view, [*games.values()]), strict=True))
    newest_id = int(view.games.ids[-1]) if len(view.games) else 0
    percent_reaching = partial(view.fairness.percent_reaching, newest_id=newest_id)
    return [
        None
        if one is None
        else LastGameAnswer(
            objects[one[0].game_id], one[1], Probability(probability(threshold, percent_reaching), one[1])
        )
        for threshold, one in zip(thresholds, found, strict=True)
    ]


def _newest(view: View, thresholds: Sequence[Threshold]) -> list[LastGameAnswer | None]:
    hundredths, total = view.games.hundredths, len(view.games)
    rows = [newest_match(hundredths, threshold.predicate) for threshold in thresholds]
    inside = sorted({row for row in rows if row is not None})
    games = dict(zip(inside, games_of(view.games.columns.cells[:, inside]), strict=True))
    found: list[tuple[Game, int] | None] = []
    for threshold, row in zip(thresholds, rows, strict=True):
        if row is not None:
            found.append((games[row], total - 1 - row))
            continue
        older = next(iter(_older(view, threshold)), None)
        if older is None or older.games_between is None:
            found.append(None)
        else:
            found.append((older.game, older.games_between + total))
    return answers_of(view, thresholds, found)


def _older(view: View, threshold: Threshold) -> list[OlderMatch]:
    """The matches before the window that are stored, newest first."""
    matches = view.past.matches.get(threshold.predicate, ())
    return [match for match in matches if view.exists(match.game.end_time)]


def newest_match(hundredths: Ints, predicate: Predicate) -> int | None:
    """Find the last row that matches. The search goes backwards in ever larger strides."""
    stop, stride = len(hundredths), _STRIDE
    while stop:
        start = max(0, stop - stride)
        rows = np.flatnonzero(matching(hundredths[start:stop], predicate))
        if len(rows):
            return start + int(rows[-1])
        stop, stride = start, 4 * stride
    return None


def _stored(asked: Asked, view: View) -> StoredAnswer:
    thresholds = asked.thresholds

    def build(values: Sequence[Any], standing: Standing, view: View) -> LastGameAnswer | Lack:
        found = _last_games_of(thresholds, values, standing, view)
        return Lack.MISSING if found is None else found[0] or Lack.NO_MATCH

    return StoredAnswer(_last_game_pieces(thresholds), build)


def _batch_stored(asked: Asked, view: View) -> StoredAnswer:
    thresholds = asked.thresholds

    def build(values: Sequence[Any], standing: Standing, view: View) -> dict[str, LastGameAnswer | None] | Lack:
        found = _last_games_of(thresholds, values, standing, view)
        if found is None:
            return Lack.MISSING
        return dict(zip((threshold.label for threshold in thresholds), found, strict=True))

    return StoredAnswer(_last_game_pieces(thresholds), build)


def _last_game_pieces(thresholds: Sequence[Threshold]) -> tuple[Piece, ...]:
    """Per threshold the last game; and how many matches there were, to know whether there must be one."""
    pieces: list[Piece] = []
    for threshold in thresholds:
        predicate = threshold.predicate
        pieces += (Text(keys.last_game(predicate)), Fields(keys.occurrences(predicate), ("count",)))
    return tuple(pieces)


def _last_games_of(
    thresholds: Sequence[Threshold], values: Sequence[Any], standing: Standing, view: View
) -> list[LastGameAnswer | None] | None:
    """The last game of each threshold, None where there is none; None when one is missing that should be there."""
    found: list[tuple[Game, int] | None] = []
    for threshold, stored, (count,) in zip(thresholds, values[::2], values[1::2], strict=True):
        if stored is not None:
            last = _decode_last_game(stored)
            _check_newest([last], threshold.predicate, view)
            if not 1 <= last.ordinal <= standing.total_games:
                raise ValueError("the last game is spoiled")
            found.append((last, standing.total_games - last.ordinal))
        elif count == b"0":
            found.append(None)
        else:
            return None
    return answers_of(view, thresholds, found)


def _list_stored(asked: Asked, view: View) -> StoredAnswer | None:
    (threshold,), limit = asked.thresholds, asked.question.limit
    if limit > LAST_GAMES_KEPT:
        return None
    predicate = threshold.predicate

    def build(values: Sequence[Any], standing: Standing, view: View) -> LastGamesAnswer | Lack:
        stored, (count,) = values
        if count is None or len(stored) != min(limit, count_of(count, standing.total_games)):
            return Lack.MISSING
        games = _descending(decode_games(joined(stored)), predicate)
        _check_newest(games, predicate, view)
        objects = shown(view, [*games])
        return LastGamesAnswer(limit=limit, count=len(objects), games=objects, **threshold.echo)

    return StoredAnswer(
        (First(keys.last_games(predicate), limit), Fields(keys.occurrences(predicate), ("count",))), build
    )


def _descending(games: Sequence[Game], predicate: Predicate) -> Sequence[Game]:
    """Matches as they are stored. Raises ValueError for games that do not match, or stand in another order."""
    if any(newer.game_id <= older.game_id for newer, older in pairwise(games)) or not all(
        predicate.matches(round(game.crash_point * 100)) for game in games
    ):
        raise ValueError("the last games are spoiled")
    return games


def _check_newest(games: Sequence[Game], predicate: Predicate, view: View) -> None:
    """Raise ValueError when these do not begin with the newest match: the window knows it, if it has one at all."""
    row = newest_match(view.games.hundredths, predicate)
    found = games[0].game_id if games else 0
    if row is None:
        if found and len(view.games) and found >= view.games.ids[0]:
            raise ValueError("the last games are spoiled")
    elif found != view.games.ids[row]:
        raise ValueError("the last games are spoiled")


def older_matches(
    window: Games, total_games: int, newest: LastGame | None, stored: Sequence[Game], gaps: Mapping[int, int]
) -> tuple[OlderMatch, ...]:
    """The stored matches of a predicate from before the window, newest first.

    `newest` is the last game, whose ordinal tells its distance; those of the others follow from the ids and the `gaps`
    (first missing id → last), as far back as these are kept.
    """
    first = int(window.ids[0]) if len(window) else 0
    known_from = min(gaps) if len(gaps) >= GAPS_KEPT else 0
    older = []
    for game in stored:
        if game.game_id >= first:
            continue
        between: int | None = None
        if newest is not None and game.game_id == newest.game_id:
            between = total_games - len(window) - newest.ordinal
        elif game.game_id >= known_from:
            missing = sum(b - a + 1 for a, b in gaps.items() if game.game_id < a < first)
            between = first - game.game_id - 1 - missing
        older.append(OlderMatch(game, between))
    return tuple(older)


def _is_past_wanted(question: Question, view: View, predicate: Predicate) -> bool:
    """Whether the window has fewer matches than are asked for."""
    wanted = question.limit if isinstance(question, LastGamesQuestion) else 1
    return int(np.count_nonzero(matching(view.games.hundredths, predicate))) < wanted


def _past_pieces(predicates: Sequence[Predicate]) -> tuple[Piece, ...]:
    pieces: list[Piece] = [AllFields(keys.GAPS)]
    for predicate in predicates:
        pieces += (
            Fields(keys.occurrences(predicate), ("count",)),
            Text(keys.last_game(predicate)),
            First(keys.last_games(predicate), LAST_GAMES_KEPT),
        )
    return tuple(pieces)


def _read_past(predicates: Sequence[Predicate], read: Pieces, window: Games) -> Past:
    fields, *values = read.values
    total = read.standing.total_games
    if not isinstance(fields, dict):
        raise ValueError("the gaps are spoiled")
    holes = {int(first): int(last) for first, last in fields.items()}
    matches = {}
    for predicate, counted, newest, stored in zip(predicates, values[::3], values[1::3], values[2::3], strict=True):
        last = _decode_last_game(newest) if isinstance(newest, bytes) else None
        games = _descending(decode_games(joined(stored)), predicate)
        count = count_of(only(counted), total)
        if len(games) != min(count, LAST_GAMES_KEPT) or (last is None) != (count == 0):
            raise ValueError("last games are missing")
        matches[predicate] = older_matches(window, total, last, games, holes)
    return Past(matches=matches)


def _routes(kind: Kind, name: str) -> tuple[Route, ...]:
    one, many = f"{ANALYTICS}/last-game/{name}", f"{ANALYTICS}/last-games/{name}"
    batch = FloorLastGameBatch if kind == "floor" else LastGameBatch
    return (
        Route("GET", f"{one}/{{value}}", LastGameQuestion, last_game, kind, _stored),
        Route("GET", f"{many}/{{value}}", LastGamesQuestion, last_games, kind, _list_stored),
        Route("POST", f"{many}s", batch, last_game_batch, kind, _batch_stored),
    )


LAST_GAMES: Final = Aggregate(
    name="last_games",
    routes=tuple(route for kind, name in NAMES.items() for route in _routes(kind, name)),
    source=lambda settings: settings.source_last_games,
    past=PastReader(_is_past_wanted, _past_pieces, _read_past),
)
