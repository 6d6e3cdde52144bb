"""Pages whose commands are run as they stand, in their order, on real servers.

A page speaks of the default addresses and of `crashfold.toml`; a `Machine` has servers on other ports and such a file.
`Machine.block` runs the next block of a page; what has to happen in between is the test's.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from crashfold.engine.adapters.embedded import free_port
from tests.support.deployment import Deployment, Service, chain, eventually, in_order

ROOT: Final = Path(__file__).parents[2]
READY_S: Final = 60.0
COMMAND_S: Final = 120.0
_BLOCK: Final = re.compile(r"^ *```console\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_EXITS: Final = re.compile(r"# exits (\d+)$")
_ELSEWHERE: Final = re.compile(r"(docker|kubectl|systemctl|helm|kafka-\w+\.sh|make) ")
"""Commands of machines that are not here; other tests check what they would do."""


def blocks(page: Path) -> list[list[str]]:
    """The commands of each console block, line by line."""
    found = []
    for block in _BLOCK.findall(page.read_text()):
        text = re.sub(r"\\\n", " ", block)
        found.append([line.strip().removeprefix("$ ") for line in text.splitlines() if line.strip().startswith("$ ")])
    return [block for block in found if block]


class Machine:
    """A deployment where the pages say that it is. `deployment.redis` must be a server of the test's own."""

    def __init__(self, deployment: Deployment, redis_url: str) -> None:
        self.deployment = deployment
        self.directory = deployment.directory
        self.ports = {"8000": free_port(), "9464": free_port(), "9465": free_port()}
        self.redis_port = urlsplit(redis_url).port
        self.ran: list[str] = []
        self.said: dict[str, str] = {}
        """The last output of each command."""
        self.services: dict[str, Service] = {}
        self.addresses: dict[str, str] = {}
        """Further addresses of the pages, and what stands here instead."""
        deployment.configure({"engine": {"port": self.ports["9464"]}, "api": {"port": self.ports["8000"]}})
        self.write_settings()
        for name in ("tests", "tools"):
            (self.directory / name).symlink_to(ROOT / name)
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("CRASHFOLD")}
        self._environment["PATH"] = f"{Path(sys.executable).parent}:{self._environment['PATH']}"
        self._environment["COLUMNS"] = "200"

    def write_settings(self, name: str = "crashfold.toml") -> None:
        """The deployment's settings, where the pages have them."""
        (self.directory / name).write_text(self.deployment.config.read_text())

    def here(self, line: str) -> str:
        """The command with the addresses and names of this machine."""
        for port, own in (("6379", self.redis_port), *self.ports.items()):
            line = re.sub(rf"127\.0\.0\.1:{port}\b", f"127.0.0.1:{own}", line)
            line = re.sub(rf"(-p|port) {port}\b", rf"\1 {own}", line)
        for address, here in self.addresses.items():
            line = line.replace(address, here)
        line = re.sub(r"\bredis-cli (?!-p)", f"redis-cli -p {self.redis_port} ", line)
        return re.sub(r"\bgames2\b", f"{self.deployment.topic}-2", line)

    def block(self, commands: list[str], codes: Mapping[str, int] | None = None) -> None:
        """Run commands in their order. Each has to end with 0, or as the entry of `codes` says that it begins with."""
        for line in commands:
            self.ran.append(line)
            if _ELSEWHERE.match(line):
                continue
            if line.startswith("export "):
                self._export(line)
                continue
            told_code = _EXITS.search(line)
            expected = next((code for begin, code in (codes or {}).items() if line.startswith(begin)), 0)
            expected = int(told_code[1]) if told_code else expected
            words = line.split()
            if words[:1] == ["crashfold"] and words[1] in ("run", "serve") and not expected:
                self._serve(line)
                continue
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", self.here(line)],
                cwd=self.directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=COMMAND_S,
            )
            self.said[line] = done.stdout + done.stderr
            told = f"{line} ended with {done.returncode}:\n{self.said[line][-3000:]}"
            assert done.returncode == expected, told
            assert "Traceback" not in self.said[line], told

    def start(self, line: str, log: Path) -> "subprocess.Popen[bytes]":
        """The command as a process, which has to be ended."""
        with log.open("wb") as said:
            return subprocess.Popen(
                ["bash", "-c", f"exec {self.here(line)}"],
                cwd=self.directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )

    def stop(self, name: str) -> None:
        """End a service in good order."""
        code, _took_s = self.services.pop(name).terminate()
        assert code == 0

    def close(self) -> None:
        """Kill what still runs."""
        for service in self.services.values():
            service.kill()

    def calm(self, games: int = 300) -> None:
        """Games on the topic, an engine that has folded them, an API that answers."""
        self.deployment.publish(in_order(chain(games)))
        self.block(["crashfold run", "crashfold serve"])
        self.folded(games)

    def folded(self, games: int) -> None:
        """Wait until Redis has so many games."""
        key = self.deployment.key("checkpoint")
        eventually(
            lambda: int(self.deployment.redis.hget(key, "total_games") or 0) == games, f"{games} games are folded"
        )

    def metric(self, service: str, begins: str) -> float:
        """The sum of the samples whose name and labels begin so."""
        metrics = self.services[service].metrics()
        return sum(value for sample, value in metrics.items() if sample.startswith(begins))

    def eventually(self, condition: Callable[[], object], what: str) -> None:
        """Wait for it."""
        eventually(condition, what)

    def _export(self, line: str) -> None:
        script = f"{self.here(line)}; env -0"
        told = subprocess.run(["bash", "-c", script], env=self._environment, capture_output=True, text=True, check=True)
        self._environment = dict(one.split("=", 1) for one in told.stdout.split("\0") if one)

    def _serve(self, line: str) -> None:
        """Start the service, in the place of the one there is, unless it has a port of its own."""
        kind, own = line.split()[1], re.search(r"port (\d+)", line)
        name = f"{kind} {own[1]}" if own else kind
        if name in self.services and self.services[name].process.poll() is None:
            self.stop(name)
        port = self.ports[own[1] if own else {"run": "9464", "serve": "8000"}[kind]]
        log = self.directory / f"{name}.log"
        service = self.services[name] = Service(self.start(line, log), port, log)
        service.until(lambda: service.is_ready, f"{line} is ready", READY_S)
