"""History from elsewhere: the rows of files in the forms that people have. Blocks.

CSV (comma, semicolon, tab or bar), JSON lines, a JSON array, Parquet (with the extra `parquet`), a PostgreSQL dump;
plain, gzip or zstd; from files, pipes and standard input. A row is a number, from 1 as editors count lines, and its
values by name; what is none is `Damaged`, and reading goes on. Whatever is read is read once, in order, in bounded
memory; but an array whole.
"""

import csv
import io
import sys
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from gzip import BadGzipFile, GzipFile
from pathlib import Path
from typing import IO, Any, Final, Literal, NamedTuple, cast

import msgspec

from crashfold.engine.adapters.files.sql_dump import NoRow, Table, TableRow, tables
from crashfold.engine.errors import ConfigurationError, CrashfoldError

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdError, ZstdFile
else:
    from backports.zstd import ZstdError, ZstdFile

Format = Literal["csv", "jsonl", "json", "parquet", "sql"]

STANDARD_INPUT: Final = Path("/dev/stdin")
LINE_CHARS_MAX: Final = 128 * 1024
"""Bytes kept of a longer line: more than enough to be found too long."""

_FORMATS: Final[Mapping[str, Format]] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".sql": "sql",
}
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_PARQUET: Final = b"PAR1"
_PACKED_DUMP: Final = b"PGDMP"
_SQL: Final = (b"--", b"SET ", b"COPY ", b"INSERT ", b"CREATE ", b"BEGIN;", b"\\restrict ")
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")
_QUOTED_LINES_MAX: Final = 50
"""A quote that is not closed within so many lines is a stray one."""
_PEEKED: Final = 64 * 1024


class Row(NamedTuple):
    """A row of a file."""

    number: int
    values: Mapping[str, object]


class Header(NamedTuple):
    """The names of a table's columns, before its rows. `table` is its name where a file may hold several."""

    names: Sequence[str]
    table: str | None = None


class Damaged(NamedTuple):
    """A value that stands where a row should be."""

    number: int
    detail: str


def rows(path: Path, form: Format | None = None) -> Iterator[Header | Row | Damaged]:
    """The rows of a file, or of standard input, in its order.

    Raises ConfigurationError when it cannot be read or told what it is, CrashfoldError when it turns out to be damaged.
    """
    name = "standard input" if path == STANDARD_INPUT else str(path)
    try:
        with _damage(name), _opened(path) as file:
            form = form or _format_of(path)
            head = _unpacked_head(file)
            if form is None:
                form = _sniffed(head)
            match form:
                case "parquet":
                    yield from _parquet(path, file)
                case "sql":
                    with _text(file, head) as text:
                        yield from _dump(name, head, text)
                case "csv":
                    with _text(file, head) as text:
                        yield from _csv(name, text)
                case "json" if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
                    yield from _array(name, file.read())
                case _:
                    yield from _lines(file)
    except OSError as error:
        raise ConfigurationError(f"{name} cannot be read: {error.strerror or error}") from error


@contextmanager
def _opened(path: Path) -> Iterator["io.BufferedReader[Any]"]:
    """The file's bytes, unpacked; how they are packed is told by how they begin."""
    raw: io.BufferedReader[Any] = (
        io.BufferedReader(cast(io.RawIOBase, sys.stdin.buffer)) if path == STANDARD_INPUT else path.open("rb")
    )
    with raw:
        head = raw.peek(4)
        suffix = path.suffix.lower()
        if head.startswith(_GZIP):
            yield io.BufferedReader(cast(io.RawIOBase, GzipFile(fileobj=raw)))
        elif head.startswith(_ZSTD):
            yield io.BufferedReader(cast(io.RawIOBase, ZstdFile(raw)))
        elif suffix in (".gz", ".zst") and head:
            raise CrashfoldError(f"{path} is damaged: it is not packed as its name says; mend or unpack it by hand")
        else:
            yield raw


@contextmanager
def _damage(name: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, BadGzipFile, ZstdError) as error:
        raise CrashfoldError(f"{name} is damaged: {error}; mend or unpack it by hand") from error


def _format_of(path: Path) -> Format | None:
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    return _FORMATS.get(Path(name).suffix)


def _unpacked_head(file: "io.BufferedReader[Any]") -> bytes:
    return file.peek(_PEEKED)


def _sniffed(head: bytes) -> Format:
    if head.startswith(_PARQUET):
        return "parquet"
    if head.startswith(_PACKED_DUMP) or head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(_SQL):
        return "sql"
    begin = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    return "json" if begin in (b"{", b"[") else "csv"


def _text(file: "io.BufferedReader[Any]", head: bytes) -> io.TextIOWrapper:
    """As text; bytes that are no UTF-8 become surrogates, which no game's field may have."""
    encoding = "utf-16" if head.startswith(_UTF_16) else "utf-8-sig"
    return io.TextIOWrapper(file, encoding, "surrogateescape" if encoding != "utf-16" else "replace", newline="\n")


# --- JSON -------------------------------------------------------------------------------------------------------------

_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


def _lines(file: "io.BufferedReader[Any]") -> Iterator[Header | Row | Damaged]:
    number = 0
    while line := file.readline(LINE_CHARS_MAX):
        number += 1
        if line[-1:] != b"\n":
            while (rest := file.readline(LINE_CHARS_MAX)) and rest[-1:] != b"\n":
                pass
            if rest:
                yield Damaged(number, f"the line is longer than {LINE_CHARS_MAX} bytes")
                continue
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line := line.strip():
            yield _object(number, line)


def _object(number: int, data: bytes | msgspec.Raw) -> Row | Damaged:
    try:
        return Row(number, _decode_object(data))
    except (ValueError, RecursionError) as error:
        return Damaged(number, f"no JSON object: {error}")


def _array(name: str, data: bytes) -> Iterator[Header | Row | Damaged]:
    """The elements of an array, each with the number of the line on which it begins."""
    try:
        elements = msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"), type=list[msgspec.Raw])
    except (ValueError, RecursionError) as error:
        raise CrashfoldError(f"{name} is damaged: no JSON array: {error}") from error
    number, place = 1, 0
    for element in elements:
        begin = data.find(bytes(element), place)
        number += data.count(b"\n", place, begin)
        place = begin
        yield _object(number, element)


# --- CSV --------------------------------------------------------------------------------------------------------------


def _csv(name: str, text: io.TextIOWrapper) -> Iterator[Header | Row | Damaged]:
    records = _Records(text)
    first = next(records, None)
    while first is not None and not first[1].strip():
        first = next(records, None)
    if first is None:
        return
    told = first[1].strip().strip('"')
    if told.lower().startswith("sep=") and len(told) == len("sep=") + 1:
        records.delimiter = told[-1]
        first = next(records, (2, ""))
    else:
        records.delimiter = max(",;\t|", key=first[1].count)
    header = records.fields(first[1])
    if header is None:
        raise ConfigurationError(f"{name}: its first line must name the columns")
    yield Header(header)
    for number, record in records:
        if not record.strip():
            continue
        fields = records.fields(record)
        if fields is None:
            yield Damaged(number, "no row of CSV: a quote that is not closed, or in the middle of a field")
        elif any("\udc80" <= char <= "\udcff" for field in fields for char in field):
            yield Damaged(number, "bytes that are no UTF-8")
        elif len(fields) != len(header):
            yield Damaged(number, f"{len(fields)} fields, where the first line names {len(header)}")
        else:
            yield Row(number, dict(zip(header, fields, strict=True)))


class _Records:
    """Lines of CSV, joined where a quote goes over several; a stray quote spoils its own line only."""

    delimiter = ","

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._ahead: deque[str] = deque()
        self._number = 0

    def __iter__(self) -> "_Records":
        return self

    def __next__(self) -> tuple[int, str]:
        line = self._line()
        if not line:
            raise StopIteration
        self._number += 1
        return self._number, line

    def fields(self, record: str) -> list[str] | None:
        """The fields of a line without the blanks around them, further lines joined to it; None when it is no row."""
        lines = [record]
        while True:
            try:
                found = next(csv.reader(["".join(lines)], delimiter=self.delimiter, strict=True), [])
            except csv.Error as error:
                if "unexpected end" in str(error) and len(lines) < _QUOTED_LINES_MAX and (more := self._line()):
                    lines.append(more)
                    continue
                self._ahead.extendleft(reversed(lines[1:]))
                return None
            self._number += len(lines) - 1
            return [field.strip() for field in found]

    def _line(self) -> str:
        if self._ahead:
            return self._ahead.popleft()
        line = self._text.readline(LINE_CHARS_MAX)
        if line and line[-1] != "\n":
            while (rest := self._text.readline(LINE_CHARS_MAX)) and rest[-1] != "\n":
                pass
        return line


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def _dump(name: str, head: bytes, text: io.TextIOWrapper) -> Iterator[Header | Row | Damaged]:
    if head.startswith(_PACKED_DUMP):
        raise ConfigurationError(f"{name} is a packed dump: pg_restore --data-only --file=- {name} makes SQL of it")
    columns: Sequence[str] = ()
    for found in tables(text):
        match found:
            case Table(table, columns):
                yield Header(columns, table)
            case TableRow(number, values):
                if any("\udc80" <= char <= "\udcff" for value in values if value for char in value):
                    yield Damaged(number, "bytes that are no UTF-8")
                else:
                    yield Row(number, dict(zip(columns, values, strict=True)))
            case NoRow(number, detail):
                yield Damaged(number, detail)


# --- Parquet ----------------------------------------------------------------------------------------------------------


def _parquet(path: Path, file: IO[bytes]) -> Iterator[Header | Row | Damaged]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ConfigurationError("Parquet needs the extra `parquet`: pip install 'crashfold[parquet]'") from None
    source = io.BytesIO(file.read()) if path == STANDARD_INPUT or not path.is_file() else str(path)
    try:
        number, table = 0, pyarrow.parquet.ParquetFile(source)
        yield Header(table.schema_arrow.names)
        for batch in table.iter_batches():
            for values in batch.to_pylist():
                number += 1
                yield Row(number, values)
    except pyarrow.ArrowException as error:
        raise CrashfoldError(f"{path} is damaged: {error}") from error
