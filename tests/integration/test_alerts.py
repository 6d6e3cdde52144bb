"""A real Prometheus scrapes a real engine and two APIs; each thing is broken for real, then mended.

The story is told once a module: several faults together, Redis that refuses, Redis that is away, processes that end,
then everything mended. The tests look at what Prometheus saw: every alert fired and resolved, and every query of every
dashboard gave a value.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from itertools import count
from threading import Event, Thread
from typing import Any, Final

import anyio
import httpx
import msgspec
import pytest
import yaml
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor

from crashfold.engine.adapters.embedded import free_port
from crashfold.schemas import keys
from crashfold.schemas.game import Game, encode
from crashfold.schemas.reports import Verification
from tests.conftest import enter
from tests.support import servers
from tests.support.clients import consuming, producing
from tests.support.deployment import PREDICATES, Deployment, Engine, eventually
from tests.support.prometheus import DEPLOYED, Prometheus, prometheus
from tests.support.servers import KafkaCluster, RedisServer
from tests.unit.project.test_deploy import dashboards_builder

pytestmark = pytest.mark.timeout(600)  # the story is told while the first test is set up

ALERTS: Final = sorted(
    rule["alert"]
    for group in yaml.safe_load((DEPLOYED / "crashfold.rules.yaml").read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
)
BOARDS: Final = dashboards_builder().BOARDS
SEEN_S: Final = 30.0
RESOLVED_S: Final = 60.0
TOKEN: Final = "0123456789abcdef"
AGO_MS: Final = 2 * 3_600_000
JUNK_BYTES: Final = 100_000


class Meanwhile:
    """Does something again and again in a thread of its own while the block lasts."""

    def __init__(self, do: Callable[[], object]) -> None:
        self._do = do
        self._stopped = Event()
        self._fault: BaseException | None = None
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Meanwhile":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(30)
        if self._fault is not None:
            raise self._fault

    def _run(self) -> None:
        try:
            while not self._stopped.wait(0.02):
                self._do()
        except BaseException as fault:  # raised where the block ends
            self._fault = fault


class Seen:
    """What Prometheus said of the alerts, looked at several times a second."""

    def __init__(self, server: Prometheus) -> None:
        self.fired: dict[str, list[dict[str, Any]]] = {}
        self.firing: set[str] = set()
        self._last_s: dict[str, float] = {}
        self._server = server

    def look(self) -> None:
        now = self._server.firing()
        for alert in now:
            self.fired.setdefault(alert["labels"]["alertname"], []).append(alert)
        self.firing = {alert["labels"]["alertname"] for alert in now}
        self._last_s |= dict.fromkeys(self.firing, time.monotonic())
        time.sleep(0.2)

    def wait_for(self, *names: str) -> None:
        """Return when all of them have fired since now, or after some time: the tests say which did not."""
        began_s = time.monotonic()
        while not all(self._last_s.get(name, 0) > began_s for name in names) and time.monotonic() < began_s + SEEN_S:
            time.sleep(0.1)


class Site:
    """The deployment, its servers, and what happens to them."""

    def __init__(self, stack: ExitStack, kafka: KafkaCluster, redis: RedisServer, directory: Any) -> None:
        self.redis = redis
        self.ids = count(1)
        self.engine_port = free_port()
        self.api_ports = [free_port(), free_port()]
        settings: dict[str, dict[str, object]] = {
            "projections": {**PREDICATES, "window_games": 1_000},
            "redis": {"timeout_ms": 300},
            "api": {"token": TOKEN},
        }
        topic = f"games-{os.getpid()}-{self.engine_port}"
        self.deployment = Deployment(directory, kafka.bootstrap_servers, redis.url, topic, settings=settings)
        self.deployment.create_topic(2)
        self.redis_client = stack.enter_context(redis.client())

    def start_engine(self, stack: ExitStack) -> Engine:
        return stack.enter_context(self.deployment.engine(port=self.engine_port))

    def start_api(self, stack: ExitStack, number: int) -> None:
        flags = ["--api.source_occurrences", "shadow"] if number else []
        api = stack.enter_context(self.deployment.api(*flags, port=self.api_ports[number]))
        api.until(lambda: api.is_ready, "the API is ready")

    def publish(self, *crash_points: float, ago_ms: int = AGO_MS, hash_: str | None = None) -> None:
        """Games that ended so long ago, in records that are an hour old."""
        now_ms = int(time.time() * 1000)
        games = [
            Game(game_id=next(self.ids), hash=hash_, crash_point=point, end_time=now_ms - ago_ms)
            for point in crash_points
        ]
        self.publish_values([encode(game) for game in games], now_ms - 3_600_000)

    def publish_values(self, values: list[bytes], timestamp_ms: int | None = None) -> None:
        async def send() -> None:
            async with producing(bootstrap_servers=self.deployment.bootstrap_servers) as producer:
                for value in values:
                    await producer.send(self.deployment.topic, value, partition=0, timestamp_ms=timestamp_ms)
                await producer.flush()

        anyio.run(send)

    def come_and_go(self) -> None:
        """A further member of the engine's group, for a moment."""

        async def join() -> None:
            with suppress(Exception):
                async with consuming(
                    self.deployment.topic,
                    bootstrap_servers=self.deployment.bootstrap_servers,
                    group_id=self.deployment.topic,
                    session_timeout_ms=1_000,
                    heartbeat_interval_ms=200,
                    partition_assignment_strategy=(RoundRobinPartitionAssignor,),
                ) as member:
                    with anyio.move_on_after(3):
                        while not member.assignment():
                            await member.getmany(timeout_ms=50)

        anyio.run(join)

    def ask(self, *questions: tuple[int, str]) -> None:
        """Ask several things at once, each of one of the two APIs; whatever the answers are."""

        async def ask_all() -> None:
            async with httpx.AsyncClient(
                headers={"authorization": f"Bearer {TOKEN}"}, timeout=10, trust_env=False
            ) as c:

                async def ask(number: int, path: str) -> None:
                    with suppress(httpx.HTTPError):
                        await c.get(f"http://127.0.0.1:{self.api_ports[number]}{path}")

                async with anyio.create_task_group() as tasks:
                    for number, path in questions:
                        tasks.start_soon(ask, number, path)

        anyio.run(ask_all)


ANALYTICS: Final = "/api/analytics"


def break_together(site: Site, seen: Seen) -> None:
    """Faults that do not get into each other's way, with Redis at work."""
    redis, deployment = site.redis_client, site.deployment
    site.publish_values([b"no game", b"none either"])
    site.publish(1.99, hash_="0" * 64)
    redis.set(
        keys.report(deployment.key_prefix, "verified", "crash"),
        msgspec.json.encode(Verification("crash", int(time.time() * 1000) - 9 * 86_400_000, "equal", 1, 0)),
    )
    redis.sadd(keys.reports(deployment.key_prefix), "verified:crash")
    redis.hset(deployment.key("occurrences:max:1.2"), "games:100", 7)
    redis.delete(deployment.key("last_games:min:10"))

    thresholds = count(10_100)

    def ask_new_questions() -> None:
        new = [(0, f"{ANALYTICS}/occurrences/min-crash-point/{next(thresholds) / 100}") for _ in range(30)]
        missing = (0, f"{ANALYTICS}/last-games/min-crash-point/10?limit={next(thresholds) % 90 + 1}")
        differs = (1, f"{ANALYTICS}/occurrences/max-crash-point/1.2?games=100")
        site.ask(*new, missing, differs)

    with (
        ExitStack() as stack,
        Meanwhile(lambda: site.publish(2.5, 2.5)),
        Meanwhile(ask_new_questions),
        Meanwhile(lambda: site.ask(*[(0, "/api/games?min_version=1000000000")] * 50)),
    ):
        with Meanwhile(site.come_and_go):
            seen.wait_for("CrashfoldRebalances")
        stack.enter_context(deployment.engine("--kafka.group_id", "rival"))
        for junk in range(100):
            redis.set(f"junk:{junk}", b"x" * JUNK_BYTES, ex=3_600)
        redis.config_set("maxmemory-policy", "volatile-random")
        redis.config_set("maxmemory", redis.info("memory")["used_memory"] - 50 * JUNK_BYTES)
        seen.wait_for("CrashfoldStoreEvicts")
        redis.config_set("maxmemory", 0)
        redis.config_set("maxmemory-policy", "noeviction")
        seen.wait_for(
            *("CrashfoldDeadLetters", "CrashfoldDeadLettersWait", "CrashfoldUnfairGames", "CrashfoldVerifyOverdue"),
            *("CrashfoldConflicts", "CrashfoldApiErrors", "CrashfoldCacheMisses"),
            *("CrashfoldPrecomputedMissing", "CrashfoldShadowDiffers"),
        )
    assert deployment.run("verify").code == 1
    seen.wait_for("CrashfoldVerifyDiffers")


def refuse(site: Site, seen: Seen) -> None:
    """Redis is full."""
    site.redis_client.config_set("maxmemory", "1mb")
    with Meanwhile(lambda: site.publish(2.5)):
        seen.wait_for("CrashfoldStoreRefuses", "CrashfoldStoreMemory")
    site.redis_client.config_set("maxmemory", 0)


def go_away(site: Site, seen: Seen) -> None:
    """Redis does not answer, while many times as much comes as was ever committed."""
    site.redis.pause()
    try:
        site.publish(*[2.5] * (12 * next(site.ids)))
        seen.wait_for(
            *("CrashfoldStoreDoesNotAnswer", "CrashfoldReplicaMode", "CrashfoldPartitionStuck"),
            *("CrashfoldFreshnessBurnsFast", "CrashfoldFreshnessBurnsSlowly", "CrashfoldRetentionNear"),
        )
    finally:
        site.redis.resume()


def restart(site: Site, seen: Seen, server: Prometheus, stack: ExitStack) -> None:
    """The engine ends, and ends again and again."""
    seen.wait_for("CrashfoldNoEngine", "CrashfoldTargetMissing")
    started, known = 'process_start_time_seconds{job="crashfold-engine"}', [0.0]
    for _ in range(3):
        with ExitStack() as life:
            site.start_engine(life)
            known = eventually(partial(server.query, f"{started} != {known[0]}"), "it is scraped")
    site.start_engine(stack)
    seen.wait_for("CrashfoldRestarts")


def mend(site: Site, seen: Seen) -> None:
    """Everything is put right, and users come back."""
    deployment = site.deployment
    deployment.done("replay")
    deployment.done("dead-letters", "discard", "--reason", "unreadable")
    site.publish(2.5, ago_ms=0)
    deployment.verified()
    with Meanwhile(lambda: site.ask((0, "/api/games"), (1, "/api/games"))):
        with suppress(AssertionError):
            eventually(lambda: not seen.firing, "nothing fires", RESOLVED_S)
        time.sleep(2)
        with suppress(AssertionError):
            eventually(lambda: not seen.firing, "nothing fires", RESOLVED_S)


class Told:
    """The story, and what was seen of it."""

    def __init__(self, server: Prometheus, seen: Seen, began_s: float) -> None:
        self.server = server
        self.fired: Mapping[str, list[dict[str, Any]]] = seen.fired
        self.still_firing = set(seen.firing)
        self.began_s, self.ended_s = began_s, time.time()


@pytest.fixture(scope="module")
def told(kafka: KafkaCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    with ExitStack() as stack:
        redis = enter(stack, servers.redis_server())
        site = Site(stack, kafka, redis, tmp_path_factory.mktemp("site"))
        site.publish(12.0, *[2.5, 1.3] * 100)
        targets = {
            "crashfold-engine": [f"127.0.0.1:{site.engine_port}"],
            "crashfold-api": [f"127.0.0.1:{port}" for port in site.api_ports],
        }
        server = enter(stack, prometheus(targets, TOKEN))
        began_s = time.time()
        seen = Seen(server)
        stack.enter_context(Meanwhile(seen.look))
        with ExitStack() as first_life:
            engine = site.start_engine(first_life)
            engine.until(lambda: site.deployment.total() == 201, "all is folded")
            site.start_api(stack, 0)
            with ExitStack() as second_api:
                site.start_api(second_api, 1)
                seen.wait_for("CrashfoldSiteSilent")
                break_together(site, seen)
                refuse(site, seen)
                go_away(site, seen)
        restart(site, seen, server, stack)
        site.start_api(stack, 1)
        mend(site, seen)

        yield Told(server, seen, began_s)


@pytest.mark.parametrize("alert", ALERTS)
def test_what_is_broken_for_real_is_seen_and_what_is_mended_is_over(told: Told, alert: str) -> None:
    assert alert in told.fired
    assert alert not in told.still_firing
    for one in told.fired[alert]:
        assert "<error" not in one["annotations"]["summary"]
        assert one["labels"]["severity"] in ("page", "ticket")


def test_prometheus_has_nothing_against_the_rules(told: Told) -> None:
    assert told.server.rule_faults() == []


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_every_query_of_a_dashboard_gives_a_value(told: Told, board: Any) -> None:
    empty = [
        query
        for query in dashboards_builder().queries(board)
        if not told.server.values(with_variables(query), told.began_s, told.ended_s)
    ]
    assert empty == []


def with_variables(query: str) -> str:
    """The query as Grafana sends it when everything is chosen."""
    chosen = {"$engine": ".*", "$api": ".*", "$stream": ".*", "$__rate_interval": "10s"}
    for variable, value in chosen.items():
        query = query.replace(variable, value)
    assert "$" not in query
    return query
