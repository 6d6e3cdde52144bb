"""Counts games that do not fit their hashes, among those that a live engine has folded."""

from collections.abc import Sequence

import structlog

from crashfold.engine.games.fairness import Arrival, FairnessCheck, Faults
from crashfold.engine.meter import Meter
from crashfold.engine.ports import Rejection, StreamFold
from crashfold.projections import StreamState
from crashfold.projections.stream import Folded

log = structlog.get_logger()


class FairnessCount:
    """A `FoldObserver` that tells the meter. A rebuild has none: its games were counted when they came first."""

    def __init__(self, check: FairnessCheck, meter: Meter) -> None:
        self._check = check
        self._meter = meter

    def observe(self, partition: int, rejected: Sequence[Rejection], folds: Sequence[StreamFold]) -> None:
        """Count the faults of these games, and those that were rejected for one."""
        arrivals = [_arrival(fold) for fold in folds]
        faults = self._check.faults(one for one in arrivals if len(one.accepted))
        faults += Faults(sum(reason == "fairness" for _, reason, _ in rejected))
        if faults.hash:
            self._meter.unfair("hash", faults.hash)
        if faults.chain:
            self._meter.unfair("chain", faults.chain)
        if faults.hash or faults.chain:
            log.warning("unfair_games", partition=partition, hash=faults.hash, chain=faults.chain)


def _arrival(fold: StreamFold) -> Arrival:
    before, folded = fold.before, fold.folded
    assert isinstance(before, StreamState), "games are folded by GameFolding"
    assert isinstance(folded, Folded), "games are folded by GameFolding"
    return Arrival(fold.stream, before.window, folded.games)
