"""Metrics: what happened is counted under the right name, and everything is there from the start."""

import inspect

import pytest
from prometheus_client import generate_latest

from crashfold.engine.adapters.prometheus.engine import STREAMS_NAMED_MAX, Metrics
from crashfold.engine.errors import StoreRefused, StoreUnavailable
from crashfold.engine.games.folding import REASONS
from crashfold.engine.meter import Meter, Meters
from crashfold.engine.ports import Applied, Bounds, Conflict, Duplicate, ServerUsage
from crashfold.engine.version import VERSION, revision
from crashfold.schemas.reports import RebuildProgress, Verification


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"crashfold_{name}", labels)


def test_every_label_value_that_is_known_beforehand_is_there_with_zero(metrics: Metrics) -> None:
    for outcome in ("applied", "duplicate", "conflict", "unknown", "refused"):
        assert value(metrics, "commits_total", outcome=outcome) == 0
    for reason in REASONS:
        assert value(metrics, "records_rejected_total", reason=reason) == 0
        assert value(metrics, "dead_letters_total", reason=reason) == 0
    for kind in ("hash", "chain"):
        assert value(metrics, "fairness_mismatches_total", kind=kind) == 0


def test_commits_are_counted_by_their_outcome(metrics: Metrics) -> None:
    metrics.committed(0.002, [Applied(1), Applied(2), Duplicate(3), Conflict(None)])
    metrics.commit_failed(StoreUnavailable("no answer"))
    metrics.commit_failed(StoreRefused("out of memory"))
    counts = {
        outcome: value(metrics, "commits_total", outcome=outcome)
        for outcome in ("applied", "duplicate", "conflict", "unknown", "refused")
    }
    assert counts == {"applied": 2, "duplicate": 1, "conflict": 1, "unknown": 1, "refused": 1}
    assert value(metrics, "commit_duration_seconds_count") == 1
    assert value(metrics, "commit_duration_seconds_sum") == 0.002
    assert value(metrics, "commit_duration_seconds_bucket", le="0.001") == 0
    assert value(metrics, "commit_duration_seconds_bucket", le="0.0025") == 1


def test_games_and_steps_are_counted(metrics: Metrics) -> None:
    metrics.folded(accepted=10, duplicates=3, late=2)
    metrics.folded(accepted=1, duplicates=0, late=0)
    metrics.step_took(0.5, 14)
    metrics.rejected("late")
    metrics.rejected("of a new kind")
    metrics.buried("late")
    metrics.unfair("chain", 2)
    metrics.rebalanced()
    metrics.loop_lagged(0.3)
    assert value(metrics, "games_applied_total") == 11
    assert value(metrics, "games_duplicate_total") == 3
    assert value(metrics, "games_late_total") == 2
    assert value(metrics, "step_duration_seconds_sum") == 0.5
    assert value(metrics, "batch_games_sum") == 14
    assert value(metrics, "records_rejected_total", reason="late") == 1
    assert value(metrics, "records_rejected_total", reason="of a new kind") == 1
    assert value(metrics, "dead_letters_total", reason="late") == 1
    assert value(metrics, "fairness_mismatches_total", kind="chain") == 2
    assert value(metrics, "rebalances_total") == 1
    assert value(metrics, "loop_lag_seconds_sum") == 0.3


def test_freshness_is_zero_without_lag(metrics: Metrics) -> None:
    metrics.lagging(3, 93, Bounds(20, 100), freshness_s=1.5)
    assert value(metrics, "lag_records", partition="3") == 7
    assert value(metrics, "freshness_seconds", partition="3") == 1.5
    metrics.lagging(3, 100, Bounds(20, 100), freshness_s=900)
    assert value(metrics, "lag_records", partition="3") == 0
    assert value(metrics, "freshness_seconds", partition="3") == 0


def test_retention_headroom_is_what_lies_between_the_log_s_begin_and_the_checkpoint(metrics: Metrics) -> None:
    metrics.lagging(3, 93, Bounds(20, 100))
    assert value(metrics, "log_begin_offset", partition="3") == 20
    assert value(metrics, "log_end_offset", partition="3") == 100
    assert value(metrics, "next_offset", partition="3") == 93
    assert value(metrics, "retention_headroom_records", partition="3") == 73


def test_nothing_is_reported_of_a_partition_that_another_engine_reads(metrics: Metrics) -> None:
    metrics.lagging(3, 93, Bounds(20, 100), freshness_s=1.5)
    metrics.moved(3, 1_000)
    metrics.released(3)
    metrics.released(3)
    assert 'partition="3"' not in generate_latest(metrics.registry).decode()


def test_the_newest_game_and_the_last_commit_are_unix_times(metrics: Metrics) -> None:
    metrics.stands("crash", 1_768_480_301_337)
    metrics.stands("empty", None)
    metrics.moved(0, 1_768_480_301_500)
    assert value(metrics, "newest_game_timestamp_seconds", stream="crash") == 1_768_480_301.337
    assert value(metrics, "newest_game_timestamp_seconds", stream="empty") is None
    assert value(metrics, "last_commit_timestamp_seconds", partition="0") == 1_768_480_301.5


def test_so_many_streams_and_no_more_have_labels_of_their_own(metrics: Metrics) -> None:
    for number in range(STREAMS_NAMED_MAX + 5):
        metrics.stands(f"table{number}", 1_000)
    metrics.stream_takes("table0", 4_096)
    metrics.stream_takes(f"table{STREAMS_NAMED_MAX}", 4_096)
    text = generate_latest(metrics.registry).decode()
    assert text.count("crashfold_newest_game_timestamp_seconds{") == STREAMS_NAMED_MAX
    assert value(metrics, "stream_memory_bytes", stream="table0") == 4_096
    assert value(metrics, "stream_memory_bytes", stream=f"table{STREAMS_NAMED_MAX}") is None


def test_each_server_of_the_store_has_a_sample_of_what_it_said_last(metrics: Metrics) -> None:
    one = ServerUsage(
        address="127.0.0.1:6379",
        memory_bytes=10,
        memory_max_bytes=100,
        evicted_keys=1,
        expired_keys=2,
        hits=30,
        misses=4,
        clients=5,
        commands=60,
    )
    metrics.store_used([one])
    server = "127.0.0.1:6379"
    assert value(metrics, "store_memory_bytes", server=server) == 10
    assert value(metrics, "store_memory_max_bytes", server=server) == 100
    assert value(metrics, "store_evicted_keys_total", server=server) == 1
    assert value(metrics, "store_keyspace_hits_total", server=server) == 30
    metrics.store_used([])
    assert value(metrics, "store_memory_bytes", server=server) is None


def test_what_verify_and_rebuilds_told_is_there_as_long_as_it_is_told(metrics: Metrics) -> None:
    metrics.told([Verification("a", 5_500, "differs", 7, 3)], [RebuildProgress("*", 0.25, 50, 25.0, None)])
    assert value(metrics, "verify_differences", stream="a") == 3
    assert value(metrics, "verify_timestamp_seconds", stream="a") == 5.5
    assert value(metrics, "rebuild_progress_ratio", stream="*") == 0.25
    assert value(metrics, "rebuild_records", stream="*") == 50
    metrics.told([], [])
    assert value(metrics, "verify_differences", stream="a") is None
    assert value(metrics, "rebuild_progress_ratio", stream="*") is None


def test_dead_letters_that_wait_are_those_counted_last(metrics: Metrics) -> None:
    assert value(metrics, "dead_letters_waiting", reason="late") == 0
    metrics.letters_waiting({"late": 3, "of a new kind": 1})
    assert value(metrics, "dead_letters_waiting", reason="late") == 3
    metrics.letters_waiting({"conflict": 2})
    assert value(metrics, "dead_letters_waiting", reason="late") == 0
    assert value(metrics, "dead_letters_waiting", reason="of a new kind") == 0
    assert value(metrics, "dead_letters_waiting", reason="conflict") == 2


def test_calls_of_scripts_are_timed_by_their_name(metrics: Metrics) -> None:
    metrics.script_took("commit", 0.002)
    metrics.script_took("promote", 0.2)
    assert value(metrics, "script_duration_seconds_sum", script="commit") == 0.002
    assert value(metrics, "script_duration_seconds_count", script="promote") == 1


def test_what_is_held_is_a_gauge(metrics: Metrics) -> None:
    metrics.holding(partitions=2, streams=40)
    metrics.holding(partitions=1, streams=20)
    assert value(metrics, "partitions_held") == 1
    assert value(metrics, "streams_held") == 20


def test_two_instances_do_not_share_a_count(metrics: Metrics) -> None:
    other = Metrics()
    other.rebalanced()
    assert value(metrics, "rebalances_total") == 0


def test_the_process_and_the_version_are_told_too(metrics: Metrics) -> None:
    text = generate_latest(metrics.registry).decode()
    assert "\npython_info{" in text
    assert "\nprocess_resident_memory_bytes " in text
    (build,) = [line for line in text.splitlines() if line.startswith("crashfold_build_info{")]
    assert f'version="{VERSION}"' in build
    assert f'revision="{revision()}"' in build


@pytest.mark.parametrize("kind", [Metrics, Meters])
def test_nothing_that_a_meter_hears_is_lost(kind: type[Meter]) -> None:
    for name, method in inspect.getmembers(Meter, inspect.isfunction):
        assert inspect.signature(vars(kind)[name]) == inspect.signature(method)
