"""The replica on the memory twins: what it makes of the topic, and what it calls that."""

from collections.abc import Sequence
from contextlib import aclosing

import anyio
import pytest

from crashfold.engine.adapters.memory.log import MemoryLog, MemoryTopic
from crashfold.engine.ports import Cursor, Standing
from crashfold.engine.read import replica
from crashfold.engine.read.replica import Replica, Replicated
from crashfold.projections.games import Bands, Games
from crashfold.projections.settings import ProjectionSettings
from crashfold.schemas.game import Game, encode
from tests.support.games import SMALL, START_MS, game

PATIENCE_S = 10
HOUR_MS = 3_600_000
SETTINGS = ProjectionSettings(window_games=10, samples_games=(5,))
GAMES = [game(number) for number in (1, 2, 3, 5, 4, 5, 6, 8, 7, 9, 10, 12, 11, 13)]
"""Some of them late, one of them twice."""


def topic_of(games: Sequence[Game]) -> MemoryTopic:
    """A topic that another stream shares."""
    topic = MemoryTopic("games")
    for one in games:
        topic.append(encode(one), key=b"crash")
        topic.append(encode(one), key=b"other")
    return topic


def standing(games: Sequence[Game], version: int, commit: str) -> tuple[Standing, Games]:
    """Where the stream stands after those games, which are of one commit."""
    by_id = {one.game_id: one for one in games}
    window = [by_id[number] for number in sorted(by_id)]
    at = Standing("g", version, "games", 0, 2 * len(games), len(window), max(by_id), commit)
    return at, Games.of(Bands(()), window)


async def followed(
    topic: MemoryTopic, begin: tuple[Standing, Games], records: int, monkeypatch: pytest.MonkeyPatch
) -> list[Replicated]:
    """What a replica makes of the topic when it reads so many records at a time."""
    monkeypatch.setattr(replica, "GAMES_MAX", records)
    found: list[Replicated] = []
    with anyio.fail_after(PATIENCE_S):
        async with MemoryLog(topic, None) as log, aclosing(Replica("crash", SETTINGS).follow(log, *begin)) as looks:
            async for now in looks:
                found.append(now)
                if now.next_offset == 2 * len(GAMES):
                    return found
    raise AssertionError("it has ended")


async def test_a_name_stands_for_one_state_however_the_topic_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    topic, states = topic_of(GAMES), dict[Cursor, list[int]]()
    ends = set[Cursor]()
    for records in (1, 2, 3, 5, 100):
        found = await followed(topic, standing(GAMES[:2], 7, "a" * 16), records, monkeypatch)
        ends.add(found[-1].standing.cursor)
        for now in found:
            state = [now.standing.total_games, now.standing.newest_id, *now.window.ids.tolist()]
            assert states.setdefault(now.standing.cursor, state) == state
    assert len(ends) == 1
    assert len(states) > len(GAMES) - 4


async def test_what_began_with_another_commit_has_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    topic = topic_of(GAMES)
    begins = [standing(GAMES[:2], 7, "a" * 16), standing(GAMES[:2], 7, "b" * 16), standing(GAMES[:3], 8, "c" * 16)]
    ends = [(await followed(topic, begin, 3, monkeypatch))[-1] for begin in begins]
    assert len({end.standing.cursor for end in ends}) == 3
    assert len({(end.standing.next_offset, tuple(end.window.ids.tolist())) for end in ends}) == 1


async def test_a_topic_that_says_something_else_gives_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    begin, other = standing(GAMES[:2], 7, "a" * 16), [*GAMES[:-1], game(13, 99.0)]
    one, two = [(await followed(topic_of(games), begin, 3, monkeypatch))[-1].standing for games in (GAMES, other)]
    assert (one.next_offset, one.total_games) == (two.next_offset, two.total_games)
    assert one.cursor != two.cursor


async def test_a_replica_that_goes_on_later_comes_to_the_same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    topic, begin = topic_of(GAMES), standing(GAMES[:2], 7, "a" * 16)
    found = await followed(topic, begin, 3, monkeypatch)
    middle = found[len(found) // 2]
    again = await followed(topic, (middle.standing, middle.window), 4, monkeypatch)
    assert again[-1].standing == found[-1].standing


async def test_a_replica_leaves_out_games_from_the_future() -> None:
    topic = MemoryTopic()
    for number, hours in enumerate((0, 24, 25, -100, 24), 1):
        topic.append(encode(game(number, end_time=START_MS + hours * HOUR_MS)), timestamp_ms=START_MS)
    begin = Standing("g", 1, topic.name, 0, 0, 0, 0, "")
    with anyio.fail_after(PATIENCE_S):
        async with (
            MemoryLog(topic, None) as log,
            aclosing(Replica("crash", SMALL).follow(log, begin, Games.empty(Bands(())))) as looks,
        ):
            async for now in looks:
                if now.standing.newest_id == 5:
                    assert now.window.ids.tolist() == [1, 2, 4, 5]
                    break
