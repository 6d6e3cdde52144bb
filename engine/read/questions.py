"""Questions: the parameters that routes have in common, and the bounds of every parameter.

Imports msgspec, schemas and the standard library. The same name means the same in every question, so bounds are kept by
name. The parameters of one aggregate's routes stand with the aggregate.
"""

from datetime import date
from typing import Any, ClassVar, Final, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from crashfold.engine.read.refusals import OutOfBounds
from crashfold.engine.read.times import YEAR_MAX, YEAR_MIN, Zone
from crashfold.engine.read.view import View
from crashfold.projections.settings import DAY_MINUTES, HOURS_MAX
from crashfold.schemas.predicate import THRESHOLD_MAX, THRESHOLD_MIN, Kind, Predicate

SET_SIZES: Final = (10, 20, 25, 50, 100)
VALUES_MAX: Final = 100
PER_PAGE_MAX: Final = 100
LIVE_GAMES: Final = 100
"""Games that a live event has at most."""
ITEMS_MAX: Final = 100_000
"""Items that one question may ask for."""
INTEGER_MAX: Final = 2**53 - 1
"""The bound of integers that nothing else bounds: every JSON reader takes them for the same number."""

Q = TypeVar("Q", bound="Question")


class Threshold(msgspec.Struct, frozen=True):
    """The number of a question, as it was asked, and its kind. A floor is an integer, the others are doubles."""

    kind: Kind
    value: float

    @property
    def predicate(self) -> Predicate:
        """The condition on the crash point, exact: a double means its shortest decimal."""
        return Predicate.of(self.kind, self.value)

    @property
    def label(self) -> str:
        """The key of the threshold's results: `2.0`, or `2` for a floor."""
        return str(self.value)

    @property
    def echo(self) -> dict[str, Any]:
        """The field that repeats the threshold in an answer."""
        return {f"{self.kind}_value": self.value}


class Echo(msgspec.Struct, frozen=True, kw_only=True):
    """The threshold as it was asked: the one of the three that fits the kind."""

    min_value: float | UnsetType = UNSET
    max_value: float | UnsetType = UNSET
    floor_value: int | UnsetType = UNSET


class Terms(msgspec.Struct, frozen=True):
    """The parameters that every question may have beside its own."""

    zone: Zone
    stream: str | None = None
    """None is the deployment's only one, or `crash`."""
    at_us: int | None = None
    """The moment asked about; None is now."""
    min_version: int | None = None


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of one route, and the size of the answer that they ask for."""

    limit_max: ClassVar[int | None] = None
    """The bound of `limit`; None is the window."""

    @property
    def value_count(self) -> int:
        """Count the thresholds of the question."""
        return len(getattr(self, "values", (0,)))

    @property
    def by_clock(self) -> bool:
        """Whether the answer depends on the server's clock, unless a moment is asked about."""
        return False

    @property
    def changes_every_us(self) -> int | None:
        """The time between two changes of an answer that depends on the clock; None when it changes at any moment."""
        return None

    def check(self) -> None:
        """Raise OutOfBounds when parameters that are fine alone do not fit together."""

    def items(self) -> int:
        """How many items an answer may have, by the parameters alone."""
        return self.value_count

    def items_in(self, view: View) -> int:
        """How many items an answer may have, where the games alone say; 0 where the parameters do."""
        return 0

    def cost(self, view: View) -> int:
        """About how many items the answer has: a big one is made in a thread."""
        return 0


class Nothing(Question, frozen=True, kw_only=True):
    """No parameters."""


def bounded(question: Q, window_games: int) -> Q:
    """The question, each of whose values is within bounds. Raises OutOfBounds."""
    games_max = games_max_of(type(question), window_games)
    for name in question.__struct_fields__:
        fault = _fault(name, getattr(question, name), games_max)
        if fault is not None:
            raise OutOfBounds(f"{name} {fault}", name)
    question.check()
    check_items(question.items())
    return question


def games_max_of(question: type[Question], window_games: int) -> int:
    """The bound of `limit` and of numbers of games."""
    return window_games if question.limit_max is None else question.limit_max


def check_items(items: int) -> None:
    """Raise OutOfBounds when an answer would have too many items."""
    if items > ITEMS_MAX:
        raise OutOfBounds(f"the answer may have {items} items, more than {ITEMS_MAX}")


def threshold_fault(value: float) -> str | None:
    """How a threshold is out of bounds, in words; None when it is not."""
    return _outside(value, int(THRESHOLD_MIN), int(THRESHOLD_MAX))


def _fault(name: str, value: Any, games_max: int) -> str | None:
    """How a value is out of bounds, in words; None when it is not."""
    match name:
        case "games" | "limit" | "total_games":
            return _outside(value, 1, games_max)
        case "hours":
            return _outside(value, 1, HOURS_MAX)
        case "page":
            return _outside(value, 1, INTEGER_MAX)
        case "per_page":
            return _outside(value, 1, PER_PAGE_MAX)
        case "interval_minutes":
            return None if value >= 1 and DAY_MINUTES % value == 0 else f"is no divisor of {DAY_MINUTES}"
        case "games_per_set":
            return None if value in SET_SIZES else f"is not one of {', '.join(map(str, SET_SIZES))}"
        case "start_date" | "end_date":
            assert isinstance(value, date)
            return _outside(value.year, YEAR_MIN, YEAR_MAX)
        case "values":
            if not 1 <= len(value) <= VALUES_MAX:
                return f"has {len(value)} numbers, not 1 to {VALUES_MAX}"
            return next(filter(None, map(threshold_fault, value)), None)
    return None


def _outside(value: float, low: int, high: int) -> str | None:
    return None if low <= value <= high else f"is outside {low} to {high}"
