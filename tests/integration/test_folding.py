"""The engine folds what it is given: words of lines of text here, through the real service, rebuild, verify and status.

On the memory twins, and on a real Redis.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from crashfold.engine.adapters.memory.clock import MemoryClock
from crashfold.engine.adapters.memory.log import MemoryDeadLetters, MemoryLog, MemoryTopic
from crashfold.engine.adapters.memory.store import MemoryStore
from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.errors import FingerprintMismatch
from crashfold.engine.meter import Meter
from crashfold.engine.ports import Folding, Rejection, StateStore, StreamFold
from crashfold.engine.runtime.folder import Folder
from crashfold.engine.runtime.health import HealthBoard
from crashfold.engine.runtime.pacing import EngineLimits
from crashfold.engine.runtime.rebuild import Rebuild, RebuildReport, RebuildRequest
from crashfold.engine.runtime.service import Service
from crashfold.engine.runtime.status import status
from crashfold.engine.runtime.verify import VerifyReport, verify
from tests.support.words import SHORT, WordFolding

LIMITS = EngineLimits(batch_games_max=4, poll_wait_s=0)
LINES = (b"the cat sat", b"the dog", b" ", b"the dog", b"a cat and a dog", b"the end")
STREAMS = ("tales", SHORT)


class Observer:
    """Remembers what it was shown."""

    def __init__(self) -> None:
        self.rejected: list[str] = []
        self.lines = 0

    def observe(self, partition: int, rejected: Sequence[Rejection], folds: Sequence[StreamFold]) -> None:
        self.rejected += [reason for _, reason, _ in rejected]
        self.lines += sum(fold.folded.accepted for fold in folds)


class Words:
    """A topic of lines, of two streams, and a store of their words."""

    def __init__(self, store: MemoryStore | RedisStore) -> None:
        self.topic = MemoryTopic(name="lines")
        self.store = store
        self.letters = MemoryDeadLetters()
        self.clock = MemoryClock()
        self.observer = Observer()
        self._made = 0

    def publish(self, *lines: bytes) -> None:
        for line in lines:
            for stream in STREAMS:
                self.topic.append(line, key=stream.encode())

    def folder(self, store: StateStore, folding: Folding) -> Folder:
        return Folder(
            self.topic.name,
            store,
            folding,
            only_stream=None,
            writer="engine",
            new_generation=lambda: f"g{self._next()}",
            new_commit=lambda: f"{self._next():016x}",
            clock=self.clock,
            meter=Meter(),
            health=HealthBoard(self.clock),
            limits=LIMITS,
        )

    @asynccontextmanager
    async def engine(self, folding: Folding | None = None) -> AsyncIterator[Service]:
        async with MemoryLog(self.topic) as log:
            yield Service(
                log,
                self.store,
                self.letters,
                self.folder(self.store, folding or WordFolding()),
                clock=self.clock,
                meter=Meter(),
                health=HealthBoard(self.clock),
                limits=LIMITS,
                observer=self.observer,
            )

    async def run(self, folding: Folding | None = None) -> None:
        """One engine, until it has committed everything."""
        async with self.engine(folding) as service, MemoryLog(self.topic, None) as log:
            end = (await log.bounds(0)).end
            for _ in range(50):
                self.clock.pass_s(1)
                await service.step()
                if service.next_offsets.get(0) == end:
                    break
            assert service.next_offsets == {0: end}
            await service.close()

    async def rebuild(self, folding: Folding) -> RebuildReport:
        async with MemoryLog(self.topic, None) as log:
            shadow = self.store.shadow()
            folder = self.folder(shadow, folding)
            return await Rebuild(
                log, self.store, shadow, folder, RebuildRequest(), self.clock, lambda progress: None, poll_wait_s=0
            ).run()

    async def verify(self, folding: Folding | None = None) -> VerifyReport:
        async with MemoryLog(self.topic, None) as log:
            return await verify(log, self.store, folding or WordFolding(), STREAMS, poll_wait_s=0)

    async def counts(self, stream: str) -> dict[str, int]:
        read = await self.store.read_model(stream)
        assert read is not None
        words = read[1]["words"]
        assert isinstance(words, dict)
        return {word: int(count) for word, count in words.items()}

    def _next(self) -> int:
        self._made += 1
        return self._made


@pytest.fixture(params=["memory", "redis"])
async def words(request: pytest.FixtureRequest) -> AsyncIterator[Words]:
    if request.param == "memory":
        yield Words(MemoryStore())
        return
    async with RedisStore(request.getfixturevalue("redis_url"), key_prefix="words:{stream}") as store:
        yield Words(store)


async def test_words_are_counted_across_restarts_rebuilt_and_verified(words: Words) -> None:
    words.publish(*LINES)
    await words.run()
    assert await words.counts("tales") == {"the": 3, "cat": 2, "sat": 1, "dog": 2, "a": 2, "and": 1, "end": 1}
    assert await words.counts(SHORT) == {"the": 3, "cat": 1, "sat": 1, "dog": 1, "end": 1}
    reasons = [letter.reason for letter in words.letters.letters]
    assert sorted(reasons) == ["long", "repeated", "repeated", "unreadable", "unreadable"]
    assert sorted(words.observer.rejected) == ["long", "unreadable", "unreadable"]
    assert words.observer.lines == 7

    words.publish(b"the end", b"the cat came back")  # the first says again what was said before the restart
    await words.run()
    assert (await words.counts("tales"))["cat"] == 3
    assert (await words.verify()).differences == ()

    before = {stream: await words.counts(stream) for stream in STREAMS}
    rebuilt = await words.rebuild(WordFolding())
    assert [(one.stream, one.games) for one in rebuilt.streams] == [(SHORT, 3), ("tales", 5)]
    assert {stream: await words.counts(stream) for stream in STREAMS} == before
    report = await words.verify()
    assert report.differences == ()
    assert [(one.games, one.rejected) for one in report.streams] == [(5, 3), (3, 5)]


async def test_other_rules_ask_for_a_rebuild(words: Words) -> None:
    words.publish(*LINES)
    await words.run()
    other = WordFolding("words, by other rules")
    words.publish(b"once more")
    with pytest.raises(FingerprintMismatch):
        await words.run(other)
    await words.rebuild(other)
    await words.run(other)
    assert (await words.counts("tales"))["once"] == 1
    assert (await words.verify(other)).differences == ()


async def test_a_lost_word_is_a_difference_and_status_knows_the_lines(words: Words) -> None:
    words.publish(*LINES)
    await words.run()
    async with MemoryLog(words.topic, None) as log:
        found = await status(words.store, log, "lines", WordFolding(), STREAMS, None)
    assert [(one.games, one.settings_match, one.newest_id) for one in found.streams] == [
        (4, True, None),
        (3, True, None),
    ]
    if isinstance(words.store, RedisStore):
        return
    kept = words.store.snapshot()
    model = kept.live["tales"].model["words"]
    assert isinstance(model, dict)
    del model["cat"]
    words.store.restore(kept)
    assert [(one.key, one.part, one.stored) for one in (await words.verify()).differences] == [("words", "cat", None)]
