"""Fixtures: real servers, one of each kind a session, and more of them for tests that break theirs.

- `redis_url`, `valkey_url`: an empty database. `each_redis_url` runs the test on both.
- `redis_server`, `valkey`: the `RedisServer` behind it, which other tests use too.
- `kafka`, `tansu`: a `KafkaCluster` of one broker, a `TansuBroker`, which other tests use too. `each_kafka` runs the
  test on both, and gives `bootstrap_servers`.
- `new_deployment`: a function that makes a deployment of the engine with a topic of its own on `kafka`, to be used by
  the command line; `deployment`: one stream on one partition, in an empty Redis.
- `unique`: `unique("games")` makes a name that nobody else has, for topics, groups and key prefixes.
- `new_redis`, `new_valkey`, `new_tansu`, `new_kafka`: a function that starts one for this test alone, to kill, pause
  and start again.

A test whose server cannot be had is skipped, and says what is missing; with `CI=true` it fails.
"""

import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog

from tests.support import failures, servers
from tests.support.deployment import PREDICATES, Deployment, NewDeployment
from tests.support.servers import KafkaCluster, RedisCluster, RedisServer, TansuBroker

T = TypeVar("T")

# The folders at the top are not the modules that the code imports: what is set in `projections` changes nothing.
sys.modules.update(dict.fromkeys(("engine", "projections", "schemas")))  # type: ignore[arg-type]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--failures`: write down how often each fault was tried."""
    parser.addoption("--failures", action="store_true", help="write docs/figures/failures.json")


def pytest_configure(config: pytest.Config) -> None:
    """Count where the tests are started, not in each of xdist's workers."""
    if config.getoption("--failures") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(failures.Counting())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test that runs on Apache Kafka, so that `-m "not kafka"` leaves it out; name those with a fault."""
    for item in items:
        if item.get_closest_marker("fault") is not None:
            item.user_properties.append(
                ("fault", item.originalname if isinstance(item, pytest.Function) else item.name)
            )
        if {"kafka", "new_kafka"} & set(getattr(item, "fixturenames", ())) or "apache-kafka" in item.name:
            item.add_marker(pytest.mark.kafka)


@pytest.fixture(autouse=True)
def logs_as_imported() -> None:
    """A command that ran in this process has set the log's level; each test begins without."""
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with ExitStack() as stack:
        yield enter(stack, servers.redis_server())


@pytest.fixture(scope="session")
def valkey() -> Iterator[RedisServer]:
    with ExitStack() as stack:
        yield enter(stack, servers.valkey_server())


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    with ExitStack() as stack:
        yield enter(stack, servers.redis_cluster())


@pytest.fixture(scope="session")
def tansu() -> Iterator[TansuBroker]:
    with ExitStack() as stack:
        yield enter(stack, servers.tansu_broker())


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaCluster]:
    with ExitStack() as stack:
        yield enter(stack, servers.kafka_cluster())


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    redis_server.flush()
    return redis_server.url


@pytest.fixture
def redis_cluster_url(redis_cluster: RedisCluster) -> str:
    redis_cluster.flush()
    return redis_cluster.url


@pytest.fixture
def valkey_url(valkey: RedisServer) -> str:
    valkey.flush()
    return valkey.url


@pytest.fixture(params=["redis", "valkey"])
def each_redis_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["tansu", "apache-kafka"])
def each_kafka(request: pytest.FixtureRequest) -> str:
    broker: TansuBroker | KafkaCluster = request.getfixturevalue(request.param.removeprefix("apache-"))
    return broker.bootstrap_servers


@pytest.fixture
def unique() -> Callable[[str], str]:
    return lambda name: f"{name}-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def new_redis() -> Iterator[Callable[..., RedisServer]]:
    with ExitStack() as stack:
        yield lambda *args, **kwargs: enter(stack, servers.redis_server(*args, **kwargs))


@pytest.fixture
def new_redis_cluster() -> Iterator[Callable[..., RedisCluster]]:
    with ExitStack() as stack:
        yield lambda **kwargs: enter(stack, servers.redis_cluster(**kwargs))


@pytest.fixture
def new_valkey() -> Iterator[Callable[..., RedisServer]]:
    with ExitStack() as stack:
        yield lambda *args, **kwargs: enter(stack, servers.valkey_server(*args, **kwargs))


@pytest.fixture
def new_tansu() -> Iterator[Callable[..., TansuBroker]]:
    with ExitStack() as stack:
        yield lambda: enter(stack, servers.tansu_broker())


@pytest.fixture
def new_kafka() -> Iterator[Callable[..., KafkaCluster]]:
    with ExitStack() as stack:
        yield lambda **kwargs: enter(stack, servers.kafka_cluster(**kwargs))


@pytest.fixture
def new_deployment(kafka: KafkaCluster, tmp_path: Path, unique: Callable[[str], str]) -> NewDeployment:
    def new(redis_url: str, *, partitions: int = 1, **options: Any) -> Deployment:
        topic = unique("games")
        settings = {"projections": {**PREDICATES, "window_games": 1_000}, **options.pop("settings", {})}
        (tmp_path / topic).mkdir()
        servers = {"bootstrap_servers": kafka.bootstrap_servers, "redis_url": redis_url}
        made = Deployment(tmp_path / topic, topic=topic, settings=settings, **{**servers, **options})
        if partitions:
            made.create_topic(partitions)
        return made

    return new


@pytest.fixture
def deployment(new_deployment: NewDeployment, redis_url: str) -> Deployment:
    return new_deployment(redis_url)


def enter(stack: ExitStack, server: AbstractContextManager[T]) -> T:
    """Start the server, or skip the test, or fail it in CI."""
    try:
        return stack.enter_context(server)
    except servers.Missing as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))
