"""The highest crash point of all time, and the game that made it."""

import msgspec

from crashfold.projections.delta import Value
from crashfold.projections.games import Games
from crashfold.projections.projection import Moment
from crashfold.schemas.game import Game, encode


class HighestState(msgspec.Struct, frozen=True):
    """The highest game so far; of equal ones the oldest. None before the first game."""

    game: Game | None = None


class Highest:
    """The key `highest`: a string, the game as JSON."""

    name = "highest"
    version = 1
    aggregates = ("highest",)

    def empty(self) -> HighestState:
        """Return the state before the first game."""
        return HighestState()

    def fold(self, state: HighestState, games: Games) -> HighestState:
        """Return the state after `games`."""
        best = int(games.hundredths.argmax())
        (challenger,) = games.part(best, best + 1).to_games()
        if state.game is None or challenger.hundredths > state.game.hundredths:
            return HighestState(challenger)
        return state

    def keys(self, moment: Moment[HighestState]) -> dict[str, Value]:
        """Return the key, once there is a game."""
        game = moment.state.game
        return {"highest": encode(game)} if game is not None else {}
