"""Content codings: which form of an answer a client wants, and making it (RFC 9110, 8.4 and 12.5.3).

Imports cramjam, which has all three in one wheel, and anyio. What is always true: one answer is compressed once a
coding, however many ask for it; the same bytes give the same bytes; and a coded answer has a strong tag of its own.
Streams are not compressed: an event is printed once for all clients, a compressor would be kept and fed for each.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final, Literal

import anyio
import anyio.to_thread
import cramjam
import msgspec

from crashfold.engine.http import problems
from crashfold.engine.http.replies import Headers, Reply, problem_reply

Coding = Literal["zstd", "br", "gzip"]
Wanted = Literal["zstd", "br", "gzip", "identity", "none"]
"""`none` is acceptable to the client."""

COMPRESSED_BYTES_MIN: Final = 1_025
"""Smaller bodies are not compressed."""
INLINE_BYTES_MAX: Final = 16 << 10
"""Bigger answers are compressed in a thread."""
THREADS: Final = 2

_ZSTD_LEVEL, _BROTLI_LEVEL, _GZIP_LEVEL = 1, 4, 4
_COMPRESS: Final[dict[Coding, Callable[[bytes], bytes]]] = {
    "zstd": lambda body: bytes(cramjam.zstd.compress(body, level=_ZSTD_LEVEL)),
    "br": lambda body: bytes(cramjam.brotli.compress(body, level=_BROTLI_LEVEL)),
    "gzip": lambda body: bytes(cramjam.gzip.compress(body, level=_GZIP_LEVEL)),
}
"""In the order of preference. Higher levels take several times as long for a few percent."""
_ALIASES: Final = {"x-gzip": "gzip"}
_WEIGHT: Final = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")
_HEADERS_MAX: Final = 1_024


class Codings:
    """Makes the forms of answers, and keeps them with the answer."""

    def __init__(self) -> None:
        self._threads = anyio.CapacityLimiter(THREADS)
        self._making: dict[tuple[int, Coding], anyio.Event] = {}

    async def coded(self, reply: Reply, accept: str) -> Reply:
        """The reply in the form that the client wants, by its `Accept-Encoding`; 406 when there is none."""
        size = len(reply.body)
        wanted = preferred(accept, size >= COMPRESSED_BYTES_MIN)
        if wanted == "identity" or reply.status != 200 or not size:
            return reply
        if wanted == "none":
            return problem_reply(problems.not_acceptable())
        found = reply.coded.get(wanted)
        if found is None and size <= INLINE_BYTES_MAX:
            found = reply.coded[wanted] = _compressed(reply, wanted)
        return found or await self._in_thread(reply, wanted)

    async def _in_thread(self, reply: Reply, coding: Coding) -> Reply:
        key = (id(reply), coding)
        while (making := self._making.get(key)) is not None:
            await making.wait()
            if (found := reply.coded.get(coding)) is not None:
                return found
        made = self._making[key] = anyio.Event()
        try:
            found = await anyio.to_thread.run_sync(_compressed, reply, coding, limiter=self._threads)
            reply.coded[coding] = found
            return found
        finally:
            del self._making[key]
            made.set()


def _compressed(reply: Reply, coding: Coding) -> Reply:
    body = _COMPRESS[coding](reply.body)
    etag = None if reply.etag is None else reply.etag[:-1] + b'-%s"' % coding.encode()
    changed = {b"content-length": b"%d" % len(body), b"etag": etag or b""}
    headers: Headers = tuple((name, changed.get(name, value)) for name, value in reply.headers)
    headers = (*headers, (b"content-encoding", coding.encode()))
    return msgspec.structs.replace(reply, headers=headers, body=body, etag=etag, coded={})


@lru_cache(maxsize=_HEADERS_MAX)
def preferred(accept: str, is_worth_it: bool) -> Wanted:
    """The coding that the client wants most; among equals the first of ours, or none where it is not worth it."""
    qualities = _qualities(accept)
    others = qualities.get("*", 0.0)
    identity = qualities.get("identity", 0.0 if others == 0.0 and "*" in qualities else 0.001)
    offered: list[tuple[float, Wanted]] = [(qualities.get(coding, others), coding) for coding in _COMPRESS]
    best, coding = max(offered, key=lambda offer: offer[0])
    if identity and (not is_worth_it or best < identity):
        return "identity"
    return coding if best else "none"


def _qualities(accept: str) -> dict[str, float]:
    """The codings named, and how much each is wanted, from 0 to 1. What cannot be read is passed over."""
    found: dict[str, float] = {}
    for part in accept.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                quality = _quality(value.strip())
        if name and quality >= 0:
            found[_ALIASES.get(name, name)] = quality
    return found


def _quality(text: str) -> float:
    """A weight; negative when it is none."""
    return float(text) if _WEIGHT.fullmatch(text) else -1.0
