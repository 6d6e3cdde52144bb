"""Problems: what a request gets that cannot be answered, as RFC 9457 describes it (`application/problem+json`).

Imports msgspec and the read side's refusals. Problems are values; a problem's `type` is stable, so clients may match on
it, and its `detail` is always words of our own: never an exception's text, never what was sent.
"""

from typing import Final

import msgspec

from crashfold.engine.read.refusals import Malformed, NotFound, NotNow, OutOfBounds, Refusal

MEDIA_TYPE: Final = "application/problem+json"

_TYPE: Final = "urn:crashfold:problem:"


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One problem. `parameter` names the parameter at fault; `retry_after_s` goes into the header `Retry-After`."""

    type: str
    title: str
    status: int
    detail: str
    parameter: str | None = None
    retry_after_s: int | None = None


def problem_of(refusal: Refusal) -> Problem:
    """The problem that stands for a refusal of the read side."""
    match refusal:
        case Malformed():
            return malformed(refusal.detail, refusal.parameter)
        case OutOfBounds():
            return out_of_bounds(refusal.detail, refusal.parameter)
        case NotFound():
            return not_found(refusal.detail)
        case NotNow():
            return unavailable(refusal.detail, refusal.retry_after_s)
    raise AssertionError(f"no problem stands for {type(refusal).__name__}")


def malformed(detail: str, parameter: str | None = None) -> Problem:
    """400: a value is not written as it must be, or is of the wrong type."""
    return Problem(f"{_TYPE}malformed", "Malformed request", 400, detail, parameter)


def not_found(detail: str) -> Problem:
    """404: the question is fine, and nothing answers it."""
    return Problem(f"{_TYPE}not-found", "Nothing found", 404, detail)


def unreadable() -> Problem:
    """400: what came is no HTTP request."""
    return malformed("this is no HTTP request")


def no_such_route() -> Problem:
    """404: the path leads nowhere."""
    return Problem(f"{_TYPE}no-such-route", "No such route", 404, "there is nothing at this path")


def method_not_allowed() -> Problem:
    """405: the path answers other methods only."""
    return Problem(f"{_TYPE}method-not-allowed", "Method not allowed", 405, "this path answers another method")


def upgrade_required() -> Problem:
    """426: the path speaks WebSocket only."""
    return Problem(f"{_TYPE}upgrade-required", "Upgrade required", 426, "this path speaks WebSocket")


def out_of_bounds(detail: str, parameter: str | None = None) -> Problem:
    """422: a well-formed value beyond what may be asked."""
    return Problem(f"{_TYPE}out-of-bounds", "Out of bounds", 422, detail, parameter)


def unauthorized() -> Problem:
    """401: the bearer token is missing or another one."""
    return Problem(f"{_TYPE}unauthorized", "Unauthorized", 401, "a valid bearer token is needed")


def host_not_allowed() -> Problem:
    """400: the request is for a host that this is not."""
    return Problem(f"{_TYPE}host-not-allowed", "Host not allowed", 400, "this server does not answer for that host")


def too_slow() -> Problem:
    """408: the body did not arrive in time."""
    return Problem(f"{_TYPE}too-slow", "Request timeout", 408, "the body did not arrive in time")


def request_too_slow() -> Problem:
    """408: target and headers did not arrive in time."""
    return Problem(f"{_TYPE}too-slow", "Request timeout", 408, "the request did not arrive in time")


def body_too_large(bytes_max: int) -> Problem:
    """413: the body is bigger than any question."""
    return Problem(f"{_TYPE}body-too-large", "Content too large", 413, f"the body has more than {bytes_max} bytes")


def target_too_long(bytes_max: int) -> Problem:
    """414: path and query are longer than any question."""
    return Problem(f"{_TYPE}target-too-long", "URI too long", 414, f"path and query have more than {bytes_max} bytes")


def headers_too_large(bytes_max: int) -> Problem:
    """431: the headers are bigger than anybody needs."""
    detail = f"the headers have more than {bytes_max} bytes"
    return Problem(f"{_TYPE}headers-too-large", "Request header fields too large", 431, detail)


def transfer_coding_unknown() -> Problem:
    """501: the body is sent in a way that this server does not know."""
    detail = "of transfer codings only chunked is known"
    return Problem(f"{_TYPE}transfer-coding-unknown", "Not implemented", 501, detail)


def content_coding_unknown() -> Problem:
    """415: the body is compressed."""
    detail = "a body is taken as it is, without a content coding"
    return Problem(f"{_TYPE}content-coding-unknown", "Unsupported media type", 415, detail)


def not_acceptable() -> Problem:
    """406: the client takes the answer in no form that there is."""
    detail = "Accept-Encoding refuses every coding that there is: zstd, br, gzip and identity"
    return Problem(f"{_TYPE}not-acceptable", "Not acceptable", 406, detail)


def no_handshake() -> Problem:
    """Make the problem 400 for an upgrade to WebSocket that breaks the protocol."""
    return malformed("this is no opening handshake of a WebSocket")


def too_many_requests(retry_after_s: int) -> Problem:
    """429: the client asks more often than is allowed."""
    detail = f"ask again in {retry_after_s} s"
    return Problem(f"{_TYPE}too-many-requests", "Too many requests", 429, detail, retry_after_s=retry_after_s)


def internal() -> Problem:
    """500: a defect of ours; the log has the rest."""
    return Problem(f"{_TYPE}internal", "Internal error", 500, "the server failed; its log says how")


def unavailable(detail: str, retry_after_s: int) -> Problem:
    """503: cannot be answered for now."""
    return Problem(f"{_TYPE}unavailable", "Unavailable", 503, detail, retry_after_s=retry_after_s)
