"""Replies: status, headers and bytes, as they go over the wire.

Imports msgspec, problems and the read side's answers. `ETag` stands only on replies that follow from the version alone.
"""

from typing import Final

import msgspec

from crashfold.engine.http import problems
from crashfold.engine.http.problems import Problem
from crashfold.engine.meter import Source
from crashfold.engine.read.answer import encode
from crashfold.engine.read.held import HeldState

JSON: Final = b"application/json"
PROBLEM: Final = problems.MEDIA_TYPE.encode()
VARY_CODING: Final = (b"vary", b"Accept-Encoding")
VARY: Final = (b"vary", b"X-Timezone, Accept-Encoding")

Headers = tuple[tuple[bytes, bytes], ...]

_OF_THE_BODY: Final = frozenset((b"content-type", b"content-length", b"content-encoding", b"content-language"))


class Reply(msgspec.Struct, frozen=True):
    """An answer as it goes over the wire."""

    status: int
    headers: Headers
    body: bytes
    source: Source = "none"
    etag: bytes | None = None
    route: str = "other"
    """The path of the route, with its parameters' names."""
    coded: dict[str, "Reply"] = {}
    """The same answer in content codings, as they were asked for."""
    is_file: bool = False
    """Whether it stays the same as long as the process lives."""

    def unless_known(self, if_none_match: str | None) -> "Reply":
        """304 when the client has it already."""
        if if_none_match is None or self.etag is None or not _matches(if_none_match, self.etag.decode()):
            return self
        # The policy stays: a browser puts the headers of a 304 in the place of those that it had.
        kept = tuple((name, value) for name, value in self.headers if name not in _OF_THE_BODY)
        return Reply(304, kept, b"", self.source, self.etag, self.route)


def problem_reply(problem: Problem, *headers: tuple[bytes, bytes]) -> Reply:
    """Make the reply that carries a problem (RFC 9457)."""
    body = encode(problem)
    fixed = [(b"content-type", PROBLEM), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
    if problem.retry_after_s is not None:
        fixed.append((b"retry-after", b"%d" % problem.retry_after_s))
    return Reply(problem.status, (*fixed, *headers), body)


def unversioned(body: bytes, route: str) -> Reply:
    """A success that is of no version, and never kept by anybody."""
    fixed = ((b"content-type", JSON), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store"))
    return Reply(200, (*fixed, VARY), body, "computed", None, route)


def success(held: HeldState, body: bytes, source: Source, etag: bytes | None, route: str) -> Reply:
    """A success of one version."""
    headers = [
        (b"content-type", JSON),
        (b"content-length", b"%d" % len(body)),
        *version_headers(held, source),
        VARY,
        (b"cache-control", b"no-store" if etag is None else b"no-cache"),
    ]
    if etag is not None:
        headers.append((b"etag", etag))
    return Reply(200, tuple(headers), body, source, etag, route)


def version_headers(held: HeldState, source: Source) -> Headers:
    """The headers that name the version and the source of an answer."""
    return ((b"x-crashfold-version", b"%d" % held.version), (b"x-crashfold-source", source.encode()))


def aged(reply: Reply, age_s: float) -> Reply:
    """The reply of a replica, with its age."""
    age = ((b"age", b"%d" % age_s), (b"x-crashfold-age-s", b"%.3f" % age_s))
    return msgspec.structs.replace(reply, headers=(*reply.headers, *age))


def _matches(if_none_match: str, etag: str) -> bool:
    """Whether the header names the tag, compared weakly as RFC 9110 says."""
    if if_none_match.strip() == "*":
        return True
    return any(tag.strip().removeprefix("W/") == etag for tag in if_none_match.split(","))
