"""What an aggregate is on the read side: its routes, the source of its answers, and its past.

Imports the ports' facts, settings, projections and schemas. One file under `aggregates` makes one `Aggregate`: the
questions, the keys that answer them, the computation from the window, and what lies before the window. Everything here
is pure: pieces of the read model are named here and read elsewhere.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from functools import cached_property
from typing import Any, Final, Literal

import msgspec

from crashfold.engine.ports import Piece, Pieces, Standing
from crashfold.engine.read.past import Past
from crashfold.engine.read.questions import Question, Terms, Threshold, check_items
from crashfold.engine.read.refusals import NotFound
from crashfold.engine.read.view import View
from crashfold.engine.settings import AnswerSource, ApiSettings
from crashfold.projections.games import Games
from crashfold.schemas.predicate import Kind, Predicate

Subject = Threshold | tuple[Threshold, ...] | int | str | None
"""The subject of a question: the threshold in the path, those in the body, the id of a game, a name, or nothing."""

ANALYTICS: Final = "/api/analytics"
NAMES: Final[dict[Kind, str]] = {"min": "min-crash-point", "max": "max-crash-point", "floor": "exact-floor"}
"""How the kinds are named in paths."""

_PARAMETER: Final = re.compile(r"\\{\w+\\}")


class Lack(Enum):
    """Why stored pieces give no answer."""

    MISSING = "missing"
    """A key is not there although it should be."""
    UNSUITABLE = "unsuitable"
    """They say something else than what was asked."""
    NO_MATCH = "no match"
    """There is nothing to say: no game has ever matched."""


class StoredAnswer(msgspec.Struct, frozen=True):
    """The pieces of the read model that answer a question; `build` makes the answer of their values.

    `build` returns `data` or a `Lack`, and raises ValueError, or what decoding raises, for values that no engine has
    written. The answer is the one that games reaching back far enough would give.
    """

    pieces: tuple[Piece, ...]
    build: Callable[[Sequence[Any], Standing, View], Any]


class PastReader(msgspec.Struct, frozen=True):
    """How the past of predicates is read.

    `is_wanted` says whether an answer from a view needs to know of a predicate's past. `pieces` are what to read of all
    these predicates, and `read` makes the past of their values; it raises as `StoredAnswer.build` does.
    """

    is_wanted: Callable[[Any, View, Predicate], bool]
    pieces: Callable[[Sequence[Predicate]], tuple[Piece, ...]]
    read: Callable[[Sequence[Predicate], Pieces, Games], Past]


class Route(msgspec.Struct, frozen=True, dict=True):
    """One route: method and path, the question it reads, and the function that answers it.

    `answer` takes a view, the subject if there is one, and the question; None is 404. `stored` names the pieces that
    answer too, or None when they cannot.
    """

    method: Literal["GET", "POST"]
    path: str
    question: type[Question]
    answer: Callable[..., Any]
    kind: Kind | None = None
    """The kind of the question's numbers; None where it has none."""
    stored: Callable[["Asked", View], StoredAnswer | None] | None = None
    overview: Callable[[Any, Any, Any], Awaitable[Any]] | None = None
    """Of a route about the deployment: how its `Overview` is read; `answer` takes that and the question."""
    example: Any = None
    """Of a route that the window never answers: the data of an answer, for the reference."""

    @property
    def is_of_all(self) -> bool:
        """Whether the route is about the deployment, and not about one stream."""
        return self.overview is not None

    @cached_property
    def begin(self) -> str:
        """The beginning of every path of this route. To compare it is quicker than to match the pattern."""
        return self.path.partition("{")[0]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The pattern of the paths of this route. It takes an empty parameter, which an error then names."""
        return re.compile(_PARAMETER.sub("([^/]*)", re.escape(self.path)))


def always_stored(settings: ApiSettings) -> AnswerSource:
    """Return the source of an aggregate of all time, which the window cannot answer."""
    return "precomputed"


def always_computed(settings: ApiSettings) -> AnswerSource:
    """Return the source of an aggregate that is the window itself."""
    return "computed"


class Aggregate(msgspec.Struct, frozen=True):
    """One aggregate of the read side. `source` says where its answers come from, by the settings.

    Of an aggregate that is `of_all_time` and has no past reader, an answer from the window alone is whole only while
    the window holds every game.
    """

    name: str
    routes: tuple[Route, ...]
    source: Callable[[ApiSettings], AnswerSource]
    past: PastReader | None = None
    of_all_time: bool = False


class Asked(msgspec.Struct, frozen=True):
    """A question that was read: its route, terms and subject. `aggregate` is None when it is about the deployment."""

    aggregate: Aggregate | None
    route: Route
    terms: Terms
    subject: Subject
    question: Any

    @property
    def by_clock(self) -> bool:
        """Whether the answer depends on the server's clock, and not on the version alone."""
        return self.terms.at_us is None and bool(self.question.by_clock)

    @property
    def is_kept(self) -> bool:
        """Whether the answer stays the same for a while: until the next version, or the next line of a grid."""
        return not self.by_clock or self.question.changes_every_us is not None

    @property
    def thresholds(self) -> tuple[Threshold, ...]:
        """The thresholds that the question is about."""
        match self.subject:
            case Threshold():
                return (self.subject,)
            case tuple():
                return self.subject
        return ()

    @property
    def predicates(self) -> tuple[Predicate, ...]:
        """The thresholds of the question, as predicates."""
        return tuple(threshold.predicate for threshold in self.thresholds)

    def answer(self, view: View) -> Any:
        """The answer from a view: `data`, or the body of a page of games. Raises NotFound and OutOfBounds."""
        subject = () if self.subject is None else (self.subject,)
        check_items(self.question.items_in(view))
        data = self.route.answer(view, *subject, self.question)
        if data is None:
            raise NotFound("the window holds no such game" if self.route.kind is None else "no game matches")
        return data

    def stored(self, view: View) -> StoredAnswer | None:
        """The pieces of the read model that answer the question; None when there are none, as for a past moment."""
        if self.route.stored is None or self.terms.at_us is not None:
            return None
        return self.route.stored(self, view) if view.settings.kept.issuperset(self.predicates) else None

    def past_wanted(self, view: View, total_games: int) -> tuple[Predicate, ...]:
        """The predicates whose past the answer from this view needs. There are none while the window holds every game,
        and seldom any later: the window mostly reaches back far enough."""
        past = None if self.aggregate is None else self.aggregate.past
        if past is None or total_games <= len(view.games):
            return ()
        known = (predicate for predicate in self.predicates if predicate in view.settings.kept)
        return tuple(predicate for predicate in known if past.is_wanted(self.question, view, predicate))
