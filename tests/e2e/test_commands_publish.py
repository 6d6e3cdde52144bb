"""`crashfold publish`, `status`, `verify`, `dead-letters`: a file goes in, and every command says what became of it."""

import gzip
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import structs

from crashfold.schemas.game import encode
from tests.support.deployment import Deployment, Letter, Message, NewDeployment, chain, in_order, traffic

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
        assert (done.json["published"], done.json["left_out"]) == (300, [])
    deployment.caught_up()
    verified = deployment.verified()["crash"]
    assert (verified["games"], verified["duplicates"], verified["rejected"]) == (300, 600, 0)

    for stream, code in (("nosuch", 78), ("no such", 78)):
        assert deployment.run("status", "--stream", stream).code == code
    assert deployment.run("verify", "--stream", "nosuch").code == 78
    status = deployment.done("status", "--json").json
    assert status["topic"] == deployment.topic
    assert status["partitions"] == [{"partition": 0, "begin": 0, "end": 900, "next_offset": 900}]
    (stream,) = status["streams"]
    wanted = {"stream": "crash", "games": 300, "newest_id": 300, "window_games": 300, "lag_records": 0}
    assert stream.items() >= {**wanted, "next_offset": 900, "settings_match": True}.items()
    assert "crash" in deployment.done("status").out


def test_a_stream_that_nobody_knows_is_an_error(new_deployment: NewDeployment, redis_url: str) -> None:
    deployment = new_deployment(redis_url, key_prefix="analytics:{stream}")
    assert deployment.run("verify").code == 2, "1 would say that something differs"
    deployment.publish(in_order(GAMES[:3]))
    deployment.caught_up()
    (known,) = deployment.done("status", "--stream", "crash", "--json").json["streams"]
    assert known["games"] == 3
    unknown = deployment.run("status", "--stream", "nosuch", "--json")
    assert (unknown.code, unknown.out) == (1, "")
    assert "nosuch" in unknown.err
    assert deployment.run("verify", "--stream", "nosuch").code == 2


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


def test_dead_letters_are_listed_shown_retried_and_discarded(new_deployment: NewDeployment, redis_url: str) -> None:
    deployment = new_deployment(redis_url, partitions=2)
    game = encode(GAMES[5])
    long = b'{"game_id":1,"note":"' + b"x" * 10_000 + b'","crash_point":2.0}'
    deployment.publish(
        [
            *in_order(GAMES[:5], partition=1),
            Message(1, b"crash", b"garbage"),
            Message(1, b"other", game),
            Message(1, b"crash", encode(GAMES[0]).replace(b'"game_id":1,', b'"game_id":2,')),
            Message(1, b"crash", None),
            Message(1, None, long),
        ]
    )
    assert deployment.done("dead-letters", "list", "--json").json == []
    deployment.caught_up()

    def listed(*flags: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = deployment.done("dead-letters", "list", "--json", *flags).json
        return found

    def named(*flags: str) -> list[str]:
        return [f"{one['partition']}:{one['offset']}" for one in listed(*flags)]

    letters = listed()
    assert [(one["partition"], one["offset"], one["reason"]) for one in letters] == [
        (1, 5, "unreadable"),
        (1, 6, "stream"),
        (1, 7, "conflict"),
        (1, 8, "unreadable"),
        (1, 9, "unreadable"),
    ]
    assert letters[3]["value"] is None
    assert all(datetime.now(UTC) - datetime.fromisoformat(one["time"]) < timedelta(minutes=5) for one in letters)
    assert named("--reason", "stream") == ["1:6"]
    assert named("--stream", "other") == named("--key", "other") == ["1:6"]
    assert named("--stream", "crash") == ["1:5", "1:7", "1:8", "1:9"]
    assert named("--since", "1h", "--limit", "2") == ["1:8", "1:9"]
    assert named("--since", "2099-01-01T00:00Z") == []
    assert deployment.run("dead-letters", "list", "--since", "yesterday").code == 78
    assert deployment.done("dead-letters", "list", "--counts", "--json").json == {
        "conflict": 1,
        "stream": 1,
        "unreadable": 3,
    }
    told = deployment.done("dead-letters", "list").out
    assert "5 dead letters: 1 conflict, 1 stream, 3 unreadable" in told
    assert "1:5" in told
    shown = deployment.done("dead-letters", "show", "1:5", "--json").json
    assert (shown["value"], shown["key"], shown["topic"]) == ("garbage", "crash", deployment.topic)
    assert deployment.run("dead-letters", "show", "1:99").code == 1
    assert deployment.run("dead-letters", "retry").code == 1

    deployment.done("dead-letters", "retry", "1:6")
    assert "1:6" not in named(), "a letter that was retried is listed no more"
    again = deployment.run("dead-letters", "retry", "1:6")
    assert (again.code, "retried" in again.err) == (1, True)
    deployment.caught_up()
    assert deployment.dead_letters()[-1] == Letter(1, 10, "stream"), "still of another stream, and on its partition"
    for _ in range(2):
        partly = deployment.run("dead-letters", "retry", "--all")
        assert partly.code == 1, "nothing is left of a tombstone to publish"
        assert "1:8" in partly.err
        deployment.caught_up()
        assert len(listed()) == 5, "a letter that comes again takes the place of the one that was retried"
    newest = next(one for one in listed() if one["key"] is None)
    assert newest["value_bytes"] == len(long), "the whole record was published again, not what the letter holds"
    assert newest["retry_of"] in named("--all")

    deployment.done("dead-letters", "discard", "1:8", f"{newest['partition']}:{newest['offset']}")
    deployment.done("dead-letters", "discard", "--reason", "conflict")
    assert deployment.done("dead-letters", "list", "--counts", "--json").json == {"stream": 1, "unreadable": 1}
    everything = {f"{one['partition']}:{one['offset']}": one for one in listed("--all")}
    assert (everything["1:8"]["discarded"], everything["1:8"]["retried"]) == (True, False)
    assert everything["1:6"]["retried_as"] == "1:10"
    assert everything["1:10"]["retry_of"] == "1:6"
    assert deployment.verified()["crash"]["games"] == 5
    assert deployment.run("replay", "--accept-gap").code == 0
    assert len(listed("--all")) == len(everything), "a rebuild hands letters over again, and marks hold"


def test_a_letter_whose_record_is_gone_is_retried_when_it_holds_all_of_it(deployment: Deployment) -> None:
    long = b'{"note":"' + b"x" * 10_000 + b'"}'
    deployment.publish([Message(0, b"crash", long), Message(0, b"crash", b"{}"), *in_order(GAMES[:1])])
    deployment.caught_up()
    deployment.delete_before(2)
    refused = deployment.run("dead-letters", "retry", "--all")
    assert refused.code == 1
    assert "1 records published again" in refused.out
    assert "0:0: the topic no longer has its record" in refused.err
    assert [one["offset"] for one in deployment.done("dead-letters", "list", "--json").json] == [0]
    deployment.recreate_topic()
    deployment.publish([Message(0, b"crash", encode(GAMES[0]))])
    assert deployment.run("dead-letters", "retry", "0:0").code == 1, "another record stands at its offset now"


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
