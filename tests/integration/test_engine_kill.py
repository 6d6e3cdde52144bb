"""An engine killed at any moment loses nothing, counts nothing twice, and shows no reader a step back.

`tests/soak` kills engines beside everything else.
"""

import pytest

from tests.support.deployment import NewDeployment, Watcher, expected, traffic


@pytest.mark.fault(
    "The engine is killed (SIGKILL) under load",
    user="nothing",
    operator="nothing",
)
def test_a_single_stream_too_comes_back_from_its_own_checkpoint(
    new_deployment: NewDeployment, each_redis_url: str
) -> None:
    deployment = new_deployment(each_redis_url, settings={"engine": {"batch_games_max": 200}})
    messages = traffic(7, 4_000, ("crash", "crash", "crash", "another"))
    wanted = expected(messages, deployment.projections, only="crash")
    with Watcher(deployment), deployment.flow(messages, per_second=1_000) as flow:
        for life in range(3):
            before = deployment.version()
            with deployment.engine("--kafka.group_id", f"{deployment.topic}-{life}") as engine:
                engine.until(lambda before=before: deployment.version() > before, "a commit")  # type: ignore[misc]
                engine.kill()
        flow.finish()
        deployment.caught_up("--kafka.group_id", f"{deployment.topic}-last")
    assert deployment.verified()["crash"]["games"] == len(wanted.games["crash"])
    assert set(deployment.dead_letters()) == wanted.letters
    assert {letter.reason for letter in wanted.letters} == {"unreadable", "conflict", "late", "stream"}
