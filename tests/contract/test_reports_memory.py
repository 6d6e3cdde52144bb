"""The contract of reports, on the memory twin."""

import pytest

from crashfold.engine.adapters.memory.store import MemoryReports
from tests.contract.reports import ReportsContract


@pytest.fixture
def reports() -> MemoryReports:
    return MemoryReports()


@pytest.fixture
def other(reports: MemoryReports) -> MemoryReports:
    return reports


class TestMemory(ReportsContract):
    pass


async def test_what_is_not_renewed_expires(reports: MemoryReports) -> None:
    await reports.tell("engine", {"a": b"1"}, 15)
    reports.expire(10)
    await reports.tell("engine", {"b": b"2"}, 15)
    reports.expire(10)
    assert await reports.told("engine") == [b"2"]
