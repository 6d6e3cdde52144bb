"""Predicates: `min:2`, `max:1.01`, `floor:5`, and the exact arithmetic behind them.

Every predicate is a half-open range of hundredths: `min:v` is [100 v, ∞), `max:v` is [0, 100 v + 1), `floor:n` is
[100 n, 100 n + 100). Thresholds between two hundredths round towards the games they mean.
"""

import re
from decimal import Decimal
from functools import cached_property
from typing import Final, Literal, Self, get_args

import msgspec

from crashfold.schemas.game import HUNDREDTHS_MAX

Kind = Literal["min", "max", "floor"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

THRESHOLD_MIN: Final = Decimal(1)
THRESHOLD_MAX: Final = Decimal(HUNDREDTHS_MAX) / 100

_JSON_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)


class Predicate(msgspec.Struct, frozen=True, dict=True):
    """A condition on the crash point: `min` x ≥ value, `max` x ≤ value, `floor` ⌊x⌋ = value."""

    kind: Kind
    value: Decimal

    @classmethod
    def of(cls, kind: Kind, value: Decimal | float | str) -> Self:
        """A predicate at `value`, a number from 1 to 10^9 (whole for `floor`); a float means its shortest decimal,
        a string is a number as JSON writes it.

        Raises ValueError, saying what is wrong, for anything else.
        """
        if isinstance(value, str) and not _JSON_NUMBER.fullmatch(value):
            raise ValueError(f"{kind}:{value} is not a number")
        exact = Decimal(repr(value) if isinstance(value, float) else value)
        if not exact.is_finite() or not THRESHOLD_MIN <= exact <= THRESHOLD_MAX:
            raise ValueError(f"{kind}:{value} is outside {THRESHOLD_MIN} to {THRESHOLD_MAX:f}")
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
        raise ValueError(f"{text!r} is no predicate: min:<v>, max:<v> or floor:<n>")

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

    def matches(self, hundredths: int) -> bool:
        """Whether a game of that crash point matches."""
        return self.low <= hundredths and (self.high is None or hundredths < self.high)

    def __str__(self) -> str:
        return f"{self.kind}:{self.value:f}"


def _shortest(value: Decimal) -> Decimal:
    """The same number without trailing zeros or exponent, so that equal predicates print alike."""
    whole, _, fraction = f"{value:f}".partition(".")
    fraction = fraction.rstrip("0")
    return Decimal(f"{whole}.{fraction}" if fraction else whole)


def _floor_hundredths(value: Decimal) -> int:
    """⌊100 · value⌋, exact however many digits there are: Decimal's own product is rounded to 28."""
    numerator, denominator = value.as_integer_ratio()
    return 100 * numerator // denominator
