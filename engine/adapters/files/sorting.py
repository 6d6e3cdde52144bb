"""Sorting more games than memory holds: sorted runs in temporary files, merged. Blocks."""

import heapq
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import IO, Final, NamedTuple, Self

import msgspec

from crashfold.engine.errors import CrashfoldError

RUN_GAMES: Final = 200_000
"""Held in memory at once: about 100 MB."""
_BLOCK_GAMES: Final = 500


class Placed(NamedTuple):
    """A game's record with its place in the order: by stream, id, file and line."""

    stream: str
    game_id: int
    file: int
    number: int
    value: bytes


class SortedGames:
    """Takes games in any order, and gives them back in theirs."""

    def __init__(self, run_games: int = RUN_GAMES) -> None:
        self._run_games = run_games
        self._held: list[Placed] = []
        self._files = ExitStack()
        self._runs: list[IO[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()

    def add(self, game: Placed) -> None:
        """Take a game. Raises CrashfoldError when the temporary directory is full."""
        self._held.append(game)
        if len(self._held) >= self._run_games:
            self._spill()

    def __iter__(self) -> Iterator[Placed]:
        """All games in order. Once."""
        self._held.sort()
        return heapq.merge(*map(_read, self._runs), self._held)

    def _spill(self) -> None:
        self._held.sort()
        try:
            run = tempfile.TemporaryFile(prefix="crashfold-")  # noqa: SIM115  # open until the games were given back
            self._files.callback(run.close)
            for begin in range(0, len(self._held), _BLOCK_GAMES):
                block = msgspec.msgpack.encode(self._held[begin : begin + _BLOCK_GAMES])
                run.write(len(block).to_bytes(4, "big") + block)
            run.flush()
        except OSError as error:
            raise CrashfoldError(
                f"the games cannot be sorted in {tempfile.gettempdir()}: {error.strerror or error}; make room, or name "
                "another directory by TMPDIR"
            ) from error
        self._runs.append(run)
        self._held = []


def _read(run: IO[bytes]) -> Iterator[Placed]:
    decode = msgspec.msgpack.Decoder(list[Placed]).decode
    run.seek(0)
    while size := run.read(4):
        yield from decode(run.read(int.from_bytes(size, "big")))
