"""The contract of `EventLog`, on files."""

import gzip
from pathlib import Path

import pytest

from crashfold.engine.adapters.files.log import FileLog
from tests.contract.event_log import EventLogContract, HolesContract, Topic


class _Topic(Topic):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.touch()

    def log(self, group_id: str | None = "group") -> FileLog:
        return FileLog(self.path, follow=True)

    async def append(self, *values: bytes, partition: int = 0) -> None:
        with self.path.open("ab") as file:
            file.writelines(value + b"\n" for value in values)

    async def leave_hole(self, partition: int = 0) -> None:
        await self.append(b"")


class TestLines(EventLogContract, HolesContract):
    @pytest.fixture
    def topic(self, tmp_path: Path) -> _Topic:
        return _Topic(tmp_path / "games.jsonl")

    async def test_the_next_offset_is_beyond_the_hole_at_the_end(self, topic: Topic) -> None:
        await topic.leave_hole()
        await super().test_the_next_offset_is_beyond_the_hole_at_the_end(topic)


class _PackedTopic(_Topic):
    async def append(self, *values: bytes, partition: int = 0) -> None:
        with gzip.open(self.path, "ab") as file:
            file.writelines(value + b"\n" for value in values)


class TestPackedLines(EventLogContract, HolesContract):
    @pytest.fixture
    def topic(self, tmp_path: Path) -> _PackedTopic:
        return _PackedTopic(tmp_path / "games.jsonl.gz")
