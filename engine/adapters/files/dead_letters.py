"""Dead letters in a file: for games that come from a file, when there is no topic to put them on.

A letter is a line of JSON: what `StoredDeadLetter` says, key and value as text with what is no UTF-8 escaped.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio.to_thread
import msgspec

from crashfold.engine.adapters.dead_letters import StoredDeadLetter
from crashfold.engine.errors import ConfigurationError
from crashfold.engine.ports import DeadLetter


class FileDeadLetters:
    """`DeadLetters`, appended to a file that is made with the first letter."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def beside(cls, games: Path) -> Self:
        """The file of dead letters that belongs to a file of games: its name with `.dead.jsonl` behind it."""
        return cls(games.with_name(f"{games.name}.dead.jsonl"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def put(self, letters: Sequence[DeadLetter]) -> None:
        """Append them; returns when they are on disk. Raises ConfigurationError when the file cannot be written."""
        lines = b"".join(_line(StoredDeadLetter.of(letter)) for letter in letters)
        try:
            await anyio.to_thread.run_sync(_append, self.path, lines)
        except OSError as error:
            raise ConfigurationError(
                f"{self.path} cannot be written: {error.strerror or error}. Dead letters of a file go beside it; run "
                "with a copy of the file where writing is allowed."
            ) from error


def _append(path: Path, lines: bytes) -> None:
    with path.open("ab") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def _line(letter: StoredDeadLetter) -> bytes:
    return msgspec.json.encode(letter.shown()) + b"\n"
