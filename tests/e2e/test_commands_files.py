"""Without Kafka: games out of a file, and the demo on embedded servers."""

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from crashfold.engine.adapters.embedded import free_port
from crashfold.schemas.game import encode
from tests.support.deployment import COMMAND, PREDICATES, Deployment, chain, eventually

GAMES = chain(3_000)
NARROW = {"COLUMNS": "80", "CRASHFOLD_API__PORT": "0"}


@pytest.fixture
def deployment(tmp_path: Path, valkey_url: str) -> Deployment:
    """There is a Redis, and no Kafka."""
    settings = {"projections": {**PREDICATES, "window_games": 1_000}}
    return Deployment(tmp_path, f"127.0.0.1:{free_port()}", valkey_url, "games", settings=settings)


def test_a_file_is_folded_verified_and_replayed_like_a_topic(deployment: Deployment) -> None:
    file = deployment.directory / "games.jsonl"
    values = [encode(game) for game in GAMES]
    file.write_bytes(
        b"\n".join([*values[:1_000], b"garbage", values[10].replace(b'"game_id":11,', b'"game_id":12,'), b""])
    )
    of_file = ("--file", str(file))

    deployment.caught_up(*of_file)
    assert deployment.total() == 1_000
    verified = deployment.done("verify", *of_file, "--json").json
    assert verified["differences"] == []
    assert verified["streams"][0]["rejected"] == 2
    letters = Path(f"{file}.dead.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in letters] == ["unreadable", "conflict"]

    with file.open("ab") as more:
        more.write(b"\n".join(values[1_000:]) + b"\n")
    deployment.caught_up(*of_file)
    assert deployment.total() == 3_000
    deployment.configure({"projections": {"min": [2, 3]}})
    assert deployment.run("run", "--until-caught-up", *of_file).code == 78
    deployment.done("replay", *of_file)
    assert deployment.done("verify", *of_file, "--json").json["streams"][0]["games"] == 3_000
    assert deployment.done("status", *of_file, "--json").json["streams"][0]["lag_records"] == 0
    assert not deployment.redis.exists("analytics:occurrences:min:10")


def test_a_file_with_fewer_games_or_none_is_not_swapped_in_unasked(deployment: Deployment) -> None:
    full, fewer, none = (deployment.directory / f"{name}.jsonl" for name in ("full", "fewer", "none"))
    values = [encode(game) + b"\n" for game in GAMES]
    full.write_bytes(b"".join(values))
    fewer.write_bytes(b"".join(values[:51]))
    none.write_bytes(b"game_id,crash_point\n")
    deployment.done("replay", "--file", str(full))
    before = deployment.all_keys()
    for file, message in ((fewer, "would have 51 games"), (none, "has no game")):
        refused = deployment.run("replay", "--file", str(file))
        assert refused.code == 78
        assert message in refused.err
        assert deployment.all_keys() == before
    deployment.done("replay", "--file", str(fewer), "--accept-gap")
    assert deployment.total() == 51


def test_a_file_is_followed_as_it_grows(deployment: Deployment) -> None:
    file = deployment.directory / "games.jsonl"
    file.write_bytes(b"")
    with deployment.engine("--file", str(file)) as engine, file.open("ab", buffering=0) as lines:
        for number, game in enumerate(GAMES[:20], 1):
            lines.write(encode(game) + b"\n")
            if number % 10 == 0:
                engine.until(lambda number=number: deployment.total() == number, "the games are folded")  # type: ignore[misc]
        code, took_s = engine.terminate()
        assert (code, took_s < 10) == (0, True)


def test_the_demo_ends_with_everything_equal(deployment: Deployment) -> None:
    done = deployment.run("demo", "--games", "500", "--once")
    assert done.code == 0, done.out + done.err
    assert "equal" in done.out
    assert "500" in done.out
    assert deployment.redis.dbsize() == 0, "it has servers of its own"


def test_the_demo_tells_where_its_page_is_and_leaves_nothing_behind(tmp_path: Path) -> None:
    said = tmp_path / "said"
    with said.open("wb") as output:
        demo = subprocess.Popen(
            [COMMAND, "demo", "--games", "500", "--redis.timeout_ms", "5000"],
            cwd=tmp_path,
            env={name: value for name, value in os.environ.items() if not name.startswith("CRASHFOLD")} | NARROW,
            stdin=subprocess.DEVNULL,
            stdout=output,
            start_new_session=True,
        )
    try:
        first = eventually(
            lambda: said.read_text().partition("\n")[1] and said.read_text().splitlines()[0], "it speaks"
        )
        address = first.removeprefix("The page: ")
        with urllib.request.urlopen(address, timeout=20) as page:
            assert page.status == 200

        def games() -> int:
            with urllib.request.urlopen(f"{address}api/games", timeout=20) as answer:
                return int(json.load(answer)["pagination"]["total_items"])

        eventually(lambda: (is_answered(games) and games() > 500) or None, "the history and a live game are folded")
        eventually(lambda: "from Redis" in said.read_text(), "it shows them")
    finally:
        demo.send_signal(signal.SIGINT)
        code = demo.wait(30)
    assert code == 0
    assert not is_answered(games), "the API ended with it"
    assert max(map(len, said.read_text().splitlines())) <= 80


def is_answered(ask: Callable[[], int]) -> bool:
    try:
        ask()
    except OSError:
        return False
    return True
