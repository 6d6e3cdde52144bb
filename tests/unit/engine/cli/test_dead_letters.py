"""Which dead letters a command is about, and what is known of each."""

from typing import Any

import msgspec
import pytest

from crashfold.engine.adapters.dead_letters import LetterMark, ListedDeadLetter, Listing, StoredDeadLetter, StoredLetter
from crashfold.engine.cli.dead_letters import Which
from crashfold.engine.errors import ConfigurationError
from crashfold.engine.ports import DeadLetter, Record

NOON_MS = 1_768_478_400_000
"""2026-01-15, 12:00 UTC"""


def stored(at: int, letter: StoredDeadLetter) -> StoredLetter:
    return StoredLetter(0, Record(at, NOON_MS + at * 60_000, letter.key, letter.body()), letter.headers())


def letter(offset: int, key: bytes | None = b"crash", reason: Any = "unreadable") -> StoredDeadLetter:
    return StoredDeadLetter.of(DeadLetter(reason, "…", "games", 0, Record(offset, 1, key, b"value")))


LETTERS = (letter(0), letter(1, b"other", "stream"), letter(2, None, "late"), letter(3, b"\xff"), letter(4))


def listed(*more: StoredLetter) -> list[ListedDeadLetter]:
    listing = Listing()
    for one in (*(stored(at, one) for at, one in enumerate(LETTERS)), *more):
        listing.add(one)
    return listing.letters()


@pytest.mark.parametrize(
    ("which", "offsets"),
    [
        (Which(), [0, 1, 2, 3, 4]),
        (Which(reason="unreadable"), [0, 3, 4]),
        (Which(stream="crash"), [0, 2, 4]),
        (Which(stream="other"), [1]),
        (Which(key="\\xff"), [3]),
        (Which(since="2026-01-15T12:02Z"), [2, 3, 4]),
        (Which(since="2026-01-15 13:03+01:00"), [3, 4]),
        (Which(since="2026-01-15T12:04"), [4]),
        (Which(since="1s"), []),
        (Which(limit=2), [3, 4]),
        (Which(reason="unreadable", stream="crash", limit=1), [4]),
    ],
)
def test_choices_hold_all_together(which: Which, offsets: list[int]) -> None:
    assert [one.letter.offset for one in which.of(listed())] == offsets


def test_a_reason_that_nobody_gives_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="--reason late,stream: there is no such reason, but unreadable"):
        Which(reason="late,stream").of(listed())
    assert Which(reason="fairness").of(listed()) == []


@pytest.mark.parametrize("since", ["yesterday", "5", "5w", "", "2026-13-01"])
def test_a_moment_that_is_none_is_an_error(since: str) -> None:
    with pytest.raises(ConfigurationError, match="--since"):
        Which(since=since).of(listed())


def test_a_letter_that_stands_there_twice_keeps_its_time_and_its_mark() -> None:
    retried = LetterMark("retried", LETTERS[0].origin, NOON_MS, ("games", 0, 9))
    more = (Record(7, NOON_MS, None, b""), retried.headers())
    found = listed(StoredLetter(0, *more), stored(8, LETTERS[0]), stored(9, letter(9)))
    assert [(one.letter.offset, one.is_open) for one in found] == [
        *((0, False), (1, True), (2, True), (3, True), (4, True), (9, True))
    ]
    assert (found[0].time_ms, found[0].mark) == (NOON_MS, retried)
    assert found[-1].retry_of == LETTERS[0].origin


def test_a_mark_reads_back_and_is_no_letter() -> None:
    for mark in (
        LetterMark("retried", ("games", 1, 2), 3, ("games", 4, 5)),
        LetterMark("discarded", ("games", 1, 2), 3),
    ):
        assert LetterMark.from_headers(mark.headers()) == mark
        assert StoredDeadLetter.from_record(Record(0, 0, None, b""), mark.headers()) is None
    assert LetterMark.from_headers([("mark", b"eaten"), *LETTERS[0].headers()]) is None


def test_a_letter_knows_its_record_from_another_one_at_its_offset() -> None:
    record = Record(0, 1, b"crash", b"value")
    assert LETTERS[0].is_of(record)
    for changed in ({"value": b"other"}, {"key": None}, {"timestamp_ms": 2}, {"value": b"value and more"}):
        assert not LETTERS[0].is_of(msgspec.structs.replace(record, **changed))
