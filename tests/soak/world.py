"""The soak's world: real servers, engines and API instances as processes, and what is done to them.

Imports the tests' servers and deployments. What is always true: engines and instances are started again whenever they
end, as systemd would; a process that ends in a way that nobody asked for is wrong; a fault has ended, and its servers
run, when its function returns.
"""

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from threading import Event, Lock, Thread
from typing import Final, NamedTuple

from redis.exceptions import ConnectionError, RedisError, TimeoutError

from crashfold.engine.adapters.embedded import free_port
from tests.soak.readers import Findings
from tests.support.deployment import COMMAND, PREDICATES, Deployment, _environment
from tests.support.proxy import Proxy
from tests.support.servers import KafkaCluster, RedisServer, redis_server

PARTITIONS: Final = 2
STREAMS: Final = ("crash", "table-2", "table-3")
HOME: Final = {stream: number % PARTITIONS for number, stream in enumerate(STREAMS)}
KEY_PREFIX: Final = "analytics:{stream}"
WINDOW_GAMES: Final = 1_000
AGAIN_AFTER_S: Final = 0.3
STOPS_WITHIN_S: Final = 10.0
TROUBLE_LASTS_S: Final = 15.0
"""So long after a fault of the store a reader may still be where the store was."""


class Kept:
    """A process that is started again whenever it ends."""

    def __init__(self, name: str, command: Sequence[str], directory: Path, findings: Findings) -> None:
        self.name = name
        self.lives = 0
        self.ends: Counter[str] = Counter()
        self.resident: list[tuple[int, float, int]] = []
        """Life, when, and its resident memory in bytes."""
        self._command = [str(word) for word in command]
        self._directory = directory
        self._findings = findings
        self._process: subprocess.Popen[bytes] | None = None
        self._asked: set[int] = set()
        self._due_s = 0.0
        self._stopped = False
        self._lock = Lock()

    @property
    def log(self) -> Path:
        """What its lives have written."""
        return self._directory / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        """The process that runs now, if one does."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def signal(self, signum: signal.Signals) -> None:
        """Send the process a signal. SIGKILL and SIGTERM are why it will have ended."""
        with self._lock:
            pid = self.pid
            if pid is None:
                return
            if signum in (signal.SIGKILL, signal.SIGTERM):
                self._asked.add(signum)
            os.kill(pid, signum)

    def look(self) -> None:
        """Start it when it is due, judge it when it has ended, note what memory it takes."""
        with self._lock:
            if self._process is not None and (code := self._process.poll()) is not None:
                self._judge(code)
                self._process, self._due_s = None, time.monotonic() + AGAIN_AFTER_S
            elif self._process is None and not self._stopped and time.monotonic() >= self._due_s:
                self._asked.clear()
                self.lives += 1
                with self.log.open("ab") as log:
                    self._process = subprocess.Popen(
                        self._command,
                        cwd=self._directory,
                        env=_environment(None),
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                    )
            elif self._process is not None:
                with suppress(OSError, IndexError):
                    pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
                    self.resident.append((self.lives, self._findings.at_s, pages * os.sysconf("SC_PAGE_SIZE")))

    def stop(self) -> float:
        """Ask it to end for good (SIGTERM); after how many seconds it had. Wrong when that takes too long."""
        self._stopped = True
        began_s = time.monotonic()
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        with self._lock:
            if self._process is not None:
                try:
                    self._judge(self._process.wait(3 * STOPS_WITHIN_S))
                except subprocess.TimeoutExpired:
                    self._findings.tell(f"{self.name} does not end")
                    self._process.kill()
                    self._process.wait()
        took_s = time.monotonic() - began_s
        if took_s > STOPS_WITHIN_S + 1:
            self._findings.tell(f"{self.name} took {took_s:.1f} s to end")
        return took_s

    def kill(self) -> None:
        """End it at once and for good; nobody is interested in how."""
        self._stopped = True
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
                self._process = None

    def _judge(self, code: int) -> None:
        allowed = {-signum for signum in self._asked} | ({0} if signal.SIGTERM in self._asked else set())
        self.ends[str(code)] += 1
        if code not in allowed:
            said = self.log.read_bytes()[-1_500:].decode(errors="replace")
            self._findings.tell(f"{self.name} ended with {code}, which nobody asked for: {said}")


class World:
    """Everything that runs. `primary` is the Redis that has the name, `other` the one that follows it."""

    def __init__(
        self,
        deployment: Deployment,
        kafka: KafkaCluster,
        redis_line: Proxy,
        kafka_line: Proxy,
        primary: RedisServer,
        other: RedisServer,
        findings: Findings,
        instances: int,
    ) -> None:
        self.deployment = deployment
        self.kafka = kafka
        self.redis_line = redis_line
        self.kafka_line = kafka_line
        self.primary = primary
        self.other = other
        self.findings = findings
        self.losses = 0
        """How often Redis lost writes, or may have."""
        self._trouble_s = -TROUBLE_LASTS_S
        self._busy: dict[str, str] = {}
        self._lock = Lock()
        config = ["--config", str(deployment.config)]
        self.engines = [
            Kept(
                f"engine-{n}",
                [str(COMMAND), "run", "--engine.port", str(free_port()), *config],
                deployment.directory,
                findings,
            )
            for n in range(2)
        ]
        self.ports = [free_port() for _ in range(instances)]
        self.instances = [
            Kept(f"api-{n}", [str(COMMAND), "serve", "--api.port", str(port), *config], deployment.directory, findings)
            for n, port in enumerate(self.ports)
        ]
        self._over = Event()
        self._keeper = Thread(target=self._keep, daemon=True)

    @property
    def kept(self) -> list[Kept]:
        """All processes of ours."""
        return [*self.engines, *self.instances]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Keep everything running while the block lasts."""
        self._keeper.start()
        try:
            yield
        finally:
            self._over.set()
            self._keeper.join()
            for kept in self.kept:
                kept.kill()

    def end_well(self) -> None:
        """Stop all in good order."""
        self._over.set()
        self._keeper.join()
        for kept in self.kept:
            kept.stop()

    def _keep(self) -> None:
        while not self._over.is_set():
            for kept in self.kept:
                kept.look()
            self._over.wait(0.2)

    # --- what is being done ------------------------------------------------------------------------------------------

    @property
    def doing(self) -> str:
        """What is being done to the servers."""
        return ", ".join(sorted(set(self._busy.values()))) or "nothing"

    def is_free(self, fault: "Fault") -> bool:
        """Whether nobody is at anything that the fault needs."""
        return not self._busy.keys() & set(fault.needs)

    @contextmanager
    def at(self, name: str, needs: Sequence[str]) -> Iterator[bool]:
        """Whether what is needed is free; then it is not while the block lasts."""
        with self._lock:
            taken = self._busy.keys() & set(needs)
            if not taken:
                self._busy |= dict.fromkeys(needs, name)
        if taken:
            yield False
            return
        try:
            yield True
        finally:
            with self._lock:
                if "redis" in needs:
                    self._trouble_s = time.monotonic()
                for need in needs:
                    del self._busy[need]

    def is_store_troubled(self) -> bool:
        """Whether the store was away or lost writes a moment ago."""
        return "redis" in self._busy or time.monotonic() - self._trouble_s < TROUBLE_LASTS_S

    def lost_writes(self) -> None:
        """From here on versions may be lower."""
        self.losses += 1

    def follow(self, follower: RedisServer, leader: RedisServer) -> None:
        """Let one Redis be the replica of another, and wait until it has all."""
        with follower.client() as client:
            client.replicaof("127.0.0.1", str(leader.port))
        self.wait_in_step(follower)

    def wait_in_step(self, follower: RedisServer) -> None:
        """Wait until a replica has its link."""
        until_s = time.monotonic() + 30
        while time.monotonic() < until_s:
            with suppress(RedisError), follower.client() as client:
                if client.info("replication").get("master_link_status") == "up":
                    return
            time.sleep(0.05)
        raise AssertionError("a replica does not come into step")


@contextmanager
def world(instances: int, findings: Findings) -> Iterator[World]:
    """Start the servers, make the topic, and keep engines and instances running while the block lasts."""
    durable = {"appendonly": "yes", "appendfsync": "everysec", "repl-diskless-sync-delay": "0", "repl-timeout": "20"}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="crashfold-soak-", ignore_cleanup_errors=True)))
        primary = stack.enter_context(redis_server(durable))
        other = stack.enter_context(redis_server(durable))
        redis_line, kafka_line = stack.enter_context(Proxy(primary.port)), stack.enter_context(Proxy(0))
        (directory / "kafka").mkdir()
        kafka = KafkaCluster(directory / "kafka", listeners={"LINE": "PLAINTEXT"})
        (broker,) = kafka.brokers
        # Whoever comes through the proxy is told to come back through it.
        kafka.properties["advertised.listeners"] = f"PLAINTEXT://{broker.address},LINE://{kafka_line.address}"
        stack.callback(kafka.kill)
        kafka.start()
        kafka_line.lead_to(int(broker.address_of("LINE").rpartition(":")[2]))
        deployment = Deployment(
            directory,
            broker.address,
            f"redis://{redis_line.address}/0",
            "games",
            key_prefix=KEY_PREFIX,
            settings={
                "projections": {**PREDICATES, "window_games": WINDOW_GAMES},
                "engine": {"batch_games_max": 500},
                "redis": {"timeout_ms": 1_500},
            },
        )
        deployment.create_topic(PARTITIONS)
        deployment.configure({"kafka": {"bootstrap_servers": kafka_line.address}})
        made = World(deployment, kafka, redis_line, kafka_line, primary, other, findings, instances)
        made.follow(other, primary)  # by a command: either may be the primary when it is started again
        with made.running():
            yield made


# --- the faults ------------------------------------------------------------------------------------------------------


class Fault(NamedTuple):
    """Something that is done to the servers. `needs` is what nobody else may touch meanwhile."""

    name: str
    weight: int
    needs: tuple[str, ...]
    work: Callable[[World, Random], None]


def _signalled(kind: str, number: int, signum: signal.Signals) -> Callable[[World, Random], None]:
    def work(world: World, chance: Random) -> None:
        kept = (world.engines if kind == "engine" else world.instances)[number]
        kept.signal(signum)
        if signum is signal.SIGSTOP:
            time.sleep(chance.choice((0.5, 2, 6)))
            kept.signal(signal.SIGCONT)

    return work


def _redis_killed(world: World, chance: Random) -> None:
    world.primary.kill()
    time.sleep(chance.choice((0, 1, 3)))
    world.primary.start()
    world.wait_in_step(world.other)


def _redis_restarted(world: World, chance: Random) -> None:
    world.primary.stop()
    world.primary.start()
    world.wait_in_step(world.other)


def _redis_frozen(world: World, chance: Random) -> None:
    world.primary.pause()
    time.sleep(chance.choice((0.5, 2, 5)))
    world.primary.resume()


def _asked(*words: object, after: Sequence[object] = ()) -> Callable[[World, Random], None]:
    """Send the primary a command, and some time later another."""

    def work(world: World, chance: Random) -> None:
        with world.primary.client() as client:
            client.execute_command(*words)
            if after:
                time.sleep(chance.choice((1, 3)))
                client.execute_command(*after)

    return work


def _told(*words: object) -> Callable[[World, Random], None]:
    """Send the primary a command while something else may be done to it; nothing happens when it is away just then."""

    def work(world: World, chance: Random) -> None:
        with suppress(ConnectionError, TimeoutError), world.primary.client() as client:
            client.execute_command(*words)

    return work


def _redis_emptied(world: World, chance: Random) -> None:
    with world.primary.client() as client:
        world.lost_writes()
        client.flushall()
        world.lost_writes()


def _failed_over(world: World, chance: Random) -> None:
    """In good order: the replica has all."""
    with world.primary.client() as old, world.other.client() as new:
        old.execute_command("CLIENT", "PAUSE", 10_000, "WRITE")
        position = int(old.info("replication")["master_repl_offset"])
        until_s = time.monotonic() + 5
        while int(new.info("replication")["slave_repl_offset"]) < position and time.monotonic() < until_s:
            time.sleep(0.02)
        if time.monotonic() >= until_s:
            world.lost_writes()
        new.replicaof("NO", "ONE")
        world.redis_line.lead_to(world.other.port)
        world.primary, world.other = world.other, world.primary
        old.execute_command("CLIENT", "UNPAUSE")
    world.follow(world.other, world.primary)


def _failed_over_stale(world: World, chance: Random) -> None:
    """The replica has missed some seconds; half of the time the old primary comes back with what it had."""
    with world.other.client() as new:
        new.replicaof("NO", "ONE")
    time.sleep(chance.choice((0.5, 3)))
    world.lost_writes()
    world.redis_line.lead_to(world.other.port)
    world.primary, world.other = world.other, world.primary
    world.lost_writes()
    if chance.random() < 0.5:
        time.sleep(chance.choice((0.5, 3)))
        world.lost_writes()
        world.redis_line.lead_to(world.other.port)
        world.primary, world.other = world.other, world.primary
        world.lost_writes()
    world.follow(world.other, world.primary)


def _led_to_the_replica(world: World, chance: Random) -> None:
    """The name leads to a replica, which reads and does not write (READONLY)."""
    world.redis_line.lead_to(world.other.port)
    time.sleep(chance.choice((1, 3)))
    world.redis_line.lead_to(world.primary.port)


def _line(which: str, how: str) -> Callable[[World, Random], None]:
    def work(world: World, chance: Random) -> None:
        line = world.redis_line if which == "redis" else world.kafka_line
        match how:
            case "cut":
                line.cut()
            case "drops":
                with line.dropping_replies():
                    time.sleep(chance.choice((0.5, 3)))
            case _:
                with line.delaying_replies(chance.choice((0.05, 0.4))):
                    time.sleep(chance.choice((1, 3)))

    return work


def _broker_restarted(hard: bool) -> Callable[[World, Random], None]:
    def work(world: World, chance: Random) -> None:
        world.kafka.kill() if hard else world.kafka.stop()
        time.sleep(chance.choice((0, 2)))
        world.kafka.start()

    return work


def _broker_frozen(world: World, chance: Random) -> None:
    world.kafka.pause()
    time.sleep(chance.choice((0.5, 2, 5)))
    world.kafka.resume()


def _another_engine(own_group: bool) -> Callable[[World, Random], None]:
    """A third engine comes and goes, in the same group or in another."""

    def work(world: World, chance: Random) -> None:
        group = ["--kafka.group_id", "another"] if own_group else []
        process = world.deployment.start("run", "--engine.port", str(free_port()), *group)
        time.sleep(chance.choice((1, 4)))
        process.send_signal(chance.choice((signal.SIGTERM, signal.SIGKILL)))
        try:
            code = process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
            world.findings.tell("a third engine does not end")
        if code not in (0, -signal.SIGTERM, -signal.SIGKILL):
            world.findings.tell(f"a third engine ended with {code}")

    return work


def _replayed(world: World, chance: Random) -> None:
    """A rebuild of all or one stream, half of the time killed half-way."""
    some = ["--stream", chance.choice(STREAMS)] if chance.random() < 0.5 else []
    process = world.deployment.start("replay", *some)
    is_killed = chance.random() < 0.5
    try:
        code = process.wait(chance.uniform(0.3, 3) if is_killed else 60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        code = 0 if is_killed else -1
    world.findings.seen[f"replays that ended with {code}"] += 1
    if code not in (0, 75):
        world.findings.tell(f"a replay of {some or 'all'} ended with {code}")


def _power_cut(world: World, chance: Random) -> None:
    """Everything is killed at once but the broker's neighbour, the file system."""
    for kept in world.kept:
        kept.signal(signal.SIGKILL)
    world.primary.kill()
    world.kafka.kill()
    world.kafka.start()
    world.primary.start()
    world.wait_in_step(world.other)


def faults(instances: int) -> list[Fault]:
    """All of them. Engine 0 and instance 0 are spared SIGKILL and SIGTERM, so that one life is long enough to show
    whether memory grows; a power cut ends theirs too."""
    found = [
        Fault("redis killed", 6, ("redis",), _redis_killed),
        Fault("redis restarted", 4, ("redis",), _redis_restarted),
        Fault("redis frozen", 5, ("redis",), _redis_frozen),
        Fault("redis emptied", 1, ("redis",), _redis_emptied),
        Fault(
            "redis pauses writes", 3, ("redis",), _asked("CLIENT", "PAUSE", 2_000, "WRITE", after=("CLIENT", "UNPAUSE"))
        ),
        Fault("redis pauses all", 3, ("redis",), _asked("CLIENT", "PAUSE", 2_000, "ALL")),
        Fault("redis forgets its scripts", 3, (), _told("SCRIPT", "FLUSH")),
        Fault("redis drops its clients", 3, (), _told("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")),
        Fault(
            "redis is out of memory",
            3,
            ("redis",),
            _asked("CONFIG", "SET", "maxmemory", "1mb", after=("CONFIG", "SET", "maxmemory", "0")),
        ),
        Fault(
            "redis wants more replicas",
            2,
            ("redis",),
            _asked(
                *("CONFIG", "SET", "min-replicas-to-write", "3"), after=("CONFIG", "SET", "min-replicas-to-write", "0")
            ),
        ),
        Fault("redis fails over", 4, ("redis",), _failed_over),
        Fault("redis fails over to a stale replica", 4, ("redis",), _failed_over_stale),
        Fault("redis is a replica for a while", 3, ("redis",), _led_to_the_replica),
        Fault("redis line is cut", 4, ("redis",), _line("redis", "cut")),
        Fault("redis line drops replies", 5, ("redis",), _line("redis", "drops")),
        Fault("redis line is slow", 3, ("redis",), _line("redis", "delays")),
        Fault("kafka killed", 3, ("kafka",), _broker_restarted(hard=True)),
        Fault("kafka restarted", 3, ("kafka",), _broker_restarted(hard=False)),
        Fault("kafka frozen", 4, ("kafka",), _broker_frozen),
        Fault("kafka line is cut", 3, ("kafka",), _line("kafka", "cut")),
        Fault("kafka line drops replies", 3, ("kafka",), _line("kafka", "drops")),
        Fault("kafka line is slow", 3, ("kafka",), _line("kafka", "delays")),
        Fault("an engine more", 3, ("another",), _another_engine(own_group=False)),
        Fault("an engine of another group", 3, ("another",), _another_engine(own_group=True)),
        Fault("replay", 6, ("replay",), _replayed),
        Fault("power cut", 1, ("redis", "kafka"), _power_cut),
        Fault("engine 0 frozen", 3, ("engine-0",), _signalled("engine", 0, signal.SIGSTOP)),
        Fault("engine 1 frozen", 3, ("engine-1",), _signalled("engine", 1, signal.SIGSTOP)),
        Fault("engine 1 killed", 5, ("engine-1",), _signalled("engine", 1, signal.SIGKILL)),
        Fault("engine 1 stopped", 3, ("engine-1",), _signalled("engine", 1, signal.SIGTERM)),
    ]
    for number in range(instances):
        needs = (f"api-{number}",)
        found.append(Fault(f"api {number} frozen", 2, needs, _signalled("api", number, signal.SIGSTOP)))
        if number:
            found.append(Fault(f"api {number} killed", 2, needs, _signalled("api", number, signal.SIGKILL)))
            found.append(Fault(f"api {number} stopped", 2, needs, _signalled("api", number, signal.SIGTERM)))
    return found
