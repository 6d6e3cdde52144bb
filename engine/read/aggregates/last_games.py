"""Last games: the newest match, how many games came after it, the newest matches, and the chance of the next one.

Pure functions of a view and a question. The window may have lost sight of a rare match that the read model still
remembers: the view's past brings it along, and it counts exactly as if the window reached back to it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec
import numpy as np

from crashfold.engine.read.aggregates.games import GameObject, game_objects, shown
from crashfold.engine.read.past import OlderMatch
from crashfold.engine.read.questions import Echo, LastGameBatch, LastGamesQuestion, Nothing, Threshold
from crashfold.engine.read.view import View, matching
from crashfold.projections.columns import Ints
from crashfold.projections.games import games_of
from crashfold.schemas.game import Game
from crashfold.schemas.predicate import Predicate

_STRIDE: Final = 2048


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


def last_game(view: View, threshold: Threshold, question: Nothing) -> LastGameAnswer | None:
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
    games = game_objects(view, rows)
    older = [match.game for match in _older(view, threshold)]
    games += shown(view, older[: limit - len(games)])
    return LastGamesAnswer(limit=limit, count=len(games), games=games, **threshold.echo)


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
    """What is remembered of matches before the window, newest first."""
    matches = view.past.matches.get(threshold.predicate, ())
    return [match for match in matches if view.exists(match.game.end_time)]


def newest_match(hundredths: Ints, predicate: Predicate) -> int | None:
    """The last row that matches, looked for from the end in ever larger strides."""
    stop, stride = len(hundredths), _STRIDE
    while stop:
        start = max(0, stop - stride)
        rows = np.flatnonzero(matching(hundredths[start:stop], predicate))
        if len(rows):
            return start + int(rows[-1])
        stop, stride = start, 4 * stride
    return None
