"""What is stored, compared with what the topic says."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from crashfold.engine.adapters.memory.log import MemoryLog
from crashfold.engine.adapters.memory.store import MemoryStore
from crashfold.engine.games.fairness import FairnessCheck
from crashfold.engine.ports import Commit
from crashfold.engine.runtime.rebuild import RebuildRequest
from crashfold.engine.runtime.verify import CannotCompare, Difference, differences_of, verify
from crashfold.projections.delta import Delta, Remove, SetString, SortedSet, WriteHash
from crashfold.schemas import keys
from crashfold.schemas.chain import chain_of_games
from crashfold.schemas.fairness import RuleBook
from crashfold.schemas.game import encode
from tests.support.games import SMALL, games_at
from tests.support.in_memory import QUICK, MemoryDeployment

GAMES = tuple(games_at(*(1.0, 2.0, 1.4, 11.0, 3.0) * 8))


@pytest.fixture
async def deployment() -> MemoryDeployment:
    deployment = MemoryDeployment(only="crash")
    deployment.publish(*GAMES, *GAMES[30:])
    deployment.topic.append(b"no game")
    await deployment.run()
    return deployment


async def damage(store: MemoryStore, delta: Delta) -> None:
    """Write to the keys of the stream without folding anything."""
    stored = await store.load("crash")
    assert stored is not None
    await store.commit(
        [Commit("crash", stored.checkpoint.position, stored.checkpoint, delta, stored.total_games, None)]
    )


async def test_what_was_compared_is_told(deployment: MemoryDeployment) -> None:
    report = await deployment.verify()
    assert report.differences == ()
    (one,) = report.streams
    stored = await deployment.store.read_model("crash")
    assert stored is not None
    assert (one.stream, one.games, one.keys) == ("crash", len(GAMES), len(stored[1]))
    assert (one.version, one.next_offset) == (stored[0].version, 51)
    assert (one.duplicates, one.rejected) == (10, 1)


@pytest.mark.parametrize(
    ("delta", "key", "part", "stored"),
    [
        ({"occurrences:min:2": WriteHash({"count": b"7"})}, "occurrences:min:2", "count", "7"),
        ({"occurrences:min:2": WriteHash({"mine": b"7"})}, "occurrences:min:2", "mine", "7"),
        ({"last_game:min:10": Remove()}, "last_game:min:10", None, None),
        ({"mine": SetString(b"x")}, "mine", None, "x"),
    ],
)
async def test_every_difference_is_found_and_named(
    deployment: MemoryDeployment, delta: Delta, key: str, part: str | None, stored: str | None
) -> None:
    await damage(deployment.store, delta)
    report = await deployment.verify()
    (found,) = report.differences
    assert (found.stream, found.key, found.part, found.stored) == ("crash", key, part, stored)
    assert (found.expected is None) == (key == "mine" or part == "mine")


async def test_the_store_is_asked_once_for_all_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have to go through all keys to find those of one."""
    deployment, streams = MemoryDeployment(), [f"s{n}" for n in range(20)]
    for stream in streams:
        deployment.publish(GAMES[0], stream=stream)
    async with deployment.engine() as engine:
        await deployment.catch_up(engine)
    asked = []
    read_models = MemoryStore.read_models

    async def counting(store: MemoryStore, streams: Sequence[str]) -> list[Any]:
        asked.append([*streams])
        return await read_models(store, streams)

    monkeypatch.setattr(MemoryStore, "read_models", counting)
    report = await deployment.verify(*streams)
    assert asked == [streams]
    assert (len(report.streams), report.differences) == (20, ())


async def test_a_checkpoint_that_a_restart_could_not_load_is_a_difference(deployment: MemoryDeployment) -> None:
    await damage(deployment.store, {keys.CHECKPOINT: WriteHash({"base": b"\x93"})})
    (found,) = (await deployment.verify()).differences
    assert found.key == "checkpoint"


async def test_a_checkpoint_that_a_restart_would_read_otherwise_is_a_difference(deployment: MemoryDeployment) -> None:
    other = MemoryDeployment(only="crash")
    other.publish(*games_at(*(2.0, 2.0, 2.0, 2.0, 2.0) * 8))
    await other.run()
    stored = await other.store.load("crash")
    assert stored is not None
    await damage(deployment.store, {keys.CHECKPOINT: WriteHash({"base": stored.state["base"]})})
    found = (await deployment.verify()).differences
    assert found
    assert all(one.key.startswith("checkpoint → ") for one in found)


async def test_what_came_after_the_checkpoint_is_not_counted(deployment: MemoryDeployment) -> None:
    deployment.publish(*games_at(5.0, 6.0, first_id=100))
    await deployment.check()


async def test_a_stream_with_records_on_another_partition_too() -> None:
    deployment = MemoryDeployment(2)
    deployment.publish(*GAMES[:10], stream="a")
    deployment.publish(*GAMES[:3], stream="b", partition=1)
    async with deployment.engine() as engine:
        await deployment.catch_up(engine)
    await deployment.check("a", "b")
    deployment.publish(*GAMES[10:15], stream="a", partition=1)
    deployment.publish(*GAMES[3:5], stream="b", partition=1)
    await deployment.rebuild(RebuildRequest(stream="b"))
    await deployment.check("a")
    with pytest.raises(CannotCompare, match="a lives on partition 0, and partition 1 has records of it too"):
        await deployment.verify("a", "b")


async def test_games_of_several_streams_and_partitions_are_read_at_once() -> None:
    deployment = MemoryDeployment(3)
    for number, stream in enumerate("abcd"):
        deployment.publish(*GAMES[number:], stream=stream, partition=number % 3)
    await deployment.run()
    told: list[tuple[int, int]] = []
    async with MemoryLog(deployment.topic, None) as log:
        report = await verify(
            log, deployment.store, deployment.folding, "abcd", lambda *read: told.append(read), poll_wait_s=0
        )
    assert [one.games for one in report.streams] == [40, 39, 38, 37]
    assert report.differences == ()
    assert told[-1] == (154, 154)


async def test_the_rule_that_rejects_is_known_to_the_oracle() -> None:
    games = list(chain_of_games(3, 20))
    games[7] = msgspec.structs.replace(games[7], crash_point=games[7].crash_point + 1)
    deployment = MemoryDeployment(fairness=FairnessCheck(RuleBook(), rejects=True))
    deployment.publish(*games)
    await deployment.run()
    report = await deployment.verify()
    assert report.differences == ()
    assert [(one.games, one.rejected) for one in report.streams] == [(19, 1)]


# --- what cannot be compared -----------------------------------------------------------------------------------------


async def cannot(deployment: MemoryDeployment, why: str, *streams: str) -> None:
    with pytest.raises(CannotCompare, match=why) as caught:
        await deployment.verify(*streams)
    assert caught.value.exit_code == 2


async def test_nothing_stored(deployment: MemoryDeployment) -> None:
    await cannot(deployment, "nothing is stored for stream other", "other")


async def test_other_settings(deployment: MemoryDeployment) -> None:
    deployment.settings = msgspec.structs.replace(SMALL, min=(4,))
    await cannot(deployment, "other predicates")


async def test_another_rule(deployment: MemoryDeployment) -> None:
    deployment.fairness = FairnessCheck(RuleBook(), rejects=True)
    await cannot(deployment, "rules")


async def test_another_topic(deployment: MemoryDeployment) -> None:
    deployment.topic.name = "others"
    await cannot(deployment, "from topic games, not from others")


async def test_records_that_retention_removed(deployment: MemoryDeployment) -> None:
    deployment.topic.truncate_before(3)
    await cannot(deployment, "offsets 0 to 2")


async def test_retention_before_the_first_game_matters_to_nobody() -> None:
    deployment = MemoryDeployment()
    deployment.publish(*GAMES[:5], stream="other")
    deployment.publish(*GAMES, stream="crash")
    await deployment.run(limits=msgspec.structs.replace(QUICK, batch_games_max=100))
    deployment.topic.truncate_before(5)
    await deployment.check("crash")


@pytest.mark.parametrize("records", [0, 10, 60])
async def test_a_recreated_topic(deployment: MemoryDeployment, records: int) -> None:
    deployment.topic.recreate()
    for game in games_at(*(3.0,) * records):
        deployment.topic.append(encode(game))
    await cannot(deployment, "is not the partition")


async def test_a_topic_with_fewer_partitions() -> None:
    deployment = MemoryDeployment(2)
    deployment.publish(*GAMES, partition=1)
    await deployment.run()
    deployment.topic.recreate(1)
    await cannot(deployment, "no partition 1")


async def test_retention_that_overtakes_the_reading(
    deployment: MemoryDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crashfold.engine.runtime.verify.BATCH_GAMES", 5)
    async with MemoryLog(deployment.topic, None) as log:
        with pytest.raises(CannotCompare, match="while they were being read"):
            await verify(
                log,
                deployment.store,
                deployment.folding,
                ["crash"],
                lambda read, total: deployment.topic.truncate_before(30),
                poll_wait_s=0,
            )


async def test_a_reconnection_is_none_of_its_business(
    deployment: MemoryDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crashfold.engine.runtime.verify.BATCH_GAMES", 5)
    async with MemoryLog(deployment.topic, None) as log:
        at = [20]

        def reconnect(read: int, total: int) -> None:
            if read in at:
                at.clear()
                deployment.topic.evict(log)

        report = await verify(log, deployment.store, deployment.folding, ["crash"], reconnect, poll_wait_s=0)
    assert report.differences == ()
    assert at == []


# --- the comparison --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "stored", "differences"),
    [
        ({"a": b"1"}, {"a": b"1"}, []),
        ({"a": b"1"}, {"a": b"2"}, [("a", None, "1", "2")]),
        ({"a": b"1"}, {}, [("a", None, "1", None)]),
        ({}, {"a": [b"1"]}, [("a", "0", None, "1")]),
        ({"a": {"x": b"1", "y": b"2"}}, {"a": {"y": b"2", "z": b"3"}}, [("a", "x", "1", None), ("a", "z", None, "3")]),
        ({"a": [b"1", b"2"]}, {"a": [b"2"]}, [("a", "0", "1", "2"), ("a", "1", "2", None)]),
        ({"a": SortedSet({1: b"x"})}, {"a": SortedSet({2: b"x"})}, [("a", "1", "x", None), ("a", "2", None, "x")]),
        ({"a": b"1"}, {"a": {"x": b"1"}}, [("a", None, "1", None), ("a", "x", None, "1")]),
        ({"a": b"\xff" * 300}, {}, [("a", None, "\ufffd" * 200 + "…", None)]),
    ],
)
def test_differences_are_named_by_key_and_part(
    expected: dict[str, Any], stored: dict[str, Any], differences: Sequence[tuple[str, str | None, str, str]]
) -> None:
    assert differences_of("s", expected, stored) == [Difference("s", *one) for one in differences]
