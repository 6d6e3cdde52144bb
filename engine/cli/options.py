"""Shared parts of the commands: flags, the sources of settings, and the event loop."""

import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from os import environ
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import anyio
from cyclopts import Parameter

from crashfold.engine import logs
from crashfold.engine.errors import ConfigurationError
from crashfold.engine.runtime.garbage import look_at_what_is_new
from crashfold.engine.settings import Loaded, Settings, load, settings_by_name

T = TypeVar("T")

SET: Final = "--set"
"""How `--kafka.topic games` reaches a command, as `--set kafka.topic=games`: any setting can be given as a flag."""


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """Flags that every command takes."""

    config: Annotated[
        Path | None, Parameter(help="TOML file of settings (otherwise crashfold.toml, if there is one).")
    ] = None
    set: Annotated[
        tuple[str, ...],
        Parameter(help="A setting, as section.name=value; `--section.name value` is the same.", negative=""),
    ] = ()


def loaded(common: Common | None) -> Loaded:
    """The settings for a command, with logs configured by them. Raises ConfigurationError."""
    common = common or Common()
    found = load(common.config, environ, overrides_of(common))
    logs.configure(found.settings.log)
    return found


def settings(common: Common | None) -> Settings:
    """`loaded`, when the sources do not matter."""
    return loaded(common).settings


def run(function: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
    """Run a coroutine function to its end, on uvloop."""
    look_at_what_is_new()
    use_uvloop = sys.platform != "win32"
    return anyio.run(partial(function, *args, **kwargs), backend_options={"use_uvloop": use_uvloop})


def with_settings_as_flags(tokens: Sequence[str]) -> list[str]:
    """The command line with every `--section.name value` (or `=value`) put as `--set section.name=value`."""
    expanded: list[str] = []
    rest = iter(tokens)
    for token in rest:
        if token == "-" and tokens[0] == "publish":
            token = "/dev/stdin"  # the parser takes a hyphen for a flag
        name, equals, value = token.partition("=")
        if not (name.startswith("--") and "." in name):
            expanded.append(token)
            continue
        if not equals:
            value = next(rest, "")
        expanded += [SET, f"{name[2:]}={value}"]
    return expanded


def environment_of(common: Common | None) -> dict[str, str]:
    """The environment that gives another process the same settings as these flags, except for the file's. Everybody may
    read a process's arguments, and these may have passwords in them."""
    variables = {setting.name: setting.variable for setting in settings_by_name().values()}
    given = {variables[name]: value for name, value in overrides_of(common or Common()).items() if name in variables}
    kept = {name: value for name, value in environ.items() if name.removesuffix("_FILE") not in given}
    return kept | given


def tokens_of(common: Common | None) -> list[str]:
    """The words that give another command the same settings file."""
    return [] if common is None or common.config is None else ["--config", str(common.config)]


def overrides_of(common: Common) -> dict[str, str]:
    """The settings given as flags, by name. Raises ConfigurationError for what is none."""
    overrides = {}
    for assignment in common.set:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigurationError(f"--set {assignment}: write section.name=value, such as --set kafka.topic=games")
        overrides[name.strip()] = value
    return overrides
