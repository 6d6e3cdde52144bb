"""Settings, usage, `doctor` and probes: what a person meets first, and what they are told when something is wrong."""

import subprocess
from pathlib import Path

import pytest

from crashfold.engine.adapters.embedded import free_port
from crashfold.schemas.game import encode
from tests.support.deployment import COMMAND, Deployment, chain, in_order
from tests.support.servers import RedisServer


@pytest.fixture
def nowhere(tmp_path: Path) -> Deployment:
    """Settings that lead to no servers."""
    kafka, redis = f"127.0.0.1:{free_port()}", f"redis://:s3cret-word@127.0.0.1:{free_port()}/0"
    deployment = Deployment(tmp_path, kafka, redis, "games")
    deployment.configure({"kafka": {"request_timeout_ms": 1_000}, "redis": {"timeout_ms": 500}})
    return deployment


def test_every_setting_is_shown_with_its_source_and_secrets_are_masked(nowhere: Deployment) -> None:
    secret = nowhere.directory / "token"
    secret.write_text("a-token-of-many-characters\n")
    env = {"CRASHFOLD_API__TOKEN_FILE": str(secret), "CRASHFOLD_ENGINE__LINGER_MS": "7"}
    done = nowhere.run("config", "show", "--json", "--kafka.topic", "other", "--set", "log.level=warning", env=env)
    assert done.code == 0
    rows = {row["name"]: row for row in done.json}
    assert (rows["kafka.topic"]["value"], rows["kafka.topic"]["source"]) == ("other", "flag --kafka.topic")
    assert (rows["log.level"]["value"], rows["log.level"]["source"]) == ("warning", "flag --log.level")
    assert (rows["engine.linger_ms"]["value"], rows["engine.linger_ms"]["source"]) == (
        7,
        "env CRASHFOLD_ENGINE__LINGER_MS",
    )
    assert rows["engine.port"]["source"] == f"file {nowhere.config}"
    assert rows["api.port"] | {"description": ""} == {
        "name": "api.port",
        "value": 8000,
        "source": "default",
        "default": 8000,
        "description": "",
    }
    for output in (done.out, nowhere.run("config", "show", env=env).out):
        assert "a-token-of-many-characters" not in output
        assert "s3cret-word" not in output
    assert rows["api.token"]["source"] == "env CRASHFOLD_API__TOKEN_FILE"


@pytest.mark.parametrize("text", ["plain", 'a "quoted" \\ \x1b\n\u202e\x7f 🚀', "# no comment", "'''", "é"])
def test_what_config_show_prints_is_a_settings_file_of_the_same_settings(nowhere: Deployment, text: str) -> None:
    flags = ["--kafka.client_id", text, "--projections.min", "1.5,2,1000", "--engine.linger_ms", "7"]
    shown = nowhere.run("config", "show", *flags, env={"CRASHFOLD_API__TOKEN": "a-token-of-many-characters"})
    assert shown.code == 0, shown.err
    assert all(char.isprintable() or char == "\n" for char in shown.out)
    lines = shown.out.splitlines()
    assert any(line.startswith("# token = ") and "CRASHFOLD_API__TOKEN_FILE" in line for line in lines)
    assert "# flag --kafka.client_id" in shown.out
    before = {row["name"]: row["value"] for row in nowhere.run("config", "show", "--json", *flags).json}
    nowhere.config.write_text(shown.out)
    after = {row["name"]: row["value"] for row in nowhere.run("config", "show", "--json").json}
    assert after["kafka.client_id"] == text
    assert after == before | {"redis.url": after["redis.url"]}, "all but the address, whose password was masked"


def test_help_has_no_flags_that_say_nothing() -> None:
    def told(*words: str) -> str:
        return subprocess.run([COMMAND, *words, "--help"], capture_output=True, text=True, check=True).stdout

    for words in (["run"], ["replay"], ["publish"], ["dead-letters", "retry"], ["bench", "growth"]):
        help_ = told(*words)
        for noise in ("--no-", "default: ()", "default: False", "default: None", "default: ]"):
            assert noise not in help_, words
    assert "[default: 20000]" in told("demo")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_and_flags(shell: str) -> None:
    script = subprocess.run([COMMAND, "completion", shell], capture_output=True, text=True, check=True).stdout
    assert "dead-letters" in script
    if shell != "bash":
        return
    ask = 'eval "$(cat)"; COMP_WORDS=($0 "$@"); COMP_CWORD=$#; _crashfold; echo "${COMPREPLY[@]}"'
    asked = ((["ver"], "verify"), (["replay", "--acc"], "--accept-gap"), (["dead-letters", "dis"], "discard"))
    for words, wanted in asked:
        command = ["bash", "-c", ask, "crashfold", *words]
        done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
        assert wanted in done.stdout.split(), done


@pytest.mark.parametrize(
    ("flags", "env", "told"),
    [
        (["--kafka.topik", "games"], {}, ["kafka.topik", "flag", "kafka.topic"]),
        ([], {"CRASHFOLD_REDIS__URI": "redis://127.0.0.1"}, ["CRASHFOLD_REDIS__URI", "CRASHFOLD_REDIS__URL"]),
        (["--engine.port", "many"], {}, ["engine.port", "flag", "many"]),
        (["--projections.min", "[2, 2.0]"], {}, ["projections.min", "twice"]),
        (["--redis.url", "redis://:hunter2@example.com/0"], {}, ["redis.url", "rediss://"]),
        (["--set", "kafka.topic"], {}, ["--set kafka.topic"]),
    ],
)
@pytest.mark.parametrize("command", [["run"], ["config", "show"]], ids=" ".join)
def test_a_setting_that_is_wrong_ends_with_78_and_is_named(
    nowhere: Deployment, command: list[str], flags: list[str], env: dict[str, str], told: list[str]
) -> None:
    done = nowhere.run(*command, *flags, env=env)
    assert done.code == 78
    for word in told:
        assert word in done.err
    assert "Traceback" not in done.err
    assert "hunter2" not in done.err + done.out


@pytest.mark.parametrize(
    "tokens", [["nonsense"], ["run", "--nonsense"], ["publish"], ["replay", "--to-offset", "x"]], ids=" ".join
)
def test_a_usage_error_ends_with_2(nowhere: Deployment, tokens: list[str]) -> None:
    done = nowhere.run(*tokens)
    assert done.code == 2
    assert done.out + done.err != ""
    assert "Traceback" not in done.err


def test_doctor_says_what_is_away(nowhere: Deployment) -> None:
    done = nowhere.run("doctor", "--json")
    assert done.code == 1
    verdicts = {one["check"]: one["verdict"] for one in done.json["findings"]}
    assert verdicts == {"settings": "ok", "redis": "failed", "kafka": "failed"}
    assert "s3cret-word" not in done.out + done.err


@pytest.mark.parametrize("command", [["verify"], ["replay"], ["publish"], ["dead-letters", "list"]], ids=" ".join)
def test_a_command_whose_servers_are_away_says_try_again(nowhere: Deployment, command: list[str]) -> None:
    if command == ["publish"]:
        file = nowhere.directory / "games.jsonl"
        file.write_text('{"game_id":1,"crash_point":2.0,"end_time":1}\n')
        command = ["publish", str(file)]
    done = nowhere.run(*command)
    assert done.code == (2 if command == ["verify"] else 75), done.err
    assert "tried again" not in done.err
    assert "trying again" not in done.err
    assert ("run it again" in done.err) == (done.code == 75)
    assert "Traceback" not in done.err
    assert "s3cret-word" not in done.out + done.err


def test_doctor_is_content_with_servers_that_stand_ready(deployment: Deployment, redis_server: RedisServer) -> None:
    missing = deployment.run("doctor", "--kafka.topic", "no-such-topic", "--json")
    assert missing.code == 1
    assert {one["check"]: one["verdict"] for one in missing.json["findings"]}["topic"] == "failed"
    done = deployment.done("doctor", "--json")
    verdicts = {one["check"]: one["verdict"] for one in done.json["findings"]}
    assert "failed" not in verdicts.values()
    assert verdicts[f"topic {deployment.topic}/0"] == "ok"
    with redis_server.client() as client:
        client.config_set("maxmemory", 10**9)
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            evicting = deployment.run("doctor", "--json")
        finally:
            client.config_set("maxmemory", 0)
            client.config_set("maxmemory-policy", "noeviction")
    assert evicting.code == 1
    assert "noeviction" in evicting.out


def test_doctor_finds_that_the_state_is_of_another_log(deployment: Deployment) -> None:
    deployment.publish(in_order(chain(3)))
    (deployment.directory / "games.jsonl").write_bytes(b"".join(encode(game) + b"\n" for game in chain(3)))
    deployment.done("replay", "--file", "games.jsonl")
    beforehand = deployment.run("doctor", "--json")
    assert beforehand.code == 1
    verdicts = {one["check"]: one for one in beforehand.json["findings"]}
    found = verdicts[f"start {deployment.topic}/0"]
    refused = deployment.run("run", "--until-caught-up")
    assert refused.code == 78
    assert found["verdict"] == "failed"
    assert found["detail"] in refused.err
    deployment.done("replay")
    deployment.done("doctor")


def test_the_engine_tells_its_metrics_and_whether_it_works(deployment: Deployment) -> None:
    deployment.publish(in_order(chain(100)))
    with deployment.engine() as engine:
        engine.until(lambda: deployment.total() == 100, "the games are folded")
        for path in ("/livez", "/readyz", "/startupz"):
            engine.until(lambda path=path: engine.probe(path) == (200, {"status": "ok", "reasons": []}), path)  # type: ignore[misc]
        engine.until(lambda: engine.metrics()["crashfold_step_duration_seconds_count"] >= 1, "the step is over")
        metrics = engine.metrics()
        assert metrics["crashfold_games_applied_total"] == 100
        assert metrics["crashfold_partitions_held"] == 1
        assert metrics['crashfold_commits_total{outcome="applied"}'] >= 1
        for reason in ("unreadable", "conflict", "late", "stream"):
            assert metrics[f'crashfold_dead_letters_total{{reason="{reason}"}}'] == 0
        for name in ("commit_duration_seconds", "step_duration_seconds", "batch_games"):
            assert metrics[f"crashfold_{name}_count"] >= 1
        engine.until(lambda: engine.metrics().get('crashfold_lag_records{partition="0"}') == 0, "the lag is told")
        second = deployment.run("run", "--engine.port", str(engine.port))
        assert second.code == 78
        assert "engine.port" in second.err
        code, took_s = engine.terminate()
        assert (code, took_s < 10) == (0, True)
        names = [event["event"] for event in engine.events]
        assert names[0] == "engine_started"
        assert names[-1] == "engine_stopped"
