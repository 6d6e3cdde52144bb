"""The topic is not what it was: retention went too far, it was made anew, it has more partitions."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from crashfold.schemas.game import decode, encode
from tests.support.bombs import Entry, packed_batch
from tests.support.deployment import Deployment, Engine, Letter, NewDeployment, chain, eventually, in_order
from tests.support.servers import RedisServer

GAMES = chain(2_000)
OTHERS = chain(4_000, seed=77)


@pytest.mark.fault(
    "Retention removed records that are still needed",
    user="nothing new",
    operator="exit 78 names the range: `--accept-gap`, or restore the records",
)
def test_records_that_retention_took_stop_the_engine_until_the_gap_is_accepted(deployment: Deployment) -> None:
    messages = in_order(GAMES)
    deployment.publish(messages[:500])
    deployment.caught_up()
    deployment.publish(messages[500:1_000])
    deployment.delete_before(700)

    with deployment.engine() as engine:
        assert engine.wait() == 78
        assert "offsets 500 to 699" in engine.said
        assert "--accept-gap" in engine.said
        assert "Traceback" not in engine.said
    assert deployment.total() == 500

    deployment.caught_up("--accept-gap")
    assert (deployment.total(), deployment.next_offset()) == (800, 1_000)
    deployment.publish(messages[1_000:1_100])
    deployment.caught_up()
    assert deployment.total() == 900

    incomparable = deployment.run("verify")
    assert incomparable.code == 2
    assert "offsets 0 to 699" in incomparable.err

    refused = deployment.run("replay")
    assert refused.code == 78
    assert "offsets 0 to 699" in refused.err
    assert "--accept-gap" in refused.err
    assert deployment.total() == 900
    deployment.done("replay", "--accept-gap")
    assert deployment.total() == 400
    assert deployment.verified()["crash"]["games"] == 400


@pytest.mark.fault(
    "Batches that unpack to gigabytes",
    user="nothing",
    operator="find the producer; they are dead letters",
)
def test_batches_that_unpack_to_gigabytes_cost_neither_memory_nor_the_group(deployment: Deployment) -> None:
    games = iter(GAMES)

    def some(count: int) -> list[Entry]:
        return [(b"crash", encode(next(games))) for _ in range(count)]

    big, bomb = 300_000_000, list[Entry]([(b"crash", 500_000_000)])
    batches: list[tuple[str, list[Entry]]] = [
        *[("zstd", bomb)] * 4,
        ("zstd", [*some(3), (b"crash", big), *some(3), (None, big), *some(3)]),
        ("gzip", [*some(3), (b"crash", big // 2), *some(3)]),
        ("lz4", [*some(3), (b"crash", big // 2), *some(3)]),
        ("snappy", [*some(3), (b"crash", big // 20), *some(3)]),
        ("zstd", [*[(b"crash", 60_000)] * 1_500, *some(3)]),  # none too large, and many of them
    ]
    deployment.configure({"kafka": {"session_timeout_ms": 6_000, "heartbeat_interval_ms": 1_000}})
    with deployment.engine() as engine:
        deployment.publish_batch(packed_batch("lz4", some(100)))
        engine.until(lambda: deployment.total() == 100, "the first games are folded")
        before = _peak_bytes(engine.process.pid)
        expected, folded = list[Letter](), 100
        for codec, entries in batches:
            offset = deployment.publish_batch(packed_batch(codec, entries))
            bad = [offset + i for i, (_, value) in enumerate(entries) if isinstance(value, int)]
            expected += [Letter(0, one, "unreadable") for one in bad]
            folded += len(entries) - len(bad)
        deployment.publish_batch(packed_batch("none", some(10)))
        engine.until(lambda: deployment.total() == folded + 10, "the games around and behind them are folded")
        assert _peak_bytes(engine.process.pid) - before < 300 << 20
        assert sum(event["event"] == "partition_gained" for event in engine.events) == 1
    assert deployment.dead_letters() == expected
    deployment.verified()
    deployment.done("replay")
    deployment.verified()
    letters = deployment.done("dead-letters", "list", "--json").json
    assert "the value has 500000000 bytes" in letters[0]["detail"]


def _peak_bytes(pid: int) -> int:
    """The most memory that the process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))


@pytest.mark.fault(
    "Retention overtakes a slow engine",
    user="nothing new",
    operator="exit 78 names the range: `--accept-gap`, or restore the records",
)
def test_retention_that_overtakes_a_slow_engine_stops_it_too(deployment: Deployment) -> None:
    """The records are gone between two polls: the engine is frozen meanwhile."""
    messages = in_order(GAMES)
    deployment.publish(messages[:500])
    with deployment.engine() as engine:
        engine.until(lambda: deployment.total() == 500, "the games are folded")
        os.kill(engine.process.pid, signal.SIGSTOP)
        deployment.publish(messages[500:])
        deployment.delete_before(1_500)
        os.kill(engine.process.pid, signal.SIGCONT)
        # What the client had fetched already is folded; what it had not is lost.
        assert engine.wait() == 78
        assert "--accept-gap" in engine.said
    assert deployment.total() < 1_500
    deployment.caught_up("--accept-gap")
    assert deployment.next_offset() == 2_000


@pytest.mark.fault(
    "The topic was made anew while the engine was stopped",
    user="nothing new; the old state stays",
    operator="exit 78: `replay --accept-gap`, or go on by `run --accept-gap`",
)
def test_a_topic_made_anew_stops_the_engine(deployment: Deployment) -> None:
    deployment.publish(in_order(GAMES[:500]))
    deployment.caught_up()
    deployment.recreate_topic()

    emptied = deployment.run("run", "--until-caught-up")
    assert emptied.code == 78
    assert "crashfold replay" in emptied.err

    deployment.publish(in_order(GAMES[:1_000]))  # the same games, but other records
    longer = deployment.run("run", "--until-caught-up")
    assert longer.code == 78
    assert "is not the partition that was read" in longer.err
    assert deployment.total() == 500
    deployment.done("replay", "--accept-gap")
    assert deployment.verified()["crash"]["games"] == 1_000


ANEW = {"nothing": [], "fewer": OTHERS[:200], "the same and more": GAMES}
"""What a topic made anew may hold, when the old one had the first 500 games."""


def refused(engine: Engine) -> None:
    """The engine ends because the topic is another one, soon, and without asking brokers for metadata again first."""
    assert engine.wait(15) == 78
    assert "is not the partition that was read up to offset" in engine.said
    assert "--accept-gap" in engine.said
    assert "Traceback" not in engine.said


@pytest.mark.fault(
    "The topic is made anew under a running or frozen engine",
    user="nothing new; the old state stays",
    operator="exit 78: `replay --accept-gap`, or go on by `run --accept-gap`",
)
@pytest.mark.parametrize(
    ("state", "anew"),
    [("at rest", "nothing"), ("at rest", "the same and more"), ("frozen", "fewer"), ("frozen", "the same and more")],
)
def test_a_topic_made_anew_under_an_engine_stops_it(deployment: Deployment, state: str, anew: str) -> None:
    deployment.configure({"kafka": {"metadata_max_age_ms": 300_000}})
    deployment.publish(in_order(GAMES[:500]))
    with deployment.engine() as engine:
        engine.until(lambda: deployment.total() == 500, "the games are folded")
        if state == "frozen":
            os.kill(engine.process.pid, signal.SIGSTOP)
        deployment.recreate_topic()
        deployment.publish(in_order(ANEW[anew]))
        if state == "frozen":
            os.kill(engine.process.pid, signal.SIGCONT)
        refused(engine)
    assert (deployment.total(), deployment.next_offset()) == (500, 500)
    if anew == "the same and more":
        assert deployment.run("run", "--until-caught-up").code == 78
        assert deployment.run("verify").code == 2
        assert deployment.run("replay").code == 78
        deployment.caught_up("--accept-gap")
        assert (deployment.total(), deployment.next_offset()) == (2_000, 2_000)


@pytest.mark.fault(
    "The topic is made anew while the engine waits for Redis",
    user="nothing new; the old state stays",
    operator="exit 78, as above",
)
def test_a_topic_made_anew_while_the_engine_waits_for_redis_stops_it(
    new_redis: Callable[..., RedisServer], new_deployment: NewDeployment
) -> None:
    """It is behind, holds records of the old topic ahead, and the new one is longer."""
    redis = new_redis()
    deployment = new_deployment(
        redis.url,
        settings={
            "kafka": {
                "metadata_max_age_ms": 300_000,
                "session_timeout_ms": 10_000,
                "max_partition_fetch_bytes": 100_000,
            },
            "redis": {"timeout_ms": 1_000},
            "engine": {"batch_games_max": 500},
        },
    )
    games = chain(6_000)
    deployment.publish(in_order(games[:500]))
    with deployment.engine() as engine:
        engine.until(lambda: deployment.total() == 500, "the games are folded")
        redis.pause()
        deployment.publish(in_order(games[500:]))  # more than is fetched ahead
        engine.until(lambda: not engine.is_ready, "it waits for Redis")
        deployment.recreate_topic()
        deployment.publish(in_order(OTHERS + chain(6_000, seed=78, first_id=OTHERS[-1].game_id + 1)))
        redis.resume()
        refused(engine)
    total = deployment.total()
    assert 500 <= total < 6_000, "what was fetched of the old topic may still be folded"
    window = [decode(member) for member in deployment.redis.zrange(deployment.key("games"), 0, -1)]
    assert window == games[:total][-len(window) :]


def test_a_running_engine_goes_on_with_a_topic_made_anew_when_the_operator_says_so(deployment: Deployment) -> None:
    deployment.publish(in_order(GAMES[:500]))
    with deployment.engine("--accept-gap") as engine:
        engine.until(lambda: deployment.total() == 500, "the games are folded")
        deployment.recreate_topic()
        deployment.publish(in_order(GAMES[400:1_000]))
        engine.until(lambda: deployment.total() == 1_000, "the games of the new topic are folded")
        assert deployment.next_offset() == 600
        assert engine.terminate()[0] == 0


@pytest.mark.fault(
    "The topic is deleted",
    user="nothing new",
    operator="make it again, and say `--accept-gap`",
)
def test_a_topic_that_was_deleted_is_waited_for_and_is_another_one(deployment: Deployment) -> None:
    deployment.publish(in_order(GAMES[:500]))
    with deployment.engine() as engine:
        engine.until(lambda: deployment.total() == 500 and engine.is_ready, "the games are folded")
        deployment.delete_topic()
        engine.until(lambda: not engine.is_ready, "there is nothing to read")
        assert engine.is_live
        deployment.create_topic()
        refused(engine)


@pytest.mark.fault(
    "Keys of a stream are gone, and retention removed its first records",
    user="404 for that stream, or what was held",
    operator="exit 78 names range and stream: restore Redis, or `--accept-gap`",
)
def test_a_stream_whose_keys_are_gone_and_that_retention_cut_stops_the_engine(
    new_deployment: NewDeployment, redis_url: str
) -> None:
    deployment = new_deployment(redis_url, key_prefix="analytics:{stream}")
    deployment.publish([*in_order(GAMES[:200], "one"), *in_order(GAMES[:200], "two"), *in_order(GAMES[:50], "new")])
    deployment.caught_up()
    deployment.delete_before(300)

    def lose(stream: str) -> None:
        deployment.redis.delete(*deployment.redis.scan_iter(match=f"analytics:{{{stream}}}:*", count=1_000))

    lose("new")  # it began behind the cut
    deployment.caught_up()
    assert deployment.verified("--stream", "new")["new"]["games"] == 50
    lose("two")
    for refused in (deployment.run("run", "--until-caught-up"), deployment.run("replay", "--stream", "two")):
        assert refused.code == 78
        assert "offsets 200 to 299" in refused.err
        assert "stream two" in refused.err
        assert "--accept-gap" in refused.err
    assert deployment.total("two") == 0
    deployment.caught_up("--accept-gap")
    assert [deployment.total(stream) for stream in ("one", "two", "new")] == [200, 100, 50]
    deployment.caught_up()


@pytest.mark.fault(
    "`replay` of a topic that compaction has thinned out",
    user="the live state stays",
    operator="exit 78: it would bring fewer games",
)
def test_a_rebuild_from_what_compaction_left_is_refused(new_deployment: NewDeployment, redis_url: str) -> None:
    """All records of the stream have one key. Asked for fewer games, it tells; the policy alone is told before."""
    deployment = new_deployment(redis_url, partitions=0)
    quick = {"segment.ms": "100", "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "100"}
    deployment.create_topic(configs={"cleanup.policy": "compact", "delete.retention.ms": "0", **quick})
    for begin in range(0, 300, 100):
        deployment.publish(in_order(GAMES[begin : begin + 100]))
    deployment.caught_up("--accept-gap")
    assert deployment.total() == 300

    def left() -> bool:
        deployment.publish(in_order(GAMES[:1]))  # rolls the segment
        report = deployment.run("replay", "--dry-run", "--json").json
        return bool(sum(stream["games"] for stream in report["streams"]) < 300)

    eventually(left, "compaction has taken records", within_s=100)
    deployment.set_topic({"cleanup.policy": "delete"})
    refused = deployment.run("replay")
    assert refused.code == 78
    assert "and the live state has 300" in refused.err
    assert "--accept-gap" in refused.err
    assert deployment.total() == 300
    deployment.done("replay", "--accept-gap")
    assert deployment.total() < 300


def found_by_doctor(deployment: Deployment) -> str:
    """What `doctor` says keeps the engine from its work."""
    done = deployment.run("doctor", "--json")
    assert done.code == 1, done.out
    return "\n".join(one["detail"] for one in done.json["findings"] if one["verdict"] == "failed")


@pytest.mark.fault(
    "The topic is compacted",
    user="nothing new",
    operator="exit 78: set `cleanup.policy=delete`",
)
def test_a_compacted_topic_is_refused(new_deployment: NewDeployment, redis_url: str) -> None:
    deployment = new_deployment(redis_url, partitions=0)
    deployment.create_topic(configs={"cleanup.policy": "compact,delete"})
    deployment.publish(in_order(GAMES[:100]))
    assert "cleanup.policy=delete" in found_by_doctor(deployment)
    for command in (("run", "--until-caught-up"), ("replay",)):
        refused = deployment.run(*command)
        assert refused.code == 78
        assert "cleanup.policy=delete" in refused.err
        assert "Traceback" not in refused.err
    assert deployment.total() == 0
    deployment.caught_up("--accept-gap")
    deployment.done("replay", "--accept-gap")
    assert deployment.total() == 100


def test_a_rebuild_from_a_shorter_topic_made_anew_is_possible(deployment: Deployment) -> None:
    deployment.publish(in_order(GAMES[:500]))
    deployment.caught_up()
    deployment.recreate_topic()
    deployment.publish(in_order(GAMES[500:600]))
    assert "is not the partition that was read" in found_by_doctor(deployment)
    assert deployment.run("run", "--until-caught-up").code == 78
    deployment.done("replay", "--accept-gap")
    assert deployment.verified()["crash"]["games"] == 100


def test_a_state_goes_on_with_a_topic_made_anew_when_the_operator_says_so(deployment: Deployment) -> None:
    deployment.publish(in_order(GAMES[:500]))
    deployment.caught_up()
    deployment.recreate_topic()
    deployment.publish(in_order(GAMES[400:600]))
    deployment.caught_up("--accept-gap")
    assert (deployment.total(), deployment.next_offset()) == (600, 200)
    deployment.publish(in_order(GAMES[600:700]))
    deployment.caught_up()
    assert (deployment.total(), deployment.next_offset()) == (700, 300)


@pytest.mark.fault(
    "Partitions were added, and a stream moved",
    user="nothing new of that stream",
    operator="exit 78 and what to do: a new topic, `replay`",
)
def test_a_stream_that_turns_up_on_another_partition_stops_the_engine(
    new_deployment: NewDeployment, redis_url: str
) -> None:
    deployment = new_deployment(redis_url, partitions=1, key_prefix="analytics:{stream}")
    deployment.publish([*in_order(GAMES[:200], "one"), *in_order(GAMES[:200], "two")])
    with deployment.engine() as engine:
        engine.until(lambda: deployment.total("two") == 200, "the games are folded")
        deployment.add_partitions(2)
        deployment.publish(in_order(GAMES[:100], "new", partition=1))
        engine.until(lambda: deployment.total("new") == 100, "a new stream may live on the new partition")
        deployment.publish(in_order(GAMES[200:300], "two", partition=1))
        assert engine.wait() == 78
        assert "stream two lives on partition 0" in engine.said
        assert "Traceback" not in engine.said
    again = deployment.run("run", "--until-caught-up")
    assert again.code == 78
    assert "stream two lives on partition 0" in again.err
    assert deployment.total("two") == 200
    rebuilt = deployment.run("replay")
    assert rebuilt.code == 78
    assert "stream two lives on partition" in rebuilt.err


@pytest.mark.fault(
    "Partitions were added, and every stream stays where it was",
    user="nothing",
    operator="nothing",
)
def test_new_streams_on_added_partitions_are_folded_rebuilt_and_gone_on_with(
    new_deployment: NewDeployment, redis_url: str
) -> None:
    deployment = new_deployment(redis_url, partitions=1, key_prefix="analytics:{stream}")
    deployment.publish(in_order(GAMES[:200], "old"))
    with deployment.engine() as engine:
        engine.until(lambda: deployment.total("old") == 200, "the games are folded")
        deployment.add_partitions(3)
        deployment.publish([*in_order(GAMES[:100], "one", partition=1), *in_order(GAMES[:50], "two", partition=2)])
        deployment.publish(in_order(GAMES[200:300], "old"))
        totals = {"old": 300, "one": 100, "two": 50}
        engine.until(lambda: {name: deployment.total(name) for name in totals} == totals, "all three are folded")
        assert engine.partitions_held == 3
        assert engine.terminate()[0] == 0
    assert {name: one["games"] for name, one in deployment.verified().items()} == totals
    at = deployment.done("status", "--json").json
    assert [one["next_offset"] for one in at["partitions"]] == [300, 100, 50]  # their manifests
    assert {one["stream"]: one["partition"] for one in at["streams"]} == {"old": 0, "one": 1, "two": 2}

    before = deployment.all_keys()
    deployment.done("replay")
    assert {name: one["games"] for name, one in deployment.verified().items()} == totals
    assert len(deployment.all_keys()) == len(before)
    deployment.publish([*in_order(GAMES[100:120], "one", partition=1), *in_order(GAMES[:10], "three", partition=2)])
    with deployment.engine() as engine:  # begins where the manifests say, not with the first record
        engine.until(lambda: (deployment.total("one"), deployment.total("three")) == (120, 10), "it goes on")
        begun = {one["partition"]: one["next_offset"] for one in engine.events if one["event"] == "partition_gained"}
        assert begun == {0: 300, 1: 100, 2: 50}
        assert engine.terminate()[0] == 0
    assert deployment.dead_letters() == []


def test_a_topic_that_is_not_there_yet_is_waited_for(new_deployment: NewDeployment, redis_url: str) -> None:
    deployment = new_deployment(redis_url, partitions=0)
    with deployment.engine() as engine:
        engine.until(lambda: engine.is_live, "the engine is live")
        assert not engine.is_ready
        deployment.create_topic()
        deployment.publish(in_order(GAMES[:100]))
        engine.until(lambda: deployment.total() == 100 and engine.is_ready, "the games are folded")
        assert engine.terminate()[0] == 0
