"""A TCP address that leads to one server or another, as a name does after a failover, and a line that can be bad."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from types import TracebackType
from typing import Self


class Proxy:
    """Passes bytes between `address` and the port it leads to, while its `with` block lasts."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ends: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[Thread] = []
        self._drops_replies_to: bytes | None = None
        self._delay_s = 0.0

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _end(self._listener)
        self.cut()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    @property
    def address(self) -> str:
        """`host:port`."""
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def lead_to(self, port: int) -> None:
        """Cut what there is, and lead every new connection to that port."""
        self._port = port
        self.cut()

    def cut(self) -> None:
        """End every connection."""
        for end in list(self._ends):
            _end(end)

    @contextmanager
    def dropping_replies(self, to: bytes = b"") -> Iterator[None]:
        """Requests arrive and are carried out; no reply comes back. At the end every connection is cut, for what was
        dropped is missing in the midst of what follows.

        With `to`, replies come back on each connection until a request with these bytes has passed.
        """
        self._drops_replies_to = to
        try:
            yield
        finally:
            self.cut()
            self._drops_replies_to = None

    @contextmanager
    def delaying_replies(self, delay_s: float) -> Iterator[None]:
        """Each piece of a reply comes so much later."""
        self._delay_s = delay_s
        try:
            yield
        finally:
            self._delay_s = 0.0

    def _start(self, work: Callable[..., None], *args: socket.socket | Event) -> Thread:
        thread = Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was ended
            while True:
                self._start(self._serve, self._listener.accept()[0])

    def _serve(self, near: socket.socket) -> None:
        with near, suppress(OSError), socket.create_connection(("127.0.0.1", self._port)) as far:
            self._ends |= {near, far}
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            asked = Event()
            replies = self._start(self._pass_replies, far, near, asked)
            _pass_on(near, far, lambda data: self._look_at(data, asked))
            replies.join()
            self._ends -= {near, far}

    def _look_at(self, request: bytes, asked: Event) -> bytes:
        if self._drops_replies_to is not None and self._drops_replies_to in request:
            asked.set()
        return request

    def _pass_replies(self, far: socket.socket, near: socket.socket, asked: Event) -> None:
        def passes(data: bytes) -> bytes:
            time.sleep(self._delay_s)
            return b"" if self._drops_replies_to == b"" or asked.is_set() else data

        _pass_on(far, near, passes)


def _pass_on(
    source: socket.socket, target: socket.socket, passes: Callable[[bytes], bytes] = lambda data: data
) -> None:
    """Pass on what comes until one of them is ended, and end the other."""
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(passes(data))
    _end(source)
    _end(target)


def _end(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
