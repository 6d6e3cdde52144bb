"""The alert by which a server refuses a client's certificate.

Imports the standard library and nothing else. With TLS 1.3 a server refuses a certificate, or the lack of one, after
the handshake: its alert races with what the client has sent, and a connection that is reset loses it.
"""

import socket
import ssl
from typing import Final

ALERT_S: Final = 1.0
AWAY: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
"""A connection that was lost while it was made."""


def alert_of(host: str, port: int, context: ssl.SSLContext) -> ssl.SSLError | None:
    """Connect, send nothing, and return the TLS alert of the server; None without one. Blocks, for `ALERT_S` at most
    a step: event loops take an alert for a connection that has ended."""
    try:
        with (
            socket.create_connection((host, port), timeout=ALERT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as encrypted,
        ):
            encrypted.recv(1)
    except ssl.SSLError as error:
        return None if isinstance(error, AWAY) else error
    except OSError:
        return None
    return None
