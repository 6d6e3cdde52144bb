"""Settings: layers, sources, and what is said about values that would not do."""

from pathlib import Path

import msgspec
import pytest
from rich.pretty import pretty_repr

from crashfold.engine.errors import ConfigurationError
from crashfold.engine.settings import (
    ApiSettings,
    KafkaSettings,
    Loaded,
    RedisAddress,
    RedisSettings,
    describe,
    host_of,
    is_loopback,
    load,
    markdown,
    masked_text,
    masked_url,
    printed,
    redis_address,
    settings_by_name,
    toml_value,
)
from crashfold.schemas.fairness import Rule

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def from_toml(tmp_path: Path, text: str) -> Loaded:
    file = tmp_path / "given.toml"
    file.write_text(text, encoding="utf-8")
    return load(file, {}, {})


def fault(
    environ: dict[str, str] | None = None, overrides: dict[str, object] | None = None, file: Path | None = None
) -> str:
    with pytest.raises(ConfigurationError) as raised:
        load(file, environ or {}, overrides or {})
    assert raised.value.exit_code == 78
    return str(raised.value)


def fault_of_toml(tmp_path: Path, text: str) -> str:
    file = tmp_path / "given.toml"
    file.write_text(text, encoding="utf-8")
    return fault(file=file)


def test_without_any_layer_every_value_is_the_default_and_says_so() -> None:
    loaded = load(None, {}, {})
    assert set(loaded.sources) == set(settings_by_name())
    assert set(loaded.sources.values()) == {"default"}
    assert loaded.settings.kafka.bootstrap_servers == "127.0.0.1:9092"
    assert loaded.settings.kafka.dead_letters == "games.dead"
    assert loaded.settings.redis.key_prefix == "analytics"
    assert not loaded.settings.redis.many_streams


def test_each_layer_goes_over_the_one_before_and_leaves_its_name(tmp_path: Path) -> None:
    file = tmp_path / "given.toml"
    file.write_text('[kafka]\ntopic = "a"\ngroup_id = "b"\n[engine]\nport = 1\n[api]\nport = 2\n', encoding="utf-8")
    environ = {"CRASHFOLD_KAFKA__GROUP_ID": "c", "CRASHFOLD_ENGINE__PORT": "3", "PATH": "/bin"}
    loaded = load(file, environ, {"engine.port": "4", "api.port": None})
    assert loaded.settings.kafka.topic == "a"
    assert loaded.sources["kafka.topic"] == f"file {file}"
    assert loaded.settings.kafka.group_id == "c"
    assert loaded.sources["kafka.group_id"] == "env CRASHFOLD_KAFKA__GROUP_ID"
    assert loaded.settings.engine.port == 4
    assert loaded.sources["engine.port"] == "flag --engine.port"
    assert loaded.settings.api.port == 2


def test_the_file_is_the_flag_else_the_variable_else_the_one_in_the_working_directory(tmp_path: Path) -> None:
    for name in ("crashfold", "named", "flag"):
        (tmp_path / f"{name}.toml").write_text(f'[kafka]\ntopic = "{name}"\n', encoding="utf-8")
    environ = {"CRASHFOLD_CONFIG": str(tmp_path / "named.toml")}
    here, named, flag = load(None, {}, {}), load(None, environ, {}), load(tmp_path / "flag.toml", environ, {})
    assert [loaded.settings.kafka.topic for loaded in (here, named, flag)] == ["crashfold", "named", "flag"]
    assert here.sources["kafka.topic"] == "file crashfold.toml"


@pytest.mark.parametrize(
    ("variable", "text", "name", "expected"),
    [
        ("CRASHFOLD_PROJECTIONS__MIN", "1.5, 2,10", "projections.min", (1.5, 2.0, 10.0)),
        ("CRASHFOLD_PROJECTIONS__FLOOR", "[1, 3]", "projections.floor", (1, 3)),
        ("CRASHFOLD_API__CORS_ORIGINS", "https://a.example,https://b.example", "api.cors_origins", None),
        ("CRASHFOLD_API__CORS_ORIGINS", "", "api.cors_origins", ()),
        ("CRASHFOLD_KAFKA__ALLOW_PLAINTEXT", "true", "kafka.allow_plaintext", True),
        ("CRASHFOLD_REDIS__ALLOW_PLAINTEXT", "False", "redis.allow_plaintext", False),
        ("CRASHFOLD_ENGINE__LINGER_MS", " 20 ", "engine.linger_ms", 20),
        ("CRASHFOLD_ENGINE__SHUTDOWN_TIMEOUT_S", "2.5", "engine.shutdown_timeout_s", 2.5),
        ("CRASHFOLD_LOG__LEVEL", "debug", "log.level", "debug"),
        ("CRASHFOLD_REDIS__PASSWORD", " 12 ", "redis.password", " 12 "),
    ],
)
def test_a_variable_is_read_in_the_type_of_its_setting(variable: str, text: str, name: str, expected: object) -> None:
    settings = load(None, {variable: text}, {}).settings
    section, field = name.split(".")
    value = getattr(getattr(settings, section), field)
    assert value == (("https://a.example", "https://b.example") if expected is None else expected)


def test_a_secret_can_be_read_from_a_file_without_the_line_break_at_its_end(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("pass word\n", encoding="utf-8")
    loaded = load(None, {"CRASHFOLD_REDIS__PASSWORD_FILE": str(secret)}, {})
    assert loaded.settings.redis.password == "pass word"
    assert loaded.sources["redis.password"] == "env CRASHFOLD_REDIS__PASSWORD_FILE"


def test_a_secret_given_twice_or_in_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    missing = {"CRASHFOLD_REDIS__PASSWORD_FILE": str(tmp_path / "none")}
    assert "redis.password (env CRASHFOLD_REDIS__PASSWORD_FILE)" in fault(missing)
    assert "No such file" in fault(missing)
    assert "given twice" in fault(missing | {"CRASHFOLD_REDIS__PASSWORD": "x"})


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"CRASHFOLD_KAFKA__TOPIK": "x"}, "CRASHFOLD_KAFKA__TOPIK (environment) names no setting; the nearest is"),
        ({"CRASHFOLD_KAFKA_TOPIC": "x"}, "the nearest is CRASHFOLD_KAFKA__TOPIC"),
        ({"CRASHFOLD_API_PORT": "8001"}, "the nearest is CRASHFOLD_API__PORT"),
        ({"CRASHFOLD_ENGINE__PORT": "70000"}, "is '70000', which is not a whole number from 0 to 65535"),
        ({"CRASHFOLD_ENGINE__PORT": "many"}, "engine.port (env CRASHFOLD_ENGINE__PORT)"),
        ({"CRASHFOLD_PROJECTIONS__MIN": "[1,"}, "which is not a list of numbers from 1 to 10^9"),
        ({"CRASHFOLD_PROJECTIONS__MIN": "0.5"}, "projections.min (env CRASHFOLD_PROJECTIONS__MIN) min:0.5 is outside"),
        ({"CRASHFOLD_PROJECTIONS__MIN": "nan"}, "projections.min (env CRASHFOLD_PROJECTIONS__MIN) min:nan is outside"),
        ({"CRASHFOLD_PROJECTIONS__INTERVAL_MINUTES": "7"}, "projections.interval_minutes (env "),
        ({"CRASHFOLD_FAIRNESS__CHECK": "maybe"}, "which is not one of off, count, reject"),
        ({"CRASHFOLD_FAIRNESS__SALT": "a b"}, "which is not 1 to 1024 ASCII characters without blanks"),
    ],
)
def test_a_variable_that_is_wrong_is_named_with_what_would_do(environ: dict[str, str], expected: str) -> None:
    assert expected in fault(environ)


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ('[kafka]\ntopik = "x"', "kafka.topik (file {file}) is no setting; the nearest is kafka.topic"),
        ('[kafak]\ntopic = "x"', "the nearest is kafka.topic"),
        ('bootstrap_servers = "x"', "the nearest is kafka.bootstrap_servers"),
        ("[xyzzy]\nplugh = 1", "`crashfold config show` lists all there are"),
        ("kafka = 3", "kafka (file {file}) is a section: its settings stand in a table, [kafka]"),
        ('[engine]\nport = "9464"', "engine.port (file {file}) is '9464', which is not a whole number"),
        ("[engine]\nport = true", "engine.port (file {file}) is 'True', which is not a whole number"),
        ("[engine]\nshutdown_timeout_s = nan", "which is not a number from 0.1 to 600"),
        ("[projections]\nmin = 2", "which is not a list of numbers"),
        ('[[fairness.streams]]\nstrem = "x"', "unknown field `strem`"),
        ("[[fairness.streams]]\nfrom_game = 7", "missing required field `stream`"),
        ('[[fairness.streams]]\nstream = "x"\nfrom_game = 0', "from_game"),
        ('[[fairness.streams]]\nstream = "x"\nsalt = "a b"', "salt"),
        ('[[fairness.streams]]\nstream = "x"\nhouse_edge_percent = 100', "house_edge_percent"),
        ('[[fairness.streams]]\nstream = "a b"', "fairness.streams (file {file}) has 'a b', which is no stream name"),
        (
            '[[fairness.streams]]\nstream = "x"\n[[fairness.streams]]\nstream = "x"',
            "fairness.streams (file {file}) has two rules for x from game 1 on",
        ),
        ("[kafka]\n\ntopic = games", "given.toml is not TOML: Invalid value (at line 3, column 9)"),
        ("[kafka]\ntopic = ", "(at line 2, "),
        ('[kafka]\ntopic = """a\nb', "(at line 3, the end of the file)"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_what_would_do(tmp_path: Path, toml: str, expected: str) -> None:
    assert expected.format(file=tmp_path / "given.toml") in fault_of_toml(tmp_path, toml)


def test_rules_of_streams_come_from_tables_and_leave_out_what_is_as_for_all(tmp_path: Path) -> None:
    text = """
        [fairness]
        salt = "all"
        house_edge_percent = 2
        [[fairness.streams]]
        stream = "b"
        from_game = 500
        salt = "new"
        [[fairness.streams]]
        stream = "b"
        variant = "stake"
        house_edge_percent = 0
    """
    loaded = from_toml(tmp_path, text)
    rules = loaded.settings.fairness.rules
    assert rules.of("a").at(500) == Rule("all", "exact", 2)
    assert rules.of("b").at(499) == Rule("all", "stake", 0)
    assert rules.of("b").at(500) == Rule("new", "exact", 2)
    row = next(row for row in describe(loaded) if row.name == "fairness.streams")
    assert toml_value(row.value) == (
        '[{stream = "b", from_game = 500, salt = "new"}, {stream = "b", variant = "stake", house_edge_percent = 0}]'
    )
    again = from_toml(tmp_path, f"[fairness]\nsalt = 'all'\nhouse_edge_percent = 2\nstreams = {toml_value(row.value)}")
    assert again.settings == loaded.settings
    as_json = '[{"stream": "b", "from_game": 500, "salt": "new"}]'
    by_variable = load(None, {"CRASHFOLD_FAIRNESS__STREAMS": as_json}, {}).settings.fairness.rules
    assert by_variable.of("b").at(500).salt == "new"


def test_a_named_file_that_is_not_there_or_is_no_text_is_refused(tmp_path: Path) -> None:
    assert "none.toml cannot be read: No such file" in fault(file=tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    assert "bytes.toml is not UTF-8 at byte 0" in fault(file=tmp_path / "bytes.toml")


def test_a_flag_that_is_wrong_is_named() -> None:
    assert "api.ports (flag --api.ports) is no setting; the nearest is api.port" in fault(overrides={"api.ports": 1})


def test_everything_that_is_wrong_is_said_at_once() -> None:
    said = fault({"CRASHFOLD_ENGINE__PORT": "-1", "CRASHFOLD_LOG__LEVEL": "loud"}, {"kafka.topics": "x"})
    assert [line.split(" ")[0] for line in said.splitlines()] == ["engine.port", "log.level", "kafka.topics"]


def test_variables_that_kubernetes_makes_for_a_service_of_that_name_are_passed_over() -> None:
    environ = {
        "CRASHFOLD_SERVICE_HOST": "10.0.0.1",
        "CRASHFOLD_SERVICE_PORT_METRICS": "9464",
        "CRASHFOLD_PORT": "tcp://10.0.0.1:9464",
        "CRASHFOLD_API_PORT": "tcp://10.0.0.1:80",
        "CRASHFOLD_API_PORT_80_TCP": "tcp://10.0.0.1:80",
        "CRASHFOLD_API_PORT_80_TCP_ADDR": "10.0.0.1",
        "CRASHFOLD_API_PORT_80_TCP_PROTO": "tcp",
    }
    assert set(load(None, environ, {}).sources.values()) == {"default"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            {"CRASHFOLD_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:9092,kafka.example:9092"},
            "has kafka.example, which is not",
        ),
        ({"CRASHFOLD_KAFKA__BOOTSTRAP_SERVERS": "localhost"}, "has an address that is not host:port"),
        ({"CRASHFOLD_REDIS__URL": "redis://:hunter2@redis.example/0"}, "leads to redis.example, which is not loopback"),
        (
            {"CRASHFOLD_REDIS__URL": "http://localhost"},
            "does not begin with redis://, rediss:// (TLS), redis+sentinel:// or unix://",
        ),
        ({"CRASHFOLD_REDIS__URL": "redis://localhost:port"}, "redis.url (env CRASHFOLD_REDIS__URL)"),
        ({"CRASHFOLD_API__HOST": "0.0.0.0"}, "api.host (env CRASHFOLD_API__HOST) 0.0.0.0 is not loopback"),
    ],
)
def test_an_open_door_needs_an_explicit_word(environ: dict[str, str], expected: str) -> None:
    said = fault(environ)
    assert expected in said
    assert "hunter2" not in said


def test_the_explicit_word_or_tls_opens_it() -> None:
    KafkaSettings(bootstrap_servers="kafka.example:9092", allow_plaintext=True)
    KafkaSettings(bootstrap_servers="kafka.example:9093", security_protocol="SSL")
    KafkaSettings(bootstrap_servers="[::1]:9092, localhost:9093")
    RedisSettings(url="redis://redis.example", allow_plaintext=True)
    RedisSettings(url="rediss://redis.example")
    RedisSettings(url="unix:///run/redis.sock")
    ApiSettings(host="0.0.0.0", token="0123456789abcdef")
    ApiSettings(host="0.0.0.0", allow_anonymous=True)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("topic", {"topic": "a b"}),
        ("topic", {"topic": ".."}),
        ("dead_letter_topic", {"dead_letter_topic": "games"}),
        ("dead_letter_topic", {"dead_letter_topic": "a/b"}),
        ("heartbeat_interval_ms", {"heartbeat_interval_ms": 10_000}),
        ("ssl_keyfile", {"ssl_keyfile": "key.pem"}),
        ("sasl_plain_username", {"security_protocol": "SASL_SSL"}),
        ("sasl_plain_password", {"security_protocol": "SASL_SSL", "sasl_plain_username": "u"}),
        ("sasl_oauth_token_provider", {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}),
        ("sasl_oauth_token_provider", {"sasl_oauth_token_provider": "package.module:function"}),
        ("sasl_oauth_token_provider", {"sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_provider": "module"}),
        ("sasl_oauth_token_provider", {"sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_provider": "m:f()"}),
    ],
)
def test_kafka_settings_that_cannot_work_together_name_the_field(field: str, values: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError, match=rf"^{field} "):
        msgspec.convert(values, KafkaSettings)


@pytest.mark.parametrize("prefix", ["analytics", "a:{stream}", "{stream}:b", "A.b_c-1"])
def test_a_key_prefix_of_the_alphabet_with_one_stream_is_taken(prefix: str) -> None:
    assert RedisSettings(key_prefix=prefix).many_streams == ("{stream}" in prefix)


@pytest.mark.parametrize("prefix", ["", "a*", "a{b}", "{stream}{stream}", "a b", "a?", "[a]", "é", "a\n", "x" * 129])
def test_any_other_key_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match=r"^key_prefix "):
        RedisSettings(key_prefix=prefix)


def test_no_secret_is_shown_by_describe_or_by_a_repr(tmp_path: Path) -> None:
    loaded = from_toml(
        tmp_path,
        '[redis]\nurl = "redis://user:hunter2@localhost/0"\npassword = "hunter2"\n'
        '[kafka]\nsasl_plain_password = "hunter2"\nssl_password = "hunter2"\n[api]\ntoken = "hunter2hunter2hunter2"\n',
    )
    rows = {row.name: row for row in describe(loaded)}
    assert rows["redis.password"].value == "***"
    assert rows["redis.url"].value == "redis://user:***@localhost/0"
    assert rows["kafka.topic"].value == "games"
    assert "hunter2" not in repr(rows)
    assert "hunter2" not in repr(loaded)
    assert "hunter2" not in pretty_repr(loaded)
    assert loaded.settings.redis.password == "hunter2"


def test_a_secret_that_would_not_do_is_not_shown_either(tmp_path: Path) -> None:
    assert "hunter2" not in fault({"CRASHFOLD_API__TOKEN": "hunter2"})
    assert "hunter2" not in fault({"CRASHFOLD_REDIS__URL": "redis://:hunter2/x@localhost"})
    assert "31337" not in fault_of_toml(tmp_path, "[redis]\npassword = 31337")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:p@ss/w:rd@localhost/0", "redis://:***@localhost/0"),
        ("rediss://user:x@h", "rediss://user:***@h"),
        ("unix:///run/r.sock?password=x&db=1", "unix:///run/r.sock?password=***&db=1"),
        ("u:secret@host:1/0", "u:***@host:1/0"),
        ("redis://secret@host", "redis://***@host"),
        ("secret@host", "***@host"),
        ("redis:/:secret@host", "redis:/:***@host"),
        ("redis://h/0?p%61ssword=x", "redis://h/0?p%61ssword=***"),
        ("rediss://h?ssl_password=x&ssl_ca_certs=ca.pem", "rediss://h?ssl_password=***&ssl_ca_certs=ca.pem"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    assert masked_url(url) == shown


@pytest.mark.parametrize(
    ("server", "host"),
    [("a:1", "a"), (" a.b:9092 ", "a.b"), ("[::1]:9092", "::1"), ("a", None), ("a:x", None), ("", None), ("a:0", None)],
)
def test_the_host_of_a_server(server: str, host: str | None) -> None:
    assert host_of(server) == host


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot reach redis://u:p@ss@h:1/0 now", "cannot reach redis://u:***@h:1/0 now"),
        ("cannot reach redis://secret@h now", "cannot reach redis://***@h now"),
        ("cannot reach u:secret@h:1/0", "cannot reach u:***@h:1/0"),
        ("at offset 5:7, game a@b", "at offset 5:7, game a@b"),
    ],
)
def test_a_text_is_shown_without_the_passwords_in_it(text: str, shown: str) -> None:
    assert masked_text(text) == shown


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://h?foo=bar", "option foo"),
        ("redis://h?ssl=true", "option ssl"),
        ("redis://h?decode_responses=true", "option decode_responses"),
        ("redis://h?protocol=3", "option protocol"),
        ("redis://h?ssl_ca_certs=x", "rediss://"),
        ("redis://h/one", "database"),
        ("redis://h/0?db=1", "two databases"),
        ("redis://h?db=-1", "database"),
        ("redis://h:65536", "port"),
        ("redis://h:0", "no host"),
        ("redis://h:x", "port"),
        ("redis://", "no host"),
        ("redis://[::1", "no address"),
        ("redis://a..b", "no host"),
        ("redis://secret@h", "user without a password"),
        ("redis://:a@h?password=b", "password before the host"),
        ("redis://h?db=1&db=2", "twice"),
        ("redis://h/0#x", "%23"),
        ("unix://", "unix:///path"),
        ("unix://host/path", "unix:///path"),
        ("u:secret@h:1/0", "redis://"),
        (" redis://h", "blanks"),
        ("redis://h\n", "blanks"),
        ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs"),
        ("rediss://h?ssl_check_hostname=maybe", "ssl_check_hostname"),
    ],
)
def test_a_redis_url_that_cannot_work_is_refused_and_says_why(url: str, told: str) -> None:
    with pytest.raises(ValueError, match=r"^url ") as raised:
        RedisSettings(url=url, allow_plaintext=True)
    assert told in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_redis_url_is_read_whole() -> None:
    address = redis_address("rediss://u%40:p%3A@[::1]:7/3?client_name=c&ssl_ca_certs=a.pem&ssl_check_hostname=no")
    assert address == RedisAddress(
        tls=True,
        host="::1",
        port=7,
        path="",
        db=3,
        username="u@",
        password="p:",
        client_name="c",
        tls_options={"ca_certs": "a.pem", "check_hostname": False},
    )
    assert redis_address("unix:///run/r%20s.sock?db=2").path == "/run/r s.sock"


def test_loopback_is_this_machine_alone() -> None:
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.8.8.8", "::1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "10.0.0.1", "localhost.example", "::", ""))


def test_every_setting_says_what_it_is_and_what_would_do() -> None:
    for setting in settings_by_name().values():
        assert setting.description.endswith("."), setting.name
        assert setting.wants, setting.name


def test_every_default_would_do_when_given() -> None:
    for setting in settings_by_name().values():
        text = printed(setting.default)
        assert setting.convert(text, from_text=True) == setting.default, setting.name


def test_the_settings_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == markdown(), "run: python -m crashfold.engine.settings > docs/settings.md"
