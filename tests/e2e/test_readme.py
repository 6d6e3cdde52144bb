"""The README's commands work as they stand there, in their order, on real servers."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from crashfold.engine.adapters.embedded import free_port
from tests.support.deployment import COMMAND, eventually
from tests.support.servers import KafkaCluster, RedisServer

ROOT = Path(__file__).parents[2]
SERVICES = ("run", "serve")
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def commands() -> Iterator[tuple[list[str], str]]:
    """Every command of the README but those of `make`, and what stands below it."""
    for block in _BLOCK.findall((ROOT / "README.md").read_text()):
        for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, output = example.partition("\n")
            words = shlex.split(line, comments=True)
            if words[0] != "make":
                yield words, output


class Machine:
    """A machine with the servers that the README speaks of, on other ports."""

    def __init__(self, directory: Path, redis: RedisServer, kafka: KafkaCluster, topic: str) -> None:
        self.directory = directory
        self.redis_port = str(urlsplit(redis.url).port)
        self.api_port, self.engine_port = str(free_port()), str(free_port())
        (directory / ".venv").symlink_to(COMMAND.parents[1])
        (directory / "tests").symlink_to(ROOT / "tests")
        ours = {name: value for name, value in os.environ.items() if not name.startswith("CRASHFOLD")}
        self.environment = ours | {
            "CRASHFOLD_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "CRASHFOLD_KAFKA__TOPIC": topic,
            "CRASHFOLD_KAFKA__GROUP_ID": topic,
            "CRASHFOLD_REDIS__URL": f"redis://127.0.0.1:{self.redis_port}/0",
            "CRASHFOLD_API__PORT": self.api_port,
            "CRASHFOLD_ENGINE__PORT": self.engine_port,
        }

    def words(self, words: list[str]) -> list[str]:
        """The command with the ports of this machine."""
        for port, here in (("6379", self.redis_port), ("8000", self.api_port), ("9464", self.engine_port)):
            words = [word.replace(f"127.0.0.1:{port}", f"127.0.0.1:{here}") for word in words]
        return [words[0], "-p", self.redis_port, *words[1:]] if words[0] == "redis-cli" else words

    def output(self, words: list[str]) -> str:
        """What the command prints; it has to end with 0."""
        done = subprocess.run(
            self.words(words), cwd=self.directory, env=self.environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{' '.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def service(self, words: list[str]) -> Iterator[None]:
        """The command while the block lasts, once it is ready."""
        port = self.api_port if words[1] == "serve" else self.engine_port
        log = self.directory / f"{words[1]}.log"
        with log.open("wb") as said:
            process = subprocess.Popen(
                self.words(words), cwd=self.directory, env=self.environment, stdout=said, stderr=said
            )

        def ready() -> bool:
            assert process.poll() is None, log.read_text()
            ask = ["curl", "-sf", "-o", "/dev/null", f"http://127.0.0.1:{port}/readyz"]
            return subprocess.run(ask, check=False).returncode == 0

        try:
            eventually(ready, f"{words[1]} is ready")
            yield
        finally:
            process.kill()
            process.wait()


def test_the_commands_of_the_readme_work_in_the_order_in_which_they_stand(
    tmp_path: Path, redis_server: RedisServer, kafka: KafkaCluster, redis_url: str
) -> None:
    topic = f"games-{tmp_path.name}"
    machine = Machine(tmp_path, redis_server, kafka, topic)
    ran = []
    with ExitStack() as services:
        for words, shown in commands():
            ran.append(words[1])
            if words[0].endswith("crashfold") and words[1] in SERVICES:
                services.enter_context(machine.service(words))
                continue
            told = machine.output(words)
            if shown and words[0] == "redis-cli":
                assert sorted(told.splitlines()) == sorted(shown.splitlines()), words
            elif shown:
                assert json.loads(told) == json.loads(shown), words
    assert {"run", "serve", "replay", "publish", "doctor", "status", "verify"} <= set(ran)
