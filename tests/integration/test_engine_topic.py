"""The topic is not what it was: retention went too far, it was made anew, it has more partitions."""

import os
import signal

from tests.deployment import Deployment, NewDeployment, chain, in_order

GAMES = chain(2_000)


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


def test_a_rebuild_from_a_shorter_topic_made_anew_is_possible(deployment: Deployment) -> None:
    deployment.publish(in_order(GAMES[:500]))
    deployment.caught_up()
    deployment.recreate_topic()
    deployment.publish(in_order(GAMES[500:600]))
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


def test_a_topic_that_is_not_there_yet_is_waited_for(new_deployment: NewDeployment, redis_url: str) -> None:
    deployment = new_deployment(redis_url, partitions=0)
    with deployment.engine() as engine:
        engine.until(lambda: engine.is_live, "the engine is live")
        assert not engine.is_ready
        deployment.create_topic()
        deployment.publish(in_order(GAMES[:100]))
        engine.until(lambda: deployment.total() == 100 and engine.is_ready, "the games are folded")
        assert engine.terminate()[0] == 0
