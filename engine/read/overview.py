"""Overview: the deployment as a whole: its streams, engines, rebuilds and verifications.

`Overviews` reads an `Overview` anew for each question; answers are pure functions of it. Times are printed in the zone
asked for. A report that cannot be read is left out: somebody else may have written it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Literal

import anyio
import msgspec
import structlog

from crashfold.engine.errors import CrashfoldError, StateError
from crashfold.engine.ports import DeadLetterReader, LiveReader, ReadDeadLetter, Reports, StreamOverview
from crashfold.engine.read.aggregate import Route
from crashfold.engine.read.dead_letters import (
    DeadLetterItem,
    DeadLettersAnswer,
    DeadLettersQuestion,
    SharedDeadLetters,
)
from crashfold.engine.read.deployment import DeploymentAnswer, deployment_of
from crashfold.engine.read.questions import Nothing
from crashfold.engine.read.refusals import NotNow
from crashfold.engine.read.times import Instant, Zone
from crashfold.engine.settings import Settings
from crashfold.schemas.game import TIME_MAX_MS, Game, decode
from crashfold.schemas.record import Unreadable
from crashfold.schemas.reports import EngineReport, RebuildProgress, RedisReport, ReportKind, Verification, read

WAIT_S: Final = 10.0
STREAMS_AT_ONCE: Final = 64
STORE_AWAY: Final = "the store cannot be reached"

_log = structlog.get_logger()


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The deployment as it was read. A stream that is None cannot be read."""

    zone: Zone
    streams: dict[str, StreamOverview | None] = {}
    engines: Sequence[bytes] = ()
    rebuilds: Sequence[bytes] = ()
    verified: Sequence[bytes] = ()
    dead_letters: Sequence[ReadDeadLetter] = ()
    deployment: DeploymentAnswer | None = None


class Overviews:
    """Reads the overview of the deployment, from the store and from Kafka."""

    def __init__(
        self,
        reader: LiveReader,
        settings: Settings,
        reports: Reports | None = None,
        dead_letters: DeadLetterReader | None = None,
    ) -> None:
        self._reader = reader
        self._reports = reports
        self._dead_letters = None if dead_letters is None else SharedDeadLetters(dead_letters)
        self._deployment = deployment_of(settings)
        self._topic = settings.kafka.topic
        self._only_stream = None if settings.redis.many_streams else settings.engine.stream

    async def deployment(self, zone: Zone, question: Nothing) -> Overview:
        """The settings."""
        return Overview(zone=zone, deployment=self._deployment)

    async def letters(self, zone: Zone, question: DeadLettersQuestion) -> Overview:
        """The newest dead letters. Raises NotNow when Kafka cannot be read in time."""
        letters = self._dead_letters
        with _in_time("the dead letters cannot be read from Kafka"):
            return Overview(zone=zone, dead_letters=[] if letters is None else await letters.newest(question.limit))

    async def reports(self, zone: Zone, question: Nothing) -> Overview:
        """The reports of engines, rebuilds and verifications. Raises NotNow when they cannot be read in time."""
        reports = self._reports
        kinds: tuple[ReportKind, ...] = ("engine", "rebuild", "verified")
        with _in_time(STORE_AWAY):
            told = [[] if reports is None else await reports.told(kind) for kind in kinds]
        return Overview(zone=zone, engines=told[0], rebuilds=told[1], verified=told[2])

    async def streams(self, zone: Zone, question: Nothing) -> Overview:
        """Where every stream stands. Raises NotNow when it cannot be read in time."""
        only = self._only_stream
        with _in_time(STORE_AWAY):
            names = await self._reader.streams(self._topic) if only is None else [only]
            return Overview(zone=zone, streams=await self._standing_of(names))

    async def _standing_of(self, names: Sequence[str]) -> dict[str, StreamOverview | None]:
        found: dict[str, StreamOverview | None] = {}
        faults: list[CrashfoldError] = []
        limit = anyio.CapacityLimiter(STREAMS_AT_ONCE)

        async def look(name: str) -> None:
            async with limit:
                try:
                    read = await self._reader.overview(name)
                except StateError:
                    found[name] = None
                except CrashfoldError as error:
                    faults.append(error)
                    tasks.cancel_scope.cancel()
                else:
                    if read is not None:
                        found[name] = read

        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(look, name)
        if faults:
            raise faults[0]
        return found


@contextmanager
def _in_time(away: str) -> Iterator[None]:
    """Raise NotNow with that detail when the block takes too long or its source is away."""
    try:
        with anyio.fail_after(WAIT_S):
            yield
    except (CrashfoldError, TimeoutError) as error:
        _log.debug("overview_unreadable", fault=str(error))
        raise NotNow(away) from None


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
    """The report of one engine, at most some seconds old."""

    writer: str
    started: Instant
    partitions: list[EnginePartition]
    commits: dict[str, int]
    rejected: dict[str, int]
    games_per_second: float
    redis: list[RedisReport]


class VerificationItem(msgspec.Struct, frozen=True):
    """The result of the last `verify` of a stream."""

    stream: str
    time: Instant
    result: Literal["equal", "differs"]
    version: int
    differences: int


class EngineAnswer(msgspec.Struct, frozen=True):
    """The reports of engines, rebuilds and `verify`, by name."""

    engines: list[EngineItem]
    rebuilds: list[RebuildProgress]
    verified: list[VerificationItem]


def streams(overview: Overview, question: Nothing) -> StreamsAnswer:
    """All streams, by name."""
    items = [_stream(name, overview.streams[name], overview.zone) for name in sorted(overview.streams)]
    return StreamsAnswer(len(items), items)


def engine(overview: Overview, question: Nothing) -> EngineAnswer:
    """The reports of engines, rebuilds and verifications."""
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


def dead_letters(overview: Overview, question: DeadLettersQuestion) -> DeadLettersAnswer:
    """The records that could not be folded, newest first."""
    items = [
        DeadLetterItem(
            one.topic,
            one.partition,
            one.offset,
            one.reason,
            one.detail,
            overview.zone.isoformat(one.time_ms * 1000) if 0 <= one.time_ms <= TIME_MAX_MS else None,
            one.key,
            one.value,
            one.retried,
        )
        for one in overview.dead_letters[: question.limit]
    ]
    return DeadLettersAnswer(len(items), items)


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


OVERVIEWS: Final = (
    Route("GET", "/api/streams", Nothing, streams, overview=Overviews.streams),
    Route("GET", "/api/engine", Nothing, engine, overview=Overviews.reports),
    Route("GET", "/api/deployment", Nothing, deployment, overview=Overviews.deployment),
    Route("GET", "/api/dead-letters", DeadLettersQuestion, dead_letters, overview=Overviews.letters),
)
"""The routes about the deployment."""
