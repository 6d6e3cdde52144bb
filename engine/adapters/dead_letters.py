"""The form in which a dead letter is stored: a record of its own, with what is known about it in headers.

Imports the engine's facts only. A letter is named by its origin, (topic, partition, offset): put twice, it is one.
"""

from collections.abc import Sequence
from typing import Final, Self

import msgspec

from engine.core.facts import DeadLetter, Record

KEY_BYTES_MAX: Final = 1024
VALUE_BYTES_MAX: Final = 4096
"""Enough to see what key and value were, and little enough for every broker: a letter that is refused for its size
would stop its partition. A retry reads the whole record from the topic again."""
DETAIL_BYTES_MAX: Final = 1024
_TOMBSTONE: Final = -1

Headers = list[tuple[str, bytes]]


class StoredDeadLetter(msgspec.Struct, frozen=True):
    """A dead letter as it was stored. `key` and `value` are the beginnings of the record's, which had `key_bytes` and
    `value_bytes` bytes."""

    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    value_bytes: int
    key_bytes: int

    @classmethod
    def of(cls, letter: DeadLetter) -> Self:
        """The form in which `letter` is stored."""
        record = letter.record
        key, value = record.key, record.value
        return cls(
            letter.reason,
            letter.detail.encode("ascii", "backslashreplace")[:DETAIL_BYTES_MAX].decode(),
            letter.topic,
            letter.partition,
            record.offset,
            record.timestamp_ms,
            None if key is None else key[:KEY_BYTES_MAX],
            None if value is None else value[:VALUE_BYTES_MAX],
            0 if value is None else len(value),
            0 if key is None else len(key),
        )

    @property
    def origin(self) -> tuple[str, int, int]:
        """Topic, partition and offset of the record: the letter's name."""
        return self.topic, self.partition, self.offset

    @property
    def whole(self) -> bool:
        """Whether `key` and `value` are all there was."""
        return len(self.value or b"") == self.value_bytes and len(self.key or b"") == self.key_bytes

    def headers(self) -> Headers:
        """Everything but key and value, as ASCII text."""
        return [
            ("reason", self.reason.encode()),
            ("detail", self.detail.encode()),
            ("topic", self.topic.encode()),
            ("partition", b"%d" % self.partition),
            ("offset", b"%d" % self.offset),
            ("timestamp_ms", b"%d" % self.timestamp_ms),
            ("value_bytes", b"%d" % (_TOMBSTONE if self.value is None else self.value_bytes)),
            ("key_bytes", b"%d" % self.key_bytes),
        ]

    def body(self) -> bytes:
        """The record's value; a tombstone's is empty, for a record with neither key nor value cannot be sent."""
        return self.value or b""

    @classmethod
    def from_record(cls, record: Record, headers: Sequence[tuple[str, bytes]]) -> Self | None:
        """The letter that a record of the dead-letter topic holds; None when it is none of ours."""
        texts = {name: value.decode("ascii", "replace") for name, value in headers}
        try:
            value_bytes = int(texts["value_bytes"])
            return cls(
                texts["reason"],
                texts["detail"],
                texts["topic"],
                int(texts["partition"]),
                int(texts["offset"]),
                int(texts["timestamp_ms"]),
                record.key,
                None if value_bytes == _TOMBSTONE else record.value,
                max(0, value_bytes),
                int(texts.get("key_bytes", len(record.key or b""))),  # letters of before have whole keys
            )
        except (KeyError, ValueError):
            return None
