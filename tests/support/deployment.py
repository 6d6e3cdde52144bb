"""A deployment under test: one topic, one key prefix, one settings file, and everything done through the command line.

Blocks; from a coroutine call it in a thread. Always true: an engine started here has ended when its `with` block has,
and nothing waits for a guessed time: `eventually` waits for a condition, with a deadline.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Any, Final, NamedTuple, TypeVar

import anyio
import msgspec
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from redis import Redis, RedisCluster
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from crashfold.engine.adapters.embedded import free_port
from crashfold.engine.adapters.kafka.topics import ensure_topic
from crashfold.projections.plain import Arrivals
from crashfold.projections.settings import ProjectionSettings
from crashfold.schemas.chain import chain_of_games
from crashfold.schemas.game import Game, decode, encode
from crashfold.schemas.record import Unreadable, stream_name
from tests.support.bombs import publish_batch
from tests.support.clients import consuming, producing
from tests.support.games import GARBAGE

T = TypeVar("T")

DEADLINE_S: Final = 60.0
LOOK_AGAIN_S: Final = 0.02
LASTS_S: Final = 20.0
"""In a second a flow publishes at most what it has left, divided by this."""
COMMAND: Final = Path(sys.executable).with_name("crashfold")

PREDICATES: Final = {"min": [1.5, 2, 10], "max": [1.2], "floor": [1, 7]}
"""Few, for tests that are not about them: verify costs by the predicate."""


REPORT: Final = re.compile(rb":(?:engine|rebuild|verified):|^[^{]*:keys$")
"""Keys of what engines and commands tell of themselves: no part of any state."""


class Message(NamedTuple):
    """A record to publish."""

    partition: int
    key: bytes | None
    value: bytes | None


class Letter(NamedTuple):
    """A dead letter, by what names it, and its reason."""

    partition: int
    offset: int
    reason: str


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed for machines."""
        return json.loads(self.out)


def eventually(condition: Callable[[], T], what: str, within_s: float = DEADLINE_S) -> T:
    """What `condition` returns once that is true; a Redis that does not answer means not yet."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            if found := condition():
                return found
        except RedisError:
            pass
        assert time.monotonic() < deadline, f"not within {within_s:.0f} s: {what}"
        time.sleep(LOOK_AGAIN_S)


def is_running(pid: int) -> bool:
    """Whether there is such a process; one that has ended and whom nobody has asked about does not count."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


class Service:
    """A command that serves until it is ended, as a process of its own: `crashfold run` or `crashfold serve`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self._log = log

    @property
    def said(self) -> str:
        """Everything on its standard error."""
        return self._log.read_text(errors="replace")

    @property
    def events(self) -> list[dict[str, Any]]:
        """Its log, line by line."""
        lines = self.said.splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def until(self, condition: Callable[[], T], what: str, within_s: float = DEADLINE_S) -> T:
        """`eventually`, and at once a failure when the process ends."""

        def living() -> T:
            assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.said[-3000:]}"
            return condition()

        return eventually(living, what, within_s)

    def probe(self, path: str) -> tuple[int, Any]:
        """Status and body of a probe; 0 when nobody listens yet."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
        except OSError:
            return 0, None

    @property
    def is_ready(self) -> bool:
        return self.probe("/readyz")[0] == 200

    @property
    def is_live(self) -> bool:
        return self.probe("/livez")[0] == 200

    def metrics(self) -> dict[str, float]:
        """Every sample of its metrics, by name and labels as they are written; none while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return {}
        samples = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> tuple[int, float]:
        """Ask it to end (SIGTERM); its exit code and how many seconds it took."""
        began_s = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.wait(30)
        return code, time.monotonic() - began_s

    def wait(self, within_s: float = DEADLINE_S) -> int:
        """Its exit code, when it ends by itself."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {within_s:.0f} s: {self.said[-3000:]}") from None


class Engine(Service):
    """A `crashfold run`."""

    @property
    def partitions_held(self) -> int:
        return int(self.metrics().get("crashfold_partitions_held", 0))


S = TypeVar("S", bound=Service)


class Deployment:
    """Settings for one topic and one key prefix, in a directory of their own; the topic has to be made."""

    def __init__(
        self,
        directory: Path,
        bootstrap_servers: str,
        redis_url: str,
        topic: str,
        *,
        key_prefix: str = "analytics",
        cluster: bool = False,
        settings: Mapping[str, Mapping[str, object]] | None = None,
    ) -> None:
        self.directory = directory
        self.bootstrap_servers = bootstrap_servers
        self.topic = topic
        self.key_prefix = key_prefix
        self.redis: Any = (
            RedisCluster.from_url(redis_url, socket_timeout=10)
            if cluster
            else Redis.from_url(redis_url, socket_timeout=10, retry=Retry(NoBackoff(), 0))
        )
        self.settings: dict[str, dict[str, object]] = {
            "kafka": {
                "bootstrap_servers": bootstrap_servers,
                "topic": topic,
                "group_id": topic,
                "session_timeout_ms": 1_000,
                "heartbeat_interval_ms": 200,
                "fetch_max_wait_ms": 100,
                "metadata_max_age_ms": 1_000,
            },
            "redis": {"url": redis_url, "cluster": cluster, "key_prefix": key_prefix},
            "engine": {"port": 0},
            "log": {"format": "json"},
        }
        self.configure(settings or {})
        self._services = 0

    def configure(self, settings: Mapping[str, Mapping[str, object]]) -> None:
        """Put these settings over those there are."""
        for section, values in settings.items():
            self.settings.setdefault(section, {}).update(values)
        lines = []
        for section, table in self.settings.items():
            lines += [f"[{section}]", *(f"{name} = {json.dumps(value)}" for name, value in table.items())]
        self.config.write_text("\n".join(lines) + "\n")

    @property
    def config(self) -> Path:
        return self.directory / "settings.toml"

    @property
    def projections(self) -> ProjectionSettings:
        """What is counted under the settings."""
        chosen: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in self.settings.get("projections", {}).items()
        }
        return ProjectionSettings(**chosen)

    # --- the command line ---------------------------------------------------------------------------------------------

    def run(self, *tokens: str, env: Mapping[str, str] | None = None, within_s: float = 120) -> Done:
        """Run `crashfold` with these words and the settings file, to its end."""
        done = subprocess.run(
            [COMMAND, *tokens, "--config", str(self.config)],
            cwd=self.directory,
            env=_environment(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def done(self, *tokens: str) -> Done:
        """`run`, which has to end with 0."""
        done = self.run(*tokens)
        assert done.code == 0, f"crashfold {' '.join(tokens)} ended with {done.code}:\n{done.out}\n{done.err}"
        return done

    def start(self, *tokens: str) -> subprocess.Popen[bytes]:
        """Start a command, to be looked at or killed while it runs; its output is of no interest."""
        return subprocess.Popen(
            [COMMAND, *tokens, "--config", str(self.config)],
            cwd=self.directory,
            env=_environment(None),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def engine(self, *flags: str, port: int | None = None) -> AbstractContextManager[Engine]:
        """A `crashfold run` while the block lasts; killed at its end if it still runs."""
        return self._service(Engine, "run", "--engine.port", port or free_port(), flags)

    def api(self, *flags: str, port: int | None = None) -> AbstractContextManager[Service]:
        """A `crashfold serve` while the block lasts; killed at its end if it still runs."""
        return self._service(Service, "serve", "--api.port", port or free_port(), flags)

    @contextmanager
    def _service(self, kind: type[S], command: str, option: str, port: int, flags: Sequence[str]) -> Iterator[S]:
        self._services += 1
        log = self.directory / f"{command}-{self._services}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [COMMAND, command, *flags, option, str(port), "--config", str(self.config)],
                cwd=self.directory,
                env=_environment(None),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            yield kind(process, port, log)
        finally:
            process.kill()
            process.wait()

    def caught_up(self, *flags: str) -> None:
        """Fold all that stands on the topic."""
        self.done("run", "--until-caught-up", *flags)

    def verified(self, *flags: str) -> dict[str, Any]:
        """What `crashfold verify` says of each stream, all of which have to be equal."""
        done = self.run("verify", "--json", *flags)
        assert done.code == 0, f"verify ended with {done.code}:\n{done.out[:3000]}\n{done.err}"
        assert done.json["differences"] == []
        return {one["stream"]: one for one in done.json["streams"]}

    # --- the topic ----------------------------------------------------------------------------------------------------

    def create_topic(self, partitions: int = 1, configs: Mapping[str, str] | None = None) -> None:
        """Make the topic."""
        _run(partial(ensure_topic, self._connection, self.topic, partitions, configs=configs))

    def publish(self, messages: Sequence[Message]) -> None:
        """Put records on the topic, in this order; returns when they are there."""

        async def publish() -> None:
            async with producing(**self._connection, enable_idempotence=True) as producer:
                sent = [
                    await producer.send(self.topic, message.value, key=message.key, partition=message.partition)
                    for message in messages
                ]
                for future in sent:
                    await future

        _run(publish)

    def publish_batch(self, batch: bytes, partition: int = 0) -> int:
        """Put a batch on the topic as it stands; the offset of its first record."""
        return _run(partial(publish_batch, self._connection, self.topic, batch, partition))

    def flow(self, messages: Sequence[Message], per_second: float) -> "Flow":
        """Records that arrive at a steady pace while a `with` block lasts."""
        return Flow(self, messages, per_second)

    def delete_before(self, offset: int, partition: int = 0) -> None:
        """Let retention remove the records before that offset."""
        target = {TopicPartition(self.topic, partition): RecordsToDelete(offset)}
        self._admin(lambda admin: admin.delete_records(target))

    def delete_topic(self) -> None:
        """Delete the topic; returns when it is gone."""

        async def delete(admin: AIOKafkaAdminClient) -> None:
            await admin.delete_topics([self.topic])
            while self.topic in await admin.list_topics():
                await anyio.sleep(LOOK_AGAIN_S)

        self._admin(delete)

    def recreate_topic(self, partitions: int = 1) -> None:
        """Delete the topic, and make one of the same name."""
        self.delete_topic()
        self.create_topic(partitions)

    def set_topic(self, configs: Mapping[str, str]) -> None:
        """Change the topic's settings to these."""
        resource = ConfigResource(ConfigResourceType.TOPIC, self.topic, dict(configs))
        self._admin(lambda admin: admin.alter_configs([resource]))

    def add_partitions(self, partitions: int) -> None:
        """Raise the number of the topic's partitions to this one."""
        self._admin(lambda admin: admin.create_partitions({self.topic: NewPartitions(partitions)}))

    def dead_letters(self) -> list[Letter]:
        """Everything that stands on the dead-letter topic, a letter that was handed over twice twice."""

        async def read() -> list[Letter]:
            tp, found = TopicPartition(f"{self.topic}.dead", 0), []
            async with consuming(**self._connection, auto_offset_reset="earliest") as consumer:
                if tp.topic not in await consumer.topics():
                    return []
                consumer.assign([tp])
                end = (await consumer.end_offsets([tp]))[tp]
                while await consumer.position(tp) < end:
                    for record in (await consumer.getmany(timeout_ms=1000)).get(tp, []):
                        headers = {name: value.decode() for name, value in record.headers}
                        assert headers["topic"] == self.topic
                        if "mark" in headers:  # what became of a letter
                            continue
                        found.append(Letter(int(headers["partition"]), int(headers["offset"]), headers["reason"]))
            return found

        return _run(read)

    @property
    def _connection(self) -> dict[str, Any]:
        return {"bootstrap_servers": self.bootstrap_servers, "client_id": "test", "request_timeout_ms": 20_000}

    def _admin(self, ask: Callable[[AIOKafkaAdminClient], Coroutine[Any, Any, object]]) -> None:
        async def asked() -> None:
            admin = AIOKafkaAdminClient(**self._connection)
            try:
                await admin.start()
                with anyio.fail_after(DEADLINE_S):
                    await ask(admin)
            finally:
                await admin.close()

        _run(asked)

    # --- the read model -----------------------------------------------------------------------------------------------

    def key(self, name: str, stream: str = "crash") -> str:
        """A key of the stream, formatted here anew on purpose."""
        return f"{self.key_prefix.replace('{stream}', '{' + stream + '}')}:{name}"

    def total(self, stream: str = "crash") -> int:
        """How many games the read model has."""
        return int(self.redis.hget(self.key("occurrences:min:2", stream), "total_games") or 0)

    def version(self, stream: str = "crash") -> int:
        return int(self.redis.get(self.key("version", stream)) or 0)

    def next_offset(self, stream: str = "crash") -> int:
        return int(self.redis.hget(self.key("checkpoint", stream), "next_offset") or 0)

    def all_keys(self) -> dict[str, bytes]:
        """Every key of the whole database, byte for byte, but for what engines and commands tell of themselves."""
        return {
            key.decode(): self.redis.dump(key)
            for key in sorted(self.redis.scan_iter(count=1000))
            if not REPORT.search(key)
        }


NewDeployment = Callable[..., Deployment]
"""`new_deployment(redis_url, partitions=1, key_prefix=…, settings=…, bootstrap_servers=…)`; 0 partitions: no topic."""


class Flow:
    """Publishes in the background while its `with` block lasts. `count` records have arrived on the topic so far.

    `release` says how many may be published. If it is not called, all; but until `finish` is called, the fewer are left
    the slower they come, so that on a slow machine too something arrives until the end.
    """

    def __init__(self, deployment: Deployment, messages: Sequence[Message], per_second: float) -> None:
        self.count = 0
        self._deployment = deployment
        self._messages = messages
        self._per_second = per_second
        self._released = len(messages)
        self._stopped = Event()
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run)

    def __enter__(self) -> "Flow":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the flow of records did not end"
        if self._error is not None:
            raise self._error

    @property
    def sent(self) -> Sequence[Message]:
        """What has arrived on the topic."""
        return self._messages[: self.count]

    def release(self, count: int) -> None:
        """Let so many records in all be published."""
        self._released = min(count, len(self._messages))

    def finish(self) -> None:
        """Publish the rest as fast as it goes."""
        self._released, self._per_second = len(self._messages), float("inf")
        eventually(lambda: self._error or self.count == len(self._messages), "all records are published")

    def _run(self) -> None:
        try:
            _run(self._publish)
        except BaseException as error:  # raised where the block ends
            self._error = error

    def _rate(self) -> float:
        left = len(self._messages) - self.count
        is_free = self._released == len(self._messages) and self._per_second != float("inf")
        return min(self._per_second, left / LASTS_S) if is_free else self._per_second

    async def _publish(self) -> None:
        topic, connection = self._deployment.topic, self._deployment._connection
        async with producing(**connection, enable_idempotence=True) as producer:
            due = 0.0
            while not self._stopped.is_set():
                due = min(due + self._rate() * LOOK_AGAIN_S, self._released - self.count, 5_000)
                some = self._messages[self.count : self.count + int(due)]
                due -= len(some)
                sent = [await producer.send(topic, m.value, key=m.key, partition=m.partition) for m in some]
                for future in sent:
                    await future
                self.count += len(some)
                await anyio.sleep(LOOK_AGAIN_S)


class Watcher:
    """Reads the keys again and again while its `with` block lasts, and notes what no reader may ever see: a version or
    a total that goes back, and keys of two versions side by side."""

    def __init__(self, deployment: Deployment, streams: Sequence[str] = ("crash",)) -> None:
        self.reads = 0
        self.versions_seen: Counter[str] = Counter()
        self.faults: list[str] = []
        self._deployment = deployment
        self._seen = dict.fromkeys(streams, (0, 0))
        self._totals = {stream: self._total_keys(stream) for stream in streams}
        self._stopped = Event()
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run)

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stopped.set()
        self._thread.join(DEADLINE_S)
        if self._error is not None:
            raise self._error
        if kind is None:
            assert self.faults == []
            assert self.reads > 0

    def _total_keys(self, stream: str) -> list[str]:
        settings, key = self._deployment.projections, self._deployment.key
        return [key(f"occurrences:{predicate}", stream) for predicate in settings.predicates]

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                for stream in self._seen:
                    self._look(stream)
        except BaseException as error:  # raised where the block ends
            self._error = error

    def _look(self, stream: str) -> None:
        key = self._deployment.key
        pipeline = self._deployment.redis.pipeline(transaction=True)
        pipeline.get(key("version", stream))
        pipeline.hget(key("checkpoint", stream), "total_games")
        pipeline.zcard(key("games", stream))
        for name in self._totals[stream]:
            pipeline.hget(name, "total_games")
        version, total, window, *totals = (int(reply or 0) for reply in pipeline.execute())
        before = self._seen[stream]
        if version < before[0] or total < before[1]:
            self.faults.append(f"{stream} went back from {before} to {(version, total)}")
        expected_window = min(total, self._deployment.projections.window_games)
        if set(totals) != {total} or window != expected_window:
            self.faults.append(f"{stream} is a mixture: {total} games, {window} of them kept, and by key {totals}")
        if version != before[0]:
            self.versions_seen[stream] += 1
        self._seen[stream] = (version, total)
        self.reads += 1


class Expected(NamedTuple):
    """What has to come of some records, by the plain rules."""

    games: dict[str, list[Game]]
    letters: set[Letter]


def expected(messages: Sequence[Message], settings: ProjectionSettings, only: str | None = None) -> Expected:
    """What has to come of these records, when they are all that a new topic holds."""
    offsets: Counter[int] = Counter()
    arrivals: dict[str, Arrivals] = {}
    letters = set()
    for partition, key, value in messages:
        offset = offsets[partition]
        offsets[partition] += 1
        stream, reason = stream_name(key), None
        if isinstance(stream, Unreadable):
            reason = "unreadable"
        elif only is not None and stream != only:
            reason = "stream"
        elif isinstance(game := decode(value), Unreadable):
            reason = "unreadable"
        else:
            reason = arrivals.setdefault(stream, Arrivals(settings)).arrive(game)
        if reason is not None:
            letters.add(Letter(partition, offset, reason))
    return Expected({stream: found.accepted for stream, found in arrivals.items()}, letters)


def in_order(games: Sequence[Game], stream: str = "crash", partition: int = 0) -> list[Message]:
    """A record for each game."""
    return [Message(partition, stream.encode(), encode(game)) for game in games]


def chain(games: int, seed: int = 1, first_id: int = 1) -> list[Game]:
    """Games of a chain."""
    return list(chain_of_games(seed, games, first_id=first_id))


def traffic(seed: int, records: int, streams: Sequence[str] = ("crash",), partitions: int = 1) -> list[Message]:
    """Records as a careless producer might send them: most in order, some twice, late, changed, far too late, with
    holes between them that are filled later or never, and garbage. Streams take turns by chance."""
    random = Random(seed)
    sources = {
        stream: _Careless(Random(f"{seed}/{stream}"), chain(2 * records, seed + number))
        for number, stream in enumerate(streams)
    }
    home = {stream: number % partitions for number, stream in enumerate(streams)}
    messages = []
    for _ in range(records):
        stream = random.choice(streams)
        chance = random.random()
        if chance < 0.003:
            messages.append(Message(home[stream], b"no stream name!", b"{}"))
        elif chance < 0.01:
            messages.append(Message(home[stream], stream.encode(), random.choice(GARBAGE).value))
        else:
            messages.append(Message(home[stream], stream.encode(), encode(sources[stream].next())))
    return messages


class _Careless:
    def __init__(self, random: Random, games: Sequence[Game]) -> None:
        self._random = random
        self._games = games
        self._at = 0
        self._held_back: list[Game] = []

    def next(self) -> Game:
        random, chance = self._random, self._random.random()
        if self._at and chance < 0.03:
            return self._recent()
        if self._at and chance < 0.035:
            return self._games[random.randrange(self._at)]
        if self._at and chance < 0.04:
            game = self._recent()
            return msgspec.structs.replace(game, end_time=game.end_time + 1)
        if self._held_back and chance < 0.07:
            return self._held_back.pop(random.randrange(len(self._held_back)))
        if chance < 0.1:
            skipped = self._fresh()
            if chance >= 0.075:
                self._held_back.append(skipped)
        return self._fresh()

    def _recent(self) -> Game:
        return self._games[self._at - self._random.randint(1, min(30, self._at))]

    def _fresh(self) -> Game:
        self._at += 1
        return self._games[self._at - 1]


def _environment(env: Mapping[str, str] | None) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("CRASHFOLD")}
    return ours | {"COLUMNS": "200"} | dict(env or {})


def _run(function: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end, in a thread of its own, for the caller's may have an event loop."""
    outcome: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(anyio.run(function))
        except BaseException as error:  # raised below
            errors.append(error)

    thread = Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return outcome[0]
