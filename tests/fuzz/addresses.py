"""Addresses: any text is an address or is refused by name, and what is shown of it has no secret in it."""

import re
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.errors import ConfigurationError
from crashfold.engine.settings import (
    KafkaSettings,
    RedisSettings,
    host_of,
    is_loopback,
    masked_text,
    masked_url,
    redis_address,
)
from crashfold.engine.settings.addresses import is_host

TOKENS: Final = (
    *(
        b"redis://",
        b"rediss://",
        b"unix://",
        b"localhost",
        b"127.0.0.1",
        b"[::1]",
        b":6379",
        b"%40",
        b"%2F",
        b"@",
        b"/",
    ),
    *(b"?db=1", b"&password=", b"?username=", b"&ssl_ca_certs=", b"&ssl_cert_reqs=none", b"&ssl_check_hostname=no"),
    *(b"client_name=", b"\xe2\x80\xae", b"\xc3\xa9", b"\t", b"//", b"#", b"[", b"]"),
)
MARK: Final = "Zq9Zq9Zq9"
"""Stands in a secret, and must not be seen."""


def check(data: bytes) -> None:
    """Take the data for an address of every kind."""
    text = data.decode("utf-8", "surrogateescape").replace(MARK, "")
    for host in (text, host_of(text)):
        if host is not None:
            is_loopback(host)
    assert host_of(text) is None or is_host(host_of(text) or "")
    with suppress(ValueError):
        KafkaSettings(bootstrap_servers=text, allow_plaintext=True)
    assert_refused_by_name(text)
    for secretive in with_mark(text):
        assert_refused_by_name(secretive)
        assert MARK not in masked_url(secretive), secretive
        try:
            redis_address(secretive)
        except ValueError:
            continue
        assert MARK not in masked_text(f"cannot reach {secretive}: no route"), secretive


def assert_refused_by_name(text: str) -> None:
    """Make a client of it, or meet an error that names the setting and keeps the secret."""
    try:
        settings = RedisSettings(url=text, allow_plaintext=True)
        RedisStore(settings.url)
    except (ValueError, ConfigurationError) as error:
        told = str(error).removeprefix("redis.")
        assert re.match("url[ :]", told), told
        assert MARK not in told, told


def with_mark(text: str) -> list[str]:
    """The same address with the mark in its password, and in one more option that is nobody's business."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return []
    login, at, host = parts.netloc.rpartition("@")
    made = []
    if at:
        user, colon, password = login.partition(":")
        made.append(text.replace(parts.netloc, f"{user}{colon or ':'}{MARK}{password}{at}{host}", 1))
    if parts.scheme in ("redis", "rediss", "redis+sentinel") and not parts.fragment:
        made.append(f"{text}{'&' if parts.query else '?'}password={MARK}")
    return made
