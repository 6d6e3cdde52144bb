"""The service around the line: it starts without its servers, ends when told to, and never leaves a mess.

These run on the machine's clock, since signals and deadlines are real; every wait is for a condition.
"""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from crashfold.engine.adapters.memory.log import MemoryLog
from crashfold.engine.adapters.memory.store import Trouble
from crashfold.engine.adapters.process.clock import SystemClock
from crashfold.engine.adapters.prometheus.engine import Metrics
from crashfold.engine.errors import ConfigurationError, LostRange, StoreUnavailable
from crashfold.engine.ports import ServerUsage, StoreUsage
from crashfold.engine.runtime import supervisor
from crashfold.engine.runtime.health import HealthBoard
from crashfold.engine.runtime.pacing import EngineLimits
from crashfold.engine.runtime.supervisor import Supervisor
from tests.support.games import games_at
from tests.support.in_memory import MemoryDeployment

GAMES = tuple(games_at(*(1.0, 2.0, 1.4, 11.0, 3.0) * 8))
PATIENCE_S = 20
STOP_S = 1.0
CLOCK = SystemClock()
LIMITS = EngineLimits(batch_games_max=5, poll_wait_s=0.02)


class Service:
    """A supervisor and what can be seen of it."""

    def __init__(
        self, deployment: MemoryDeployment, *, until_caught_up: bool = False, usage: StoreUsage | None = None
    ) -> None:
        self.deployment = deployment
        self.health = HealthBoard(CLOCK)
        self.metrics = Metrics()
        self.log = MemoryLog(deployment.topic)
        deployment.clock = CLOCK  # type: ignore[assignment]
        self.supervisor = Supervisor(
            deployment.service(self.log, limits=LIMITS, metrics=self.metrics, health=self.health),
            self.log,
            clock=CLOCK,
            meter=self.metrics,
            health=self.health,
            usage=usage,
            until_caught_up=until_caught_up,
            shutdown_timeout_s=STOP_S,
        )

    async def run(self) -> None:
        with anyio.fail_after(PATIENCE_S):
            await self.supervisor.run()


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[Service]:
    """The service runs in the block, which has to end it."""
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.run)
            yield service


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE_S):
        while not condition():
            await anyio.sleep(0.005)


def committed(deployment: MemoryDeployment, games: int = len(GAMES)) -> Callable[[], bool]:
    def check() -> bool:
        kept = deployment.store.snapshot().live.get("crash")
        return kept is not None and kept.checkpoint.next_offset >= games

    return check


@pytest.fixture
def deployment() -> MemoryDeployment:
    deployment = MemoryDeployment(only="crash")
    deployment.publish(*GAMES)
    return deployment


# --- stopping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_in_good_order(deployment: MemoryDeployment, number: signal.Signals) -> None:
    async with running(Service(deployment)) as service:
        await until(committed(deployment))
        await until(lambda: not service.health.ready())
        os.kill(os.getpid(), number)
    assert deployment.topic.reported == {0: len(GAMES)}
    manifest = await deployment.store.read_manifest("games", 0)
    assert manifest is not None
    assert manifest.low_water == len(GAMES)
    assert service.log not in deployment.topic._groups["crashfold"]
    await deployment.check()


async def test_a_stop_finishes_the_step_under_way(deployment: MemoryDeployment) -> None:
    async with running(Service(deployment)) as service:
        await until(committed(deployment, 5))
        service.supervisor.stop()
    kept = deployment.store.snapshot().live["crash"].checkpoint
    assert service.supervisor._service.next_offsets == {0: kept.next_offset}
    await deployment.check()


@pytest.mark.parametrize("away", ["store", "log", "both"])
async def test_a_stop_keeps_its_deadline_though_servers_are_away(deployment: MemoryDeployment, away: str) -> None:
    async with running(Service(deployment)) as service:
        await until(committed(deployment))
        if away != "store":
            deployment.topic.available = False
        if away != "log":
            for _ in range(1_000):
                deployment.store.fail_next(Trouble.UNAVAILABLE)
            if away == "store":
                deployment.publish(*games_at(2.0, first_id=100))
        await until(lambda: bool(service.health.ready()))
        stopped_s = CLOCK.monotonic_s()
        service.supervisor.stop()
    assert CLOCK.monotonic_s() - stopped_s < STOP_S + 1
    deployment.topic.available = True
    deployment.store.calm()
    await deployment.check()


async def test_a_stop_before_the_log_is_there_ends_at_once(deployment: MemoryDeployment) -> None:
    deployment.topic.available = False
    async with running(Service(deployment)) as service:
        await until(lambda: "the log is away: the topic games is not available; try again" in service.health.ready())
        stopped_s = CLOCK.monotonic_s()
        os.kill(os.getpid(), signal.SIGTERM)
    assert CLOCK.monotonic_s() - stopped_s < STOP_S
    assert deployment.store.snapshot().live == {}


def test_a_second_signal_ends_the_process_at_once() -> None:
    """In a process of its own: the store never answers, so that the first signal alone would take its time."""
    program = textwrap.dedent(
        """
        import os, signal, anyio
        from crashfold.engine.adapters.memory.store import Trouble
        from tests.unit.engine.runtime import test_supervisor as here

        async def main():
            here.STOP_S = 60
            deployment = here.MemoryDeployment(only="crash")
            deployment.publish(*here.GAMES)
            for _ in range(1_000):
                deployment.store.fail_next(Trouble.UNAVAILABLE)
            async with here.running(here.Service(deployment)) as service:
                await here.until(lambda: "the store is away" in str(service.health.ready()))
                os.kill(os.getpid(), signal.SIGTERM)
                await here.until(lambda: service.supervisor._stopping)
                os.kill(os.getpid(), signal.SIGTERM)

        anyio.run(main)
        """
    )
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, check=False)
    assert ended.returncode == 128 + signal.SIGTERM, ended.stderr.decode()


# --- starting and going on -------------------------------------------------------------------------------------------


async def test_it_starts_without_the_log_and_begins_when_that_is_there(deployment: MemoryDeployment) -> None:
    deployment.topic.available = False
    async with running(Service(deployment)) as service:
        await until(lambda: "the log is away" in str(service.health.ready()))
        assert service.health.live() == []
        deployment.topic.available = True
        await until(committed(deployment))
        await until(lambda: not service.health.ready())
        service.supervisor.stop()
    await deployment.check()


async def test_it_starts_without_the_store_and_begins_when_that_is_there(deployment: MemoryDeployment) -> None:
    for _ in range(4):
        deployment.store.fail_next(Trouble.REFUSED)
    async with running(Service(deployment)) as service:
        await until(lambda: "the store is away" in str(service.health.ready()))
        await until(committed(deployment))
        service.supervisor.stop()
    await deployment.check()


async def test_lag_is_measured_and_reported(deployment: MemoryDeployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "OBSERVE_EVERY_S", 0.01)
    monkeypatch.setattr(supervisor, "REPORT_EVERY_S", 0.01)

    def lag(service: Service) -> float | None:
        return service.metrics.registry.get_sample_value("crashfold_lag_records", {"partition": "0"})

    async with running(Service(deployment)) as service:
        await until(lambda: lag(service) == 0 and deployment.topic.reported == {0: len(GAMES)})
        deployment.letters.available = False
        deployment.topic.append(b"no game")
        await until(lambda: lag(service) == 1)
        deployment.letters.available = True
        await until(lambda: lag(service) == 0)
        service.supervisor.stop()


async def test_what_the_line_raises_comes_out_as_it_is_and_what_was_committed_is_noted(
    deployment: MemoryDeployment,
) -> None:
    async def lose_records() -> None:
        await until(committed(deployment))
        deployment.topic.skip(5)
        deployment.topic.truncate_before(len(GAMES) + 5)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lose_records)
        with pytest.raises(LostRange):
            await Service(deployment).run()
    manifest = await deployment.store.read_manifest("games", 0)
    assert manifest is not None
    assert manifest.low_water == len(GAMES)
    assert deployment.topic.reported == {0: len(GAMES)}


# --- until caught up -------------------------------------------------------------------------------------------------


async def test_it_ends_once_it_has_committed_what_stood_on_the_topic(deployment: MemoryDeployment) -> None:
    deployment.topic.skip(3)
    service = Service(deployment, until_caught_up=True)
    await service.run()
    assert service.supervisor._service.next_offsets == {0: len(GAMES) + 3}
    await deployment.check()
    await Service(deployment, until_caught_up=True).run()


async def test_an_empty_topic_is_caught_up_with_at_once() -> None:
    await Service(MemoryDeployment(), until_caught_up=True).run()


async def test_it_ends_though_records_never_cease_to_come(deployment: MemoryDeployment) -> None:
    service = Service(deployment, until_caught_up=True)
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:

            async def publish() -> None:
                while True:
                    deployment.topic.append(b"no game")
                    await anyio.lowlevel.checkpoint()

            tasks.start_soon(publish)
            await service.run()
            tasks.cancel_scope.cancel()
    assert committed(deployment)()


async def test_each_of_several_catches_up_with_its_own_partitions() -> None:
    deployment = MemoryDeployment(3)
    for number, stream in enumerate("abc"):
        deployment.publish(*GAMES, stream=stream, partition=number)
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(Service(deployment, until_caught_up=True).run)
    await deployment.check("a", "b", "c")


async def test_one_that_is_given_no_partition_ends_too(
    deployment: MemoryDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "OTHERS_HOLD_ALL_S", 0.2)
    async with running(Service(deployment)) as holder:
        await until(committed(deployment))
        spare = Service(deployment, until_caught_up=True)
        deployment.topic.rebalance()  # the turn is the first one's again
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(spare.run)
        holder.supervisor.stop()
    await deployment.check()


async def test_a_topic_that_is_not_there_is_a_fault_of_the_settings() -> None:
    with pytest.raises(ConfigurationError, match=r"no topic games .* create it, or mend kafka\.topic"):
        await Service(MemoryDeployment(0), until_caught_up=True).run()


async def test_without_that_word_it_waits_for_a_topic() -> None:
    deployment = MemoryDeployment(0, only="crash")
    async with running(Service(deployment)) as service:
        await until(lambda: "no partition is held" in service.health.ready())
        deployment.topic.add_partitions()
        deployment.publish(*GAMES)
        await until(committed(deployment))
        service.supervisor.stop()
    await deployment.check()


async def test_a_log_that_goes_away_while_it_catches_up_is_waited_for(deployment: MemoryDeployment) -> None:
    service = Service(deployment, until_caught_up=True)
    async with running(service):
        await until(committed(deployment, 5))
        deployment.topic.available = False
        await anyio.lowlevel.checkpoint()
        deployment.topic.available = True
    await deployment.check()


class Weighed:
    """Says the same of every stream; does not answer the first time."""

    def __init__(self) -> None:
        self.asked = 0

    async def servers(self) -> list[ServerUsage]:
        self.asked += 1
        if self.asked == 1:
            raise StoreUnavailable("it is away")
        return [
            ServerUsage(
                address="here",
                memory_bytes=10,
                memory_max_bytes=0,
                evicted_keys=0,
                expired_keys=0,
                hits=0,
                misses=0,
                clients=1,
                commands=1,
            )
        ]

    async def stream_bytes(self, stream: str) -> int | None:
        return 4_096


async def test_what_the_store_takes_is_measured_while_the_engine_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "WATCH_STORE_EVERY_S", 0.01)
    monkeypatch.setattr(supervisor, "MEASURE_STREAMS_EVERY_S", 0.01)
    deployment = MemoryDeployment()
    deployment.publish(*GAMES)
    service = Service(deployment, usage=Weighed())
    value = service.metrics.registry.get_sample_value
    async with running(service):
        await until(lambda: value("crashfold_stream_memory_bytes", {"stream": "crash"}) == 4_096)
        await until(lambda: value("crashfold_next_offset", {"partition": "0"}) == len(GAMES))
        service.supervisor.stop()
    assert value("crashfold_store_memory_bytes", {"server": "here"}) == 10
    newest = value("crashfold_newest_game_timestamp_seconds", {"stream": "crash"})
    assert newest == GAMES[-1].end_time / 1000
    assert value("crashfold_last_commit_timestamp_seconds", {"partition": "0"}) is not None
