import inspect
import math
import sys
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashfold.schemas.game import GAME_ID_MAX, NESTING_MAX, TIME_MAX_MS, VALUE_BYTES_MAX, Game, decode, encode
from crashfold.schemas.record import DEFAULT_STREAM, Unreadable, is_stream_name, stream_name
from tests.support.games import GARBAGE, START_MS, Garbage, any_game, json_game, nested, sample_games


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: garbage.name)
def test_garbage_is_unreadable_and_the_verdict_says_why(garbage: Garbage) -> None:
    verdict = decode(garbage.value)
    assert isinstance(verdict, Unreadable)
    assert garbage.detail in verdict.detail
    assert len(verdict.detail) < 200


def _read(value: bytes) -> Game:
    game = decode(value)
    assert isinstance(game, Game), game
    return game


@pytest.mark.parametrize(
    ("text", "hundredths"),
    [
        (b"1", 100),
        (b"1.00", 100),
        (b"1.01", 101),
        (b"1e0", 100),
        (b"2.50", 250),
        (b"250e-2", 250),
        (b"0.1e1", 100),
        (b"1.1", 110),
        (b"4.35", 435),
        (b"1.15", 115),
        (b"2.675e2", 26_750),
        (b"999999999.99", 10**11 - 1),
        (b"1000000000", 10**11),
        (b"1e9", 10**11),
        # The nearest double is that of a hundredth: a producer's float32 noise is not, its decimal noise is.
        (b"2.50000000000000000000000001", 250),
        (b"2.4999999999999999999999999999", 250),
        (b"2.5" + b"0" * 6_000, 250),
    ],
)
def test_a_crash_point_is_held_as_an_exact_number_of_hundredths(text: bytes, hundredths: int) -> None:
    game = _read(json_game(crash_point=text))
    assert game.hundredths == hundredths
    assert game.crash_point == hundredths / 100


@given(st.integers(100, 10**11), st.integers(-3, 3))
def test_only_the_nearest_double_to_a_hundredth_is_a_crash_point(hundredths: int, ulps: int) -> None:
    nearest = float(Decimal(hundredths) / 100)
    neighbour = nearest
    for _ in range(abs(ulps)):
        neighbour = math.nextafter(neighbour, math.inf if ulps > 0 else 0)
    verdict = decode(json_game(crash_point=repr(neighbour).encode()))
    inside = 1 <= neighbour <= 1e9
    assert isinstance(verdict, Game) == (neighbour == nearest and inside)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("game_id", 1),
        ("game_id", GAME_ID_MAX),
        ("end_time", 1),
        ("end_time", TIME_MAX_MS),
        ("prepare_time", 0),
        ("prepare_time", TIME_MAX_MS),
        ("begin_time", 1),
        ("begin_time", TIME_MAX_MS),
        ("prepare_time", None),
        ("begin_time", None),
        ("hash", None),
        ("hash", "0" * 64),
        ("hash", "0123456789abcdef" * 4),
    ],
)
def test_every_field_is_read_up_to_its_bounds(name: str, number: object) -> None:
    assert getattr(_read(json_game(**{name: number})), name) == number


def test_fields_that_may_be_absent_are_null() -> None:
    game = _read(b'{"game_id":8,"crash_point":2.5,"end_time":9}')
    assert (game.hash, game.prepare_time, game.begin_time) == (None, None, None)


def test_null_and_absent_are_the_same_game() -> None:
    assert _read(json_game(hash=None, prepare_time=None)) == _read(json_game(hash=...))


def test_with_duplicate_keys_the_last_one_counts() -> None:
    assert _read(b'{"game_id":1,"crash_point":2.5,"end_time":9,"game_id":8}').game_id == 8


def test_a_name_written_in_escapes_is_the_same_name() -> None:
    assert _read(b'{"game\\u005fid":8,"crash_point":2.5,"end_time":9}').game_id == 8


@pytest.mark.parametrize(
    "value",
    [
        b"null",
        b"[1,2,[3]]",
        b'{"a":{"b":[]}}',
        b"1e999",
        b"-0",
        b"9" * 5_000,
        '"ünïcödé \U0001f680"'.encode(),
        b'"\\ud83d\\ude80"',
        b'"\\"[{"',
    ],
)
def test_unknown_fields_are_ignored_whatever_json_they_hold(value: bytes) -> None:
    assert _read(json_game(table=value)) == _read(json_game())


def test_blanks_around_the_object_do_not_matter() -> None:
    assert _read(b" \n\t\r" + json_game() + b" \n") == _read(json_game())


@pytest.mark.parametrize("shape", ["arrays", "objects", "mixed"])
@pytest.mark.parametrize("levels", [100, NESTING_MAX - 2])
def test_nesting_of_a_hundred_levels_and_more_is_fine(levels: int, shape: str) -> None:
    assert _read(json_game(table=nested(levels, shape))) == _read(json_game())  # type: ignore[arg-type]


@pytest.mark.parametrize("levels", [NESTING_MAX, 999, 1_000, 10_000])
def test_nesting_has_one_fixed_bound(levels: int) -> None:
    assert decode(json_game(table=nested(levels, "arrays"))) == Unreadable("nested deeper than 256 levels")


def test_brackets_inside_strings_do_not_count() -> None:
    brackets = b'"' + b"[{" * 5_000 + b'\\"' + b"[{" * 5_000 + b'\\\\"'
    assert _read(json_game(table=brackets)) == _read(json_game())
    assert _read(json_game()[:-1] + b"," + brackets + b":[]}") == _read(json_game())


def test_many_brackets_side_by_side_are_not_deep() -> None:
    assert _read(json_game(table=b"[" + b"[],{}," * 5_000 + b"0]")) == _read(json_game())


def test_brackets_in_a_string_do_not_hide_those_behind_it() -> None:
    deep = b'["' + b"]" * 2_000 + b'",' + nested(1_000, "arrays") + b"]"
    assert isinstance(decode(json_game(table=deep)), Unreadable)


def test_a_value_of_64_kib_is_fine_and_one_byte_more_is_not() -> None:
    assert _read(json_game().ljust(VALUE_BYTES_MAX)) == _read(json_game())
    assert isinstance(decode(json_game().ljust(VALUE_BYTES_MAX + 1)), Unreadable)
    filler = VALUE_BYTES_MAX - len(json_game(table=""))
    assert _read(json_game(table="x" * filler)) == _read(json_game())


@pytest.mark.parametrize("frames_left", [100, 60, 40])
@pytest.mark.parametrize(
    "value",
    [
        json_game(),
        json_game(table=nested(100, "objects")),
        json_game(table=nested(254, "arrays")),
        json_game(table=nested(255, "arrays") + b"]"),
        json_game(table=nested(999, "mixed")),
        None,
        b"[" * 250,
    ],
    ids=["plain", "100 objects", "254 arrays", "malformed", "999 mixed", "tombstone", "open arrays"],
)
def test_the_verdict_does_not_depend_on_how_deep_the_caller_stands(value: bytes | None, frames_left: int) -> None:
    def dive(frames: int) -> Game | Unreadable:
        return decode(value) if frames == 0 else dive(frames - 1)

    frames = sys.getrecursionlimit() - len(inspect.stack(0)) - frames_left
    assert dive(frames) == decode(value)


@given(any_game())
def test_what_is_encoded_is_decoded_again(game: Game) -> None:
    assert decode(encode(game)) == game


@given(st.binary(max_size=300))
def test_no_bytes_make_decoding_raise(value: bytes) -> None:
    assert isinstance(decode(value), Game | Unreadable)


@given(st.data())
def test_no_damage_to_a_game_makes_decoding_raise(data: st.DataObject) -> None:
    value = bytearray(json_game(prepare_time=1, table=[{"a": "é"}]))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(value) - 1))
        value[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    verdict = decode(bytes(value))
    assert isinstance(verdict, Unreadable) or decode(encode(verdict)) == verdict


def test_the_sample_games_are_read_and_written_without_loss() -> None:
    games = sample_games()
    assert len(games) == 20_000
    assert (games[0].game_id, games[-1].game_id) == (8_000_000, 8_019_999)
    assert all(decode(encode(game)) == game for game in games)


def test_a_game_is_written_with_all_six_fields() -> None:
    game = Game(game_id=8, crash_point=2, end_time=START_MS)
    assert msgspec.json.decode(encode(game)) == {
        "game_id": 8,
        "hash": None,
        "crash_point": 2.0,
        "prepare_time": None,
        "begin_time": None,
        "end_time": START_MS,
    }


@pytest.mark.parametrize("key", [b"crash", b"A", b"a.b_c-9", b"x" * 64, b"..", b"0"])
def test_a_key_of_the_alphabet_names_a_stream(key: bytes) -> None:
    assert stream_name(key) == key.decode()
    assert is_stream_name(key.decode())


def test_a_record_without_a_key_belongs_to_the_default_stream() -> None:
    assert stream_name(None) == DEFAULT_STREAM == "crash"


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"x" * 65,
        b"a b",
        b"a:b",
        b"{crash}",
        b"crash\n",
        b"a/b",
        b"a\x00",
        "é".encode(),
        "１".encode(),
        b"\xff",
        b"*",
    ],
)
def test_any_other_key_is_unreadable(key: bytes) -> None:
    verdict = stream_name(key)
    assert isinstance(verdict, Unreadable)
    assert "key" in verdict.detail
    assert not is_stream_name(key.decode("utf-8", "replace"))
