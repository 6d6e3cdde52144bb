"""Calls of scripts on their way: a test stands between a store and its server, and decides what comes of them."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from crashfold.engine.adapters.redis.client import Call, Script
from crashfold.engine.adapters.redis.store import RedisStore

Send = Callable[[Sequence[Call]], Awaitable[list[Any]]]
"""Sends calls to the server, and returns their replies."""
Hook = Callable[[Send, Sequence[Call]], Awaitable[list[Any]]]
"""Gets calls that the store sends together, and returns the replies that the store is to see."""


class Interposed:
    """Stands between a store and its server. `hook` replies to the calls that the store sends together: to each such
    run, or to the one of number `run` alone. The others go to the server as they are."""

    def __init__(self, store: RedisStore, hook: Hook, run: int | None = None) -> None:
        self._client = store._client
        self._hook = hook
        self._run = run
        self.runs = 0
        store._client = self  # type: ignore[assignment]  # as far as commits are concerned

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def run(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        self.runs += 1
        send = partial(self._client.run, script)
        return await (self._hook(send, calls) if self._run in (None, self.runs) else send(calls))
