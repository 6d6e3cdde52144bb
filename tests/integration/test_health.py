"""Health on real servers: what keeps commits from being made is said for as long as it lasts, and nothing hides it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crashfold.engine.adapters.embedded import free_port
from tests.support.deployment import Deployment, Message, chain, eventually, in_order
from tests.support.servers import KafkaCluster, RedisServer


@contextmanager
def unable_to_save(server: RedisServer) -> Iterator[None]:
    """Let the server's snapshots fail: it takes no writes then (MISCONF)."""
    obstacle = server.directory / "dump.rdb"
    obstacle.mkdir()
    (obstacle / "full").touch()

    def saved(expected: str) -> bool:
        with server.client() as client:
            client.bgsave()
            return bool(client.info("persistence")["rdb_last_bgsave_status"] == expected)

    try:
        eventually(lambda: saved("err"), "a snapshot fails")
        yield
    finally:
        (obstacle / "full").unlink()
        obstacle.rmdir()
        eventually(lambda: saved("ok"), "a snapshot works again")


@pytest.mark.fault(
    "Redis cannot save its snapshot (MISCONF)",
    user="nothing new; answers stay right",
    operator="mend its disk; `/readyz` and `doctor` name it",
)
def test_a_redis_that_takes_no_writes_is_said_while_nothing_comes_and_while_games_wait(
    tmp_path: Path, new_redis: Callable[..., RedisServer]
) -> None:
    server = new_redis({"save": "3600 1000000"})
    deployment = Deployment(tmp_path, f"127.0.0.1:{free_port()}", server.url, "games")
    games = tmp_path / "games.jsonl"
    lines = [message.value.decode() + "\n" for message in in_order(chain(20)) if message.value]
    games.write_text("".join(lines[:10]))
    with deployment.engine("--file", str(games)) as engine:
        engine.until(lambda: engine.is_ready and deployment.total() == 10, "the first games are folded")
        with unable_to_save(server):
            engine.until(lambda: engine.probe("/readyz")[0] == 503, "it notices while nothing comes")
            with games.open("a") as more:
                more.writelines(lines[10:])
            answers = [engine.probe("/readyz") for _ in range(100)]
            assert {status for status, _ in answers} == {503}
            assert all("cannot save" in str(body["reasons"]) for _, body in answers)
            assert engine.is_live
            assert any(
                "MISCONF" in one["detail"]
                for one in deployment.run("doctor", "--json").json["findings"]
                if one["verdict"] == "failed"
            )
            assert [event["event"] for event in engine.events].count("store_away") == 1
        engine.until(lambda: engine.is_ready and deployment.total() == 20, "it goes on")


@pytest.mark.fault(
    "Two of three brokers are gone, each partition on one of them",
    user="nothing new",
    operator="bring them back; `/readyz` is 503 all the time",
)
@pytest.mark.kafka
def test_two_of_three_brokers_gone_is_not_ready_all_the_time(
    tmp_path: Path, new_kafka: Callable[..., KafkaCluster], redis_url: str
) -> None:
    cluster = new_kafka(brokers=3)
    deployment = Deployment(tmp_path, cluster.bootstrap_servers, redis_url, "games", key_prefix="analytics:{stream}")
    deployment.create_topic(6)
    messages = [
        Message(partition, f"table-{partition}".encode(), message.value)
        for partition in range(6)
        for message in in_order(chain(5))
    ]
    deployment.publish(messages)
    with deployment.engine() as engine:
        engine.until(lambda: engine.is_ready and deployment.total("table-5") == 5, "the games are folded")
        for broker in cluster.brokers[1:]:
            broker.kill()
        engine.until(lambda: engine.probe("/readyz")[0] == 503, "it notices")
        before = len(engine.events)
        looks: list[int] = []

        def looked_long_enough() -> bool:
            looks.append(engine.probe("/readyz")[0])
            return len(looks) >= 300

        engine.until(looked_long_enough, "it was looked at")
        assert set(looks) == {503}
        assert engine.is_live
        said = engine.events[before:]
        assert len(said) <= 4, said
        assert engine.terminate()[0] == 0
