"""The fields of the event in one table, made from `Game` itself: what a column, a decoder and a file need to know.

Imports msgspec and the standard library only. A field that is added to `Game`, an optional whole number, is in every
column, comparison, checkpoint and file from then on; docs/extending.md has the recipe.
"""

from typing import Final

import msgspec
from msgspec import inspect

from crashfold.schemas.game import Game


class WholeNumber(msgspec.Struct, frozen=True):
    """A field that holds a whole number from `low` to `high`, or null if it is optional."""

    name: str
    low: int
    high: int
    is_optional: bool


def _whole_number(field: inspect.Field) -> WholeNumber:
    """Raises TypeError for a field that a column of integers cannot hold."""
    kind, is_optional = field.type, False
    if isinstance(kind, inspect.UnionType) and len(kind.types) == 2:
        is_optional = any(isinstance(one, inspect.NoneType) for one in kind.types)
        kind = next(one for one in kind.types if not isinstance(one, inspect.NoneType))
    if not isinstance(kind, inspect.IntType) or kind.ge is None or kind.le is None:
        raise TypeError(
            f"Game.{field.name} fits no column: annotate it as Annotated[int, Meta(ge=…, le=…)] | None with both bounds"
        )
    return WholeNumber(field.name, kind.ge, kind.le, is_optional)


_TYPE: Final = inspect.type_info(Game)
assert isinstance(_TYPE, inspect.StructType)

NAMES: Final = tuple(field.name for field in _TYPE.fields)
"""Every field, in the order of the struct."""
WHOLE_NUMBERS: Final = {
    field.name: _whole_number(field) for field in _TYPE.fields if field.name not in ("hash", "crash_point")
}
"""Every field but the hash and the crash point, which have a form of their own."""
REQUIRED: Final = tuple(field.name for field in _TYPE.fields if field.required)
"""The fields without which a value is no game."""
OPTIONAL_NUMBERS: Final = tuple(name for name, number in WHOLE_NUMBERS.items() if number.is_optional)
"""The whole numbers that a game need not have."""
