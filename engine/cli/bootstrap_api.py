"""The read side's half of `bootstrap`: the only module that wires it and its adapters together.

A module of its own, so that no other command waits for the framework to be imported.
"""

import socket

import anyio
import structlog

from crashfold.engine.adapters.kafka.sink import KafkaDeadLetters
from crashfold.engine.adapters.process.beats import Beats
from crashfold.engine.adapters.process.service_manager import tell_service_manager
from crashfold.engine.adapters.prometheus.api import ApiMetrics
from crashfold.engine.adapters.prometheus.shared import SharedPlaces
from crashfold.engine.adapters.redis.limits import RedisRateLimits
from crashfold.engine.adapters.redis.reader import RedisReader
from crashfold.engine.adapters.web import server as web
from crashfold.engine.cli.bootstrap import CLOCK, only_stream, open_log, open_tracer, redis_watch
from crashfold.engine.games.fairness import FairnessCheck
from crashfold.engine.http import page
from crashfold.engine.http.answers import Answers
from crashfold.engine.http.app import create_app
from crashfold.engine.http.clients import Proxies, is_own_machine
from crashfold.engine.http.connections import connection_options
from crashfold.engine.http.live import live_routes
from crashfold.engine.http.places import ConnectionBounds, Places
from crashfold.engine.read.feed import Live, LiveLimits
from crashfold.engine.read.followers import Followers
from crashfold.engine.read.health import ApiHealth
from crashfold.engine.read.replica import Replica
from crashfold.engine.read.times import Zones
from crashfold.engine.settings import Settings
from crashfold.engine.tracing import Tracer

log = structlog.get_logger()


async def serve_api(
    settings: Settings, reserved: socket.socket, beats: Beats, shared: SharedPlaces, worker: int = 0
) -> None:
    """The read side as a service on the reserved address, until it is told to stop. Worker `worker` of several says in
    `beats` that it is at work, and leaves in `shared` what it has counted."""
    async with open_tracer(settings, "crashfold-api") as tracer:
        await _serve(settings, reserved, beats, shared, worker, tracer)


async def _serve(
    settings: Settings, reserved: socket.socket, beats: Beats, shared: SharedPlaces, worker: int, tracer: Tracer
) -> None:
    only, metrics, zones = only_stream(settings), ApiMetrics(worker, shared), Zones()
    fairness = FairnessCheck.of(settings.fairness.check, settings.fairness.rules)
    redis = settings.redis
    watch = redis_watch(settings)
    reader = RedisReader(
        redis.url, password=redis.password, cluster=redis.cluster, key_prefix=redis.key_prefix, watch=watch
    )
    followers = Followers(
        reader,
        CLOCK,
        only_stream=only,
        replica=lambda stream: Replica(stream, settings.projections, only, fairness),
        new_log=lambda: open_log(settings),
    )
    answers = Answers(
        followers,
        reader,
        settings,
        clock=CLOCK,
        meter=metrics,
        zones=zones,
        reports=reader.reports(),
        dead_letters=KafkaDeadLetters.from_settings(settings.kafka),
    )
    live = Live(
        followers.required,
        zones,
        answers.fairness_of,
        meter=metrics,
        limits=LiveLimits(clients_max=settings.api.live_clients_max),
        default_stream=followers.default_stream,
    )
    rate_limits = RedisRateLimits(
        redis.url, password=redis.password, cluster=redis.cluster, key_prefix=redis.key_prefix, watch=watch
    )
    health = ApiHealth(followers, lambda: beats.stale(CLOCK))
    app = create_app(
        answers,
        health,
        settings,
        clock=CLOCK,
        meter=metrics,
        metrics=metrics.text,
        handlers=lambda: live_routes(live),
        files_at=page.pages(),
        rate_limits=rate_limits,
        tracer=tracer,
    )
    proxies = Proxies(settings.api.trusted_proxies)
    connections = settings.api.connections_max
    bounds = ConnectionBounds(connections_max=connections, client_connections_max=connections - connections // 4)
    places = Places(bounds, lambda host: is_own_machine(host) or proxies.are_trusted(host))

    def look() -> None:
        metrics.follow({one.stream: (one.held.version, one.age_s, one.is_replica) for one in followers.all()})
        metrics.connected(len(places), places.ended, app.unsent_bytes)

    metrics.look = look

    def stop() -> None:
        health.stopping = True
        live.stop()

    async with reader, rate_limits, followers.running(), live.running(), anyio.create_task_group() as tasks:
        tasks.start_soon(answers.share)
        tasks.start_soon(beats.keep, worker, CLOCK)
        if shared.count > 1:
            tasks.start_soon(metrics.keep_leaving, CLOCK)
        tasks.start_soon(tell_service_manager, health, CLOCK)
        host, port = reserved.getsockname()[:2]
        log.info("api_listens", address=f"http://{host}:{port}", worker=worker)
        stop_s = settings.engine.shutdown_timeout_s
        await web.serve_app(app, reserved, stop_s=stop_s, stopping=stop, options=connection_options(places))
        tasks.cancel_scope.cancel()
