"""Functions that `kafka.sasl_oauth_token_provider` may name: unsecured tokens (RFC 7519, 6), good and bad ones."""

import base64
import json
import time
from typing import Final


def good() -> str:
    return _token(time.time() + 3_600)


async def good_later() -> str:
    return good()


def expired() -> str:
    return _token(time.time() - 3_600)


def garbage() -> str:
    return "eyJgarbage"


def none() -> None:
    return None


def fails() -> str:
    raise OSError("the issuer is away")


now = good
"""What `counted` gives; a test puts another function here."""
counts: Final[list[float]] = []
"""When `counted` was called."""


def counted() -> str:
    counts.append(time.monotonic())
    return now()


number = 1


def _token(expires_s: float) -> str:
    claims = {"sub": "all", "iat": expires_s - 7_200, "exp": expires_s}
    parts = ({"alg": "none"}, claims)
    encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    return ".".join(encoded) + "."
