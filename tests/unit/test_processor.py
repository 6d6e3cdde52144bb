"""The line, one trouble at a time. `tests/property/test_line.py` mixes them."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import anyio
import anyio.lowlevel
import msgspec
import pytest

from crashfold.engine.adapters.memory.log import MemoryLog
from crashfold.engine.adapters.memory.store import MemoryStore, Trouble
from crashfold.engine.core.fairness import FairnessCheck
from crashfold.engine.errors import (
    CrashfoldError,
    FingerprintMismatch,
    LostRange,
    StateError,
    StreamMoved,
    TopicCompacted,
    TopicRecreated,
)
from crashfold.engine.runtime.pacing import COMMITTED_AT_LEAST_EVERY_S, FLOOD_RECORDS, FOLDING_PER_COMMIT, EngineLimits
from crashfold.engine.runtime.rebuild import Request
from crashfold.schemas.chain import chain_of_games
from crashfold.schemas.fairness import RuleBook, crash_point
from crashfold.schemas.game import Game, encode
from tests.support.games import SMALL, game, games_at
from tests.support.line import Deployment, Engine

GAMES = tuple(games_at(*(1.0, 2.0, 1.4, 11.0, 3.0) * 8))


@pytest.fixture(params=[None, "crash"], ids=["many streams", "one stream"])
def deployment(request: pytest.FixtureRequest) -> Deployment:
    return Deployment(only=request.param)


async def steps(engine: Engine, count: int, every_s: float = 1) -> None:
    for _ in range(count):
        engine.clock.pass_s(every_s)
        await engine.service.step()


# --- in order --------------------------------------------------------------------------------------------------------


async def test_every_game_is_folded_once_whatever_the_batches(deployment: Deployment) -> None:
    deployment.publish(*GAMES)
    for size in (1, 3, 7, 1000):
        await deployment.run(limits=EngineLimits(batch_games_max=size, poll_wait_s=0))
        assert await deployment.games() == len(GAMES)
        deployment.store.restore(MemoryStore().snapshot())
    await deployment.run()
    await deployment.check()


async def test_a_restart_goes_on_where_the_last_commit_was(deployment: Deployment) -> None:
    for start in range(0, len(GAMES), 9):
        deployment.publish(*GAMES[start : start + 9])
        await deployment.run()
        assert await deployment.games() == len(GAMES[: start + 9])
    before = await deployment.store.load("crash")
    await deployment.run()
    assert await deployment.store.load("crash") == before
    await deployment.check()


async def test_a_partition_full_of_junk_does_not_hold_up_the_others() -> None:
    deployment = Deployment(partitions=2)
    async with deployment.engine(limits=EngineLimits(poll_wait_s=0)) as engine:
        deployment.topic.extend([b"junk"] * 30_000, key=b"a", partition=0)
        sizes = list[int]()
        while len(sizes) < 100 and sum(sizes) < 30_000:
            deployment.publish(game(len(sizes) + 1), stream="b", partition=1)
            sizes.append(await engine.service.step())
            # What arrived two steps ago is committed, and what came with it was little.
            assert await deployment.games("b") >= len(sizes) - 3
    assert max(sizes[3:]) <= FLOOD_RECORDS
    await deployment.run(limits=EngineLimits(poll_wait_s=0))
    assert len(deployment.letters.letters) == 30_000
    await deployment.check("b")


async def test_a_partition_of_many_streams_is_committed_stream_by_stream() -> None:
    deployment = Deployment(2)
    for number, stream in enumerate(("a", "b", "c", "d")):
        deployment.publish(*GAMES[: 10 + number], stream=stream, partition=number % 2)
    async with deployment.engine() as one, deployment.engine() as other:
        await deployment.catch_up(one, other)
        assert set(one.service.streams) | set(other.service.streams) == {"a", "b", "c", "d"}
        assert one.value("partitions_held") == 1
        assert one.value("streams_held") == 2
    await deployment.check("a", "b", "c", "d")


async def test_a_step_that_lingers_makes_one_batch_of_what_comes_meanwhile() -> None:
    deployment = Deployment()
    async with deployment.engine(limits=EngineLimits(batch_games_max=100, linger_ms=50, poll_wait_s=0)) as engine:
        await steps(engine, 2)
        deployment.publish(GAMES[0])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(steps, engine, 1)
            while deployment.clock.monotonic_s() < 3.05:
                await anyio.lowlevel.checkpoint()
            deployment.publish(GAMES[1])
        await deployment.catch_up(engine)
    assert (await deployment.versions(), await deployment.games()) == (1, 2)


async def test_many_streams_are_committed_some_at_a_time() -> None:
    deployment = Deployment()
    names = [f"table-{number}" for number in range(11)]
    for name in names:
        deployment.publish(*GAMES[:3], stream=name)
    deployment.store.fail_next(Trouble.LOST_REPLY, method="commit")
    await deployment.run(limits=EngineLimits(batch_games_max=100, poll_wait_s=0, streams_at_once=3))
    assert [await deployment.versions(name) for name in names] == [1] * len(names)
    await deployment.check(*names)


async def test_what_came_during_a_commit_is_in_the_next_one() -> None:
    deployment = Deployment()
    async with deployment.engine(limits=EngineLimits(batch_games_max=100, poll_wait_s=0)) as engine:
        await steps(engine, 2)
        deployment.publish(GAMES[0])
        await steps(engine, 1)  # polls the game ahead
        deployment.publish(GAMES[1])
        await steps(engine, 1)
    assert (await deployment.versions(), await deployment.games()) == (1, 2)


async def test_far_behind_a_commit_waits_until_it_is_worth_its_time(deployment: Deployment) -> None:
    deployment = Deployment(only=deployment.only, commit_s=1.0)
    deployment.publish(*GAMES)
    await deployment.run(limits=EngineLimits(batch_games_max=2, poll_wait_s=0))
    batches = len(GAMES) // 2
    assert await deployment.versions() <= batches // FOLDING_PER_COMMIT + 1
    await deployment.check()


async def test_far_behind_a_commit_does_not_wait_longer_than_a_reader_should(deployment: Deployment) -> None:
    deployment = Deployment(only=deployment.only, commit_s=100.0)
    deployment.publish(*GAMES)
    async with deployment.engine(limits=EngineLimits(batch_games_max=1, poll_wait_s=0)) as engine:
        seen = set()
        for _ in range(len(GAMES) + 3):
            await steps(engine, 1)
            seen.add(await deployment.games())
    assert max(later - earlier for earlier, later in pairwise(sorted(seen))) <= COMMITTED_AT_LEAST_EVERY_S + 1


async def test_far_behind_a_commit_does_not_become_larger_than_redis_takes(deployment: Deployment) -> None:
    deployment = Deployment(only=deployment.only, commit_s=100.0)
    deployment.publish(*GAMES)
    seen = {0}
    async with deployment.engine(limits=EngineLimits(batch_games_max=2, poll_wait_s=0, commit_games_max=4)) as engine:
        while await deployment.games() < len(GAMES):
            await steps(engine, 1)
            seen.add(await deployment.games())
    assert max(later - earlier for earlier, later in pairwise(sorted(seen))) <= 4


async def test_what_was_folded_and_not_committed_is_folded_again_after_a_kill(deployment: Deployment) -> None:
    deployment = Deployment(only=deployment.only, commit_s=1.0)
    deployment.publish(*GAMES)
    async with deployment.engine(limits=EngineLimits(batch_games_max=2, poll_wait_s=0)) as engine:
        while engine.service.folded_to == engine.service.next_offsets:
            await steps(engine, 1)
    await deployment.run()
    await deployment.check()


async def test_what_was_folded_is_committed_before_the_engine_asks_whether_the_rest_is_gone() -> None:
    deployment = Deployment(commit_s=1.0)
    deployment.publish(*GAMES)
    async with deployment.engine(limits=EngineLimits(batch_games_max=2, poll_wait_s=0), accept_gap=True) as engine:
        while engine.service.folded_to == engine.service.next_offsets:
            await steps(engine, 1)
        folded_to = engine.service.folded_to[0]
        deployment.topic.truncate_before(folded_to + 4)  # two of them are polled ahead
        await deployment.catch_up(engine)
    assert await deployment.games() == len(GAMES) - 2


# --- bad records -----------------------------------------------------------------------------------------------------


async def test_bad_records_are_dead_letters_and_the_checkpoint_passes_them(deployment: Deployment) -> None:
    deployment.publish(GAMES[0])
    deployment.topic.append(b"no game")
    deployment.topic.append(encode(GAMES[1]), key=b"no name")
    deployment.publish(GAMES[1], msgspec.structs.replace(GAMES[0], crash_point=7.0), *GAMES[2:20], GAMES[0])
    await deployment.run()
    assert deployment.reasons() == [(1, "unreadable"), (2, "unreadable"), (4, "conflict"), (23, "late")]
    assert (await deployment.checkpoint()).next_offset == 24
    await deployment.check()


async def test_a_topic_of_garbage_is_passed_once() -> None:
    deployment = Deployment()
    for _ in range(12):
        deployment.topic.append(None, key=b"no name")
    await deployment.run()
    assert len(deployment.letters.letters) == 12
    async with deployment.engine() as engine:
        await steps(engine, 2)
        assert engine.service.next_offsets == {0: 12}


async def test_records_of_another_stream_are_passed_by_the_only_one_s_checkpoint() -> None:
    deployment = Deployment(only="a")
    deployment.publish(GAMES[0], stream="a")
    deployment.publish(*GAMES[:9], stream="b")
    await deployment.run()
    assert deployment.reasons() == [(offset, "stream") for offset in range(1, 10)]
    assert (await deployment.checkpoint("a")).next_offset == 10
    assert await deployment.store.load("b") is None


async def test_nothing_is_committed_before_its_dead_letters_are_handed_over(deployment: Deployment) -> None:
    deployment.publish(GAMES[0])
    deployment.topic.append(b"no game")
    async with deployment.engine() as engine:
        await steps(engine, 1)
        deployment.letters.available = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(steps, engine, 1)
            for _ in range(200):
                await anyio.lowlevel.checkpoint()
            assert await deployment.store.load("crash") is None
            assert engine.health.ready()
            deployment.letters.available = True
        assert await deployment.games() == 1
        assert deployment.reasons() == [(1, "unreadable")]


# --- the store -------------------------------------------------------------------------------------------------------

CALLS = ("load", "commit", "positions", "read_manifest", "write_manifest")


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("trouble", Trouble)
async def test_a_call_that_fails_is_made_again(deployment: Deployment, trouble: Trouble, method: str) -> None:
    deployment.publish(*GAMES)
    async with deployment.engine() as engine:
        for _ in range(6):
            deployment.store.fail_next(trouble, method=method)
            await steps(engine, 1)
        deployment.store.calm()
        await deployment.catch_up(engine)
        assert engine.health.ready() == []
        assert engine.value("commits_total", outcome="conflict") == 0
    assert await deployment.games() == len(GAMES)
    await deployment.check()


async def test_a_store_that_is_away_is_noticed_while_nothing_comes(deployment: Deployment) -> None:
    deployment.publish(*GAMES[:3])
    async with deployment.engine() as engine:
        await deployment.catch_up(engine)
        for method in ("positions", "read_manifest")[: 1 if await deployment.games() else 2]:
            deployment.store.fail_next(Trouble.UNAVAILABLE, method=method)
        await steps(engine, 1)
        assert "the store is away" in engine.health.ready()[0]
        await steps(engine, 1)
        assert engine.health.ready() == []


async def test_a_store_that_is_away_is_noticed_by_an_engine_that_has_met_no_stream() -> None:
    deployment = Deployment()
    async with deployment.engine() as engine:
        await steps(engine, 2)
        assert engine.health.ready() == []
        deployment.store.fail_next(Trouble.UNAVAILABLE)
        await steps(engine, 1)
        assert "the store is away" in engine.health.ready()[0]


async def test_lost_writes_are_made_again(deployment: Deployment) -> None:
    async with deployment.engine() as engine:
        deployment.publish(*GAMES[:10])
        await deployment.catch_up(engine)
        then = deployment.store.snapshot()
        deployment.publish(*GAMES[10:20])
        await deployment.catch_up(engine)
        deployment.store.restore(then)
        deployment.publish(*GAMES[20:])
        await deployment.catch_up(engine)
    assert await deployment.games() == len(GAMES)
    await deployment.check()


async def test_lost_writes_are_made_again_though_nothing_comes(deployment: Deployment) -> None:
    async with deployment.engine() as engine:
        deployment.publish(*GAMES[:10])
        await deployment.catch_up(engine)
        then = deployment.store.snapshot()
        deployment.publish(*GAMES[10:20])
        await deployment.catch_up(engine)
        deployment.store.restore(then)
        await deployment.catch_up(engine)
    assert await deployment.games() == 20


@pytest.mark.parametrize("again", [20, 16], ids=["to the same offset", "not as far"])
@pytest.mark.parametrize("more", [0, 5], ids=["at rest", "while games come"])
async def test_after_a_failover_and_back_the_history_that_stands_there_is_gone_on_from(
    deployment: Deployment, again: int, more: int
) -> None:
    """The primary was not resynced: it has the commits that the engine made before it went to the stale replica, and
    so another base, other blocks and another version at the offset that the engine reached there."""
    pieces = EngineLimits(batch_games_max=3, poll_wait_s=0)
    async with deployment.engine(limits=pieces) as engine:
        deployment.publish(*GAMES[:13])
        await deployment.catch_up(engine)
        replica = deployment.store.snapshot()
        for number in range(13, 20):
            deployment.publish(GAMES[number])
            await deployment.catch_up(engine)
        primary = deployment.store.snapshot()
        deployment.store.restore(replica)
        while (await deployment.checkpoint()).next_offset < again:
            await steps(engine, 1)
        deployment.store.restore(primary)
        deployment.publish(*GAMES[20 : 20 + more])
        await steps(engine, 2)
        await deployment.catch_up(engine)
        assert await deployment.games() == 20 + more
        conflicts = engine.value("commits_total", outcome="conflict")
        deployment.publish(*GAMES[30:])
        await deployment.catch_up(engine)
        assert engine.value("commits_total", outcome="conflict") == conflicts
        await deployment.check()
    deployment.publish(game(1_000, 2.0))
    await deployment.run()
    assert await deployment.games() == 20 + more + len(GAMES[30:]) + 1
    await deployment.check()


@pytest.mark.parametrize("killed_after", range(0, 40, 3))
async def test_an_idle_stream_that_lost_writes_is_not_forgotten_over_a_busy_one(killed_after: int) -> None:
    """The busy stream lost nothing, so its commits go on, and with them the offset at which a restart would begin."""
    deployment = Deployment()
    async with deployment.engine() as engine:
        deployment.publish(*GAMES[:5], stream="busy")
        await deployment.catch_up(engine)
        then = deployment.store.snapshot()
        deployment.publish(*GAMES[:9], stream="idle")
        await deployment.catch_up(engine)
        deployment.store.restore(then)
        deployment.publish(*GAMES[5:], stream="busy")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(steps, engine, 5)
            for _ in range(killed_after):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    await deployment.run()
    assert await deployment.games("idle") == 9
    await deployment.check("busy", "idle")


async def test_a_stream_let_go_from_memory_notices_what_it_lost() -> None:
    deployment = Deployment()
    tight = EngineLimits(batch_games_max=5, games_held_max=600, poll_wait_s=0)
    async with deployment.engine(limits=tight) as engine:
        deployment.publish(*GAMES[:5], stream="a")
        await deployment.catch_up(engine)
        then = deployment.store.snapshot()
        deployment.publish(*GAMES[5:9], stream="a")
        deployment.publish(*GAMES[:9], stream="b")
        await deployment.catch_up(engine)
        assert engine.service.streams == ["b"]
        deployment.store.restore(then)
        deployment.publish(*GAMES[9:12], stream="a")
        await engine.service.step()  # before it is time to look
        await deployment.catch_up(engine)
    assert [await deployment.games(stream) for stream in ("a", "b")] == [12, 9]
    await deployment.check("a", "b")


async def test_an_emptied_store_is_filled_from_the_start_of_the_topic(deployment: Deployment) -> None:
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
    deployment: Deployment, emptied_after: int
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
async def test_a_rebuild_that_is_swapped_in_is_taken_up(deployment: Deployment, more: int) -> None:
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


# --- several engines -------------------------------------------------------------------------------------------------


async def test_an_engine_that_does_not_know_it_was_thrown_out_changes_nothing(deployment: Deployment) -> None:
    async with deployment.engine() as silent, deployment.engine() as other:
        deployment.publish(*GAMES[:10])
        await deployment.catch_up(silent, other)
        holder, next_one = (silent, other) if silent.service.next_offsets else (other, silent)
        deployment.publish(*GAMES[10:20])
        await steps(holder, 1)  # has polled ahead
        deployment.topic.evict(holder.log)
        await steps(next_one, 4)
        deployment.publish(*GAMES[20:])
        await steps(next_one, 4)
        await steps(holder, 1)
        await deployment.catch_up(silent, other)
    assert await deployment.games() == len(GAMES)
    await deployment.check()


async def test_two_engines_on_one_partition_count_nothing_twice(deployment: Deployment) -> None:
    """Both read everything, as if each were alone: half of the commits conflict."""
    async with MemoryLog(deployment.topic, None) as first, MemoryLog(deployment.topic, None) as second:
        one, other = deployment.service(first), deployment.service(second)
        for start in range(0, len(GAMES), 8):
            deployment.publish(*GAMES[start : start + 8])
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one.step)
                tasks.start_soon(other.step)
        for _ in range(30):
            await one.step()
            await other.step()
        assert one.next_offsets == other.next_offsets == {0: len(GAMES)}
    assert await deployment.games() == len(GAMES)
    await deployment.check()


async def test_a_partition_that_changes_hands_between_two_steps_is_read_on_by_the_next(
    deployment: Deployment,
) -> None:
    async with deployment.engine() as one, deployment.engine() as other:
        for start in range(0, len(GAMES), 4):
            deployment.publish(*GAMES[start : start + 4])
            await steps(one, 1)
            deployment.topic.rebalance()
            await steps(other, 1)
        await deployment.catch_up(one, other)
    assert await deployment.games() == len(GAMES)
    await deployment.check()


@pytest.mark.parametrize("killed_after", range(120))
async def test_an_engine_may_be_killed_at_every_await(deployment: Deployment, killed_after: int) -> None:
    deployment.publish(*GAMES[:12])
    deployment.topic.append(b"no game")
    deployment.publish(*GAMES[12:])
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            async with deployment.engine() as engine:
                await steps(engine, 50)

        tasks.start_soon(run)
        for _ in range(killed_after):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    await deployment.run()
    assert await deployment.games() == len(GAMES)
    assert deployment.reasons() == [(12, "unreadable")]
    await deployment.check()


# --- what the topic no longer holds ----------------------------------------------------------------------------------


async def test_records_that_retention_removed_stop_the_engine_unless_they_are_done_without(
    deployment: Deployment,
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


async def test_a_gap_is_accepted_once_though_nothing_comes_after_it(deployment: Deployment) -> None:
    deployment.publish(*GAMES[:10])
    await deployment.run()
    deployment.publish(*GAMES[10:20])
    deployment.topic.truncate_before(20)
    await deployment.run(accept_gap=True)
    await deployment.run()
    deployment.publish(*GAMES[20:])
    await deployment.run()
    assert await deployment.games() == 30


async def test_what_retention_removed_after_it_was_read_is_no_loss(deployment: Deployment) -> None:
    deployment.publish(*GAMES[:20])
    await deployment.run()
    deployment.topic.truncate_before(20)
    deployment.publish(*GAMES[20:])
    await deployment.run()
    assert await deployment.games() == len(GAMES)


async def test_retention_that_overtakes_a_running_engine_stops_it(deployment: Deployment) -> None:
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


async def test_a_running_engine_does_without_what_it_may(deployment: Deployment) -> None:
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
async def test_a_recreated_topic_stops_the_engine(deployment: Deployment, anew: str) -> None:
    deployment.publish(*GAMES[:20])
    await deployment.run()
    deployment.topic.recreate()
    deployment.publish(*ANEW[anew])
    with pytest.raises(TopicRecreated, match=r"games/0 is not the partition that was read up to offset 20.*accept-gap"):
        await deployment.run()
    assert await deployment.games() == 20


@pytest.mark.parametrize("anew", ANEW)
async def test_a_topic_that_is_recreated_under_a_running_engine_stops_it(deployment: Deployment, anew: str) -> None:
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
    deployment: Deployment, anew: str
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
    assert tuple(stored.window) == GAMES[: after.next_offset][-len(stored.window) :]


@pytest.mark.parametrize("anew", ["more", "the same and more"])
async def test_a_running_engine_goes_on_with_a_recreated_topic_when_the_operator_says_so(anew: str) -> None:
    deployment = Deployment()
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


@pytest.mark.parametrize("records", [5, 30])
async def test_where_topics_have_no_ids_the_last_record_tells(records: int) -> None:
    """Looked at before a commit, at most once a second."""
    deployment = Deployment(topic_ids=False)
    deployment.publish(*GAMES[:20])
    async with deployment.engine() as engine:
        await deployment.catch_up(engine)
        deployment.topic.recreate()
        deployment.publish(*GAMES[-records:])
        deployment.clock.pass_s(1)
        with pytest.raises((TopicRecreated, LostRange)):
            await steps(engine, 3)
    assert (await deployment.checkpoint()).next_offset == 20
    with pytest.raises(TopicRecreated, match="offset"):
        await deployment.run()


async def test_a_state_without_an_id_gets_one_with_the_next_commit() -> None:
    deployment = Deployment(topic_ids=False)
    deployment.publish(*GAMES[:20])
    await deployment.run()
    deployment.topic._has_ids = True
    async with deployment.engine() as engine:
        await steps(engine, 3)
    manifest = await deployment.store.read_manifest("games", 0)
    assert manifest is not None
    assert manifest.topic_id == "games-1"
    deployment.publish(*GAMES[20:])
    await deployment.run()
    assert (await deployment.checkpoint()).topic_id == "games-1"
    await deployment.check()


@pytest.mark.parametrize("records", [0, 5, 20])
async def test_the_state_of_a_recreated_topic_may_be_kept(deployment: Deployment, records: int) -> None:
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
    deployment = Deployment()
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
    deployment = Deployment()
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
    deployment = Deployment()
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
    late = Deployment()
    late.publish(*GAMES[:3], stream="a")
    await late.run()
    deployment = Deployment()
    deployment.publish(*GAMES[:10], stream="a")
    deployment.publish(*GAMES[:5], stream="b")
    deployment.topic.truncate_before(10 if is_gone else 0)
    async with deployment.engine() as engine:
        engine.service.start_at(0, 10)
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
    deployment = Deployment()
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
    deployment = Deployment()
    deployment.publish(*GAMES[:10], stream="a")
    await deployment.run()
    deployment.topic.recreate()
    deployment.publish(*GAMES[10:20], stream="a")
    await deployment.run(accept_gap=True)
    deployment.store._data.live.clear()
    with pytest.raises(LostRange, match=r"stream a, .* had games of an earlier topic"):
        await deployment.run()


async def test_a_compacted_topic_stops_the_engine_unless_that_is_accepted(deployment: Deployment) -> None:
    deployment.publish(*GAMES)
    deployment.topic.is_compacted = True
    for refused in (deployment.run, deployment.rebuild):
        with pytest.raises(TopicCompacted, match=r"cleanup\.policy=delete.*--accept-gap"):
            await refused()
    assert await deployment.games() == 0
    await deployment.run(accept_gap=True)
    await deployment.rebuild(Request(accept_gap=True))
    assert await deployment.games() == len(GAMES)


# --- what does not fit -----------------------------------------------------------------------------------------------


async def test_a_stream_on_a_second_partition_stops_the_engine() -> None:
    deployment = Deployment(2)
    deployment.publish(*GAMES[:10], partition=0)
    await deployment.run()
    deployment.publish(*GAMES[10:], partition=1)
    with pytest.raises(StreamMoved, match=r"stream crash lives on partition 0 .* turned up on partition 1"):
        await deployment.run()
    assert await deployment.games() == 10


async def test_a_new_stream_on_two_partitions_of_two_engines_stops_one_of_them() -> None:
    deployment = Deployment(2)
    async with deployment.engine() as one, deployment.engine() as other:
        await steps(one, 2)
        await steps(other, 2)
        deployment.publish(*GAMES[:10], partition=0)
        deployment.publish(*GAMES[:10], partition=1)
        stopped = []

        async def run(engine: Engine) -> None:
            try:
                await steps(engine, 6)
            except StreamMoved:
                stopped.append(engine)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, one)
            tasks.start_soon(run, other)
    assert len(stopped) == 1
    assert await deployment.games() == 10


async def test_a_state_of_other_settings_is_refused_before_anything_is_read(deployment: Deployment) -> None:
    deployment.publish(*GAMES[:10])
    await deployment.run()
    deployment.settings = msgspec.structs.replace(SMALL, min=(1.5, 4))
    async with deployment.engine() as engine:
        with pytest.raises(FingerprintMismatch, match="crashfold replay"):
            await engine.service.step()


async def test_a_running_engine_stops_when_a_rebuild_with_other_settings_is_swapped_in(
    deployment: Deployment,
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
    deployment = Deployment(only="crash")
    deployment.publish(*GAMES[:10])
    await deployment.run()
    deployment.topic.name = "others"
    with pytest.raises(TopicRecreated, match="folded from topic games, not from others"):
        await deployment.run()


async def test_an_error_comes_out_as_it_is(deployment: Deployment) -> None:
    """An exit code is read from it, which a group of errors has not."""
    deployment.publish(*GAMES)
    async with deployment.engine() as engine:
        await steps(engine, 2)
        deployment.topic.truncate_before(len(GAMES))
        with pytest.raises(CrashfoldError) as caught:
            await steps(engine, 5)
    assert caught.value.exit_code == 78


async def test_a_log_that_is_away_is_waited_for(deployment: Deployment) -> None:
    deployment.publish(*GAMES)
    async with deployment.engine() as engine:
        await steps(engine, 1)
        deployment.topic.available = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(steps, engine, 1)
            for _ in range(50):
                await anyio.lowlevel.checkpoint()
            assert "the log is away" in engine.health.ready()[0]
            deployment.topic.available = True
        await deployment.catch_up(engine)
        assert engine.health.ready() == []
    await deployment.check()


# --- fairness --------------------------------------------------------------------------------------------------------


def unfair_games() -> tuple[Sequence[Game], int]:
    """A chain of which one game does not fit its hash and two links are broken, and the offset of that game."""
    games = list(chain_of_games(3, 20))
    games[7] = msgspec.structs.replace(games[7], crash_point=games[7].crash_point + 1)
    games[12] = msgspec.structs.replace(games[12], hash=None)
    games[16] = game(games[16].game_id, games[16].crash_point, hash="ab" * 32)
    games[16] = msgspec.structs.replace(games[16], crash_point=_point("ab" * 32))
    return games, 7


def _point(digits: str) -> float:
    found = crash_point(digits)
    assert found is not None
    return found


@pytest.mark.parametrize(("rejects", "folded"), [(False, 20), (True, 19)])
async def test_unfair_games_are_counted_once_or_rejected(rejects: bool, folded: int) -> None:
    deployment = Deployment(fairness=FairnessCheck(RuleBook(), rejects=rejects))
    games, wrong = unfair_games()
    deployment.publish(*games, *games)
    async with deployment.engine() as engine:
        await deployment.catch_up(engine)
        assert engine.value("fairness_mismatches_total", kind="hash") == (2 if rejects else 1)
        assert engine.value("fairness_mismatches_total", kind="chain") == 2
    assert await deployment.games() == folded
    again = {(20 + wrong, "fairness"), (wrong, "fairness")} if rejects else set()
    late = {(offset, "late") for offset in range(20, 30 - rejects)} - {(20 + wrong, "late")}
    assert {one for one in deployment.reasons() if one[1] == "fairness"} == again
    assert late <= set(deployment.reasons())
    await deployment.check()
    await deployment.rebuild()
    assert await deployment.games() == folded
    await deployment.check()


async def test_without_a_check_nothing_is_counted() -> None:
    deployment = Deployment()
    deployment.publish(*unfair_games()[0])
    async with deployment.engine() as engine:
        await deployment.catch_up(engine)
        assert engine.value("fairness_mismatches_total", kind="hash") == 0
    assert await deployment.games() == 20


async def test_a_rule_that_rejects_makes_another_state_and_one_that_counts_does_not() -> None:
    deployment = Deployment()
    deployment.publish(*GAMES[:5])
    await deployment.run()
    deployment.fairness = FairnessCheck(RuleBook(), rejects=False)
    await deployment.run()
    deployment.fairness = FairnessCheck(RuleBook(), rejects=True)
    with pytest.raises(FingerprintMismatch):
        await deployment.run()
    await deployment.rebuild()
    deployment.publish(*GAMES[5:])
    await deployment.run()
    await deployment.check()


async def test_a_store_that_fails_back_to_a_topic_that_is_gone_is_refused(deployment: Deployment) -> None:
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
