"""Text for terminals, pipes and files that people read: data shown as data, and lines that never end a process.

Imports the standard library only. Two things are always true: `visible` leaves no character that a terminal would obey
instead of showing it, and `Lines` never raises because of whom it writes to.
"""

import errno
import os
import select
import stat
from contextlib import suppress
from typing import Final, TextIO

LINE_BYTES_MAX: Final = select.PIPE_BUF
"""A longer write to a pipe may be torn apart by those of other processes (POSIX; 4,096 bytes on Linux)."""
WAIT_MS: Final = 1_000
"""How long a pipe or terminal that takes nothing is waited for, once; the process has other work than its log."""

_CUT: Final = "… (cut) …"


def visible(text: str, *, keep: str = "") -> str:
    r"""The text with every character that does not print as itself written as its escape (`\x1b`, `\u202e`, `\n`).

    Such are control characters of both sets, overrides of writing direction, line separators, invisible characters,
    and surrogates, which stand for bytes of a file name that are no UTF-8. Those in `keep` are left as they are.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escaped(char) for char in text)


class Lines:
    """Writes lines to a stream, each by one system call, so that lines of several processes do not mix.

    What cannot be written is lost and counted: a full disk, a reader that has gone, or one that takes nothing for a
    second (until it takes something again). None stands for a stream that was closed before the process began.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.lost = 0
        """How many lines could not be written."""
        self._stream = stream
        self._fd = _descriptor(stream)
        self._may_block = False
        self._waited = False
        if self._fd is not None:
            with suppress(OSError):
                mode = os.fstat(self._fd).st_mode
                self._may_block = not stat.S_ISREG(mode)
                if stat.S_ISREG(mode):
                    _append(self._fd)

    @property
    def bytes_max(self) -> int | None:
        """How long a line may be, its line feed included, to stay in one piece; None: as long as it likes."""
        return LINE_BYTES_MAX if self._may_block else None

    def write(self, line: str) -> None:
        """Write a line, which has no line feed at its end. One that is too long loses its middle."""
        if self._stream is None:
            self.lost += 1
            return
        try:
            if self._fd is None:
                self._stream.write(line + "\n")
            else:
                self._write(self._fd, line.encode("utf-8", "backslashreplace") + b"\n")
        except (OSError, ValueError):  # ValueError: the stream was closed
            self.lost += 1

    def _write(self, fd: int, data: bytes) -> None:
        if self._may_block:
            data = _cut(data)
            self._wait_until_it_takes_something(fd)
        while data:
            # Only where the disk becomes full, or a signal comes, is less than all of it taken.
            data = data[os.write(fd, data) :]

    def _wait_until_it_takes_something(self, fd: int) -> None:
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        if poll.poll(0 if self._waited else WAIT_MS):
            self._waited = False
        else:
            self._waited = True
            raise BlockingIOError(errno.EAGAIN, "nobody reads")


def _descriptor(stream: TextIO | None) -> int | None:
    """The stream's file descriptor; None when it has none, like those of tests."""
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError):
        return None


def _append(fd: int) -> None:
    """Let every write go to the end of the file: several processes may write to it, and it may be cut meanwhile."""
    import fcntl

    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode()


def _cut(data: bytes) -> bytes:
    """The line, with its middle left out when it is too long to be written whole."""
    return data if len(data) <= LINE_BYTES_MAX else shortened(data.decode(), LINE_BYTES_MAX).encode()


def shortened(text: str, bytes_max: int) -> str:
    """The text in at most so many bytes of UTF-8: without its middle, if it is longer."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= bytes_max:
        return text
    half = max(0, bytes_max - len(_CUT.encode())) // 2
    return data[:half].decode(errors="ignore") + _CUT + data[len(data) - half :].decode(errors="ignore")
