"""Operations: how the reference describes the routes, from the structs of their questions and answers.

Imports litestar's model of OpenAPI, and the read side's structs. Litestar describes answers and problems by their
types; parameters and bodies are described here, since they are read by `questions` and not by Litestar.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import (
    Example,
    OpenAPIFormat,
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    Reference,
    RequestBody,
    Schema,
)

from crashfold.engine.http import examples, problems
from crashfold.engine.http.problems import Problem
from crashfold.engine.read import questions
from crashfold.engine.read.aggregate import Route
from crashfold.engine.read.aggregates.games import GamesPage
from crashfold.engine.read.answer import Success
from crashfold.engine.read.times import Zones
from crashfold.projections.settings import DAY_MINUTES, HOURS_MAX
from crashfold.schemas.predicate import THRESHOLD_MAX, THRESHOLD_MIN, Kind

TIME_ZONE: Final = "TimeZone"
"""The name of the schema that lists all time zones: they are five hundred, and every route takes one."""
_STREAM: Final = Parameter(
    "stream",
    "query",
    schema=Schema(type=OpenAPIType.STRING, pattern="^[A-Za-z0-9._-]{1,64}$"),
    description="The stream asked about; that of the deployment, or `crash`, when left out.",
)
_AT: Final = Parameter(
    "at",
    "query",
    schema=Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.DATE_TIME, examples=["2026-01-15T12:34:56Z"]),
    description="As if games that ended later than this moment (ISO 8601 with offset or Z) did not exist.",
)
_MIN_VERSION: Final = Parameter(
    "min_version",
    "query",
    schema=Schema(type=OpenAPIType.INTEGER, minimum=0, maximum=questions.INTEGER_MAX),
    description="Wait for this version, at most 5 s, then 503: read your own write.",
)
_ZONE: Final = Parameter(
    "X-Timezone",
    "header",
    schema=Reference(ref=f"#/components/schemas/{TIME_ZONE}"),
    description="The IANA name, in exact spelling, of the zone of all times in the answer; UTC when left out.",
)
_TZ: Final = Parameter(
    "tz",
    "query",
    schema=Reference(ref=f"#/components/schemas/{TIME_ZONE}"),
    description="The same as `X-Timezone`, for browsers, whose `EventSource` sends no headers.",
)
_LIMIT: Final = Parameter(
    "limit",
    "query",
    schema=Schema(type=OpenAPIType.INTEGER, minimum=1, maximum=questions.LIVE_GAMES, default=questions.LIVE_GAMES),
    description="How many games an event has at most, the newest ones; `skipped` counts the others.",
)
_LAST_EVENT_ID: Final = Parameter(
    "Last-Event-ID",
    "header",
    schema=Schema(type=OpenAPIType.STRING),
    description="The id of the last event received: the stream goes on behind it.",
)
_IF_NONE_MATCH: Final = Parameter(
    "If-None-Match",
    "header",
    schema=Schema(type=OpenAPIType.STRING),
    description="An `ETag` that was received: 304 when the answer is still the same.",
)

_HEADERS: Final = {
    "X-Crashfold-Version": OpenAPIHeader(
        schema=Schema(type=OpenAPIType.INTEGER), description="The version that the answer is of."
    ),
    "X-Crashfold-Source": OpenAPIHeader(
        schema=Schema(type=OpenAPIType.STRING, enum=["precomputed", "computed", "cached", "replica"]),
        description="Where the answer came from.",
    ),
    "ETag": OpenAPIHeader(
        schema=Schema(type=OpenAPIType.STRING), description="Where the answer follows from the version alone."
    ),
    "X-Crashfold-Age-S": OpenAPIHeader(
        schema=Schema(type=OpenAPIType.NUMBER),
        description="Of a replica: how many seconds ago the data was last known to be the newest.",
    ),
}
_RETRY_AFTER: Final = OpenAPIHeader(
    schema=Schema(type=OpenAPIType.INTEGER, minimum=1), description="After how many seconds to ask again."
)

_MEANINGS: Final = {
    "games": "How many of the newest games are looked at.",
    "by_time": "Whether the sample is the last `hours` hours, and not the last `games` games.",
    "hours": "How many hours are looked at, up to now or `at`.",
    "comparison": "Whether to compare with the period before.",
    "values": "The thresholds.",
    "limit": "How many of the newest games are looked at; of matches, gaps and dead letters, how many are wanted.",
    "sort_by": "`time`: newest end first; `length`: longest first, of two as long the older.",
    "interval_minutes": "The width of a bucket.",
    "start_date": "The first day, in the zone asked for.",
    "end_date": "The last day, in the zone asked for; seven days at most, both counted.",
    "games_per_set": "How many ids make up a set.",
    "total_games": "How many of the newest games are looked at.",
    "key": "One key, such as `floors:7`; those that are named as the projection's aggregates when left out.",
    "page": "Which page, from 1. One past the end is empty.",
    "per_page": "How many games make up a page.",
}

_PROBLEMS: Final = {
    304: "Not modified: the client has this answer",
    400: "Malformed",
    401: "The bearer token is missing or wrong, where one is asked for",
    404: "Nothing found",
    406: "`Accept-Encoding` refuses every form that there is",
    408: "The body came too slowly",
    413: "The body is too large",
    414: "Path and query are too long",
    415: "The body has a content coding",
    422: "Out of bounds",
    429: "The rate limit is reached, where there is one",
    431: "The headers are too large",
    500: "A defect of the server",
    501: "The body has a transfer coding other than chunked",
    503: "Not now; `Retry-After` says when",
}
_OF_BODIES: Final = (408, 413, 415, 501)
"""Statuses of requests with a body."""
_EXAMPLES: Final = {
    400: problems.malformed("value is not a JSON number", "value"),
    401: problems.unauthorized(),
    404: problems.not_found("no game matches"),
    406: problems.not_acceptable(),
    408: problems.too_slow(),
    413: problems.body_too_large(65536),
    414: problems.target_too_long(8192),
    415: problems.content_coding_unknown(),
    422: problems.out_of_bounds("hours is outside 1 to 168", "hours"),
    429: problems.too_many_requests(12),
    431: problems.headers_too_large(32768),
    500: problems.internal(),
    501: problems.transfer_coding_unknown(),
    503: problems.unavailable("that version is not there yet", 1),
}


def finished(described: dict[str, Any], zones: Zones) -> dict[str, Any]:
    """The description with the schema of all zones, which no type of ours stands for."""
    described["components"]["schemas"][TIME_ZONE] = {
        "type": "string",
        "enum": ["", *sorted(zones.names)],
        "default": "UTC",
    }
    return described


def responses_of(route: Route) -> dict[int, ResponseSpec]:
    """Every answer that the route gives."""
    returned = get_type_hints(route.answer)["return"]
    data = next(kind for kind in (get_args(returned) or (returned,)) if kind is not type(None))
    if get_origin(returned) is dict:
        data = returned
    body = data if data is GamesPage else Success[data]  # type: ignore[valid-type]
    found = Example(summary="An answer", value=examples.answer_of(route))
    specs = {200: ResponseSpec(body, generate_examples=False, description="The answer", examples=[found])}
    for status, meaning in _PROBLEMS.items():
        if status in (_OF_BODIES if route.method == "GET" else (304,)) or (status == 304 and route.is_of_all):
            continue
        if status == 304:
            specs[304] = ResponseSpec(None, generate_examples=False, description=meaning)
            continue
        specs[status] = refusal_of(status)
    return specs


def refusal_of(status: int) -> ResponseSpec:
    """The problem of that status."""
    meaning = _PROBLEMS[status]
    return ResponseSpec(
        Problem,
        generate_examples=False,
        description=meaning,
        media_type=problems.MEDIA_TYPE,
        examples=[Example(summary=meaning, value=msgspec.to_builtins(_EXAMPLES[status]))],
    )


def operation_of(route: Route, window_games: int) -> type[Operation]:
    """The operation that describes what the route asks for."""
    parameters, body = _parameters(route, window_games), _body(route, window_games)

    @dataclass
    class RouteOperation(Operation):
        def __post_init__(self) -> None:
            self.parameters = [*parameters]
            self.request_body = body
            _add_headers(self, {} if route.is_of_all else _HEADERS)

    return RouteOperation


@dataclass
class LiveOperation(Operation):
    """The operation of the live stream."""

    def __post_init__(self) -> None:
        self.parameters = [_STREAM, _LIMIT, _ZONE, _TZ, _LAST_EVENT_ID]
        _add_headers(self, {})


def _add_headers(operation: Operation, of_success: Mapping[str, OpenAPIHeader]) -> None:
    """Say which headers the answers bring."""
    for status, response in (operation.responses or {}).items():
        assert isinstance(response, OpenAPIResponse)
        headers = of_success if status == "200" else {"Retry-After": _RETRY_AFTER} if status in ("429", "503") else {}
        response.headers = {**headers}


def summary_of(route: Route) -> str:
    """The purpose of the route, in a line."""
    return (route.answer.__doc__ or "").strip().splitlines()[0].rstrip(".").replace("`", "")


def name_of(route: Route) -> str:
    """The operation's id."""
    kind = "" if route.kind is None else f"_{route.kind}"
    return f"{route.answer.__name__}{kind}"


def tag_of(route: Route) -> str:
    """Return the heading of the reference under which the route stands."""
    return route.path.removeprefix("/api/").removeprefix("analytics/").partition("/")[0]


def _parameters(route: Route, window_games: int) -> list[Parameter]:
    found = []
    if "{value}" in route.path:
        assert route.kind is not None
        found.append(_path("value", _threshold(route.kind), "The threshold."))
    if "{game_id}" in route.path:
        found.append(_path("game_id", Schema(type=OpenAPIType.INTEGER), "The id of the game."))
    if "{name}" in route.path:
        found.append(_path("name", Schema(type=OpenAPIType.STRING), "The name of the projection."))
    games_max = questions.games_max_of(route.question, window_games)
    if route.method == "GET":
        hints = get_type_hints(route.question)
        for field in msgspec.structs.fields(route.question):
            schema = _schema(field.name, hints[field.name], route.kind, games_max)
            if not field.required:
                schema.default = field.default
            example = examples.PARAMETERS.get(field.name) if field.required else None
            if example is not None:
                schema.examples = [example]
            meaning = _MEANINGS[field.name]
            found.append(Parameter(field.name, "query", schema=schema, required=field.required, description=meaning))
    if route.is_of_all:
        return [*found, _ZONE]
    found += [_AT] if route.kind is not None else []
    found += [_MIN_VERSION, _STREAM, _ZONE]
    return [*found, _IF_NONE_MATCH] if route.method == "GET" else found


def _path(name: str, schema: Schema, description: str) -> Parameter:
    schema.examples = [examples.PARAMETERS[name]]
    return Parameter(name, "path", schema=schema, required=True, description=description)


def _body(route: Route, window_games: int) -> RequestBody | None:
    if route.method == "GET":
        return None
    hints = get_type_hints(route.question)
    games_max = questions.games_max_of(route.question, window_games)
    properties: dict[str, Reference | Schema] = {}
    required = []
    for field in msgspec.structs.fields(route.question):
        schema = _schema(field.name, hints[field.name], route.kind, games_max)
        if field.required:
            required.append(field.name)
        else:
            schema.default = field.default
        schema.description = _MEANINGS[field.name]
        properties[field.name] = schema
    described = Schema(type=OpenAPIType.OBJECT, properties=properties, required=required)
    example = Example(summary="A question", value=examples.body_of(route))
    media = OpenAPIMediaType(schema=described, examples={"question": example})
    return RequestBody(content={"application/json": media}, required=True)


def _schema(name: str, kind: Any, threshold: Kind | None, games_max: int) -> Schema:
    """One parameter or member; the bounds are those of `questions`."""
    if kind is bool:
        return Schema(type=OpenAPIType.BOOLEAN)
    if kind is str:
        return Schema(type=OpenAPIType.STRING)
    if kind is date:
        return Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.DATE)
    if get_origin(kind) is Literal:
        return Schema(type=OpenAPIType.STRING, enum=[*get_args(kind)])
    if get_origin(kind) is tuple:
        assert threshold is not None
        return Schema(type=OpenAPIType.ARRAY, items=_threshold(threshold), min_items=1, max_items=questions.VALUES_MAX)
    match name:
        case "interval_minutes":
            divisors = [minutes for minutes in range(1, DAY_MINUTES + 1) if DAY_MINUTES % minutes == 0]
            return Schema(type=OpenAPIType.INTEGER, enum=divisors)
        case "games_per_set":
            return Schema(type=OpenAPIType.INTEGER, enum=[*questions.SET_SIZES])
        case "hours":
            high = HOURS_MAX
        case "per_page":
            high = questions.PER_PAGE_MAX
        case "page":
            high = questions.INTEGER_MAX
        case _:
            high = games_max
    return Schema(type=OpenAPIType.INTEGER, minimum=1, maximum=high)


def _threshold(kind: Kind) -> Schema:
    number = OpenAPIType.INTEGER if kind == "floor" else OpenAPIType.NUMBER
    return Schema(type=number, minimum=float(THRESHOLD_MIN), maximum=float(THRESHOLD_MAX))
