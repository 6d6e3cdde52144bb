"""Replay: the state is built anew beside the live one and swapped in, whatever happens meanwhile."""

import pytest

from tests.support.deployment import (
    Deployment,
    NewDeployment,
    Watcher,
    chain,
    eventually,
    expected,
    in_order,
    traffic,
)

STREAMS = ["one", "two", "three"]


def generation(deployment: Deployment, stream: str = "crash") -> bytes:
    found: bytes = deployment.redis.hget(deployment.key("checkpoint", stream), "generation")
    return found


@pytest.mark.fault(
    "`replay` beside a live engine",
    user="the old state, then the new one",
    operator="nothing",
)
def test_a_replay_swaps_under_a_live_engine_and_readers_see_nothing_of_it(
    new_deployment: NewDeployment, each_redis_url: str
) -> None:
    deployment = new_deployment(each_redis_url)
    messages = traffic(11, 15_000)
    wanted = expected(messages, deployment.projections, only="crash")
    with (
        Watcher(deployment) as watcher,
        deployment.flow(messages, per_second=500) as flow,
        deployment.engine() as engine,
    ):
        engine.until(lambda: deployment.total() > 500, "games are folded")
        for _ in range(2):
            before, version = generation(deployment), deployment.version()
            (rebuilt,) = deployment.done("replay", "--json").json["streams"]
            assert generation(deployment) != before
            assert rebuilt["version"] > version
            engine.until(lambda version=rebuilt["version"]: deployment.version() > version + 3, "the engine goes on")  # type: ignore[misc]
            assert flow.count < len(messages), "games went on arriving"
        flow.finish()
        engine.until(lambda: deployment.next_offset() == len(messages), "everything is folded")
        assert engine.metrics()['crashfold_commits_total{outcome="conflict"}'] >= 2, "it noticed each swap"
        assert engine.terminate()[0] == 0
    assert watcher.versions_seen["crash"] > 20
    assert deployment.verified()["crash"]["games"] == len(wanted.games["crash"])
    assert set(deployment.dead_letters()) == wanted.letters
    assert not any(":shadow:" in key for key in deployment.all_keys())


@pytest.mark.fault(
    "`replay` is killed half-way",
    user="nothing",
    operator="run it again",
)
def test_a_replay_killed_half_way_changes_nothing_and_can_be_run_again(deployment: Deployment) -> None:
    deployment.configure({"projections": {"min": [1 + n / 10 for n in range(1, 200)]}})  # a big shadow
    deployment.publish(in_order(chain(6_000)))
    deployment.caught_up()
    before = deployment.all_keys()

    def shadow() -> list[bytes]:
        return list(deployment.redis.scan_iter(match="*:shadow:*", count=1000))

    for _ in range(10):
        replay = deployment.start("replay")
        eventually(lambda replay=replay: shadow() or replay.poll() is not None, "the replay writes")  # type: ignore[misc]
        replay.kill()
        replay.wait()
        if shadow():
            break
        before = deployment.all_keys()  # it was through before it was hit
    else:
        raise AssertionError("no replay was hit while it wrote")
    assert {key: value for key, value in deployment.all_keys().items() if ":shadow:" not in key} == before

    old = generation(deployment)
    deployment.done("replay")
    assert generation(deployment) != old
    assert not shadow()
    assert deployment.verified()["crash"]["games"] == 6_000


def test_other_predicates_need_a_replay_which_clears_away_the_old_ones_and_nothing_else(
    new_deployment: NewDeployment, redis_url: str
) -> None:
    deployment = new_deployment(redis_url)
    messages = in_order(chain(3_000))
    deployment.publish(messages[:1_000])
    foreign = {
        "analytics:mine": b"of somebody else",
        "analytics:custom:min:10": b"neither",
        "analytics:occurrences-of:min:10": b"nor this",
        "analyticsX:occurrences:min:10": b"another prefix",
        "elsewhere": b"far away",
    }
    for key, value in foreign.items():
        deployment.redis.set(key, value)
    with deployment.engine() as old_engine:
        old_engine.until(lambda: deployment.total() == 1_000, "the games are folded")
        assert deployment.redis.exists("analytics:series:min:10", "analytics:occurrences:floor:7") == 2

        deployment.configure({"projections": {"min": [2, 2.5], "floor": [3]}})
        refused = deployment.run("run", "--until-caught-up")
        assert refused.code == 78
        assert "crashfold replay" in refused.err
        assert "Traceback" not in refused.err
        assert deployment.run("verify").code == 2
        assert deployment.done("status", "--json").json["streams"][0]["settings_match"] is False
        assert deployment.run("doctor").code == 1

        deployment.publish(messages[1_000:1_500])
        old_engine.until(lambda: deployment.total() == 1_500, "the old engine goes on meanwhile")
        deployment.done("replay")
        assert deployment.total() == 1_500
        assert old_engine.process.poll() is None
        deployment.publish(messages[1_500:1_600])
        assert old_engine.wait() == 78
        assert "crashfold replay" in old_engine.said
    names = {key for key in deployment.all_keys() if key.startswith("analytics:") and key not in foreign}
    assert {name.split(":", 2)[2] for name in names if name.count(":") == 3 and "manifest" not in name} == {
        "min:2",
        "min:2.5",
        "max:1.2",
        "floor:3",
    }
    for key, value in foreign.items():
        assert deployment.redis.get(key) == value
    deployment.publish(messages[1_600:])
    deployment.caught_up()
    assert deployment.verified()["crash"]["games"] == 3_000


def test_a_dry_run_writes_nothing(deployment: Deployment) -> None:
    deployment.publish(in_order(chain(500)))
    deployment.caught_up()
    deployment.publish(in_order(chain(700)[500:]))
    before = deployment.all_keys()
    report = deployment.done("replay", "--dry-run", "--json").json
    assert deployment.all_keys() == before
    assert report["streams"] == [{"stream": "crash", "games": 700, "next_offset": 700, "version": None}]
    assert deployment.total() == 500


def test_to_offset_goes_back_and_a_run_goes_on_from_there(deployment: Deployment) -> None:
    deployment.publish(in_order(chain(1_000)))
    deployment.caught_up()
    version = deployment.version()
    deployment.done("replay", "--to-offset", "400")
    assert (deployment.total(), deployment.next_offset()) == (400, 400)
    assert deployment.version() > version, "a version never goes back"
    assert deployment.verified()["crash"]["games"] == 400
    deployment.caught_up()
    assert deployment.verified()["crash"]["games"] == 1_000


@pytest.mark.parametrize("offset", ["-1", "many"])
def test_an_offset_that_is_none_is_a_usage_error(deployment: Deployment, offset: str) -> None:
    assert deployment.run("replay", f"--to-offset={offset}").code == 2


def test_one_stream_is_rebuilt_and_the_others_are_left_alone(new_deployment: NewDeployment, redis_url: str) -> None:
    deployment = new_deployment(redis_url, partitions=2, key_prefix="analytics:{stream}")
    messages = traffic(2, 3_000, STREAMS, partitions=2)
    wanted = expected(messages, deployment.projections)
    deployment.publish(messages)
    deployment.caught_up()
    before = {stream: generation(deployment, stream) for stream in STREAMS}

    (rebuilt,) = deployment.done("replay", "--stream", "two", "--json").json["streams"]
    assert rebuilt["stream"] == "two"
    after = {stream: generation(deployment, stream) for stream in STREAMS}
    assert [stream for stream in STREAMS if before[stream] != after[stream]] == ["two"]

    everything = deployment.run("replay", "--to-offset", "100")
    assert everything.code == 78, "an offset belongs to one partition"
    assert "--stream" in everything.err
    deployment.done("replay", "--stream", "two", "--to-offset", "300")
    assert deployment.next_offset("two") <= 300
    assert deployment.verified()["two"]["games"] < len(wanted.games["two"])
    deployment.caught_up()
    verified = deployment.verified()
    assert {stream: one["games"] for stream, one in verified.items()} == {
        stream: len(games) for stream, games in wanted.games.items()
    }
    assert deployment.run("replay", "--stream", "nobody").code != 0


def test_letters_that_no_engine_has_seen_are_handed_over_by_a_replay_that_passes_them(deployment: Deployment) -> None:
    messages = traffic(4, 1_000)
    wanted = expected(messages, deployment.projections, only="crash")
    deployment.publish(messages[:400])
    deployment.caught_up()
    deployment.publish(messages[400:])
    deployment.done("replay", "--dry-run")
    assert {letter.offset >= 400 for letter in deployment.dead_letters()} == {False}
    deployment.done("replay")
    assert sorted(deployment.dead_letters()) == sorted(wanted.letters)
    deployment.caught_up()
    assert sorted(deployment.dead_letters()) == sorted(wanted.letters)
    assert deployment.verified()["crash"]["games"] == len(wanted.games["crash"])
