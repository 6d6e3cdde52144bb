"""Addresses of servers: their hosts, and how they are shown. Imports the standard library only."""

import ipaddress
import re
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

MASK: Final = "***"
"""The mask that is shown in the place of a secret."""


_WITHOUT_SECRETS: Final = frozenset(
    ("db", "client_name", "ssl_cert_reqs", "ssl_check_hostname", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
)
"""Options of an address whose values are shown; of any other, known or not, only the name is."""

_LOGIN_IN_URL: Final = re.compile(r"^([a-z][a-z0-9+.-]*:/*)?(.*)@", re.IGNORECASE | re.DOTALL)
_LOGIN_IN_TEXT: Final = re.compile(r"\b([a-z][a-z0-9+.-]{0,30}://)([^\s\"']*)@", re.IGNORECASE)
_BARE_LOGIN_IN_TEXT: Final = re.compile(r"(?<![^\s\"'(=])([\w.%+-]*):([^\s\"'/@]+)@(?=[\w.\[-])")
_IN_NO_ADDRESS: Final = re.compile(r"[\s\"']")
_OPTION: Final = re.compile(r"([?&])([^=?&#\s\"']*)=([^?&#\s\"']*)")


def masked_url(url: str) -> str:
    """Mask the secrets of an address: all between a user and the last @, and the values of options."""
    return _OPTION.sub(_masked_option, _LOGIN_IN_URL.sub(_masked_login, url))


def masked_text(text: str) -> str:
    """Mask the passwords of the addresses in a text."""
    if "://" in text:
        text = _OPTION.sub(_masked_option, _LOGIN_IN_TEXT.sub(_masked_login, text))
    return _BARE_LOGIN_IN_TEXT.sub(rf"\1:{MASK}@", text) if "@" in text else text


def _masked_login(found: re.Match[str]) -> str:
    """A word that stands there alone may be a password whose colon was forgotten."""
    user, colon, _ = found[2].partition(":")
    return f"{found[1] or ''}{user + colon if colon else ''}{MASK}@"


def _masked_option(found: re.Match[str]) -> str:
    return found[0] if found[2] in _WITHOUT_SECRETS else f"{found[1]}{found[2]}={MASK}"


class RedisAddress(NamedTuple):
    """The address of a Redis server and the login for it. `path` is that of a Unix socket, and then host and port are
    none. With `sentinels`, host and port are those of the first of them, and they say where the server of `service`
    is."""

    tls: bool
    host: str
    port: int
    path: str
    db: int
    username: str
    password: str
    client_name: str
    tls_options: dict[str, str | bool]
    """By redis-py's names, without the `ssl_` they begin with."""
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel_username: str = ""
    sentinel_password: str = ""


_SENTINEL: Final = "+sentinel"
_SENTINEL_PORT: Final = 26379
_TLS_OPTIONS: Final = ("cert_reqs", "check_hostname", "ca_certs", "certfile", "keyfile", "password")
_YES_NO: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def redis_address(url: str) -> RedisAddress:
    """Parse the address in a URL. Raises ValueError with what is wrong with it, which quotes nothing that may be
    secret."""
    if not url.isprintable() or url != url.strip():
        raise ValueError("has blanks around it, or characters that cannot be seen")
    if _IN_NO_ADDRESS.search(url):  # a text in which such an address is quoted could not be masked
        raise ValueError("has a blank or a quote in it: write a blank as %20, quotes as %22 and %27")
    if url.partition(":")[0] in ("redis+sentinel", "rediss+sentinel"):
        return _sentinel_address(url)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:  # whose text may quote a password that was taken for a port
        raise ValueError(
            "is no address: is the port a number up to 65535, and are the password's special characters written as %XX?"
        ) from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("does not begin with redis://, rediss:// (TLS), redis+sentinel:// or unix://")
    is_unix = parts.scheme == "unix"
    if is_unix and (host or not parts.path.strip("/")):
        raise ValueError("is not unix:///path")
    if not is_unix and (not host or not is_host(host) or port == 0):
        raise ValueError("names no host: it is redis://host:port/db or rediss://host:port/db")
    if parts.fragment:
        raise ValueError("has a # in it: write it as %23")
    options = _options(parts.query)
    db = options.pop("db", "")
    if not is_unix and (path := unquote(parts.path).strip("/")):
        if db not in ("", path):
            raise ValueError(f"names two databases, /{path[:20]} and db={db[:20]}")
        db = path
    if not re.fullmatch(r"\d{0,9}", db, re.ASCII):
        raise ValueError("names a database that is no number")
    username = _once(options, "username", unquote(parts.username or ""))
    password = _once(options, "password", unquote(parts.password or ""))
    tls_options = {
        name: _tls_option(name, options.pop(f"ssl_{name}")) for name in _TLS_OPTIONS if f"ssl_{name}" in options
    }
    if tls_options and parts.scheme != "rediss":
        raise ValueError("has options of TLS, which rediss:// has and no other")
    client_name = options.pop("client_name", "")
    if options:
        known = ", ".join(["db", "username", "password", "client_name", *(f"ssl_{name}" for name in _TLS_OPTIONS)])
        unknown = min(options)
        named = f"the option {unknown}" if re.fullmatch(r"[a-z_]{1,40}", unknown) else "an option"
        raise ValueError(f"has {named}, which is none of these: {known}")
    return RedisAddress(
        tls=parts.scheme == "rediss",
        host="" if is_unix else host,
        port=0 if is_unix else port or 6379,
        path=unquote(parts.path) if is_unix else "",
        db=int(db or 0),
        username=username,
        password=password,
        client_name=client_name,
        tls_options=tls_options,
    )


def _sentinel_address(url: str) -> RedisAddress:
    """`redis+sentinel://user:password@host:port,host:port/service?db=…`: user and password are those of the server; a
    login to the sentinels is given by the options `sentinel_username` and `sentinel_password`. Raises ValueError."""
    begin, _, rest = url.partition("://")
    place, question, query = rest.partition("?")
    login, at, hosts = place.partition("/")[0].rpartition("@")
    service = place.partition("/")[2]
    sentinels = []
    for sentinel in hosts.split(","):
        host = host_of(sentinel) or host_of(f"{sentinel}:{_SENTINEL_PORT}")
        if host is None:
            raise ValueError(
                "names no sentinels: it is redis+sentinel://host:port,host:port/service, and a password's special"
                " characters are written as %XX"
            )
        sentinels.append((host, urlsplit(f"//{sentinel}").port or _SENTINEL_PORT))
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,200}", service, re.ASCII):
        raise ValueError("names no service: it is redis+sentinel://host:port,host:port/service, the database is ?db=")
    own: dict[str, str] = {}
    others = []
    for word in query.split("&") if question else []:
        name, _, value = word.partition("=")
        if name not in ("sentinel_username", "sentinel_password"):
            others.append(word)
        elif own.setdefault(name, unquote(value)) != unquote(value):
            raise ValueError("has an option twice")
    # What is left is the address of a server: its login, its options.
    server = redis_address(f"{begin.removesuffix(_SENTINEL)}://{login}{at}{hosts.split(',')[0]}?{'&'.join(others)}")
    return server._replace(
        host=sentinels[0][0],
        port=sentinels[0][1],
        sentinels=tuple(sentinels),
        service=service,
        sentinel_username=own.get("sentinel_username", ""),
        sentinel_password=own.get("sentinel_password", ""),
    )


def _options(query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if found.setdefault(name, value) != value:
            raise ValueError("has an option twice")
    return found


def _once(options: dict[str, str], name: str, value: str) -> str:
    option = options.pop(name, "")
    if option and value and option != value:
        raise ValueError(f"has a {name} before the host and another as an option")
    return option or value


def _tls_option(name: str, value: str) -> str | bool:
    if name == "check_hostname":
        if value.lower() not in _YES_NO:
            raise ValueError("has the option ssl_check_hostname, which is true or false")
        return _YES_NO[value.lower()]
    if name == "cert_reqs" and value not in ("required", "none"):
        raise ValueError("has the option ssl_cert_reqs, which is required or none")
    return value


def is_host(host: str) -> bool:
    """Whether that can be a name or an address: getaddrinfo raises odd errors for what cannot."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
        return True
    except ValueError:
        labels = host.removesuffix(".").split(".")
        return len(host) <= 253 and all(re.fullmatch(r"[A-Za-z0-9_-]{1,63}", label, re.ASCII) for label in labels)


def host_of(server: str) -> str | None:
    """The host of `host:port` or `[address]:port`, blanks around it ignored; None when it is neither."""
    try:
        parts = urlsplit(f"//{server.strip()}")
        whole = parts.netloc == server.strip() and "@" not in server
        return parts.hostname if parts.port and whole and is_host(parts.hostname or "") else None
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
