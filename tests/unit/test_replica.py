"""The replica: the same records, judged as the engine judges them."""

import anyio

from engine.adapters.memory_log import MemoryLog, MemoryTopic
from engine.api.replica import Replica
from engine.core.reading import Standing
from projections.games import Bands, Games
from schemas.game import encode
from tests.games import SMALL, START_MS, game

HOUR_MS = 3_600_000


async def test_a_replica_leaves_out_games_from_the_future() -> None:
    topic = MemoryTopic()
    for number, hours in enumerate((0, 24, 25, -100, 24), 1):
        topic.append(encode(game(number, end_time=START_MS + hours * HOUR_MS)), timestamp_ms=START_MS)
    standing = Standing("g", 1, topic.name, 0, 0, 0, 0, "")
    with anyio.fail_after(10):
        async with MemoryLog(topic, None) as log:
            async for moved, window in Replica("crash", SMALL).follow(log, standing, Games.empty(Bands(()))):
                if moved.newest_id == 5:
                    assert window.ids.tolist() == [1, 2, 4, 5]
                    break
