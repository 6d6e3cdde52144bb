"""Clients that cost little: plain sockets on one thread, each asks, takes the whole answer, and asks the next.

Standard library only. What is always true: a latency is from the request's first byte handed to the kernel to the
answer's last byte taken from it, and no two requests are under way on one connection.
"""

import select
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Final, NamedTuple, Self

HOST: Final = "127.0.0.1"
DEADLINE_S: Final = 30.0

_LENGTH: Final = b"content-length: "
_CHUNK: Final = 1 << 20


class Answer(NamedTuple):
    """What came back for the request of that number, and how long that took."""

    number: int
    latency_s: float
    head: bytes
    body: bytes

    @property
    def status(self) -> int:
        """200 and its like."""
        return int(self.head[9:12])

    def header(self, name: str) -> str | None:
        """The value of a header, by its name in lower case."""
        for line in self.head.split(b"\r\n")[1:]:
            found, _, value = line.partition(b": ")
            if found.lower() == name.encode():
                return value.decode("latin-1")
        return None


def request(path: str, body: bytes | None = None, headers: str = "") -> bytes:
    """A request as it goes over the wire: POST with a body, else GET. `headers` are whole lines, with their ends."""
    if body is None:
        return f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{headers}\r\n".encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


class Clients:
    """So many clients of one server, or shared out among several. Leaving the block closes their connections."""

    def __init__(self, ports: int | Sequence[int], count: int) -> None:
        among = [ports] if isinstance(ports, int) else ports
        self._sockets = [
            socket.create_connection((HOST, among[number % len(among)]), timeout=DEADLINE_S) for number in range(count)
        ]
        self._poll = select.epoll()
        self._by_number = {one.fileno(): one for one in self._sockets}
        for one in self._sockets:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._poll.register(one, select.EPOLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._poll.close()
        for one in self._sockets:
            one.close()

    def ask_one(self, asked: bytes) -> Answer:
        """The answer to one request of the first client."""
        (answer,) = self.ask([asked])
        return answer

    def ask(self, requests: Sequence[bytes]) -> list[Answer]:
        """The answer to every request, in the order in which they came; each client takes the next as it gets free."""
        return [*self.asking(requests)]

    def asking(self, requests: Iterable[bytes]) -> Iterator[Answer]:
        """The same, as they come. Raises TimeoutError when nothing comes for long."""
        due = enumerate(requests)
        waiting: dict[int, tuple[int, float, list[bytes], int]] = {}

        def send(one: socket.socket) -> None:
            for number, asked in due:
                waiting[one.fileno()] = (number, time.perf_counter(), [], -1)
                one.sendall(asked)
                return

        for one in self._sockets:
            send(one)
        while waiting:
            ready = self._poll.poll(DEADLINE_S)
            if not ready:
                raise TimeoutError(f"no answer in {DEADLINE_S:.0f} s")
            for file, _ in ready:
                part = self._by_number[file].recv(_CHUNK)
                now_s = time.perf_counter()
                number, began_s, parts, missing = waiting[file]
                if not part:
                    raise ConnectionError("the server has closed a connection")
                parts.append(part)
                missing = missing - len(part) if missing >= 0 else _missing(parts)
                if missing:
                    waiting[file] = (number, began_s, parts, missing)
                    continue
                del waiting[file]
                send(self._by_number[file])
                head, _, body = (parts[0] if len(parts) == 1 else b"".join(parts)).partition(b"\r\n\r\n")
                yield Answer(number, now_s - began_s, head, body)


def _missing(parts: list[bytes]) -> int:
    """How many bytes of the answer have not come yet; -1 when its head has not."""
    if len(parts) > 1:
        parts[:] = [b"".join(parts)]
    head = parts[0].find(b"\r\n\r\n")
    if head < 0:
        return -1
    start = parts[0].find(_LENGTH, 0, head)
    if start < 0:
        raise ConnectionError("an answer without content-length")
    start += len(_LENGTH)
    end = parts[0].find(b"\r", start)
    return head + 4 + int(parts[0][start:end]) - len(parts[0])
