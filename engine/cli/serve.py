"""`crashfold serve`: the API and its page as a service.

What only this command needs is imported by it alone: the framework takes half a second, which others need not wait for.
"""

import socket
import sys
from typing import Final

import structlog
from msgspec.structs import replace

from crashfold.engine.adapters.process.beats import Beats
from crashfold.engine.adapters.process.malloc import keep_freed_memory
from crashfold.engine.adapters.prometheus.shared import SharedPlaces
from crashfold.engine.cli import options
from crashfold.engine.cli.bootstrap import plan_of
from crashfold.engine.cli.options import Common
from crashfold.engine.settings import Settings

SWITCH_S: Final = 0.0005
"""How soon a thread at work on a big answer lets the event loop go on; Python's own 5 ms would show in every answer."""

OTHER_FILES: Final = 256
"""Open files beside those of connections: Redis, Kafka."""

OTHER_CONNECTIONS: Final = 100
"""Connections beside those of live clients, at least."""

log = structlog.get_logger()


def serve(*, common: Common | None = None) -> None:
    """Answer over HTTP from what the engine keeps in Redis, until told to stop (SIGTERM or Ctrl-C)."""
    from crashfold.engine.adapters.web import server as web

    settings = options.settings(common)
    plan_of(settings)  # raises for projections of one's own that cannot be found, made or kept
    files = web.allow_many_files()
    log.info("files_allowed", files=files)
    wanted = max(settings.api.connections_max, settings.api.live_clients_max + OTHER_CONNECTIONS)
    connections = min(wanted, max(files - OTHER_FILES, OTHER_FILES))
    if connections < wanted:
        log.warning("files_too_few", files=files, connections_max=connections)
    settings = replace(settings, api=replace(settings.api, connections_max=connections))
    beats, shared = Beats(settings.api.workers), SharedPlaces(settings.api.workers)
    with web.reserve(settings.api.host, settings.api.port) as reserved:

        def work(number: int) -> None:
            _work(settings, reserved, beats, shared, number)

        if settings.api.workers == 1:
            work(0)
        else:
            web.run_workers(settings.api.workers, work)


def _work(settings: Settings, reserved: socket.socket, beats: Beats, shared: SharedPlaces, number: int) -> None:
    from crashfold.engine.cli.bootstrap_api import serve_api

    keep_freed_memory()
    sys.setswitchinterval(SWITCH_S)
    options.run(serve_api, settings, reserved, beats, shared, number)
