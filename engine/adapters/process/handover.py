"""Handover: what changed hands between two polls of a log whose partitions come and go.

Imports nothing of a client. A partition that is taken away and given back between two polls is reported both as lost
and as gained (lost comes first): somebody else may have read it in between.
"""


class Handover:
    """The partitions held, how far each was read, and what a poll has yet to report.

    `positions` has the next offset of each partition held that was sought; those not yet sought are not in it.
    """

    def __init__(self) -> None:
        self.positions: dict[int, int] = {}
        self._held: set[int] = set()
        self._gained: set[int] = set()
        self._lost: set[int] = set()

    @property
    def held(self) -> frozenset[int]:
        """The partitions held now, reported or not."""
        return frozenset(self._held)

    @property
    def pending(self) -> bool:
        """Whether there is anything to report."""
        return bool(self._gained or self._lost)

    def gain(self, partitions: set[int]) -> None:
        """These partitions are ours from now on; those that were already are not touched."""
        fresh = partitions - self._held
        self._held |= fresh
        self._gained |= fresh

    def lose(self, partitions: set[int]) -> None:
        """These partitions are no longer ours; those never reported as gained need not be reported as lost."""
        gone = partitions & self._held
        self._held -= gone
        self._lost |= gone - self._gained
        self._gained -= gone
        for partition in gone:
            self.positions.pop(partition, None)

    def seek(self, partition: int, next_offset: int) -> bool:
        """Note where to read on; False when the partition is not held, and the next poll will say so."""
        if partition not in self._held:
            return False
        self.positions[partition] = next_offset
        return True

    def report(self) -> tuple[frozenset[int], frozenset[int]]:
        """Return the partitions gained and lost since the last report."""
        changed = frozenset(self._gained), frozenset(self._lost)
        self._gained.clear()
        self._lost.clear()
        return changed
