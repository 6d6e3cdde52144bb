"""The live page: files that browsers get as they are.

Imports the form of a reply. What is always true: the page loads nothing from another host, runs no inline script or
style, and the browser is told to hold it to that.
"""

import hashlib
from importlib import resources
from typing import Final

from crashfold.engine.http.replies import Reply

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FOLDER: Final = resources.files(__name__)
FILES: Final = {
    name: _TYPES[suffix]
    for name in sorted(file.name for file in _FOLDER.iterdir())
    if (suffix := name[name.rfind(".") :]) in _TYPES
}
"""The files in this folder, with their media types."""
INDEX: Final = "index.html"
PATHS: Final = {name: "/" if name == INDEX else f"/page/{name}" for name in FILES}
"""Where each is served. None of them holds data, so they need no token: the page asks for it."""

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
    "vary": "Accept-Encoding",
}


def pages() -> dict[str, Reply]:
    """`/` and the files below `/page/`, by path."""
    return {path: _read(name) for name, path in PATHS.items()}


def _read(name: str) -> Reply:
    return file_reply(PATHS[name], (_FOLDER / name).read_bytes(), FILES[name])


def file_reply(path: str, body: bytes, content_type: str, policy: str = POLICY) -> Reply:
    """A file as browsers get it: they ask again whether it has changed, and hold it to the policy."""
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    own = {"content-type": content_type, "content-length": str(len(body)), "etag": etag}
    headers = {**HEADERS, "content-security-policy": policy, **own}
    encoded = tuple((field.encode(), value.encode()) for field, value in headers.items())
    return Reply(200, encoded, body, etag=etag.encode(), route=path, is_file=True)
