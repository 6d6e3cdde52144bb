"""The contract of `Reports`. A test module names two that share what is told."""

from crashfold.engine.ports import Reports


class ReportsContract:
    async def test_what_was_told_last_of_each_is_there_by_name(self, reports: Reports, other: Reports) -> None:
        assert await reports.told("engine") == []
        await reports.tell("engine", {"b": b"1", "a": b"2"}, 60)
        await other.tell("engine", {"b": b"3"}, 60)
        await other.tell("verified", {"a": b"4"})
        for one in (reports, other):
            assert await one.told("engine") == [b"2", b"3"]
            assert await one.told("verified") == [b"4"]
            assert await one.told("rebuild") == []
