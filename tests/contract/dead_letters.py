"""What every `DeadLetters` must do. A test module per adapter inherits this."""

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager

from crashfold.engine.adapters.dead_letters import DETAIL_BYTES_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX, StoredDeadLetter
from crashfold.engine.ports import DeadLetter, DeadLetters, Record


def letter(
    offset: int = 0,
    *,
    key: bytes | None = b"crash",
    value: bytes | None = b"{}",
    detail: str = "Object missing required field `game_id`",
    partition: int = 0,
) -> DeadLetter:
    return DeadLetter("unreadable", detail, "games", partition, Record(offset, 1_700_000_000_000 + offset, key, value))


class Shelf(ABC):
    """Where the letters under test are put and found."""

    @abstractmethod
    def opened(self) -> AbstractAsyncContextManager[DeadLetters]:
        """A way in."""

    @abstractmethod
    async def stored(self) -> list[StoredDeadLetter]:
        """All that stands there."""


class DeadLettersContract:
    async def test_nothing_stands_there_before_the_first_letter(self, shelf: Shelf) -> None:
        async with shelf.opened() as dead_letters:
            await dead_letters.put([])
        assert await shelf.stored() == []

    async def test_a_letter_is_kept_whole(self, shelf: Shelf) -> None:
        async with shelf.opened() as dead_letters:
            await dead_letters.put([letter(7, partition=3)])
        (stored,) = await shelf.stored()
        assert stored == StoredDeadLetter(
            reason="unreadable",
            detail="Object missing required field `game_id`",
            topic="games",
            partition=3,
            offset=7,
            timestamp_ms=1_700_000_000_007,
            key=b"crash",
            value=b"{}",
            value_bytes=2,
            key_bytes=5,
        )
        assert stored.whole

    async def test_however_many_letters_there_are_at_once_all_are_kept_in_order(self, shelf: Shelf) -> None:
        keys = (b"crash", None, b"", b"other", b"k" * KEY_BYTES_MAX)
        many = [
            letter(offset, key=keys[offset % len(keys)], value=b"v" * (offset % 7 * 600)) for offset in range(1_200)
        ]
        async with shelf.opened() as dead_letters:
            await dead_letters.put(many)
            await dead_letters.put([letter(1_200)])
        stored = await shelf.stored()
        assert stored == [StoredDeadLetter.of(one) for one in (*many, letter(1_200))]

    async def test_letters_keep_their_order(self, shelf: Shelf) -> None:
        async with shelf.opened() as dead_letters:
            await dead_letters.put([letter(offset) for offset in range(50)])
            await dead_letters.put([letter(offset) for offset in range(50, 100)])
        assert [stored.offset for stored in await shelf.stored()] == list(range(100))

    async def test_a_letter_put_again_is_one_letter(self, shelf: Shelf) -> None:
        async with shelf.opened() as dead_letters:
            await dead_letters.put([letter(1), letter(2)])
        async with shelf.opened() as dead_letters:
            await dead_letters.put([letter(1), letter(2), letter(3)])
        assert [stored.offset for stored in await shelf.stored()] == [1, 2, 3]

    async def test_the_same_offset_of_another_partition_is_another_letter(self, shelf: Shelf) -> None:
        async with shelf.opened() as dead_letters:
            await dead_letters.put([letter(1, partition=0), letter(1, partition=1)])
        assert {stored.origin for stored in await shelf.stored()} == {("games", 0, 1), ("games", 1, 1)}

    async def test_a_long_value_is_cut_and_says_how_long_it_was(self, shelf: Shelf) -> None:
        value = bytes(range(256)) * 400
        async with shelf.opened() as dead_letters:
            await dead_letters.put([letter(value=value)])
        (stored,) = await shelf.stored()
        assert stored.value == value[:VALUE_BYTES_MAX]
        assert stored.value_bytes == len(value)
        assert not stored.whole

    async def test_a_key_of_two_mebibytes_is_cut_and_says_how_long_it_was(self, shelf: Shelf) -> None:
        key = b"k" * (2 << 20)
        async with shelf.opened() as dead_letters:
            await dead_letters.put([letter(key=key)])
        (stored,) = await shelf.stored()
        assert (stored.key, stored.key_bytes) == (key[:KEY_BYTES_MAX], len(key))
        assert not stored.whole

    async def test_tombstones_empty_values_and_missing_keys_are_told_apart(self, shelf: Shelf) -> None:
        messages = [(None, None), (None, b""), (b"", None), (b"", b""), (b"\xff", b"\x00")]
        async with shelf.opened() as dead_letters:
            await dead_letters.put([letter(at, key=key, value=value) for at, (key, value) in enumerate(messages)])
        assert [(stored.key, stored.value) for stored in await shelf.stored()] == messages

    async def test_a_detail_is_bounded_ascii(self, shelf: Shelf) -> None:
        async with shelf.opened() as dead_letters:
            await dead_letters.put([letter(0, detail="größer als 1"), letter(1, detail="x" * 10_000)])
        first, second = await shelf.stored()
        assert first.detail == r"gr\xf6\xdfer als 1"
        assert second.detail == "x" * DETAIL_BYTES_MAX
