"""History from elsewhere: what people's files say of a game, as the event that goes on the topic. No I/O.

Names of columns, moments, numbers and hashes come in many spellings. Here they become the event's own; what is not
understood is passed on as it stands, for `games.folding` to say what the engine would say. So there is one checker.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Final, Literal, NamedTuple

import msgspec

from crashfold.engine.errors import ConfigurationError
from crashfold.schemas.fields import NAMES, REQUIRED

TimeUnit = Literal["s", "ms", "us"]
DecimalMark = Literal["point", "comma"]

_SPELLINGS: Final[Mapping[str, Sequence[str]]] = {name: (name.replace("_", ""),) for name in NAMES} | {
    "game_id": ("gameid", "id", "round", "roundid"),
    "crash_point": ("crashpoint", "multiplier", "bust", "result"),
    "end_time": ("endtime", "time", "timestamp", "createdat"),
    "hash": ("hash", "hashvalue", "gamehash"),
    "begin_time": ("begintime", "starttime"),
    "stream": ("stream",),
}
"""Each field with the names it goes by, the likeliest first, in lower case and without `_`, `-` and blanks."""
FIELDS: Final = tuple(_SPELLINGS)

_TIMES: Final = frozenset({"end_time", "prepare_time", "begin_time"})
_NOTHING: Final = frozenset({"", "null", "none", "nil", "nan", "\\n"})
_INTEGER: Final = re.compile(r"[+-]?[0-9]+", re.ASCII)
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?", re.ASCII)
_EXPONENT: Final = re.compile(r"[0-9]+(\.[0-9]+)?[eE][+-]?[0-9]{1,2}", re.ASCII)
_DECIMAL_COMMA: Final = re.compile(r"[0-9.]+,[0-9]+", re.ASCII)
_GROUPED: Final = {
    "point": re.compile(r"[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?", re.ASCII),
    "comma": re.compile(r"[0-9]{1,3}(\.[0-9]{3})+(,[0-9]+)?", re.ASCII),
}
_NAMED_UTC: Final = re.compile(r"\s*(UTC|GMT|Z)$", re.IGNORECASE)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PER_MS: Final[Mapping[TimeUnit, Decimal]] = {"s": Decimal(1000), "ms": Decimal(1), "us": Decimal("0.001")}
_BELOW: Final[Sequence[tuple[int, TimeUnit]]] = ((10**11, "s"), (10**14, "ms"), (10**17, "us"))
"""Numbers below the first are seconds (until the year 5138), and so on."""


class Spelling(NamedTuple):
    """How a file spells its values. `zone` is that of moments without an offset; `time_unit` None: by magnitude."""

    columns: Mapping[str, str] = {}
    zone: tzinfo | None = None
    time_unit: TimeUnit | None = None
    decimal: DecimalMark = "point"


class NotUnderstood(Exception):
    """A value that means nothing under the spelling; the message says which, and what would help."""


class Interpreter:
    """Makes events of the rows of one file. It notes what it recognises in `columns` and `units`."""

    def __init__(self, spelling: Spelling) -> None:
        self._spelling = spelling
        self._columns: dict[tuple[str, ...], dict[str, str]] = {}
        self.units: dict[str, TimeUnit] = {}
        """The unit that was taken for each time by the magnitude of its first value."""

    def columns(self, names: Sequence[str]) -> dict[str, str]:
        """The name of each field among those names, as far as there is one. Raises ConfigurationError for a column that
        was named and is not there, and for two that are equally likely."""
        known = self._columns.get(key := tuple(names))
        if known is None:
            known = self._columns[key] = self._found(key)
        return known

    def event(self, row: Mapping[str, object]) -> tuple[bytes | None, bytes]:
        """Key and value of the game's record; the key is None when the row names no stream. Raises NotUnderstood."""
        members: dict[str, object] = {}
        key: bytes | None = None
        for field, name in self.columns(tuple(row)).items():
            value = row[name]
            if isinstance(value, str):
                value = value.strip()
            if field == "stream":
                key = _key(value)
            elif not _is_nothing(value):
                members[field] = self._value(field, value)
            elif field not in REQUIRED:
                members[field] = None
        return key, msgspec.json.encode(members)

    def _found(self, names: tuple[str, ...]) -> dict[str, str]:
        given = self._spelling.columns
        simple: dict[str, list[str]] = {}
        for name in names:
            simple.setdefault(re.sub(r"[\s_-]", "", name).lower(), []).append(name)
        found = {}
        for field, spellings in _SPELLINGS.items():
            if field in given:
                if given[field] in names:
                    found[field] = given[field]
                continue
            likely = next((simple[spelling] for spelling in spellings if spelling in simple), None)
            if likely is not None and len(likely) > 1:
                raise ConfigurationError(
                    f"{' and '.join(map(repr, likely))} may both be the {field}: say which by --column {field}=NAME"
                )
            if likely is not None:
                found[field] = likely[0]
        return found

    def _value(self, field: str, value: object) -> object:
        if field in _TIMES:
            return self._time_ms(field, value)
        if field == "hash":
            return value.lower() if isinstance(value, str) else value
        if not isinstance(value, str):
            return _plain(value)
        text = value.removesuffix("x").removesuffix("X").removesuffix("×").strip() if field == "crash_point" else value
        number = self._number(field, text)
        return value if number is None else msgspec.Raw(number.encode())

    def _number(self, field: str, text: str) -> str | None:
        """The text as a JSON number; None when it is none."""
        mark = self._spelling.decimal
        if _GROUPED[mark].fullmatch(text):
            text = text.replace("," if mark == "point" else ".", "")
        if mark == "comma":
            text = text.replace(",", ".")
        elif field == "crash_point" and _DECIMAL_COMMA.fullmatch(text):
            raise NotUnderstood(f"{field} {text!r} has a comma: if that is the decimal mark, say so by --decimal comma")
        if field == "crash_point" and _EXPONENT.fullmatch(text):
            text = format(Decimal(text), "f")  # as programs write great numbers
        if not _NUMBER.fullmatch(text):
            return None
        sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text.removeprefix("+"))
        whole, point, fraction = digits.partition(".")
        return sign + (whole.lstrip("0") or "0") + point + fraction

    def _time_ms(self, field: str, value: object) -> object:
        match value:
            case datetime():
                return self._of_moment(field, value)
            case int() | float() | Decimal() if not isinstance(value, bool):
                return self._of_number(field, Decimal(str(value)))
            case str() if _NUMBER.fullmatch(value):
                return self._of_number(field, Decimal(value))
            case str():
                try:
                    moment = datetime.fromisoformat(_NAMED_UTC.sub("+00:00", value))
                except ValueError:
                    raise NotUnderstood(f"{field} {value!r} is neither a number nor an ISO 8601 moment") from None
                return self._of_moment(field, moment)
            case _:
                return _plain(value)

    def _of_moment(self, field: str, moment: datetime) -> int:
        if moment.tzinfo is None:
            if self._spelling.zone is None:
                raise NotUnderstood(f"{field} {moment.isoformat()} has no offset: name its zone by --zone, such as UTC")
            moment = moment.replace(tzinfo=self._spelling.zone)
        return (moment - _EPOCH) // timedelta(milliseconds=1)

    def _of_number(self, field: str, number: Decimal) -> int:
        if not number.is_finite():
            raise NotUnderstood(f"{field} {number} is no moment")
        unit = self._spelling.time_unit
        if unit is None:
            fitting = next((unit for below, unit in _BELOW if abs(number) < below), None)
            unit = self.units.setdefault(field, fitting) if fitting is not None else None
            if unit is None or unit != fitting:
                raise NotUnderstood(
                    f"{field} {number} is of another magnitude than the first one, which was taken for "
                    f"{self.units.get(field)}: mend it, or name the unit of all by --time-unit"
                )
        return int(number * _PER_MS[unit] // 1)


def _is_nothing(value: object) -> bool:
    return value is None or (isinstance(value, str) and value.lower() in _NOTHING)


def _key(value: object) -> bytes | None:
    """The key that names the stream; what is no text is passed on, to be found no name."""
    if _is_nothing(value):
        return None
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else msgspec.json.encode(_plain(value))


def _plain(value: object) -> object:
    """A value that JSON can hold."""
    match value:
        case Decimal():
            return msgspec.Raw(format(value, "f").encode()) if value.is_finite() else str(value)
        case None | bool() | int() | float() | str() | list() | dict():
            return value
        case _:
            return str(value)
