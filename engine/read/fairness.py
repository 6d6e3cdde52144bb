"""The rules of a stream's table: the crash point of a hash, and the chance of a threshold.

Pure, but for what it remembers: the newest games are shown again and again.
"""

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Final

from crashfold.engine.settings import Settings
from crashfold.schemas import fairness
from crashfold.schemas.fairness import Rule, TableRules

CrashPoint = Callable[[str, Rule], float | None]


class TableFairness:
    """The rules of one stream, applied."""

    def __init__(self, rules: TableRules, crash_point: CrashPoint = fairness.crash_point) -> None:
        self._rules = rules
        self._crash_point = crash_point

    def calculated_point(self, game_id: int, digits: str) -> float | None:
        """The crash point that follows from the hash of that game."""
        return self._crash_point(digits, self._rules.at(game_id))

    def calculated_points(self, game_ids: Sequence[int], digits: Sequence[str]) -> list[float | None]:
        """The same of many games."""
        if len(self._rules.rules) > 1:
            return [*map(self.calculated_point, game_ids, digits)]
        crash_point, rule = self._crash_point, self._rules.rules[0]
        return [crash_point(one, rule) for one in digits]

    def percent_reaching(self, value: float, newest_id: int) -> float:
        """The chance, in per cent, that the game after the newest one has a crash point of at least `value`."""
        return fairness.chance_of_reaching(value, self._rules.at(newest_id + 1)) * 100


DEFAULT: Final = TableFairness(TableRules())

FairnessOf = Callable[[str], TableFairness]


def fairness_by_stream(settings: Settings) -> FairnessOf:
    """The fairness of each stream under these settings. As many crash points are remembered as a window has games."""
    rules = settings.fairness.rules
    crash_point = lru_cache(maxsize=settings.projections.window_games)(fairness.crash_point)

    @cache
    def of_rules(table: TableRules) -> TableFairness:
        return TableFairness(table, crash_point)

    return lambda stream: of_rules(rules.of(stream))
