"""An answer: the bytes of its body, the state that it is of, and where it came from.

Imports msgspec and the read side's own structs. An answer is of one version, and names it.
"""

from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

from crashfold.engine.meter import Source
from crashfold.engine.read.aggregates.games import GamesPage
from crashfold.engine.read.held import HeldState
from crashfold.engine.read.refusals import Refusal

T = TypeVar("T")

encode: Final = msgspec.json.Encoder().encode


class Success(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """The body of every success but a page of games, which is a body of its own."""

    status: Literal["success"] = "success"
    data: T


class Answer(msgspec.Struct, frozen=True):
    """The answer to a question: a body, or a refusal that is true of one version.

    An answer that is not `is_whole` lacks what lies before the window. One that is `is_fixed` follows from the version
    alone. `age_s` is None unless the state may not be the newest.
    """

    held: HeldState
    body: bytes | Refusal
    source: Source
    is_fixed: bool
    is_whole: bool = True
    age_s: float | None = None


def body_of(data: Any) -> Any:
    """The body that stands for the data of an answer."""
    return data if isinstance(data, GamesPage) else Success(data=data)
