"""The event: one finished round of a crash game, and how a record's bytes become one.

Imports msgspec and the standard library only. Whatever the bytes are, decoding ends in a value, a `Game` or an
`Unreadable` that says why; it never raises, and the verdict depends on the bytes alone.
"""

import re
import threading
from typing import Final

import msgspec

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

DEFAULT_STREAM: Final = "crash"
"""The stream of a record without a key."""

_STREAM_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_HEX_DIGITS: Final = b"0123456789abcdef"
_STRING_OR_BRACKET: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[][{}]', re.DOTALL)


class Game(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One finished round, as it stands on the topic and in Redis.

    `crash_point` is the double nearest to some n/100; times are epoch milliseconds; `hash` is 64 lower-case hex
    digits. Equality compares all six fields, which is what tells a duplicate from a conflict.
    """

    game_id: int
    hash: str | None = None
    crash_point: float
    prepare_time: int | None = None
    begin_time: int | None = None
    end_time: int

    @property
    def hundredths(self) -> int:
        """The crash point as the integer n of n/100, in which every comparison is exact."""
        return round(self.crash_point * 100)


class Unreadable(msgspec.Struct, frozen=True):
    """The verdict on a record that is no game: `detail` says in words what is wrong with it."""

    detail: str


_decode_json = msgspec.json.Decoder(Game).decode


def decode(value: bytes | None) -> Game | Unreadable:
    """Decode a record's value into a `Game`, or say why it is `Unreadable` (SPEC section 1).

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


def encode(game: Game) -> bytes:
    """The JSON object that `decode` reads back into an equal game."""
    return msgspec.json.encode(game)


def stream_name(key: bytes | None) -> str | Unreadable:
    """The stream that a record's key names; without a key it is the default stream."""
    if key is None:
        return DEFAULT_STREAM
    name = key.decode("ascii", "replace")
    if is_stream_name(name):
        return name
    return Unreadable("the key is no stream name: 1 to 64 of A-Z a-z 0-9 . _ -")


def is_stream_name(name: str) -> bool:
    """Whether `name` may name a stream: 1 to 64 of A-Z a-z 0-9 . _ -, safe inside a Redis key."""
    return _STREAM_NAME.fullmatch(name) is not None


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
    """The first rule of SPEC section 1 that a decoded game breaks, or None."""
    if not 1 <= game.game_id <= GAME_ID_MAX:
        return "game_id is outside 1 to 2^53 - 1"
    crash_point = game.crash_point
    if not CRASH_POINT_MIN <= crash_point <= CRASH_POINT_MAX:
        return "crash_point is outside 1.00 to 10^9"
    if round(crash_point * 100) / 100 != crash_point:
        return f"crash_point {crash_point} is not a whole number of hundredths"
    if not 0 < game.end_time <= TIME_MAX_MS:
        return f"end_time is outside 1 to {TIME_MAX_MS}"
    time = game.prepare_time
    if time is not None and not TIME_MIN_MS <= time <= TIME_MAX_MS:
        return f"prepare_time is outside {TIME_MIN_MS} to {TIME_MAX_MS}"
    time = game.begin_time
    if time is not None and not TIME_MIN_MS <= time <= TIME_MAX_MS:
        return f"begin_time is outside {TIME_MIN_MS} to {TIME_MAX_MS}"
    digits = game.hash
    if digits is not None and (len(digits) != 64 or digits.encode().translate(None, _HEX_DIGITS)):
        return "hash is not 64 lower-case hex digits"
    return None


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
