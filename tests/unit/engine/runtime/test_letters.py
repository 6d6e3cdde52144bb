"""What the log says of dead letters."""

from collections.abc import Iterable

from structlog.testing import capture_logs

from crashfold.engine.adapters.memory.clock import MemoryClock
from crashfold.engine.ports import DeadLetter, Record
from crashfold.engine.runtime.letters import SAID_PER_SECOND, LettersLog


def letters(offsets: Iterable[int], reason: str = "unreadable", partition: int = 0) -> list[DeadLetter]:
    return [DeadLetter(reason, "why", "games", partition, Record(offset, 0, None, b"")) for offset in offsets]


def test_a_few_letters_get_a_line_each() -> None:
    told = LettersLog(MemoryClock())
    with capture_logs() as lines:
        told.note(letters(range(SAID_PER_SECOND)))
        told.catch_up(now=True)
    assert [(line["event"], line["offset"]) for line in lines] == [
        ("dead_letter", offset) for offset in range(SAID_PER_SECOND)
    ]


def test_of_many_letters_the_log_says_how_many_and_where_and_counts_each_once() -> None:
    clock = MemoryClock()
    told = LettersLog(clock)
    with capture_logs() as lines:
        for start in range(0, 50_000, 1_000):
            told.note(letters(range(start, start + 1_000)))
            told.note(letters([start], "late", partition=1))
            clock.pass_s(0.1)
        told.catch_up(now=True)
    assert len(lines) < 100
    single = [line for line in lines if line["event"] == "dead_letter"]
    summed = [line for line in lines if line["event"] == "dead_letters"]
    for reason, partition, count in (("unreadable", 0, 50_000), ("late", 1, 50)):
        said = [line["count"] for line in summed if line["reason"] == reason]
        assert len([line for line in single if line["reason"] == reason]) + sum(said) == count
        assert {line["partition"] for line in lines if line["reason"] == reason} == {partition}
    assert summed[0].items() >= {"first_offset": 10, "detail": "why", "log_level": "info"}.items()
    assert max(line["last_offset"] for line in summed) == 49_999
