"""Dead letters: the records that could not be folded, newest first, as Kafka has them.

Imports the port that reads them. Keys and values are text that somebody else wrote: they are told as data.
"""

from collections.abc import Sequence
from typing import ClassVar

import anyio
import msgspec

from crashfold.engine.ports import DeadLetterReader, ReadDeadLetter
from crashfold.engine.read.questions import Question
from crashfold.engine.read.times import Instant


class DeadLettersQuestion(Question, frozen=True, kw_only=True):
    """The newest `limit` dead letters."""

    limit_max: ClassVar[int | None] = 500
    limit: int = 50


class DeadLetterItem(msgspec.Struct, frozen=True):
    """A record that could not be folded; `time` is when it was put aside, null where Kafka does not say."""

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    time: Instant | None
    key: str | None
    value: str | None
    retried: bool


class DeadLettersAnswer(msgspec.Struct, frozen=True):
    """The newest dead letters, and how many they are."""

    count: int
    dead_letters: list[DeadLetterItem]


class SharedDeadLetters:
    """Reads dead letters for all clients, once at a time: each reading takes a connection to Kafka of its own."""

    def __init__(self, reader: DeadLetterReader) -> None:
        self._reader = reader
        self._turn = anyio.Lock()
        self._readings = 0
        self._limit = 0
        self._found: Sequence[ReadDeadLetter] = ()

    async def newest(self, limit: int) -> Sequence[ReadDeadLetter]:
        """The newest letters, newest first, read after this was called. Raises LogUnavailable or LogRefused."""
        before = self._readings
        async with self._turn:
            if self._readings > before and self._limit >= limit:
                return self._found[:limit]  # read for somebody who asked a little later
            self._readings += 1
            self._limit = 0  # until it is there
            self._found = await self._reader.newest(limit)
            self._limit = limit
            return self._found
