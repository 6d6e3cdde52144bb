"""Last games: per predicate the newest match, with its position in the stream, and the newest 100 matches."""

import msgspec

from projections.columns import Columns, Ints
from projections.delta import Delta, SetString, Value, WriteList
from projections.games import BAND, WIDTH, Games, games_of
from projections.projection import Moment
from projections.settings import LAST_GAMES_KEPT, ProjectionSettings
from schemas import keys
from schemas.game import encode

_ORDINAL = BAND
"""A kept match needs no band any more; its ordinal stands there instead."""


class LastGamesState(msgspec.Struct, frozen=True, gc=False):
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
                listed = _newest_first(matches, moment)
                values[self._last_game[predicate]] = _last_game(listed[0], matches[_ORDINAL])
                values[self._last_games[predicate]] = listed
        return values

    def delta(self, before: Moment[LastGamesState], after: Moment[LastGamesState], kept: int) -> Delta:
        """The matches behind the first `kept` games, in place of those known before."""
        delta: Delta = {}
        pairs = zip(before.state.matches, after.state.matches, strict=True)
        for predicate, (old, new) in enumerate(pairs):
            if old is new:
                continue
            ordinals = new[_ORDINAL]
            first = int(ordinals.searchsorted(kept, "right"))
            if first < len(new):
                push = _newest_first(new.part(first, len(new)), after)
                drop = len(old) - int(old[_ORDINAL].searchsorted(kept, "right"))
                delta[self._last_game[predicate]] = SetString(_last_game(push[0], ordinals))
                delta[self._last_games[predicate]] = WriteList(drop, push, LAST_GAMES_KEPT)
        return delta


def _newest_first(matches: Columns, moment: Moment[LastGamesState]) -> list[bytes]:
    """The matches as JSON. Those in the window are printed once for all predicates."""
    ordinals = matches[_ORDINAL].tolist()
    before_window = moment.totals.games - len(moment.window)
    if ordinals[0] <= before_window:
        return [encode(game) for game in reversed(games_of(matches.cells))]
    behind = moment.totals.games + 1 - ordinals[0]
    printed = moment.window.newest_json(behind)
    return [printed[ordinal - ordinals[0]] for ordinal in reversed(ordinals)]


def _last_game(match: bytes, ordinals: Ints) -> bytes:
    """The JSON of a `LastGame`: a game's, with one member more."""
    return b'%b,"ordinal":%d}' % (match[:-1], ordinals[-1])
