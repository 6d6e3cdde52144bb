"""An append-only file that a crash cut inside a transaction: what Redis makes of it is whole or refused, never doubled.

redis-server 7.0 leaves the transaction open that it cuts off. What comes next is written behind it, and the restart
after that runs both.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final, Literal

import pytest

from crashfold.engine.adapters.redis.reader import RedisReader
from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.errors import StateError
from crashfold.engine.ports import Applied, Promoted
from crashfold.engine.runtime.pacing import EngineLimits
from crashfold.projections.delta import WriteList
from tests.contract.state_store import at, commit
from tests.integration.test_damage import OnRedis
from tests.support.games import games_at
from tests.support.servers import RedisServer

GAMES: Final = tuple(games_at(*(1.0, 2.0, 1.4, 11.0, 3.0, 1.1, 1.2) * 9))
FOLDED: Final = 40
CUTS: Final = 5
ROUNDS: Final = 3
PIECES: Final = EngineLimits(batch_games_max=5, poll_wait_s=0)


def tear(server: RedisServer, at: float) -> None:
    """Cut the file of the server, which is down, inside its last transaction: `at` is how far into it."""
    (file,) = Path(server.directory).rglob("*.incr.aof")
    data = file.read_bytes()
    begin, end = data.rindex(b"*1\r\n$5\r\nMULTI"), data.rindex(b"*1\r\n$4\r\nEXEC")
    assert begin < end
    file.write_bytes(data[: begin + int((end - begin) * at)])


@pytest.mark.fault(
    "The append-only file is cut at any byte, twice",
    user="answers, or 503",
    operator="where the engine ends with 78: `replay`",
)
@pytest.mark.parametrize("torn", ["commit", "promotion"])
@pytest.mark.parametrize("cut", range(CUTS))
async def test_a_transaction_torn_again_and_again_is_made_or_refused(
    new_redis: Callable[..., RedisServer], torn: Literal["commit", "promotion"], cut: int
) -> None:
    """The server is killed and its file cut, there are commits, it is killed again; and all of that several times."""
    random = Random(f"{torn} {cut}")
    server = new_redis({"appendonly": "yes", "appendfsync": "always"})
    async with RedisStore(server.url, key_prefix="test") as store:
        deployment, published = OnRedis(store, "crash"), FOLDED
        deployment.publish(*GAMES[:published])
        await deployment.run(limits=PIECES)
        for _ in range(ROUNDS):
            deployment.publish(*GAMES[published : published + 3])
            await deployment.run(limits=PIECES)
            if torn == "promotion":
                await deployment.rebuild()
            server.kill()
            tear(server, (cut + random.random()) / CUTS)
            server.start()
            deployment.publish(*GAMES[published + 3 : published + 5])
            published += 5
            try:
                await deployment.run(limits=PIECES)
                server.kill()
                server.start()
                await deployment.run(limits=PIECES)
            except StateError as error:
                if "crashfold replay" not in str(error):
                    raise
                await deployment.rebuild()
            await deployment.check()
            assert await deployment.games() == published


@pytest.mark.parametrize("values_max", [1, 1_000], ids=["staged", "whole"])
async def test_a_commit_that_lost_the_end_of_its_transaction_alone_and_ran_before_another_one_shows(
    new_redis: Callable[..., RedisServer], values_max: int
) -> None:
    """Both ran as a whole, so the counters agree; but the second one was made where the first was not."""
    server = new_redis({"appendonly": "yes", "appendfsync": "always"})
    lost = commit("crash", at(1), 2, {"elements": WriteList(0, [b"2"], 9)})
    instead = commit("crash", at(1), 3, {"elements": WriteList(0, [b"3", b"2"], 9)})
    async with RedisStore(server.url, whole_values_max=values_max) as store:
        await store.commit([commit("crash", None, 1, {"elements": WriteList(0, [b"1"], 9)})])
        await store.commit([lost])
    server.kill()
    (file,) = Path(server.directory).rglob("*.incr.aof")
    data = file.read_bytes()
    assert data.endswith(b"EXEC\r\n")
    file.write_bytes(data[:-3])
    server.start()
    async with RedisStore(server.url, whole_values_max=values_max) as store:
        assert await store.commit([instead]) == [Applied(2)]
    server.kill()
    server.start()
    async with RedisStore(server.url, whole_values_max=values_max) as store, RedisReader(server.url) as reader:
        with pytest.raises(StateError, match="ran twice"):
            await store.load("crash")
        with pytest.raises(StateError, match="ran twice"):
            await store.commit([commit("crash", at(3), 4, {"elements": WriteList(0, [b"4"], 9)})])
        with pytest.raises(StateError, match="ran twice"):
            await reader.standing("crash")
        shadow = store.shadow()
        await shadow.commit([commit("crash", None, 3, {"elements": WriteList(0, [b"3", b"2", b"1"], 9)})])
        assert await shadow.promote("crash") == Promoted(4)
        assert await store.load("crash") is not None
