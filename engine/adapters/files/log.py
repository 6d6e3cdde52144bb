"""Games from a file: `FileLog`, an `EventLog` over lines of JSON or CSV, and the parser that `publish` shares with it.

Imports anyio, msgspec and the standard library. A line is a record and its number, from 0, is its offset; so a file is
one partition whose records never change while lines are only added to it.

- JSONL: the line is the record's value as it stands. Its member `stream`, if any, becomes the key.
- CSV (by the name `.csv`): the first line names the fields, a row becomes a JSON object of them. `stream` becomes the
  key. Numbers are written as they stand, an empty field as null. What is no row (wrong number of fields, an open
  quote, bytes that are not UTF-8) is passed on as it stands, to be found unreadable like any bad record. A row is a
  line: line breaks inside quotes are not supported.
- Blank lines and the CSV header are holes. A byte order mark is ignored.
- `.gz` is unpacked. Names count without regard to case; a name of another form is refused.

A file that is *followed* is taken to grow: a last line without a line feed is not there yet. Otherwise it counts.
Compressed files are not followed.
"""

import bisect
import csv
import gzip
import os
import re
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Any, Final, Self, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec

from crashfold.engine.adapters.process.handover import Handover
from crashfold.engine.errors import ConfigurationError, CrashfoldError, LogUnavailable, LostRange, TopicRecreated
from crashfold.engine.ports import Bounds, Polled, Record, Records
from crashfold.schemas.fields import REQUIRED, WHOLE_NUMBERS

LINE_BYTES_MAX: Final = 128 * 1024
"""Bytes kept of a longer line: more than enough to be found too long."""
_BLOCK_BYTES: Final = 1024 * 1024
_LOOK_AGAIN_S: Final = 0.05
"""How often a file is looked at while nothing comes."""

_OTHER_FORMS: Final = (".parquet", ".sql", ".tsv", ".zst")
"""Endings of files that only `publish` reads."""
_BOM: Final = b"\xef\xbb\xbf"
_KEY_FIELD: Final = "stream"
_NUMBER_FIELDS: Final = frozenset({"crash_point", *WHOLE_NUMBERS})
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)

Message = tuple[bytes | None, bytes]
"""Key and value of a record."""
Parse = Callable[[int, bytes], Message | None]
"""Parser of a line, given its number from 0; returns None for a hole. Never raises."""


class FileLine(msgspec.Struct, frozen=True, gc=False):
    """A line of a file of games; `number` counts from 1, as editors do."""

    number: int
    key: bytes | None
    value: bytes


def read_games_file(path: str | os.PathLike[str]) -> Iterator[FileLine]:
    """The records of a file of games in their order, holes left out; lines that are no games are among them.

    Raises ConfigurationError when the file cannot be read or its header lacks a field that every game has,
    CrashfoldError when it turns out to be damaged.
    """
    name = os.fspath(path)
    try:
        with _damage(name), _open(name) as file:
            parse = _parser(name, file)
            number = 0
            while line := file.readline(LINE_BYTES_MAX):
                if line[-1:] != b"\n":
                    _skip_to_line_feed(file)
                if (message := parse(number, line)) is not None:
                    yield FileLine(number + 1, *message)
                number += 1
    except OSError as error:
        raise ConfigurationError(f"{name} cannot be read: {error.strerror or error}") from error


class FileLog:
    """An `EventLog` over a file: one partition, 0, and no group, so `report` does nothing. All timestamps are 0.

    LogUnavailable when the file cannot be read (now), ConfigurationError when its header is no header,
    CrashfoldError when it is damaged, TopicRecreated when it was replaced or became shorter.
    """

    def __init__(self, path: str | os.PathLike[str], *, follow: bool = False) -> None:
        self._path = os.path.abspath(path)
        self._follow = follow and not _is_packed(self._path)
        self._lines = _LineIndex(self._path, open_line_counts=not self._follow)
        self._handover = Handover()
        self._file: IO[bytes] | None = None
        self._place = 0
        self._parse: Parse | None = None

    @property
    def topic(self) -> str:
        """The file's absolute path."""
        return self._path

    @property
    def topic_id(self) -> None:
        """None: a file that was replaced is noticed as such."""

    async def __aenter__(self) -> Self:
        with self._errors():
            self._file = _open(self._path)
            self._parse = _parser(self._path, self._file)
        await anyio.lowlevel.checkpoint()
        self._handover.gain({0})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handover.lose({0})
        if self._file is not None:
            self._file.close()

    async def poll(self, records_max: int, wait_s: float) -> Polled:
        """Partition 0 as gained, and its lines once it was sought."""
        await anyio.lowlevel.checkpoint()
        if self._handover.pending:
            gained, lost = self._handover.report()
            return Polled(gained, lost)
        records = self._read(records_max)
        with anyio.move_on_after(wait_s):
            while records is None:
                await anyio.sleep(_LOOK_AGAIN_S)
                # No await from here on: whoever is cancelled has been given nothing.
                records = self._read(records_max)
        return Polled(records=() if records is None else (records,))

    async def seek(self, partition: int, next_offset: int) -> None:
        """Read on at that line. Raises LostRange when it is beyond the one that comes next."""
        with self._errors():
            place = await anyio.to_thread.run_sync(self._lines.place, next_offset)
        if place is None:
            raise LostRange(f"{self._path} has fewer than {next_offset} lines; rebuild")
        if self._file is not None and self._handover.seek(partition, next_offset):
            self._place = place

    async def bounds(self, partition: int) -> Bounds:
        """From the first line to beyond the last one."""
        with self._errors():
            return Bounds(0, await anyio.to_thread.run_sync(self._lines.count))

    async def partitions(self) -> frozenset[int]:
        """Only 0."""
        await anyio.lowlevel.checkpoint()
        return frozenset({0})

    async def current_topic_id(self) -> None:
        """None."""
        await anyio.lowlevel.checkpoint()

    async def is_compacted(self) -> bool:
        """No."""
        await anyio.lowlevel.checkpoint()
        return False

    async def record(self, partition: int, offset: int) -> Record | None:
        """The line of that number; None when it is a hole or not there."""
        with self._errors():
            line = await anyio.to_thread.run_sync(self._lines.line, offset)
        message = None if line is None or self._parse is None else self._parse(offset, line)
        return None if message is None else Record(offset, 0, *message)

    async def report(self, next_offsets: Mapping[int, int]) -> None:
        """A file keeps no books."""
        await anyio.lowlevel.checkpoint()

    def _read(self, records_max: int) -> Records | None:
        """The next lines; None when there is none."""
        if self._file is None or self._parse is None or 0 not in self._handover.positions:
            return None
        number = start = self._handover.positions[0]
        read: list[Record] = []
        with self._errors():
            self._file.seek(self._place)  # somewhere else only after an error
            while len(read) < records_max and (line := self._file.readline(LINE_BYTES_MAX)):
                if line[-1:] != b"\n":
                    begin = self._file.tell() - len(line)
                    if not _skip_to_line_feed(self._file) and self._follow:
                        self._file.seek(begin)  # the rest of the line is still to come
                        break
                if (message := self._parse(number, line)) is not None:
                    read.append(Record(number, 0, *message))
                number += 1
            if number == start:
                self._check_the_same_file(self._file)
                return None
            self._place = self._file.tell()
        self._handover.positions[0] = number
        return Records.of(0, number, read)

    def _check_the_same_file(self, file: IO[bytes]) -> None:
        """Raise TopicRecreated unless what is read is still what stands there, and whole."""
        if not self._follow:
            return
        now, then = os.stat(self._path), os.fstat(file.fileno())
        if (now.st_dev, now.st_ino) != (then.st_dev, then.st_ino) or now.st_size < file.tell():
            raise _replaced(self._path)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with _damage(self._path):
                yield
        except OSError as error:
            raise LogUnavailable(f"{self._path} cannot be read: {error.strerror or error}") from error


class _LineIndex:
    """Where lines begin: one place noted a block, the rest found from there. Any thread may ask."""

    def __init__(self, path: str, *, open_line_counts: bool) -> None:
        self._path = path
        self._open_line_counts = open_line_counts
        self._lock = threading.Lock()
        self._numbers = [0]
        self._places = [0]
        """The line numbered `_numbers[i]` begins at byte `_places[i]`."""
        self._line_feeds = 0
        self._scanned = 0
        self._ends_open = False

    def count(self) -> int:
        """How many lines there are."""
        with self._lock, _open(self._path) as file:
            self._scan(file)
            return self._count()

    def place(self, number: int) -> int | None:
        """The byte at which that line begins or will begin; None when it is beyond that."""
        with self._lock, _open(self._path) as file:
            if number > self._line_feeds:
                self._scan(file)
            if not 0 <= number <= self._count():
                return None
            self._go_to(file, number)
            return file.tell()

    def line(self, number: int) -> bytes | None:
        """That line; None when it is not there."""
        with self._lock, _open(self._path) as file:
            if number >= self._line_feeds:
                self._scan(file)
            if not 0 <= number < self._count():
                return None
            self._go_to(file, number)
            return file.readline(LINE_BYTES_MAX)

    def _count(self) -> int:
        return self._line_feeds + (self._ends_open and self._open_line_counts)

    def _scan(self, file: IO[bytes]) -> None:
        """Look at what was added since the last time."""
        if not _is_packed(self._path) and os.fstat(file.fileno()).st_size < self._scanned:
            raise _replaced(self._path)
        file.seek(self._scanned)
        while block := file.read(_BLOCK_BYTES):
            if first := block.find(b"\n") + 1:
                self._numbers.append(self._line_feeds + 1)
                self._places.append(self._scanned + first)
            self._line_feeds += block.count(b"\n")
            self._scanned += len(block)
            self._ends_open = block[-1:] != b"\n"

    def _go_to(self, file: IO[bytes], number: int) -> None:
        nearest = bisect.bisect_right(self._numbers, number) - 1
        file.seek(self._places[nearest])
        for _ in range(number - self._numbers[nearest]):
            if file.readline(LINE_BYTES_MAX)[-1:] != b"\n":
                _skip_to_line_feed(file)


def _open(name: str) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(name) if _is_packed(name) else open(name, "rb"))


def _is_packed(name: str) -> bool:
    return name.lower().endswith(".gz")


def _skip_to_line_feed(file: IO[bytes]) -> bool:
    """Pass over the rest of a line; False when it has no end."""
    while rest := file.readline(LINE_BYTES_MAX):
        if rest[-1:] == b"\n":
            return True
    return False


def _replaced(path: str) -> TopicRecreated:
    return TopicRecreated(f"{path} was replaced or became shorter while it was read; rebuild")


@contextmanager
def _damage(name: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CrashfoldError(f"{name} is damaged: {error}; mend or unpack it by hand") from error


def _parser(name: str, file: IO[bytes]) -> Parse:
    """The parser for the file of that name, which is left at its beginning. Raises ConfigurationError."""
    plain = name.lower().removesuffix(".gz")
    if plain.endswith(_OTHER_FORMS):
        raise ConfigurationError(
            f"{name}: only JSON lines and CSV are read here, plain or .gz; `crashfold publish` reads it, onto a topic"
        )
    if not plain.endswith(".csv"):
        return _parse_json_line
    header = file.readline(LINE_BYTES_MAX)
    file.seek(0)
    return _csv_parser(name, header.removeprefix(_BOM))


class _Keyed(msgspec.Struct):
    """The part of a JSON line that may name its stream."""

    stream: Any = None


_decode_keyed = msgspec.json.Decoder(_Keyed).decode


def _parse_json_line(number: int, line: bytes) -> Message | None:
    if number == 0:
        line = line.removeprefix(_BOM)
    value = line.strip()
    if not value:
        return None
    return _key_of(value) if b'"stream"' in value else None, value


def _key_of(value: bytes) -> bytes | None:
    """The JSON object's member `stream`; what is no string is passed on as it stands, to be found no name."""
    try:
        stream = _decode_keyed(value).stream
        if stream is None:
            return None
        return stream.encode() if isinstance(stream, str) else msgspec.json.encode(stream)
    except (ValueError, RecursionError):
        return None  # no JSON, and so no game either


def _csv_parser(name: str, header: bytes) -> Parse:
    fields = _row(header)
    if fields is None or not set(REQUIRED) <= set(fields) or len(set(fields)) < len(fields):
        raise ConfigurationError(
            f"{name}: its first line must name the fields, each once, with commas between them, and among them "
            + ", ".join(REQUIRED)
            + "; `crashfold publish` reads other columns and marks, onto a topic"
        )
    key_at = fields.index(_KEY_FIELD) if _KEY_FIELD in fields else None
    columns = [
        (at, msgspec.json.encode(field).decode(), field in _NUMBER_FIELDS)
        for at, field in enumerate(fields)
        if at != key_at
    ]

    def parse(number: int, line: bytes) -> Message | None:
        if number == 0 or not line.strip():
            return None
        row = _row(line)
        if row is None or len(row) != len(fields):
            return None, line.strip()
        members = [f"{label}:{_json(row[at], is_number)}" for at, label, is_number in columns]
        key = row[key_at].encode() if key_at is not None and row[key_at] else None
        return key, ("{" + ",".join(members) + "}").encode()

    return parse


def _row(line: bytes) -> list[str] | None:
    """The fields of a line of CSV without the blanks around them; None when it is none."""
    try:
        row = next(csv.reader([line.decode()], strict=True), None)
    except (csv.Error, UnicodeDecodeError):
        return None
    return None if row is None else [field.strip() for field in row]


def _json(field: str, is_number: bool) -> str:
    if not field:
        return "null"
    if is_number and _NUMBER.fullmatch(field):
        return field
    return msgspec.json.encode(field).decode()
