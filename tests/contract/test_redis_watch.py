"""Every operation of Redis is watched, whichever way it goes."""

from structlog.testing import capture_logs

from crashfold.engine.adapters.redis.reader import RedisReader
from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.adapters.redis.watch import Watch
from tests.contract.state_store import commit

STREAM = "crash"


async def test_every_way_of_asking_redis_says_how_long_it_took(each_redis_url: str) -> None:
    scripts: list[str] = []
    with capture_logs() as logged:
        watch = Watch(script_took=lambda script, _: scripts.append(script))
        async with RedisStore(each_redis_url, watch=watch) as store, RedisReader(each_redis_url, watch=watch) as reader:
            await store.commit([commit(STREAM, None, 1)])
            await store.load(STREAM)
            await store.read_model(STREAM)
            await reader.read_pieces(STREAM, [])
            await reader.cached(STREAM, 1, "a")
    assert list(dict.fromkeys(scripts)) == ["rights", "commit"]  # a server that does not know one is asked again
    operations = [line["operation"] for line in logged if line["event"] == "redis_answered"]
    assert operations[0] == "rights"
    assert operations.index("commit") < operations.index("HGETALL GET ZRANGE")
    assert "SCAN" in operations
    assert operations[-2:] == ["HMGET GET", "GET"]
    assert all(line["duration_ms"] > 0 for line in logged)
