"""Shared answers: computed answers that processes keep for each other in the store, under the version they are of.

Imports the port for reading. What is always true: a spoiled answer is none, and what cannot be put is lost; nobody
waits for the store to take an answer.
"""

import hashlib
from typing import Any, Final

import anyio
import structlog

from crashfold.engine.errors import CrashfoldError
from crashfold.engine.meter import ApiMeter
from crashfold.engine.ports import CachedAnswer, Clock, LiveReader
from crashfold.engine.read.held import HeldState

SEAL_BYTES: Final = 8
"""Of the digest that shows when a kept answer was spoiled."""
SHARED_BYTES_MAX: Final = 256 << 10
"""A bigger answer is not kept in the store."""
SHARED_BYTES_PER_S: Final = 128 << 10
"""What this process adds to the store per second, at most: clients who ask for ever new thresholds must not fill it."""
SHARE_EVERY_S: Final = 0.05
COSTLY_S: Final = 0.002
"""A question that took longer is looked up in the store the next time: asking it takes a tenth of that."""
COSTLY_KNOWN: Final = 1_024

Shape = tuple[str, Any]
"""The route and the question, whatever the threshold."""

_log = structlog.get_logger()


class SharedAnswers:
    """The answers that this process shares. `ttl_s` is how long one is kept; 0 shares none."""

    def __init__(self, reader: LiveReader, clock: Clock, meter: ApiMeter, ttl_s: int) -> None:
        self._reader = reader
        self._clock = clock
        self._meter = meter
        self._ttl_s = ttl_s
        self._costly: dict[Shape, None] = {}
        self._waiting: list[CachedAnswer] = []
        self._bytes, self._taken_s = 0.0, clock.monotonic_s()
        self._due = anyio.Event()

    @property
    def is_on(self) -> bool:
        """Whether answers are shared at all."""
        return self._ttl_s > 0

    def is_costly(self, shape: Shape) -> bool:
        """Whether such a question took long before."""
        return shape in self._costly

    def note_cost(self, shape: Shape, took_s: float) -> None:
        """Note how long such a question took."""
        if took_s <= COSTLY_S:
            return
        if len(self._costly) >= COSTLY_KNOWN:
            self._costly.pop(next(iter(self._costly)))
        self._costly[shape] = None

    async def get(self, stream: str, held: HeldState, name: str) -> bytes | None:
        """The answer of that name and version; None when there is none."""
        try:
            kept = await self._reader.cached(stream, held.version, name)
        except CrashfoldError:
            return None
        body = None if kept is None else unsealed(kept)
        self._meter.cache_asked("store", hit=body is not None)
        return body

    def put(self, stream: str, held: HeldState, name: str, body: bytes) -> None:
        """Share an answer, within the bounds of size and rate."""
        now_s = self._clock.monotonic_s()
        self._bytes = max(0.0, self._bytes - (now_s - self._taken_s) * SHARED_BYTES_PER_S)
        self._taken_s = now_s
        if len(body) > SHARED_BYTES_MAX or self._bytes > SHARED_BYTES_PER_S:
            return
        self._bytes += len(body) + 200
        self._waiting.append(CachedAnswer(stream, held.version, name, sealed(body), self._ttl_s))
        self._due.set()

    async def run(self) -> None:
        """Put answers into the store, until cancelled."""
        while True:
            await self._due.wait()
            self._due = anyio.Event()
            batch, self._waiting = self._waiting, []
            try:
                await self._reader.keep(batch)
            except CrashfoldError as error:
                _log.debug("answers_not_shared", fault=str(error))
            except Exception:  # nobody waits for it
                _log.exception("answers_not_shared")
            await self._clock.sleep(SHARE_EVERY_S)


def sealed(body: bytes) -> bytes:
    """An answer as it is kept in the store: its digest, a line feed, and itself."""
    return hashlib.blake2b(body, digest_size=SEAL_BYTES).hexdigest().encode() + b"\n" + body


def unsealed(kept: bytes) -> bytes | None:
    """The answer that was kept; None when it is no longer what was kept, so that it is computed again."""
    body = kept[2 * SEAL_BYTES + 1 :]
    return body if sealed(body) == kept else None
