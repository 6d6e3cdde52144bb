"""Settings from a file and the environment: taken, or refused by name; what is taken can be written and read again.

The input is a TOML file, and behind a zero byte lines `NAME=value` of the environment, without `CRASHFOLD_`.
"""

import re
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

import msgspec

from crashfold.engine.cli.config import toml
from crashfold.engine.errors import ConfigurationError
from crashfold.engine.settings import describe, load, settings_by_name

SECRET: Final = "Zq9Zq9Zq9Zq9Zq9Zq9"
SECRETS: Final = [one.name for one in settings_by_name().values() if one.is_secret]
TOKENS: Final = (
    *(f"[{section}]\n".encode() for section in sorted({one.section for one in settings_by_name().values()})),
    *(f"{one.field} = ".encode() for one in settings_by_name().values()),
    *(f"{one.section}__{one.field}=".upper().encode() for one in settings_by_name().values()),
    *(
        SECRET.encode(),
        b'""',
        b"'''",
        b"true",
        b"[1, 2]",
        b"{stream}",
        b"rediss://h/1",
        b"localhost:9092",
        b"SASL_SSL",
        b"1e3",
        b"0x10",
    ),
)
_FAULT: Final = re.compile(
    r"the settings file |CRASHFOLD_.+ names no setting; |.+ is no setting; |.+ is a section: |"
    r"[a-z]+\.[a-z_0-9]+ (\(|is given)",
    re.DOTALL,
)
_FILE: Final = Path(mkdtemp(prefix="crashfold-fuzz-"), "crashfold.toml")


def check(data: bytes) -> None:
    """Load the settings; write what came of it as a file, and load that."""
    text, _, lines = data.partition(b"\0")
    _FILE.write_bytes(text)
    try:
        loaded = load(_FILE, environment(lines), {})
    except ConfigurationError as error:
        told = str(error)
        assert _FAULT.match(told), told
        assert not any(f"{name} " in told and SECRET in told.partition(f"{name} ")[2] for name in SECRETS), told
        return
    rows = describe(loaded)
    values = {
        name: getattr(getattr(loaded.settings, one.section), one.field) for name, one in settings_by_name().items()
    }
    if not any(SECRET in str(value) for name, value in values.items() if name not in SECRETS):
        assert SECRET not in str(rows) + repr(loaded.settings)
    _FILE.write_text("\n".join(toml(loaded)), encoding="utf-8")
    again = load(_FILE, {}, {})
    for row in rows:
        setting, before = settings_by_name()[row.name], values[row.name]
        after = getattr(getattr(again.settings, setting.section), setting.field)
        is_shown = msgspec.to_builtins(before) == row.value
        assert after == (before if is_shown else setting.default), f"{row.name}: {before!r} was read again as {after!r}"


def environment(lines: bytes) -> dict[str, str]:
    """The variables that the lines set; none that leads to a file."""
    found = {}
    for line in lines.decode("utf-8", "surrogateescape").split("\n"):
        name, equals, value = line.partition("=")
        if equals and not name.endswith(("_FILE", "CONFIG")) and "\0" not in value:
            found[f"CRASHFOLD_{name}"] = value
    return found
