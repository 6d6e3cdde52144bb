"""Questions: the parameters of every route as typed structs, and how they are read from paths, queries and bodies.

Imports msgspec, schemas and the standard library. A question that was read is within all bounds. What cannot be read is
a `Problem`: 400 when it is not written as it must be, 422 when it is out of bounds. The same name means the same
everywhere, so the bounds are kept by name.
"""

import json
import re
from collections.abc import Mapping
from datetime import date
from functools import cache
from typing import Any, ClassVar, Final, Literal, TypeVar, get_args, get_type_hints
from urllib.parse import parse_qsl

import msgspec
from msgspec import UNSET, UnsetType

from crashfold.engine.read.problems import Problem, malformed, out_of_bounds
from crashfold.engine.read.times import YEAR_MAX, YEAR_MIN, Zone, Zones, is_askable, parse_moment
from crashfold.projections.settings import DAY_MINUTES, GAPS_KEPT, HOURS_MAX
from crashfold.schemas.game import is_stream_name
from crashfold.schemas.predicate import THRESHOLD_MAX, THRESHOLD_MIN, Kind, Predicate

SortBy = Literal["time", "length"]

SET_SIZES: Final = (10, 20, 25, 50, 100)
VALUES_MAX: Final = 100
PER_PAGE_MAX: Final = 100
LIVE_GAMES: Final = 100
"""Of so many new games a live event tells at most."""
ITEMS_MAX: Final = 100_000
"""Items that one question may ask for."""
DAYS_MAX: Final = 7
INTEGER_MAX: Final = 2**53 - 1
"""Where nothing else bounds an integer: what every JSON reader takes for the same number."""

ZONE_HEADER: Final = "x-timezone"

_NUMBER_MAX: Final = 1e300
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DIGITS_MAX: Final = 400
"""Longer integers are out of every bound, and Python refuses to read very long ones."""


class Limits(msgspec.Struct, frozen=True):
    """The bounds that the settings decide: no question asks for more games than the window may hold."""

    window_games: int = 50_000


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
        """The key of its results: `2.0`, of a floor `2`."""
        return str(self.value)

    @property
    def echo(self) -> dict[str, Any]:
        """The field that repeats it in an answer."""
        return {f"{self.kind}_value": self.value}


class Echo(msgspec.Struct, frozen=True, kw_only=True):
    """The threshold as it was asked: the one of the three that fits the kind."""

    min_value: float | UnsetType = UNSET
    max_value: float | UnsetType = UNSET
    floor_value: int | UnsetType = UNSET


class Terms(msgspec.Struct, frozen=True):
    """What every question may say beside its own parameters."""

    zone: Zone
    stream: str | None = None
    """None is the deployment's only one, or `crash`."""
    at_us: int | None = None
    """The moment asked about; None is now."""
    min_version: int | None = None


class Nothing(msgspec.Struct, frozen=True):
    """No parameters."""


class OccurrencesQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """The last `games` games or, by time, the last `hours` hours."""

    games: int = 100
    by_time: bool = False
    hours: int = 1


class OccurrencesBatch(OccurrencesQuestion, frozen=True, kw_only=True):
    """The same for several thresholds, if wanted in comparison with the period before."""

    values: tuple[float, ...]
    comparison: bool = True


class FloorOccurrencesBatch(OccurrencesBatch, frozen=True, kw_only=True):
    """The same for several floors."""

    values: tuple[int, ...]


class SeriesQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """The series that have a game among the last `limit` games."""

    limit: int = 1000
    sort_by: SortBy = "time"


class SeriesByTimeQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """The series that have a game in the last `hours` hours."""

    hours: int = 24
    sort_by: SortBy = "time"


class IntervalsQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """Buckets of `interval_minutes` over the last `hours` hours."""

    interval_minutes: int = 10
    hours: int = 24


class IntervalsBatch(IntervalsQuestion, frozen=True, kw_only=True):
    """The same for several thresholds."""

    values: tuple[float, ...]


class DateRangeQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """Buckets of `interval_minutes` from the begin of one calendar day to the end of another."""

    start_date: date
    end_date: date
    interval_minutes: int = 10


class DateRangeBatch(DateRangeQuestion, frozen=True, kw_only=True):
    """The same for several thresholds."""

    values: tuple[float, ...]


class GameSetsQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """Sets of `games_per_set` neighbouring ids over the last `total_games` games."""

    games_per_set: int = 10
    total_games: int = 1000


class GameSetsBatch(GameSetsQuestion, frozen=True, kw_only=True):
    """The same for several thresholds."""

    values: tuple[float, ...]


class LastGamesQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """The newest `limit` matches."""

    limit: int = 10


class LastGameBatch(msgspec.Struct, frozen=True, kw_only=True):
    """The newest match of several thresholds."""

    values: tuple[float, ...]


class FloorLastGameBatch(LastGameBatch, frozen=True, kw_only=True):
    """The newest match of several floors."""

    values: tuple[int, ...]


class GapsQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """The newest `limit` gaps."""

    limit_max: ClassVar[int] = GAPS_KEPT
    limit: int = 100


class DeadLettersQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """The newest `limit` dead letters."""

    limit_max: ClassVar[int] = 500
    limit: int = 50


class PageQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """Page number `page`, from 1, of the window, newest first."""

    page: int = 1
    per_page: int = 10


class LiveQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """The live stream, with `limit` games an event at most."""

    limit: int = LIVE_GAMES


Q = TypeVar("Q", bound=msgspec.Struct)


def split_query(query: str) -> dict[str, str]:
    """The parameters of a query string; of one that comes twice the last."""
    return dict(parse_qsl(query, keep_blank_values=True))


def read_terms(
    query: Mapping[str, str], headers: Mapping[str, str], zones: Zones, *, takes_at: bool = True
) -> Terms | Problem:
    """Zone, stream, moment and least version of a request. `headers` have lower-case names.

    Without `takes_at` the moment is not even looked at.
    """
    zone = zones.get(headers.get(ZONE_HEADER) or "UTC")
    if zone is None:
        return malformed("X-Timezone is no IANA time zone, in exact spelling", "X-Timezone")
    stream = query.get("stream")
    if stream is not None and not is_stream_name(stream):
        return malformed("stream is not 1 to 64 of A-Z a-z 0-9 . _ -", "stream")
    at_us = None
    if takes_at and "at" in query:
        at_us = parse_moment(query["at"])
        if at_us is None:
            return malformed("at is no ISO 8601 date and time with an offset or Z", "at")
        if not is_askable(at_us):
            return out_of_bounds(f"at is outside the years {YEAR_MIN} to {YEAR_MAX}", "at")
    min_version = None
    if "min_version" in query:
        read = read_integer("min_version", query["min_version"])
        if isinstance(read, Problem):
            return read
        if not 0 <= read <= INTEGER_MAX:
            return out_of_bounds(f"min_version is outside 0 to {INTEGER_MAX}", "min_version")
        min_version = read
    return Terms(zone, stream, at_us, min_version)


def read_threshold(kind: Kind, text: str) -> Threshold | Problem:
    """The number in a path."""
    value = read_integer("value", text) if kind == "floor" else read_number("value", text)
    if isinstance(value, Problem):
        return value
    fault = _threshold_fault(value)
    return Threshold(kind, value) if fault is None else out_of_bounds(f"the value {fault}", "value")


def read_query(question: type[Q], query: Mapping[str, str], limits: Limits) -> Q | Problem:
    """The question that a query asks; parameters it does not know are ignored."""
    given: dict[str, Any] = {}
    for name, kind, required in _parameters(question):
        if name in query:
            value = _read(name, kind, query[name])
            if isinstance(value, Problem):
                return value
            given[name] = value
        elif required:
            return malformed(f"{name} is missing", name)
    return _bounded(question(**given), limits)


def read_body(question: type[Q], body: bytes, limits: Limits) -> Q | Problem:
    """The question in a JSON body, strictly typed; members it does not know are ignored."""
    try:
        body.decode()  # the decoder skips unknown members without looking at their encoding
        asked = _decoder(question).decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        is_beyond = isinstance(error, msgspec.ValidationError) and "out of range" in str(error)
        read = _read_huge(question, body) if is_beyond else None
        if read is None:
            return malformed(f"the body is not the JSON object asked for: {_describe(question)}")
        asked = read
    return _bounded(asked, limits)


def _read_huge(question: type[Q], body: bytes) -> Q | None:
    """The question in a body with numbers that no double or 64-bit integer can hold: well written, of the type that
    they have, and beyond every bound. None when it is not the object asked for."""
    try:
        found = json.loads(body, parse_int=_huge_integer, parse_float=_huge_number, parse_constant=_refuse)
        return msgspec.convert(found, question)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _huge_integer(text: str) -> int:
    return max(-INTEGER_MAX, min(INTEGER_MAX, int(text[:_DIGITS_MAX])))


def _huge_number(text: str) -> float:
    return max(-_NUMBER_MAX, min(_NUMBER_MAX, float(text)))


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def read_number(name: str, text: str) -> float | Problem:
    """A JSON number; infinite when beyond what a double can hold."""
    if _NUMBER.fullmatch(text) is None:
        return malformed(f"{name} is not a JSON number", name)
    return float(text)


def read_integer(name: str, text: str) -> int | Problem:
    """A JSON number without fraction and exponent."""
    if _INTEGER.fullmatch(text) is None:
        return malformed(f"{name} is not a JSON integer", name)
    return int(text[:_DIGITS_MAX])


def _read(name: str, kind: Any, text: str) -> Any:
    """One parameter of a query, or a `Problem`."""
    if kind is int:
        return read_integer(name, text)
    if kind is bool:
        words = {"true": True, "false": False}
        return words[text] if text in words else malformed(f"{name} is neither true nor false", name)
    if kind is date:
        return _read_date(name, text)
    choices = get_args(kind)
    return text if text in choices else malformed(f"{name} is not one of {', '.join(choices)}", name)


def _read_date(name: str, text: str) -> date | Problem:
    try:
        return date.fromisoformat(text) if _DATE.fullmatch(text) else malformed(_no_date(name), name)
    except ValueError:
        return malformed(_no_date(name), name)


def _no_date(name: str) -> str:
    return f"{name} is no date YYYY-MM-DD"


def _bounded(question: Q, limits: Limits) -> Q | Problem:
    """The question, if each of its values is within bounds."""
    limits = limits_of(type(question), limits)
    for name in question.__struct_fields__:
        fault = _fault(name, getattr(question, name), limits)
        if fault is not None:
            return out_of_bounds(f"{name} {fault}", name)
    if isinstance(question, DateRangeQuestion):
        days = (question.end_date - question.start_date).days + 1
        if days < 1:
            return out_of_bounds("end_date is before start_date", "end_date")
        if days > DAYS_MAX:
            return out_of_bounds(f"from start_date to end_date are {days} days, more than {DAYS_MAX}", "end_date")
    items = items_of(question)
    if items > ITEMS_MAX:
        return too_many_items(items)
    return question


def limits_of(question: type[msgspec.Struct], limits: Limits) -> Limits:
    """The bounds of that question: what is no game has a bound of its own."""
    return Limits(getattr(question, "limit_max", limits.window_games))


def too_many_items(items: int) -> Problem:
    """422: the answer would be too long."""
    return out_of_bounds(f"the answer may have {items} items, more than {ITEMS_MAX}")


def items_of(question: msgspec.Struct) -> int:
    """How many items an answer may have: values times buckets or sets, or games."""
    values = len(getattr(question, "values", (0,)))
    match question:
        case SeriesQuestion() | LastGamesQuestion():
            return question.limit
        case GameSetsQuestion():
            return values * -(-question.total_games // question.games_per_set)
        case IntervalsQuestion():
            return values * -(-question.hours * 60 // question.interval_minutes)
        case DateRangeQuestion():
            days = (question.end_date - question.start_date).days + 1
            return values * days * (DAY_MINUTES // question.interval_minutes)
    return values


def _fault(name: str, value: Any, limits: Limits) -> str | None:
    """How a value is out of bounds, in words; None when it is not."""
    match name:
        case "games" | "limit" | "total_games":
            return _outside(value, 1, limits.window_games)
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
            return _outside(value.year, YEAR_MIN, YEAR_MAX)
        case "values":
            if not 1 <= len(value) <= VALUES_MAX:
                return f"has {len(value)} numbers, not 1 to {VALUES_MAX}"
            return next(filter(None, map(_threshold_fault, value)), None)
    return None


def _threshold_fault(value: float) -> str | None:
    return _outside(value, int(THRESHOLD_MIN), int(THRESHOLD_MAX))


def _outside(value: float, low: int, high: int) -> str | None:
    return None if low <= value <= high else f"is outside {low} to {high}"


@cache
def _parameters(question: type[msgspec.Struct]) -> tuple[tuple[str, Any, bool], ...]:
    """Name and type of each parameter, and whether it must be given."""
    hints = get_type_hints(question)
    return tuple((field.name, hints[field.name], field.required) for field in msgspec.structs.fields(question))


@cache
def _decoder(question: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(question)


@cache
def _describe(question: Any) -> str:
    """The members of a body, in words."""
    return ", ".join(
        f"{field.name} (required)" if field.required else field.name
        for field in sorted(msgspec.structs.fields(question), key=lambda field: not field.required)
    )
