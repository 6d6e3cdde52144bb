"""What the read side asks the store for while others write to it, and what it is told. Frozen values, no I/O."""

from typing import TypeAlias

import msgspec


class Standing(msgspec.Struct, frozen=True):
    """Where a stream stands. Everything that is read together with it is of exactly this version."""

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


class Text(msgspec.Struct, frozen=True):
    """The string of that name: read as bytes, or None."""

    name: str


class Fields(msgspec.Struct, frozen=True):
    """Some fields of a hash: read as a list of bytes or None, in that order."""

    name: str
    fields: tuple[str, ...]


class AllFields(msgspec.Struct, frozen=True):
    """A whole hash: read as a dict of bytes by name, empty when there is none."""

    name: str


class First(msgspec.Struct, frozen=True):
    """The first `count` elements of a list: read as a list of bytes, empty when there is none."""

    name: str
    count: int


Piece: TypeAlias = Text | Fields | AllFields | First
Read: TypeAlias = bytes | list[bytes | None] | list[bytes] | dict[str, bytes] | None


class Pieces(msgspec.Struct, frozen=True):
    """Pieces of the read model in the order they were asked for, all of one version."""

    standing: Standing
    values: list[Read]


class WindowPart(msgspec.Struct, frozen=True):
    """The games of a window above some id, as JSON, in order of id; and how many games the whole window has."""

    standing: Standing
    window_games: int
    games: list[bytes]


class CachedAnswer(msgspec.Struct, frozen=True):
    """An answer to keep for others: `request` names what was asked, `ttl_s` how long it is kept."""

    stream: str
    version: int
    request: str
    answer: bytes
    ttl_s: int
