"""The live page: files that browsers get as they are, and the handlers that serve them.

Imports litestar. What is always true: the page loads nothing from another host, runs no inline script or style, and
the browser is told to hold it to that.
"""

import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any, Final

import msgspec
from litestar import Request, get
from litestar.handlers import HTTPRouteHandler
from litestar.response.base import ASGIResponse

FILES: Final = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "chart.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
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
}


class _File(msgspec.Struct, frozen=True):
    body: bytes
    headers: dict[str, str]


def page_routes() -> Sequence[HTTPRouteHandler]:
    """The handlers of `/` and of the files below `/page/`."""
    return [_handler(path, _read(name)) for name, path in PATHS.items()]


def _handler(path: str, file: _File) -> HTTPRouteHandler:
    @get(path, include_in_schema=False, name=f"page:{path}")
    async def serve(request: Request[Any, Any, Any]) -> ASGIResponse:
        known = request.headers.get("if-none-match", "")
        if known == "*" or file.headers["etag"] in (tag.strip().removeprefix("W/") for tag in known.split(",")):
            return ASGIResponse(status_code=304, headers=file.headers)
        return ASGIResponse(body=file.body, headers=file.headers)

    return serve


def _read(name: str) -> _File:
    body = (resources.files(__name__) / name).read_bytes()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return _File(body, HEADERS | {"content-type": FILES[name], "etag": etag})
