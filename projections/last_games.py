"""Last games: per predicate the newest match, with its position in the stream, and the newest 100 matches.

A state holds the matches of all predicates in one table, in the order in which they came, and beside it the games that
matched, each once.
"""

import msgspec
import numpy as np

from crashfold.projections.columns import LISTED_ENOUGH, Columns, Ints, ascending, firsts, newest_of_each
from crashfold.projections.delta import Delta, SetString, Value, WriteList
from crashfold.projections.games import BAND, WIDTH, Games, games_of
from crashfold.projections.projection import Moment
from crashfold.projections.settings import LAST_GAMES_KEPT, ProjectionSettings
from crashfold.schemas import keys
from crashfold.schemas.game import encode

_MATCH_ORDINAL = BAND
"""A kept match needs no band any more; its position in the stream stands there instead."""
_PREDICATE, _AT = 0, 1
"""Of a match: its predicate, and the position of the game in the stream."""
_FEW_GAMES = 64
"""Of so many games all matches are taken in, of more the newest alone. With the first way alone a rebuild of 300,000
games takes 1.4 times the CPU, with the second alone a commit of one game 1.15 times."""
_ROOM = 200


class LastGamesState(msgspec.Struct, frozen=True, gc=False):
    """How many games were folded, and the newest matches.

    `matches` are, by position, those of all predicates, of each at least the newest 100; `games` the cells of the games
    that matched. Those beyond are left out when there are too many: there were `trimmed` matches then.
    """

    total: int
    matches: Columns
    games: Columns
    trimmed: int


class LastGames:
    """Keeps the newest matches of each predicate (docs/rules.md, section 4.4)."""

    name = "last_games"
    version = 2
    aggregates = ("last_game", "last_games")

    def __init__(self, settings: ProjectionSettings) -> None:
        self._last_game = [keys.last_game(predicate) for predicate in settings.predicates]
        self._last_games = [keys.last_games(predicate) for predicate in settings.predicates]

    def empty(self) -> LastGamesState:
        """No matches."""
        return LastGamesState(0, Columns.empty(2), Columns.empty(WIDTH), 0)

    def fold(self, state: LastGamesState, games: Games) -> LastGamesState:
        """The newest matches, with those among `games`."""
        positions, predicates = _matches(games)
        found = positions[firsts(positions)]
        cells = games.columns.cells[:, found]
        cells[_MATCH_ORDINAL] = found + state.total + 1
        more = np.empty((2, len(positions)), np.int64)
        more[_PREDICATE], more[_AT] = predicates, positions + (state.total + 1)
        matches, matched = state.matches.append(more), state.games.append(cells)
        return _trimmed(LastGamesState(state.total + len(games), matches, matched, state.trimmed))

    def trimmed(self, state: LastGamesState, newest: LastGamesState) -> LastGamesState:
        """Without the matches that are no longer listed."""
        later = np.bincount(_since(newest.matches, _AT, state.total)[_PREDICATE], minlength=len(self._last_game))
        listed = newest_of_each(state.matches[_PREDICATE], np.maximum(LAST_GAMES_KEPT - later, 0))
        return _with_matches(state, listed)

    def keys(self, moment: Moment[LastGamesState]) -> dict[str, Value]:
        """Of every predicate that has a match the newest one and the list."""
        values: dict[str, Value] = {}
        for predicate, (newest, listed) in _listed(moment, 0).items():
            values[self._last_game[predicate]] = _last_game(listed[0], newest)
            values[self._last_games[predicate]] = listed[:LAST_GAMES_KEPT]
        return values

    def delta(self, before: Moment[LastGamesState], after: Moment[LastGamesState], kept: int) -> Delta:
        """The matches behind the first `kept` games, in place of those known before."""
        delta: Delta = {}
        dropped, known = self._counted(before, kept), self._lengths(before)
        if kept == before.totals.games:  # nothing came late, so those known before are there still
            after.memo = known + self._counted(after, kept)
        written: dict[tuple[int, ...], tuple[SetString, WriteList]] = {}
        drops, lengths = dropped.tolist(), np.minimum(known, LAST_GAMES_KEPT).tolist()
        for predicate, (newest, push) in _listed(after, kept).items():
            drop, listed = drops[predicate], lengths[predicate]
            same = (newest, drop, listed) if len(push) == 1 else (predicate,)
            if same not in written:  # one game is the newest match of many predicates
                string = SetString(_last_game(push[0], newest), min(listed, 1))
                written[same] = string, WriteList(drop, push[:LAST_GAMES_KEPT], LAST_GAMES_KEPT, listed)
            delta[self._last_game[predicate]], delta[self._last_games[predicate]] = written[same]
        return delta

    def _lengths(self, moment: Moment[LastGamesState]) -> Ints:
        """Per predicate how many matches there are, at least as far as 100; counted once."""
        if moment.memo is None:
            moment.memo = self._counted(moment, 0)
        lengths: Ints = moment.memo
        return lengths

    def _counted(self, moment: Moment[LastGamesState], kept: int) -> Ints:
        """Per predicate how many matches there are behind the first `kept` games."""
        found: Ints = np.bincount(_since(moment.state.matches, _AT, kept)[_PREDICATE], minlength=len(self._last_game))
        return found


def _matches(games: Games) -> tuple[Ints, Ints]:
    """Positions and predicates of the matches, in order of position; of many games, each predicate's newest alone."""
    if len(games) <= _FEW_GAMES:
        at, which = games.bands.matches[games.band_numbers].nonzero()
        return at, which
    newest = [np.empty(0, np.int64)] * len(games.bands.predicates)

    def take(predicate: int, positions: Ints) -> bool:
        newest[predicate] = positions[-LAST_GAMES_KEPT:]
        return len(positions) >= LAST_GAMES_KEPT

    games.each_newest(take)
    positions = np.concatenate(newest) if newest else np.empty(0, np.int64)
    predicates = np.repeat(np.arange(len(newest)), [len(some) for some in newest])
    order = ascending(positions)
    return positions[order], predicates[order]


def _trimmed(state: LastGamesState) -> LastGamesState:
    """Without what is no longer listed, when there may be much of it."""
    if len(state.matches) <= state.trimmed + state.trimmed // 2 + _ROOM:
        return state
    is_listed = newest_of_each(state.matches[_PREDICATE], LAST_GAMES_KEPT)
    if is_listed.mean() > LISTED_ENOUGH:
        return msgspec.structs.replace(state, trimmed=len(state.matches))
    return _with_matches(state, is_listed)


def _with_matches(state: LastGamesState, is_listed: np.ndarray) -> LastGamesState:
    """The state with those of its matches alone."""
    matches = state.matches.cells[:, is_listed]
    listed = matches[_AT, firsts(matches[_AT])]
    games = state.games.cells[:, np.searchsorted(state.games[_MATCH_ORDINAL], listed)]
    return LastGamesState(state.total, Columns.of(matches), Columns.of(games), matches.shape[1])


def _listed(moment: Moment[LastGamesState], kept: int) -> dict[int, tuple[int, list[bytes]]]:
    """Of every predicate that has a match behind the first `kept` games, the position of the newest, and their JSON,
    newest first."""
    matches, listed = _since(moment.state.matches, _AT, kept), dict[int, tuple[int, list[bytes]]]()
    printed = _printed(moment, kept)
    for predicate, at in zip(*matches.cells[:, ::-1].tolist(), strict=True):
        if predicate in listed:
            listed[predicate][1].append(printed[at])
        else:
            listed[predicate] = (at, [printed[at]])
    return listed


def _printed(moment: Moment[LastGamesState], kept: int) -> dict[int, bytes]:
    """By position, the JSON of the games behind the first `kept` that matched."""
    if moment.totals.games - kept <= len(moment.window):  # printed once for all keys
        return dict(enumerate(moment.window.newest_json(moment.totals.games - kept), kept + 1))
    games = _since(moment.state.games, _MATCH_ORDINAL, kept)
    return dict(zip(games[_MATCH_ORDINAL].tolist(), map(encode, games_of(games.cells)), strict=True))


def _since(table: Columns, column: int, kept: int) -> Columns:
    """The rows of games behind the first `kept`; `column` has their positions."""
    return table.part(int(table[column].searchsorted(kept, "right")), len(table))


def _last_game(match: bytes, ordinal: int) -> bytes:
    """The JSON of a `LastGame`: a game's, with one member more."""
    return b'%b,"ordinal":%d}' % (match[:-1], ordinal)
