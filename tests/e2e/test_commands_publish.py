"""`crashfold publish`, `status`, `verify`, `dead-letters`: a file goes in, and every command says what became of it."""

import gzip
import json
import time

from msgspec import structs

from schemas.game import encode
from tests.deployment import Deployment, Letter, Message, NewDeployment, chain, in_order, traffic

GAMES = chain(300)
JSONL = b"\n".join(encode(game) for game in GAMES) + b"\n"


def test_jsonl_gz_and_csv_say_the_same(deployment: Deployment) -> None:
    header = "game_id,hash,crash_point,prepare_time,begin_time,end_time"
    rows = [
        f"{game.game_id},{game.hash},{game.crash_point},{game.prepare_time},{game.begin_time},{game.end_time}"
        for game in GAMES
    ]
    files = {
        "games.jsonl": JSONL,
        "games.jsonl.gz": gzip.compress(JSONL),
        "games.csv": "\n".join([header, *rows, ""]).encode(),
    }
    for name, content in files.items():
        file = deployment.directory / name
        file.write_bytes(content)
        done = deployment.done("publish", str(file), "--json")
        assert done.json == {"topic": deployment.topic, "published": 300, "left_out": []}
    deployment.caught_up()
    verified = deployment.verified()["crash"]
    assert (verified["games"], verified["duplicates"], verified["rejected"]) == (300, 600, 0)

    status = deployment.done("status", "--json").json
    assert status["topic"] == deployment.topic
    assert status["partitions"] == [{"partition": 0, "begin": 0, "end": 900, "next_offset": 900}]
    (stream,) = status["streams"]
    wanted = {"stream": "crash", "games": 300, "newest_id": 300, "window_games": 300, "lag_records": 0}
    assert stream.items() >= {**wanted, "next_offset": 900, "settings_match": True}.items()
    assert "crash" in deployment.done("status").out


def test_lines_that_are_no_games_are_named_and_left_out(deployment: Deployment) -> None:
    lines = JSONL.splitlines()[:10]
    lines[3] = b'{"game_id":4}'
    lines[6] = b"not a game"
    file = deployment.directory / "games.jsonl"
    file.write_bytes(b"\n".join(lines))
    done = deployment.run("publish", str(file))
    assert done.code == 1
    assert "8 games published" in done.out
    assert f"{file}:4: " in done.err
    assert f"{file}:7: " in done.err
    deployment.caught_up()
    assert deployment.total() == 8
    assert deployment.dead_letters() == []

    assert deployment.run("publish", str(file), "--unchecked").code == 0
    deployment.caught_up()
    assert [letter.reason for letter in deployment.dead_letters()] == ["unreadable"] * 2


def test_a_game_from_the_future_moves_no_hour(new_deployment: NewDeployment, redis_url: str) -> None:
    deployment = new_deployment(redis_url)
    file = deployment.directory / "games.jsonl"
    early = structs.replace(GAMES[5], end_time=int(time.time() * 1000) + 25 * 3_600_000)
    file.write_bytes(b"\n".join(encode(game) for game in (*GAMES[:5], early, *GAMES[6:10])))
    named = deployment.run("publish", str(file))
    assert named.code == 1
    assert "9 games published" in named.out
    assert f"{file}:6: " in named.err
    assert "projections.future_hours_max" in named.err

    deployment.run("publish", str(file), "--unchecked")
    deployment.caught_up()
    assert deployment.dead_letters() == [Letter(0, 14, "future")]
    assert deployment.total() == 9
    assert int(deployment.redis.hget("analytics:occurrences:min:2", "hours:1")) > 0
    assert deployment.verified()["crash"]["rejected"] == 1

    deployment.configure({"projections": {"future_hours_max": 0}})
    refused = deployment.run("run", "--until-caught-up")
    assert refused.code == 78
    assert "replay" in refused.err
    deployment.done("replay")
    assert deployment.verified()["crash"]["games"] == 10


def test_a_file_that_is_not_there_is_an_error_without_a_traceback(deployment: Deployment) -> None:
    done = deployment.run("publish", "nowhere.jsonl")
    assert done.code in (1, 2, 78)
    assert "nowhere.jsonl" in done.out + done.err
    assert "Traceback" not in done.err


def test_dead_letters_are_listed_shown_and_retried(new_deployment: NewDeployment, redis_url: str) -> None:
    deployment = new_deployment(redis_url)
    game = encode(GAMES[5])
    deployment.publish(
        [
            *in_order(GAMES[:5]),
            Message(0, b"crash", b"garbage"),
            Message(0, b"other", game),
            Message(0, b"crash", encode(GAMES[0]).replace(b'"game_id":1,', b'"game_id":2,')),
            Message(0, b"crash", None),
        ]
    )
    assert deployment.done("dead-letters", "list", "--json").json == []
    deployment.caught_up()
    letters = deployment.done("dead-letters", "list", "--json").json
    assert [(one["partition"], one["offset"], one["reason"]) for one in letters] == [
        (0, 5, "unreadable"),
        (0, 6, "stream"),
        (0, 7, "conflict"),
        (0, 8, "unreadable"),
    ]
    assert letters[3]["value"] is None
    assert len(deployment.done("dead-letters", "list", "--reason", "stream", "--json").json) == 1
    assert "0:5" in deployment.done("dead-letters", "list").out
    shown = deployment.done("dead-letters", "show", "0:5", "--json").json
    assert (shown["value"], shown["key"], shown["topic"]) == ("garbage", "crash", deployment.topic)
    assert deployment.run("dead-letters", "show", "0:99").code == 1
    assert deployment.run("dead-letters", "retry").code == 1

    deployment.done("dead-letters", "retry", "0:6")
    deployment.caught_up()
    assert deployment.dead_letters()[-1] == Letter(0, 9, "stream"), "still of another stream"
    deployment.done("dead-letters", "retry", "0:5", "0:7")
    partly = deployment.run("dead-letters", "retry", "--all")
    assert partly.code == 1, "nothing is left of a tombstone to publish"
    assert "0:8" in partly.err
    deployment.caught_up()
    assert deployment.verified()["crash"]["games"] == 5


def test_verify_names_every_key_that_is_not_as_it_should_be(deployment: Deployment) -> None:
    deployment.publish(in_order(GAMES))
    deployment.caught_up()
    deployment.verified()
    redis = deployment.redis
    redis.hincrby("analytics:occurrences:min:2", "count", 1)
    redis.rpop("analytics:series:min:2")
    redis.append("analytics:last_game:min:2", " ")
    redis.lset("analytics:last_games:min:10", 0, "{}")
    redis.delete("analytics:intervals:floor:1")
    redis.hset("analytics:gaps", "7", "8")
    spoiled = {
        *("occurrences:min:2", "series:min:2", "last_game:min:2", "last_games:min:10", "intervals:floor:1", "gaps"),
    }
    done = deployment.run("verify", "--json")
    assert done.code == 1
    assert {found["key"] for found in done.json["differences"]} == spoiled
    told = deployment.run("verify")
    assert told.code == 1
    assert all(f"crash: {name}" in told.out for name in spoiled)

    deployment.done("replay")
    deployment.verified()
    redis.zpopmin("analytics:games")
    assert "games" in {found["key"] for found in deployment.run("verify", "--json").json["differences"]}


def test_verify_that_could_not_compare_ends_with_2(deployment: Deployment) -> None:
    nothing = deployment.run("verify")
    assert nothing.code == 2
    assert "nothing is stored" in nothing.err


def test_two_topics_of_one_stream_are_not_mixed_up(new_deployment: NewDeployment, redis_url: str) -> None:
    one, other = new_deployment(redis_url), new_deployment(redis_url)
    for deployment in (one, other):
        deployment.publish(traffic(1, 100))
    one.caught_up()
    assert other.run("run", "--until-caught-up").code == 78
    assert other.run("verify").code == 2


def test_what_is_printed_for_machines_is_json_alone(deployment: Deployment) -> None:
    deployment.publish(in_order(GAMES))
    deployment.caught_up()
    for command in (["status"], ["verify"], ["replay"], ["doctor"], ["dead-letters", "list"], ["config", "show"]):
        json.loads(deployment.run(*command, "--json").out)
