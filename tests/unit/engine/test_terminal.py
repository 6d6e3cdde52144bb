"""Text is data on a terminal, and a line that cannot be written ends nothing."""

import fcntl
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crashfold.engine.terminal import LINE_BYTES_MAX, Lines, visible

TEAR = """
import sys
from crashfold.engine.terminal import Lines
lines = Lines(sys.stderr)
for number in range(2000):
    lines.write(sys.argv[1] * (number % 4000))
"""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("crash_point é ✓ 🚀", "crash_point é ✓ 🚀"),
        ("[/x] [red]", "[/x] [red]"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b31m", r"\x9b31m"),
        ("a\nb\r\tc\x00\x7f", r"a\nb\r\tc\x00\x7f"),
        ("\u202eevil\u2066", r"\u202eevil\u2066"),
        ("a\u2028b\u2029c\u0085", r"a\u2028b\u2029c\x85"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("\U000e0041tag", r"\U000e0041tag"),
        ("no-utf-8-\udcff", r"no-utf-8-\udcff"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_as_its_escape(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


def test_kept_characters_stay() -> None:
    assert visible("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def test_lines_of_two_processes_in_one_pipe_stay_whole() -> None:
    read, write = os.pipe()
    writers = [subprocess.Popen([sys.executable, "-c", TEAR, char], stderr=write) for char in "ab"]
    os.close(write)
    with open(read, encoding="ascii") as pipe:
        lines = pipe.read().split("\n")[:-1]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert sorted(lines) == sorted(char * (number % 4000) for char in "ab" for number in range(2000))


def test_a_line_too_long_for_a_pipe_loses_its_middle_and_a_file_gets_all_of_it(tmp_path: Path) -> None:
    long = "begin" + "é" * 10_000 + "end"
    read, write = os.pipe()
    with open(read, "rb") as pipe, open(write, "w") as stream:
        Lines(stream).write(long)
        line = os.read(pipe.fileno(), 100_000)
    assert len(line) <= LINE_BYTES_MAX
    assert line.startswith(b"begin")
    assert line.endswith(b"end\n")
    assert "(cut)" in line.decode()
    with (tmp_path / "log").open("w") as file:
        Lines(file).write(long)
    assert (tmp_path / "log").read_text() == long + "\n"


def test_what_cannot_be_written_is_counted() -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as closed_pipe, open("/dev/full", "w") as full, io.StringIO() as closed:
        for stream in (closed_pipe, full, None):
            lines = Lines(stream)
            lines.write("a line")
            lines.write("another")
            assert lines.lost == 2
        lines = Lines(closed)
        lines.write("a line")
        assert (closed.getvalue(), lines.lost) == ("a line\n", 0)
    lines.write("the stream is closed")
    assert lines.lost == 1


def test_a_pipe_that_nobody_reads_loses_lines_and_takes_them_again_when_it_is_read() -> None:
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    with open(read, "rb") as pipe, open(write, "w") as stream:
        lines = Lines(stream)
        for _ in range(20):
            lines.write("x" * 1000)
        assert 0 < lines.lost < 20
        lost = lines.lost
        os.read(pipe.fileno(), 100_000)
        lines.write("again")
        assert (lines.lost, os.read(pipe.fileno(), 100)) == (lost, b"again\n")


def test_processes_that_append_to_one_file_do_not_write_over_each_other(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as one, log.open("w") as other:
        first, second = Lines(one), Lines(other)
        for number in range(10):
            first.write(f"first {number}")
            second.write(f"second {number}")
    assert sorted(log.read_text().splitlines()) == sorted(
        f"{name} {n}" for name in ("first", "second") for n in range(10)
    )
