"""Where a partition is read from, and what stops an engine."""

from typing import Final

import anyio
import anyio.lowlevel
import msgspec
import pytest

from crashfold.engine.adapters.memory.store import MemoryStore
from crashfold.engine.errors import (
    FingerprintMismatch,
    LostRange,
    StateError,
    StreamMoved,
    TopicCompacted,
    TopicRecreated,
)
from crashfold.engine.ports import Stored
from crashfold.engine.runtime.pacing import EngineLimits
from crashfold.engine.runtime.rebuild import RebuildRequest
from crashfold.schemas.game import encode
from tests.support.games import SMALL, game, games_at
from tests.support.in_memory import GAMES, MemoryDeployment, MemoryEngine, steps


async def test_what_was_folded_is_committed_before_the_engine_asks_whether_the_rest_is_gone() -> None:
    deployment = MemoryDeployment(commit_s=1.0)
    deployment.publish(*GAMES)
    async with deployment.engine(limits=EngineLimits(batch_games_max=2, poll_wait_s=0), accept_gap=True) as engine:
        while engine.service.folded_to == engine.service.next_offsets:
            await steps(engine, 1)
        folded_to = engine.service.folded_to[0]
        deployment.topic.truncate_before(folded_to + 4)  # two of them are polled ahead
        await deployment.catch_up(engine)
    assert await deployment.games() == len(GAMES) - 2


async def test_an_emptied_store_is_filled_from_the_start_of_the_topic(deployment: MemoryDeployment) -> None:
    async with deployment.engine() as engine:
        deployment.publish(*GAMES[:20])
        await deployment.catch_up(engine)
        deployment.store.restore(MemoryStore().snapshot())
        deployment.publish(*GAMES[20:])
        await deployment.catch_up(engine)
        assert await deployment.games() == len(GAMES)
    deployment.store.restore(MemoryStore().snapshot())
    await deployment.run()
    await deployment.check()


@pytest.mark.parametrize("emptied_after", range(40))
async def test_a_store_emptied_while_a_partition_is_gained_is_filled_too(
    deployment: MemoryDeployment, emptied_after: int
) -> None:
    deployment.publish(*GAMES[:20])
    await deployment.run()
    deployment.publish(*GAMES[20:])
    async with deployment.engine() as engine:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(steps, engine, 3)
            for _ in range(emptied_after):
                await anyio.lowlevel.checkpoint()
            deployment.store.restore(MemoryStore().snapshot())
        await deployment.catch_up(engine)
    assert await deployment.games() == len(GAMES)
    await deployment.check()


@pytest.mark.parametrize("more", [0, 7])
async def test_a_rebuild_that_is_swapped_in_is_taken_up(deployment: MemoryDeployment, more: int) -> None:
    """With no record in between, the rebuilt checkpoint has the same offset and another generation."""
    deployment.publish(*GAMES[:20])
    async with deployment.engine() as engine:
        await deployment.catch_up(engine)
        before = await deployment.checkpoint()
        deployment.publish(*GAMES[20 : 20 + more])
        await deployment.rebuild()
        generation = (await deployment.checkpoint()).generation
        assert generation != before.generation
        deployment.publish(*GAMES[20 + more :])
        await deployment.catch_up(engine)
        assert engine.value("commits_total", outcome="conflict") <= 1
    assert (await deployment.checkpoint()).generation == generation
    assert await deployment.games() == len(GAMES)
    await deployment.check()


async def test_records_that_retention_removed_stop_the_engine_unless_they_are_done_without(
    deployment: MemoryDeployment,
) -> None:
    deployment.publish(*GAMES[:10])
    await deployment.run()
    deployment.publish(*GAMES[10:20])
    deployment.topic.truncate_before(15)
    with pytest.raises(LostRange, match=r"offsets 10 to 14 of games/0.*--accept-gap"):
        await deployment.run()
    assert await deployment.games() == 10
    await deployment.run(accept_gap=True)
    assert await deployment.games() == 15
    deployment.publish(*GAMES[20:])
    await deployment.run()
    assert await deployment.games() == 35


async def test_a_gap_is_accepted_once_though_nothing_comes_after_it(deployment: MemoryDeployment) -> None:
    deployment.publish(*GAMES[:10])
    await deployment.run()
    deployment.publish(*GAMES[10:20])
    deployment.topic.truncate_before(20)
    await deployment.run(accept_gap=True)
    await deployment.run()
    deployment.publish(*GAMES[20:])
    await deployment.run()
    assert await deployment.games() == 30


async def test_what_retention_removed_after_it_was_read_is_no_loss(deployment: MemoryDeployment) -> None:
    deployment.publish(*GAMES[:20])
    await deployment.run()
    deployment.topic.truncate_before(20)
    deployment.publish(*GAMES[20:])
    await deployment.run()
    assert await deployment.games() == len(GAMES)


async def test_retention_that_overtakes_a_running_engine_stops_it(deployment: MemoryDeployment) -> None:
    deployment.publish(*GAMES)
    async with deployment.engine() as engine:
        await steps(engine, 3)
        deployment.topic.truncate_before(30)
        with pytest.raises(LostRange, match=r"to 29 of games/0.*--accept-gap"):
            await steps(engine, 5)
    folded = await deployment.games()
    assert 0 < folded < 30
    await deployment.run(accept_gap=True)
    assert await deployment.games() == folded + len(GAMES) - 30


async def test_a_running_engine_does_without_what_it_may(deployment: MemoryDeployment) -> None:
    deployment.publish(*GAMES)
    async with deployment.engine(accept_gap=True) as engine:
        await steps(engine, 3)
        deployment.topic.truncate_before(30)
        await deployment.catch_up(engine)
    assert await deployment.games() in range(len(GAMES) - 30 + 1, len(GAMES))


ANEW: Final = {
    "nothing": [],
    "fewer": GAMES[-5:],
    "more": GAMES[-30:],
    "the same": GAMES[:20],
    "the same and more": GAMES,
}
"""What a topic made anew may hold, when the old one had the first 20 games."""


@pytest.mark.parametrize("anew", ANEW)
async def test_a_recreated_topic_stops_the_engine(deployment: MemoryDeployment, anew: str) -> None:
    deployment.publish(*GAMES[:20])
    await deployment.run()
    deployment.topic.recreate()
    deployment.publish(*ANEW[anew])
    with pytest.raises(TopicRecreated, match=r"games/0 is not the partition that was read up to offset 20.*accept-gap"):
        await deployment.run()
    assert await deployment.games() == 20


@pytest.mark.parametrize("anew", ANEW)
async def test_a_topic_that_is_recreated_under_a_running_engine_stops_it(
    deployment: MemoryDeployment, anew: str
) -> None:
    async with deployment.engine() as engine:
        deployment.publish(*GAMES[:20])
        await deployment.catch_up(engine)
        deployment.topic.recreate()
        deployment.publish(*ANEW[anew])
        with pytest.raises(TopicRecreated, match="the topic's id is games-2, and was games-1"):
            await steps(engine, 5)
    assert (await deployment.checkpoint()).next_offset == 20


@pytest.mark.parametrize("anew", ANEW)
async def test_a_topic_that_is_recreated_under_an_engine_that_is_behind_stops_it(
    deployment: MemoryDeployment, anew: str
) -> None:
    """It holds records ahead, of the old topic; none of the new one may get into a commit with them."""
    deployment.publish(*GAMES[:20])
    async with deployment.engine() as engine:
        await steps(engine, 3)
        before = await deployment.checkpoint()
        assert 0 < before.next_offset < 20
        deployment.topic.recreate()
        deployment.publish(*ANEW[anew])
        with pytest.raises(TopicRecreated):
            await steps(engine, 8)
    after = await deployment.checkpoint()
    assert before.next_offset <= after.next_offset <= 20
    stored = await deployment.store.load("crash")
    assert stored is not None
    assert [*stored.window] == [*map(encode, GAMES[: after.next_offset][-len(stored.window) :])]


@pytest.mark.parametrize("anew", ["more", "the same and more"])
async def test_a_running_engine_goes_on_with_a_recreated_topic_when_the_operator_says_so(anew: str) -> None:
    deployment = MemoryDeployment()
    async with deployment.engine(accept_gap=True) as engine:
        deployment.publish(*GAMES[:20], stream="a")
        deployment.publish(*GAMES[:20], stream="idle")
        await deployment.catch_up(engine)
        before = await deployment.checkpoint("idle")
        deployment.topic.recreate()
        deployment.publish(*ANEW[anew], stream="a")
        await steps(engine, 15)
        assert (await deployment.checkpoint("idle")).generation != before.generation
    await deployment.run()
    assert [await deployment.games(stream) for stream in ("a", "idle")] == [len(GAMES), 20]
    deployment.publish(*GAMES[20:25], stream="idle")
    await deployment.run()
    assert await deployment.games("idle") == 25


@pytest.mark.parametrize("records", [0, 5, 20])
async def test_the_state_of_a_recreated_topic_may_be_kept(deployment: MemoryDeployment, records: int) -> None:
    deployment.publish(*GAMES[:20])
    await deployment.run()
    before = await deployment.checkpoint()
    deployment.topic.recreate()
    deployment.publish(*GAMES[20 : 20 + records])
    await deployment.run(accept_gap=True)
    after = await deployment.checkpoint()
    assert await deployment.games() == 20 + records
    assert (after.next_offset, after.first_offset) == (records, -1)
    assert after.generation != before.generation
    deployment.publish(*GAMES[20 + records :])
    await deployment.run()
    assert await deployment.games() == len(GAMES)
    with pytest.raises(StateError, match="recreated"):
        await deployment.check()


async def test_a_stream_whose_keys_are_gone_is_rebuilt_from_what_it_had() -> None:
    deployment = MemoryDeployment()
    deployment.publish(*GAMES[:10], stream="a")
    deployment.publish(*GAMES[:10], stream="b")
    await deployment.run()
    deployment.topic.truncate_before(10)
    deployment.store._data.live.pop("b")
    await deployment.run()
    await deployment.check("b")


@pytest.mark.parametrize("gone", [("a",), ("a", "b")])
@pytest.mark.parametrize("is_live", [False, True])
async def test_a_stream_whose_keys_are_gone_and_of_which_retention_removed_records_stops_the_engine(
    gone: tuple[str, ...], is_live: bool
) -> None:
    deployment = MemoryDeployment()
    deployment.publish(*GAMES[:10], stream="a")
    deployment.publish(*GAMES[:10], stream="b")
    message = r"retention removed offsets 0 to 4 of games/0, and stream a, whose keys are gone .*--accept-gap"
    async with deployment.engine() as engine:
        await deployment.catch_up(engine)
        deployment.topic.truncate_before(5)
        for stream in gone:
            deployment.store._data.live.pop(stream)
        if is_live:
            deployment.clock.pass_s(1)
            with pytest.raises(LostRange, match=message):
                await steps(engine, 3)
    with pytest.raises(LostRange, match=message):
        await deployment.run()
    with pytest.raises(LostRange, match=r"offsets 0 to 4 .*--accept-gap"):
        await deployment.rebuild()
    assert await deployment.games("a") == 0
    await deployment.run(accept_gap=True)
    await deployment.run()
    assert [await deployment.games(stream) for stream in ("a", "b")] == [5, 10]


async def test_an_engine_that_ends_because_of_a_gap_does_not_hide_it_from_the_next() -> None:
    deployment = MemoryDeployment()
    deployment.publish(*GAMES[:10], stream="a")
    deployment.publish(*GAMES[:5], stream="b")
    async with deployment.engine() as engine:
        await deployment.catch_up(engine)
        then = deployment.store.snapshot()
        deployment.publish(*GAMES[10:20], stream="a")
        await deployment.catch_up(engine)
        deployment.topic.truncate_before(20)
        deployment.publish(GAMES[5], stream="b")  # so that there is something to note
        await engine.service.step()
        await engine.service.step()
        deployment.store._data.live["a"] = then.live["a"]
        deployment.publish(GAMES[20], stream="a")
        message = r"to 19 of games/0.*--accept-gap"
        with pytest.raises(LostRange, match=message):
            await steps(engine, 3, every_s=0)  # the commit tells, before the next look at the store
        await engine.service.close()
    for _ in range(2):
        with pytest.raises(LostRange, match=message):
            await deployment.run()


@pytest.mark.parametrize("is_gone", [False, True])
async def test_a_stream_that_another_engine_left_behind_a_gap_is_not_taken_for_complete(is_gone: bool) -> None:
    """It was met by an engine that was late with its first commit, after this one had begun behind those records."""
    late = MemoryDeployment()
    late.publish(*GAMES[:3], stream="a")
    await late.run()
    deployment = MemoryDeployment()
    deployment.publish(*GAMES[:10], stream="a")
    deployment.publish(*GAMES[:5], stream="b")
    deployment.topic.truncate_before(10 if is_gone else 0)
    async with deployment.engine() as engine:
        engine.service._partitions.start_at(0, 10, engine.log.topic_id)
        await engine.log.seek(0, 10)
        await steps(engine, 2)
        deployment.store._data.live["a"] = late.store.snapshot().live["a"]
        manifest = await late.manifest(0)
        assert manifest is not None
        await deployment.store.write_manifest("games", 0, manifest)
        deployment.publish(GAMES[5], stream="b")
        await deployment.catch_up(engine)
    deployment.publish(GAMES[10], stream="a")
    if is_gone:
        with pytest.raises(LostRange, match=r"offsets 3 to 9 of games/0.*--accept-gap"):
            await deployment.run()
    else:
        await deployment.run()
        assert await deployment.games("a") == 11
        await deployment.check("a", "b")


async def test_the_loss_of_a_stream_of_which_nothing_is_left_is_accepted_once() -> None:
    deployment = MemoryDeployment()
    deployment.publish(*GAMES[:10], stream="a")
    deployment.publish(*GAMES[:10], stream="b")
    await deployment.run()
    deployment.topic.truncate_before(10)
    deployment.store._data.live.pop("a")
    with pytest.raises(LostRange, match=r"offsets 0 to 9 of games/0, and stream a"):
        await deployment.run()
    await deployment.run(accept_gap=True)
    await deployment.run()
    assert [await deployment.games(stream) for stream in ("a", "b")] == [0, 10]


async def test_a_stream_whose_keys_are_gone_and_that_had_games_of_an_earlier_topic_stops_the_engine() -> None:
    deployment = MemoryDeployment()
    deployment.publish(*GAMES[:10], stream="a")
    await deployment.run()
    deployment.topic.recreate()
    deployment.publish(*GAMES[10:20], stream="a")
    await deployment.run(accept_gap=True)
    deployment.store._data.live.clear()
    with pytest.raises(LostRange, match=r"stream a, .* had games of an earlier topic"):
        await deployment.run()


async def test_a_compacted_topic_stops_the_engine_unless_that_is_accepted(deployment: MemoryDeployment) -> None:
    deployment.publish(*GAMES)
    deployment.topic.is_compacted = True
    for refused in (deployment.run, deployment.rebuild):
        with pytest.raises(TopicCompacted, match=r"cleanup\.policy=delete.*--accept-gap"):
            await refused()
    assert await deployment.games() == 0
    await deployment.run(accept_gap=True)
    await deployment.rebuild(RebuildRequest(accept_gap=True))
    assert await deployment.games() == len(GAMES)


async def test_a_stream_on_a_second_partition_stops_the_engine() -> None:
    deployment = MemoryDeployment(2)
    deployment.publish(*GAMES[:10], partition=0)
    await deployment.run()
    deployment.publish(*GAMES[10:], partition=1)
    with pytest.raises(StreamMoved, match=r"stream crash lives on partition 0 .* turned up on partition 1"):
        await deployment.run()
    assert await deployment.games() == 10


async def test_a_new_stream_on_two_partitions_of_two_engines_stops_one_of_them() -> None:
    deployment = MemoryDeployment(2)
    async with deployment.engine() as one, deployment.engine() as other:
        await steps(one, 2)
        await steps(other, 2)
        deployment.publish(*GAMES[:10], partition=0)
        deployment.publish(*GAMES[:10], partition=1)
        stopped = []

        async def run(engine: MemoryEngine) -> None:
            try:
                await steps(engine, 6)
            except StreamMoved:
                stopped.append(engine)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, one)
            tasks.start_soon(run, other)
    assert len(stopped) == 1
    assert await deployment.games() == 10


async def test_a_state_of_other_settings_is_refused_before_anything_is_read(deployment: MemoryDeployment) -> None:
    deployment.publish(*GAMES[:10])
    await deployment.run()
    deployment.settings = msgspec.structs.replace(SMALL, min=(1.5, 4))
    async with deployment.engine() as engine:
        with pytest.raises(FingerprintMismatch, match="crashfold replay"):
            await engine.service.step()


async def test_a_running_engine_stops_when_a_rebuild_with_other_settings_is_swapped_in(
    deployment: MemoryDeployment,
) -> None:
    async with deployment.engine() as engine:
        deployment.publish(*GAMES[:10])
        await deployment.catch_up(engine)
        deployment.settings = msgspec.structs.replace(SMALL, min=(1.5, 4))
        await deployment.rebuild()
        deployment.publish(*GAMES[10:])
        with pytest.raises(FingerprintMismatch):
            await steps(engine, 3)
    await deployment.run()
    await deployment.check()


async def test_the_state_of_another_topic_is_refused() -> None:
    deployment = MemoryDeployment(only="crash")
    deployment.publish(*GAMES[:10])
    await deployment.run()
    deployment.topic.name = "others"
    with pytest.raises(TopicRecreated, match="folded from topic games, not from others"):
        await deployment.run()


async def test_a_store_that_fails_back_to_a_topic_that_is_gone_is_refused(deployment: MemoryDeployment) -> None:
    """The engine has begun a topic made anew on an empty store; then the store has the old topic's state again."""
    deployment.publish(*games_at(*[2.0] * 5))
    await deployment.run()
    of_the_old_topic = deployment.store.snapshot()
    deployment.topic.recreate()
    deployment.store.restore(MemoryStore().snapshot())
    deployment.publish(*games_at(*[3.0] * 2, first_id=100))
    async with deployment.engine() as engine:
        await engine.service.step()
        await engine.service.step()
        deployment.store.restore(of_the_old_topic)

        async def go_on() -> None:
            for number in range(102, 110):
                deployment.publish(game(number, 3.0))
                await engine.service.step()

        with pytest.raises(TopicRecreated):
            await go_on()
    assert deployment.store.snapshot().live == of_the_old_topic.live


async def test_a_start_loads_the_state_of_a_stream_once(
    deployment: MemoryDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.publish(*GAMES[:20])
    await deployment.run()
    deployment.publish(*GAMES[20:])
    loaded, load = list[str](), deployment.store.load

    async def counted(stream: str) -> Stored | None:
        loaded.append(stream)
        return await load(stream)

    monkeypatch.setattr(deployment.store, "load", counted)
    async with deployment.engine() as engine:
        await engine.service.refuse_other_settings()
        await deployment.catch_up(engine)
    assert loaded == ["crash"]
