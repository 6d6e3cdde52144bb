"""Rebuilding beside a live state, and swapping."""

from contextlib import suppress

import anyio
import anyio.lowlevel
import msgspec
import pytest

from crashfold.engine.adapters.memory.log import MemoryLog
from crashfold.engine.adapters.memory.store import MemoryStore, Trouble
from crashfold.engine.errors import (
    ConfigurationError,
    CrashfoldError,
    FewerGames,
    LostRange,
    StreamMoved,
    TopicRecreated,
)
from crashfold.engine.runtime import folder, rebuild
from crashfold.engine.runtime.pacing import EngineLimits
from crashfold.engine.runtime.rebuild import Progress, RebuildRequest, Rebuilt
from crashfold.engine.runtime.streams import STREAM_GAMES
from crashfold.schemas.game import encode
from tests.support.games import SMALL, game, games_at
from tests.support.in_memory import MemoryDeployment

GAMES = tuple(games_at(*(1.0, 2.0, 1.4, 11.0, 3.0) * 8))


@pytest.fixture(params=[None, "crash"], ids=["many streams", "one stream"])
def deployment(request: pytest.FixtureRequest) -> MemoryDeployment:
    return MemoryDeployment(only=request.param)


async def test_the_rebuilt_state_is_the_live_one_in_every_key(deployment: MemoryDeployment) -> None:
    deployment.publish(*GAMES[:30], *GAMES[10:25], *reversed(GAMES[25:]))
    await deployment.run(limits=EngineLimits(batch_games_max=3, poll_wait_s=0))
    live = await deployment.store.read_model("crash")
    report = await deployment.rebuild()
    after = await deployment.store.read_model("crash")
    assert live is not None
    assert after is not None
    assert after[1] == live[1]
    assert after[0].version > live[0].version
    assert report.streams == (Rebuilt("crash", len(live[0].window) + 30, 60, after[0].version),)
    await deployment.check()


async def test_a_topic_nobody_has_read_can_be_rebuilt(deployment: MemoryDeployment) -> None:
    deployment.publish(*GAMES)
    report = await deployment.rebuild()
    assert [(one.games, one.version) for one in report.streams] == [(len(GAMES), 2)]
    assert (report.records, report.dead_letters) == (len(GAMES), 0)
    await deployment.check()


async def test_streams_that_no_engine_has_met_are_known_once_they_are_rebuilt() -> None:
    deployment = MemoryDeployment(only=None)
    deployment.publish(*GAMES)
    deployment.publish(*GAMES[:5], stream="other")
    await deployment.rebuild()
    manifest = await deployment.store.read_manifest(deployment.topic.name, 0)
    assert manifest is not None
    assert set(manifest.streams) == {"crash", "other"}
    deployment.publish(GAMES[5], stream="other")
    await deployment.run()
    await deployment.check("crash", "other")


async def test_what_no_engine_has_passed_is_handed_over_and_nothing_else() -> None:
    deployment = MemoryDeployment(only="crash")
    deployment.topic.append(b"no game")
    deployment.publish(GAMES[0])
    await deployment.run()
    deployment.letters._letters.clear()
    deployment.topic.append(b"no game either")
    deployment.topic.append(encode(GAMES[0]), key=b"no name")
    deployment.publish(msgspec.structs.replace(GAMES[0], crash_point=9.0))
    report = await deployment.rebuild(RebuildRequest(dry_run=True))
    assert (report.dead_letters, deployment.reasons()) == (4, [])
    report = await deployment.rebuild()
    assert report.dead_letters == 4
    assert deployment.reasons() == [(2, "unreadable"), (3, "unreadable"), (4, "conflict")]


async def test_a_stream_that_is_stored_as_it_is_printed_is_the_same(
    deployment: MemoryDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "UNFOLDED_GAMES", len(GAMES))
    deployment.publish(*GAMES)
    await deployment.rebuild()
    await deployment.check()


async def test_a_dry_run_changes_nothing(deployment: MemoryDeployment) -> None:
    deployment.publish(*GAMES[:20])
    await deployment.run()
    deployment.publish(*GAMES[20:])
    before = deployment.store.snapshot()
    report = await deployment.rebuild(RebuildRequest(dry_run=True))
    assert report.streams == (Rebuilt("crash", len(GAMES), len(GAMES), None),)
    assert deployment.store.snapshot() == before


async def test_only_the_stream_that_was_asked_for_is_rebuilt() -> None:
    deployment = MemoryDeployment(2)
    for number, stream in enumerate("abc"):
        deployment.publish(*GAMES, stream=stream, partition=number % 2)
    async with deployment.engine() as engine:
        await deployment.catch_up(engine)
    before = {stream: await deployment.store.load(stream) for stream in "abc"}
    report = await deployment.rebuild(RebuildRequest(stream="b"))
    assert [one.stream for one in report.streams] == ["b"]
    assert await deployment.store.load("a") == before["a"]
    assert await deployment.store.load("c") == before["c"]
    await deployment.check("a", "b", "c")
    with pytest.raises(CrashfoldError, match="no record of stream d"):
        await deployment.rebuild(RebuildRequest(stream="d"))


async def test_where_there_is_one_stream_no_other_can_be_asked_for() -> None:
    deployment = MemoryDeployment(only="a")
    deployment.publish(*GAMES, stream="a")
    with pytest.raises(ConfigurationError, match="of the stream a alone"):
        await deployment.rebuild(RebuildRequest(stream="b"))


async def test_a_state_can_be_put_back_to_an_offset_and_the_engine_goes_on_from_there(
    deployment: MemoryDeployment,
) -> None:
    deployment.publish(*GAMES)
    async with deployment.engine() as engine:
        await deployment.catch_up(engine)
        report = await deployment.rebuild(RebuildRequest(to_offset=17))
        assert [(one.games, one.next_offset) for one in report.streams] == [(17, 17)]
        await deployment.check()
        await deployment.catch_up(engine)
        for _ in range(8):
            deployment.clock.pass_s(1)
            await engine.service.step()
    assert await deployment.games() == len(GAMES)
    await deployment.check()


async def test_an_offset_needs_a_stream_where_there_are_several_partitions() -> None:
    deployment = MemoryDeployment(2)
    deployment.publish(*GAMES, stream="a")
    with pytest.raises(ConfigurationError, match="--stream"):
        await deployment.rebuild(RebuildRequest(to_offset=3))
    report = await deployment.rebuild(RebuildRequest(stream="a", to_offset=3))
    assert [one.games for one in report.streams] == [3]


async def test_a_live_engine_whose_checkpoint_is_beyond_the_last_record_is_overtaken() -> None:
    """The live batches end elsewhere than those of the rebuild, so its checkpoint of an idle stream is further."""
    deployment = MemoryDeployment()
    deployment.publish(*GAMES[:5], stream="idle")
    deployment.publish(*GAMES, stream="busy")
    deployment.topic.skip(3)
    await deployment.run(limits=EngineLimits(batch_games_max=1000, poll_wait_s=0))
    assert (await deployment.checkpoint("idle")).next_offset == 48
    report = await deployment.rebuild()
    assert [(one.stream, one.next_offset) for one in report.streams] == [("busy", 48), ("idle", 48)]


async def test_a_busy_live_engine_is_overtaken(deployment: MemoryDeployment) -> None:
    deployment.publish(*GAMES[:20])
    async with deployment.engine() as engine, anyio.create_task_group() as tasks:
        await deployment.catch_up(engine)

        async def live() -> None:
            for one in GAMES[20:]:
                deployment.publish(one)
                await engine.service.step()

        tasks.start_soon(live)
        await deployment.rebuild()
    await deployment.run()
    assert await deployment.games() == len(GAMES)
    await deployment.check()


@pytest.mark.parametrize("killed_after", range(0, 60, 2))
async def test_a_rebuild_that_was_killed_has_changed_nothing_or_is_done(
    deployment: MemoryDeployment, killed_after: int
) -> None:
    deployment.publish(*GAMES)
    await deployment.run()
    before = await deployment.store.read_model("crash")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deployment.rebuild)
        for _ in range(killed_after):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    after = await deployment.store.read_model("crash")
    assert before is not None
    assert after is not None
    assert after[1] == before[1]
    await deployment.rebuild()
    await deployment.run()
    await deployment.check()


@pytest.mark.parametrize("method", ["load", "commit", "promote", "clear", "positions"])
@pytest.mark.parametrize("trouble", Trouble)
async def test_a_call_that_fails_is_made_again(deployment: MemoryDeployment, trouble: Trouble, method: str) -> None:
    deployment.publish(*GAMES)
    deployment.topic.append(b"no game")
    await deployment.run()
    deployment.store.fail_next(trouble, method=method)
    await deployment.rebuild()
    deployment.store.calm()
    assert await deployment.games() == len(GAMES)
    await deployment.check()


async def test_two_rebuilds_of_a_stream_do_not_mix(
    deployment: MemoryDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "BATCH_GAMES", 5)
    deployment.publish(*GAMES)
    done = []

    async def run() -> None:
        with suppress(CrashfoldError):
            done.append(await deployment.rebuild())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        tasks.start_soon(run)
    assert done
    assert await deployment.games() == len(GAMES)
    await deployment.check()


async def test_memory_is_bounded_however_many_streams_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuild, "BATCH_GAMES", 10)
    deployment = MemoryDeployment()
    names = [f"s{number}" for number in range(12)]
    for start in range(0, 40, 10):
        for name in names:
            deployment.publish(*GAMES[start : start + 10], stream=name)
    held = []
    async with MemoryLog(deployment.topic, None) as log:
        limits = EngineLimits(games_held_max=4 * STREAM_GAMES, poll_wait_s=0)
        made = deployment.folder(log, deployment.store.shadow(), limits=limits)
        await rebuild.Rebuild(
            log,
            deployment.store,
            deployment.store.shadow(),
            made,
            RebuildRequest(),
            deployment.clock,
            lambda progress: held.append(len(made.streams)),
            poll_wait_s=0,
        ).run()
    assert max(held) <= 4
    await deployment.check(*names)


async def test_progress_is_told_while_nothing_comes_too(deployment: MemoryDeployment) -> None:
    deployment.publish(*GAMES)
    told: list[Progress] = []
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            await deployment.rebuild(progressed=told)
            tasks.cancel_scope.cancel()

        tasks.start_soon(run)
        while not told:
            await anyio.lowlevel.checkpoint()
    assert told[-1] == Progress(len(GAMES), len(GAMES))
    deployment.topic.skip(2)  # where nothing is read there is nothing to fold, but an end to reach
    told.clear()
    await deployment.rebuild(progressed=told)
    assert told[-1].records == len(GAMES)
    assert told[-1].records_total == len(GAMES) + 2


async def test_partitions_that_are_lost_and_gained_meanwhile_are_read_on(
    deployment: MemoryDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a client does that had to connect anew."""
    monkeypatch.setattr(rebuild, "BATCH_GAMES", 5)
    deployment.publish(*GAMES)
    async with MemoryLog(deployment.topic, None) as log:
        at = [20]

        def reconnect(progress: Progress) -> None:
            if progress.records in at:
                at.clear()
                deployment.topic.evict(log)

        report = await rebuild.Rebuild(
            log,
            deployment.store,
            deployment.store.shadow(),
            deployment.folder(log, deployment.store.shadow()),
            RebuildRequest(),
            deployment.clock,
            reconnect,
            poll_wait_s=0,
        ).run()
    assert [one.games for one in report.streams] == [len(GAMES)]
    await deployment.check()


async def test_a_state_that_would_lose_games_is_not_swapped_in_unasked(deployment: MemoryDeployment) -> None:
    deployment.publish(*GAMES)
    await deployment.run()
    deployment.topic.truncate_before(30)
    with pytest.raises(LostRange, match="--accept-gap"):
        await deployment.rebuild()
    assert await deployment.games() == len(GAMES)
    await deployment.rebuild(RebuildRequest(accept_gap=True))
    assert await deployment.games() == len(GAMES) - 30
    await deployment.check()


async def test_nor_is_one_from_which_compaction_took_records(deployment: MemoryDeployment) -> None:
    deployment.publish(*GAMES)
    await deployment.run()
    before = deployment.store.snapshot()
    deployment.topic.remove(7)
    with pytest.raises(FewerGames, match=r"39 games up to offset 40, and the live state has 40: .*accept-gap"):
        await deployment.rebuild()
    assert deployment.store.snapshot().live == before.live
    report = await deployment.rebuild(RebuildRequest(dry_run=True))
    assert [one.games for one in report.streams] == [39]
    await deployment.rebuild(RebuildRequest(accept_gap=True))
    assert await deployment.games() == 39


@pytest.mark.parametrize("position", [1, 19, 20, 21])
async def test_games_are_compared_where_the_live_state_stands(deployment: MemoryDeployment, position: int) -> None:
    """The live engine is behind: the rebuild has more games in all, and yet lacks one that the live state has."""
    deployment.publish(*GAMES[:20])
    await deployment.run()
    deployment.publish(*GAMES[20:])
    deployment.topic.remove(position)
    if position < 20:
        with pytest.raises(FewerGames, match="would have 19 games up to offset 20, and the live state has 20"):
            await deployment.rebuild()
        assert await deployment.games() == 20
    else:
        await deployment.rebuild()
        assert await deployment.games() == 39


async def test_games_are_compared_stream_by_stream_before_any_is_swapped_in() -> None:
    deployment = MemoryDeployment(2)
    for number, stream in enumerate("abc"):
        deployment.publish(*GAMES, stream=stream, partition=number % 2)
    async with deployment.engine() as engine:
        await deployment.catch_up(engine)
    before = deployment.store.snapshot()
    deployment.topic.remove(45)
    with pytest.raises(FewerGames, match="stream c"):
        await deployment.rebuild()
    assert deployment.store.snapshot().live == before.live
    await deployment.rebuild(RebuildRequest(stream="a"))
    await deployment.check("a")


async def test_a_live_engine_that_is_ahead_is_compared_once_it_is_overtaken(deployment: MemoryDeployment) -> None:
    deployment.publish(*GAMES[:20])
    await deployment.run()

    async def more(progress: Progress) -> None:
        deployment.publish(*GAMES[20:])
        await deployment.run()

    async with MemoryLog(deployment.topic, None) as log:
        made = rebuild.Rebuild(
            log,
            deployment.store,
            deployment.store.shadow(),
            deployment.folder(log, deployment.store.shadow()),
            RebuildRequest(),
            deployment.clock,
            lambda progress: None,
            poll_wait_s=0,
        )
        await made._begin()
        await more(Progress(0, 0))
        report = await made.run()
    assert [one.games for one in report.streams] == [len(GAMES)]
    await deployment.check()


@pytest.mark.parametrize("left", ["nothing", "garbage"])
async def test_nothing_at_all_is_never_swapped_in_unasked(deployment: MemoryDeployment, left: str) -> None:
    deployment.publish(*GAMES)
    await deployment.run()
    before = deployment.store.snapshot()
    deployment.topic.truncate_before(len(GAMES))
    if left == "garbage":
        deployment.topic.append(b"no game")
        deployment.topic.append(b"no game", key=b"no name")
    with pytest.raises((FewerGames, LostRange)):
        await deployment.rebuild()
    await deployment.rebuild(RebuildRequest(dry_run=True))
    assert deployment.store.snapshot().live == before.live
    await deployment.run()


async def test_a_topic_without_a_game_is_nothing_to_rebuild_from(deployment: MemoryDeployment) -> None:
    deployment.topic.append(b"no game")
    with pytest.raises(FewerGames, match="games has no game"):
        await deployment.rebuild()


async def test_a_stream_of_which_the_topic_has_nothing_any_more_is_not_left_behind_unasked() -> None:
    deployment = MemoryDeployment()
    deployment.publish(*GAMES[:5], stream="a")
    deployment.publish(*GAMES[:10], stream="b")
    await deployment.run()
    deployment.topic.remove(0)
    for offset in range(1, 5):
        deployment.topic.remove(offset)
    with pytest.raises(FewerGames, match=r"stream a from games would have 0 games .* has 5"):
        await deployment.rebuild()
    await deployment.rebuild(RebuildRequest(accept_gap=True))
    await deployment.run()
    assert [await deployment.games(stream) for stream in "ab"] == [5, 10], "what is left of it stays"


async def test_settings_that_reject_more_are_no_reason_to_lose_games_unasked() -> None:
    deployment = MemoryDeployment()
    deployment.publish(*GAMES[1:9], GAMES[0], GAMES[9])
    await deployment.run()
    deployment.settings = msgspec.structs.replace(SMALL, window_games=7)
    with pytest.raises(FewerGames, match=r"would have 9 games .* has 10"):
        await deployment.rebuild()
    await deployment.rebuild(RebuildRequest(accept_gap=True))


async def test_what_becomes_a_dead_letter_only_without_what_is_gone_is_handed_over(
    deployment: MemoryDeployment,
) -> None:
    """The live engine took the last record for a duplicate of the first, which retention has removed since."""
    deployment.publish(game(1, 2.0), game(1, 3.0), game(1, 2.0))
    await deployment.run()
    assert deployment.reasons() == [(1, "conflict")]
    deployment.topic.truncate_before(1)
    await deployment.rebuild(RebuildRequest(accept_gap=True))
    assert deployment.reasons() == [(1, "conflict"), (2, "conflict")]
    await deployment.check()


async def test_nor_is_one_of_a_topic_that_was_recreated(deployment: MemoryDeployment) -> None:
    deployment.publish(*GAMES[:20])
    await deployment.run()
    deployment.topic.recreate()
    deployment.publish(*GAMES[20:])
    await deployment.run(accept_gap=True)
    with pytest.raises(LostRange, match="earlier topic"):
        await deployment.rebuild()
    await deployment.rebuild(RebuildRequest(accept_gap=True))
    assert await deployment.games() == 20
    await deployment.check()


@pytest.mark.parametrize("at", ["reading", "swapping"])
async def test_a_topic_that_is_made_anew_meanwhile_is_not_swapped_in(
    deployment: MemoryDeployment, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much the new one holds, and be it the same games."""
    monkeypatch.setattr(rebuild, "BATCH_GAMES", 5)
    deployment.publish(*GAMES)
    await deployment.run()
    before = deployment.store.snapshot()

    def recreate(progress: Progress) -> None:
        if progress.records == (5 if at == "reading" else len(GAMES)):
            deployment.topic.recreate()
            deployment.publish(*GAMES, *GAMES)

    async with MemoryLog(deployment.topic, None) as log:
        made = rebuild.Rebuild(
            log,
            deployment.store,
            deployment.store.shadow(),
            deployment.folder(log, deployment.store.shadow()),
            RebuildRequest(accept_gap=True),
            deployment.clock,
            recreate,
            poll_wait_s=0,
        )
        with pytest.raises(TopicRecreated, match="made anew while it was read"):
            await made.run()
    assert deployment.store.snapshot().live == before.live


async def test_an_engine_goes_on_after_a_rebuild_from_what_retention_left() -> None:
    deployment = MemoryDeployment()
    deployment.publish(*GAMES[:10], stream="a")
    deployment.publish(*GAMES[:3], stream="idle")
    await deployment.run()
    deployment.publish(*GAMES[10:], stream="a")
    deployment.topic.truncate_before(20)
    with pytest.raises(LostRange):
        await deployment.run()
    await deployment.rebuild(RebuildRequest(accept_gap=True))
    await deployment.run()
    assert [await deployment.games(stream) for stream in ("a", "idle")] == [23, 3]
    deployment.publish(*GAMES[3:6], stream="idle")
    await deployment.run()
    assert await deployment.games("idle") == 6


@pytest.mark.parametrize("accept_gap", [False, True])
async def test_an_engine_goes_on_after_a_rebuild_from_a_recreated_topic(accept_gap: bool) -> None:
    """A stream that was not on the new topic yet stands at an offset of the old one, which must not hide its games."""
    deployment = MemoryDeployment()
    deployment.publish(*GAMES[:10], stream="a")
    deployment.publish(*GAMES[:10], stream="b")
    await deployment.run()
    deployment.topic.recreate()
    deployment.publish(*GAMES[:12], stream="a")
    with pytest.raises(TopicRecreated):
        await deployment.run()
    await deployment.rebuild(RebuildRequest(accept_gap=True))
    await deployment.run()
    await deployment.check("a")
    deployment.publish(*GAMES[10:15], stream="b")
    if accept_gap:
        await deployment.run(accept_gap=True)
        assert await deployment.games("b") == 15
    else:
        with pytest.raises(TopicRecreated, match="stream b"):
            await deployment.run()
        await deployment.rebuild(RebuildRequest(stream="b", accept_gap=True))
        await deployment.run()
        await deployment.check("a", "b")


@pytest.mark.parametrize("accept_gap", [False, True])
async def test_retention_that_overtakes_a_rebuild_is_told_or_accepted(
    deployment: MemoryDeployment, accept_gap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "BATCH_GAMES", 5)
    deployment.publish(*GAMES)
    async with MemoryLog(deployment.topic, None) as log:
        made = rebuild.Rebuild(
            log,
            deployment.store,
            deployment.store.shadow(),
            deployment.folder(log, deployment.store.shadow()),
            RebuildRequest(accept_gap=accept_gap),
            deployment.clock,
            lambda progress: deployment.topic.truncate_before(30),
            poll_wait_s=0,
        )
        if not accept_gap:
            with pytest.raises(LostRange, match="while they were being read"):
                await made.run()
            return
        report = await made.run()
    assert [one.games for one in report.streams] == [5 + 10]


async def test_what_retention_removes_behind_a_rebuild_is_not_passed_over_by_the_engine_that_comes_next() -> None:
    deployment = MemoryDeployment()
    deployment.publish(*GAMES[:10], stream="a")

    def come_and_go(progress: Progress) -> None:
        if progress.records == 10:
            deployment.publish(*GAMES[10:14], stream="a")
            deployment.topic.truncate_before(12)

    async with MemoryLog(deployment.topic, None) as log:
        report = await rebuild.Rebuild(
            log,
            deployment.store,
            deployment.store.shadow(),
            deployment.folder(log, deployment.store.shadow()),
            RebuildRequest(),
            deployment.clock,
            come_and_go,
            poll_wait_s=0,
        ).run()
    assert [(one.games, one.next_offset) for one in report.streams] == [(10, 10)]
    with pytest.raises(LostRange, match="offsets 10 to 11"):
        await deployment.run()
    await deployment.run(accept_gap=True)
    assert await deployment.games("a") == 12


async def test_a_topic_that_is_not_there_is_said_to_be() -> None:
    deployment = MemoryDeployment(0)
    with pytest.raises(ConfigurationError, match="no topic games"):
        await deployment.rebuild()


async def test_a_stream_on_two_partitions_is_not_rebuilt() -> None:
    deployment = MemoryDeployment(2)
    deployment.publish(*GAMES, partition=0)
    deployment.publish(*GAMES, partition=1)
    with pytest.raises(StreamMoved):
        await deployment.rebuild()
    assert deployment.store.snapshot().live == {}


async def test_a_rebuild_with_other_settings_takes_away_the_keys_of_the_old_ones(deployment: MemoryDeployment) -> None:
    deployment.publish(*GAMES)
    await deployment.run()
    deployment.settings = msgspec.structs.replace(SMALL, min=(4,), floor=(), range=())
    await deployment.rebuild()
    read = await deployment.store.read_model("crash")
    assert read is not None
    assert {name for name in read[1] if name.startswith("occurrences")} == {
        *("occurrences:min:4", "occurrences:max:1", "occurrences:max:2")
    }
    await deployment.check()


async def test_a_store_emptied_meanwhile_ends_a_rebuild(deployment: MemoryDeployment) -> None:
    deployment.publish(*GAMES)
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            with suppress(CrashfoldError):
                await deployment.rebuild()

        tasks.start_soon(run)
        for _ in range(18):
            await anyio.lowlevel.checkpoint()
            deployment.store.restore(MemoryStore().snapshot())
    await deployment.rebuild()
    await deployment.check()
