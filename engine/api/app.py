"""The application: probes, pages and live routes as Litestar handlers, the reference of all routes, the edge around it.

Imports litestar and everything of the read side. What is always true: whatever is below `/api` and is not live is
understood by `routes.find` and by nothing else, unknown paths included. The edge asks `Answers` for it, since a
framework's way to a handler takes as long as an answer; Litestar describes it all the same.
"""

from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from importlib.resources import files
from typing import Any, Final, Literal

import msgspec
from litestar import Litestar, Request
from litestar.enums import HttpMethod
from litestar.exceptions import HTTPException, MethodNotAllowedException
from litestar.handlers import HTTPRouteHandler, WebsocketRouteHandler
from litestar.openapi import ResponseSpec
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, Reference, SecurityScheme
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from engine.api import operations, problems
from engine.api.answers import JSON, Answers, Reply, problem_reply
from engine.api.edge import LIVE, NOTE, Edge, Note, send_reply
from engine.api.health import ApiHealth
from engine.api.meter import ApiMeter
from engine.api.questions import Limits
from engine.api.routes import ROUTES, Route
from engine.api.times import Zones
from engine.ports import Clock
from engine.settings import Settings, masked_text

MetricsText = Callable[[str], tuple[bytes, str]]
"""The metrics for a client that sends this `Accept`, and their content type."""

REFERENCE: Final = {
    "/docs": ("index.html", "text/html; charset=utf-8"),
    "/docs/reference.js": ("reference.js", "text/javascript; charset=utf-8"),
    "/docs/reference.css": ("reference.css", "text/css; charset=utf-8"),
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
_DESCRIPTION: Final = """Precomputed analytics for crash games. Answers are `{"status":"success","data":…}`; errors are
RFC 9457 problems. `X-Crashfold-Version` names the version that an answer is of."""


class Verdict(msgspec.Struct, frozen=True):
    """What a probe says; `notes` (of `/readyz`) are what is not as it should be, though requests are answered."""

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
    open_paths: Sequence[str] = (),
) -> Edge:
    """The ASGI application. `handlers` makes further routes, `open_paths` are those among them that need no token."""
    limits = Limits(settings.projections.window_games)

    def routed() -> list[HTTPRouteHandler | WebsocketRouteHandler]:
        return [*_probes(health, metrics), *handlers()]

    # Litestar serves its description with pages of its own for whatever it does not know there. So it is asked for the
    # description once, and the application that answers serves that as a file among others.
    asked = [_described(route, limits) for route in ROUTES]
    described = Litestar([*asked, *routed()], openapi_config=_openapi(settings), logging_config=None)
    description = msgspec.json.encode(operations.finished(described.openapi_schema.to_schema(), Zones()))
    page = files("engine.api").joinpath("reference")
    static = [
        *(_static(path, page.joinpath(file).read_bytes(), kind) for path, (file, kind) in REFERENCE.items()),
        _static("/schema/openapi.json", description, "application/vnd.oai.openapi+json"),
    ]
    litestar = Litestar(
        [*routed(), *static],
        openapi_config=None,
        logging_config=None,
        exception_handlers={HTTPException: _refuse, Exception: _fail},
    )
    return Edge(litestar, answers, settings.api, clock=clock, meter=meter, open_paths=(*REFERENCE, *open_paths))


def _described(route: Route, limits: Limits) -> HTTPRouteHandler:
    """A route as the reference shows it."""

    async def handle() -> None:
        raise AssertionError("the edge answers it")

    handler: HTTPRouteHandler = HTTPRouteHandler(
        route.path.replace("{value}", "{value:str}").replace("{game_id}", "{game_id:str}"),
        http_method=HttpMethod(route.method),
        status_code=200,
        name=f"{route.method} {route.path}",
        operation_id=operations.name_of(route),
        operation_class=operations.operation_of(route, limits),
        responses=operations.responses_of(route),
        summary=operations.summary_of(route),
        tags=[operations.tag_of(route)],
    )(handle)
    return handler


class _Sent(ASGIResponse):
    """A reply as Litestar passes it on."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(body=reply.body, status_code=reply.status)
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it as it is."""
        await send_reply(self._reply, send)

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIResponse:
        """Itself: exception handlers return it too."""
        return self


def _response(reply: Reply, scope: Any, route: str) -> ASGIResponse:
    note = scope.get(NOTE)
    if isinstance(note, Note):
        note.route, note.source = route, reply.source
    return _Sent(reply)


def _refuse(request: Request[Any, Any, Any], error: HTTPException) -> Any:
    """What Litestar would not route, as a problem."""
    if error.status_code >= 500:
        raise error  # the edge logs it
    if isinstance(error, MethodNotAllowedException):
        reply = _other_method(request.method, request.scope["path"])
    elif error.status_code == 404:
        reply = problem_reply(problems.no_such_route())
    else:
        reply = problem_reply(problems.malformed("the request cannot be read"))
    return _response(reply, request.scope, "other")


def _other_method(method: str, path: str) -> Reply:
    """The answer to another method than a page, a probe or a live route has."""
    if path == "/ws" and method == "GET":
        return problem_reply(problems.upgrade_required(), (b"upgrade", b"websocket"))
    allowed = b"GET, HEAD, OPTIONS" if path not in LIVE else b"GET" if path == "/ws" else b"GET, OPTIONS"
    return problem_reply(problems.method_not_allowed(), (b"allow", allowed))


def _fail(_request: Request[Any, Any, Any], error: Exception) -> Any:
    """Leave it to the edge, which logs it and answers 500."""
    raise error


def _probes(health: ApiHealth, metrics: MetricsText) -> list[HTTPRouteHandler]:
    def probe(path: str, reasons: Callable[[], list[str]], meaning: str) -> HTTPRouteHandler:
        async def handle(request: Request[Any, Any, Any]) -> ASGIResponse:
            against = [masked_text(reason) for reason in reasons()]
            body = {"status": "failing" if against else "ok", "reasons": against}
            if path == "/readyz":
                body["notes"] = [masked_text(note) for note in health.notes()]
            return _response(_plain(503 if against else 200, JSON, msgspec.json.encode(body)), request.scope, path)

        described = {
            status: ResponseSpec(Verdict, generate_examples=False, description=description)
            for status, description in ((200, "Yes"), (503, "No, and why"))
        }
        handler: HTTPRouteHandler = _get(
            path,
            handle,
            summary=meaning,
            tags=["service"],
            responses=described,
            name=path,
            operation_id=path.removeprefix("/"),
        )
        return handler

    async def show(request: Request[Any, Any, Any]) -> ASGIResponse:
        body, content_type = metrics(request.headers.get("accept", ""))
        return _response(_plain(200, content_type.encode(), body), request.scope, "/metrics")

    text = {
        200: ResponseSpec(str, generate_examples=False, description="The metrics", media_type="text/plain"),
        401: operations.refusal_of(401),
        429: operations.refusal_of(429),
    }
    return [
        probe("/livez", health.live, "Whether this process should go on"),
        probe("/readyz", health.ready, "Whether requests should come here"),
        probe("/startupz", health.started, "Whether it has begun to answer"),
        _get(
            "/metrics",
            show,
            summary="Metrics for Prometheus",
            tags=["service"],
            responses=text,
            name="/metrics",
            operation_id="metrics",
        ),
    ]


def _static(path: str, content: bytes, content_type: str) -> HTTPRouteHandler:
    """A file."""
    policy = (b"content-security-policy", _POLICY.encode())

    async def handle(request: Request[Any, Any, Any]) -> ASGIResponse:
        return _response(_plain(200, content_type.encode(), content, policy), request.scope, path)

    handler: HTTPRouteHandler = _get(path, handle, include_in_schema=False, name=path)
    return handler


def _get(path: str, handle: Callable[[Request[Any, Any, Any]], Awaitable[ASGIResponse]], **kwargs: Any) -> Any:
    return HTTPRouteHandler(path, http_method=HttpMethod.GET, status_code=200, **kwargs)(handle)


def _plain(status: int, content_type: bytes, body: bytes, *headers: tuple[bytes, bytes]) -> Reply:
    fixed = ((b"content-type", content_type), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store"))
    return Reply(status, (*fixed, *headers), body)


def _openapi(settings: Settings) -> OpenAPIConfig:
    schemes: dict[str, SecurityScheme | Reference] = {}
    if settings.api.token:
        schemes["token"] = SecurityScheme(type="http", scheme="bearer", description="The setting `api.token`.")
    return OpenAPIConfig(
        title="Crashfold",
        version=version("crashfold"),
        description=_DESCRIPTION,
        path="/schema",
        render_plugins=[JsonRenderPlugin()],
        components=Components(security_schemes=schemes),
        security=[{"token": []}] if schemes else None,
    )
