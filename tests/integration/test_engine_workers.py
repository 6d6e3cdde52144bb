"""`run --workers N`: several engines of one group under one parent, one to whoever starts, asks or stops it."""

import os
import signal

import pytest

from tests.support.deployment import Engine, NewDeployment, Watcher, eventually, expected, is_running, traffic

STREAMS = [f"table-{number}" for number in range(40)]
PARTITIONS = 4
MANY = {"key_prefix": "analytics:{stream}"}


def workers_of(engine: Engine) -> dict[int, int]:
    """The process ids of the workers that were started last, by number."""
    return {event["worker"]: event["pid"] for event in engine.events if event["event"] == "worker_started"}


def held_by(engine: Engine) -> list[int]:
    """How many partitions each worker holds, by its number."""
    metrics = engine.metrics()
    return [int(metrics.get(f'crashfold_partitions_held{{worker="{number}"}}', 0)) for number in (0, 1)]


@pytest.mark.fault(
    "A worker process is killed",
    user="nothing",
    operator="nothing",
)
def test_a_worker_that_is_killed_is_started_again_and_nothing_is_lost(
    new_deployment: NewDeployment, redis_url: str
) -> None:
    deployment = new_deployment(redis_url, partitions=PARTITIONS, **MANY)
    messages = traffic(11, 8_000, STREAMS, PARTITIONS)
    wanted = expected(messages, deployment.projections)

    def versions() -> int:
        return sum(map(deployment.version, STREAMS))

    with (
        Watcher(deployment, STREAMS),
        deployment.flow(messages, per_second=500) as flow,
        deployment.engine("--workers", "2") as engine,
    ):
        engine.until(lambda: held_by(engine) == [2, 2] and versions() > 20, "they share the partitions")
        assert engine.is_ready
        assert engine.is_live
        killed = workers_of(engine)[1]
        os.kill(killed, signal.SIGKILL)
        engine.until(lambda: workers_of(engine)[1] != killed, "it is started again")
        engine.until(lambda: held_by(engine) == [2, 2], "they share the partitions again")
        before = versions()
        engine.until(lambda: versions() > before + 20, "and commit")
        flow.finish()
        code, took_s = engine.terminate()
        assert code == 0, engine.said[-3000:]
        assert took_s < 10
    deployment.caught_up("--workers", "2")
    verified = deployment.verified()
    assert {stream: one["games"] for stream, one in verified.items()} == {
        stream: len(games) for stream, games in wanted.games.items()
    }
    assert set(deployment.dead_letters()) == wanted.letters


def test_a_state_that_a_worker_refuses_ends_them_all_with_its_exit_code(
    new_deployment: NewDeployment, redis_url: str
) -> None:
    deployment = new_deployment(redis_url, partitions=PARTITIONS, **MANY)
    deployment.publish(traffic(12, 400, STREAMS, PARTITIONS))
    deployment.caught_up("--workers", "2")
    deployment.configure({"projections": {"min": [2.0]}})
    done = deployment.run("run", "--workers", "2")
    assert done.code == 78, done.err
    assert "replay" in done.err


def test_a_second_signal_ends_parent_and_workers_at_once(new_deployment: NewDeployment, redis_url: str) -> None:
    deployment = new_deployment(redis_url, partitions=PARTITIONS, **MANY)
    with deployment.engine("--workers", "2") as engine:
        engine.until(lambda: sum(held_by(engine)) == PARTITIONS, "they hold the partitions")
        pids = workers_of(engine).values()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)  # one that cannot end in good order
        engine.process.send_signal(signal.SIGTERM)
        engine.until(lambda: any(event["event"] == "stopping" for event in engine.events), "the first was heard")
        engine.process.send_signal(signal.SIGTERM)
        assert engine.wait(5) == 128 + signal.SIGTERM
        eventually(lambda: not any(map(is_running, pids)), "they have ended")


@pytest.mark.fault(
    "The parent of the workers is killed",
    user="nothing new until it is started again",
    operator="nothing: the workers end with it",
)
def test_workers_end_when_their_parent_is_killed(new_deployment: NewDeployment, redis_url: str) -> None:
    deployment = new_deployment(redis_url, partitions=PARTITIONS, **MANY)
    with deployment.engine("--workers", "2") as engine:
        engine.until(lambda: sum(held_by(engine)) == PARTITIONS, "they hold the partitions")
        pids = workers_of(engine).values()
        engine.kill()
    eventually(lambda: not any(map(is_running, pids)), "they have ended")


def test_a_file_has_one_reader(new_deployment: NewDeployment, redis_url: str) -> None:
    deployment = new_deployment(redis_url)
    done = deployment.run("run", "--workers", "2", "--file", "games.jsonl")
    assert done.code == 78
    assert "one reader" in done.err
