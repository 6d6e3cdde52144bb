"""deploy/compose.yaml runs: both engines and both APIs work, and one of each may be killed."""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from crashfold.schemas.game import Game, encode
from tests.conftest import enter
from tests.support.compose import Compose, compose
from tests.support.deployment import chain, eventually

ENGINE, API, PROMETHEUS = 9464, 8000, 9090
ENGINES: Final = ("engine-1", "engine-2")
APIS: Final = ("api-1", "api-2")
PARTITIONS: Final = 4


@pytest.fixture
def site() -> Iterator[Compose]:
    with ExitStack() as stack:
        yield enter(stack, compose())


def secret(site: Compose, name: str) -> str:
    return (site.directory / "secrets" / name).read_text()


def text(site: Compose, path: str, service: str, port: int, *, token: bool = True) -> str:
    headers = {"Authorization": f"Bearer {secret(site, 'api_token')}"} if token else {}
    request = urllib.request.Request(f"http://{site.running[service].address_at(port)}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: str = answer.read().decode()
    return found


def read(site: Compose, path: str, *, token: bool = True) -> Any:
    """What the proxy answers."""
    return json.loads(text(site, path, "proxy", 8000, token=token))


def total(site: Compose) -> int:
    found: int = read(site, "/api/games?per_page=1")["pagination"]["total_items"]
    return found


def answered(site: Compose, api: str) -> float:
    """How many pages of games that API has answered."""
    samples = text(site, "/metrics", api, API).splitlines()
    pages = (line for line in samples if line.startswith("crashfold_api_requests_total") and '"/api/games"' in line)
    return sum(float(line.rsplit(" ", 1)[1]) for line in pages if 'status="200"' in line)


def asked(site: Compose, expression: str) -> dict[str, float]:
    """What Prometheus answers, by service."""
    path = f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    found = json.loads(text(site, path, "prometheus", PROMETHEUS, token=False))["data"]["result"]
    names = {site.running[name].address_at(ENGINE): name for name in ENGINES}
    names |= {site.running[name].address_at(API): name for name in APIS}
    return {names[one["metric"]["instance"]]: float(one["value"][1]) for one in found}


def publish(site: Compose, games: list[Game], file: Path) -> None:
    file.write_bytes(b"".join(encode(game) + b"\n" for game in games))
    done = site.crashfold("engine-1", "publish", str(file))
    assert done.code == 0, done.err


@pytest.mark.kafka
def test_the_deployment_goes_on_without_one_engine_and_one_api(site: Compose, tmp_path: Path) -> None:
    games = chain(3_000)
    publish(site, games[:2_000], tmp_path / "first.jsonl")
    eventually(lambda: total(site) == 2_000, "the games are read through the proxy")
    eventually(lambda: total(site) == 2_000 and all(answered(site, api) for api in APIS), "both APIs answer behind it")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        read(site, "/api/games", token=False)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        read(site, "/metrics")

    eventually(lambda: asked(site, "up == 1").keys() == {*ENGINES, *APIS}, "Prometheus reaches all processes")
    eventually(
        lambda: len(held := asked(site, "crashfold_partitions_held > 0")) == 2 and sum(held.values()) == PARTITIONS,
        "both engines hold partitions",
    )
    for name in (*ENGINES, *APIS):
        for told in ("environ", "cmdline"):
            shown = Path(f"/proc/{site.running[name].pid}/{told}").read_text()
            assert secret(site, "redis_password") not in shown
            assert secret(site, "api_token") not in shown

    (at_work,) = eventually(lambda: asked(site, "crashfold_games_applied_total > 0"), "an engine has folded the games")
    site.running[at_work].kill()
    site.running["api-1"].kill()
    publish(site, games[2_000:], tmp_path / "second.jsonl")
    eventually(lambda: total(site) == 3_000, "the other engine takes over, the other API answers")
    assert [total(site) for _ in range(50)] == [3_000] * 50
    assert read(site, "/api/games?per_page=1")["data"][0]["gameId"] == "3000"
    eventually(lambda: asked(site, "up == 0").keys() == {at_work, "api-1"}, "Prometheus misses two processes")
    verified = site.crashfold("engine-1", "verify", "--json")
    assert (verified.code, verified.json["differences"]) == (0, [])
