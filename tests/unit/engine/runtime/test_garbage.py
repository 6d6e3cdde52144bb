"""The collector looks at what is new, and at everything now and then."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from crashfold.engine.runtime import garbage


class Node:
    """Something that refers to itself."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def now() -> Iterator[list[float]]:
    threshold, callbacks, now = gc.get_threshold(), gc.callbacks.copy(), [0.0]
    garbage.look_at_what_is_new(lambda: now[0])
    yield now
    gc.set_threshold(*threshold)
    gc.callbacks[:] = callbacks
    gc.unfreeze()


def test_what_outlives_a_collection_is_set_aside_until_all_is_looked_at(now: list[float]) -> None:
    node = Node()
    gone = weakref.ref(node)
    gc.collect()
    del node
    gc.collect()
    assert gone() is not None
    now[0] = garbage.ALL_EVERY_S
    gc.collect()
    assert gone() is None


def test_new_cycles_are_collected(now: list[float]) -> None:
    gc.collect()
    gone = weakref.ref(Node())
    assert gone() is not None
    gc.collect()
    assert gone() is None


def test_a_collection_looks_at_little_however_much_there_is(now: list[float]) -> None:
    kept = [[number] for number in range(200_000)]
    gc.collect()
    assert len(gc.get_objects()) < 10_000
    assert gc.get_freeze_count() > len(kept)
