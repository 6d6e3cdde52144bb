"""What systemd hears of a process, on a real datagram socket."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from crashfold.engine.adapters.process.clock import SystemClock
from crashfold.engine.adapters.process.service_manager import ServiceManager, tell_service_manager

PATIENCE_S = 20.0


class Condition:
    """A process of which the test says how it is."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.stalls: list[str] = []

    def live(self) -> list[str]:
        return self.stalls

    def ready(self) -> list[str]:
        return self.reasons

    def started(self) -> list[str]:
        return []


class Systemd:
    """Binds the socket and reads what comes."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0", 1))
        self.socket.setblocking(False)
        self.heard: list[str] = []

    def manager(self, **environment: str) -> ServiceManager:
        return ServiceManager({"NOTIFY_SOCKET": self.address, **environment})

    def has_heard(self, message: str) -> bool:
        while True:
            try:
                self.heard += self.socket.recv(65_536).decode().split("\n")
            except BlockingIOError:
                return message in self.heard

    async def hears(self, message: str) -> None:
        with anyio.fail_after(PATIENCE_S):
            while not self.has_heard(message):
                await anyio.sleep(0.005)


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@crashfold-test-{os.getpid()}"
    told = Systemd(address)
    yield told
    told.socket.close()


async def test_it_hears_that_the_process_runs_how_it_is_and_that_it_ends(systemd: Systemd) -> None:
    condition = Condition()
    condition.reasons = ["the log is away: it did not answer\nREADY=0"]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tell_service_manager, condition, SystemClock(), systemd.manager(WATCHDOG_USEC="30000"))
        await systemd.hears("READY=1")
        assert f"MAINPID={os.getpid()}" in systemd.heard
        await systemd.hears("STATUS=the log is away: it did not answer READY=0")
        condition.reasons = []
        await systemd.hears("STATUS=working")
        assert "STOPPING=1" not in systemd.heard
        tasks.cancel_scope.cancel()
    assert systemd.has_heard("STOPPING=1")


async def test_the_watchdog_is_fed_only_while_the_process_is_alive(systemd: Systemd) -> None:
    condition = Condition()
    condition.stalls = ["at offset 7 of partition 0 for 130 s, with 5 records to read"]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tell_service_manager, condition, SystemClock(), systemd.manager(WATCHDOG_USEC="3000"))
        await systemd.hears("STATUS=working")
        condition.reasons = ["turn two"]
        await systemd.hears("STATUS=turn two")
        assert "WATCHDOG=1" not in systemd.heard
        condition.stalls = []
        await systemd.hears("WATCHDOG=1")
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_a_watchdog_is_that_of_this_process(environment: dict[str, str], watchdog_s: float) -> None:
    assert ServiceManager(environment).watchdog_s == watchdog_s


async def test_without_a_service_manager_nothing_is_told() -> None:
    with anyio.fail_after(PATIENCE_S):
        await tell_service_manager(Condition(), SystemClock(), ServiceManager({}))


async def test_a_service_manager_that_does_not_listen_disturbs_nobody(tmp_path: Path) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    manager.tell(READY="1")
    assert manager
