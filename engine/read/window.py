"""The window as it is read from the store: decoded, appended to what is held, and proved whole.

Imports the ports' facts, projections and schemas. Raises StateError for a window that no engine has written.
"""

from collections.abc import Sequence
from typing import Final

import anyio.to_thread
import msgspec
import numpy as np

from crashfold.engine.errors import StateError
from crashfold.engine.ports import WindowPart
from crashfold.engine.read.held import NO_BANDS, HeldState
from crashfold.projections.games import Games
from crashfold.projections.stored import games_before
from crashfold.schemas.game import Game, decode
from crashfold.schemas.record import Unreadable

INLINE_GAMES: Final = 1_000
"""More games than that are decoded in a thread, so that requests go on."""


async def appended(held: HeldState, part: WindowPart) -> Games | None:
    """The window with the newer games behind it; None when those alone do not make up the difference."""
    if part.standing.generation != held.generation or part.standing.version <= held.version or held.is_beyond:
        return None
    if part.standing.total_games - held.total_games != len(part.games):
        return None  # a late game took its place, or games went by that the window no longer has
    more = await decoded_games(part.games)
    if len(more) and more.ids[-1] != part.standing.newest_id:
        return None
    window = held.window.append(more)
    return window.last(part.window_games) if len(held.window) <= part.window_games <= len(window) else None


def prove(part: WindowPart, window: Games) -> None:
    """Raise StateError when the store has lost games of the window, or whatever else makes it another one."""
    ids, standing = window.ids, part.standing
    try:
        before = games_before(part.stored, int(ids[0]) if len(ids) else standing.newest_id + 1)
    except (msgspec.MsgspecError, ValueError):
        raise StateError("the state before the window cannot be read; `crashfold replay` rebuilds") from None
    if before + len(window) != standing.total_games:
        raise StateError(
            f"of {standing.total_games} games {before} came before the window, which has {len(window)}; some are lost, "
            "`crashfold replay` rebuilds"
        )
    if (int(ids[-1]) if len(ids) else 0) != standing.newest_id:
        raise StateError("the window does not end with the newest game; `crashfold replay` rebuilds")


async def decoded_games(members: Sequence[bytes]) -> Games:
    """The games as columns."""
    if len(members) <= INLINE_GAMES:
        return _decoded(members)
    return await anyio.to_thread.run_sync(_decoded, members)


def _decoded(members: Sequence[bytes]) -> Games:
    games: list[Game] = []
    for member in members:
        game = decode(member)
        if isinstance(game, Unreadable):
            raise StateError(f"the window holds something that is no game ({game.detail}); `crashfold replay` rebuilds")
        games.append(game)
    found = Games.of(NO_BANDS, games)
    if (np.diff(found.ids) <= 0).any():
        raise StateError("the window is out of order; `crashfold replay` rebuilds")
    return found
