"""Decoding by shape (`projections.decoding`) against decoding one by one (`schemas.game`), for many values alike.

The input is one or two values, a zero byte behind each, and then changes of single bytes: row, place, character. Each
value stands there so often that the shape path takes it.
"""

from random import Random
from typing import Final
from zlib import crc32

import numpy as np

from crashfold.projections.decoding import ALIKE_MIN, decode_cells
from crashfold.projections.games import Bands, cells_of
from crashfold.projections.packed import Packed
from crashfold.schemas.game import Game, decode
from crashfold.schemas.predicate import Predicate
from crashfold.schemas.record import Unreadable
from tests.fuzz import decoding

TOKENS: Final = decoding.TOKENS
NEAR: Final = 8
ROWS: Final = ALIKE_MIN + 16
BANDS: Final = Bands([Predicate.parse("min:2"), Predicate.parse("max:1.5"), Predicate.parse("floor:7")])


def check(data: bytes) -> None:
    """Decode the values by shape, and each by itself."""
    values = values_in(data)
    known = {value: decode(value) for value in set(values)}
    verdicts = [known[value] for value in values]
    found = decode_cells(BANDS, Packed.of(list(values)))
    games = [(row, verdict) for row, verdict in enumerate(verdicts) if isinstance(verdict, Game)]
    assert found.unreadable == [
        (row, verdict) for row, verdict in enumerate(verdicts) if isinstance(verdict, Unreadable)
    ]
    assert found.rows.tolist() == [row for row, _ in games]
    assert np.array_equal(found.cells, cells_of(BANDS, [game for _, game in games]))


def values_in(data: bytes) -> list[bytes]:
    """The values that an input means."""
    first, _, rest = data.partition(b"\0")
    second, _, changes = rest.partition(b"\0")
    values = [bytearray(template) for template in (first, second) if template for _ in range(ROWS)]
    for start in range(0, len(changes) - 2, 3):
        row, place, byte = changes[start : start + 3]
        if values and (value := values[(row * 3) % len(values)]):
            value[place % len(value)] = decoding.CHARACTERS[byte % len(decoding.CHARACTERS)]
    if values:
        # And some that nobody asked for, so that every input has a few that are nearly like the others.
        chance = Random(crc32(data))
        for _ in range(NEAR):
            value = chance.choice(values)
            value[chance.randrange(len(value))] = chance.choice(decoding.CHARACTERS)
    return [bytes(value) for value in values]
