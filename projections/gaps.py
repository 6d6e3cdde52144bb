"""Gaps: the ids that are missing between games, as ranges, the newest 10,000 of them."""

import msgspec
import numpy as np

from crashfold.projections.columns import Columns
from crashfold.projections.delta import Delta, Value, WriteHash
from crashfold.projections.games import Games
from crashfold.projections.projection import Moment
from crashfold.projections.settings import GAPS_KEPT
from crashfold.schemas import keys

_FIRST, _LAST, _ORDINAL, _WIDTH = 0, 1, 2, 3
"""The first and last missing id, and the position in the stream of the game that came after them."""


class GapsState(msgspec.Struct, frozen=True, gc=False):
    """How many games were folded, the id of the newest (0 before the first), and the gaps, oldest first."""

    total: int
    newest_id: int
    gaps: Columns


class Gaps:
    """The key `gaps`: first missing id to last missing id."""

    name = keys.GAPS
    version = 2
    aggregates = (keys.GAPS,)

    def empty(self) -> GapsState:
        """No games, so no gaps."""
        return GapsState(0, 0, Columns.empty(_WIDTH))

    def fold(self, state: GapsState, games: Games) -> GapsState:
        """The gaps, with those before each of `games`. The first game of a stream has none before it."""
        ids = games.ids
        newest_id = state.newest_id if state.total else int(ids[0])
        previous = np.concatenate(((newest_id,), ids[:-1]))
        after_gap = np.flatnonzero(ids - previous > 1)[-GAPS_KEPT:]
        gaps = state.gaps
        if len(after_gap):
            rows = np.stack((previous[after_gap] + 1, ids[after_gap] - 1, after_gap + state.total + 1))
            gaps = gaps.append(rows).last(GAPS_KEPT)
        return GapsState(state.total + len(games), int(ids[-1]), gaps)

    def keys(self, moment: Moment[GapsState]) -> dict[str, Value]:
        """All gaps kept."""
        fields = _fields(moment.state.gaps)
        return {keys.GAPS: fields} if fields else {}

    def delta(self, before: Moment[GapsState], after: Moment[GapsState], kept: int) -> Delta:
        """The gaps that opened, those that were filled, split or are no longer among the newest, and those that are
        among them again: a late game that fills one makes room for one that had been pushed out, before the window."""
        old, new = before.state.gaps, after.state.gaps
        if old is new:
            return {}
        known, found = _behind(old, kept), _behind(new, kept)
        known.update(_before(old, new))
        found.update(_before(new, old))
        gone = {field for field in known if field not in found}
        opened = {field: last for field, last in found.items() if known.get(field) != last}
        return {keys.GAPS: WriteHash(opened, tuple(sorted(gone)), len(old))} if opened or gone else {}


def _behind(gaps: Columns, kept: int) -> dict[str, bytes]:
    """The gaps that end behind the first `kept` games of the stream."""
    return _fields(gaps.part(int(np.searchsorted(gaps[_ORDINAL], kept, "right")), len(gaps)))


def _before(gaps: Columns, others: Columns) -> dict[str, bytes]:
    """The gaps that are older than all `others`."""
    return _fields(gaps.part(0, int(np.searchsorted(gaps[_FIRST], others[_FIRST][0])) if len(others) else 0))


def _fields(gaps: Columns) -> dict[str, bytes]:
    firsts, lasts = gaps[_FIRST].tolist(), gaps[_LAST].tolist()
    return {str(first): b"%d" % last for first, last in zip(firsts, lasts, strict=True)}
