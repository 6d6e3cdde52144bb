"""Pieces of the read model together with the state that is held, both of one version.

Imports the ports and the follower.
"""

from typing import Final

import structlog

from crashfold.engine.errors import CrashfoldError
from crashfold.engine.ports import LiveReader, Piece, Pieces
from crashfold.engine.read.follower import CATCH_UP_S, Follower
from crashfold.engine.read.held import HeldState

READS_MAX: Final = 3
"""How often pieces are read anew because a commit came in between."""

_log = structlog.get_logger()


async def read_pieces(
    reader: LiveReader, follower: Follower, pieces: tuple[Piece, ...]
) -> tuple[HeldState, Pieces] | None:
    """The pieces and the state held, of one version; None when that cannot be had.

    A commit may come between: then the follower is waited for, or the pieces are read again.
    """
    for _ in range(READS_MAX):
        try:
            read = await reader.read_pieces(follower.stream, pieces)
        except CrashfoldError as error:
            _log.warning("precomputed_unreadable", stream=follower.stream, fault=str(error))
            return None
        if read is None or not await follower.wait_for(read.standing.version, CATCH_UP_S):
            return None
        held = follower.held
        if held.standing == read.standing:
            return held, read
    return None
