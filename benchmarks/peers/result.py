"""The result that every peer has to reach, by the plain oracle, and where one that was found differs."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from benchmarks.peers.job import PREFIX, Sizes
from crashfold.projections import plain
from crashfold.projections.settings import FOLLOW_GAMES_KEPT, MINUTE_MS, SERIES_KEPT, ProjectionSettings
from crashfold.schemas.game import Game

AGGREGATES = ("occurrences", "intervals", "series", "last_game")


def sizes(settings: ProjectionSettings) -> Sizes:
    """What the peers are told of the settings."""
    return Sizes(
        predicates={str(predicate): (predicate.low, predicate.high) for predicate in settings.predicates},
        samples_games=settings.samples_games,
        samples_hours=settings.samples_hours,
        interval_ms=settings.interval_minutes * MINUTE_MS,
        intervals_kept=settings.intervals_kept,
        series_kept=SERIES_KEPT,
        follow_games_kept=FOLLOW_GAMES_KEPT,
    )


def expected(settings: ProjectionSettings, games: Sequence[Game]) -> dict[str, Any]:
    """Every key of the result and its value, decoded."""
    values: dict[str, Any] = {}
    for name, value in plain.read_model(settings, games).items():
        if name == "samples" or name.partition(":")[0] in AGGREGATES:
            values[PREFIX + name] = _decoded(value)
    return values


def part(wanted: Mapping[str, Any], aggregates: Sequence[str]) -> dict[str, Any]:
    """What of the result is asked of a peer that makes these aggregates only."""
    return {key: value for key, value in wanted.items() if _aggregate(key) in ("samples", *aggregates)}


def difference(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """The first difference in words; None when there is none. `found` are documents, or hashes and lists of them. Keys
    that the result does not name are ignored."""
    for key, value in wanted.items():
        if key not in found:
            return f"{key} is missing"
        there = _decoded(found[key])
        if there != value:
            return f"{key} is {_cut(there)} and should be {_cut(value)}"
    superfluous = {key for key in found if _aggregate(key) in AGGREGATES} - wanted.keys()
    return f"{min(superfluous)} should not be there" if superfluous else None


def _aggregate(key: str) -> str:
    return key.removeprefix(PREFIX).partition(":")[0]


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        return {field: msgspec.json.decode(member) for field, member in value.items()}
    if isinstance(value, list):
        return [msgspec.json.decode(member) for member in value]
    return msgspec.json.decode(value)


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "…"
