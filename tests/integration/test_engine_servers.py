"""Redis and Kafka in trouble: nothing is lost, the probes say so, and the engine goes on by itself."""

from collections.abc import Callable

import pytest
from redis import Redis

from tests.support.deployment import Deployment, Engine, NewDeployment, Watcher, chain, eventually, in_order
from tests.support.proxy import Proxy
from tests.support.servers import KafkaCluster, RedisServer

GAMES = chain(20_000)
QUICK = {"redis": {"timeout_ms": 500}}
NewRedis = Callable[..., RedisServer]


def folded(deployment: Deployment, engine: Engine, games: int) -> None:
    """Wait until that many games are there."""
    engine.until(lambda: deployment.total() == games, f"{games} games are folded")


def not_ready_but_live(engine: Engine, of: str) -> None:
    """Wait until the probes say so, and name the server."""
    engine.until(lambda: engine.probe("/readyz")[0] == 503, "the engine is not ready")
    assert of in str(engine.probe("/readyz")[1]["reasons"])
    assert engine.is_live


@pytest.mark.fault(
    "Redis lost everything (FLUSHALL, a restart without persistence)",
    user="the last answers, as `replica`, until the rebuilt state reaches as far",
    operator="nothing: it is rebuilt from the topic; turn persistence on",
)
def test_a_redis_that_lost_everything_is_filled_again(new_deployment: NewDeployment, new_redis: NewRedis) -> None:
    redis = new_redis()
    deployment = new_deployment(redis.url, settings=QUICK)
    deployment.publish(in_order(GAMES[:3_000]))
    with deployment.engine() as engine:
        folded(deployment, engine, 3_000)
        redis.kill()
        redis.start()
        deployment.publish(in_order(GAMES[3_000:3_001]))
        folded(deployment, engine, 3_001)
        assert engine.terminate()[0] == 0

        redis.kill()
        redis.start()
    deployment.caught_up()  # an engine that starts finds nothing, too
    assert deployment.verified()["crash"]["games"] == 3_001


@pytest.mark.fault(
    "Redis went back to an older state (a dump, a replica that was behind)",
    user="totals stay; versions come again under other tags",
    operator="nothing: the engine goes back in the topic",
)
def test_a_redis_that_went_back_takes_the_engine_back_with_it(
    new_deployment: NewDeployment, new_redis: NewRedis
) -> None:
    redis = new_redis()
    deployment = new_deployment(redis.url, settings=QUICK)
    deployment.publish(in_order(GAMES[:1_000]))
    with deployment.engine() as engine:
        folded(deployment, engine, 1_000)
        deployment.redis.save()
        deployment.publish(in_order(GAMES[1_000:2_000]))
        folded(deployment, engine, 2_000)
        redis.kill()
        redis.start()
        assert deployment.total() == 1_000
        deployment.publish(in_order(GAMES[2_000:2_100]))
        folded(deployment, engine, 2_100)
        assert engine.terminate()[0] == 0
    assert deployment.verified()["crash"]["games"] == 2_100

    redis.kill()
    redis.start()
    assert deployment.total() == 1_000
    deployment.caught_up()
    assert deployment.verified()["crash"]["games"] == 2_100


@pytest.mark.fault(
    "Redis went back, with many streams, also idle ones",
    user="nothing",
    operator="nothing",
)
def test_streams_that_went_back_are_all_read_again(new_deployment: NewDeployment, new_redis: NewRedis) -> None:
    """Also those of which no more records come."""
    redis = new_redis()
    deployment = new_deployment(redis.url, key_prefix="analytics:{stream}", settings=QUICK)
    names = ["one", "two", "three"]
    for name in names:
        deployment.publish(in_order(GAMES[:300], name))
    with deployment.engine() as engine:
        engine.until(lambda: [deployment.total(name) for name in names] == [300] * 3, "the games are folded")
        deployment.redis.save()
        for name in names:
            deployment.publish(in_order(GAMES[300:600], name))
        engine.until(lambda: [deployment.total(name) for name in names] == [600] * 3, "the games are folded")
        redis.kill()
        redis.start()
        deployment.publish(in_order(GAMES[600:601], "one"))
        engine.until(lambda: [deployment.total(name) for name in names] == [601, 600, 600], "all are there again")
        assert engine.terminate()[0] == 0
    assert {name: one["games"] for name, one in deployment.verified().items()} == {"one": 601, "two": 600, "three": 600}


@pytest.mark.fault(
    "Redis hangs (SIGSTOP)",
    user="answers as `replica`, with their age",
    operator="look after Redis; `/readyz` says what is waited for",
)
def test_a_redis_that_hangs_makes_the_engine_wait(new_deployment: NewDeployment, new_redis: NewRedis) -> None:
    redis = new_redis()
    deployment = new_deployment(redis.url, settings=QUICK)
    with deployment.flow(in_order(GAMES), per_second=500) as flow, deployment.engine() as engine:
        with Watcher(deployment):
            engine.until(lambda: engine.is_ready and deployment.total() > 200, "games are folded")
        redis.pause()
        not_ready_but_live(engine, "store")
        paused_at = flow.count
        engine.until(lambda: flow.count > paused_at + 1_000, "games go on arriving")
        assert not engine.is_ready
        redis.resume()
        engine.until(lambda: engine.is_ready and deployment.total() > paused_at + 1_000, "it goes on by itself")

        redis.pause()
        not_ready_but_live(engine, "store")
        code, took_s = engine.terminate()
        assert code == 0, engine.said[-3000:]
        assert took_s < 10
        redis.resume()
    deployment.caught_up()
    assert deployment.verified()["crash"]["games"] == flow.count


@pytest.mark.fault(
    "Redis is away when the engine starts or stops",
    user="503 from a process that holds nothing yet",
    operator="bring Redis back; stopping works without it",
)
def test_a_redis_that_is_gone_does_not_keep_the_engine_from_stopping(
    new_deployment: NewDeployment, new_redis: NewRedis
) -> None:
    redis = new_redis()
    deployment = new_deployment(redis.url)
    with deployment.flow(in_order(GAMES), per_second=500), deployment.engine() as engine:
        engine.until(lambda: deployment.total() > 200, "games are folded")
        redis.kill()
        not_ready_but_live(engine, "store")
        code, took_s = engine.terminate()
        assert code == 0, engine.said[-3000:]
        assert took_s < 10
    with deployment.engine() as engine:
        engine.until(lambda: engine.probe("/readyz")[0] == 503, "it starts without Redis, and is not ready")
        code, took_s = engine.terminate()
        assert code == 0, engine.said[-3000:]
        assert took_s < 10


@pytest.mark.fault(
    "Redis is out of memory (`maxmemory`, noeviction)",
    user="nothing new; answers stay right",
    operator="give it memory; the alert names it",
)
def test_a_full_redis_refuses_until_it_is_given_more(new_deployment: NewDeployment, new_redis: NewRedis) -> None:
    redis = new_redis()
    deployment = new_deployment(redis.url)
    deployment.publish(in_order(GAMES[:500]))
    with deployment.engine() as engine:
        folded(deployment, engine, 500)
        used = deployment.redis.info("memory")["used_memory"]
        deployment.redis.config_set("maxmemory", used - 1_000)
        deployment.publish(in_order(GAMES[500:1_000]))
        not_ready_but_live(engine, "out of memory")
        assert engine.metrics()['crashfold_commits_total{outcome="refused"}'] > 0
        assert deployment.total() == 500
        deployment.redis.config_set("maxmemory", 0)
        folded(deployment, engine, 1_000)
        engine.until(lambda: engine.is_ready, "the engine is ready again")
    assert deployment.verified()["crash"]["games"] == 1_000


@pytest.mark.fault(
    "The broker hangs, is killed, restarts",
    user="nothing new meanwhile",
    operator="bring it back; nothing else",
)
def test_a_kafka_that_hangs_or_dies_is_waited_for(
    new_deployment: NewDeployment, new_kafka: Callable[..., KafkaCluster], redis_url: str
) -> None:
    kafka = new_kafka()
    deployment = new_deployment(
        redis_url, bootstrap_servers=kafka.bootstrap_servers, settings={"kafka": {"request_timeout_ms": 3_000}}
    )
    with Watcher(deployment), deployment.flow(in_order(GAMES), per_second=500) as flow, deployment.engine() as engine:
        engine.until(lambda: engine.is_ready and deployment.total() > 200, "games are folded")
        kafka.pause()
        not_ready_but_live(engine, "log")
        kafka.resume()
        total = deployment.total()
        engine.until(lambda: engine.is_ready and deployment.total() > total + 100, "it goes on by itself")

        kafka.kill()
        not_ready_but_live(engine, "log")
        kafka.start()
        total = deployment.total()
        engine.until(lambda: engine.is_ready and deployment.total() > total + 100, "it goes on by itself")

        kafka.kill()
        not_ready_but_live(engine, "log")
        code, took_s = engine.terminate()
        assert code == 0, engine.said[-3000:]
        assert took_s < 10
        kafka.start()
        before = flow.count
        eventually(lambda: flow.count > before, "games arrive again")
    deployment.caught_up()
    assert deployment.verified()["crash"]["games"] == deployment.next_offset()
    assert deployment.next_offset() >= flow.count


def test_the_password_of_redis_comes_out_of_a_file(new_deployment: NewDeployment, new_redis: NewRedis) -> None:
    redis = new_redis({"requirepass": "correct-horse"})
    deployment = new_deployment(redis.url)
    deployment.configure({"redis": {"url": f"redis://{redis.address}/0"}})
    deployment.publish(in_order(GAMES[:10]))

    refused = deployment.run("run", "--until-caught-up")
    assert refused.code == 78
    assert "password" in refused.err
    secret = deployment.directory / "password"
    secret.write_text("correct-horse\n")
    done = deployment.run("run", "--until-caught-up", env={"CRASHFOLD_REDIS__PASSWORD_FILE": str(secret)})
    assert done.code == 0, done.err
    assert "correct-horse" not in done.out + done.err
    assert deployment.total() == 10


@pytest.mark.fault(
    "Fail-over to a stale replica, and back to the old primary",
    user="totals stay; versions come again under other tags",
    operator="nothing",
)
def test_after_a_failover_and_back_no_game_is_missing(new_deployment: NewDeployment, new_redis: NewRedis) -> None:
    """The old primary was not resynced: at the offset that the engine reached on the replica it has another history,
    folded in other pieces, with another base, other blocks and another version."""
    primary, replica = new_redis(), new_redis()
    settings: dict[str, dict[str, object]] = {"redis": {"timeout_ms": 1_500}, "projections": {"window_games": 1_000}}
    with Proxy(primary.port) as proxy, primary.client() as on_primary, replica.client() as on_replica:
        deployment = new_deployment(f"redis://{proxy.address}/0", settings=settings)

        def is_folded(client: Redis, games: int) -> bool:
            return int(client.hget("analytics:occurrences:min:2", "total_games") or 0) == games

        def fold(first: int, last: int) -> None:
            """Publish these games in pieces that the window is no multiple of."""
            for start in range(first, last, 2_100):
                stop = min(start + 2_100, last)
                deployment.publish(in_order(GAMES[start:stop]))
                engine.until(lambda stop=stop: is_folded(on_primary, stop), f"{stop} games are folded")  # type: ignore[misc]

        with deployment.engine() as engine:
            fold(0, 4_201)
            on_replica.replicaof("127.0.0.1", str(primary.port))
            eventually(lambda: is_folded(on_replica, 4_201), "the replica is in step")
            on_replica.replicaof("NO", "ONE")
            fold(4_201, 14_526)
            proxy.lead_to(replica.port)
            engine.until(lambda: is_folded(on_replica, 14_526), "all games are folded again")
            before = len(engine.events)
            proxy.lead_to(primary.port)
            engine.until(
                lambda: any(event["event"] in ("writes_lost", "conflict") for event in engine.events[before:]),
                "another history is noticed, though no game comes",
            )
            fold(14_526, 14_984)
            assert engine.terminate()[0] == 0
        assert deployment.verified()["crash"]["games"] == 14_984
        deployment.publish(in_order(GAMES[14_984:14_985]))
        deployment.caught_up()
        assert is_folded(on_primary, 14_985)
        assert deployment.verified()["crash"]["games"] == 14_985
