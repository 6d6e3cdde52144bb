"""The contract of the stores, on the memory twin; and the trouble that the twin can make."""

import pytest

from crashfold.engine.adapters.memory.store import MemoryStore, Trouble
from crashfold.engine.errors import StoreRefused, StoreUnavailable
from crashfold.engine.ports import Applied, Conflict, Duplicate, Promoted
from tests.contract.state_store import (
    ShadowStoreContract,
    StateStoreContract,
    at,
    model,
    model_of,
    numbered,
    rebuild,
)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


class TestMemory(StateStoreContract, ShadowStoreContract):
    pass


async def test_a_refused_commit_was_not_made(store: MemoryStore) -> None:
    store.fail_next(Trouble.REFUSED)
    with pytest.raises(StoreRefused):
        await store.commit([numbered("crash", 1)])
    assert await store.commit([numbered("crash", 1)]) == [Applied(1)]


async def test_a_commit_that_did_not_arrive_was_not_made(store: MemoryStore) -> None:
    store.fail_next(Trouble.UNAVAILABLE, method="commit")
    assert await store.load("crash") is None
    with pytest.raises(StoreUnavailable):
        await store.commit([numbered("crash", 1)])
    assert await store.commit([numbered("crash", 1)]) == [Applied(1)]


async def test_a_commit_whose_reply_is_lost_was_made(store: MemoryStore) -> None:
    store.fail_next(Trouble.LOST_REPLY)
    with pytest.raises(StoreUnavailable):
        await store.commit([numbered("crash", 1)])
    assert await store.commit([numbered("crash", 1)]) == [Duplicate(1)]


async def test_of_several_commits_some_may_be_made_before_the_reply_is_lost(store: MemoryStore) -> None:
    commits = [numbered(stream, 1) for stream in "abc"]
    store.fail_next(Trouble.LOST_REPLY, made=2)
    with pytest.raises(StoreUnavailable):
        await store.commit(commits)
    assert await store.commit(commits) == [Duplicate(1), Duplicate(1), Applied(1)]


async def test_a_read_whose_reply_is_lost_fails(store: MemoryStore) -> None:
    store.fail_next(Trouble.LOST_REPLY, method="load")
    with pytest.raises(StoreUnavailable):
        await store.load("crash")


async def test_a_store_that_lost_its_last_writes_conflicts_with_what_comes_next(store: MemoryStore) -> None:
    await store.commit([numbered("crash", 1)])
    then = store.snapshot()
    await store.commit([numbered("crash", 2)])
    store.restore(then)
    assert await store.commit([numbered("crash", 3)]) == [Conflict(at(1))]
    assert await model(store, "crash") == model_of(1)


async def test_a_store_that_lost_everything_is_empty(store: MemoryStore) -> None:
    await store.commit([numbered("crash", 1)])
    store.restore(MemoryStore().snapshot())
    assert await store.positions(["crash"]) == [None]


async def test_a_promotion_whose_reply_is_lost_was_made(store: MemoryStore) -> None:
    await store.commit([numbered("crash", 1)])
    shadow = await rebuild(store, "crash", 2)
    store.fail_next(Trouble.LOST_REPLY, method="promote")
    with pytest.raises(StoreUnavailable):
        await shadow.promote("crash")
    assert await shadow.promote("crash") == Promoted(3)
    assert await model(store, "crash") == model_of(2)
