"""The contract of `DeadLetters`, on the memory twin."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from crashfold.engine.adapters.dead_letters import StoredDeadLetter
from crashfold.engine.adapters.memory.log import MemoryDeadLetters
from crashfold.engine.errors import LogUnavailable
from tests.contract.dead_letters import DeadLettersContract, Shelf, letter


class _Shelf(Shelf):
    def __init__(self) -> None:
        self.memory = MemoryDeadLetters()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[MemoryDeadLetters]:
        yield self.memory

    async def stored(self) -> list[StoredDeadLetter]:
        return self.memory.letters


class TestMemory(DeadLettersContract):
    @pytest.fixture
    def shelf(self) -> _Shelf:
        return _Shelf()


async def test_what_is_away_takes_nothing() -> None:
    dead_letters = MemoryDeadLetters()
    dead_letters.available = False
    with pytest.raises(LogUnavailable):
        await dead_letters.put([letter()])
    assert dead_letters.letters == []
