"""The deployment: what its settings say and its clients may want to know, as `/api/deployment` answers it.

Pure. Imports the settings. What is always true: no secret is in it, and brokers are named only where the API wants a
token or listens on loopback.
"""

from importlib.metadata import version

import msgspec

from crashfold.engine.settings import Settings, is_loopback


class RuleItem(msgspec.Struct, frozen=True):
    """A rule of provable fairness: of a stream, null for all others, from a game on."""

    stream: str | None
    from_game: int
    salt: str
    variant: str
    house_edge_percent: float


class DeploymentAnswer(msgspec.Struct, frozen=True):
    """The deployment. `stream` is the only one, null where there may be many; `bootstrap_servers` is null where
    anybody may ask."""

    version: str
    stream: str | None
    topic: str
    bootstrap_servers: str | None
    min: list[float]
    max: list[float]
    floor: list[int]
    range: list[str]
    samples_games: list[int]
    samples_hours: list[int]
    window_games: int
    interval_minutes: int
    interval_hours: int
    rules: list[RuleItem]


def deployment_of(settings: Settings) -> DeploymentAnswer:
    """The deployment with these settings."""
    kafka, projections = settings.kafka, settings.projections
    is_private = bool(settings.api.token) or is_loopback(settings.api.host)
    return DeploymentAnswer(
        version=version("crashfold"),
        stream=None if settings.redis.many_streams else settings.engine.stream,
        topic=kafka.topic,
        bootstrap_servers=kafka.bootstrap_servers if is_private else None,
        min=[*projections.min],
        max=[*projections.max],
        floor=[*projections.floor],
        range=[*projections.range],
        samples_games=[*projections.samples_games],
        samples_hours=[*projections.samples_hours],
        window_games=projections.window_games,
        interval_minutes=projections.interval_minutes,
        interval_hours=projections.interval_hours,
        rules=[
            RuleItem(stream, first_id, rule.salt, rule.variant, rule.house_edge_percent)
            for stream, first_id, rule in settings.fairness.rules.listed()
        ],
    )
