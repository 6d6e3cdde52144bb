"""The window: the newest games themselves. It has no state of its own; every moment brings the window along."""

from crashfold.projections.delta import Delta, SortedSet, Value, WriteSortedSet
from crashfold.projections.games import Games
from crashfold.projections.projection import Moment
from crashfold.schemas import keys


class Window:
    """The key `games`: a sorted set of JSON games by id."""

    name = keys.GAMES
    version = 1
    aggregates = (keys.GAMES,)

    def empty(self) -> None:
        """No state."""

    def fold(self, state: None, games: Games) -> None:
        """Nothing: the window is kept by the stream."""

    def keys(self, moment: Moment[None]) -> dict[str, Value]:
        """All games of the window."""
        return {keys.GAMES: SortedSet(_members(moment.window, len(moment.window)))} if len(moment.window) else {}

    def delta(self, before: Moment[None], after: Moment[None], kept: int) -> Delta:
        """The games that came in, and where the window begins now."""
        # Behind the first `kept` games only the ids tell what is new: a late game shifts all that follow it.
        members = _members(after.window, after.totals.games - kept)
        if before.totals.games > kept:
            for known in before.window.last(before.totals.games - kept).ids.tolist():
                members.pop(known, None)
        first, first_before = after.window.ids[0], before.window.ids[0]
        return {keys.GAMES: WriteSortedSet(members, int(first) if first > first_before else 0, len(before.window))}


def _members(window: Games, newest: int) -> dict[int, bytes]:
    return dict(zip(window.last(newest).ids.tolist(), window.newest_json(newest), strict=True))
