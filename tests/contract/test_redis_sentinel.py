"""Redis Sentinel: the primary is found through real sentinels, and found again after a failover."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import pytest
from redis import Redis
from redis.exceptions import RedisError

from crashfold.engine.adapters.embedded import free_port
from crashfold.engine.adapters.process.clock import SystemClock
from crashfold.engine.adapters.redis.reader import RedisReader
from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.errors import StoreForbidden, StoreUnavailable
from crashfold.engine.ports.store import Applied
from crashfold.engine.runtime.retry import retry_with_backoff
from crashfold.engine.settings import RedisSettings, redis_address
from tests.conftest import enter
from tests.contract.state_store import PATIENCE_S, numbered
from tests.support.servers import Missing, RedisServer, Server, redis_server

SERVICE: Final = "games"
STREAM: Final = "crash"


class Sentinel(Server):
    """One sentinel that watches the primary; it alone decides."""

    def __init__(self, directory: Path, primary: RedisServer) -> None:
        super().__init__(directory)
        binary = shutil.which("redis-server")
        if binary is None:
            raise Missing("redis-server is not installed: apt-get install redis-server")
        self._binary = binary
        self._primary = primary

    def command(self) -> list[str]:
        config = self.directory / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.directory}\nrequirepass sentinel-secret\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {self._primary.port} 1\n"
            f"sentinel down-after-milliseconds {SERVICE} 500\nsentinel failover-timeout {SERVICE} 5000\n"
        )
        return [self._binary, str(config), "--sentinel"]

    def answers(self) -> bool:
        try:
            with self.client() as client:
                told = client.sentinel_master(SERVICE)
                return bool(told["num-slaves"]) and client.info("server")["process_id"] == self.pid
        except (RedisError, OSError):
            return False

    def client(self) -> Redis:
        return Redis(port=self.port, password="sentinel-secret", decode_responses=True, socket_timeout=5)


class Watched:
    """A primary, its replica, and a sentinel."""

    def __init__(self, primary: RedisServer, replica: RedisServer, sentinel: Sentinel) -> None:
        self.primary = primary
        self.replica = replica
        self.sentinel = sentinel

    def url(self, service: str = SERVICE, secret: str = "sentinel-secret") -> str:
        """The address, by a sentinel that is gone and one that is there."""
        gone = free_port()
        return (
            f"redis+sentinel://127.0.0.1:{gone},127.0.0.1:{self.sentinel.port}/{service}"
            f"?db=1&sentinel_password={secret}"
        )


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with ExitStack() as stack:
        primary = enter(stack, redis_server())
        replica = enter(stack, redis_server({"replicaof": f"127.0.0.1 {primary.port}"}))
        try:
            sentinel = Sentinel(tmp_path, primary)
        except Missing as missing:
            pytest.skip(str(missing))
        stack.callback(sentinel.kill)
        sentinel.start()
        yield Watched(primary, replica, sentinel)


async def test_commits_and_readers_follow_a_failover(watched: Watched) -> None:
    clock, url = SystemClock(), watched.url()
    async with RedisStore(url) as store, RedisReader(url) as reader:
        for number in range(1, 4):
            assert await store.commit([numbered(STREAM, number)]) == [Applied(number)]
        with watched.primary.client() as client:
            assert client.wait(1, 30_000) == 1
        await anyio.to_thread.run_sync(watched.primary.kill)
        with anyio.fail_after(PATIENCE_S * 3):
            (outcome,) = await retry_with_backoff(
                clock, lambda: store.commit([numbered(STREAM, 4)]), lambda _error: None
            )
            assert outcome == Applied(4)
            standing = await retry_with_backoff(clock, lambda: reader.standing(STREAM), lambda _error: None)
        assert standing is not None
        assert standing.version == 4
    with watched.replica.client() as client:
        assert client.role()[0] == b"master"
        assert client.info("keyspace").keys() == {"db1"}


async def test_a_service_that_no_sentinel_knows_and_a_wrong_login_are_refused_for_good(watched: Watched) -> None:
    only = f"redis+sentinel://127.0.0.1:{watched.sentinel.port}/nosuch?sentinel_password=sentinel-secret"
    async with RedisStore(only) as store:
        with pytest.raises(StoreForbidden, match=r"nosuch: mend the service in redis\.url"):
            await store.checks().ping()
    wrong = f"redis+sentinel://127.0.0.1:{watched.sentinel.port}/{SERVICE}?sentinel_password=wrong-secret"
    async with RedisStore(wrong) as store:
        with pytest.raises(StoreForbidden, match="mend sentinel_username and sentinel_password") as raised:
            await store.checks().ping()
    assert "wrong-secret" not in str(raised.value) + repr(store)


async def test_sentinels_that_are_gone_are_away() -> None:
    async with RedisStore(f"redis+sentinel://127.0.0.1:{free_port()}/{SERVICE}") as store:
        with pytest.raises(StoreUnavailable):
            await store.checks().ping()


def test_an_address_of_sentinels_is_read() -> None:
    url = "rediss+sentinel://u:p%40@a.example:1,[::1]:2,c/my-service?db=3&sentinel_password=s%40&ssl_cert_reqs=none"
    address = redis_address(url)
    assert address.sentinels == (("a.example", 1), ("::1", 2), ("c", 26379))
    assert (address.service, address.db, address.tls) == ("my-service", 3, True)
    assert (address.username, address.password, address.sentinel_password) == ("u", "p@", "s@")
    assert address.tls_options == {"cert_reqs": "none"}


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("redis+sentinel://h:1", "service"),
        ("redis+sentinel://h:1/", "service"),
        ("redis+sentinel://h:1/a/b", "service"),
        ("redis+sentinel://h:1/s#x", "service"),
        ("redis+sentinel:///s", "sentinels"),
        ("redis+sentinel://h:1,,i:2/s", "sentinels"),
        ("redis+sentinel://h:0/s", "sentinels"),
        ("redis+sentinel://h:99999/s", "sentinels"),
        ("redis+sentinel://h:1/s?nosuch=1", "nosuch"),
        ("redis+sentinel://h:1/s?db=x", "no number"),
        ("redis+sentinel://h:1/s?sentinel_password=a&sentinel_password=b", "twice"),
        ("sentinel://h:1/s", "does not begin"),
    ],
)
def test_an_address_of_sentinels_that_will_not_do_says_why(url: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        RedisSettings(url=url, allow_plaintext=True)


def test_plaintext_to_a_sentinel_that_is_far_and_a_cluster_behind_sentinels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"far\.example"):
        RedisSettings(url="redis+sentinel://127.0.0.1:1,far.example:2/s")
    with pytest.raises(ValueError, match="cluster"):
        RedisSettings(url="redis+sentinel://127.0.0.1:1/s", cluster=True, key_prefix="a:{stream}")
