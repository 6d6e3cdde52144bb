"""The past: facts that the read model keeps of games before the window, for the predicates that are configured.

Imports msgspec and schemas. An answer with the past is the one that a longer window would give. A past and its window
are of one version.
"""

from typing import Final

import msgspec

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
    """The past by predicate; the matches are newest first."""

    openings: dict[Predicate, Opening] = {}
    matches: dict[Predicate, tuple[OlderMatch, ...]] = {}


NO_PAST: Final = Past()
