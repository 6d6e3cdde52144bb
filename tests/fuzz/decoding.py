"""`schemas.game.decode` against the oracle: the same verdict on any bytes, and the same six fields of a game.

Of a game some neighbours are looked at too, which differ in one byte: the fuzzer's own changes mostly spoil a value in
several places, and one fault hides another.
"""

from collections.abc import Iterator
from random import Random
from typing import Final
from zlib import crc32

import msgspec

from crashfold.schemas.game import Game, decode, decode_all, encode
from crashfold.schemas.record import Unreadable, stream_name
from tests.fuzz.oracle import Unclear, game_in, stream_of

TOKENS: Final = (
    *(b'"game_id":', b'"hash":', b'"crash_point":', b'"prepare_time":', b'"begin_time":', b'"end_time":'),
    *(b"null", b"true", b"NaN", b"Infinity", b"-0", b"1e3", b"8.0", b"2.41", b"0.99", b"1000000000", b"1000000000.01"),
    *(b"9007199254740991", b"9007199254740992", b"253402300799999", b"253402300800000", b"-62135596800000"),
    *(b"\\u0061", b"\\ud83d\\ude00", b"\xef\xbb\xbf", b"\xc3\xa9", b"[[", b"]]", b'{"', b'"}', b"0123456789abcdef" * 4),
)


NEIGHBOURS: Final = 16
CHARACTERS: Final = b'0123456789abcdefABCDEFG+-.eE_ \t\n"\\/{}[],:\x00\x7f\x80\xc3\xed\xff'


def check(data: bytes) -> None:
    """Decode the data as a record's value, and take it for a key."""
    name = stream_name(data)
    assert (None if isinstance(name, Unreadable) else name) == stream_of(data)
    if is_game(data):
        for neighbour in neighbours(data):
            is_game(neighbour)


def is_game(value: bytes) -> bool:
    """What decoding says, which must be what the rules say."""
    verdict = decode(value)
    assert decode_all([value]) == [verdict]
    try:
        fields = game_in(value)
    except Unclear:
        return False
    if fields is None:
        assert isinstance(verdict, Unreadable), f"{verdict} is no game by the rules: {value!r}"
        assert verdict.detail
        return False
    assert isinstance(verdict, Game), f"{fields} is a game by the rules: {verdict}: {value!r}"
    assert msgspec.structs.asdict(verdict) == fields
    assert verdict.hundredths == round(fields["crash_point"] * 100)
    assert decode(encode(verdict)) == verdict
    return True


def neighbours(value: bytes) -> Iterator[bytes]:
    """Values that differ from this one in one byte; which ones, the value decides."""
    chance = Random(crc32(value))
    for _ in range(NEIGHBOURS):
        place = chance.randrange(len(value))
        yield value[:place] + bytes([chance.choice(CHARACTERS)]) + value[place + 1 :]
