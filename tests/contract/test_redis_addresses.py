"""Ways to a Redis: a Unix socket, TLS, users; what is refused for good; and addresses that a cluster hands out."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path

import anyio
import pytest

from crashfold.engine.adapters.embedded import free_port
from crashfold.engine.adapters.process.clock import SystemClock
from crashfold.engine.adapters.redis.client import LARGE_LOSSES_MAX, LEAST_LIMIT_BYTES
from crashfold.engine.adapters.redis.reader import RedisReader
from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.errors import CrashfoldError, Refused, StoreForbidden, StoreRefused, StoreUnavailable
from crashfold.engine.ports import Applied
from crashfold.engine.runtime.retry import retry_with_backoff
from crashfold.projections.delta import SetString
from tests.conftest import enter
from tests.contract.state_store import PATIENCE_S, commit, numbered
from tests.support.certificates import Authority
from tests.support.servers import Missing, RedisCluster, RedisServer, redis_server

STREAM = "crash"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    try:
        return Authority(tmp_path_factory.mktemp("certificates") / "authority")
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def guarded(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server with a Unix socket, a port for TLS whose certificate holds, and users of few rights."""
    pem = str(authority.sign("IP:127.0.0.1"))
    tls = {"tls-port": str(free_port()), "tls-cert-file": pem, "tls-key-file": pem, "tls-auth-clients": "no"}
    socket = str(tmp_path_factory.mktemp("s") / "redis.sock")
    with ExitStack() as stack:
        yield enter(stack, redis_server({**tls, "tls-ca-cert-file": str(authority.pem), "unixsocket": socket}))


async def fault_of(url: str, password: str = "") -> CrashfoldError:
    """What a commit over that address ends with."""
    async with RedisStore(url, password=password) as store:
        with pytest.raises(CrashfoldError) as raised:
            await store.commit([numbered(STREAM, 1)])
    assert "s3cret" not in str(raised.value)
    return raised.value


@pytest.mark.parametrize("form", ["unix://{socket}?db=1", "rediss://127.0.0.1:{port}/2?ssl_ca_certs={ca}"])
async def test_a_store_and_a_reader_work_over_it(guarded: RedisServer, authority: Authority, form: str) -> None:
    options = guarded.options
    url = form.format(socket=options["unixsocket"], port=options["tls-port"], ca=authority.pem)
    async with RedisStore(url) as store, RedisReader(url) as reader:
        assert await store.commit([numbered(STREAM, 1)]) == [Applied(1)]
        stored = await store.load(STREAM)
        assert stored is not None
        standing = await reader.standing(STREAM)
        assert standing is not None
        async with reader.updates(STREAM) as updates:
            await store.commit([numbered(STREAM, 2)])
            assert await updates.next(PATIENCE_S) is not None


@contextmanager
def changed(server: RedisServer, options: Mapping[str, str]) -> Iterator[None]:
    """Other settings of the server, while the block lasts."""
    with server.client() as client:
        before = {name: client.config_get(name)[name] for name in options}
        client.execute_command("CONFIG", "SET", *chain.from_iterable(options.items()))
        try:
            yield
        finally:
            client.execute_command("CONFIG", "SET", *chain.from_iterable(before.items()))


@pytest.mark.fault(
    "Redis shows a certificate that does not hold: authority, host name, date",
    user="nothing new",
    operator="exit 78 names the option of redis.url",
)
async def test_a_certificate_that_does_not_hold_is_refused_for_good(
    guarded: RedisServer, authority: Authority, tmp_path: Path
) -> None:
    other, port = Authority(tmp_path / "other"), guarded.options["tls-port"]
    right = f"rediss://127.0.0.1:{port}?ssl_ca_certs={authority.pem}"
    for url, said in (
        (f"rediss://127.0.0.1:{port}?ssl_ca_certs={other.pem}", "ssl_ca_certs"),
        (f"rediss://localhost:{port}?ssl_ca_certs={authority.pem}", "mismatch"),
        (f"rediss://127.0.0.1:{port}", "ssl_ca_certs"),
    ):
        fault = await fault_of(url)
        assert type(fault) is StoreForbidden, url
        assert said in str(fault)
    expired = str(authority.sign("IP:127.0.0.1", expired=True))
    with changed(guarded, {"tls-cert-file": expired, "tls-key-file": expired}):
        fault = await fault_of(right)
    assert type(fault) is StoreForbidden
    assert "expired" in str(fault)


@pytest.mark.fault(
    "Redis asks for a client's certificate, and gets none or a wrong one",
    user="nothing new",
    operator="exit 78 names the option of redis.url",
)
async def test_a_server_that_asks_for_a_certificate_gets_the_right_one_or_refuses_for_good(
    guarded: RedisServer, authority: Authority, tmp_path: Path
) -> None:
    ours, strangers = (one.sign("DNS:client") for one in (authority, Authority(tmp_path / "other")))
    url = f"rediss://127.0.0.1:{guarded.options['tls-port']}/3?ssl_ca_certs={authority.pem}"
    with changed(guarded, {"tls-auth-clients": "yes"}):
        async with RedisStore(f"{url}&ssl_certfile={ours}&ssl_keyfile={ours}") as store:
            assert await store.commit([numbered(STREAM, 1)]) == [Applied(1)]
        for wrong in (url, f"{url}&ssl_certfile={strangers}&ssl_keyfile={strangers}"):
            fault = await fault_of(wrong)
            assert type(fault) is StoreForbidden, wrong
            assert "ssl_certfile" in str(fault)


@pytest.mark.parametrize(
    ("login", "named"),
    [
        ("nobody:s3cret@", "redis.url"),
        (":s3cret@", "redis.url"),
        ("blind:right@", "NOPERM"),
        ("out:right@", "redis.url"),
    ],
)
async def test_a_login_that_does_not_do_is_refused_for_good(guarded: RedisServer, login: str, named: str) -> None:
    with guarded.client() as client:
        client.acl_setuser("blind", enabled=True, passwords=["+right"], keys=["*"], commands=["+ping"])
        client.acl_setuser("out", enabled=False, passwords=["+right"], keys=["*"], categories=["+@all"])
    fault = await fault_of(f"redis://{login}{guarded.address}/0")
    assert type(fault) is StoreForbidden
    assert named in str(fault)


async def test_a_database_that_is_not_there_is_refused_for_good(guarded: RedisServer) -> None:
    fault = await fault_of(f"redis://{guarded.address}/999")
    assert type(fault) is StoreForbidden
    assert "redis.url" in str(fault)


async def test_a_server_that_is_no_redis_is_no_traceback() -> None:
    async def answer(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, answer)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        assert "redis.url" in str(await fault_of(f"redis://127.0.0.1:{port}"))
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("limit", ["proto-max-bulk-len", "client-query-buffer-limit"])
@pytest.mark.parametrize("may_read_limits", [True, False], ids=["reading", "counting"])
async def test_a_commit_larger_than_redis_takes_is_refused_for_good(
    guarded: RedisServer, limit: str, may_read_limits: bool
) -> None:
    with guarded.client() as client:
        client.flushall()
        before = client.config_get(limit)[limit]
        client.config_set(limit, 1 << 20)
        rights = ["on", ">right", "~*", "&*", "+@all", "+config" if may_read_limits else "-config"]
        client.execute_command("ACL", "SETUSER", "big", *rights)
        large = commit(STREAM, None, 1, {"text:a": SetString(bytes(8 << 20))})
        try:
            async with RedisStore(f"redis://big:right@{guarded.address}/5") as store:
                with pytest.raises(StoreForbidden, match=limit):
                    await retry_with_backoff(SystemClock(), lambda: store.commit([large]), lambda _error: None)
                assert await store.commit([numbered(STREAM, 1)]) == [Applied(1)]
        finally:
            client.config_set(limit, before)


async def test_a_redis_that_is_slow_is_not_taken_for_one_to_which_commits_are_too_large(guarded: RedisServer) -> None:
    with guarded.client() as client:
        client.flushall()
        client.execute_command("ACL", "SETUSER", "slow", "on", ">right", "~*", "&*", "+@all", "-config")
        large = commit(STREAM, None, 1, {"text:a": SetString(bytes(LEAST_LIMIT_BYTES))})
        async with RedisStore(f"redis://slow:right@{guarded.address}/5", timeout_s=0.3) as store:
            await store.check_rights(STREAM)
            client.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
            try:
                for _ in range(LARGE_LOSSES_MAX + 2):
                    with pytest.raises(StoreUnavailable):
                        await store.commit([large])
            finally:
                client.execute_command("CLIENT", "UNPAUSE")
            with anyio.fail_after(PATIENCE_S):
                await retry_with_backoff(SystemClock(), lambda: store.commit([large]), lambda _error: None)


# --- what a cluster hands out ----------------------------------------------------------------------------------------


async def test_a_node_whose_host_the_cluster_does_not_know_is_where_it_was_asked(
    redis_cluster_url: str, redis_cluster: RedisCluster
) -> None:
    for node in redis_cluster.nodes:
        with node.client() as client:
            client.config_set("cluster-preferred-endpoint-type", "hostname")
    try:
        with redis_cluster.primaries[0].client() as client:
            assert client.execute_command("CLUSTER", "SLOTS")[0][2][0] == b"?"
        async with RedisStore(redis_cluster_url, cluster=True, key_prefix="t:{stream}") as store:
            assert await store.commit([numbered(f"s{n}", 1) for n in range(20)]) == [Applied(1)] * 20
    finally:
        for node in redis_cluster.nodes:
            with node.client() as client:
                client.config_set("cluster-preferred-endpoint-type", "ip")


async def test_nothing_is_written_to_a_server_that_is_not_of_the_cluster(
    new_redis_cluster: Callable[..., RedisCluster], redis_server: RedisServer, redis_url: str
) -> None:
    cluster = new_redis_cluster()
    lost = cluster.primaries[2]
    with lost.client() as client:
        client.config_set("cluster-announce-port", redis_server.port)

    def is_told() -> bool:
        with cluster.primaries[0].client() as client:
            told = client.execute_command("CLUSTER", "SLOTS")
        return any(primary[1] == redis_server.port for _, _, primary, *_ in told)

    with anyio.fail_after(PATIENCE_S):
        while not await anyio.to_thread.run_sync(is_told):
            await anyio.sleep(0.05)
    async with RedisStore(cluster.url, cluster=True, key_prefix="t:{stream}") as store:
        with pytest.raises(Refused, match=r"redis\.cluster"):
            await store.commit([numbered(f"s{number}", 1) for number in range(20)])
    with redis_server.client() as client:
        assert client.dbsize() == 0


async def test_another_node_of_the_cluster_at_the_address_of_one_is_not_written_to(
    new_redis_cluster: Callable[..., RedisCluster],
) -> None:
    cluster = new_redis_cluster()
    with cluster.primaries[2].client() as client:
        client.config_set("cluster-announce-port", cluster.primaries[1].port)

    def is_told() -> bool:
        with cluster.primaries[0].client() as client:
            told = [primary[1] for _, _, primary, *_ in client.execute_command("CLUSTER", "SLOTS")]
        return told.count(cluster.primaries[1].port) == 2

    with anyio.fail_after(PATIENCE_S):
        while not await anyio.to_thread.run_sync(is_told):
            await anyio.sleep(0.05)
    async with RedisStore(cluster.primaries[0].url, cluster=True, key_prefix="t:{stream}") as store:
        with pytest.raises(StoreRefused, match="another server"):
            await store.commit([numbered(f"s{number}", 1) for number in range(20)])
