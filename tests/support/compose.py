"""deploy/compose.yaml as processes of this machine: its services, commands, environments, secrets, health checks and
order, with local programs in the place of images.

A container has a name, an address and paths of its own; a process has none of them. `Compose.here` puts a loopback
address in the place of a name with a port, and a directory in the place of a container's path. Always true: everything
else is as the file says.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.deployment import COMMAND, Done
from tests.support.servers import (
    KafkaBroker,
    KafkaCluster,
    Missing,
    NotStarted,
    Server,
    _directory,
    nginx_config,
    start_together,
)

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
PORTS: Final = {
    "apache/kafka": (9092, 9093),
    "redis": (6379,),
    "crashfold": (9464, 8000),
    "nginx": (8000,),
    "prom/prometheus": (9090,),
}
"""What the containers of an image listen on."""
NOT_HERE: Final = frozenset({"grafana/grafana"})
"""Images whose program is in no package registry; test_alerts.py runs their queries."""
LOOK_S: Final = 30
JOB_S: Final = 60

_KAFKA_TOOLS: Final = {
    "kafka-topics.sh": "org.apache.kafka.tools.TopicCommand",
    "kafka-broker-api-versions.sh": "org.apache.kafka.tools.BrokerApiVersionsCommand",
}
_WGET: Final = """#!{python}
import sys, urllib.request
sys.stdout.buffer.write(urllib.request.urlopen(sys.argv[-1], timeout=5).read())
"""


class Container(Server):
    """A service of the file as a process; it answers when the file's health check passes."""

    def __init__(self, compose: "Compose", name: str) -> None:
        directory = compose.directory / name
        directory.mkdir()
        super().__init__(directory, len(PORTS[compose.image_of(name)]))
        self.compose = compose
        self.name = name

    def __str__(self) -> str:
        return self.name

    def address_at(self, port: int) -> str:
        """`host:port` of this machine, for a port of the container."""
        return f"127.0.0.1:{self.ports[PORTS[self.compose.image_of(self.name)].index(port)]}"

    def command(self) -> list[str]:
        return self.compose.command(self.name, self.compose.argv(self.name))

    def answers(self) -> bool:
        kind, *words = self.compose.services[self.name]["healthcheck"]["test"]
        words = words if kind == "CMD" else ["/bin/sh", "-c", *words]
        command = self.compose.command(self.name, self.compose.here(self.name, words))
        return subprocess.run(command, capture_output=True, timeout=LOOK_S, check=False).returncode == 0


class KafkaContainer(KafkaBroker, Container):
    """The broker. Its properties are the environment, as in the image."""

    def __init__(self, compose: "Compose", name: str) -> None:
        Container.__init__(self, compose, name)
        self.cluster = compose.kafka

    def answers(self) -> bool:
        # The file's check starts a Java each time, so it looks once, after the broker has answered.
        return super().answers() and Container.answers(self)

    def _properties(self) -> dict[str, str | int]:
        environment = self.compose.environment(self.name)
        named = {name.removeprefix("KAFKA_").lower().replace("_", "."): value for name, value in environment.items()}
        return {**named, "log.dirs": str(self.directory / "data")}


class Compose:
    """The services of the file, in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
        self.services: dict[str, dict[str, Any]] = {
            name: service for name, service in self.file["services"].items() if _image(service) not in NOT_HERE
        }
        self.running: dict[str, Container] = {}
        self.kafka = KafkaCluster(directory, brokers=0)
        self._programs = directory / "programs"
        self._make_programs()
        self._make_secrets()
        shutil.copytree(DEPLOY / "prometheus", directory / "etc-prometheus")

    def image_of(self, name: str) -> str:
        """The image of a service, without its tag."""
        return _image(self.services[name])

    def up(self) -> None:
        """Start each service after those it depends on. Raises NotStarted."""
        for name, service in self.services.items():
            if "healthcheck" in service:
                kind = KafkaContainer if self.image_of(name) == "apache/kafka" else Container
                self.running[name] = kind(self, name)
        due = list(self.services)
        while due:
            ready = [name for name in due if not self.services[name].get("depends_on", {}).keys() & set(due)]
            due = [name for name in due if name not in ready]
            for name in ready:
                if name not in self.running:
                    self._run_job(name)
            start_together([self.running[name] for name in ready if name in self.running])

    def down(self) -> None:
        """End them all."""
        for container in self.running.values():
            container.kill()

    def crashfold(self, name: str, *words: str) -> Done:
        """Run a command of Crashfold as in the container of that service."""
        done = subprocess.run(
            self.command(name, [str(COMMAND), *words]), capture_output=True, text=True, check=False, timeout=JOB_S
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def argv(self, name: str) -> list[str]:
        """The command line of a service: its image's program with the words of the file."""
        words = self._words(name)
        match self.image_of(name):
            case "crashfold":
                return [str(COMMAND), *words]
            case "prom/prometheus":
                config = self.directory / "etc-prometheus" / "prometheus.yaml"
                config.write_text(self.here(name, [(DEPLOY / "prometheus" / "prometheus.yaml").read_text()])[0])
                return [_program("prometheus"), *words, f"--web.listen-address={self.running[name].address}"]
            case "nginx":
                return [_program("nginx"), "-p", str(self.directory / name), "-c", str(self._nginx_config(name))]
            case "redis":
                place = f"redis-server --port {self.running[name].port} --dir {self.directory / name}"
                return [word.replace("redis-server", place) for word in words]
            case _:
                return words

    def command(self, name: str, argv: Sequence[str]) -> list[str]:
        """A command line with the environment of that service, and nothing of this process's."""
        environment = self.environment(name) | {
            "PATH": f"{self._programs}:{os.environ['PATH']}",
            "HOME": str(self.directory / name),
        }
        return ["/usr/bin/env", "-i", *(f"{one}={value}" for one, value in environment.items()), *argv]

    def environment(self, name: str) -> dict[str, str]:
        """The environment of the image and of the file, and the ports of this machine."""
        own: Mapping[str, str] = {}
        if self.image_of(name) == "crashfold":
            engine, api = self.running[name].ports
            own = _image_environment() | {"CRASHFOLD_ENGINE__PORT": str(engine), "CRASHFOLD_API__PORT": str(api)}
        told = {**own, **self.services[name].get("environment", {})}
        return dict(zip(told, self.here(name, [str(value) for value in told.values()]), strict=True))

    def here(self, name: str, texts: Sequence[str]) -> list[str]:
        """Texts of a service, with the addresses and paths of this machine."""
        return [self._here(name, text) for text in texts]

    def _here(self, name: str, text: str) -> str:
        text = text.replace("$$", "$").replace("0.0.0.0", "127.0.0.1")
        for other, container in self.running.items():
            own = r"|(?<=//):|\b127\.0\.0\.1:" if other == name else ""
            for port in PORTS[self.image_of(other)]:
                text = re.sub(rf"(?:\b{re.escape(other)}:{own}){port}\b", container.address_at(port), text)
        (network,) = self.file["networks"]["default"]["ipam"]["config"]
        places = {
            network["subnet"]: "127.0.0.0/8",
            "/run/secrets": self.directory / "secrets",
            "/opt/kafka/bin": self._programs,
            "/etc/prometheus": self.directory / "etc-prometheus",
            "=/prometheus": f"={self.directory / name}",
        }
        for there, place in places.items():
            text = text.replace(there, str(place))
        if self.image_of(name) == "redis":
            text = text.replace("redis-cli", f"redis-cli -p {self.running[name].port}")
        return re.sub(r"^python$", sys.executable, text)

    def _words(self, name: str) -> list[str]:
        service = self.services[name]
        return self.here(name, [*service.get("entrypoint", ()), *service.get("command", ())])

    def _nginx_config(self, name: str) -> Path:
        """The mounted file, inside of the main file that the image brings."""
        (mounted,) = (DEPLOY / volume.split(":")[0] for volume in self.services[name]["volumes"])
        (server,) = self.here(name, [mounted.read_text()])
        config = self.directory / name / "nginx.conf"
        listening = server.replace("listen 8000;", f"listen {self.running[name].address};")
        config.write_text(nginx_config(config.parent, listening))
        return config

    def _run_job(self, name: str) -> None:
        """Run a service that does its work and ends."""
        command = self.command(name, self._words(name))
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=JOB_S)
        if done.returncode != 0:
            raise NotStarted(f"{name} ended with {done.returncode}:\n{done.stdout}{done.stderr}")

    def _make_programs(self) -> None:
        """Make the programs that the images bring and this machine may lack."""
        self._programs.mkdir()
        java = " ".join(f"'{word}'" for word in self.kafka.java_command)
        for tool, main in _KAFKA_TOOLS.items():
            _make_program(self._programs / tool, f'#!/bin/sh\nexec {java} {main} "$@"\n')
        _make_program(self._programs / "wget", _WGET.format(python=sys.executable))

    def _make_secrets(self) -> None:
        """Run deploy/make-secrets, which makes them beside itself."""
        script = self.directory / "make-secrets"
        shutil.copy(DEPLOY / "make-secrets", script)
        subprocess.run([script], check=True, capture_output=True, timeout=JOB_S)
        for secret in self.file["secrets"].values():
            assert (self.directory / secret["file"]).exists(), secret


@contextmanager
def compose() -> Iterator[Compose]:
    """Run all services of the file, healthy, while the block lasts.

    Raises:
        Missing: a program is not on this machine.
    """
    for program in ("redis-server", "redis-cli", "nginx", "prometheus"):
        _program(program)
    with _directory() as directory:
        made = Compose(directory)
        try:
            made.up()
            yield made
        finally:
            made.down()


def _image(service: Mapping[str, Any]) -> str:
    image: str = service["image"]
    return image.partition(":")[0]


def _image_environment() -> dict[str, str]:
    """The settings of Crashfold that deploy/Dockerfile sets."""
    return dict(re.findall(r"^\s+(CRASHFOLD_\w+__\w+)=(\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE))


def _make_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise Missing(f"{name} is not installed: `tools/install-servers` installs it")
    return found
