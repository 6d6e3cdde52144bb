"""What commands print is data, and a log or an output that cannot be written ends nothing."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from crashfold.engine.adapters.embedded import free_port
from crashfold.schemas.game import encode
from tests.support.deployment import COMMAND, Deployment, Done, Engine, Message, chain, in_order

HOSTILE = "[/x][red]\x1b[31m\x9b2J\u202e\u2028\nforged"
GAMES = chain(60)
DEMO = ["demo", "--games", "500", "--redis.timeout_ms", "5000"]


def is_clean(done: Done) -> bool:
    """Whether nothing was printed that a terminal obeys, and no markup was taken for its meaning."""
    printed = done.out + done.err
    return all(char.isprintable() or char == "\n" for char in printed) and "\nforged" not in printed


def test_hostile_text_is_shown_as_data_by_every_command(deployment: Deployment) -> None:
    value = json.dumps(HOSTILE, ensure_ascii=False).encode()
    deployment.publish(
        [
            *in_order(GAMES),
            Message(0, HOSTILE.encode(), encode(GAMES[0])),
            Message(0, b"crash", HOSTILE.encode() + b"\xff"),
            Message(0, b"crash", b'{"game_id":' + value + b"}"),
        ]
    )
    deployment.caught_up()
    listed = deployment.done("dead-letters", "list")
    assert is_clean(listed)
    assert r"[/x][red]\x1b[31m" in listed.out
    shown = deployment.done("dead-letters", "show", "0:61")
    assert is_clean(shown)
    assert r"[/x][red]\x1b[31m" in shown.out
    assert deployment.done("dead-letters", "show", "0:61", "--json").json["value"] == HOSTILE + r"\xff"

    redis = deployment.redis
    redis.hset("analytics:gaps", HOSTILE, HOSTILE)
    redis.set("analytics:last_game:min:2", HOSTILE.encode() + b"\xff")
    redis.set(f"analytics:occurrences:{HOSTILE}", HOSTILE)
    differing = deployment.run("verify")
    assert differing.code == 1
    assert is_clean(differing)
    assert r"\x1b[31m" in differing.out

    redis.hset("analytics:checkpoint", "topic", HOSTILE)
    redis.hset("analytics:checkpoint", "fingerprint", HOSTILE)
    for command in (["status"], ["doctor"], ["verify"], ["run", "--until-caught-up"]):
        done = deployment.run(*command)
        assert is_clean(done), (command, done)
        assert "Traceback" not in done.err


@pytest.fixture
def nowhere(tmp_path: Path) -> Deployment:
    """Settings that lead to no servers."""
    kafka, redis = f"127.0.0.1:{free_port()}", f"redis://127.0.0.1:{free_port()}/0"
    deployment = Deployment(tmp_path, kafka, redis, "games")
    deployment.configure({"kafka": {"request_timeout_ms": 500}, "redis": {"timeout_ms": 200}})
    return deployment


@pytest.mark.parametrize(
    "tokens",
    [
        [HOSTILE],
        ["run", f"--{HOSTILE}"],
        ["run", "--workers", HOSTILE],
        ["publish", HOSTILE],
        ["publish", "nothing.jsonl", "--stream", HOSTILE],
        ["status", "--file", HOSTILE],
        ["replay", "--file", HOSTILE],
        ["config", "show", "--kafka.client_id", HOSTILE],
        ["config", "show", "--fairness.salt", HOSTILE],
        ["run", "--log.level", HOSTILE],
        ["run", "--set", HOSTILE],
        ["run", f"--{HOSTILE}.x", "y"],
        ["doctor", "--redis.key_prefix", HOSTILE],
        ["dead-letters", "show", HOSTILE],
    ],
    ids=lambda tokens: " ".join(tokens).replace(HOSTILE, "*"),
)
def test_hostile_text_on_the_command_line_is_shown_as_data(nowhere: Deployment, tokens: list[str]) -> None:
    done = nowhere.run(*tokens)
    assert is_clean(done), done
    assert "Traceback" not in done.err


def test_a_file_whose_name_is_no_text_is_named_in_escapes(nowhere: Deployment) -> None:
    name = os.fsencode(nowhere.directory) + b"/\xff\x1b[31m.jsonl"
    Path(os.fsdecode(name)).write_bytes(b"no game\n")
    for tokens in (["status", "--file"], ["status", "--json", "--file"], ["publish"]):
        done = nowhere.run(*tokens, os.fsdecode(name))
        assert is_clean(done), done
        assert "Traceback" not in done.err


# --- a log that cannot be written -------------------------------------------------------------------------------------


@contextmanager
def full_disk() -> Iterator[IO[bytes]]:
    with open("/dev/full", "wb", buffering=0) as full:
        yield full


@contextmanager
def closed_pipe() -> Iterator[IO[bytes]]:
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb", buffering=0) as pipe:
        yield pipe


@contextmanager
def pipe_that_nobody_reads() -> Iterator[IO[bytes]]:
    read, write = os.pipe()
    os.set_blocking(write, False)
    with open(read, "rb"), open(write, "wb", buffering=0) as pipe:
        while pipe.write(b"x" * 4096):
            pass
        os.set_blocking(write, True)
        yield pipe


@pytest.mark.parametrize("broken", [full_disk, closed_pipe, pipe_that_nobody_reads], ids=lambda broken: broken.__name__)
def test_a_log_that_cannot_be_written_ends_neither_the_engine_nor_a_rebuild(
    deployment: Deployment, broken: Any, tmp_path: Path
) -> None:
    config, port = ["--config", str(deployment.config)], free_port()
    flags = ["--log.level", "debug", "--engine.port", str(port), *config]
    with broken() as stream:
        process = subprocess.Popen([COMMAND, "run", *flags], stdout=subprocess.DEVNULL, stderr=stream)
        engine = Engine(process, port, tmp_path / "nothing")
        engine._log.touch()
        try:
            for end in (20, 40, 60):
                deployment.publish(in_order(GAMES[end - 20 : end]))
                engine.until(lambda end=end: deployment.total() == end, "the games are folded")  # type: ignore[misc]
            assert engine.metrics()["crashfold_log_lines_lost_total"] > 0
            assert engine.terminate()[0] == 0
        finally:
            process.kill()
            process.wait()
        for words in (["replay"], ["verify", "--json"]):
            done = subprocess.run([COMMAND, *words, *config], stdout=subprocess.PIPE, stderr=stream, timeout=60)
            assert done.returncode == 0
        assert json.loads(done.stdout)["differences"] == []


def test_an_engine_with_closed_standard_streams_works_and_writes_into_nothing_else(
    deployment: Deployment,
) -> None:
    deployment.publish(in_order(GAMES))
    shell = f"exec {COMMAND} run --until-caught-up --log.level debug --config {deployment.config} <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", shell], timeout=60).returncode == 0
    assert deployment.verified()["crash"]["games"] == len(GAMES)


@pytest.mark.parametrize("broken", [full_disk, closed_pipe], ids=lambda broken: broken.__name__)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_log_that_cannot_be_written_does_not_end_the_api(
    deployment: Deployment, broken: Any, workers: int, tmp_path: Path
) -> None:
    deployment.publish(in_order(GAMES))
    deployment.caught_up()
    port = free_port()
    flags = ["--api.port", str(port), "--api.workers", str(workers), "--log.level", "debug"]
    with broken() as stream:
        process = subprocess.Popen(
            [COMMAND, "serve", *flags, "--config", str(deployment.config)], stdout=subprocess.DEVNULL, stderr=stream
        )
        api = Engine(process, port, tmp_path / "nothing")
        api._log.touch()
        try:
            api.until(lambda: api.is_ready, "the API answers")
            assert api.probe("/api/games?per_page=1")[1]["count"] == 1
            assert api.metrics()["crashfold_log_lines_lost_total"] > 0
            assert api.terminate()[0] == 0
        finally:
            process.kill()
            process.wait()


def test_lines_of_several_workers_in_one_pipe_are_each_whole(deployment: Deployment) -> None:
    deployment.add_partitions(2)
    deployment.publish([*in_order(GAMES), *(Message(1, b"\x1b" * 3000, b"{") for _ in range(300))])
    words = ["run", "--workers", "2", "--until-caught-up", "--log.level", "debug"]
    done = deployment.run(*words)
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in done.err.splitlines()]
    assert len(lines) > 20
    assert {line.get("worker") for line in lines} >= {0, 1}


# --- output that nobody reads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "code"),
    [(["config", "show"], 0), (["config", "show", "--json"], 0), (["--help"], 0), (["doctor"], 1), (DEMO, 0)],
    ids=lambda tokens: " ".join(tokens) if isinstance(tokens, list) else "",
)
def test_a_reader_that_has_gone_ends_a_command_quietly_with_its_own_exit_code(
    nowhere: Deployment, tokens: list[str], code: int
) -> None:
    config = [] if tokens == ["--help"] else ["--config", str(nowhere.config)]
    with closed_pipe() as pipe:
        done = subprocess.run([COMMAND, *tokens, *config], stdout=pipe, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == code
    assert b"Traceback" not in done.stderr
    assert b"Broken" not in done.stderr


@pytest.mark.parametrize("tokens", [["config", "show"], ["config", "show", "--json"], ["--help"]], ids=" ".join)
def test_a_result_that_cannot_be_written_is_an_error(nowhere: Deployment, tokens: list[str]) -> None:
    config = [] if tokens == ["--help"] else ["--config", str(nowhere.config)]
    with full_disk() as full:
        done = subprocess.run([COMMAND, *tokens, *config], stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 1
    assert done.stderr.decode() == "crashfold: standard output cannot be written: No space left on device\n"


def test_an_encoding_that_lacks_a_character_gets_its_escape(nowhere: Deployment) -> None:
    done = nowhere.run("config", "show", "--kafka.client_id", "caf\u00e9-\u2713", env={"PYTHONIOENCODING": "ascii"})
    assert done.code == 0, done.err
    assert r"caf\xe9-\u2713" in done.out
