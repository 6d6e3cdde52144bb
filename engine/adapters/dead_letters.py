"""The form in which a dead letter is stored: a record of its own, with what is known about it in headers.

Imports the engine's facts only. A letter is named by its origin, (topic, partition, offset): put twice, it is one.
"""

from collections.abc import Sequence
from typing import Final, Self

import msgspec

from engine.core.facts import DeadLetter, Record

VALUE_BYTES_MAX: Final = 4096
"""Enough to see what a value was; a retry reads the whole of it from the topic again."""
DETAIL_BYTES_MAX: Final = 1024
_TOMBSTONE: Final = -1

Headers = list[tuple[str, bytes]]


class StoredDeadLetter(msgspec.Struct, frozen=True):
    """A dead letter as it was stored. `value` is the beginning of the record's value, which had `value_bytes` bytes."""

    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    value_bytes: int

    @classmethod
    def of(cls, letter: DeadLetter) -> Self:
        """The form in which `letter` is stored."""
        record = letter.record
        value = record.value
        return cls(
            letter.reason,
            letter.detail.encode("ascii", "backslashreplace")[:DETAIL_BYTES_MAX].decode(),
            letter.topic,
            letter.partition,
            record.offset,
            record.timestamp_ms,
            record.key,
            None if value is None else value[:VALUE_BYTES_MAX],
            0 if value is None else len(value),
        )

    @property
    def origin(self) -> tuple[str, int, int]:
        """Topic, partition and offset of the record: the letter's name."""
        return self.topic, self.partition, self.offset

    @property
    def whole(self) -> bool:
        """Whether `value` is all there was."""
        return self.value is None or len(self.value) == self.value_bytes

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
            )
        except (KeyError, ValueError):
            return None
