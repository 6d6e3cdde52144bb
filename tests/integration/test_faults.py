"""Faults of servers and machines that no other test is about: zombies, bad lines, full disks, brokers that are gone.

Each ends the same way: all games are there once, and `verify` finds no difference.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from threading import Thread

import anyio
import httpx
import pytest
from aiokafka import AIOKafkaProducer

from crashfold.engine.adapters.embedded import free_port
from crashfold.engine.adapters.kafka.topics import ensure_topic
from tests.conftest import enter
from tests.support import servers
from tests.support.api_server import api_server
from tests.support.clients import producing
from tests.support.deployment import (
    COMMAND,
    PREDICATES,
    Deployment,
    Engine,
    Flow,
    Message,
    NewDeployment,
    Watcher,
    _environment,
    chain,
    eventually,
    expected,
    in_order,
    traffic,
)
from tests.support.proxy import Proxy
from tests.support.servers import KafkaCluster, RedisServer

GAMES = chain(3_000)
PREFIX = "analytics:{stream}"
DUPLICATES = 'crashfold_commits_total{outcome="duplicate"}'


def folded(deployment: Deployment, engine: Engine, games: int) -> None:
    engine.until(lambda: deployment.total() == games, f"{games} games are folded")


def held_back(deployment: Deployment, messages: list[Message]) -> Flow:
    """Records that arrive when they are released."""
    flow = deployment.flow(messages, per_second=10_000)
    flow.release(0)
    return flow


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], capture_output=True, check=False
        ).returncode
    )
    if not mounted:
        pytest.skip("a small disk cannot be mounted here: that takes root, and a kernel that lets it")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@contextmanager
def full(disk: Path, left_bytes: int) -> Iterator[None]:
    """Let only so much be free while the block lasts."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        free = shutil.disk_usage(disk).free - left_bytes
        file.write(bytes(max(0, free)))
    try:
        yield
    finally:
        filler.unlink()


# --- engines ---------------------------------------------------------------------------------------------------------


@pytest.mark.fault(
    "A zombie: the engine is frozen (SIGSTOP) until its group has given its partitions away, and wakes up",
    user="nothing",
    operator="nothing: its commits find another token",
)
def test_a_zombie_that_wakes_up_commits_nothing_of_what_others_did(
    new_deployment: NewDeployment, redis_url: str
) -> None:
    deployment = new_deployment(redis_url, settings={"engine": {"batch_games_max": 50}})
    messages = traffic(31, 3_000)
    wanted = expected(messages, deployment.projections, only="crash")
    with (
        Watcher(deployment),
        held_back(deployment, messages) as flow,
        deployment.engine() as one,
        deployment.engine() as other,
    ):
        for turn in (1, 2):
            eventually(lambda: one.partitions_held + other.partitions_held == 1, "one of them has the partition")
            zombie, heir = (one, other) if one.partitions_held else (other, one)
            zombie.process.send_signal(signal.SIGSTOP)
            heir.until(lambda heir=heir: heir.partitions_held == 1, "the other one has it")  # type: ignore[misc]
            flow.release(1_000 * turn)
            heir.until(lambda turn=turn: deployment.next_offset() == 1_000 * turn, "and commits")  # type: ignore[misc]
            zombie.process.send_signal(signal.SIGCONT)
        flow.finish()
        other.until(lambda: deployment.next_offset() == len(messages), "everything is folded")
        assert [engine.terminate()[0] for engine in (one, other)] == [0, 0]
    assert deployment.verified()["crash"]["games"] == len(wanted.games["crash"])
    assert set(deployment.dead_letters()) == wanted.letters


@pytest.mark.fault(
    "SIGTERM at any moment under load",
    user="nothing",
    operator="nothing: exit 0 within 10 s, and no dead letter twice",
)
def test_sigterm_in_the_middle_of_everything_loses_nothing_and_doubles_nothing(
    new_deployment: NewDeployment, redis_url: str, record_property: Callable[[str, object], None]
) -> None:
    deployment = new_deployment(redis_url, settings={"engine": {"batch_games_max": 100}})
    messages, chance, lives = traffic(32, 3_000), Random(32), 8
    wanted = expected(messages, deployment.projections, only="crash")
    with Watcher(deployment), deployment.flow(messages, per_second=300) as flow:
        for life in range(lives):
            with deployment.engine("--kafka.group_id", f"{deployment.topic}-{life}") as engine:
                engine.until(lambda: engine.events, "it says its first word")
                due_s = time.monotonic() + chance.uniform(0, 1.5)
                engine.until(lambda due_s=due_s: time.monotonic() >= due_s, "the moment")  # type: ignore[misc]
                code, took_s = engine.terminate()
                assert code == 0, engine.said[-3000:]
                assert took_s < 10
        flow.finish()
    deployment.caught_up()
    assert deployment.verified()["crash"]["games"] == len(wanted.games["crash"])
    assert sorted(deployment.dead_letters()) == sorted(wanted.letters)
    record_property("times", lives)


# --- lines -----------------------------------------------------------------------------------------------------------


@pytest.mark.fault(
    "The line to Redis loses replies, or they come late",
    user="nothing, or `replica` for a moment",
    operator="mend the network; duplicates are counted",
)
def test_replies_of_redis_that_are_lost_or_late_apply_nothing_twice(
    new_deployment: NewDeployment, new_redis: Callable[..., RedisServer]
) -> None:
    redis = new_redis()
    with Proxy(redis.port) as line:
        deployment = new_deployment(
            f"redis://{line.address}/0", settings={"redis": {"timeout_ms": 500}, "engine": {"batch_games_max": 50}}
        )
        messages = traffic(33, 3_000)
        wanted = expected(messages, deployment.projections, only="crash")
        with redis.client() as direct, held_back(deployment, messages) as flow, deployment.engine() as engine:

            def next_offset() -> int:
                return int(direct.hget("analytics:checkpoint", "next_offset") or 0)

            flow.release(500)
            engine.until(lambda: next_offset() == 500, "it commits")
            for turn in range(1, 4):
                before = engine.metrics().get(DUPLICATES, 0)
                with line.dropping_replies(b"EVALSHA"):  # of a commit; what is asked beside it is answered
                    flow.release(500 + 300 * turn)
                    engine.until(
                        lambda turn=turn: next_offset() > 200 + 300 * turn,  # type: ignore[misc]
                        "a commit whose reply is lost",
                    )
                engine.until(
                    lambda before=before: engine.metrics().get(DUPLICATES, 0) > before,  # type: ignore[misc]
                    "it is sent again",
                )
                # Else the next reply that is lost may be that of the rest.
                engine.until(lambda turn=turn: next_offset() == 500 + 300 * turn, "the rest")  # type: ignore[misc]
            with line.delaying_replies(0.2):
                flow.release(2_000)
                engine.until(lambda: next_offset() == 2_000, "it goes on, slowly")
            flow.finish()
            engine.until(lambda: next_offset() == len(messages), "all is folded")
            assert engine.terminate()[0] == 0
        assert deployment.verified()["crash"]["games"] == len(wanted.games["crash"])
        assert set(deployment.dead_letters()) == wanted.letters


@pytest.mark.kafka
@pytest.mark.fault(
    "The line to Kafka loses replies, or they come late",
    user="nothing new meanwhile",
    operator="mend the network",
)
def test_replies_of_kafka_that_are_lost_or_late_skip_nothing_and_double_nothing(tmp_path: Path, redis_url: str) -> None:
    with ExitStack() as stack:
        line = stack.enter_context(Proxy(0))
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="crashfold-", ignore_cleanup_errors=True)))
        cluster = enter(stack, _behind(directory, line))
        (broker,) = cluster.brokers
        deployment = Deployment(
            tmp_path,
            broker.address,
            redis_url,
            "games",
            settings={"projections": {**PREDICATES, "window_games": 1_000}, "engine": {"batch_games_max": 50}},
        )
        deployment.create_topic()
        deployment.configure({"kafka": {"bootstrap_servers": line.address, "request_timeout_ms": 3_000}})
        messages = traffic(34, 3_000)
        wanted = expected(messages, deployment.projections, only="crash")
        with Watcher(deployment), held_back(deployment, messages) as flow, deployment.engine() as engine:
            for turn in (1, 2):
                flow.release(900 * turn - 100)
                engine.until(lambda: deployment.next_offset() == flow.count > 0 and engine.is_ready, "it commits")
                with line.dropping_replies():
                    flow.release(900 * turn)
                    engine.until(lambda: not engine.is_ready, "nothing comes")
                engine.until(lambda turn=turn: deployment.next_offset() == 900 * turn, "it goes on")  # type: ignore[misc]
            with line.delaying_replies(0.3):
                flow.release(2_500)
                engine.until(lambda: deployment.next_offset() == 2_500, "it goes on, slowly")
            flow.finish()
            engine.until(lambda: deployment.next_offset() == len(messages), "all is folded")
            assert engine.terminate()[0] == 0
        assert deployment.verified()["crash"]["games"] == len(wanted.games["crash"])
        assert set(deployment.dead_letters()) == wanted.letters


@contextmanager
def _behind(directory: Path, line: Proxy) -> Iterator[KafkaCluster]:
    """A broker that those who come through the proxy find through it alone."""
    cluster = KafkaCluster(directory, listeners={"LINE": "PLAINTEXT"})
    (broker,) = cluster.brokers
    cluster.properties["advertised.listeners"] = f"PLAINTEXT://{broker.address},LINE://{line.address}"
    try:
        cluster.start()
        line.lead_to(int(broker.address_of("LINE").rpartition(":")[2]))
        yield cluster
    finally:
        cluster.kill()


# --- Redis -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["READONLY", "NOREPLICAS", "paused", "without scripts"])
@pytest.mark.fault(
    "Redis takes no writes for a while (READONLY, NOREPLICAS, CLIENT PAUSE), or has forgotten the scripts",
    user="nothing new meanwhile; answers stay right",
    operator="see to the fail-over; `/readyz` says which error",
)
def test_a_redis_that_takes_no_writes_for_a_while_is_waited_for(
    new_deployment: NewDeployment, new_redis: Callable[..., RedisServer], how: str
) -> None:
    redis = new_redis()
    deployment = new_deployment(redis.url, settings={"redis": {"timeout_ms": 1_000}})
    deployment.publish(in_order(GAMES[:500]))
    with redis.client() as client, deployment.engine() as engine:
        folded(deployment, engine, 500)
        match how:
            case "READONLY":
                client.config_set("replica-serve-stale-data", "yes")
                client.replicaof("127.0.0.1", str(free_port()))
            case "NOREPLICAS":
                client.config_set("min-replicas-to-write", 1)
            case "paused":
                client.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
            case _:
                client.script_flush()
        deployment.publish(in_order(GAMES[500:600]))
        if how != "without scripts":
            engine.until(lambda: engine.probe("/readyz")[0] == 503, "it is not ready")
            assert engine.is_live
            reasons = str(engine.probe("/readyz")[1])
            assert how == "paused" or how in reasons, reasons
            assert deployment.total() == 500
            client.replicaof("NO", "ONE")
            client.config_set("min-replicas-to-write", 0)
            client.execute_command("CLIENT", "UNPAUSE")
        folded(deployment, engine, 600)
        engine.until(lambda: engine.is_ready, "it is ready again")
        assert engine.terminate()[0] == 0
    assert deployment.verified()["crash"]["games"] == 600


@pytest.mark.fault(
    "Redis loads its file for a long time (LOADING)",
    user="answers as `replica`",
    operator="wait; `/readyz` says so",
)
def test_a_redis_that_loads_is_waited_for(new_deployment: NewDeployment, new_redis: Callable[..., RedisServer]) -> None:
    redis = new_redis({"appendonly": "yes", "appendfsync": "always", "enable-debug-command": "yes"})
    deployment = new_deployment(redis.url)
    deployment.publish(in_order(GAMES[:500]))
    with redis.client() as client, deployment.engine() as engine:
        folded(deployment, engine, 500)
        pipeline = client.pipeline(transaction=False)
        for number in range(2_000):
            pipeline.set(f"filler:{number}", bytes(1_000))
        pipeline.execute()
        client.config_set("key-load-delay", 2_000)  # microseconds a key
        client.config_set("loading-process-events-interval-bytes", 1_024)
        reload = Thread(target=partial(_reload, redis))
        reload.start()
        deployment.publish(in_order(GAMES[500:600]))
        engine.until(lambda: "LOADING" in str(engine.probe("/readyz")[1]), "it says that Redis loads")
        assert engine.is_live
        reload.join()
        folded(deployment, engine, 600)
        engine.until(lambda: engine.is_ready, "it is ready again")
    assert deployment.verified()["crash"]["games"] == 600


def _reload(redis: RedisServer) -> None:
    with redis.client(60) as client:
        client.execute_command("DEBUG", "LOADAOF")


@pytest.mark.fault(
    "The disk under Redis is full",
    user="nothing new; answers stay right",
    operator="make room; `/readyz` says MISCONF",
)
def test_a_full_disk_under_redis_is_waited_for(
    new_deployment: NewDeployment, new_redis: Callable[..., RedisServer], small_disk: Path
) -> None:
    redis = new_redis({"dir": str(small_disk), "appendonly": "yes", "appendfsync": "everysec"})
    deployment = new_deployment(redis.url)
    deployment.publish(in_order(GAMES[:500]))
    with deployment.engine() as engine:
        folded(deployment, engine, 500)
        with full(small_disk, left_bytes=4_096):
            deployment.publish(in_order(GAMES[500:1_000]))
            engine.until(lambda: engine.probe("/readyz")[0] == 503, "it is not ready")
            assert engine.is_live
            engine.until(lambda: "MISCONF" in str(engine.probe("/readyz")[1]), "it says why")
        folded(deployment, engine, 1_000)
        engine.until(lambda: engine.is_ready, "it is ready again")
        redis.kill()
        redis.start()
        deployment.publish(in_order(GAMES[1_000:1_100]))
        folded(deployment, engine, 1_100)
        assert engine.terminate()[0] == 0
    assert deployment.verified()["crash"]["games"] == 1_100


# --- Kafka -----------------------------------------------------------------------------------------------------------


@pytest.mark.fault(
    "Of three brokers one is lost, then a second one; every partition has three replicas",
    user="nothing with two left, nothing new with one",
    operator="bring one back",
)
def test_one_of_three_brokers_is_not_missed_and_two_are_waited_for(
    tmp_path: Path, new_kafka: Callable[..., KafkaCluster], redis_url: str
) -> None:
    cluster = new_kafka(brokers=3, properties={"default.replication.factor": "3", "min.insync.replicas": "2"})
    deployment = Deployment(
        tmp_path,
        cluster.bootstrap_servers,
        redis_url,
        "games",
        settings={"projections": {**PREDICATES, "window_games": 1_000}, "kafka": {"request_timeout_ms": 3_000}},
    )
    anyio.run(partial(ensure_topic, deployment._connection, deployment.topic, 1, replication_factor=3))
    with Watcher(deployment), deployment.engine() as engine:
        deployment.publish(in_order(GAMES[:500]))
        folded(deployment, engine, 500)
        cluster.brokers[0].kill()
        deployment.publish(in_order(GAMES[500:1_000]))
        folded(deployment, engine, 1_000)
        cluster.brokers[1].kill()
        engine.until(lambda: engine.probe("/readyz")[0] == 503, "it is not ready")
        assert engine.is_live
        cluster.brokers[0].start()
        deployment.publish(in_order(GAMES[1_000:1_500]))
        folded(deployment, engine, 1_500)
        engine.until(lambda: engine.is_ready, "it is ready again")
        assert engine.terminate()[0] == 0
    assert deployment.verified()["crash"]["games"] == 1_500


@pytest.mark.fault(
    "The disk under Kafka is full: the broker ends",
    user="nothing new",
    operator="make room and start it again",
)
def test_a_full_disk_under_kafka_is_waited_for(tmp_path: Path, redis_url: str, small_disk: Path) -> None:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="crashfold-", ignore_cleanup_errors=True)))
        cluster = enter(stack, _on(directory, small_disk))
        (broker,) = cluster.brokers
        deployment = Deployment(
            tmp_path,
            cluster.bootstrap_servers,
            redis_url,
            "games",
            settings={"projections": {**PREDICATES, "window_games": 1_000}, "kafka": {"request_timeout_ms": 3_000}},
        )
        deployment.create_topic()
        deployment.publish(in_order(GAMES[:500]))
        with Watcher(deployment), deployment.engine() as engine:
            folded(deployment, engine, 500)
            with full(small_disk, left_bytes=100_000):
                junk = [Message(0, b"crash", b"x" * 50_000)] * 20
                sent = Thread(target=partial(_publish_in_vain, deployment, junk))
                sent.start()
                engine.until(lambda: not broker.is_running, "the broker ends")
                engine.until(lambda: engine.probe("/readyz")[0] == 503, "the engine is not ready")
                assert engine.is_live
            broker.start()
            sent.join()
            deployment.publish(in_order(GAMES[500:1_000]))
            folded(deployment, engine, 1_000)
            assert engine.terminate()[0] == 0
        assert deployment.verified()["crash"]["games"] == 1_000


@contextmanager
def _on(directory: Path, disk: Path) -> Iterator[KafkaCluster]:
    """A broker whose data are on that disk."""
    cluster = KafkaCluster(directory)
    (broker,) = cluster.brokers
    (broker.directory / "data").symlink_to(disk)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


def _publish_in_vain(deployment: Deployment, messages: list[Message]) -> None:
    with suppress(Exception):  # some may arrive when the broker is back
        deployment.publish(messages)


@pytest.mark.fault(
    "Transactions: committed, aborted, left open",
    user="games of those that were committed; what stands behind an open one comes when it has ended",
    operator="end open transactions",
)
def test_games_of_aborted_transactions_never_count_and_open_ones_are_waited_for(deployment: Deployment) -> None:
    messages = in_order(GAMES[:300])

    async def send(producer: AIOKafkaProducer, some: list[Message]) -> None:
        for message in some:
            await producer.send_and_wait(deployment.topic, message.value, key=message.key, partition=0)

    async def transactions(engine: Engine) -> None:
        async with producing(**deployment._connection, transactional_id=deployment.topic) as producer:
            await producer.begin_transaction()
            await send(producer, messages[:100])
            await producer.commit_transaction()
            await producer.begin_transaction()
            await send(producer, messages[200:])
            await producer.abort_transaction()
            await anyio.to_thread.run_sync(partial(folded, deployment, engine, 100))
            await producer.begin_transaction()
            await send(producer, messages[100:150])
            await anyio.to_thread.run_sync(deployment.publish, messages[150:200])
            assert deployment.total() == 100
            await producer.commit_transaction()
            await anyio.to_thread.run_sync(partial(folded, deployment, engine, 200))

    with Watcher(deployment), deployment.engine() as engine:
        anyio.run(transactions, engine)
        assert engine.terminate()[0] == 0
    assert deployment.verified()["crash"]["games"] == 200
    deployment.done("replay")
    assert deployment.verified()["crash"]["games"] == 200


# --- the machine, and what stands in front ---------------------------------------------------------------------------


@pytest.mark.fault(
    "The disk under the log is full",
    user="nothing",
    operator="make room; lines that were lost are counted",
)
def test_a_full_disk_under_the_log_stops_nothing(deployment: Deployment, small_disk: Path) -> None:
    port = free_port()
    with (small_disk / "log").open("wb") as log, full(small_disk, left_bytes=0):
        deployment.publish(in_order(GAMES[:500]))
        process = subprocess.Popen(
            [COMMAND, "run", "--engine.port", str(port), "--log.level", "debug", "--config", str(deployment.config)],
            cwd=deployment.directory,
            env=_environment(None),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            eventually(lambda: process.poll() is not None or deployment.total() == 500, "the games are folded")
            deployment.publish(in_order(GAMES[500:600]))
            eventually(lambda: process.poll() is not None or deployment.total() == 600, "further games are folded")
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            process.kill()
            process.wait()
    assert deployment.verified()["crash"]["games"] == 600


NGINX = """
upstream api {{ server 127.0.0.1:{one} max_fails=0; server 127.0.0.1:{other} max_fails=0; }}
server {{ listen {{port}}; location / {{ proxy_pass http://api; }} }}
"""


@pytest.mark.fault(
    "Behind nginx: API instances restart one after another",
    user="nothing",
    operator="nothing: nginx asks the other one (`max_fails=0`, or pauses of `fail_timeout` between restarts)",
)
async def test_behind_nginx_restarts_of_one_instance_after_another_are_not_noticed(
    new_redis: Callable[..., RedisServer], record_property: Callable[[str, object], None]
) -> None:
    redis = await anyio.to_thread.run_sync(new_redis)
    ports = free_port(), free_port()
    start = partial(api_server, redis.url, "--kafka.bootstrap_servers=127.0.0.1:1")
    answers: list[int] = []
    restarts = 2
    with ExitStack() as stack:
        running = {port: stack.enter_context(start(port=port)) for port in ports}
        proxy = enter(stack, servers.nginx(NGINX.format(one=ports[0], other=ports[1])))
        async with httpx.AsyncClient(base_url=f"http://{proxy.address}", trust_env=False, timeout=20) as client:

            async def ask() -> None:
                while True:
                    answers.append((await client.get("/api/streams")).status_code)

            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(ask)
                for number in range(restarts):
                    port = ports[number % 2]
                    code, _ = await anyio.to_thread.run_sync(running[port].terminate)
                    assert code == 0
                    running[port] = await anyio.to_thread.run_sync(stack.enter_context, start(port=port))
                    count = len(answers)
                    with anyio.fail_after(30):
                        while len(answers) < count + 50:
                            await anyio.sleep(0.02)
                tasks.cancel_scope.cancel()
    assert set(answers) == {200}
    record_property("times", restarts)
