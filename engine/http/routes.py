"""Routes: which route a request asks, and what it asks of it.

Imports the read side's aggregates. What is always true: `ask` reads a request and `answer` answers it, and both are
pure, so a request needs no server to be understood or tested.
"""

import re
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from crashfold.engine.http.problems import Problem, method_not_allowed, no_such_route, problem_of
from crashfold.engine.http.requests import (
    ApiRequest,
    read_body,
    read_integer,
    read_query,
    read_terms,
    read_threshold,
    split_query,
)
from crashfold.engine.read.aggregate import Aggregate, Asked, Route, Subject
from crashfold.engine.read.aggregates import AGGREGATES
from crashfold.engine.read.answer import body_of
from crashfold.engine.read.overview import OVERVIEWS
from crashfold.engine.read.past import NO_PAST, Past
from crashfold.engine.read.questions import Threshold
from crashfold.engine.read.refusals import Refusal
from crashfold.engine.read.times import Zones
from crashfold.engine.read.view import View
from crashfold.projections.games import Games
from crashfold.projections.settings import ProjectionSettings

_TABLE: Final[tuple[tuple[Aggregate | None, Route], ...]] = (
    *((aggregate, route) for aggregate in AGGREGATES for route in aggregate.routes),
    *((None, route) for route in OVERVIEWS),
)
ROUTES: Final = tuple(route for _, route in _TABLE)

_ESCAPED: Final = re.compile(r"%(?:2D|2E|5F|7E|3\d|[46][1-9A-F]|[57][0-9A])", re.IGNORECASE | re.ASCII)
"""A letter, digit, hyphen, dot, underscore or tilde written as an escape, which means the same (RFC 3986)."""


class Found(msgspec.Struct, frozen=True):
    """The route of a request, and its parameters in the path, still escaped."""

    aggregate: Aggregate | None
    route: Route
    parameters: tuple[str, ...]

    def ask(self, request: ApiRequest, window_games: int, zones: Zones) -> Asked:
        """The question that the request asks. Raises Malformed and OutOfBounds."""
        route = self.route
        query = split_query(request.query)
        terms = read_terms(query, request.headers, zones, takes_at=route.kind is not None)
        subject: Subject = None
        if self.parameters:
            subject = _read_subject(route, unquote(self.parameters[0]))
        if route.method == "GET":
            question: Any = read_query(route.question, query, window_games)
        else:
            question = read_body(route.question, request.body, window_games)
        if route.kind is not None and subject is None:
            subject = tuple(Threshold(route.kind, value) for value in question.values)
        return Asked(self.aggregate, route, terms, subject, question)


def ask(request: ApiRequest, window_games: int, zones: Zones) -> Asked | Problem:
    """The question that the request asks, or what is wrong with it."""
    found = find(request)
    if isinstance(found, Problem):
        return found
    try:
        return found.ask(request, window_games, zones)
    except Refusal as refusal:
        return problem_of(refusal)


def find(request: ApiRequest) -> "Found | Problem":
    """The route of a request, or that there is none."""
    path = plain(request.path)
    others = False
    for aggregate, route in _TABLE:
        match = route.pattern.fullmatch(path) if path.startswith(route.begin) else None
        if match is None:
            continue
        if route.method == request.method:
            return Found(aggregate, route, match.groups())
        others = True
    return method_not_allowed() if others else no_such_route()


def methods_of(path: str) -> frozenset[str]:
    """The methods that a path answers; none when it is no path of ours."""
    path = plain(path)
    return frozenset(route.method for route in ROUTES if route.pattern.fullmatch(path) is not None)


def answer(
    request: ApiRequest,
    window: Games,
    now_ms: int,
    *,
    settings: ProjectionSettings,
    zones: Zones,
    past: Past = NO_PAST,
) -> tuple[int, Any]:
    """Status and body of the answer to a request, from the window alone."""
    asked = ask(request, settings.window_games, zones)
    if isinstance(asked, Problem):
        return asked.status, asked
    view = View.of(window, asked.terms.zone, now_ms * 1000, asked.terms.at_us, past, settings=settings)
    try:
        return 200, body_of(asked.answer(view))
    except Refusal as refusal:
        problem = problem_of(refusal)
        return problem.status, problem


def plain(path: str) -> str:
    """The path without needless escapes; a slash that is part of a value stays one."""
    return _ESCAPED.sub(lambda escape: unquote(escape[0]), path) if "%" in path else path


def _read_subject(route: Route, text: str) -> Threshold | int | str:
    """The number or the name in the path."""
    if "{name}" in route.path:
        return text
    return read_integer("game_id", text) if route.kind is None else read_threshold(route.kind, text)
