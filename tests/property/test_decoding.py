"""Decoding by shape: whatever the values are, the verdicts and the fields are those of `decode`, value by value."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crashfold.projections.decoding import ALIKE_MIN, decode_cells
from crashfold.projections.games import Bands, cells_of
from crashfold.projections.packed import Packed
from crashfold.schemas.game import Game, decode
from crashfold.schemas.predicate import Predicate
from crashfold.schemas.record import Unreadable

BANDS = Bands([Predicate.parse("min:2"), Predicate.parse("max:1.5"), Predicate.parse("floor:7")])

FORMS = [
    b'{"game_id":%(id)s,"hash":%(hash)s,"crash_point":%(point)s,"prepare_time":%(begin)s,"begin_time":%(begin)s,'
    b'"end_time":%(end)s}',
    b'{ "end_time" : %(end)s , "crash_point": %(point)s,"game_id":%(id)s}\n',
    b'{"game_id":%(id)s,"server":%(text)s,"crash_point":%(point)s,"players":%(count)s,"end_time":%(end)s,"fair":true}',
    b'{"round":{"n":%(count)s},"game_id":%(id)s,"crash_point":%(point)s,"end_time":%(end)s}',
    b'{"game_id":%(id)s,"crash_point":%(point)s,"end_time":%(end)s,"hash":null,"begin_time":null}',
    b'{"game_id":%(end)s,"game_id":%(id)s,"crash_point":%(point)s,"end_time":%(end)s,"end_time":%(begin)s}',
    b'{"game_id":%(id)s,"crash_point":%(point)s}',
]
"""As producers write games; the last is none."""

ODD = {
    b"id": [b"0", b"01", b"0950001", b"9007199254740991", b"9007199254740992", b"9999999999999999", b"1e3", b"8.0"],
    b"hash": [b'"%s"' % (b"A" * 64), b'"%s"' % (b"g" * 64), b'"%s"' % (b"a" * 63), b"null", b'"%s"' % (b"@" * 64)],
    b"point": [b"1", b"0.99", b"0.5", b"00.5", b"02.5", b"1000000000", b"1000000000.01", b"2.345", b"2e10", b"NaN"],
    b"begin": [b"0", b"null", b"-1", b"-768480301337", b"0768480301337", b"17684803013.7", b'"768480301337"'],
    b"end": [b"0", b"1", b"253402300799999", b"253402300800000", b"0768480301337", b"176848030133e"],
    b"text": [
        b'"a\\"bcd"',
        b'"","x":"',
        b'"abcde\\"',
        b'"a\\qbcd"',
        b'"ab\x7fcde"',
        b'"a\xc3\xa9bcd"',
        b'"abc\ndef"',
        b"null",
    ],
    b"count": [b"0", b"00", b"-5", b"1e5", b"12", b"012", b"true"],
}
"""What may stand for a member now and then: right or wrong, and mostly as long as what it stands for."""


def usual(chance: random.Random, base: int) -> dict[bytes, bytes]:
    point = b"%d.%02d" % (chance.choice((1, 1, 2, 9, 10, 57, 312)), chance.randrange(100))
    time = 1_768_000_000_000 + base * 1000
    return {
        b"id": b"%d" % base,
        b"hash": b'"%s"' % chance.randbytes(32).hex().encode(),
        b"point": point.rstrip(b"0").rstrip(b".") if chance.random() < 0.5 else point,
        b"begin": b"%d" % time,
        b"end": b"%d" % (time + 5000),
        b"text": b'"%s"' % bytes(chance.choices(b"abc xyz:,{}[]0", k=6)),
        b"count": b"%d" % chance.choice((7, 12, 55, 403)),
    }


def value(chance: random.Random, form: bytes, number: int, odd: list[tuple[bytes, bytes]], oddity: float) -> bytes:
    members = usual(chance, number)
    if chance.random() < oddity:
        members.update([chance.choice(odd)])
    made = form % members
    if chance.random() < oddity / 4:
        at = chance.randrange(len(made))
        made = made[:at] + bytes([chance.choice(b'"\\{}[],:0 9aA-+.\xff\x00\n')]) + made[at + 1 :]
    return made


@given(
    seed=st.integers(0, 2**32),
    forms=st.lists(st.sampled_from(FORMS), min_size=1, max_size=2),
    count=st.one_of(st.integers(0, ALIKE_MIN), st.just(16 * ALIKE_MIN)),
    oddity=st.sampled_from((0.0, 0.01, 0.1)),
)
@settings(max_examples=300)
def test_decoding_by_shape_says_what_decoding_one_by_one_says(
    seed: int, forms: list[bytes], count: int, oddity: float
) -> None:
    chance = random.Random(seed)
    # Few kinds of trouble at a time, for one may hide another.
    odd = chance.sample([(name, value) for name, values in ODD.items() for value in values], chance.choice((1, 3, 20)))
    first = chance.choice((1, 9_950, 8_000_000, 2**53 - 100))
    values: list[bytes | None] = [value(chance, chance.choice(forms), first + i, odd, oddity) for i in range(count)]
    if oddity and values:
        values[chance.randrange(count)] = None
        values[chance.randrange(count)] = b"x" * chance.choice((0, 1, 257, 70_000))
    assert_decodes(values)


@pytest.mark.parametrize("form", FORMS)
def test_one_odd_value_among_many_usual_ones_is_seen(form: bytes) -> None:
    chance = random.Random(1)
    # Of one length, so that nothing but their characters tells them apart.
    usual_ones = [usual(chance, 8_000_000 + i) | {b"point": b"2.57", b"count": b"12"} for i in range(2 * ALIKE_MIN)]
    values: list[bytes | None] = [form % members for members in usual_ones]
    for name, odd in ((name, odd) for name, some in ODD.items() for odd in some):
        assert_decodes([*values, form % (usual_ones[7] | {name: odd})])


def test_values_of_any_length_are_decoded() -> None:
    assert_decodes([b" " * length + FORMS[0] % usual(random.Random(1), 1) for length in range(100) for _ in range(300)])


def assert_decodes(values: list[bytes | None]) -> None:
    verdicts = [decode(value) for value in values]
    found = decode_cells(BANDS, Packed.of(values))
    assert found.unreadable == [
        (row, verdict) for row, verdict in enumerate(verdicts) if isinstance(verdict, Unreadable)
    ]
    games = [(row, verdict) for row, verdict in enumerate(verdicts) if isinstance(verdict, Game)]
    assert found.rows.tolist() == [row for row, _ in games]
    expected = cells_of(BANDS, [game for _, game in games])
    assert np.array_equal(found.cells, expected)
