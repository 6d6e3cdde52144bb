"""Loading: the defaults, a TOML file over them, environment variables over that, flags over all.

May import the tree and the catalogue. The one thing that is always true: every value keeps its source, right or wrong.
"""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from crashfold.engine.errors import ConfigurationError
from crashfold.engine.settings.catalogue import (
    CONFIG_VARIABLE,
    DEFAULT_FILE,
    VARIABLE_PREFIX,
    Setting,
    sections,
    settings_by_name,
)
from crashfold.engine.settings.tree import Settings


class Loaded(msgspec.Struct, frozen=True):
    """The settings as they were loaded, and for each name (`section.field`) its source: `default`, `file X`, `env NAME`
    or `flag --x`."""

    settings: Settings
    sources: dict[str, str]


class SettingRow(msgspec.Struct, frozen=True):
    """One setting as `crashfold config show` prints it, secrets masked. `value` and `default` are plain JSON values."""

    name: str
    value: object
    source: str
    default: object
    description: str


def load(config_file: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object]) -> Loaded:
    """Load the settings from defaults, file, environment and flags. `overrides` are flags by `section.field`; one that
    is None was not given.

    The file is `config_file`, else the one that CRASHFOLD_CONFIG names, else `crashfold.toml` in the working directory
    when there is one. Raises ConfigurationError with one line for each thing that is wrong.
    """
    values: dict[str, dict[str, object]] = {section: {} for section in sections()}
    sources = dict.fromkeys(settings_by_name(), "default")
    faults = []
    for given in (*_from_file(config_file, environ), *_from_environment(environ), *_from_flags(overrides)):
        setting = settings_by_name().get(given.name)
        if setting is None:
            faults.append(_unknown(given))
            continue
        try:
            str(given.value).encode()  # arguments and variables may hold bytes that are no text
            values[setting.section][setting.field] = setting.convert(given.value, from_text=given.from_text)
        except (msgspec.MsgspecError, UnicodeEncodeError) as error:
            faults.append(_would_not_do(setting, given, error))
        sources[setting.name] = given.source
    if faults:
        raise ConfigurationError("\n".join(faults))
    return Loaded(_built(values, sources), sources)


def describe(loaded: Loaded) -> list[SettingRow]:
    """List every setting with its value and source, in the order of the tree; secrets masked."""
    return [
        SettingRow(
            setting.name,
            setting.masked(getattr(getattr(loaded.settings, setting.section), setting.field)),
            loaded.sources[setting.name],
            setting.masked(setting.default),
            setting.description,
        )
        for setting in settings_by_name().values()
    ]


class _Given(NamedTuple):
    """A value that some layer gives to a name, right or wrong."""

    name: str
    value: object
    source: str
    from_text: bool

    def __str__(self) -> str:
        return f"{self.name} ({self.source})"


def _from_file(config_file: Path | None, environ: Mapping[str, str]) -> Iterator[_Given]:
    named = config_file or environ.get(CONFIG_VARIABLE)
    path = Path(named or DEFAULT_FILE)
    if not named and not path.exists():
        return
    for section, table in _read_toml(path).items():
        if isinstance(table, dict):
            for field, value in table.items():
                yield _Given(f"{section}.{field}", value, f"file {path}", from_text=False)
        else:
            yield _Given(section, table, f"file {path}", from_text=False)


def _read_toml(path: Path) -> dict[str, Any]:
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text)
    except OSError as error:
        raise ConfigurationError(f"the settings file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"the settings file {path} is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise ConfigurationError(f"the settings file {path} is nested too deeply") from None
    except ValueError as error:  # a TOMLDecodeError, or a number of thousands of digits
        fault = str(error).replace("at end of document", f"at line {len(text.splitlines())}, the end of the file")
        raise ConfigurationError(f"the settings file {path} is not TOML: {fault}") from None


def _from_environment(environ: Mapping[str, str]) -> Iterator[_Given]:
    for variable, value in sorted(environ.items()):
        if not variable.startswith(VARIABLE_PREFIX) or variable == CONFIG_VARIABLE or _is_link(variable, value):
            continue
        name = variable.removeprefix(VARIABLE_PREFIX).lower().replace("__", ".", 1)
        source = f"env {variable}"
        if name in settings_by_name() or name.removesuffix("_file") not in settings_by_name():
            yield _Given(name, value, source, from_text=True)
            continue
        name, plain_variable = name.removesuffix("_file"), variable.removesuffix("_FILE")
        if plain_variable in environ:
            raise ConfigurationError(f"{name} is given twice, by {plain_variable} and by {variable}: remove one")
        yield _Given(name, _content(Path(value), f"{name} ({source})"), source, from_text=True)


def _content(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConfigurationError(f"{what}: the file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{what}: the file {path} is not UTF-8 at byte {error.start}") from None


def _is_link(variable: str, value: str) -> bool:
    """Whether Kubernetes or Docker made the variable for a service that happens to be called crashfold or so."""
    if "__" in variable:
        return False
    if re.fullmatch(r"\w+_PORT(_\d+_(TCP|UDP|SCTP))?", variable):
        return re.match(r"(tcp|udp|sctp)://", value) is not None
    made = r"\w+_(SERVICE_HOST|SERVICE_PORT\w*|PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR))"
    return re.fullmatch(made, variable) is not None


def _from_flags(overrides: Mapping[str, object]) -> Iterator[_Given]:
    for name, value in overrides.items():
        if value is not None:
            yield _Given(name, value, f"flag --{name}", from_text=True)


def _built(values: Mapping[str, dict[str, object]], sources: Mapping[str, str]) -> Settings:
    """The tree of these values. Raises ConfigurationError when they break a rule of their section."""
    built, faults = {}, []
    for section, kind in sections().items():
        try:
            built[section] = kind(**values[section])
        except ValueError as error:
            field = re.split(r"\W", str(error), maxsplit=1)[0]
            fault = str(error).removeprefix(field).lstrip(": ")
            faults.append(f"{section}.{field} ({sources[f'{section}.{field}']}) {fault}")
    if faults:
        raise ConfigurationError("\n".join(faults))
    return msgspec.convert(built, Settings)


def _would_not_do(setting: Setting, given: _Given, error: Exception) -> str:
    if setting.is_secret:
        return f"{given} is not {setting.wants}"
    value = setting.masked(given.value) if isinstance(given.value, str) else given.value
    why = f": {error}" if setting.holds_tables else ""
    return f"{given} is {str(value)[:80]!r}, which is not {setting.wants}{why}"


def _unknown(given: _Given) -> str:
    if given.name in sections():
        return f"{given} is a section: its settings stand in a table, [{given.name}]"
    if given.source.startswith("env "):
        variable = given.source.removeprefix("env ")
        nearest = difflib.get_close_matches(variable, [known.variable for known in settings_by_name().values()], n=1)
        return f"{variable} (environment) names no setting; {_hint(nearest)}"
    by_field = {known.field: known.name for known in settings_by_name().values()}
    nearest = difflib.get_close_matches(given.name, settings_by_name(), n=1)
    nearest = nearest or [
        by_field[field] for field in difflib.get_close_matches(given.name.rpartition(".")[2], by_field, n=1)
    ]
    return f"{given} is no setting; {_hint(nearest)}"


def _hint(nearest: list[str]) -> str:
    return f"the nearest is {nearest[0]}" if nearest else "`crashfold config show` lists all there are"
