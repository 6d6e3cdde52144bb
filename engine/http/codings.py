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

FILE_BYTES_MAX: Final = 64 << 10
"""Bigger files are compressed as answers are: the best coding of a megabyte takes seconds."""

_Compress = Callable[[bytes, int], bytes]
_COMPRESS: Final[dict[Coding, _Compress]] = {
    "zstd": lambda body, level: bytes(cramjam.zstd.compress(body, level=level)),
    "br": lambda body, level: bytes(cramjam.brotli.compress(body, level=level)),
    "gzip": lambda body, level: bytes(cramjam.gzip.compress(body, level=level)),
}
_OF_ANSWERS: Final[dict[Coding, int]] = {"zstd": 1, "br": 4, "gzip": 4}
"""The level of each coding, in the order of preference. Higher ones take several times as long for a few percent."""
_OF_FILES: Final[dict[Coding, int]] = {"br": 11, "zstd": 19, "gzip": 9}
"""A file is compressed once in the life of a process: the page's take 64 kB instead of 81."""
_ALIASES: Final = {"x-gzip": "gzip"}
_WEIGHT: Final = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")
_HEADERS_MAX: Final = 1_024


class Codings:
    """Compresses answers as clients ask, and keeps each compressed form with its answer."""

    def __init__(self) -> None:
        self._threads = anyio.CapacityLimiter(THREADS)
        self._making: dict[tuple[int, Coding], anyio.Event] = {}

    async def coded(self, reply: Reply, accept: str, if_none_match: str | None = None) -> Reply:
        """The reply in the form that the client wants, by its `Accept-Encoding`; 406 when there is none. One that it
        has already, by its `If-None-Match`, is not made: 304."""
        size, levels = len(reply.body), _levels(reply)
        wanted = preferred(accept, size >= COMPRESSED_BYTES_MIN, tuple(levels))
        if wanted == "identity" or reply.status != 200 or not size:
            return reply
        if wanted == "none":
            return problem_reply(problems.not_acceptable())
        if if_none_match is not None and (known := _named(reply, wanted).unless_known(if_none_match)).status == 304:
            return known
        found = reply.coded.get(wanted)
        if found is None and size <= INLINE_BYTES_MAX and levels is _OF_ANSWERS:
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


def _levels(reply: Reply) -> dict[Coding, int]:
    return _OF_FILES if reply.is_file and len(reply.body) <= FILE_BYTES_MAX else _OF_ANSWERS


def _compressed(reply: Reply, coding: Coding) -> Reply:
    body = _COMPRESS[coding](reply.body, _levels(reply)[coding])
    named = _named(reply, coding)
    changed = {b"content-length": b"%d" % len(body)}
    headers: Headers = tuple((name, changed.get(name, value)) for name, value in named.headers)
    headers = (*headers, (b"content-encoding", coding.encode()))
    return msgspec.structs.replace(named, headers=headers, body=body, coded={})


def _named(reply: Reply, coding: Coding) -> Reply:
    """The reply with the tag that it has in that coding."""
    if reply.etag is None:
        return reply
    etag = reply.etag[:-1] + b'-%s"' % coding.encode()
    headers: Headers = tuple((name, etag if name == b"etag" else value) for name, value in reply.headers)
    return msgspec.structs.replace(reply, headers=headers, etag=etag)


@lru_cache(maxsize=_HEADERS_MAX)
def preferred(accept: str, is_worth_it: bool, ours: tuple[Coding, ...] = tuple(_OF_ANSWERS)) -> Wanted:
    """The coding that the client wants most; among equals the first of ours, or none where it is not worth it."""
    qualities = _qualities(accept)
    others = qualities.get("*", 0.0)
    identity = qualities.get("identity", 0.0 if others == 0.0 and "*" in qualities else 0.001)
    offered: list[tuple[float, Wanted]] = [(qualities.get(coding, others), coding) for coding in ours]
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
