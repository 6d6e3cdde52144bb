"""The API under test: a stream filled by the engine's own fold, and `crashfold serve` as a process of its own.

Imports the engine, as a user's deployment would. Always true: a server answers on a port of its own, and is ended by
its process id when its block ends.
"""

import os
import resource
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Final

import httpx

from crashfold.engine.adapters.embedded import free_port
from crashfold.engine.ports import Applied, Checkpoint, Commit, Position, StateStore
from crashfold.projections import Plan, StreamState, plan
from crashfold.projections.settings import ProjectionSettings
from crashfold.schemas.game import Game

START_S: Final = 30.0
STREAM: Final = "crash"


class Writer:
    """Commits games as the engine does, without a topic: offsets count the games."""

    def __init__(
        self,
        store: StateStore,
        settings: ProjectionSettings | None = None,
        *,
        stream: str = STREAM,
        generation: str = "g1",
        topic: str = "games",
    ) -> None:
        self._store = store
        self._plan: Plan = plan(settings or ProjectionSettings())
        self._stream = stream
        self._generation = generation
        self._topic = topic
        self.state = StreamState.empty(self._plan)
        self.version = 0
        self._position: Position | None = None
        self._offset = 0

    def saved(self) -> "Writer":
        """A writer that goes on from here, as an engine does after Redis went back to this moment."""
        return copy(self)

    async def commit(self, games: Sequence[Game], *, offset: int | None = None) -> int:
        """Fold the games and commit; the version. `offset` is where the topic goes on behind them."""
        folded = self.state.fold(games)
        self._offset = self._offset + len(games) if offset is None else offset
        delta = folded.state.create() if self._position is None else folded.state.delta(self.state, folded.kept)
        totals = folded.state.totals
        checkpoint = Checkpoint(
            next_offset=self._offset,
            generation=self._generation,
            commit=secrets.token_hex(8),
            writer="test",
            topic=self._topic,
            partition=0,
            first_offset=0,
            mark=None,
            fingerprint=self._plan.fingerprint,
            aggregates=self._plan.aggregates,
        )
        made = Commit(self._stream, self._position, checkpoint, delta, totals.games, totals.newest_id)
        (outcome,) = await self._store.commit([made])
        assert isinstance(outcome, Applied), outcome
        self.state, self._position, self.version = folded.state, checkpoint.position, outcome.version
        return self.version


class ApiServer:
    """A running `crashfold serve`."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: IO[bytes]) -> None:
        self.process = process
        self.port = port
        self._log = log

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        """What it wrote so far."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def terminate(self, timeout_s: float = 15.0) -> tuple[int, float]:
        """Tell it to end; its exit code, and how many seconds that took."""
        began_s = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s), time.monotonic() - began_s

    def client(self, **kwargs: object) -> httpx.AsyncClient:
        """A client of this server, which uses no proxy."""
        return httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=20, **kwargs)  # type: ignore[arg-type]


def serve_command(redis_url: str, port: int, *flags: str) -> list[str]:
    """The command line of `crashfold serve`."""
    return [
        *(sys.executable, "-m", "crashfold.engine.cli", "serve", "--redis.url", redis_url, "--api.port", str(port)),
        *("--api.host", "127.0.0.1", "--log.format", "json"),
        *flags,
    ]


@contextmanager
def api_server(
    redis_url: str, *flags: str, ready: bool = True, port: int | None = None, open_files: int | None = None
) -> Iterator[ApiServer]:
    """`crashfold serve` on that Redis, with further flags; once it is ready, unless that is not asked for. `open_files`
    is how many it may have open at first."""
    port = port or free_port()
    command = serve_command(redis_url, port, *flags)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CRASHFOLD_")}
    root = Path(__file__).resolve().parents[2]
    with TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=root, env=environ, preexec_fn=partial(_limit_files, open_files)
        )
        server = ApiServer(process, port, log)
        try:
            _wait(server, "/readyz" if ready else "/livez")
            yield server
        finally:
            process.kill()
            process.wait()


def _limit_files(open_files: int | None) -> None:
    if open_files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def _wait(server: ApiServer, path: str) -> None:
    deadline_s = time.monotonic() + START_S
    with httpx.Client(base_url=server.url, trust_env=False, timeout=2) as client:
        while True:
            if server.process.poll() is not None:
                raise AssertionError(f"the server ended:\n{server.log()}")
            try:
                if client.get(path).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline_s, server.log()
            time.sleep(0.05)
