"""Requests: how questions are read from paths, queries, headers and bodies.

Imports msgspec and the read side's questions. Raises Malformed for a value that is not written as it must be, and
OutOfBounds for one that is beyond what may be asked. A question that was read is within all bounds.
"""

import json
import re
from collections.abc import Mapping
from datetime import date
from functools import cache
from typing import Any, Final, TypeVar, get_args, get_type_hints
from urllib.parse import parse_qsl

import msgspec

from crashfold.engine.read.questions import INTEGER_MAX, Question, Terms, Threshold, bounded, threshold_fault
from crashfold.engine.read.refusals import Malformed, OutOfBounds
from crashfold.engine.read.times import YEAR_MAX, YEAR_MIN, Zones, is_askable, parse_moment
from crashfold.schemas.predicate import Kind
from crashfold.schemas.record import is_stream_name

ZONE_HEADER: Final = "x-timezone"

_NUMBER_MAX: Final = 1e300
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DIGITS_MAX: Final = 400
"""Longer integers are out of every bound, and Python refuses to read very long ones."""

Q = TypeVar("Q", bound=Question)


class ApiRequest(msgspec.Struct, frozen=True):
    """The parts of a request that are read. `path` and `query` as they came, the names of `headers` in lower case."""

    method: str
    path: str
    query: str = ""
    body: bytes = b""
    headers: Mapping[str, str] = {}


def split_query(query: str) -> dict[str, str]:
    """The parameters of a query string; of one that comes twice the last."""
    return dict(parse_qsl(query, keep_blank_values=True))


def read_terms(query: Mapping[str, str], headers: Mapping[str, str], zones: Zones, *, takes_at: bool = True) -> Terms:
    """Zone, stream, moment and least version of a request. `headers` have lower-case names.

    Without `takes_at` the moment is not even looked at.
    """
    zone = zones.get(headers.get(ZONE_HEADER) or "UTC")
    if zone is None:
        raise Malformed("X-Timezone is no IANA time zone, in exact spelling", "X-Timezone")
    stream = query.get("stream")
    if stream is not None and not is_stream_name(stream):
        raise Malformed("stream is not 1 to 64 of A-Z a-z 0-9 . _ -", "stream")
    at_us = None
    if takes_at and "at" in query:
        at_us = parse_moment(query["at"])
        if at_us is None:
            raise Malformed("at is no ISO 8601 date and time with an offset or Z", "at")
        if not is_askable(at_us):
            raise OutOfBounds(f"at is outside the years {YEAR_MIN} to {YEAR_MAX}", "at")
    min_version = None
    if "min_version" in query:
        min_version = read_integer("min_version", query["min_version"])
        if not 0 <= min_version <= INTEGER_MAX:
            raise OutOfBounds(f"min_version is outside 0 to {INTEGER_MAX}", "min_version")
    return Terms(zone, stream, at_us, min_version)


def read_threshold(kind: Kind, text: str) -> Threshold:
    """The number in a path."""
    value = read_integer("value", text) if kind == "floor" else read_number("value", text)
    fault = threshold_fault(value)
    if fault is not None:
        raise OutOfBounds(f"the value {fault}", "value")
    return Threshold(kind, value)


def read_query(question: type[Q], query: Mapping[str, str], window_games: int) -> Q:
    """The question that a query asks; parameters it does not know are ignored."""
    given: dict[str, Any] = {}
    for name, kind, required in _parameters(question):
        if name in query:
            given[name] = _read(name, kind, query[name])
        elif required:
            raise Malformed(f"{name} is missing", name)
    return bounded(question(**given), window_games)


def read_body(question: type[Q], body: bytes, window_games: int) -> Q:
    """Read the question from a JSON body, strictly typed. Unknown members are ignored."""
    try:
        body.decode()  # the decoder skips unknown members without looking at their encoding
        asked: Q = _decoder(question).decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        is_beyond = isinstance(error, msgspec.ValidationError) and "out of range" in str(error)
        read = _read_huge(question, body) if is_beyond else None
        if read is None:
            raise Malformed(f"the body is not the JSON object asked for: {_describe(question)}") from None
        asked = read
    return bounded(asked, window_games)


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


def read_number(name: str, text: str) -> float:
    """A JSON number; infinite when beyond what a double can hold."""
    if _NUMBER.fullmatch(text) is None:
        raise Malformed(f"{name} is not a JSON number", name)
    return float(text)


def read_integer(name: str, text: str) -> int:
    """A JSON number without fraction and exponent."""
    if _INTEGER.fullmatch(text) is None:
        raise Malformed(f"{name} is not a JSON integer", name)
    return int(text[:_DIGITS_MAX])


def _read(name: str, kind: Any, text: str) -> Any:
    """One parameter of a query."""
    if kind is int:
        return read_integer(name, text)
    if kind is bool:
        if text not in ("true", "false"):
            raise Malformed(f"{name} is neither true nor false", name)
        return text == "true"
    if kind is date:
        return _read_date(name, text)
    if kind is str:
        return text
    choices = get_args(kind)
    if text not in choices:
        raise Malformed(f"{name} is not one of {', '.join(choices)}", name)
    return text


def _read_date(name: str, text: str) -> date:
    try:
        if _DATE.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise Malformed(f"{name} is no date YYYY-MM-DD", name)


@cache
def _parameters(question: type[Question]) -> tuple[tuple[str, Any, bool], ...]:
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
