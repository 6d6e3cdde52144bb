"""Without Kafka: games out of a file, and the demo on embedded servers."""

import json
from pathlib import Path

import pytest

from crashfold.engine.adapters.embedded import free_port
from crashfold.schemas.game import encode
from tests.support.deployment import PREDICATES, Deployment, chain

GAMES = chain(3_000)


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
