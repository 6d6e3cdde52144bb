"""`crashfold config show`: every setting, its value, and where it came from."""

from collections.abc import Iterator
from itertools import groupby

import msgspec
from cyclopts import App

from crashfold.engine.cli import options, output
from crashfold.engine.cli.options import Common
from crashfold.engine.settings import Loaded, describe, settings_by_name, toml_value
from crashfold.engine.terminal import visible

app = App(name="config", help="Look at the settings.")


@app.command
def show(*, json: bool = False, common: Common | None = None) -> None:
    """Show every setting, its value and where it came from, as a settings file that can be used; secrets are masked.

    Parameters
    ----------
    json
        Print them as JSON.
    """
    loaded = options.loaded(common)
    if json:
        output.print_json(describe(loaded))
    else:
        output.print_script("\n".join(toml(loaded)))


def toml(loaded: Loaded) -> Iterator[str]:
    """The lines of a settings file that gives the same settings, but for what is masked, which stands in comments."""
    for section, rows in groupby(describe(loaded), key=lambda row: row.name.partition(".")[0]):
        yield f"[{section}]"
        for row in rows:
            setting = settings_by_name()[row.name]
            line = f"{setting.field} = {toml_value(row.value)}  # {visible(row.source)}"
            is_whole = row.value == msgspec.to_builtins(getattr(getattr(loaded.settings, section), setting.field))
            yield line if is_whole else f"# {line}, masked: give it by {setting.variable}_FILE"
        yield ""
