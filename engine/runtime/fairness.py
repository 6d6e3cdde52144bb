"""Counts games that do not fit their hashes, among those that a live engine has folded."""

import structlog

from crashfold.engine.core.batch import Batch
from crashfold.engine.core.fairness import FairnessCheck, Faults
from crashfold.engine.meter import Meter
from crashfold.engine.runtime.folder import FoldedRecords

log = structlog.get_logger()


class FairnessCount:
    """Tells the meter. Counts nothing without a check; a rebuild has none, since its games were counted when they came
    first."""

    def __init__(self, check: FairnessCheck | None, meter: Meter) -> None:
        self._check = check
        self._meter = meter

    def count(self, partition: int, batch: Batch, folded: FoldedRecords) -> None:
        """Count the faults of these games, and those that were rejected for one."""
        if self._check is None:
            return
        faults = Faults(sum(reason == "fairness" for _, reason, _ in batch.rejected))
        for one in folded.folds:
            if one.folded.accepted:
                faults += self._check.faults(one.stream, one.before.window, one.folded.games)
        if faults.hash:
            self._meter.unfair("hash", faults.hash)
        if faults.chain:
            self._meter.unfair("chain", faults.chain)
        if faults.hash or faults.chain:
            log.warning("unfair_games", partition=partition, hash=faults.hash, chain=faults.chain)
