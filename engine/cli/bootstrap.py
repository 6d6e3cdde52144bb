"""The only module that wires projections, adapters and runtime together."""

import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import structlog

from crashfold.engine.adapters.files.dead_letters import FileDeadLetters
from crashfold.engine.adapters.files.log import FileLog
from crashfold.engine.adapters.kafka.log import KafkaLog
from crashfold.engine.adapters.kafka.sink import KafkaDeadLetters
from crashfold.engine.adapters.kafka.waiting import WaitingLetters
from crashfold.engine.adapters.process.clock import SystemClock
from crashfold.engine.adapters.process.service_manager import tell_service_manager
from crashfold.engine.adapters.prometheus.engine import Metrics
from crashfold.engine.adapters.prometheus.workers import Gathered, report
from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.adapters.redis.watch import Watch
from crashfold.engine.adapters.web.probes import serve_probes
from crashfold.engine.core.health import Health
from crashfold.engine.errors import ConfigurationError, CrashfoldError
from crashfold.engine.games.fairness import FairnessCheck
from crashfold.engine.games.fairness_count import FairnessCount
from crashfold.engine.games.folding import GameFolding
from crashfold.engine.meter import Meter, Meters
from crashfold.engine.ports import DeadLetters, EventLog, StateStore
from crashfold.engine.runtime.folder import Folder
from crashfold.engine.runtime.gaps import LostRecords
from crashfold.engine.runtime.health import HealthBoard
from crashfold.engine.runtime.letters import keep_counting
from crashfold.engine.runtime.pacing import EngineLimits
from crashfold.engine.runtime.placement import Placement
from crashfold.engine.runtime.reporting import EngineNotes, keep_hearing
from crashfold.engine.runtime.retry import Retry
from crashfold.engine.runtime.service import Service
from crashfold.engine.runtime.status import known_streams
from crashfold.engine.runtime.supervisor import Supervisor
from crashfold.engine.runtime.tasks import task_group
from crashfold.engine.runtime.workers import Workers
from crashfold.engine.settings import Settings
from crashfold.engine.tracing import NullTracer, Tracer
from crashfold.projections import Plan, ProjectionFault, plan
from crashfold.schemas.record import is_stream_name

CLOCK = SystemClock()

log = structlog.get_logger()


def open_store(settings: Settings, metrics: Metrics | None = None) -> RedisStore:
    """The store that the settings name; `metrics` count its scripts."""
    redis = settings.redis
    timeout_s = redis.timeout_ms / 1000
    return RedisStore(
        redis.url,
        password=redis.password,
        cluster=redis.cluster,
        key_prefix=redis.key_prefix,
        timeout_s=timeout_s,
        watch=redis_watch(settings, metrics),
    )


def redis_watch(settings: Settings, metrics: Metrics | None = None) -> Watch:
    """Return the watch that measures how long Redis takes."""
    slow_s = settings.redis.slow_ms / 1000
    return Watch(slow_s) if metrics is None else Watch(slow_s, metrics.script_took)


def open_log(settings: Settings, file: Path | None = None, *, group: bool = False) -> EventLog:
    """The topic, or the file in its place; with `group` its partitions are shared out among engines, unless
    `kafka.assignment` gives all of them to this one."""
    if file is not None:
        return FileLog(file, follow=group)
    return KafkaLog.from_settings(settings.kafka, group=group and settings.kafka.assignment == "group")


def open_dead_letters(settings: Settings, file: Path | None = None) -> KafkaDeadLetters | FileDeadLetters:
    """Where dead letters go: to their topic, or, when games come from a file, to one beside it."""
    if file is not None:
        return FileDeadLetters.beside(file)
    return KafkaDeadLetters.from_settings(settings.kafka, idempotent=settings.kafka.enable_idempotence)


@asynccontextmanager
async def open_tracer(settings: Settings, service: str) -> AsyncIterator[Tracer]:
    """Open the tracer for the block; without an endpoint it records nothing. Traces that still wait at the end are sent
    within two seconds, or lost."""
    endpoint = settings.tracing.endpoint
    if not endpoint:
        yield NullTracer()
        return
    try:
        from crashfold.engine.adapters.otel import OtelTracer
    except ImportError:
        raise ConfigurationError("tracing.endpoint needs the extra otel: install crashfold[otel]") from None
    tracer = OtelTracer.to(service, endpoint)
    try:
        yield tracer
    finally:
        with anyio.move_on_after(2, shield=True):
            await tracer.aclose()


def only_stream(settings: Settings) -> str | None:
    """The stream of a deployment of one stream; None when there may be many."""
    return None if settings.redis.many_streams else settings.engine.stream


def new_generation() -> str:
    """Make the name of a new build of the read model; no other has it."""
    return secrets.token_hex(6)


def new_commit() -> str:
    """An id for a commit that no other has."""
    return secrets.token_hex(8)


def new_writer() -> str:
    """A name for an engine that no other has."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def new_folder(
    settings: Settings,
    topic: str,
    store: StateStore,
    *,
    meter: Meter | None = None,
    health: HealthBoard | None = None,
    writer: str | None = None,
) -> Folder:
    """Return the folder for these settings: it folds records of the topic and commits to that store."""
    return Folder(
        topic,
        store,
        folding_of(settings),
        only_stream=only_stream(settings),
        writer=writer or new_writer(),
        new_generation=new_generation,
        new_commit=new_commit,
        clock=CLOCK,
        meter=meter or Meter(),
        health=health or HealthBoard(CLOCK),
        limits=_limits(settings),
    )


def new_service(
    settings: Settings,
    event_log: EventLog,
    store: StateStore,
    dead_letters: DeadLetters,
    *,
    meter: Meter | None = None,
    health: HealthBoard | None = None,
    accept_gap: bool = False,
    writer: str | None = None,
    tracer: Tracer | None = None,
) -> Service:
    """The loop over these ports, by these settings."""
    meter, health, fairness = meter or Meter(), health or HealthBoard(CLOCK), fairness_of(settings)
    return Service(
        event_log,
        store,
        dead_letters,
        new_folder(settings, event_log.topic, store, meter=meter, health=health, writer=writer),
        clock=CLOCK,
        meter=meter,
        health=health,
        limits=_limits(settings),
        observer=None if fairness is None else FairnessCount(fairness, meter),
        accept_gap=accept_gap,
        tracer=tracer,
    )


def new_placement(settings: Settings, event_log: EventLog, store: StateStore) -> Placement:
    """Return the placement that decides where the engine would begin; it accepts no gap and writes nothing."""
    folder, retry = new_folder(settings, event_log.topic, store), Retry(CLOCK, HealthBoard(CLOCK))
    return Placement(event_log, store, folder, retry, Meter(), LostRecords(event_log.topic, accepted=False))


def _limits(settings: Settings) -> EngineLimits:
    engine = settings.engine
    return EngineLimits(engine.batch_games_max, engine.linger_ms, engine.games_held_max)


async def run_engine(
    settings: Settings,
    *,
    file: Path | None = None,
    until_caught_up: bool = False,
    accept_gap: bool = False,
    reports: bool = False,
) -> None:
    """The engine as a service, until it is told to stop. It serves metrics and probes on a port of their own; one that
    `reports` tells them to its parent instead."""
    metrics, health, writer = Metrics(), HealthBoard(CLOCK), new_writer()
    notes = EngineNotes(writer, CLOCK)
    meter = Meters(metrics, notes)
    event_log, dead_letters = open_log(settings, file, group=True), open_dead_letters(settings, file)
    async with (
        AsyncExitStack() as stack,
        open_store(settings, metrics) as store,
        dead_letters,
        open_tracer(settings, "crashfold-engine") as tracer,
    ):
        service = new_service(
            settings,
            event_log,
            store,
            dead_letters,
            meter=meter,
            health=health,
            accept_gap=accept_gap,
            writer=writer,
            tracer=tracer,
        )
        supervisor = Supervisor(
            service,
            event_log,
            clock=CLOCK,
            meter=meter,
            health=health,
            usage=store.usage(settings.projections.predicates),
            until_caught_up=until_caught_up,
            shutdown_timeout_s=settings.engine.shutdown_timeout_s,
        )
        if reports:
            await stack.enter_async_context(_reporting(supervisor, health, metrics))
        else:
            engine = settings.engine
            await stack.enter_async_context(serve_probes(engine.host, engine.port, health, metrics.registry))
            await stack.enter_async_context(_service_managed(health))
        await stack.enter_async_context(meanwhile(notes.keep_telling, store.reports()))
        await stack.enter_async_context(meanwhile(keep_hearing, store.reports(), CLOCK, metrics.told))
        if file is None:
            waiting = WaitingLetters.from_settings(settings.kafka)
            await stack.enter_async_context(meanwhile(keep_counting, waiting.count, CLOCK, metrics.letters_waiting))
        await supervisor.run()


def _service_managed(health: Health) -> AbstractAsyncContextManager[None]:
    """Tell the service manager of this process, if there is one, how it is."""
    return meanwhile(tell_service_manager, health, CLOCK)


@asynccontextmanager
async def meanwhile(task: Callable[..., Coroutine[object, object, object]], *args: object) -> AsyncIterator[None]:
    """Run the task as long as the block."""
    async with task_group() as tasks:
        tasks.start_soon(task, *args)
        yield
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def _reporting(supervisor: Supervisor, health: HealthBoard, metrics: Metrics) -> AsyncIterator[None]:
    """Tell the parent what probes and metrics would say; when it is gone, stop."""

    async def reporting() -> None:
        await report(health, metrics.registry, CLOCK)
        supervisor.stop()

    async with task_group() as tasks:
        tasks.start_soon(reporting)
        yield
        tasks.cancel_scope.cancel()


async def run_workers(
    settings: Settings, count: int, command: Callable[[int], Sequence[str]], environment: Mapping[str, str]
) -> int:
    """`count` engines, each by a command of its own in that environment, with the metrics and probes of all on one
    port. The exit code."""
    gathered = Gathered(count, CLOCK)
    engine = settings.engine
    async with (
        serve_probes(engine.host, engine.port, gathered, gathered.registry),
        _service_managed(gathered),
    ):
        return await Workers(
            count,
            command,
            clock=CLOCK,
            heard=gathered.heard,
            lost=gathered.lost,
            shutdown_timeout_s=settings.engine.shutdown_timeout_s,
            environment=environment,
        ).run()


@asynccontextmanager
async def serve_metrics(settings: Settings, metrics: Metrics, port: int | None) -> AsyncIterator[None]:
    """Serve the metrics of a command that ends by itself, on `port` of `engine.host`; do nothing when it is None."""
    if port is None:
        yield
        return
    async with serve_probes(settings.engine.host, port, HealthBoard(CLOCK), metrics.registry) as bound_port:
        log.info("serving_metrics", host=settings.engine.host, port=bound_port)
        yield


async def streams_of(settings: Settings, store: StateStore, event_log: EventLog, wanted: str | None) -> list[str]:
    """The stream that was asked for, or all that an engine has met on the topic. Raises CrashfoldError for none."""
    if wanted is not None:
        return [await known_stream(settings, store, wanted)]
    partitions = sorted(await event_log.partitions())
    streams = await known_streams(store, event_log.topic, partitions, only_stream(settings))
    if not streams:
        raise CrashfoldError(
            f"no stream of topic {event_log.topic} is known yet: run `crashfold run` first, or name one by --stream"
        )
    return streams


async def known_stream(settings: Settings, store: StateStore, stream: str) -> str:
    """The stream, if something is stored of it. Raises CrashfoldError; ConfigurationError for one that cannot be."""
    if not is_stream_name(stream):
        raise ConfigurationError(f"--stream {stream}: a stream name is 1 to 64 of A-Z a-z 0-9 . _ -")
    only = only_stream(settings)
    if only is not None and stream != only:
        raise ConfigurationError(
            f"--stream {stream}: this deployment is of the stream {only} alone (engine.stream, redis.key_prefix)"
        )
    if await store.positions([stream]) == [None]:
        raise CrashfoldError(f"nothing is stored of a stream {stream}; `crashfold status` lists those there are")
    return stream


def plan_of(settings: Settings) -> Plan:
    """Return the plan of the projections under these settings."""
    check = fairness_of(settings)
    try:
        return plan(settings.projections, rule=check.rule if check else "")
    except ProjectionFault as fault:
        raise ConfigurationError(f"projections.own: {fault}") from fault


def folding_of(settings: Settings) -> GameFolding:
    """Return the folding of games under these settings, one for all streams."""
    return GameFolding(plan_of(settings), fairness_of(settings))


def fairness_of(settings: Settings) -> FairnessCheck | None:
    """How games are checked against their hashes; None when they are not."""
    return FairnessCheck.of(settings.fairness.check, settings.fairness.rules)
