"""The application: live routes as Litestar handlers, probes and files as pages, the reference of all routes, the edge.

Imports litestar and everything of the read side. What is always true: whatever is below `/api` and is not live is
understood by `routes.find` and by nothing else, unknown paths included. The edge asks `Answers` for it, since a
framework's way to a handler takes as long as an answer; Litestar describes it all the same.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec
from litestar import Litestar, Request
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler, WebsocketRouteHandler
from litestar.openapi import ResponseSpec
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, Reference, SecurityScheme, Server

from crashfold.engine.http import operations
from crashfold.engine.http.answers import Answers
from crashfold.engine.http.edge import Edge, Page
from crashfold.engine.http.page import file_reply
from crashfold.engine.http.replies import JSON, Reply
from crashfold.engine.http.routes import ROUTES
from crashfold.engine.meter import ApiMeter
from crashfold.engine.ports import Clock, RateLimits
from crashfold.engine.read.aggregate import Route
from crashfold.engine.read.health import ApiHealth
from crashfold.engine.read.times import Zones
from crashfold.engine.settings import Settings, masked_text
from crashfold.engine.tracing import Tracer

MetricsText = Callable[[str], Awaitable[tuple[bytes, str]]]
"""The metrics for a client that sends this `Accept`, and their content type."""

REFERENCE: Final = {
    "/docs": ("index.html", "text/html; charset=utf-8"),
    **{
        f"/docs/{name}": (name, kind)
        for name, kind in {
            "reference.js": "text/javascript; charset=utf-8",
            "reference.css": "text/css; charset=utf-8",
            "swagger-ui.js": "text/javascript; charset=utf-8",
            "swagger-ui.css": "text/css; charset=utf-8",
        }.items()
    },
}
"""The reference: Swagger UI as it is published, and what starts it."""
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_DESCRIPTION: Final = """Precomputed analytics for crash games. Answers are `{"status":"success","data":…}`; errors are
RFC 9457 problems. `X-Crashfold-Version` names the version that an answer is of."""


class ProbeVerdict(msgspec.Struct, frozen=True):
    """The answer of a probe; `notes` (of `/readyz`) name troubles that do not keep requests from being answered."""

    status: Literal["ok", "failing"]
    reasons: list[str]
    notes: list[str] = []


def create_app(
    answers: Answers,
    health: ApiHealth,
    settings: Settings,
    *,
    clock: Clock,
    meter: ApiMeter,
    metrics: MetricsText,
    handlers: Callable[[], Sequence[HTTPRouteHandler | WebsocketRouteHandler]] = list,
    files_at: Mapping[str, Reply] = MappingProxyType({}),
    rate_limits: RateLimits | None = None,
    tracer: Tracer | None = None,
) -> Edge:
    """Create the ASGI application. `handlers` makes the live routes; `files_at` has files by path, open to all."""
    window_games = settings.projections.window_games
    # Litestar serves its description with pages of its own for whatever it does not know there. So it is asked for the
    # description once, and the application that answers serves that as a file among others.
    asked = [_described(route, window_games) for route in ROUTES]
    routed = [*asked, *_described_probes(), *handlers()]
    described = Litestar(routed, openapi_config=_openapi(settings), logging_config=None)
    description = msgspec.json.encode(operations.finished(described.openapi_schema.to_schema(), Zones()))
    folder = files("crashfold.engine.http").joinpath("reference")
    content = {path: (folder.joinpath(file).read_bytes(), kind) for path, (file, kind) in REFERENCE.items()}
    content["/schema/openapi.json"] = (description, "application/vnd.oai.openapi+json")
    static = {path: _always(file_reply(path, body, kind, _POLICY)) for path, (body, kind) in content.items()}
    live = Litestar(handlers(), openapi_config=None, logging_config=None, exception_handlers={Exception: _refuse})
    return Edge(
        live,
        answers,
        settings.api,
        clock=clock,
        meter=meter,
        pages={**_probes(health, metrics), **static, **{path: _always(reply) for path, reply in files_at.items()}},
        open_paths=(*REFERENCE, *files_at),
        rate_limits=rate_limits,
        tracer=tracer,
    )


def _described(route: Route, window_games: int) -> HTTPRouteHandler:
    """A route as the reference shows it."""

    async def handle() -> None:
        raise AssertionError("the edge answers it")

    handler: HTTPRouteHandler = HTTPRouteHandler(
        re.sub(r"\{(\w+)\}", r"{\1:str}", route.path),
        http_method=HttpMethod(route.method),
        status_code=200,
        name=f"{route.method} {route.path}",
        operation_id=operations.name_of(route),
        operation_class=operations.operation_of(route, window_games),
        responses=operations.responses_of(route),
        summary=operations.summary_of(route),
        tags=[operations.tag_of(route)],
    )(handle)
    return handler


def _refuse(request: Request[Any, Any, Any], error: Exception) -> Any:
    """Leave whatever fails to the edge, which logs it and answers 500."""
    raise error


def _probes(health: ApiHealth, metrics: MetricsText) -> dict[str, Page]:
    def probe(path: str, reasons: Callable[[], list[str]]) -> Page:
        async def answer(_: Mapping[str, str]) -> Reply:
            against = [masked_text(reason) for reason in reasons()]
            body = {"status": "failing" if against else "ok", "reasons": against}
            if path == "/readyz":
                body["notes"] = [masked_text(note) for note in health.notes()]
            return _plain(path, 503 if against else 200, JSON, msgspec.json.encode(body))

        return answer

    async def show(headers: Mapping[str, str]) -> Reply:
        body, content_type = await metrics(headers.get("accept", ""))
        return _plain("/metrics", 200, content_type.encode(), body, (b"vary", b"Accept, Accept-Encoding"))

    return {
        "/livez": probe("/livez", health.live),
        "/readyz": probe("/readyz", health.ready),
        "/startupz": probe("/startupz", health.started),
        "/metrics": show,
    }


def _described_probes() -> list[HTTPRouteHandler]:
    """The probes and the metrics as the reference shows them."""
    verdicts = {
        status: ResponseSpec(ProbeVerdict, generate_examples=False, description=description)
        for status, description in ((200, "Yes"), (503, "No, and why"))
    }
    text = {
        200: ResponseSpec(str, generate_examples=False, description="The metrics", media_type="text/plain"),
        401: operations.refusal_of(401),
        429: operations.refusal_of(429),
    }
    summaries = {
        "/livez": "Whether this process should go on",
        "/readyz": "Whether requests should come here",
        "/startupz": "Whether it has begun to answer",
        "/metrics": "Metrics for Prometheus",
    }

    async def handle() -> None:
        raise AssertionError("the edge answers it")

    return [
        HTTPRouteHandler(
            path,
            http_method=HttpMethod.GET,
            status_code=200,
            summary=summary,
            tags=["service"],
            responses=text if path == "/metrics" else verdicts,
            name=path,
            operation_id=path.removeprefix("/"),
        )(handle)
        for path, summary in summaries.items()
    ]


def _always(reply: Reply) -> Page:
    async def answer(_: Mapping[str, str]) -> Reply:
        return reply

    return answer


def _plain(path: str, status: int, content_type: bytes, body: bytes, *headers: tuple[bytes, bytes]) -> Reply:
    fixed = ((b"content-type", content_type), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store"))
    return Reply(status, (*fixed, *headers), body, route=path)


def _openapi(settings: Settings) -> OpenAPIConfig:
    schemes: dict[str, SecurityScheme | Reference] = {}
    if settings.api.token:
        schemes["token"] = SecurityScheme(type="http", scheme="bearer", description="The setting `api.token`.")
    return OpenAPIConfig(
        title="Crashfold",
        version=version("crashfold"),
        description=_DESCRIPTION,
        servers=[Server(url=f"{settings.api.root_path}/")],
        path="/schema",
        render_plugins=[JsonRenderPlugin()],
        components=Components(security_schemes=schemes),
        security=[{"token": []}] if schemes else None,
    )
