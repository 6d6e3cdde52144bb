"""`crashfold publish` of history from elsewhere: read, checked, put in order, told; and folded without loss."""

import gzip
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest

from crashfold.engine.adapters.embedded import free_port
from crashfold.schemas.game import Game, encode
from tests.support.deployment import COMMAND, Deployment, NewDeployment, chain
from tests.support.games import DATA

GAMES = chain(5_000)


def seed_row(game: Game) -> str:
    """As the seed system exports a game."""
    ended = datetime.fromtimestamp(game.end_time / 1000, UTC).isoformat(sep=" ", timespec="milliseconds")
    return f"{game.game_id};{(game.hash or '').upper()};{game.crash_point:.2f}x".replace(".", ",") + f";{ended};;\r\n"


@pytest.fixture
def nowhere(tmp_path: Path) -> Deployment:
    """Settings that lead to no servers."""
    return Deployment(tmp_path, f"127.0.0.1:{free_port()}", f"redis://127.0.0.1:{free_port()}/0", "games")


def test_a_shuffled_history_is_published_in_order_and_none_of_it_is_late(deployment: Deployment) -> None:
    rows = [seed_row(game) for game in GAMES]
    Random(1).shuffle(rows)
    header = "\ufeffgameId;hashValue;crashPoint;endTime;prepareTime;beginTime\r\n"
    file = deployment.directory / "History.CSV.gz"
    file.write_bytes(gzip.compress((header + "".join(rows)).encode()))
    flags = [str(file), "--decimal", "comma", "--json"]

    tried = deployment.done("publish", *flags, "--dry-run").json
    assert (tried["published"], tried["left_out"]) == (0, [])
    (stream,) = tried["streams"]
    told = {"stream": "crash", "games": 5_000, "first_id": 1, "last_id": 5_000, "missing": 0, "doubled": 0}
    assert stream.items() >= {**told, "hash_mismatches": 0, "broken_links": 0}.items()
    assert (stream["first_time"], stream["last_time"]) == (GAMES[0].end_time, GAMES[-1].end_time)

    assert deployment.done("publish", *flags).json == tried | {"published": 5_000}
    deployment.caught_up()
    verified = deployment.verified()["crash"]
    assert (verified["games"], verified["duplicates"], verified["rejected"]) == (5_000, 0, 0)
    assert deployment.dead_letters() == []


def test_what_the_engine_would_reject_is_named_and_the_rest_is_folded(
    new_deployment: NewDeployment, redis_url: str
) -> None:
    deployment = new_deployment(redis_url, key_prefix="analytics:{stream}")
    lines = [
        "table,id,multiplier,time",
        f"one,3,2.41x,{GAMES[2].end_time}",
        f"no name!,4,2.41x,{GAMES[3].end_time}",
        f"two,1,1.00,{GAMES[0].end_time}",
        f"one,1,2.415,{GAMES[0].end_time}",
        f"one,3,2.41,{GAMES[2].end_time}",
        f"one,3,9.99,{GAMES[2].end_time}",
        f"one,2,1.5,{GAMES[1].end_time // 1000}",
        f"one,2,1.5,{GAMES[1].end_time}",
        f"one,99,1.5,{GAMES[1].end_time * 2}",
        f",7,1.5,{GAMES[1].end_time}",
    ]
    file = deployment.directory / "history.csv"
    file.write_text("\n".join(lines))
    flags = [str(file), "--column", "stream=table", "--stream", "rest"]
    done = deployment.run("publish", *flags, "--json")
    assert done.code == 1
    assert [(one["line"], one["reason"]) for one in done.json["faults"]] == [
        *((3, "unreadable"), (5, "unreadable"), (7, "conflict"), (8, "unreadable"), (10, "future"))
    ]
    assert [(one["stream"], one["games"], one["doubled"]) for one in done.json["streams"]] == [
        *(("one", 2, 2), ("rest", 1, 0), ("two", 1, 0))
    ]
    told = deployment.run("publish", *flags)
    assert f"{file}:7: conflict: game 3 has other content in {file}:2" in told.err
    deployment.caught_up()
    assert deployment.dead_letters() == []
    assert {name: one["games"] for name, one in deployment.verified().items()} == {"one": 2, "rest": 1, "two": 1}

    of_one_stream = new_deployment(redis_url).run("publish", *flags, "--dry-run", "--json").json
    assert "stream" in {one["reason"] for one in of_one_stream["faults"]}


def test_standard_input_is_read_and_the_unit_of_times_is_told(nowhere: Deployment) -> None:
    rows = "".join(f"{game.game_id}\t{game.crash_point}\t{game.end_time // 1000}\n" for game in reversed(GAMES[:100]))
    command = [str(COMMAND), "publish", "--dry-run", "-", "--config", str(nowhere.config)]
    for data in (f"round\tbust\ttimestamp\n{rows}".encode(), b"\n".join(encode(game) for game in GAMES[:100])):
        for packed in (data, gzip.compress(data)):
            done = subprocess.run(command, input=packed, capture_output=True, check=True)
            assert b"100 games would be published to games" in done.stdout
            assert (b"end_time was taken for s" in done.stderr) == (b"bust" in data)


@pytest.mark.parametrize(
    ("content", "flags", "told"),
    [
        ("id,bust\n1,2\n", [], "end_time"),
        ("nr,bust,time\n1,2,3\n", [], "--column game_id=NAME"),
        ("id,bust,time\n1,2,3\n", ["--column", "game_id=nr"], "nr"),
        ("id,bust,time\n1,2,3\n", ["--column", "number=id"], "number=id"),
        ("id,bust,time\n1,2,3\n", ["--zone", "Nowhere"], "--zone"),
        ("id,ID,bust,time\n1,1,2,3\n", [], "--column game_id="),
        ("id,bust,time\n1,2,3\n", ["--stream", "no name"], "--stream"),
    ],
)
def test_a_history_that_cannot_be_understood_says_what_would_help(
    nowhere: Deployment, content: str, flags: list[str], told: str
) -> None:
    file = nowhere.directory / "history.csv"
    file.write_text(content)
    done = nowhere.run("publish", str(file), "--dry-run", *flags)
    assert done.code == 78
    assert told in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("form", ["copy", "inserts", "rows"])
def test_the_table_of_the_seed_system_is_published_from_a_dump(nowhere: Deployment, form: str) -> None:
    told = nowhere.run("publish", str(DATA / "seed_dump" / f"{form}.sql"), "--dry-run", "--json")
    assert told.code == 0, told.err
    (stream,) = told.json["streams"]
    expected = {"games": 40, "first_id": 1, "last_id": 40, "hash_mismatches": 0, "broken_links": 0}
    assert stream.items() >= expected.items()
    assert told.json["left_out"] == []


def test_a_dump_with_two_tables_of_games_asks_which(nowhere: Deployment) -> None:
    dump = nowhere.directory / "two.sql"
    table = "COPY public.{} (id, result, created_at) FROM stdin;\n{}\t2.5\t2026-01-01 00:00:00+00\n\\.\n"
    users = "COPY public.users (name) FROM stdin;\nx\n\\.\n"
    dump.write_text(table.format("crash", 1) + table.format("bets", 7) + users)
    asked = nowhere.run("publish", str(dump), "--dry-run")
    assert (asked.code, "public.crash and public.bets may both hold games" in asked.err) == (78, True)
    chosen = nowhere.run("publish", str(dump), "--dry-run", "--json", "--table", "bets")
    assert chosen.json["streams"][0]["first_id"] == 7
    wrong = nowhere.run("publish", str(dump), "--dry-run", "--table", "users")
    assert (wrong.code, "no column is known to hold game_id" in wrong.err) == (78, True)
    missing = nowhere.run("publish", str(dump), "--dry-run", "--table", "games")
    assert (missing.code, "has no table games: public.crash (id, result, created_at)" in missing.err) == (78, True)
