"""A record of the topic: which stream its key names, and the verdict on one that cannot be read.

Imports msgspec and the standard library only. Nothing here depends on what the records' values hold.
"""

import re
from typing import Final

import msgspec

DEFAULT_STREAM: Final = "crash"
"""The stream of a record without a key."""

_STREAM_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class Unreadable(msgspec.Struct, frozen=True):
    """The verdict on a record that cannot be read: `detail` says in words what is wrong with it."""

    detail: str


def stream_name(key: bytes | None) -> str | Unreadable:
    """The stream that a record's key names; without a key it is the default stream."""
    if key is None:
        return DEFAULT_STREAM
    name = key.decode("ascii", "replace")
    if is_stream_name(name):
        return name
    return Unreadable("the key is no stream name: 1 to 64 of A-Z a-z 0-9 . _ -")


def is_stream_name(name: str) -> bool:
    """Whether `name` may name a stream: 1 to 64 of A-Z a-z 0-9 . _ -, safe inside a Redis key."""
    return _STREAM_NAME.fullmatch(name) is not None
