"""Files of games in the forms that people have."""

import gzip
import io
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from crashfold.engine.adapters.files.history import STANDARD_INPUT, Damaged, Header, Row, rows
from crashfold.engine.adapters.files.sorting import Placed, SortedGames
from crashfold.engine.errors import ConfigurationError, CrashfoldError
from tests.support.games import DATA

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

WANTED = [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]


def read(path: Path, form: Any = None) -> list[Row | Damaged]:
    return [row for row in rows(path, form) if not isinstance(row, Header)]


def values(path: Path, form: Any = None) -> list[dict[str, Any]]:
    found = read(path, form)
    assert all(isinstance(row, Row) for row in found), found
    return [dict(row.values) for row in found if isinstance(row, Row)]


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "a,b\n1,x\n2,y\n"),
        ("a.CSV", "a;b\r\n1;x\r\n2;y"),
        ("a.tsv", "a\tb\n1\tx\n\n2\ty\n"),
        ("a.csv", b"\xef\xbb\xbfa,b\n1,x\n2,y\n"),
        ("a.csv", "sep=;\r\na;b\r\n1;x\r\n2;y\r\n"),
        ("a.csv", '\n"a" , "b"\n 1 , "x"\n2,y\n'.replace('" , "', '","').replace(' , "', ',"')),
        ("a.csv", "a\tb\r\n1\tx\r\n2\ty\r\n".encode("utf-16")),
        ("a.jsonl", '{"a":"1","b":"x"}\n\n{"a":"2","b":"y"}'),
        ("a.NDJSON", '\ufeff{"a":"1","b":"x"}\r\n{"a":"2","b":"y"}\r\n'),
        ("a.json", '[{"a":"1","b":"x"},\n{"a":"2","b":"y"}]'),
        ("a.json", '{"a":"1","b":"x"}\n{"a":"2","b":"y"}\n'),
        ("a.json", '\ufeff [ {"a":"1","b":"x"} , {"a":"2","b":"y"} ] '),
        ("unnamed", "a,b\n1,x\n2,y\n"),
        ("unnamed", '{"a":"1","b":"x"}\n{"a":"2","b":"y"}\n'),
    ],
)
@pytest.mark.parametrize("packed", ["", ".gz", ".ZST"])
def test_forms_are_told_by_name_or_by_how_they_begin(tmp_path: Path, name: str, content: Any, packed: str) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    data = {"": data, ".gz": gzip.compress(data), ".ZST": zstd.compress(data)}[packed]
    assert values(written(tmp_path / (name + packed), data)) == WANTED


def test_parquet(tmp_path: Path) -> None:
    table = pyarrow.table({"a": ["1", "2"], "b": ["x", "y"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.PARQUET", compression="zstd")
    assert values(tmp_path / "a.PARQUET") == WANTED
    assert next(rows(tmp_path / "a.PARQUET")) == Header(["a", "b"])
    with pytest.raises(CrashfoldError, match="damaged"):
        read(written(tmp_path / "b.parquet", b"PAR1 and nothing more"))


def test_standard_input_and_pipes_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (b"a,b\n1,x\n2,y\n", gzip.compress(b'[{"a":"1","b":"x"},{"a":"2","b":"y"}]')):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert values(STANDARD_INPUT) == WANTED
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"a,b\n1,x\n2,y\n",))
    writer.start()
    assert values(pipe) == WANTED
    writer.join()


def test_a_row_that_is_none_is_named_by_its_line_and_spoils_no_other(tmp_path: Path) -> None:
    lines = ["a,b", '1,"two', 'lines"', "2", '3,a"b', "4,\xff", '5,"open', "6,x", "7,y", "8," + "x" * 200_000, "9,z"]
    path = written(tmp_path / "a.csv", "\n".join(lines).encode("latin-1"))
    found = read(path)
    assert [(row.number, row.values["a"]) for row in found if isinstance(row, Row)] == [
        *((2, "1"), (5, "3"), (8, "6"), (9, "7"), (10, "8"), (11, "9"))
    ]
    assert [row.number for row in found if isinstance(row, Damaged)] == [4, 6, 7]


def test_json_that_is_no_object_is_named_by_its_line(tmp_path: Path) -> None:
    lines = [
        '{"a":1}',
        "[1]",
        "nonsense",
        "",
        '{"a":"\xff"}',
        '{"a":' + "[" * 2000,
        '{"a":2}',
        '{"a":"' + "x" * 200_000,
    ]
    found = read(written(tmp_path / "a.jsonl", "\n".join([*lines, '{"a":3}']).encode("latin-1")))
    assert [(row.number, row.values["a"]) for row in found if isinstance(row, Row)] == [(1, 1), (7, 2), (9, 3)]
    assert [row.number for row in found if isinstance(row, Damaged)] == [2, 3, 5, 6, 8]
    array = '[{"a":1},\n\n 5,\n{"a":1}]'
    assert [row.number for row in read(written(tmp_path / "a.json", array))] == [1, 3, 4]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv.gz", b"a,b\n1,x\n"),
        ("a.csv.gz", gzip.compress(b"a,b\n" + os.urandom(10_000))[:-3000]),
        ("a.csv.zst", zstd.compress(b"a,b\n" + os.urandom(10_000))[:-3000]),
        ("a.json", b'[{"a":1},'),
    ],
)
def test_a_damaged_file_is_an_error(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(CrashfoldError, match="damaged"):
        read(written(tmp_path / name, content))


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.csv", tmp_path):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            read(path)
    assert read(written(tmp_path / "empty.csv", b"")) == []
    assert read(written(tmp_path / "empty.csv.gz", b"")) == []


def test_more_games_than_are_held_are_sorted_in_runs() -> None:
    with SortedGames(run_games=7) as games:
        for number in range(100):
            games.add(Placed(f"s{number % 3}", number * 37 % 100, 0, number, b"%d" % number))
        found = list(games)
    assert found == sorted(found)
    assert len(found) == 100
    assert json.loads(found[0].value) == found[0].number


DUMPS = DATA / "seed_dump"


def _games(path: Path) -> list[dict[str, object]]:
    """The rows of the table of games, without the times at which they were stored."""
    found, is_games = [], False
    for row in rows(path):
        if isinstance(row, Header):
            is_games = row.table == "public.crash_games"
        elif is_games:
            assert isinstance(row, Row), row
            found.append({name: value for name, value in row.values.items() if not name.endswith("ed_at")})
    return found


def test_a_dump_is_read_in_each_of_its_plain_forms() -> None:
    copied, inserted, many = (_games(DUMPS / f"{form}.sql") for form in ("copy", "inserts", "rows"))
    assert copied == inserted == many
    assert len(copied) == 40
    first = copied[-1]
    assert (first["game_id"], first["crash_point"], first["crashed_floor"]) == ("1", "2.01", "2")
    assert first["prepare_time"] == "2026-01-01 00:00:00+00"
    assert copied[-3]["prepare_time"] is None


@pytest.mark.parametrize("form", ["copy", "inserts", "rows"])
def test_texts_in_a_dump_are_what_they_stand_for_and_its_functions_are_passed_over(form: str) -> None:
    tables: dict[str | None, list[Any]] = {}
    name: str | None = None
    for row in rows(DUMPS / f"{form}.sql"):
        if isinstance(row, Header):
            tables.setdefault(name := row.table, [])
        else:
            tables[name].append(row)
    assert [row.values["Player"] for row in tables["public.players"]] == ['O\'Neil\t\\ "x"', None, "café 🚀"]
    notes = [row.values["note"] for row in tables["public.players"]]
    assert notes == ["two\nlines; COPY public.crash_games FROM nowhere", "", "back\\slash\r"]
    assert tables.get("nowhere", []) == []


def test_rows_of_a_dump_are_numbered_by_their_first_lines_and_damaged_ones_spoil_no_others(tmp_path: Path) -> None:
    copy = "COPY g (a, b) FROM stdin;\n1\tx\n2\n3\tz\n\\.\n\nSELECT 1;\n"
    insert = "INSERT INTO g (a, b) VALUES\n\t(1, 'x\ny'),\n\t(2),\n\t(3, E'z\\'\\x41'::text);\n"
    broken = "INSERT INTO g (a, b) VALUES (1, f());\nCOPY g (a, b) FROM stdin;\n1\tx\n\\.\n"
    assert read(written(tmp_path / "a.sql", copy)) == [
        Row(2, {"a": "1", "b": "x"}),
        Damaged(3, "1 fields, where COPY names 2"),
        Row(4, {"a": "3", "b": "z"}),
    ]
    assert read(written(tmp_path / "a.sql", insert)) == [
        Row(2, {"a": "1", "b": "x\ny"}),
        Damaged(4, "1 values for 2 columns"),
        Row(5, {"a": "3", "b": "z'A"}),
    ]
    assert read(written(tmp_path / "a.sql", broken)) == [Damaged(1, "no row of INSERT"), Row(3, {"a": "1", "b": "x"})]


def test_a_packed_dump_says_what_unpacks_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="pg_restore --data-only --file=-"):
        read(written(tmp_path / "a.dump", b"PGDMP\x01\x0e"))
