"""The soak's oracle: what stands on the topic, and what readers must be told of it.

Imports the plain definition and the API's oracle of the tests; nothing of the engine. What is always true: it has read
the topic by a connection of its own, straight from the broker, and keeps of each stream at which offset each game was
accepted; so it can say what any state, named by the offset up to which it is folded, must be.
"""

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import anyio
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from crashfold.projections import plain
from crashfold.projections.delta import Value
from crashfold.projections.settings import ProjectionSettings
from crashfold.schemas.game import Game, decode
from crashfold.schemas.record import Unreadable, stream_name
from tests.support.api_oracle import Oracle
from tests.support.clients import consuming
from tests.support.deployment import Letter

PATIENCE_S: Final = 120.0
"""How long an offset is waited for before it is taken for none of the topic: a broker may be down meanwhile."""
BEFORE_WINDOW: Final = 1_000
"""Games before the window in which a series of the window may have begun: more than any run is long here."""


class Line:
    """One stream: the games that count, in the order in which they were accepted, and where."""

    def __init__(self, settings: ProjectionSettings, partition: int) -> None:
        self.partition = partition
        self.arrivals = plain.Arrivals(settings)
        self.games: list[Game] = []
        self.offsets: list[int] = []
        self.newest_ids: list[int] = []
        """The newest id after each of them."""

    def accept(self, game: Game, offset: int) -> None:
        """The record at that offset was a game that counts."""
        self.games.append(game)
        self.offsets.append(offset)
        self.newest_ids.append(max(game.game_id, self.newest_ids[-1] if self.newest_ids else 0))

    def total(self, next_offset: int) -> int:
        """How many games count below that offset."""
        return bisect_left(self.offsets, next_offset)


class Truth:
    """All streams of one topic."""

    def __init__(self, settings: ProjectionSettings, only: str | None = None) -> None:
        self.settings = settings
        self.lines: dict[str, Line] = {}
        self.read_to: dict[int, int] = {}
        """By partition: every record below that offset is known here."""
        self.records = 0
        self.letters: set[Letter] = set()
        self._only = only

    async def follow(self, bootstrap_servers: str, topic: str, partitions: int) -> None:
        """Read the topic, until cancelled; a broker that is away is waited for."""
        while True:
            with suppress(KafkaError, OSError, TimeoutError):
                await self._read(bootstrap_servers, [TopicPartition(topic, number) for number in range(partitions)])
            await anyio.sleep(0.2)

    async def _read(self, bootstrap_servers: str, places: list[TopicPartition]) -> None:
        async with consuming(
            bootstrap_servers=bootstrap_servers,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            enable_auto_commit=False,
            metadata_max_age_ms=2_000,
            request_timeout_ms=10_000,
        ) as consumer:
            consumer.assign(places)
            for place in places:
                consumer.seek(place, self.read_to.get(place.partition, 0))
            while True:
                for place, records in (await consumer.getmany(timeout_ms=50)).items():
                    for record in records:
                        self.add(place.partition, record.offset, record.key, record.value)
                for place in places:
                    self.read_to[place.partition] = await consumer.position(place)

    def add(self, partition: int, offset: int, key: bytes | None, value: bytes | None) -> None:
        """Take the next record of a partition."""
        self.records += 1
        stream, reason = stream_name(key), None
        if isinstance(stream, Unreadable):
            reason = "unreadable"
        elif self._only is not None and stream != self._only:
            reason = "stream"
        elif isinstance(game := decode(value), Unreadable):
            reason = "unreadable"
        else:
            line = self.lines.get(stream)
            if line is None:
                line = self.lines[stream] = Line(self.settings, partition)
            known = line.arrivals.duplicates
            reason = line.arrivals.arrive(game)
            if reason is None and line.arrivals.duplicates == known:
                line.accept(game, offset)
        if reason is not None:
            self.letters.add(Letter(partition, offset, reason))
        self.read_to[partition] = offset + 1

    def knows(self, stream: str, next_offset: int) -> bool:
        """Whether all records of the stream below that offset have been read here."""
        line = self.lines.get(stream)
        return line is not None and self.read_to.get(line.partition, 0) >= next_offset

    def wait_until_known(self, stream: str, next_offset: int) -> bool:
        """Block until `knows`; False when that takes too long, for then the topic has no such offset."""
        until_s = time.monotonic() + PATIENCE_S
        while not self.knows(stream, next_offset):
            if time.monotonic() > until_s:
                return False
            time.sleep(0.02)
        return True

    def total(self, stream: str, next_offset: int) -> int:
        """How many games of the stream count below that offset."""
        line = self.lines.get(stream)
        return 0 if line is None else line.total(next_offset)

    def between(self, stream: str, after_offset: int, next_offset: int) -> list[Game]:
        """The games that a state has and an earlier one has not, oldest first; states are named by their offsets."""
        line = self.lines[stream]
        found = line.games[line.total(after_offset) : line.total(next_offset)]
        return sorted(found, key=lambda game: game.game_id)

    def newest(self, stream: str, total: int, count: int) -> list[Game]:
        """The newest games of the first `total` that were accepted, oldest first. A game that came late stands at most
        a window before the others."""
        some = self.lines[stream].games[max(0, total - count - self.settings.window_games) : total]
        return sorted(some, key=lambda game: game.game_id)[-count:]

    def answer(self, stream: str, total: int, ask: Callable[[Oracle], Any], zone: str, *, beyond: bool) -> Any:
        """What the API must answer when it has the first `total` games that were accepted.

        With `beyond` the question is one of those that remember what lies before the window.
        """
        window_games = self.settings.window_games
        seen = self.newest(stream, total, window_games + (BEFORE_WINDOW if beyond else 0))
        found = ask(Oracle(seen, zone, 0, None))
        if isinstance(found, dict) and "series" in found and len(seen) > window_games:
            oldest = seen[-window_games].game_id
            found["series"] = [one for one in found["series"] if int(one["end_game_id"]) >= oldest]
            found["count"] = len(found["series"])
        return found

    def totals_with_newest(self, stream: str, game_id: int, at_least: int) -> Sequence[int]:
        """How many games may be there when this is the newest of them, and at least so many are."""
        newest_ids = self.lines[stream].newest_ids
        first, last = bisect_left(newest_ids, game_id), bisect_right(newest_ids, game_id)
        return range(max(first + 1, at_least), last + 1)

    def read_model(self, stream: str, next_offset: int) -> dict[str, Value]:
        """Every key that the stream must have in Redis, by what follows its prefix."""
        line = self.lines[stream]
        games = sorted(line.games[: line.total(next_offset)], key=lambda game: game.game_id)
        return plain.read_model(self.settings, games)

    def letters_below(self, offsets: dict[int, int]) -> set[Letter]:
        """The dead letters that there must be once all records below these offsets are passed."""
        return {letter for letter in self.letters if letter.offset < offsets.get(letter.partition, 0)}
