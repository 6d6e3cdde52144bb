"""Connections: what uvicorn needs to serve the read side.

Imports the protocols. What is always true: all connections of a server share one `Places`, whatever they speak.
"""

from functools import partial
from typing import Any, Final

from crashfold.engine.http.http11 import HttpProtocol
from crashfold.engine.http.places import Places
from crashfold.engine.http.websocket import WebSocketProtocol

GRACE_S: Final = 5
"""How long requests under way may take after the signal to stop. Live clients need less: see `Live.stop`."""
MESSAGE_BYTES_MAX: Final = 4096
"""Clients of the WebSocket have nothing to say."""


def connection_options(places: Places) -> dict[str, Any]:
    """Return the options for `uvicorn.Config`."""
    return {
        "http": partial(HttpProtocol, places=places),
        "ws": partial(WebSocketProtocol, places=places),
        "ws_max_size": MESSAGE_BYTES_MAX,
        "ws_per_message_deflate": False,  # It would print each message once a client instead of once.
        "timeout_graceful_shutdown": GRACE_S,
    }
