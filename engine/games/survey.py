"""A survey of a history: missing, doubled, unfit and broken games, in order. No I/O."""

import msgspec

from crashfold.schemas.fairness import Mismatch, RuleBook, chain_holds, check
from crashfold.schemas.game import Game


class StreamSurvey(msgspec.Struct):
    """Of one stream: `missing` ids between the first and the last, lines that were there `doubled`, hashes that do not
    fit their crash points, and links of the chain of hashes that are broken. Times are epoch milliseconds."""

    stream: str
    games: int = 0
    first_id: int = 0
    last_id: int = 0
    missing: int = 0
    doubled: int = 0
    hash_mismatches: int = 0
    broken_links: int = 0
    first_time: int = 0
    last_time: int = 0


class Surveyor:
    """Is told of every game, in the order of streams and ids."""

    def __init__(self, rules: RuleBook) -> None:
        self._rules = rules
        self.streams: dict[str, StreamSurvey] = {}
        self._last: Game | None = None

    def take(self, stream: str, game: Game) -> str | None:
        """None for a game that is one more; "doubled" for one that was there, "conflict" for another of its id."""
        survey = self.streams.get(stream)
        if survey is None:
            survey = self.streams[stream] = StreamSurvey(
                stream, first_id=game.game_id, first_time=game.end_time, last_time=game.end_time
            )
            self._last = None
        last = self._last
        if last is not None and last.game_id == game.game_id:
            survey.doubled += 1
            return "doubled" if game == last else "conflict"
        survey.games += 1
        survey.last_id = game.game_id
        survey.first_time = min(survey.first_time, game.end_time)
        survey.last_time = max(survey.last_time, game.end_time)
        rules = self._rules.of(stream)
        survey.hash_mismatches += isinstance(check(game, rules.at(game.game_id)), Mismatch)
        if last is not None:
            survey.missing += game.game_id - last.game_id - 1
            follows = last.game_id + 1 == game.game_id and not rules.begins_anew(game.game_id)
            survey.broken_links += follows and chain_holds(last, game) is False
        self._last = game
        return None
