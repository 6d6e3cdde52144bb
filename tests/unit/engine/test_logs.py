"""Logs: one form for all, and no secret in it."""

import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog

from crashfold.engine.adapters.prometheus.engine import LogLinesLost
from crashfold.engine.logs import configure, lines_lost, mask_secrets
from crashfold.engine.settings import LogSettings, RedisSettings
from crashfold.engine.terminal import LINE_BYTES_MAX


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_a_json_line_that_begins_with_time_level_and_name() -> None:
    configure(LogSettings(), stream := io.StringIO())
    structlog.get_logger().info("commit_applied", stream="crash", version=3)
    [line] = lines(stream)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert (line["level"], line["event"], line["stream"], line["version"]) == ("info", "commit_applied", "crash", 3)
    time = datetime.fromisoformat(line["timestamp"])
    assert time.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - time) < timedelta(minutes=1)


def test_a_terminal_gets_a_console_and_json_when_it_asks_for_it() -> None:
    configure(LogSettings(), auto := Terminal())
    structlog.get_logger().info("commit_applied", version=3)
    configure(LogSettings(format="json"), asked := Terminal())
    structlog.get_logger().info("commit_applied", version=3)
    configure(LogSettings(format="console"), console := io.StringIO())
    structlog.get_logger().info("commit_applied", version=3)
    assert "commit_applied" in auto.getvalue()
    assert not auto.getvalue().startswith("{")
    assert lines(asked)[0]["version"] == 3
    assert "version=3" in console.getvalue()
    assert "\x1b" not in console.getvalue()


def test_a_value_cannot_start_a_line_of_its_own_nor_paint_the_terminal() -> None:
    configure(LogSettings(format="console"), stream := io.StringIO())
    structlog.get_logger().info("dead_letter", key="a\nb\x1b[31m")
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


def test_the_level_decides_what_is_written() -> None:
    configure(LogSettings(level="warning"), stream := io.StringIO())
    log = structlog.get_logger()
    log.info("quiet")
    log.warning("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_libraries_log_in_the_same_form_from_warning_on() -> None:
    configure(LogSettings(level="debug"), stream := io.StringIO())
    logging.getLogger("aiokafka.consumer").info("joined")
    logging.getLogger("aiokafka.consumer").warning("lost %s", "redis://:hunter2@h/0")
    [line] = lines(stream)
    assert line["event"] == "library_said"
    assert line["logger"] == "aiokafka.consumer"
    assert line["message"] == "lost redis://:***@h/0"
    assert line["level"] == "warning"


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_secret_is_written_whatever_way_it_comes(form: str) -> None:
    configure(LogSettings(format="json" if form == "json" else "console"), stream := io.StringIO())
    url = "rediss://user:hunter2@redis.example:6380/0"
    log = structlog.get_logger()
    log.warning("event", password="hunter2", api_token="hunter2", sasl_plain_password="hunter2", url=url)
    log.warning("event", nested={"headers": [{"Authorization": "hunter2"}]}, error=ValueError(url))
    log.warning("event", settings=RedisSettings(url="redis://:hunter2@localhost", password="hunter2"))
    log.warning(f"event with {url}")
    try:
        raise RuntimeError(f"cannot reach {url}")
    except RuntimeError:
        log.exception("event")
        logging.getLogger("redis").exception("failed: %s", url)
    written = stream.getvalue()
    assert written.count("redis.example") >= 5
    assert "hunter2" not in written


def test_other_values_are_left_as_they_are() -> None:
    event = {"event": "e", "count": 3, "ratio": 0.5, "on": True, "none": None, "fencing": [1, "a"], "password": ""}
    assert mask_secrets(None, "info", dict(event)) == event


@pytest.mark.parametrize("text", ["\x1b[31m", "\x9b31m", "\u202e", "a\nb", "a\x1b[0m b"])
def test_no_value_event_or_exception_reaches_the_console_unescaped(text: str) -> None:
    configure(LogSettings(format="console"), stream := io.StringIO())
    log = structlog.get_logger()
    log.info("dead_letter", detail=text)
    log.info(text)
    logging.getLogger("aiokafka").warning(text)
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("defect")
    written = stream.getvalue()
    assert all(char.isprintable() or char == "\n" for char in written)
    assert len(written.split("Traceback")[0].splitlines()) == 4


def test_a_line_in_a_pipe_is_one_write_and_still_json() -> None:
    read, write = os.pipe()
    with open(read) as pipe, open(write, "w") as stream:
        configure(LogSettings(format="json"), stream)
        structlog.get_logger().error("defect", exception="é" * 9_000 + "the end", detail="x" * 9_000, partition=3)
        structlog.get_logger().error("defect", **{f"field_{number}": "x" * 60 for number in range(200)})
        stream.close()
        first, second = pipe.read().splitlines()
    assert len(first) < LINE_BYTES_MAX
    assert len(second) < LINE_BYTES_MAX
    told = json.loads(first)
    assert (told["event"], told["partition"]) == ("defect", 3)
    assert told["exception"].endswith("the end")
    assert json.loads(second)["event"] == "defect"


def test_whoever_logs_goes_on_when_the_log_cannot_be_written() -> None:
    with open("/dev/full", "w") as full, warnings.catch_warnings():
        warnings.simplefilter("always")
        configure(LogSettings(), full)
        structlog.get_logger().error("defect")
        logging.getLogger("aiokafka").error("lost")
        warnings.warn("worn", stacklevel=1)
        assert lines_lost() == 3
        samples = {sample.name: sample.value for family in LogLinesLost().collect() for sample in family.samples}
        assert samples["crashfold_log_lines_lost_total"] == 3


def test_a_library_that_logs_nonsense_is_told_all_the_same() -> None:
    configure(LogSettings(), stream := io.StringIO())
    logging.getLogger("aiokafka").warning("%d records", "many")
    [line] = lines(stream)
    assert "'%d records' % ('many',)" in line["message"]
