"""The first moments of a service: a signal that comes then, and what other users of the machine can read of it."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crashfold.engine.adapters.embedded import free_port
from tests.support.deployment import COMMAND, Deployment, eventually

SECRET = "s3cret-word"


@pytest.fixture
def nowhere(tmp_path: Path) -> Deployment:
    """Settings that lead to no servers."""
    kafka, redis = f"127.0.0.1:{free_port()}", f"redis://127.0.0.1:{free_port()}/0"
    made = Deployment(tmp_path, kafka, redis, "games")
    made.configure({"api": {"port": free_port()}, "engine": {"port": free_port()}})
    return made


@contextmanager
def started(deployment: Deployment, *tokens: str) -> Iterator[subprocess.Popen[bytes]]:
    with (deployment.directory / "said").open("wb") as said:
        process = subprocess.Popen(
            [COMMAND, *tokens, "--config", str(deployment.config)],
            cwd=deployment.directory,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler of its own for the signal."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(line.split()[1] for line in lines if line.startswith("SigCgt:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


SERVICES = [["run"], ["run", "--workers", "2"], ["serve"], ["serve", "--api.workers", "2"]]


@pytest.mark.fault(
    "SIGTERM at the first moment",
    user="nothing",
    operator="nothing: exit 0",
)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc")
@pytest.mark.parametrize("tokens", SERVICES, ids=" ".join)
def test_sigterm_ends_a_service_with_0_from_the_first_moment_on(nowhere: Deployment, tokens: list[str]) -> None:
    with started(nowhere, *tokens) as process:
        eventually(lambda: catches(process.pid, signal.SIGTERM), "it listens to signals")
        process.terminate()
        assert process.wait(20) == 0, (nowhere.directory / "said").read_text()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc")
@pytest.mark.parametrize("tokens", [["run", "--workers", "2"], ["serve", "--api.workers", "2"]], ids=" ".join)
def test_sigterm_ends_a_service_with_0_while_its_workers_begin(nowhere: Deployment, tokens: list[str]) -> None:
    with started(nowhere, *tokens) as process:
        eventually(lambda: len(children(process.pid)) == 2, "its workers begin")
        process.terminate()
        assert process.wait(20) == 0, (nowhere.directory / "said").read_text()


SIGNALLED_IN_A_FORK = """
import os, signal, time
from crashfold.engine.adapters.web.server import run_workers

fork = os.fork

def fork_and_be_signalled() -> int:
    pid = fork()
    if pid == 0 or {where!r} == "parent":
        os.kill(os.getpid(), signal.SIGTERM)
    return pid

os.fork = fork_and_be_signalled
run_workers(2, lambda number: time.sleep(600))
"""


@pytest.mark.parametrize("where", ["parent", "worker"])
def test_a_signal_that_comes_while_a_worker_is_forked_ends_it(where: str) -> None:
    with subprocess.Popen([sys.executable, "-c", SIGNALLED_IN_A_FORK.format(where=where)]) as process:
        try:
            if where == "worker":  # each ends by itself, and so are started again no more
                assert process.wait(30) == 1
            else:
                assert process.wait(30) == 0
        finally:
            process.kill()


@pytest.mark.fault(
    "SIGTERM while servers are looked for",
    user="nothing",
    operator="nothing: exit 0",
)
@pytest.mark.parametrize("tokens", [["run"], ["serve"]], ids=" ".join)
def test_sigterm_ends_a_service_with_0_while_it_looks_for_its_servers(nowhere: Deployment, tokens: list[str]) -> None:
    with started(nowhere, *tokens) as process:
        said = nowhere.directory / "said"
        eventually(lambda: "_away" in said.read_text(), "it has looked")
        process.terminate()
        assert process.wait(20) == 0, said.read_text()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc")
def test_no_password_is_an_argument_of_a_worker_nor_in_a_log(nowhere: Deployment) -> None:
    redis = f"redis://:{SECRET}@127.0.0.1:{free_port()}/0"
    with started(nowhere, "run", "--workers", "2", "--redis.url", redis, "--set", "engine.linger_ms=7") as process:
        workers = eventually(lambda: len(found := children(process.pid)) == 2 and found, "its workers begin")
        assert workers
        for worker in workers:
            eventually(lambda pid=worker: "--worker " in arguments(pid), "it is a worker")  # type: ignore[misc]
            assert SECRET not in arguments(worker)
        said = nowhere.directory / "said"
        eventually(lambda: "_away" in said.read_text(), "it has looked")
        assert SECRET not in said.read_text()


def arguments(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
