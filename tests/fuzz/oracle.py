"""What a record's value is, by the rules for a game (docs/rules.md, section 1) and RFC 8259, read plainly.

Shares no code with `schemas.game`: the JSON reader is its own, character by character, so that the fuzzer sees its
branches; numbers are compared as fractions.
"""

import re
from fractions import Fraction
from typing import Any, Final, NamedTuple

Fields = dict[str, Any]

_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_BLANKS: Final = " \t\r\n"
_ESCAPES: Final = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_WORDS: Final = {"true": True, "false": False, "null": None}

_LEVELS_MAX: Final = 256
_BYTES_MAX: Final = 65_536
_INTEGERS: Final = {
    "game_id": (1, 2**53 - 1),
    "prepare_time": (-62_135_596_800_000, 253_402_300_799_999),
    "begin_time": (-62_135_596_800_000, 253_402_300_799_999),
    "end_time": (1, 253_402_300_799_999),
}
_OPTIONAL: Final = ("hash", "prepare_time", "begin_time")
_REQUIRED: Final = ("game_id", "crash_point", "end_time")


class Unclear(Exception):
    """The rules leave it open whether this is a game."""


class _Wrong(Exception):
    """Not JSON, or not a game."""


class _Number(NamedTuple):
    """A number as it was written."""

    text: str
    is_integer: bool


def game_in(value: bytes) -> Fields | None:
    """The six fields of the game; None when the value is unreadable. Raises Unclear."""
    try:
        if len(value) > _BYTES_MAX:
            raise _Wrong
        reader = _Reader(value.decode("utf-8"))
        members = reader.whole()
        if not isinstance(members, list):
            raise _Wrong
        game = _game(members)
        if reader.is_unclear:
            raise Unclear
        return game
    except (_Wrong, UnicodeDecodeError):
        return None


def stream_of(key: bytes) -> str | None:
    """The stream that a key names."""
    allowed = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
    if not 1 <= len(key) <= 64:
        return None
    for byte in key:
        if byte not in allowed:
            return None
    return key.decode("ascii")


def _game(members: list[tuple[str, Any]]) -> Fields:
    known = [(name, value) for name, value in members if name in _OPTIONAL or name in _REQUIRED]
    for name in _REQUIRED:
        if name not in dict(known):
            raise _Wrong
    if len(known) > len(dict(known)):
        raise Unclear  # RFC 8259 leaves open what a name that comes twice means
    return dict.fromkeys(_OPTIONAL) | {name: _field(name, value) for name, value in known}


def _field(name: str, value: Any) -> Any:
    if name in _OPTIONAL and value is None:
        return None
    if name == "hash":
        if not isinstance(value, str) or len(value) != 64:
            raise _Wrong
        for digit in value:
            if digit not in "0123456789abcdef":
                raise _Wrong
        return value
    if not isinstance(value, _Number):
        raise _Wrong
    if name == "crash_point":
        return _crash_point(value.text)
    low, high = _INTEGERS[name]
    if not value.is_integer or len(value.text) > 20 or not low <= int(value.text) <= high:
        raise _Wrong
    return int(value.text)


def _crash_point(text: str) -> float:
    number = float(text)
    if not 1 <= number <= 10**9:
        raise _Wrong
    hundredths = round(Fraction(number) * 100)
    if float(Fraction(hundredths, 100)) != number:
        raise _Wrong
    return number


class _Reader:
    """JSON, strictly; an object is a list of pairs, and of an array nothing is kept."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self.is_unclear = False

    def whole(self) -> Any:
        value = self._value(0)
        self._skip()
        if self._at < len(self._text):
            raise _Wrong
        return value

    def _value(self, levels: int) -> Any:
        self._skip()
        char = self._peek()
        if char == "{":
            return self._object(levels + 1)
        if char == "[":
            return self._array(levels + 1)
        if char == '"':
            return self._string()
        for word, meaning in _WORDS.items():
            if self._text.startswith(word, self._at):
                self._at += len(word)
                return meaning
        found = _NUMBER.match(self._text, self._at)
        if found is None:
            raise _Wrong
        self._at = found.end()
        return _Number(found[0], found[2] is None and found[3] is None)

    def _object(self, levels: int) -> list[tuple[str, Any]]:
        self._open(levels)
        members: list[tuple[str, Any]] = []
        while True:
            self._skip()
            if not members and self._peek() == "}":
                break
            if self._peek() != '"':
                raise _Wrong
            name = self._string()
            self._skip()
            self._take(":")
            members.append((name, self._value(levels)))
            self._skip()
            if self._peek() == "}":
                break
            self._take(",")
        self._at += 1
        return members

    def _array(self, levels: int) -> None:
        self._open(levels)
        is_first = True
        while True:
            self._skip()
            if is_first and self._peek() == "]":
                break
            is_first = False
            self._value(levels)
            self._skip()
            if self._peek() == "]":
                break
            self._take(",")
        self._at += 1

    def _string(self) -> str:
        self._take('"')
        chars = []
        while (char := self._peek()) != '"':
            if char < " ":
                raise _Wrong
            self._at += 1
            chars.append(self._escape() if char == "\\" else char)
        self._at += 1
        return "".join(chars)

    def _escape(self) -> str:
        char = self._peek()
        self._at += 1
        if char != "u":
            if char not in _ESCAPES:
                raise _Wrong
            return _ESCAPES[char]
        digits = self._text[self._at : self._at + 4]
        self._at += 4
        if re.fullmatch("[0-9a-fA-F]{4}", digits) is None:
            raise _Wrong
        code = int(digits, 16)
        if 0xD800 <= code <= 0xDFFF:
            self.is_unclear = True  # half a character may be written in JSON, and is no text
            return "?"
        return chr(code)

    def _open(self, levels: int) -> None:
        if levels > _LEVELS_MAX:
            raise _Wrong
        self._at += 1

    def _skip(self) -> None:
        while self._at < len(self._text) and self._text[self._at] in _BLANKS:
            self._at += 1

    def _peek(self) -> str:
        if self._at >= len(self._text):
            raise _Wrong
        return self._text[self._at]

    def _take(self, char: str) -> None:
        if self._peek() != char:
            raise _Wrong
        self._at += 1
