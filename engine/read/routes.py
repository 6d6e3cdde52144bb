"""The routes: method and path, the question each reads, and the function that answers it.

Imports everything else of the read side and no HTTP library. The table is the one place that says which path asks what;
`ask` reads a request, `answer` answers it, and both are pure, so a request needs no server to be understood or tested.
"""

import re
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Final, Generic, Literal, TypeVar
from urllib.parse import unquote

import msgspec

from crashfold.engine.read import dead_letters, overview, questions
from crashfold.engine.read.aggregates import games, gaps, intervals, last_games, occurrences, series
from crashfold.engine.read.past import NO_PAST, Past
from crashfold.engine.read.problems import Problem, method_not_allowed, no_such_route, not_found
from crashfold.engine.read.questions import ITEMS_MAX, Limits, Terms, Threshold, too_many_items
from crashfold.engine.read.times import Zones
from crashfold.engine.read.view import View
from crashfold.projections.games import Games
from crashfold.schemas.predicate import Kind

Subject = Threshold | tuple[Threshold, ...] | int | None
"""What a question is about: the threshold in the path, those in the body, the id of a game, or nothing of these."""

T = TypeVar("T")

ANALYTICS: Final = "/api/analytics"
NAMES: Final[dict[Kind, str]] = {"min": "min-crash-point", "max": "max-crash-point", "floor": "exact-floor"}
"""How the kinds are named in paths."""

_PARAMETER: Final = re.compile(r"\\{\w+\\}")
_ESCAPED: Final = re.compile(r"%(?:2D|2E|5F|7E|3\d|[46][1-9A-F]|[57][0-9A])", re.IGNORECASE | re.ASCII)
"""A letter, digit, hyphen, dot, underscore or tilde written as an escape, which means the same (RFC 3986)."""


class Success(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """The body of every success but a page of games, which is a body of its own."""

    status: Literal["success"] = "success"
    data: T


class Route(msgspec.Struct, frozen=True, dict=True):
    """One route. `answer` takes a view, the subject if there is one, and the question."""

    method: Literal["GET", "POST"]
    path: str
    question: type[msgspec.Struct]
    answer: Callable[..., Any]
    kind: Kind | None = None
    """What the numbers of the question mean; None where it has none."""
    is_of_all: bool = False
    """Whether it is about the deployment: `answer` takes an `Overview` and the question."""

    @cached_property
    def begin(self) -> str:
        """What every path of this route begins with: quicker to look at than the pattern."""
        return self.path.partition("{")[0]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The paths of this route. Its parameter may be empty, to be told what is wrong with it."""
        return re.compile(_PARAMETER.sub("([^/]*)", re.escape(self.path)))


class Request(msgspec.Struct, frozen=True):
    """What is read of a request. `path` and `query` as they came, the names of `headers` in lower case."""

    method: str
    path: str
    query: str = ""
    body: bytes = b""
    headers: Mapping[str, str] = {}


class Asked(msgspec.Struct, frozen=True):
    """A request, understood."""

    route: Route
    terms: Terms
    subject: Subject
    question: Any

    @property
    def by_clock(self) -> bool:
        """Whether the answer depends on the server's clock, and not on the version alone."""
        asks_hours = hasattr(self.question, "hours") and getattr(self.question, "by_time", True)
        return asks_hours and self.terms.at_us is None

    def answer(self, view: View) -> Any:
        """The answer: `data`, or the body of a page of games, or a `Problem`."""
        subject = () if self.subject is None else (self.subject,)
        items = self._items(view)
        if items > ITEMS_MAX:
            return too_many_items(items)
        data = self.route.answer(view, *subject, self.question)
        if data is None:
            return not_found("the window holds no such game" if self.route.kind is None else "no game matches")
        return data

    def _items(self, view: View) -> int:
        """How many items the answer may have, where only the games say."""
        question = self.question
        if isinstance(question, questions.GameSetsQuestion):
            values = len(self.subject) if isinstance(self.subject, tuple) else 1
            asked, listed = question.total_games // question.games_per_set, intervals.sets_listed(view, question)
            return values * listed if listed > asked + 2 else 0  # at both ends a set may be cut
        if isinstance(question, questions.SeriesByTimeQuestion) and len(view.games) > ITEMS_MAX:
            return series.games_within(view, question)
        return 0


class Found(msgspec.Struct, frozen=True):
    """The route of a request, and what stands in its path for the parameter, still escaped."""

    route: Route
    parameters: tuple[str, ...]

    def ask(self, request: Request, limits: Limits, zones: Zones) -> Asked | Problem:
        """What the request asks of the route, or what is wrong with it."""
        route = self.route
        query = questions.split_query(request.query)
        terms = questions.read_terms(query, request.headers, zones, takes_at=route.kind is not None)
        if isinstance(terms, Problem):
            return terms
        subject: Subject = None
        if self.parameters:
            read = _read_subject(route, unquote(self.parameters[0]))
            if isinstance(read, Problem):
                return read
            subject = read
        if route.method == "GET":
            question: Any = questions.read_query(route.question, query, limits)
        else:
            question = questions.read_body(route.question, request.body, limits)
        if isinstance(question, Problem):
            return question
        if route.kind is not None and subject is None:
            subject = tuple(Threshold(route.kind, value) for value in question.values)
        return Asked(route, terms, subject, question)


def ask(request: Request, limits: Limits, zones: Zones) -> Asked | Problem:
    """What the request asks, or what is wrong with it."""
    found = find(request)
    return found if isinstance(found, Problem) else found.ask(request, limits, zones)


def find(request: Request) -> "Found | Problem":
    """The route of a request, or that there is none."""
    path = plain(request.path)
    others = False
    for route in ROUTES:
        match = route.pattern.fullmatch(path) if path.startswith(route.begin) else None
        if match is None:
            continue
        if route.method == request.method:
            return Found(route, match.groups())
        others = True
    return method_not_allowed() if others else no_such_route()


def methods_of(path: str) -> frozenset[str]:
    """The methods that a path answers; none when it is no path of ours."""
    path = plain(path)
    return frozenset(route.method for route in ROUTES if route.pattern.fullmatch(path) is not None)


def answer(
    request: Request, window: Games, now_ms: int, *, limits: Limits, zones: Zones, past: Past = NO_PAST
) -> tuple[int, Any]:
    """Status and body of the answer to a request, from the window alone."""
    asked = ask(request, limits, zones)
    if isinstance(asked, Problem):
        return asked.status, asked
    view = View.of(window, asked.terms.zone, now_ms * 1000, asked.terms.at_us, past)
    found = asked.answer(view)
    if isinstance(found, Problem):
        return found.status, found
    return 200, found if isinstance(found, games.GamesPage) else Success(data=found)


def plain(path: str) -> str:
    """The path without needless escapes; a slash that is part of a value stays one."""
    return _ESCAPED.sub(lambda escape: unquote(escape[0]), path) if "%" in path else path


def _read_subject(route: Route, text: str) -> Threshold | int | Problem:
    """The number in the path."""
    if route.kind is None:
        return questions.read_integer("game_id", text)
    return questions.read_threshold(route.kind, text)


def _routes() -> tuple[Route, ...]:
    routes = [
        Route("GET", "/api/games", questions.PageQuestion, games.games_page),
        Route("GET", "/api/games/{game_id}", questions.Nothing, games.one_game),
        Route("GET", "/api/gaps", questions.GapsQuestion, gaps.gaps),
        Route("GET", "/api/streams", questions.Nothing, overview.streams, is_of_all=True),
        Route("GET", "/api/engine", questions.Nothing, overview.engine, is_of_all=True),
        Route("GET", "/api/deployment", questions.Nothing, overview.deployment, is_of_all=True),
        Route("GET", "/api/dead-letters", questions.DeadLettersQuestion, dead_letters.dead_letters, is_of_all=True),
    ]
    for kind, name in NAMES.items():
        root = f"{ANALYTICS}/occurrences/{name}"
        batch = questions.FloorOccurrencesBatch if kind == "floor" else questions.OccurrencesBatch
        routes += [
            Route("GET", f"{root}/{{value}}", questions.OccurrencesQuestion, occurrences.occurrences, kind),
            Route("POST", f"{root}s/batch", batch, occurrences.occurrences_batch, kind),
        ]
        one, many = f"{ANALYTICS}/last-game/{name}", f"{ANALYTICS}/last-games/{name}"
        newest = questions.FloorLastGameBatch if kind == "floor" else questions.LastGameBatch
        routes += [
            Route("GET", f"{one}/{{value}}", questions.Nothing, last_games.last_game, kind),
            Route("GET", f"{many}/{{value}}", questions.LastGamesQuestion, last_games.last_games, kind),
            Route("POST", f"{many}s", newest, last_games.last_game_batch, kind),
        ]
    run = f"{ANALYTICS}/series/without-min-crash-point/{{value}}"
    routes += [
        Route("GET", run, questions.SeriesQuestion, series.series, "min"),
        Route("GET", f"{run}/time", questions.SeriesByTimeQuestion, series.series_by_time, "min"),
    ]
    root = f"{ANALYTICS}/intervals/min-crash-point"
    routes += [
        Route("GET", f"{root}/{{value}}", questions.IntervalsQuestion, intervals.intervals, "min"),
        Route("GET", f"{root}/{{value}}/date-range", questions.DateRangeQuestion, intervals.date_range, "min"),
        Route("GET", f"{root}/{{value}}/game-sets", questions.GameSetsQuestion, intervals.game_sets, "min"),
        Route("POST", f"{root}s", questions.IntervalsBatch, intervals.intervals_batch, "min"),
        Route("POST", f"{root}s/date-range", questions.DateRangeBatch, intervals.date_range_batch, "min"),
        Route("POST", f"{root}s/game-sets", questions.GameSetsBatch, intervals.game_sets_batch, "min"),
    ]
    return tuple(routes)


ROUTES: Final = _routes()
