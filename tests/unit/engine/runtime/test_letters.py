"""Dead letters are published before a checkpoint passes their records; the log names them, however many there are."""

from collections.abc import Iterable

import anyio
import anyio.lowlevel
import msgspec
from structlog.testing import capture_logs

from crashfold.engine.adapters.memory.clock import MemoryClock
from crashfold.engine.ports import DeadLetter, Record
from crashfold.engine.runtime.letters import SAID_PER_SECOND, LettersLog
from crashfold.schemas.game import encode
from tests.support.in_memory import GAMES, MemoryDeployment, steps


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


async def test_bad_records_are_dead_letters_and_the_checkpoint_passes_them(deployment: MemoryDeployment) -> None:
    deployment.publish(GAMES[0])
    deployment.topic.append(b"no game")
    deployment.topic.append(encode(GAMES[1]), key=b"no name")
    deployment.publish(GAMES[1], msgspec.structs.replace(GAMES[0], crash_point=7.0), *GAMES[2:20], GAMES[0])
    await deployment.run()
    assert deployment.reasons() == [(1, "unreadable"), (2, "unreadable"), (4, "conflict"), (23, "late")]
    assert (await deployment.checkpoint()).next_offset == 24
    await deployment.check()


async def test_a_topic_of_garbage_is_passed_once() -> None:
    deployment = MemoryDeployment()
    for _ in range(12):
        deployment.topic.append(None, key=b"no name")
    await deployment.run()
    assert len(deployment.letters.letters) == 12
    async with deployment.engine() as engine:
        await steps(engine, 2)
        assert engine.service.next_offsets == {0: 12}


async def test_records_of_another_stream_are_passed_by_the_only_one_s_checkpoint() -> None:
    deployment = MemoryDeployment(only="a")
    deployment.publish(GAMES[0], stream="a")
    deployment.publish(*GAMES[:9], stream="b")
    await deployment.run()
    assert deployment.reasons() == [(offset, "stream") for offset in range(1, 10)]
    assert (await deployment.checkpoint("a")).next_offset == 10
    assert await deployment.store.load("b") is None


async def test_nothing_is_committed_before_its_dead_letters_are_handed_over(deployment: MemoryDeployment) -> None:
    deployment.publish(GAMES[0])
    deployment.topic.append(b"no game")
    async with deployment.engine() as engine:
        await steps(engine, 1)
        deployment.letters.available = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(steps, engine, 1)
            for _ in range(200):
                await anyio.lowlevel.checkpoint()
            assert await deployment.store.load("crash") is None
            assert engine.health.ready()
            deployment.letters.available = True
        assert await deployment.games() == 1
        assert deployment.reasons() == [(1, "unreadable")]
