"""An append-only file that a crash cut inside a transaction: what Redis makes of it is whole or refused, never doubled.

redis-server 7.0 leaves the transaction open that it cuts off. What comes next is written behind it, and the restart
after that runs both.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final, Literal

import pytest

from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.errors import StateError
from crashfold.engine.runtime.pacing import EngineLimits
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
