"""The contract of readers, on the memory twin."""

import pytest

from crashfold.engine.adapters.memory.reader import MemoryReader
from crashfold.engine.adapters.memory.store import MemoryStore, Trouble
from crashfold.engine.errors import StoreUnavailable
from tests.contract.live_reader import LiveReaderContract


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def reader(store: MemoryStore) -> MemoryReader:
    return MemoryReader(store)


class TestMemory(LiveReaderContract):
    pass


async def test_a_reader_meets_the_troubles_of_its_store(store: MemoryStore, reader: MemoryReader) -> None:
    store.fail_next(Trouble.UNAVAILABLE, method="standing")
    with pytest.raises(StoreUnavailable):
        await reader.standing("crash")
    assert await reader.standing("crash") is None
