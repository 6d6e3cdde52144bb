"""Last games: per predicate the newest match, with its position in the stream, and the newest 100 matches."""

import msgspec
import numpy as np

from projections.columns import Columns, Ints
from projections.delta import Delta, SetString, Value, WriteList
from projections.games import BAND, WIDTH, Games, games_of
from projections.projection import Moment
from projections.settings import LAST_GAMES_KEPT, ProjectionSettings
from schemas import keys
from schemas.aggregates import LastGame
from schemas.game import Game, encode

_ORDINAL = BAND
"""A kept match needs no band any more; its ordinal stands there instead."""


class LastGamesState(msgspec.Struct, frozen=True):
    """How many games were folded, and per predicate the cells of the newest matches, oldest first."""

    total: int
    matches: tuple[Columns, ...]


class LastGames:
    """See docs/rules.md, section 4.4."""

    name = "last_games"
    version = 1
    aggregates = ("last_game", "last_games")

    def __init__(self, settings: ProjectionSettings) -> None:
        self._last_game = [keys.last_game(predicate) for predicate in settings.predicates]
        self._last_games = [keys.last_games(predicate) for predicate in settings.predicates]

    def empty(self) -> LastGamesState:
        """No matches."""
        return LastGamesState(0, tuple(Columns.empty(WIDTH) for _ in self._last_game))

    def fold(self, state: LastGamesState, games: Games) -> LastGamesState:
        """The newest matches, with those among `games`."""
        cells = games.columns.cells
        matches = list(state.matches)
        for predicate, positions in enumerate(games.positions()):
            if len(positions):
                newest = positions[-LAST_GAMES_KEPT:]
                rows = cells[:, newest]
                rows[_ORDINAL] = newest + state.total + 1
                matches[predicate] = matches[predicate].append(rows).last(LAST_GAMES_KEPT)
        return LastGamesState(state.total + len(games), tuple(matches))

    def keys(self, moment: Moment[LastGamesState]) -> dict[str, Value]:
        """Of every predicate that has a match the newest one and the list."""
        values: dict[str, Value] = {}
        for predicate, matches in enumerate(moment.state.matches):
            if len(matches):
                games = games_of(matches.cells)[::-1]
                values[self._last_game[predicate]] = _last_game(games[0], matches[_ORDINAL])
                values[self._last_games[predicate]] = [encode(game) for game in games]
        return values

    def delta(self, before: Moment[LastGamesState], after: Moment[LastGamesState], kept: int) -> Delta:
        """The matches behind the first `kept` games, in place of those known before."""
        delta: Delta = {}
        pairs = zip(before.state.matches, after.state.matches, strict=True)
        for predicate, (old, new) in enumerate(pairs):
            if old is new:
                continue
            cells = new.cells[:, new[_ORDINAL] > kept]
            if cells.shape[1]:
                games = games_of(cells)[::-1]
                drop = int(np.count_nonzero(old[_ORDINAL] > kept))
                delta[self._last_game[predicate]] = SetString(_last_game(games[0], cells[_ORDINAL]))
                push = [encode(game) for game in games]
                delta[self._last_games[predicate]] = WriteList(drop, push, LAST_GAMES_KEPT)
        return delta


def _last_game(game: Game, ordinals: Ints) -> bytes:
    return msgspec.json.encode(LastGame(**msgspec.structs.asdict(game), ordinal=int(ordinals[-1])))
