"""The form in which a dead letter is stored: a record of its own, with what is known about it in headers.

Imports the engine's facts only. A letter is named by its origin, (topic, partition, offset): put twice, it is one. What
became of it says a *mark*, a record behind it on the same topic, for what stands on a topic cannot be changed.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple, Self

import msgspec

from crashfold.engine.ports import DeadLetter, ReadDeadLetter, Record

KEY_BYTES_MAX: Final = 1024
VALUE_BYTES_MAX: Final = 4096
"""Enough to see what key and value were, and little enough for every broker: a letter that is refused for its size
would stop its partition. A retry reads the whole record from the topic again."""
DETAIL_BYTES_MAX: Final = 1024
_TOMBSTONE: Final = -1

RETRY_OF: Final = "retry_of"
"""The header of a record that was published again: its letter's topic, partition and offset, with colons between."""

Headers = list[tuple[str, bytes]]
Origin = tuple[str, int, int]
"""Topic, partition and offset of a record: the name of its dead letter."""


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
    def origin(self) -> Origin:
        """Topic, partition and offset of the record: the letter's name."""
        return self.topic, self.partition, self.offset

    @property
    def whole(self) -> bool:
        """Whether `key` and `value` are all there was."""
        return len(self.value or b"") == self.value_bytes and len(self.key or b"") == self.key_bytes

    def shown(self) -> dict[str, Any]:
        """The letter as JSON can show it."""
        return msgspec.structs.asdict(self) | {"key": as_text(self.key), "value": as_text(self.value)}

    def is_of(self, record: Record) -> bool:
        """Whether that record is the letter's, and not another one at its offset in a topic that was made anew."""
        again = StoredDeadLetter.of(DeadLetter(self.reason, self.detail, self.topic, self.partition, record))
        return again == self

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
            value_bytes = _integer(texts["value_bytes"])
            return cls(
                texts["reason"],
                texts["detail"],
                texts["topic"],
                _integer(texts["partition"]),
                _integer(texts["offset"]),
                _integer(texts["timestamp_ms"]),
                record.key,
                None if value_bytes == _TOMBSTONE else record.value,
                max(0, value_bytes),
                _integer(texts.get("key_bytes", str(len(record.key or b"")))),  # letters of before have whole keys
            )
        except (KeyError, ValueError):
            return None


class LetterMark(msgspec.Struct, frozen=True):
    """The outcome of a dead letter: retried or discarded. `retried_as` names the record that was published again."""

    became: Literal["retried", "discarded"]
    origin: Origin
    time_ms: int
    retried_as: Origin | None = None

    def headers(self) -> Headers:
        """All of it, as ASCII text. Whoever looks for letters finds none, for a letter has a reason."""
        topic, partition, offset = self.origin
        headers = [
            ("mark", self.became.encode()),
            ("topic", topic.encode()),
            ("partition", b"%d" % partition),
            ("offset", b"%d" % offset),
            ("time_ms", b"%d" % self.time_ms),
        ]
        if self.retried_as is not None:
            topic, partition, offset = self.retried_as
            headers += [
                ("retried_topic", topic.encode()),
                ("retried_partition", b"%d" % partition),
                ("retried_offset", b"%d" % offset),
            ]
        return headers

    @classmethod
    def from_headers(cls, headers: Sequence[tuple[str, bytes]]) -> Self | None:
        """The mark that a record of the dead-letter topic is; None when it is none."""
        texts = {name: value.decode("ascii", "replace") for name, value in headers}
        try:
            found = {
                "became": texts["mark"],
                "origin": (texts["topic"], int(texts["partition"]), int(texts["offset"])),
                "time_ms": int(texts["time_ms"]),
            }
            if "retried_offset" in texts:
                retried = texts["retried_topic"], int(texts["retried_partition"]), int(texts["retried_offset"])
                found["retried_as"] = retried
            return msgspec.convert(found, cls)
        except (KeyError, ValueError):
            return None


class StoredLetter(NamedTuple):
    """A record of the dead-letter topic as it was read."""

    partition: int
    record: Record
    headers: Sequence[tuple[str, bytes]]


class ListedDeadLetter(msgspec.Struct, frozen=True):
    """A dead letter, and what became of it: `time_ms` is when it was handed over first, `retry_of` the letter that was
    published again and became this one, `partition` where it stands on the dead-letter topic."""

    letter: StoredDeadLetter
    time_ms: int
    partition: int
    mark: LetterMark | None = None
    retry_of: Origin | None = None

    @property
    def is_open(self) -> bool:
        """Whether it was neither retried nor discarded."""
        return self.mark is None


def as_text(data: bytes | None) -> str | None:
    """Bytes of a record as text, with what is no UTF-8 escaped. It is data, whatever it looks like."""
    return None if data is None else data.decode("utf-8", "backslashreplace")


def shown_by_api(listed: ListedDeadLetter) -> ReadDeadLetter:
    """The letter as the read side is told of it."""
    letter = listed.letter
    return ReadDeadLetter(
        letter.topic,
        letter.partition,
        letter.offset,
        letter.reason,
        letter.detail,
        listed.time_ms,
        as_text(letter.key),
        as_text(letter.value),
        listed.mark is not None and listed.mark.became == "retried",
    )


def _integer(text: str) -> int:
    """An integer of Kafka's. Raises ValueError for any other: anybody may write to the topic."""
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError("beyond 64 bits")
    return number


class Listing:
    """Gathers letters and marks as they are read, in any order; a record that is neither is passed over."""

    def __init__(self, *, values: bool = True) -> None:
        self._values = values
        self._letters: dict[Origin, ListedDeadLetter] = {}
        self._marks: dict[Origin, LetterMark] = {}

    def add(self, stored: StoredLetter) -> None:
        """Take in a record of the dead-letter topic."""
        if (mark := LetterMark.from_headers(stored.headers)) is not None:
            known = self._marks.get(mark.origin)
            if known is None or mark.time_ms > known.time_ms:
                self._marks[mark.origin] = mark
            return
        letter = StoredDeadLetter.from_record(stored.record, stored.headers)
        if letter is None or letter.origin in self._letters:
            return
        if not self._values:
            letter = msgspec.structs.replace(letter, value=None if letter.value is None else b"")
        self._letters[letter.origin] = ListedDeadLetter(letter, stored.record.timestamp_ms, stored.partition)

    def letters(self) -> list[ListedDeadLetter]:
        """The games taken in, oldest first."""
        retries = {mark.retried_as: origin for origin, mark in self._marks.items() if mark.retried_as is not None}
        found = [
            msgspec.structs.replace(one, mark=self._marks.get(origin), retry_of=retries.get(origin))
            for origin, one in self._letters.items()
        ]
        return sorted(found, key=lambda one: one.time_ms)
