"""Overview: what is told of the deployment as a whole: its streams, engines, rebuilds and verifications.

Pure functions of an `Overview` and a question. Times are printed in the zone asked for. A report that cannot be read is
left out: somebody else may have written it.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from crashfold.engine.ports import ReadDeadLetter, StreamOverview
from crashfold.engine.read.deployment import DeploymentAnswer
from crashfold.engine.read.questions import Nothing
from crashfold.engine.read.times import Instant, Zone
from crashfold.schemas.game import Game, Unreadable, decode
from crashfold.schemas.reports import EngineReport, RebuildProgress, RedisReport, Verification, read


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """What was read of the deployment. A stream that is None cannot be read."""

    zone: Zone
    streams: dict[str, StreamOverview | None] = {}
    engines: Sequence[bytes] = ()
    rebuilds: Sequence[bytes] = ()
    verified: Sequence[bytes] = ()
    dead_letters: Sequence[ReadDeadLetter] = ()
    deployment: DeploymentAnswer | None = None


class StreamItem(msgspec.Struct, frozen=True):
    """One stream; all but its name are null when what is stored of it cannot be read."""

    stream: str
    partition: int | None
    total_games: int | None
    version: int | None
    generation: str | None
    newest_game: str | None
    newest_game_time: Instant | None
    missing: int | None


class StreamsAnswer(msgspec.Struct, frozen=True):
    """All streams, by name."""

    count: int
    streams: list[StreamItem]


class EnginePartition(msgspec.Struct, frozen=True):
    """A partition that an engine holds."""

    partition: int
    log_begin: int
    next_offset: int
    log_end: int
    lag: int
    freshness_seconds: float
    last_commit: Instant | None


class EngineItem(msgspec.Struct, frozen=True):
    """One engine, as it was a second ago."""

    writer: str
    started: Instant
    partitions: list[EnginePartition]
    commits: dict[str, int]
    rejected: dict[str, int]
    games_per_second: float
    redis: list[RedisReport]


class VerificationItem(msgspec.Struct, frozen=True):
    """What the last `verify` of a stream found."""

    stream: str
    time: Instant
    result: Literal["equal", "differs"]
    version: int
    differences: int


class EngineAnswer(msgspec.Struct, frozen=True):
    """What engines, rebuilds and `verify` tell of themselves, by name."""

    engines: list[EngineItem]
    rebuilds: list[RebuildProgress]
    verified: list[VerificationItem]


def streams(overview: Overview, question: Nothing) -> StreamsAnswer:
    """All streams, by name."""
    items = [_stream(name, overview.streams[name], overview.zone) for name in sorted(overview.streams)]
    return StreamsAnswer(len(items), items)


def engine(overview: Overview, question: Nothing) -> EngineAnswer:
    """What engines, rebuilds and verifications tell of themselves."""
    zone = overview.zone
    return EngineAnswer(
        [_engine(report, zone) for report in read(overview.engines, EngineReport)],
        [*read(overview.rebuilds, RebuildProgress)],
        [
            VerificationItem(one.stream, _printed(one.time, zone), one.result, one.version, one.differences)
            for one in read(overview.verified, Verification)
        ],
    )


def deployment(overview: Overview, question: Nothing) -> DeploymentAnswer:
    """The topic, the predicates, samples and sizes, and the rules of fairness, as the settings have them."""
    assert overview.deployment is not None
    return overview.deployment


def _stream(name: str, found: StreamOverview | None, zone: Zone) -> StreamItem:
    nothing = StreamItem(name, None, None, None, None, None, None, None)
    if found is None:
        return nothing
    standing = found.standing
    newest = None if found.newest is None else decode(found.newest)
    try:
        missing = sum(int(last) - int(first) + 1 for first, last in found.gaps.items())
    except ValueError:
        return nothing
    if isinstance(newest, Unreadable) or (newest.game_id if newest else 0) != standing.newest_id:
        return nothing
    return StreamItem(
        name,
        standing.partition,
        standing.total_games,
        standing.version,
        standing.generation,
        *_newest(newest, zone),
        missing,
    )


def _newest(game: Game | None, zone: Zone) -> tuple[str | None, str | None]:
    return (None, None) if game is None else (str(game.game_id), _printed(game.end_time, zone))


def _engine(report: EngineReport, zone: Zone) -> EngineItem:
    return EngineItem(
        report.writer,
        _printed(report.started, zone),
        [
            EnginePartition(
                one.partition,
                one.log_begin,
                one.next_offset,
                one.log_end,
                one.lag,
                one.freshness_seconds,
                None if one.last_commit is None else _printed(one.last_commit, zone),
            )
            for one in report.partitions
        ],
        report.commits,
        report.rejected,
        report.games_per_second,
        report.redis,
    )


def _printed(time_ms: int, zone: Zone) -> str:
    return zone.isoformat(time_ms * 1000)
