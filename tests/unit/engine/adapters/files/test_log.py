"""The parser of files of games, and what `FileLog` does beyond the contract."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from crashfold.engine.adapters.files.log import LINE_BYTES_MAX, FileLine, FileLog, read_games_file
from crashfold.engine.errors import ConfigurationError, CrashfoldError, LogUnavailable, LostRange, TopicRecreated
from crashfold.engine.ports import Record
from crashfold.schemas.game import Game, decode, encode
from crashfold.schemas.record import Unreadable
from tests.contract.event_log import Reader, numbered

HASH = "0" * 63 + "1"


def lines_of(path: Path, data: bytes) -> list[FileLine]:
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return list(read_games_file(path))


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    return tmp_path / "games.jsonl"


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return tmp_path / "games.csv"


def test_the_case_of_a_name_does_not_matter(tmp_path: Path) -> None:
    (line,) = lines_of(tmp_path / "GAMES.CSV", b"game_id,crash_point,end_time\n1,2,3\n")
    assert json.loads(line.value) == {"game_id": 1, "crash_point": 2, "end_time": 3}
    (tmp_path / "GAMES.CSV").rename(tmp_path / "PLAIN.CSV")
    packed = tmp_path / "GAMES.CSV.GZ"
    packed.write_bytes(gzip.compress((tmp_path / "PLAIN.CSV").read_bytes()))
    assert list(read_games_file(packed)) == [line]


@pytest.mark.parametrize("name", ["games.parquet", "games.jsonl.zst", "games.SQL.gz", "games.tsv"])
def test_a_form_that_only_publish_reads_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="crashfold publish"):
        lines_of(tmp_path / name, b"PAR1")


def test_a_line_of_json_is_the_value_as_it_stands(jsonl: Path) -> None:
    game = encode(Game(game_id=1, crash_point=2.5, end_time=3))
    assert lines_of(jsonl, game + b"\n\xff\xfe bad\n") == [
        FileLine(1, None, game),
        FileLine(2, None, b"\xff\xfe bad"),
    ]


def test_blank_lines_are_left_out_but_counted(jsonl: Path) -> None:
    assert lines_of(jsonl, b"\n  \n1\n\r\n2\r\n\n") == [FileLine(3, None, b"1"), FileLine(5, None, b"2")]


def test_a_last_line_needs_no_line_feed(jsonl: Path) -> None:
    assert lines_of(jsonl, b"1\n2") == [FileLine(1, None, b"1"), FileLine(2, None, b"2")]


def test_a_byte_order_mark_is_no_part_of_the_first_line(jsonl: Path, csv: Path) -> None:
    assert lines_of(jsonl, b"\xef\xbb\xbf1\n") == [FileLine(1, None, b"1")]
    (line,) = lines_of(csv, b"\xef\xbb\xbfgame_id,crash_point,end_time\n1,2,3\n")
    assert decode(line.value) == Game(game_id=1, crash_point=2.0, end_time=3)


def test_an_empty_file_has_no_lines(jsonl: Path) -> None:
    assert lines_of(jsonl, b"") == []


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (b'{"stream":"slow","game_id":1}', b"slow"),
        (b'{"game_id":1,"stream": "\\u0073low"}', b"slow"),
        (b'{"stream":null}', None),
        (b'{"stream":7}', b"7"),
        (b'{"stream":["a"]}', b'["a"]'),
        (b'{"hash":"\\"stream\\""}', None),
        (b'{"stream":"a"', None),
        (b'["stream"]', None),
        (b'{"stream":"\xff"}', None),
        (b'{"stream":"a","x":' + b"[" * 2000 + b"]" * 2000 + b"}", None),
    ],
)
def test_the_member_stream_is_the_key(jsonl: Path, line: bytes, key: bytes | None) -> None:
    assert lines_of(jsonl, line + b"\n") == [FileLine(1, key, line)]


def test_a_packed_file_reads_like_any_other(tmp_path: Path) -> None:
    assert lines_of(tmp_path / "games.jsonl.gz", b"1\n2\n") == [FileLine(1, None, b"1"), FileLine(2, None, b"2")]
    (line,) = lines_of(tmp_path / "games.csv.gz", b"game_id,crash_point,end_time\n1,2,3\n")
    assert isinstance(decode(line.value), Game)


def test_a_row_of_csv_becomes_the_game_it_names(csv: Path) -> None:
    header = b"end_time, crash_point,game_id,hash,stream,begin_time,prepare_time,note\n"
    row = f'30,1.50,7,{HASH},slow,,10,"a ""b"", c"\n'.encode()
    (line,) = lines_of(csv, header + row)
    assert line.key == b"slow"
    assert line.number == 2
    assert decode(line.value) == Game(game_id=7, crash_point=1.5, end_time=30, hash=HASH, prepare_time=10)
    assert json.loads(line.value)["note"] == 'a "b", c'


def test_numbers_are_written_as_they_stand(csv: Path) -> None:
    (line,) = lines_of(csv, b"game_id,crash_point,end_time\n9007199254740991,1000000000.00,1e3\n")
    assert line.value == b'{"game_id":9007199254740991,"crash_point":1000000000.00,"end_time":1e3}'


def test_a_hash_of_digits_alone_is_no_number(csv: Path) -> None:
    digits = "1" * 64
    (line,) = lines_of(csv, f"game_id,crash_point,end_time,hash\n1,2,3,{digits}\n".encode())
    game = decode(line.value)
    assert isinstance(game, Game)
    assert game.hash == digits


@pytest.mark.parametrize(
    "row",
    [
        b"1,2",
        b"1,2,3,4",
        b'1,2,"3',
        b'1,2,"3"x',
        b"1,2,\xff",
        b",2,3",
        b"1,,3",
        b"1,nan,3",
        b"+1,2,3",
        b"01,2,3",
        b"1_0,2,3",
        "١,2,3".encode(),
        b"1,2,3.5",
        b"1,0.5,3",
        b"one,two,three",
    ],
)
def test_a_bad_row_is_an_unreadable_record_and_the_rest_is_read(csv: Path, row: bytes) -> None:
    bad, good = lines_of(csv, b"game_id,crash_point,end_time\n" + row + b"\n4,5,6\n")
    assert isinstance(decode(bad.value), Unreadable)
    assert (bad.number, bad.key) == (2, None)
    assert decode(good.value) == Game(game_id=4, crash_point=5.0, end_time=6)


@pytest.mark.parametrize(
    "header", [b"", b"game_id,crash_point\n", b"1,2,3\n", b"game_id,game_id,crash_point,end_time\n", b"\xff\n", b'"\n']
)
def test_a_header_that_names_no_games_is_refused(csv: Path, header: bytes) -> None:
    with pytest.raises(ConfigurationError, match="game_id, crash_point, end_time"):
        lines_of(csv, header)


def test_an_endless_line_does_not_fill_the_memory(jsonl: Path) -> None:
    endless, after = lines_of(jsonl, b"x" * (3 * LINE_BYTES_MAX) + b"\n1\n")
    assert endless.value == b"x" * LINE_BYTES_MAX
    assert isinstance(decode(endless.value), Unreadable)
    assert after == FileLine(2, None, b"1")


@pytest.mark.parametrize("length", [LINE_BYTES_MAX - 1, LINE_BYTES_MAX, LINE_BYTES_MAX + 1])
def test_a_line_as_long_as_the_limit_is_one_line(jsonl: Path, length: int) -> None:
    assert [line.number for line in lines_of(jsonl, b"x" * (length - 1) + b"\n1\n")] == [1, 2]
    assert [line.number for line in lines_of(jsonl, b"x" * length)] == [1]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.jsonl cannot be read"):
        list(read_games_file(tmp_path / "none.jsonl"))


def test_a_damaged_file_gives_what_is_whole_and_then_says_so(tmp_path: Path) -> None:
    path = tmp_path / "games.jsonl.gz"
    packed = gzip.compress(b"".join(b"%d\n" % number for number in range(100_000)), mtime=0)
    path.write_bytes(packed[: len(packed) // 2])
    lines: list[FileLine] = []
    with pytest.raises(CrashfoldError, match="is damaged"):
        lines.extend(read_games_file(path))
    assert lines
    assert all(line.value == b"%d" % (line.number - 1) for line in lines)


async def test_a_log_of_csv_has_the_header_as_a_hole(csv: Path) -> None:
    csv.write_bytes(b"game_id,crash_point,end_time,stream\n1,2,3,slow\n")
    async with FileLog(csv) as log:
        value = b'{"game_id":1,"crash_point":2,"end_time":3}'
        await Reader(log).until_read(value)
        assert await log.record(0, 0) is None
        assert await log.record(0, 1) == Record(1, 0, b"slow", value)
        assert log.topic == str(csv)


async def test_a_last_line_without_line_feed_counts_unless_the_file_is_followed(jsonl: Path) -> None:
    jsonl.write_bytes(b"0\n1")
    async with FileLog(jsonl) as log:
        assert (await log.bounds(0)).end == 2
        await Reader(log).until_read(b"0", b"1")
    async with FileLog(jsonl, follow=True) as log:
        reader = Reader(log)
        await reader.until_read(b"0")
        assert (await reader.poll()).records == ()
        assert (await log.bounds(0)).end == 1
        assert await log.record(0, 1) is None
        with jsonl.open("ab") as file:
            file.write(b"2\n3\n")
        await reader.until_read(b"0", b"12", b"3")
        assert (await log.bounds(0)).end == 3


@pytest.mark.parametrize("name", ["games.jsonl", "games.jsonl.gz"])
async def test_every_line_of_a_large_file_can_be_found(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    values = [b"%d" % number * (1 + number % 50) for number in range(20_000)]
    data = b"".join(value + b"\n" for value in values)
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)
    async with FileLog(path) as log:
        reader = Reader(log)
        await reader.until_holding(0)
        for offset in (19_999, 0, 1, 7_777, 15_000, 12_345):
            record = await log.record(0, offset)
            assert record is not None
            assert record.value == values[offset]
            await reader.seek(0, offset)
            reader.values.clear()
            await reader.until_read(*values[offset : offset + 5], records_max=5)
        assert (await log.bounds(0)).end == 20_000


async def test_a_place_beyond_the_end_is_refused(jsonl: Path) -> None:
    jsonl.write_bytes(b"0\n1\n")
    async with FileLog(jsonl, follow=True) as log:
        with pytest.raises(LostRange, match="fewer than 3 lines"):
            await log.seek(0, 3)
        await log.seek(0, 2)


def _shrink(path: Path) -> None:
    path.write_bytes(b"9\n")


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"".join(value + b"\n" for value in numbered(50, start=50)))
    other.rename(path)


@pytest.mark.parametrize("change", [_shrink, _replace])
async def test_a_followed_file_that_was_rotated_is_noticed(jsonl: Path, change: Callable[[Path], None]) -> None:
    jsonl.write_bytes(b"0\n1\n2\n")
    async with FileLog(jsonl, follow=True) as log:
        reader = Reader(log)
        await reader.until_read(b"0", b"1", b"2")
        change(jsonl)
        with pytest.raises(TopicRecreated, match="replaced or became shorter"):
            await reader.until_fault()
        assert reader.values == {0: numbered(3)}


async def test_a_log_of_no_file_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailable, match="cannot be read"):
        async with FileLog(tmp_path / "none.jsonl"):
            pass


async def test_a_log_of_a_damaged_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "games.jsonl.gz"
    packed = gzip.compress(b"".join(b"%d\n" % number for number in range(100_000)), mtime=0)
    path.write_bytes(packed[: len(packed) // 2])
    async with FileLog(path) as log:
        reader = Reader(log)
        await reader.until_holding(0)
        with pytest.raises(CrashfoldError, match="is damaged"):
            await reader.until_fault()
        read = reader.values[0]
        assert read == numbered(len(read))
        with pytest.raises(CrashfoldError, match="is damaged"):
            await log.bounds(0)
