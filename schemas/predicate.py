"""Predicates: `min:2`, `max:1.01`, `floor:5`, `range:2-5`, and the exact arithmetic behind them.

Every predicate is a half-open range of hundredths: `min:v` is [100 v, ∞), `max:v` is [0, 100 v + 1), `floor:n` is
[100 n, 100 n + 100), `range:a-b` is [100 a, 100 b + 1). Thresholds between two hundredths round towards the games they
mean.
"""

import re
from decimal import Decimal
from functools import cached_property
from typing import Final, Literal, Self, get_args

import msgspec

from crashfold.schemas.game import HUNDREDTHS_MAX

Kind = Literal["min", "max", "floor", "range"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

THRESHOLD_MIN: Final = Decimal(1)
THRESHOLD_MAX: Final = Decimal(HUNDREDTHS_MAX) / 100

_NUMBER: Final = r"(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_JSON_NUMBER: Final = re.compile(f"-?{_NUMBER}", re.ASCII)
_RANGE: Final = re.compile(f"({_NUMBER})-({_NUMBER})", re.ASCII)


class Predicate(msgspec.Struct, frozen=True, dict=True):
    """A condition on crash points x: `min` x ≥ value, `max` x ≤ value, `floor` ⌊x⌋ = value, `range` value ≤ x ≤ end."""

    kind: Kind
    value: Decimal
    end: Decimal | None = None
    """The upper bound of a range; None for the other kinds."""

    @classmethod
    def of(cls, kind: Kind, value: Decimal | float | str) -> Self:
        """Make the predicate at `value`, a number from 1 to 10^9 (whole for `floor`).

        A float means its shortest decimal, a string is a number as JSON writes it. For `range` the string has two such
        numbers: `2-5`.

        Raises ValueError, saying what is wrong, for anything else.
        """
        if kind == "range":
            return cls(kind, *_bounds(str(value)))
        exact = _threshold(value, f"{kind}:{value}")
        if kind == "floor" and exact != exact.to_integral_value():
            raise ValueError(f"floor:{value} is not a whole number")
        return cls(kind, _shortest(exact))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The predicate that prints as `text`, such as `min:1.5`. Raises ValueError."""
        kind, colon, value = text.partition(":")
        for known in KINDS:
            if kind == known and colon:
                return cls.of(known, value)
        raise ValueError(f"{text!r} is no predicate: min:<v>, max:<v>, floor:<n> or range:<a>-<b>")

    @cached_property
    def low(self) -> int:
        """The least hundredths that match."""
        return 0 if self.kind == "max" else -_floor_hundredths(self.value.copy_negate())

    @cached_property
    def high(self) -> int | None:
        """The least hundredths above all that match; None when there is no end."""
        match self.kind:
            case "min":
                return None
            case "max":
                return _floor_hundredths(self.value) + 1
            case "floor":
                return _floor_hundredths(self.value) + 100
            case "range":
                return _floor_hundredths(self.end or self.value) + 1

    def matches(self, hundredths: int) -> bool:
        """Whether a game of that crash point matches."""
        return self.low <= hundredths and (self.high is None or hundredths < self.high)

    def __str__(self) -> str:
        return f"{self.kind}:{self.value:f}" if self.end is None else f"{self.kind}:{self.value:f}-{self.end:f}"


def _threshold(value: Decimal | float | str, name: str) -> Decimal:
    """The threshold as it was written. Raises ValueError, which calls it `name`."""
    if isinstance(value, str) and not _JSON_NUMBER.fullmatch(value):
        raise ValueError(f"{name} is not a number")
    exact = Decimal(repr(value) if isinstance(value, float) else value)
    if not exact.is_finite() or not THRESHOLD_MIN <= exact <= THRESHOLD_MAX:
        raise ValueError(f"{name} is outside {THRESHOLD_MIN} to {THRESHOLD_MAX:f}")
    return exact


def _bounds(text: str) -> tuple[Decimal, Decimal]:
    """The two ends of a range. Raises ValueError when there are not two, or no crash point lies between them."""
    name = f"range:{text}"
    found = _RANGE.fullmatch(text)
    if found is None:
        raise ValueError(f"{name} is not two numbers, such as range:2-5")
    start, end = (_shortest(_threshold(bound, name)) for bound in found.groups())
    if -_floor_hundredths(start.copy_negate()) > _floor_hundredths(end):
        raise ValueError(f"{name} holds no crash point: the first number is the lower one")
    return start, end


def _shortest(value: Decimal) -> Decimal:
    """The same number without trailing zeros or exponent, so that equal predicates print alike."""
    whole, _, fraction = f"{value:f}".partition(".")
    fraction = fraction.rstrip("0")
    return Decimal(f"{whole}.{fraction}" if fraction else whole)


def _floor_hundredths(value: Decimal) -> int:
    """⌊100 · value⌋, exact however many digits there are: Decimal's own product is rounded to 28."""
    numerator, denominator = value.as_integer_ratio()
    return 100 * numerator // denominator
