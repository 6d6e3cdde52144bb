"""What stands in Redis, name by name and value by value, against counts made here in plain loops over plain JSON.

Shares nothing with the engine: no projections, no schemas, no key names but those written out here.
"""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployment import DEADLINE_S, REPORT, Deployment, NewDeployment
from tests.support.games import DATA

SAMPLE = DATA / "games.jsonl.gz"
PlainGame = dict[str, Any]

MIN = (1.5, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 250, 300, 400, 500, 1000)
MAX = (1, 1.01, 1.2, 1.5, 2, 3, 5, 10)
NAMES = [*(f"min:{v}" for v in MIN), *(f"max:{v}" for v in MAX), *(f"floor:{v}" for v in range(1, 11))]
PER_PREDICATE = {
    "occurrences": "hash",
    "intervals": "hash",
    "series": "list",
    "last_game": "string",
    "last_games": "list",
}


def read(path: Path) -> list[PlainGame]:
    with gzip.open(path) as lines:
        return [json.loads(line) for line in lines]


def matches(name: str, game: PlainGame) -> bool:
    kind, value = name.split(":")
    hundredths, bound = round(game["crash_point"] * 100), round(float(value) * 100)
    if kind == "floor":
        return bool(hundredths // 100 == int(float(value)))
    return bool(hundredths >= bound if kind == "min" else hundredths <= bound)


def test_the_sample_games_come_out_as_a_plain_count_says(new_deployment: NewDeployment, each_redis_url: str) -> None:
    deployment = new_deployment(each_redis_url, partitions=0, settings={"projections": {}})
    games = read(SAMPLE)

    assert deployment.done("publish", str(SAMPLE), "--json").json["published"] == len(games) == 20_000
    deployment.caught_up()
    verified = deployment.verified()
    assert verified["crash"]["games"] == 20_000
    assert verified["crash"]["rejected"] == 0

    look_at(deployment, "analytics", games)
    redis = deployment.redis
    assert redis.hget("analytics:checkpoint", "next_offset") == b"20000"
    assert redis.hget("analytics:checkpoint", "topic") == deployment.topic.encode()
    assert redis.exists(f"analytics:manifest:{deployment.topic}:0")

    # Publishing all of it again changes nothing but the version and the checkpoint.
    bookkeeping = {"analytics:version", "analytics:checkpoint", f"analytics:manifest:{deployment.topic}:0"}
    before = {key: value for key, value in deployment.all_keys().items() if key not in bookkeeping}
    deployment.done("publish", str(SAMPLE))
    deployment.caught_up()
    assert {key: value for key, value in deployment.all_keys().items() if key not in bookkeeping} == before
    assert redis.hget("analytics:checkpoint", "next_offset") == b"40000"
    assert deployment.verified()["crash"]["duplicates"] == 20_000


def test_many_streams_on_three_partitions_have_keys_of_their_own(
    new_deployment: NewDeployment, each_redis_url: str
) -> None:
    deployment = new_deployment(
        each_redis_url, partitions=0, key_prefix="analytics:{stream}", settings={"projections": {}}
    )
    sample = read(SAMPLE)
    names = ["alpha", "beta.2", "crash", "Delta_x", "e-psilon", "zeta"]
    streams = {name: sample[number * 500 : number * 500 + 1_200] for number, name in enumerate(names)}
    file = deployment.directory / "streams.jsonl"
    with file.open("w") as lines:
        for turn in range(1_200):
            for name, games in streams.items():
                lines.write(json.dumps({**games[turn], "stream": name}) + "\n")

    deployment.done("publish", str(file), "--partitions", "3")
    deployment.caught_up()
    verified = deployment.verified()
    assert {name: one["games"] for name, one in verified.items()} == dict.fromkeys(names, 1_200)
    used = {deployment.redis.hget(f"analytics:{{{name}}}:checkpoint", "partition") for name in names}
    assert len(used) > 1, "the streams are on several partitions"
    for name, games in streams.items():
        look_at(deployment, f"analytics:{{{name}}}", games)


def look_at(deployment: Deployment, prefix: str, games: Sequence[PlainGame]) -> None:
    """Compare everything below the prefix with what plain loops say of the games, which are in order and without
    holes."""
    redis = deployment.redis
    event_time = max(game["end_time"] for game in games)
    samples = {f"games:{n}": games[-n:] for n in (100, 500, 1_000)}
    for hours in (1, 6, 24):
        start = event_time - hours * 3_600_000
        samples[f"hours:{hours}"] = [game for game in games if game["end_time"] >= start]

    wanted = {f"{prefix}:samples": "hash", f"{prefix}:games": "zset"}
    wanted |= {f"{prefix}:version": "string", f"{prefix}:checkpoint": "hash"}
    for name in NAMES:
        seen = [game for game in games if matches(name, game)]
        everywhere = len(seen) == len(games)
        for kind, type_ in PER_PREDICATE.items():
            if not (kind.startswith("last") and not seen) and not (kind == "series" and everywhere):
                wanted[f"{prefix}:{kind}:{name}"] = type_
        wanted[f"{prefix}:records:{name}"] = "hash"
        record = redis.hget(f"{prefix}:records:{name}", "highest_game")
        points = [game["crash_point"] for game in seen]
        assert (None if record is None else json.loads(record)["crash_point"]) == max(points, default=None)
        assert redis.hgetall(f"{prefix}:occurrences:{name}") == texts(
            {
                "count": len(seen),
                "total_games": len(games),
                "first_game_time": games[0]["end_time"],
                "last_game_time": games[-1]["end_time"],
                **{sample: sum(matches(name, game) for game in those) for sample, those in samples.items()},
            }
        )
        if seen:
            look_at_last_games(redis, prefix, name, games, seen)
    found = {
        key.decode(): redis.type(key).decode()
        for key in redis.scan_iter(match=f"{prefix}:*", count=1000)
        if b":manifest:" not in key and not REPORT.search(key)
    }
    assert found == wanted

    assert {field: json.loads(value) for field, value in redis.hgetall(f"{prefix}:samples").items()} == {
        sample.encode(): {
            "total_games": len(those),
            "first_game_time": those[0]["end_time"],
            "last_game_time": those[-1]["end_time"],
        }
        for sample, those in samples.items()
    }
    for name in ("min:2", "max:1.01", "floor:7"):
        look_at_intervals(redis, prefix, name, games, event_time)
        look_at_series(redis, prefix, name, games)
    window = redis.zrange(f"{prefix}:games", 0, -1, withscores=True)
    assert [(json.loads(member), score) for member, score in window] == [(game, game["game_id"]) for game in games]
    assert int(redis.get(f"{prefix}:version")) >= 1


def look_at_last_games(
    redis: Any, prefix: str, name: str, games: Sequence[PlainGame], seen: Sequence[PlainGame]
) -> None:
    ordinal = 1 + next(index for index in reversed(range(len(games))) if matches(name, games[index]))
    assert json.loads(redis.get(f"{prefix}:last_game:{name}")) == {**seen[-1], "ordinal": ordinal}
    newest_first = [json.loads(element) for element in redis.lrange(f"{prefix}:last_games:{name}", 0, -1)]
    assert newest_first == list(reversed(seen[-100:]))


def look_at_intervals(redis: Any, prefix: str, name: str, games: Sequence[PlainGame], event_time: int) -> None:
    buckets: dict[int, list[PlainGame]] = {}
    for game in games:
        buckets.setdefault(game["end_time"] // 600_000 * 600, []).append(game)
    oldest = event_time // 600_000 * 600 - 144 * 600
    assert {field: json.loads(value) for field, value in redis.hgetall(f"{prefix}:intervals:{name}").items()} == {
        f"bucket_{start_s}".encode(): {
            "count": sum(matches(name, game) for game in those),
            "total_games": len(those),
        }
        for start_s, those in buckets.items()
        if start_s >= oldest
    }


def look_at_series(redis: Any, prefix: str, name: str, games: Sequence[PlainGame]) -> None:
    series: list[dict[str, Any]] = []
    previous_matched = True
    for game in games:
        if matches(name, game):
            if series:
                streak = series[-1]["follow_streak"]
                streak["count"] += 1
                follow = {"game_id": game["game_id"], "crash_point": game["crash_point"], "time": game["end_time"]}
                streak["games"] = [*streak["games"], follow][:1_000]
            previous_matched = True
            continue
        if previous_matched:
            start = {"start_game": game["game_id"], "start_time": game["end_time"], "length": 0}
            series.append({**start, "follow_streak": {"count": 0, "games": []}})
        series[-1] |= {"end_game": game["game_id"], "end_time": game["end_time"]}
        series[-1]["length"] += 1
        previous_matched = False
    stored = [json.loads(element) for element in redis.lrange(f"{prefix}:series:{name}", 0, -1)]
    assert stored == list(reversed(series[-1_000:]))


def texts(numbers: dict[str, int]) -> dict[bytes, bytes]:
    return {field.encode(): str(number).encode() for field, number in numbers.items()}


@pytest.mark.parametrize("window_games", [1, 700])
def test_the_window_is_as_long_as_the_settings_say(deployment: Deployment, window_games: int) -> None:
    deployment.configure({"projections": {"window_games": window_games, "samples_games": [1], "samples_hours": [1]}})
    games = read(SAMPLE)[:1_000]
    file = deployment.directory / "games.jsonl"
    file.write_text("\n".join(json.dumps(game) for game in games))
    deployment.done("publish", str(file))
    deployment.caught_up()
    kept = deployment.redis.zrange("analytics:games", 0, -1)
    assert [json.loads(member) for member in kept] == games[-window_games:]
    assert deployment.redis.hget("analytics:occurrences:min:2", "total_games") == b"1000"
    assert deployment.verified()["crash"]["games"] == 1_000


def test_a_hole_in_the_ids_is_listed_until_a_late_game_fills_it(deployment: Deployment) -> None:
    games = read(SAMPLE)[:100]
    file = deployment.directory / "games.jsonl"
    file.write_text("\n".join(json.dumps(game) for game in [*games[:40], *games[45:]]))
    deployment.done("publish", str(file))
    with deployment.engine() as engine:
        engine.until(lambda: deployment.total() == 95, "the games are folded", DEADLINE_S)
        first = games[0]["game_id"]
        assert deployment.redis.hgetall("analytics:gaps") == texts({str(first + 40): first + 44})
        file.write_text("\n".join(json.dumps(game) for game in games[40:43]))
        deployment.done("publish", str(file))
        engine.until(lambda: deployment.total() == 98, "the late games are folded")
        assert deployment.redis.hgetall("analytics:gaps") == texts({str(first + 43): first + 44})
        file.write_text("\n".join(json.dumps(game) for game in games[43:45]))
        deployment.done("publish", str(file))
        engine.until(lambda: deployment.total() == 100, "the rest is folded")
        assert not deployment.redis.exists("analytics:gaps")
    assert deployment.verified()["crash"]["games"] == 100
