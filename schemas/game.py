"""The event: one finished round of a crash game, and how a record's bytes become one.

Imports msgspec and the standard library only. Whatever the bytes are, decoding ends in a value, a `Game` or an
`Unreadable` that says why; it never raises, and the verdict depends on the bytes alone.
"""

import re
import threading
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from crashfold.schemas.record import Unreadable

GAME_ID_MAX: Final = 2**53 - 1
"""Above it a double no longer names every integer, and Redis scores are doubles."""
HUNDREDTHS_MIN: Final = 100
HUNDREDTHS_MAX: Final = 10**11
CRASH_POINT_MIN: Final = HUNDREDTHS_MIN / 100
CRASH_POINT_MAX: Final = HUNDREDTHS_MAX / 100
TIME_MAX_MS: Final = 253_402_300_799_999
"""The last millisecond of the year 9999."""
TIME_MIN_MS: Final = -62_135_596_800_000
"""The first millisecond of the year 1: an earlier time could not be printed."""
VALUE_BYTES_MAX: Final = 64 * 1024
NESTING_MAX: Final = 256
"""Levels of nesting a value may have, the outermost object included. The decoder's own limit moves with the depth
of the caller's stack; a fixed one well below it keeps the verdict a matter of the bytes alone."""

HASH_DIGITS: Final = 64

_AT_ONCE: Final = 256
_HEX_DIGITS: Final = b"0123456789abcdef"
_STRING_OR_BRACKET: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[][{}]', re.DOTALL)


class Game(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One finished round, as it stands on the topic and in Redis.

    `crash_point` is the double nearest to some n/100; times are epoch milliseconds; `hash` is 64 lower-case hex
    digits. Equality compares all six fields, which is what tells a duplicate from a conflict.
    """

    game_id: Annotated[int, Meta(ge=1, le=GAME_ID_MAX)]
    hash: Annotated[str, Meta(min_length=HASH_DIGITS, max_length=HASH_DIGITS)] | None = None
    crash_point: Annotated[float, Meta(ge=CRASH_POINT_MIN, le=CRASH_POINT_MAX)]
    prepare_time: Annotated[int, Meta(ge=TIME_MIN_MS, le=TIME_MAX_MS)] | None = None
    begin_time: Annotated[int, Meta(ge=TIME_MIN_MS, le=TIME_MAX_MS)] | None = None
    end_time: Annotated[int, Meta(ge=1, le=TIME_MAX_MS)]

    @property
    def hundredths(self) -> int:
        """The crash point as the integer n of n/100, in which every comparison is exact."""
        return round(self.crash_point * 100)


_decode_json = msgspec.json.Decoder(Game).decode


def decode(value: bytes | None) -> Game | Unreadable:
    """Decode a record's value into a `Game`, or say why it is `Unreadable` (docs/rules.md, section 1).

    None is a tombstone. Never raises.
    """
    if value is None:
        return Unreadable("a tombstone: the record has no value")
    # A short ASCII value, as nearly all are, is neither too long nor badly encoded nor too deeply nested.
    if len(value) > NESTING_MAX or not value.isascii():
        fault = _unfit(value)
        if fault is not None:
            return Unreadable(fault)
    try:
        game = _decode_json(value)
    except ValueError as error:  # MsgspecError is one
        return Unreadable(str(error))
    except RecursionError:
        return _decode_on_a_fresh_stack(value)
    fault = _fault(game)
    return game if fault is None else Unreadable(fault)


def decode_all(values: Sequence[bytes | None]) -> list[Game | Unreadable]:
    """Decode many values, each as `decode` does, in half the time when most are games."""
    verdicts: list[Game | Unreadable] = []
    for start in range(0, len(values), _AT_ONCE):
        some = values[start : start + _AT_ONCE]
        verdicts += _all_good(some) or [decode(value) for value in some]
    return verdicts


def encode(game: Game) -> bytes:
    """Encode a game as the JSON object that `decode` reads back into an equal game."""
    return msgspec.json.encode(game)


def _unfit(value: bytes) -> str | None:
    """Why a value must not even be shown to the decoder, or None."""
    if len(value) > VALUE_BYTES_MAX:
        return f"the value has {len(value)} bytes, more than {VALUE_BYTES_MAX}"
    try:
        value.decode()  # The decoder skips unknown fields without looking at their encoding.
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start}"
    if value.count(b"{") + value.count(b"[") > NESTING_MAX and _nesting(value) > NESTING_MAX:
        return f"nested deeper than {NESTING_MAX} levels"
    return None


def _decode_on_a_fresh_stack(value: bytes) -> Game | Unreadable:
    """`decode` in a thread of its own: the caller stands so deep that the interpreter's limit, which the decoder shares
    with it, leaves no room for the nesting of this value."""
    verdicts: list[Game | Unreadable] = []
    thread = threading.Thread(target=lambda: verdicts.append(decode(value)))
    thread.start()
    thread.join()
    return verdicts[0]


def _fault(game: Game) -> str | None:
    """The rule of docs/rules.md that a decoded game breaks, of those that the annotations cannot say; or None."""
    crash_point = game.crash_point
    if round(crash_point * 100) / 100 != crash_point:
        return f"crash_point {crash_point} is not a whole number of hundredths"
    digits = game.hash
    if digits is not None and digits.encode().translate(None, _HEX_DIGITS):
        return "hash is not 64 lower-case hex digits"
    return None


def _all_good(values: Sequence[bytes | None]) -> list[Game] | None:
    """The games in `values`, when every one is a short ASCII value that holds a game; what nearly always is so is found
    out for all of them at once."""
    try:
        if max(map(len, values)) > NESTING_MAX or not b"".join(values).isascii():  # type: ignore[arg-type]
            return None
        games = [_decode_json(value) for value in values]  # type: ignore[arg-type]
    except (TypeError, ValueError, RecursionError):  # a tombstone, or no game
        return None
    if any(round(game.crash_point * 100) / 100 != game.crash_point for game in games):
        return None
    digits = "".join([game.hash or "" for game in games])
    return None if digits.encode().translate(None, _HEX_DIGITS) else games


def _nesting(value: bytes) -> int:
    """The deepest level of brackets outside strings."""
    depth = deepest = 0
    for token in _STRING_OR_BRACKET.finditer(value):
        first = value[token.start()]
        if first in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        elif first in b"]}":
            depth -= 1
    return deepest
