"""Stored values: how the values of stored pieces are read.

Imports msgspec and schemas. Each function raises ValueError, or what decoding raises, for a value that no engine has
written.
"""

from typing import Final

import msgspec

from crashfold.engine.ports import Read
from crashfold.schemas.game import Game

COUNT_DIGITS_MAX: Final = 16

SPOILED: Final = (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError)
"""The errors of reading a stored value that no engine has written."""

decode_games: Final = msgspec.json.Decoder(list[Game]).decode


def count_of(text: bytes, at_most: int) -> int:
    """A stored count."""
    if not (text.isdigit() and len(text) <= COUNT_DIGITS_MAX and int(text) <= at_most):
        raise ValueError("a count is spoiled")
    return int(text)


def only(fields: Read) -> bytes:
    """The one field that was read."""
    found = fields[0] if isinstance(fields, list) else None
    if found is None:
        raise ValueError("a count is missing")
    return found


def joined(elements: Read) -> bytes:
    """The JSON elements of a list as one array."""
    if not isinstance(elements, list):
        raise ValueError("this is no list")
    return b"[" + b",".join(element for element in elements if element is not None) + b"]"
