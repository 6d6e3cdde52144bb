"""Engines of one group share the partitions, and hand them over without losing or repeating anything."""

import pytest

from tests.support.deployment import NewDeployment, Watcher, expected, traffic

STREAMS = [f"table-{number}" for number in range(12)]
PARTITIONS = 4


@pytest.mark.fault(
    "Engines join, stop and are killed under load",
    user="nothing",
    operator="nothing",
)
def test_engines_join_stop_and_die_while_games_arrive(new_deployment: NewDeployment, redis_url: str) -> None:
    deployment = new_deployment(redis_url, partitions=PARTITIONS, key_prefix="analytics:{stream}")
    messages = traffic(3, 12_000, STREAMS, PARTITIONS)
    wanted = expected(messages, deployment.projections)

    def versions() -> int:
        return sum(map(deployment.version, STREAMS))

    with Watcher(deployment, STREAMS), deployment.flow(messages, per_second=500) as flow, deployment.engine() as first:
        first.until(lambda: first.partitions_held == PARTITIONS and versions() > 20, "one engine holds everything")
        with deployment.engine() as second:
            second.until(lambda: second.partitions_held == first.partitions_held == 2, "they share the partitions")
            before = versions()
            second.until(lambda: versions() > before + 20, "both commit")
            code, took_s = second.terminate()
            assert code == 0, second.said[-3000:]
            assert took_s < 10
        first.until(lambda: first.partitions_held == PARTITIONS, "the first engine holds everything again")
        before = versions()
        first.until(lambda: versions() > before + 20, "and commits")

        with deployment.engine() as third:
            third.until(lambda: third.partitions_held == first.partitions_held == 2, "they share the partitions")
            before = versions()
            third.until(lambda: versions() > before + 20, "both commit")
            first.kill()
            third.until(lambda: third.partitions_held == PARTITIONS, "the one that is left holds everything")
            flow.finish()
            ends = [sum(message.partition == number for message in messages) for number in range(PARTITIONS)]
            third.until(
                lambda: (
                    [third.metrics().get(f'crashfold_lag_records{{partition="{n}"}}') for n in range(PARTITIONS)]
                    == [0] * PARTITIONS
                    and set(deployment.dead_letters()) == wanted.letters
                ),
                f"everything up to {ends} is folded",
            )
            code, took_s = third.terminate()
            assert code == 0, third.said[-3000:]
            assert took_s < 10

    deployment.caught_up()
    verified = deployment.verified()
    assert {stream: one["games"] for stream, one in verified.items()} == {
        stream: len(games) for stream, games in wanted.games.items()
    }
    assert set(deployment.dead_letters()) == wanted.letters


@pytest.mark.fault(
    "Two groups fold the same partition",
    user="nothing",
    operator="stop one of them: both do all the work; conflicts are counted",
)
def test_two_engines_with_the_same_partition_never_count_twice(new_deployment: NewDeployment, redis_url: str) -> None:
    """Two groups: each engine holds everything, and every commit is a race."""
    deployment = new_deployment(redis_url, settings={"engine": {"batch_games_max": 100}})
    messages = traffic(5, 4_000)
    wanted = expected(messages, deployment.projections, only="crash")
    with (
        Watcher(deployment),
        deployment.engine("--kafka.group_id", f"{deployment.topic}-a") as one,
        deployment.engine("--kafka.group_id", f"{deployment.topic}-b") as other,
        deployment.flow(messages, per_second=1_000) as flow,
    ):
        flow.finish()
        for engine in (one, other):
            engine.until(lambda: deployment.next_offset() == len(messages), "everything is folded")
        conflicts = 'crashfold_commits_total{outcome="conflict"}'
        assert one.metrics()[conflicts] + other.metrics()[conflicts] > 0, "they met"
        assert [engine.terminate()[0] for engine in (one, other)] == [0, 0]
    assert deployment.verified()["crash"]["games"] == len(wanted.games["crash"])
    assert set(deployment.dead_letters()) == wanted.letters


def test_engines_that_follow_each_other_in_good_order_hand_no_letter_over_twice(
    new_deployment: NewDeployment, redis_url: str
) -> None:
    deployment = new_deployment(redis_url, partitions=PARTITIONS, key_prefix="analytics:{stream}")
    messages = traffic(9, 4_000, STREAMS, PARTITIONS)
    wanted = expected(messages, deployment.projections)
    with deployment.flow(messages, per_second=500) as flow:
        for _ in range(3):
            before = sum(map(deployment.version, STREAMS))
            with deployment.engine() as engine:
                engine.until(lambda before=before: sum(map(deployment.version, STREAMS)) > before + 20, "commits")  # type: ignore[misc]
                assert engine.terminate()[0] == 0
        flow.finish()
    deployment.caught_up()
    letters = deployment.dead_letters()
    assert sorted(letters) == sorted(wanted.letters)
    deployment.verified()


@pytest.mark.fault(
    "A static member, or an engine without a group, is killed and started again",
    user="new games a moment later",
    operator="nothing",
)
@pytest.mark.parametrize(
    "membership", [{"group_instance_id": "engine-0"}, {"assignment": "all"}], ids=["static-member", "no-group"]
)
def test_a_killed_engine_is_back_before_the_group_would_miss_it(
    new_deployment: NewDeployment, redis_url: str, membership: dict[str, str]
) -> None:
    slow_to_miss = {"session_timeout_ms": 600_000, "heartbeat_interval_ms": 3_000}
    deployment = new_deployment(redis_url, settings={"kafka": {**membership, **slow_to_miss}})
    messages = traffic(7, 600)
    wanted = expected(messages, deployment.projections, only="crash")
    deployment.publish(messages[:300])
    with deployment.engine() as engine:
        engine.until(lambda: deployment.next_offset() == 300, "the first half is committed")
        engine.kill()
    deployment.publish(messages[300:])
    with deployment.engine() as engine:
        engine.until(lambda: deployment.next_offset() == 600, "the second half is committed")
        assert engine.terminate()[0] == 0
    assert deployment.verified()["crash"]["games"] == len(wanted.games["crash"])


def test_workers_cannot_share_what_each_of_them_reads_whole(new_deployment: NewDeployment, redis_url: str) -> None:
    deployment = new_deployment(redis_url, settings={"kafka": {"assignment": "all"}})
    done = deployment.run("run", "--workers", "2")
    assert done.code == 78
    assert "kafka.assignment" in done.err
