"""The rows of a PostgreSQL dump in its plain form: `COPY … FROM stdin` and `INSERT INTO … VALUES`. Blocks.

Everything else in a dump is passed over. The one thing that is always true: a row belongs to the table that the last
`Table` before it names, and its number is that of its first line.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

TUPLE_CHARS_MAX: Final = 128 * 1024
"""A row of INSERT that is longer is damaged."""

_NAME: Final = r'(?:"(?:[^"]|"")++"|[A-Za-z_][\w$]*+)'
_TABLE: Final = rf"(?P<table>{_NAME}(?:\.{_NAME})?)"
_COLUMNS: Final = rf"\s*+\((?P<columns>{_NAME}(?:\s*+,\s*+{_NAME})*+)\s*+\)"
_COPY: Final = re.compile(rf"COPY {_TABLE}{_COLUMNS} FROM stdin", re.IGNORECASE)
_CREATE: Final = re.compile(rf"CREATE (?:UNLOGGED )?TABLE (?:IF NOT EXISTS )?{_TABLE} \(", re.IGNORECASE)
_INSERT: Final = re.compile(
    rf"INSERT INTO {_TABLE}(?:{_COLUMNS})?(?: OVERRIDING SYSTEM VALUE)?\s+VALUES\s*", re.IGNORECASE
)
_COLUMN: Final = re.compile(rf"\s+(?P<name>{_NAME}) ")
_NO_COLUMN: Final = re.compile(r"\s+(CONSTRAINT|PRIMARY|UNIQUE|CHECK|FOREIGN|EXCLUDE|LIKE) ", re.IGNORECASE)
_VALUE: Final = (
    r"(?:[Ee]'(?:[^'\\]|''|\\.)*+'|'(?:[^']|'')*+'|[Nn][Uu][Ll][Ll]|[Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee]|"
    r"[+-]?[0-9.][0-9.eE+-]*+)(?:::[\w \"]++)?+"
)
_TUPLE: Final = re.compile(rf"\s*+\((?P<values>\s*+{_VALUE}(?:\s*+,\s*+{_VALUE})*+\s*+)\)\s*+(?P<end>,|;|ON\b)", re.S)
_BEGUN: Final = re.compile(
    rf"\s*+(?:\(\s*+(?:{_VALUE}\s*+,\s*+)*+(?:{_VALUE}\s*+|[Ee]?'(?:[^'\\]|''|\\.)*+)?+(?:\)\s*+)?+)?+\Z", re.S
)
"""A row that may go on in the next line."""
_VALUES: Final = re.compile(_VALUE, re.S)
_ESCAPE: Final = re.compile(r"\\(?:x([0-9A-Fa-f]{1,2})|([0-7]{1,3})|(.))", re.S)
_LETTERS: Final[Mapping[str, str]] = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class Table(NamedTuple):
    """The rows that follow are of this table, whose columns have these names. Without names there are no rows: only
    `pg_dump --column-inserts`, or a dump with the schema, has those of INSERT."""

    name: str
    columns: Sequence[str]


class TableRow(NamedTuple):
    """The values of a row, in the order of the columns; None is NULL."""

    number: int
    values: Sequence[str | None]


class NoRow(NamedTuple):
    """A text that is no row, where a row should be."""

    number: int
    detail: str


class DumpLines(Protocol):
    """A text, read line by line, each with its line break; "" at the end."""

    def readline(self) -> str:
        """The next line."""
        ...


def tables(text: DumpLines) -> Iterator[Table | TableRow | NoRow]:
    """The tables of a dump that have rows, each followed by them."""
    dump = _Dump(text)
    current: Table | None = None
    while line := dump.line():
        if copied := _COPY.match(line):
            current = Table(_plain(copied["table"]), _names(copied["columns"]))
            yield current
            yield from dump.copied(len(current.columns))
        elif created := _CREATE.match(line):
            dump.declare(_plain(created["table"]))
        elif inserted := _INSERT.match(line):
            name = _plain(inserted["table"])
            columns = _names(inserted["columns"]) if inserted["columns"] else dump.declared.get(name, ())
            if current != (table := Table(name, columns)):
                current = table
                yield current
            if columns:
                yield from dump.inserted(line[inserted.end() :], len(columns))


class _Dump:
    def __init__(self, text: DumpLines) -> None:
        self._text = text
        self.number = 0
        self.declared: dict[str, tuple[str, ...]] = {}

    def line(self) -> str:
        self.number += 1
        return self._text.readline()

    def copied(self, columns: int) -> Iterator[TableRow | NoRow]:
        while (line := self.line()) and (row := line.rstrip("\r\n")) != "\\.":
            fields = row.split("\t")
            if len(fields) != columns:
                yield NoRow(self.number, f"{len(fields)} fields, where COPY names {columns}")
            else:
                yield TableRow(self.number, [None if field == "\\N" else _unescaped(field) for field in fields])

    def declare(self, table: str) -> None:
        names = []
        while (line := self.line()) and not line.startswith(")"):
            if not _NO_COLUMN.match(line) and (column := _COLUMN.match(line)):
                names.append(_plain(column["name"]))
        self.declared[table] = tuple(names)

    def inserted(self, rest: str, columns: int) -> Iterator[TableRow | NoRow]:
        number = self.number
        while True:
            found = _TUPLE.match(rest)
            if found is None:
                if len(rest) > TUPLE_CHARS_MAX or not _BEGUN.match(rest) or not (more := self.line()):
                    yield NoRow(number, "no row of INSERT")
                    return
                if not rest.strip():
                    number = self.number
                rest += more
                continue
            values = [_value(value) for value in _VALUES.findall(found["values"])]
            if len(values) != columns:
                yield NoRow(number, f"{len(values)} values for {columns} columns")
            else:
                yield TableRow(number, values)
            if found["end"] != ",":
                return
            rest, number = rest[found.end() :], self.number


def _names(columns: str) -> tuple[str, ...]:
    return tuple(_plain(name) for name in re.findall(_NAME, columns))


def _plain(name: str) -> str:
    """A name without its quotes, each part of it."""
    return re.sub(r'"((?:[^"]|"")+)"', lambda quoted: quoted[1].replace('""', '"'), name)


def _value(text: str) -> str | None:
    if text[0] == "'":
        return text[1 : text.rindex("'")].replace("''", "'")
    if text[0] in "eE" and text[1] == "'":
        return _unescaped(text[2 : text.rindex("'")].replace("''", "'"))
    plain = text.partition("::")[0].strip()
    return None if plain.upper() == "NULL" else plain


def _unescaped(text: str) -> str:
    """Return the text that a field of COPY, or a string with E before it, stands for."""
    return _ESCAPE.sub(_escaped, text) if "\\" in text else text


def _escaped(found: re.Match[str]) -> str:
    hexadecimal, octal, letter = found.groups()
    if hexadecimal:
        return chr(int(hexadecimal, 16))
    return chr(int(octal, 8) & 0xFF) if octal else _LETTERS.get(letter, letter)
