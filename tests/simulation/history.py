"""What was ever on the topic, and what it makes of the read model by the plain definition: the simulation's oracle.

Imports schemas, projections.plain and nothing of the engine: arrival by arrival, the rules of docs/rules.md again.
"""

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from crashfold.projections import plain
from crashfold.projections.delta import Value
from crashfold.projections.settings import ProjectionSettings
from crashfold.schemas.game import Game, decode
from crashfold.schemas.record import Unreadable, stream_name


class Appended(NamedTuple):
    """A record that was put on the topic."""

    offset: int
    key: bytes | None
    value: bytes | None


class Told:
    """One partition from one offset on: what becomes of each of its records."""

    def __init__(self, settings: ProjectionSettings, only: str | None, begin: int) -> None:
        self._settings = settings
        self._only = only
        self.begin = begin
        self.rejected: dict[int, tuple[str, str | None]] = {}
        """By offset: why the record is a dead letter, and the stream whose checkpoint passes it."""
        self._arrivals: dict[str, plain.Arrivals] = {}
        self._games: dict[str, list[tuple[int, Game]]] = {}
        self._totals: dict[str, tuple[list[int], list[int]]] = {}
        self.last: dict[str, int] = {}
        """By stream: the offset of its last record."""

    def add(self, record: Appended) -> None:
        """Take the next record."""
        if record.offset < self.begin:
            return
        reason, name = self._arrive(record)
        if reason is not None:
            self.rejected[record.offset] = (reason, name)

    def _arrive(self, record: Appended) -> tuple[str | None, str | None]:
        name = stream_name(record.key)
        if isinstance(name, Unreadable):
            return "unreadable", self._only
        if self._only is not None and name != self._only:
            return "stream", self._only
        self.last[name] = record.offset
        offsets, totals = self._totals.setdefault(name, ([], []))
        arrivals = self._arrivals.setdefault(name, plain.Arrivals(self._settings))
        game = decode(record.value)
        reason = "unreadable" if isinstance(game, Unreadable) else arrivals.arrive(game)
        if isinstance(game, Game):
            self._games.setdefault(name, []).append((record.offset, game))
        offsets.append(record.offset)
        totals.append(len(arrivals.accepted))
        return reason, name

    def total(self, stream: str, next_offset: int) -> int:
        """How many games of the stream are accepted below that offset."""
        offsets, totals = self._totals.get(stream, ([], []))
        at = bisect_right(offsets, next_offset - 1)
        return totals[at - 1] if at else 0

    def read_model(self, stream: str, next_offset: int) -> dict[str, Value]:
        """Every key of the stream at that offset."""
        games = (game for offset, game in self._games.get(stream, ()) if offset < next_offset)
        return plain.read_model(self._settings, plain.accept(self._settings, games))

    def letters(self, stream: str, next_offset: int) -> Iterator[tuple[int, str]]:
        """Offset and reason of the dead letters that there must be once that stream's checkpoint stands there."""
        for offset, (reason, name) in self.rejected.items():
            if offset < next_offset and name == stream:
                yield offset, reason


class Topic:
    """One topic, from its creation to its end: everything that was ever appended, whatever retention removed."""

    def __init__(self, settings: ProjectionSettings, only: str | None, partitions: int) -> None:
        self._settings = settings
        self._only = only
        self.records: list[list[Appended]] = [[] for _ in range(partitions)]
        self._told: dict[tuple[int, int], Told] = {}

    def append(self, partition: int, record: Appended) -> None:
        """A record was put on the topic."""
        self.records[partition].append(record)
        for (number, _), told in self._told.items():
            if number == partition:
                told.add(record)

    def told(self, partition: int, begin: int = 0) -> Told:
        """What the partition says when it is read from that offset on."""
        found = self._told.get((partition, begin))
        if found is None:
            found = self._told[partition, begin] = Told(self._settings, self._only, begin)
            for record in self.records[partition]:
                found.add(record)
        return found

    def has(self, partition: int, offset: int, key: bytes | None, value: bytes | None) -> bool:
        """Whether exactly this record stood there."""
        return partition < len(self.records) and Appended(offset, key, value) in self.records[partition]
