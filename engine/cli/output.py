"""Output of the commands: results on standard output, sentences for people on standard error.

Always true: whatever is printed here is data. No markup in it is obeyed and no control character reaches the terminal.
A reader that has gone (`crashfold status | head -1`) changes nothing and ends nothing: the exit code says what the
command did. A result that is lost for another reason is an error, a sentence for people is not.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TextIO, cast

import msgspec
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from crashfold.engine.errors import CrashfoldError
from crashfold.engine.terminal import Lines, visible

TABLE_COLUMNS: Final = 160
"""Characters of a line where it is not a terminal that says how many it has."""


def print_json(result: msgspec.Struct | dict[str, Any] | list[Any]) -> None:
    """A result for machines, on standard output, in ASCII: texts need not be valid Unicode, names of files are not."""
    _write(json.dumps(msgspec.to_builtins(result), indent=2) + "\n")


def print_script(text: str) -> None:
    """Text of our own for another program, on standard output, as it is."""
    _write(text if text.endswith("\n") else text + "\n")


def print_line(text: str) -> None:
    """A line for people, on standard output."""
    _write(visible(text) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table for people on standard output, with numbers aligned to the right."""
    print_rendered(table(title, columns, rows))


def print_rendered(rendered: RenderableType) -> bool:
    """A table, or several of them, on standard output; False when whoever read it has gone."""
    standard_output = _StandardOutput()
    width = None if sys.stdout.isatty() else TABLE_COLUMNS
    Console(file=cast(TextIO, standard_output), width=width).print(rendered)
    return standard_output.is_read


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Rows under named columns; None is shown as a dash."""
    made = Table(title=Text(visible(title)), title_justify="left")
    for number, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[number], int | float) for row in rows)
        made.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text("–" if cell is None else visible(str(cell))) for cell in row))
    return made


def print_error(text: str) -> None:
    """Print an error for people on standard error. Further lines are indented, so that none looks like an error."""
    lines = Lines(sys.stderr)
    for number, line in enumerate(text.split("\n")):
        lines.write(visible(f"  {line}" if number else line))


def print_traceback(text: str) -> None:
    """Print Python's account of an exception on standard error."""
    lines = Lines(sys.stderr)
    for line in text.rstrip("\n").split("\n"):
        lines.write(visible(line))


def help_console() -> Console:
    """A console on standard output for what the command line says of itself."""
    return Console(file=cast(TextIO, _StandardOutput()))


def progress_console() -> Console:
    """A console on standard error, which goes on when that cannot be written."""
    return Console(file=cast(TextIO, _Unfailing(sys.stderr)))


@contextmanager
def standard_streams() -> Iterator[None]:
    """Standard streams that can be written to while the block lasts, whatever the process was given.

    A closed one is replaced by the null device, or the first socket or file that is opened would take its number. What
    the encoding cannot say is escaped.
    """
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, _null_device(number))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    yield


def _null_device(number: int) -> TextIO:
    try:
        os.fstat(number)  # something else has the number already
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
    return open(os.devnull, "r" if number == 0 else "w", encoding="utf-8")


_reader_has_gone = False


def _write(text: str) -> bool:
    """Whether somebody reads it. Raises CrashfoldError."""
    global _reader_has_gone
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_standard_output()
        _reader_has_gone = True  # from here on writing succeeds, into nothing
    except OSError as error:
        _discard_standard_output()
        raise CrashfoldError(f"standard output cannot be written: {error.strerror or error}") from error
    return not _reader_has_gone


def _discard_standard_output() -> None:
    """Let what is buffered, and what comes, go nowhere: Python would try once more at its end, and complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class _StandardOutput:
    """Standard output as the functions above write to it."""

    is_read = True

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stdout, name)

    def write(self, text: str) -> int:
        self.is_read = _write(text) and self.is_read
        return len(text)


class _Unfailing:
    """A stream whose writes never fail."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            return
