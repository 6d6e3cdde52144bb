"""How long Redis takes is logged without what was asked about, and slow answers once a second."""

import logging

import pytest
import structlog
from structlog.testing import capture_logs

from crashfold.engine.adapters.redis import watch as redis_watch
from crashfold.engine.adapters.redis.watch import Watch

LOAD = (("HGETALL", "secret"), ("GET", b"secret"), ("GET", "other"))


def at_level(level: int) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))


def test_an_answer_is_a_debug_line_with_commands_and_duration_but_no_key() -> None:
    with capture_logs() as logged:
        Watch().took("here:1", LOAD, 0.0015)
    assert logged == [
        {
            "event": "redis_answered",
            "log_level": "debug",
            "server": "here:1",
            "operation": "HGETALL GET",
            "duration_ms": 1.5,
        }
    ]


def test_above_debug_only_what_is_slow_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(redis_watch, "monotonic", lambda: now_s)
    at_level(logging.INFO)
    try:
        watch = Watch(slow_s=0.2)
        with capture_logs() as logged:
            watch.took("here:1", LOAD, 0.199)
            for _ in range(3):
                watch.took("here:1", "commit", 0.2)
            now_s += 1
            watch.took("here:1", (("SCAN",),), 3)
    finally:
        structlog.reset_defaults()
    assert [(line["event"], line["operation"], line["duration_ms"], line["others"]) for line in logged] == [
        ("redis_slow", "commit", 200.0, 0),
        ("redis_slow", "SCAN", 3000, 2),
    ]


def test_with_no_bound_nothing_is_slow_and_scripts_are_timed_all_the_same() -> None:
    took: list[tuple[str, float]] = []
    with capture_logs() as logged:
        watch = Watch(0, lambda script, duration_s: took.append((script, duration_s)))
        watch.took("here:1", "commit", 60)
        watch.took("here:1", LOAD, 60)
    assert took == [("commit", 60)]
    assert {line["log_level"] for line in logged} == {"debug"}
