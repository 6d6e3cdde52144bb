"""The engine's own small HTTP server: metrics for Prometheus, probes for whoever restarts it.

Uses uvicorn. What is always true: it answers from memory alone, it never touches the process's signals, and it is gone
a few seconds after it was told to, whatever its clients do.
"""

import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from http import HTTPStatus
from typing import Any, Final

import anyio
import msgspec
import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from crashfold.engine.core.health import Health
from crashfold.engine.errors import ConfigurationError
from crashfold.engine.settings import masked_text

GRACE_S: Final = 1
"""For requests under way; every answer here takes milliseconds."""
STOP_DEADLINE_S: Final = 3.0

_Message = MutableMapping[str, Any]


class _Answer(msgspec.Struct, frozen=True):
    status: HTTPStatus
    headers: dict[str, str]
    body: bytes


@contextlib.asynccontextmanager
async def serve_probes(host: str, port: int, health: Health, registry: CollectorRegistry) -> AsyncIterator[int]:
    """Serve `/metrics`, `/livez`, `/readyz` and `/startupz` while the block runs; its value is the port that is bound.

    Port 0 takes any free one. Raises ConfigurationError when the address cannot be had. An error of the block comes out
    as it is, not in a group, so that its exit code is found.
    """
    failure: Exception | None = None
    listener = _listen(host, port)
    server = _Server(
        uvicorn.Config(
            _app(health, registry),
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
        )
    )
    serving = anyio.CancelScope(shield=True)

    async def serve() -> None:
        with serving, listener:
            await server.serve([listener])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        try:
            yield listener.getsockname()[1]
        except Exception as error:
            failure = error
        finally:
            server.should_exit = True
            serving.deadline = anyio.current_time() + STOP_DEADLINE_S
    if failure is not None:
        raise failure


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to the supervisor."""
        yield


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigurationError(f"engine.host: {host} is no address of this machine: {error.strerror}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"engine.host and engine.port: cannot listen on {host}:{port}: {error.strerror}. "
            "Is another engine running? Set engine.port to a free port, or to 0 for any"
        ) from None
    return listener


def _app(
    health: Health, registry: CollectorRegistry
) -> Callable[[_Message, Callable[[], Awaitable[_Message]], Callable[[_Message], Awaitable[None]]], Awaitable[None]]:
    """The ASGI application."""
    probes = {"/livez": health.live, "/readyz": health.ready, "/startupz": health.started}

    def answer(scope: _Message) -> _Answer:
        path = scope["path"]
        if path != "/metrics" and path not in probes:
            return _problem(HTTPStatus.NOT_FOUND, "there are /metrics, /livez, /readyz and /startupz")
        if scope["method"] not in ("GET", "HEAD"):
            return _problem(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD", {"allow": "GET, HEAD"})
        if path == "/metrics":
            return _metrics(registry, _header(scope, b"accept"))
        return _verdict(probes[path]())

    async def app(
        scope: _Message, _receive: Callable[[], Awaitable[_Message]], send: Callable[[_Message], Awaitable[None]]
    ) -> None:
        told = answer(scope)
        headers = {"content-length": str(len(told.body)), "cache-control": "no-store"} | told.headers
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": told.status, "headers": raw})
        await send({"type": "http.response.body", "body": told.body})

    return app


def _metrics(registry: CollectorRegistry, accept: str) -> _Answer:
    encode, content_type = choose_encoder(accept)
    return _Answer(HTTPStatus.OK, {"content-type": content_type}, encode(registry))


def _verdict(reasons: list[str]) -> _Answer:
    status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
    body = {"status": "failing" if reasons else "ok", "reasons": [masked_text(reason) for reason in reasons]}
    return _Answer(status, {"content-type": "application/json"}, msgspec.json.encode(body))


def _problem(status: HTTPStatus, detail: str, headers: dict[str, str] | None = None) -> _Answer:
    body = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail}
    content_type = {"content-type": "application/problem+json"}
    return _Answer(status, content_type | (headers or {}), msgspec.json.encode(body))


def _header(scope: _Message, name: bytes) -> str:
    values: list[bytes] = [value for key, value in scope["headers"] if key == name]
    return b",".join(values).decode("latin-1")
