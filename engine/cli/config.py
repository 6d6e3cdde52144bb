"""`crashfold config show`: every setting, its value, and where it came from."""

from cyclopts import App

from engine.cli import options, output
from engine.cli.options import Common
from engine.settings import describe

app = App(name="config", help="Look at the settings.")


@app.command
def show(*, json: bool = False, common: Common | None = None) -> None:
    """Show every setting, its value and where it came from; secrets are masked.

    Parameters
    ----------
    json
        Print them as JSON.
    """
    rows = describe(options.loaded(common))
    if json:
        output.print_json(rows)
        return
    output.print_table("settings", ("name", "value", "source"), [(row.name, row.value, row.source) for row in rows])
