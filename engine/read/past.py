"""The past: what the read model still knows of the games before the window, for the predicates that are configured.

Imports numpy, msgspec, schemas and projections. An answer with the past is the one that a longer window would give; all
that is passed in must be of one version with the window.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from crashfold.projections.games import Games
from crashfold.projections.settings import GAPS_KEPT
from crashfold.schemas.aggregates import LastGame, Series
from crashfold.schemas.game import Game
from crashfold.schemas.predicate import Predicate


class Opening(msgspec.Struct, frozen=True):
    """The series that is open when the window begins: its first game, and how many games it has before the window."""

    start_game: int
    start_time_ms: int
    length: int


class OlderMatch(msgspec.Struct, frozen=True):
    """A match from before the window; `games_between` it and the window, None when nobody knows any more."""

    game: Game
    games_between: int | None


class Past(msgspec.Struct, frozen=True):
    """What is known, by predicate; the matches are newest first."""

    openings: dict[Predicate, Opening] = {}
    matches: dict[Predicate, tuple[OlderMatch, ...]] = {}


NO_PAST: Final = Past()


def opening_of(window: Games, stored: Sequence[Series]) -> Opening | None:
    """The series open when `window` begins, by the stored series of a `min` predicate, newest first.

    None when a series begins with the window, or when the stored ones do not reach back that far.
    """
    if not len(window):
        return None
    first = int(window.ids[0])
    run = next((run for run in stored if run.start_game < first), None)
    if run is None:
        return None
    ended_by = run.follow_streak.games[0].game_id if run.follow_streak.games else None
    if run.end_game < first and ended_by != first:
        return None
    inside = int(np.searchsorted(window.ids, run.end_game, "right"))
    return Opening(run.start_game, run.start_time, run.length - inside)


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
