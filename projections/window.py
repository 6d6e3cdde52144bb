"""The window as it is stored: the newest games of a stream under the key `games`, a sorted set of JSON games by id.

Imports schemas only. The window is no projection: the stream holds its games, and nothing is folded. `StreamState` asks
here for the key and its writes, beside those of the projections.
"""

from typing import Final

from crashfold.projections.delta import Delta, SortedSet, Value, WriteSortedSet
from crashfold.projections.games import Games
from crashfold.schemas import keys

VERSION: Final = 1
"""The version of the stored form, as a projection has one."""


def window_keys(window: Games) -> dict[str, Value]:
    """The key with all games of the window; none before the first game."""
    return {keys.GAMES: SortedSet(_members(window, len(window)))} if len(window) else {}


def window_delta(before: Games, after: Games, dropped: int, added: int) -> Delta:
    """The write that turns the key for the window `before` into that for `after`, neither of them empty.

    The last `dropped` games of `before` and the last `added` of `after` are those that the two do not share in place; a
    late game shifts all that follow it, so only their ids tell which of them are new.
    """
    members = _members(after, added)
    for known in before.last(dropped).ids.tolist():
        members.pop(known, None)
    first, first_before = after.ids[0], before.ids[0]
    return {keys.GAMES: WriteSortedSet(members, int(first) if first > first_before else 0, len(before))}


def _members(window: Games, newest: int) -> dict[int, bytes]:
    return dict(zip(window.last(newest).ids.tolist(), window.newest_json(newest), strict=True))
