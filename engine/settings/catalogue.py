"""A catalogue of the settings: name, type, default, description and valid values of each; and the page of all of them.

May import the tree. The one thing that is always true: nothing is said twice, everything is read off the tree.
"""

import json
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin

import msgspec

from crashfold.engine.settings.tree import Settings, masked, meta_of, plain_type

VARIABLE_PREFIX: Final = "CRASHFOLD_"
CONFIG_VARIABLE: Final = "CRASHFOLD_CONFIG"
"""The one variable that is no setting: the path of the TOML file, when there is no flag `--config`."""
DEFAULT_FILE: Final = "crashfold.toml"
"""Read from the working directory when no other file is named."""


class Setting(NamedTuple):
    """One setting: its name, type, default and description."""

    section: str
    field: str
    kind: Any
    default: object
    description: str
    wants: str
    """The valid values, in words that fit after "is not"."""

    @property
    def name(self) -> str:
        """The name of the setting, such as `kafka.topic`."""
        return f"{self.section}.{self.field}"

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"{VARIABLE_PREFIX}{self.section}__{self.field}".upper()

    @property
    def is_secret(self) -> bool:
        """Whether the value must never be shown."""
        return bool((meta_of(self.kind).extra or {}).get("secret"))

    @property
    def holds_tables(self) -> bool:
        """Whether it is a list of tables, each with names of its own."""
        items = get_args(plain_type(self.kind))
        return bool(items) and isinstance(items[0], type) and issubclass(items[0], msgspec.Struct)

    def masked(self, value: object) -> object:
        """The value as it may be shown, a plain JSON value."""
        return msgspec.to_builtins(masked(value, self.kind))

    def convert(self, value: object, *, from_text: bool) -> object:
        """Convert a value to the type of the setting and check its bounds; a text is parsed when `from_text`.

        Raises msgspec.MsgspecError when it would not do.
        """
        if not from_text or not isinstance(value, str):
            return msgspec.convert(value, self.kind)
        plain = plain_type(self.kind)
        if get_origin(plain) is tuple:
            return msgspec.convert(_items(value), self.kind, strict=False)
        is_word = plain is str or get_origin(plain) is Literal
        return msgspec.convert(value if is_word else value.strip(), self.kind, strict=False)


@cache
def sections() -> Mapping[str, type[msgspec.Struct]]:
    """The sections by name, in the order of the tree."""
    return MappingProxyType({field.name: field.type for field in msgspec.structs.fields(Settings)})


@cache
def settings_by_name() -> Mapping[str, Setting]:
    """Every setting by `section.field`, in the order of the tree."""
    found = [_setting(section, field) for section, kind in sections().items() for field in msgspec.structs.fields(kind)]
    return MappingProxyType({setting.name: setting for setting in found})


def printed(value: object) -> str:
    """Format a plain value as TOML, but a text without quotes."""
    match value:
        case str():
            return value
        case float():
            return str(int(value)) if value.is_integer() else repr(value)
        case list() | tuple():
            return f"[{', '.join(json.dumps(item) if isinstance(item, str) else printed(item) for item in value)}]"
        case dict():
            return f"{{{', '.join(f'{name} = {toml_value(item)}' for name, item in value.items())}}}"
        case _:
            return json.dumps(value)


def toml_value(value: object) -> str:
    """Format a plain value as TOML."""
    match value:
        case str():
            return '"' + "".join(_toml_character(char) for char in value) + '"'
        case list() | tuple():
            return f"[{', '.join(map(toml_value, value))}]"
        case _:
            return printed(value)


def _toml_character(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return char if char.isprintable() else f"\\U{ord(char):08x}"


def markdown() -> str:
    """Write the page docs/settings.md: every setting with its default and description."""
    lines = [_PAGE_HEAD]
    for section, kind in sections().items():
        summary = (kind.__doc__ or "").splitlines()[0]
        lines += [f"## [{section}]", "", summary, ""]
        lines += ["| name | default | what would do | what it is |", "|---|---|---|---|"]
        lines += [_line(setting) for setting in settings_by_name().values() if setting.section == section]
        lines.append("")
    return "\n".join(lines)


def _line(setting: Setting) -> str:
    default = printed(setting.masked(setting.default))
    shown = f"`{default}`" if default else "empty"
    return f"| `{setting.name}` | {shown} | {setting.wants} | {setting.description} |"


def _setting(section: str, field: msgspec.structs.FieldInfo) -> Setting:
    meta = meta_of(field.type)
    if section == "projections":
        description, wants = _PROJECTIONS[field.name]
    else:
        description, wants = meta.description or "", (meta.extra or {}).get("wants") or _wants(field.type)
    return Setting(section, field.name, field.type, field.default, description, wants)


def _wants(kind: Any) -> str:
    meta, plain = meta_of(kind), plain_type(kind)
    if get_origin(plain) is Literal:
        return "one of " + ", ".join(get_args(plain))
    if get_origin(plain) is tuple:
        return "a list of texts"
    bounds = "" if meta.ge is None else f" from {meta.ge} to {meta.le}"
    length = f" of {meta.min_length} to {meta.max_length} characters" if meta.min_length else ""
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[plain] + bounds + length


def _items(text: str) -> object:
    """The items of a list written as JSON or separated by commas."""
    if text.strip().startswith("["):
        return msgspec.json.decode(text)
    return [item.strip() for item in text.split(",") if item.strip()]


_PROJECTIONS: Final = {
    "min": ("Thresholds v of the predicates crash point ≥ v.", "a list of numbers from 1 to 10^9"),
    "max": ("Thresholds v of the predicates crash point ≤ v.", "a list of numbers from 1 to 10^9"),
    "floor": ("Numbers n of the predicates ⌊crash point⌋ = n.", "a list of whole numbers from 1 to 10^9"),
    "range": ("Ranges a-b of the predicates a ≤ crash point ≤ b.", "a list of texts such as 2-5 and 10-20"),
    "samples_games": (
        "Samples of the last so many games.",
        "a list of whole numbers from 1 to `projections.window_games`",
    ),
    "samples_hours": ("Samples of the last so many hours.", "a list of whole numbers from 1 to 168"),
    "interval_minutes": ("Length of an interval, in minutes.", "a whole number that divides 1440"),
    "interval_hours": ("Hours of intervals that are kept.", "a whole number from 1 to 168"),
    "window_games": ("Games that are kept whole.", "a whole number from 1 to 10000000"),
    "future_hours_max": (
        "A game that ends more hours than this after its record's timestamp is a dead letter; 0: however long.",
        "a whole number from 0 to 1000000",
    ),
    "own": (
        "Projections of other packages: names of their entry points `crashfold.projections`, or `*` for all of them.",
        "a list of names, of `module:object`, or `*`",
    ),
}
"""`ProjectionSettings` belongs to the pure library, which has no words for operators: description, what would do."""

_PAGE_HEAD: Final = f"""# Settings

Made from `engine/settings/tree.py` by `python -m crashfold.engine.settings > docs/settings.md`; change it there.

Every value comes from the last of these that gives one:

1. the default below;
2. a TOML file: `--config FILE`, else the file that `{CONFIG_VARIABLE}` names, else `{DEFAULT_FILE}` in the working
   directory when there is one. A section is a table: `[kafka]`, then `topic = "games"`;
3. the environment: `{VARIABLE_PREFIX}<SECTION>__<NAME>`, such as `{VARIABLE_PREFIX}KAFKA__TOPIC`. Lists are
   separated by commas or written as JSON. With `_FILE` at the end the variable names a file that holds the value, for
   secrets; the line break at its end is taken off. Variables that Kubernetes makes for a service of that name are
   passed over;
4. flags.

`crashfold config show` prints every value and where it came from, secrets masked. A setting that does not exist, or a
value that would not do, ends every command with exit code 78 and a line that says what would.

Changing anything under `projections` changes the stored state: the engine refuses to start on the old one and names the
command that rebuilds it.
"""
