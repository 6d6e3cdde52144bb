"""Addresses of servers: their hosts, and how they are shown. Imports the standard library only."""

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

MASK: Final = "***"
"""What is shown in the place of a secret."""


_PASSWORD_IN_TEXT: Final = re.compile(r"\b([a-z][a-z0-9+.-]{0,30}://[^\s:@/]*):\S*@", re.IGNORECASE)
_PASSWORD_IN_URL: Final = re.compile(r"^([a-z][a-z0-9+.-]*://[^:@/]*):.*@", re.IGNORECASE | re.DOTALL)
_PASSWORD_IN_QUERY: Final = re.compile(r"([?&][^=&\s]*password=)[^&#\s]*", re.IGNORECASE)


def masked_url(url: str) -> str:
    """The address without the password that stands before its host or in its query."""
    return _PASSWORD_IN_QUERY.sub(rf"\1{MASK}", _PASSWORD_IN_URL.sub(rf"\1:{MASK}@", url))


def masked_text(text: str) -> str:
    """A text without the passwords of the addresses in it."""
    if "://" not in text:
        return text
    return _PASSWORD_IN_QUERY.sub(rf"\1{MASK}", _PASSWORD_IN_TEXT.sub(rf"\1:{MASK}@", text))


def host_of(server: str) -> str | None:
    """The host of `host:port` or `[address]:port`, blanks around it ignored; None when it is neither."""
    try:
        parts = urlsplit(f"//{server.strip()}")
        return parts.hostname if parts.port and parts.netloc == server.strip() and "@" not in server else None
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether the host is this machine itself, by its name or address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
