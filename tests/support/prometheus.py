"""A real Prometheus with the rules and the scrape configuration of deploy/, on ports of its own and in quicker time.

Rules look back for minutes and wait for minutes. In a copy every duration is shortened by one rule, `shortened`; what a
rule compares, and with what, stays as it is.
"""

import json
import math
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.servers import Missing, Server, _directory, _running

DEPLOYED: Final = Path(__file__).parents[2] / "deploy" / "prometheus"
UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
QUICKER: Final = 20
RANGE_S: Final = (6, 45)
"""The shortest and the longest that a shortened rule looks back."""
FOR_S_MAX: Final = 2
_RANGE: Final = re.compile(r"\[(\d+)([smhd])(?::\d+[smhd])?\]")
_DURATION: Final = re.compile(r"(\d+)([smhd])")


def shortened(rules: str) -> str:
    """The rules, in which no group has an interval of its own, ranges are a twentieth as long within `RANGE_S`, their
    steps a second, and nothing waits longer than `FOR_S_MAX`."""
    groups = yaml.safe_load(rules)
    for group in groups["groups"]:
        group.pop("interval", None)
        for rule in group["rules"]:
            rule["expr"] = _RANGE.sub(_shorter_range, rule["expr"])
            if (wait := _DURATION.fullmatch(rule.get("for", ""))) is not None:
                rule["for"] = f"{min(FOR_S_MAX, _seconds(wait))}s"
    return yaml.safe_dump(groups)


def _shorter_range(found: re.Match[str]) -> str:
    least, most = RANGE_S
    step = ":1s" if ":" in found[0] else ""
    return f"[{min(most, max(least, math.ceil(_seconds(found) / QUICKER)))}s{step}]"


def _seconds(found: re.Match[str]) -> int:
    return int(found[1]) * UNITS_S[found[2]]


class Prometheus(Server):
    """Scrapes what `targets` says of each job of deploy/prometheus/prometheus.yaml, every second, and evaluates the
    rules of deploy/ as often. `token` goes with requests to the API."""

    def __init__(
        self, directory: Path, binary: str, targets: Mapping[str, Sequence[str]], token: str, *, quick: bool = True
    ) -> None:
        super().__init__(directory)
        self._binary = binary
        rules = (DEPLOYED / "crashfold.rules.yaml").read_text()
        (directory / "crashfold.rules.yaml").write_text(shortened(rules) if quick else rules)
        (directory / "token").write_text(token)
        config = yaml.safe_load((DEPLOYED / "prometheus.yaml").read_text())
        config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        for job in config["scrape_configs"]:
            job["static_configs"] = [{"targets": list(targets[job["job_name"]])}]
            if "authorization" in job:
                job["authorization"]["credentials_file"] = str(directory / "token")
        (directory / "prometheus.yaml").write_text(yaml.safe_dump(config))

    def command(self) -> list[str]:
        return [
            self._binary,
            f"--config.file={self.directory / 'prometheus.yaml'}",
            f"--storage.tsdb.path={self.directory / 'data'}",
            f"--web.listen-address={self.address}",
            "--log.level=warn",
        ]

    def answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=2) as answer:
            return bool(answer.status == 200)
        return False

    def query(self, expression: str) -> list[float]:
        """What the expression gives now."""
        found = self._ask("query", query=expression)["result"]
        return [float(one["value"][1]) for one in found]

    def values(self, expression: str, since_s: float, until_s: float) -> list[float]:
        """Everything that the expression gave between two moments (Unix time) second by second, but for NaN."""
        found = self._ask("query_range", query=expression, start=str(since_s), end=str(until_s), step="1")["result"]
        every = (float(value) for series in found for _, value in series["values"])
        return [value for value in every if not math.isnan(value)]

    def firing(self) -> list[dict[str, Any]]:
        """The alerts that fire now."""
        return [alert for alert in self._ask("alerts")["alerts"] if alert["state"] == "firing"]

    def rule_faults(self) -> list[str]:
        """What Prometheus says against rules that it could not evaluate."""
        groups = self._ask("rules")["groups"]
        return [
            f"{rule['name']}: {rule['lastError']}" for one in groups for rule in one["rules"] if rule.get("lastError")
        ]

    def _ask(self, path: str, **parameters: str) -> Any:
        asked = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{parameters}: {error.read().decode()}") from None


@contextmanager
def prometheus(targets: Mapping[str, Sequence[str]], token: str = "", *, quick: bool = True) -> Iterator[Prometheus]:
    """Run the machine's Prometheus: see there.

    Raises:
        Missing: there is none.
    """
    binary = shutil.which("prometheus")
    if binary is None:
        raise Missing("prometheus is not installed: apt-get install prometheus")
    with _directory() as directory:
        server = Prometheus(directory, binary, targets, token, quick=quick)
        with _running(server):
            yield server
