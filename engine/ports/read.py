"""The ports of the read side: reads of a store to which engines write, and the updates that it sends."""

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol, TypeAlias

import msgspec

from crashfold.projections.delta import Value
from crashfold.schemas.aggregates import Update

_CURSOR: Final = re.compile(r"(.{1,100})-(\d{1,16})-([0-9a-f]{16})-(\d{1,19})(?:[-;].*)?", re.ASCII)


class Cursor(msgspec.Struct, frozen=True):
    """The identity of one state of a stream, as `ETag` and event ids carry it.

    A version alone is no identity: a store that loses writes gives the same numbers to other states. `commit` names one
    commit, or what a replica has folded behind one. `next_offset` says how far that is, so that a process which has
    never seen this state knows whether it is behind it.
    """

    generation: str
    version: int
    commit: str
    next_offset: int

    @classmethod
    def parse(cls, text: str | None) -> "Cursor | None":
        """Parse the cursor that a text begins with; None when it is none of ours."""
        found = _CURSOR.fullmatch(text or "")
        return None if found is None else cls(found[1], int(found[2]), found[3], int(found[4]))

    @classmethod
    def all_in(cls, tags: str) -> "Iterator[Cursor]":
        """Parse the cursors in a list of entity tags, such as `If-None-Match` has."""
        for tag in tags.split('"')[1::2]:
            cursor = cls.parse(tag)
            if cursor is not None:
                yield cursor

    def __str__(self) -> str:
        """`<generation>-<version>-<commit>-<next_offset>`."""
        return f"{self.generation}-{self.version}-{self.commit}-{self.next_offset}"


class Standing(msgspec.Struct, frozen=True):
    """The position of a stream: version, generation, offset, totals. Everything that is read together with it is of
    exactly this version."""

    generation: str
    version: int
    topic: str
    partition: int
    next_offset: int
    total_games: int
    newest_id: int
    """0 before the first game."""
    commit: str
    """The id of the commit that made this version, which no other has; '' in a state stored before commits had them."""
    topic_id: str | None = None
    """Which topic of that name the stream was folded from; None where brokers know no ids."""

    @property
    def cursor(self) -> Cursor:
        """Return the cursor of this state, which no other state has."""
        return Cursor(self.generation, self.version, self.commit, self.next_offset)


class Text(msgspec.Struct, frozen=True):
    """A request to read a string: bytes, or None when there is none."""

    name: str


class Fields(msgspec.Struct, frozen=True):
    """A request to read some fields of a hash: a list of bytes or None, in that order."""

    name: str
    fields: tuple[str, ...]


class AllFields(msgspec.Struct, frozen=True):
    """A request to read a whole hash: a dict of bytes by field, empty when there is none."""

    name: str


class First(msgspec.Struct, frozen=True):
    """A request to read the first `count` elements of a list: a list of bytes, empty when there is none."""

    name: str
    count: int


class Whole(msgspec.Struct, frozen=True):
    """A request to read a key of any kind: its value, or None when there is none."""

    name: str


Piece: TypeAlias = Text | Fields | AllFields | First | Whole
Read: TypeAlias = Value | list[bytes | None] | None


class Pieces(msgspec.Struct, frozen=True):
    """Pieces of the read model in the order they were asked for, all of one version."""

    standing: Standing
    values: list[Read]


class WindowPart(msgspec.Struct, frozen=True):
    """The games of a window above some id, as JSON, in order of id; and how many games the whole window has.

    `stored` has the fields of the state that count the games before the window. It is empty for a part of a window.
    """

    standing: Standing
    window_games: int
    games: list[bytes]
    stored: dict[str, bytes] = {}


class StreamOverview(msgspec.Struct, frozen=True):
    """Where a stream stands, its newest game as JSON, and its gaps: first missing id → last."""

    standing: Standing
    newest: bytes | None
    gaps: dict[str, bytes]


class ReadDeadLetter(msgspec.Struct, frozen=True):
    """A dead letter for people: the record's origin, why and when it was put aside, the beginnings of key and value."""

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    time_ms: int
    key: str | None
    value: str | None
    retried: bool


class CachedAnswer(msgspec.Struct, frozen=True):
    """An answer to keep for others: `request` names what was asked, `ttl_s` how long it is kept."""

    stream: str
    version: int
    request: str
    answer: bytes
    ttl_s: int


class Updates(Protocol):
    """A subscription to the updates of one stream, from the moment the block is entered."""

    async def next(self, wait_s: float) -> Update | None:
        """Wait for the next update; None when there was none for `wait_s`. Updates may be lost with the connection: the
        store may have changed without one."""


class LiveReader(Protocol):
    """The reader of streams for the API: keys, windows and updates, each read of one version. Each call is one round
    trip, and its result is of one version."""

    def updates(self, stream: str) -> AbstractAsyncContextManager[Updates]:
        """Subscribe to the updates of the stream, over a connection of its own."""

    async def standing(self, stream: str) -> Standing | None:
        """Return the version, generation and offset of the stream; None when it has no checkpoint."""

    async def read_pieces(self, stream: str, pieces: Sequence[Piece]) -> Pieces | None:
        """Read some keys or fields of the stream at one version; None when it has no checkpoint. Raises StateError for
        another type."""

    async def streams(self, topic: str) -> list[str]:
        """List the streams that engines have found on the topic, by name, in a deployment of many."""

    async def overview(self, stream: str) -> StreamOverview | None:
        """Return the summary of a stream in a list of all; None when it has no checkpoint."""

    async def read_window(self, stream: str, above_id: int) -> WindowPart | None:
        """Read the games of the window whose ids are above `above_id`; None when the stream has no checkpoint."""

    async def cached(self, stream: str, version: int, request: str) -> bytes | None:
        """Return the answer that another process stored; None when there is none (any more)."""

    async def keep(self, answers: Sequence[CachedAnswer]) -> None:
        """Store computed answers for other processes, for a while."""


class DeadLetterReader(Protocol):
    """The reader of dead letters, for lists that people read."""

    async def newest(self, limit: int) -> Sequence[ReadDeadLetter]:
        """List the newest dead letters, newest first: retried ones included, discarded ones not."""


class RateLimits(Protocol):
    """Rate limits: a token bucket for each client, shared by all processes of a deployment."""

    async def take(self, client: str, per_minute: int) -> float:
        """Take a token from the client's bucket, which is refilled steadily by `per_minute` and holds as many: return
        0.0, or the seconds until there is one. Raises StoreUnavailable or StoreRefused when the store cannot tell."""
