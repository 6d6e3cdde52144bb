"""Request coalescing: of equal requests at one time, one is answered and the others get its answer.

Imports anyio. After every commit all clients ask anew, and most of them the same.
"""

from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import anyio

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Coalescing(Generic[K]):
    """The requests that are being answered, by key."""

    def __init__(self) -> None:
        self._making: dict[K, anyio.Event] = {}

    async def once(self, key: K, known: Callable[[], T | None], make: Callable[[], Awaitable[T]]) -> T:
        """Return the result of `make`, or wait while an equal request is answered and return what is `known` then."""
        while (making := self._making.get(key)) is not None:
            await making.wait()
            if (found := known()) is not None:
                return found
        made = self._making[key] = anyio.Event()
        try:
            return await make()
        finally:
            del self._making[key]
            made.set()
