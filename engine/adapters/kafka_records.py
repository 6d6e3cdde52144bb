"""The records of one fetch from one partition, walked batch by batch into columns.

Imports aiokafka's record parser. aiokafka's own consumer makes an object of eleven fields of every record, which costs
several times as much as parsing it; here a record is four items in four lists. Whatever is left out (aborted
transactions, control batches, compacted records) is passed by `next_fetch_offset`, and nothing else is.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

from aiokafka.errors import CorruptRecordException
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.memory_records import MemoryRecords

from engine.core.facts import Records


class FetchedRecords:
    """What is left of a fetch of committed records. `next_fetch_offset` is where the partition is to be read on.

    `aborted` are the aborted transactions that the broker named: producer and first offset.
    """

    def __init__(self, records: MemoryRecords, aborted: Iterable[tuple[int, int]], next_offset: int) -> None:
        self.next_fetch_offset = next_offset
        self._records = records
        self._aborted = sorted(aborted, key=lambda transaction: transaction[1], reverse=True)
        self._aborting: set[int] = set()
        self._batch: Any = None
        self._rows: Iterator[Any] = iter(())
        self._fault: Exception | None = None
        self._load()

    @property
    def exhausted(self) -> bool:
        """Whether everything has been taken."""
        return self._batch is None and self._fault is None

    def take(self, partition: int, games_max: int) -> Records:
        """The next records, at most `games_max`. Raises CorruptRecordException when the next one cannot be read."""
        taken = self.take_parsed(games_max)
        return Records(
            partition,
            self.next_fetch_offset,
            [record.offset for record in taken],
            [record.timestamp for record in taken],
            [record.key for record in taken],
            [record.value for record in taken],
        )

    def take_parsed(self, games_max: int) -> list[Any]:
        """The same as the parser makes them: with `offset`, `timestamp`, `key`, `value` and `headers`."""
        taken: list[Any] = []
        while self._batch is not None and len(taken) < games_max:
            wanted = games_max - len(taken)
            try:
                some = list(islice(self._rows, wanted))
            except Exception as error:  # the parser and the decompressors raise what they like
                self._batch, self._fault = None, error
                break
            ended = len(some) < wanted
            if some and some[0].offset < self.next_fetch_offset:  # the fetch began in the middle of a batch
                some = [record for record in some if record.offset >= self.next_fetch_offset]
            if some:
                taken += some
                self.next_fetch_offset = some[-1].offset + 1
            if ended:
                self.next_fetch_offset = max(self.next_fetch_offset, self._batch.next_offset)
                self._load()
        if self._fault is not None and not taken:
            raise CorruptRecordException(f"the record at offset {self.next_fetch_offset}: {self._fault!r}")
        return taken

    def _load(self) -> None:
        """Go on to the next batch that may have records for us, past those that have none."""
        self._batch = None
        while self._records.has_next():
            batch: Any = self._records.next_batch()
            if not batch.validate_crc():
                self._fault = ValueError("the checksum is wrong")
                return
            if not self._is_left_out(batch):
                self._batch = batch
                # A batch is its own iterator and refuses to be asked for one again; a chain does not mind.
                self._rows = chain(batch)
                return
            self.next_fetch_offset = max(self.next_fetch_offset, batch.next_offset)

    def _is_left_out(self, batch: Any) -> bool:
        producer = batch.producer_id
        if producer is not None:
            while self._aborted and self._aborted[-1][1] <= batch.base_offset:
                self._aborting.add(self._aborted.pop()[0])
        if batch.is_control_batch:
            marker = next(batch, None)
            if marker is not None and ControlRecord.parse(marker.key) == ABORT_MARKER:
                self._aborting.discard(producer)
            return True
        return bool(batch.is_transactional and producer in self._aborting)
