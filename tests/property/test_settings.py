"""Settings of any shape are taken or refused by name; nothing ends in a traceback."""

import re

from hypothesis import given
from hypothesis import strategies as st

from crashfold.engine.adapters.kafka.client import connection_options
from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.errors import ConfigurationError
from crashfold.engine.settings import RedisSettings, load, settings_by_name

SCRAPS = st.sampled_from(
    [
        *("redis://", "rediss://", "unix://", "http", "u", ":", "@", "/", "?", "&", "=", "#", "%", "%41", "[", "]"),
        *("h", "127.0.0.1", "::1", "99999", "6379", "-1", "db=1", "ssl_ca_certs=/x", "ssl_certfile=/", "password=p"),
        *("SSL", "true", "{stream}", "\x00", "\n", " ", "é", "\u202e", "\ud800"),
    ]
)


@given(st.lists(SCRAPS, max_size=8).map("".join))
def test_any_redis_url_makes_a_client_or_is_refused_naming_the_setting(url: str) -> None:
    told = ""
    try:
        settings = RedisSettings(url=url, allow_plaintext=True)
        RedisStore(settings.url, password=settings.password)
    except (ValueError, ConfigurationError) as error:
        told = str(error).removeprefix("redis.")
    assert told == "" or re.match("url[ :]", told)


FIELDS = [(setting.section, setting.field) for setting in settings_by_name().values()]


@given(st.dictionaries(st.sampled_from(FIELDS), st.lists(SCRAPS, max_size=5).map("".join), max_size=3))
def test_any_values_of_any_settings_are_taken_or_refused_naming_setting_and_source(
    values: dict[tuple[str, str], str],
) -> None:
    flags = {f"{section}.{field}": value for (section, field), value in values.items()}
    told = ""
    try:
        connection_options(load(None, {}, flags).settings.kafka)
    except ConfigurationError as error:
        told = str(error)
    for line in told.splitlines():
        assert re.match(r"[a-z]+\.[a-z_0-9]+( \(flag --|: )", line), line
