"""The command line: `crashfold COMMAND`. How errors end it, and with which exit code.

0 done · 1 failed · 2 usage · 75 try again · 78 configuration or state. `verify`: 0 equal, 1 differs, 2 cannot compare.
"""

import sys
from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError

from benchmarks.harness import app as bench_app
from engine.cli.config import app as config_app
from engine.cli.dead_letters import app as dead_letters_app
from engine.cli.demo import demo
from engine.cli.doctor import doctor
from engine.cli.options import note, with_settings_as_flags
from engine.cli.publish import publish
from engine.cli.replay import replay
from engine.cli.run import run
from engine.cli.serve import serve
from engine.cli.status import status
from engine.cli.verify import verify
from engine.errors import CrashfoldError

USAGE = 2

app = App(
    name="crashfold",
    help="Precomputed analytics for crash games: Kafka in, exactly-once aggregates in Redis out.",
    version=version("crashfold"),
    help_format="plaintext",
    result_action="return_value",
)
for command in (run, serve, replay, verify, publish, demo, status, doctor):
    app.command(command)
app.command(dead_letters_app)
app.command(config_app)
app.command(bench_app)


def main(tokens: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code."""
    sys.exit(exit_code(sys.argv[1:] if tokens is None else tokens))


def exit_code(tokens: Sequence[str]) -> int:
    """Run a command; the exit code. What went wrong is said on standard error."""
    try:
        return app(with_settings_as_flags(tokens), exit_on_error=False) or 0
    except CycloptsError:
        return USAGE  # it has been printed, with what would do
    except CrashfoldError as error:
        return _failed(error)
    except BaseExceptionGroup as group:
        # Task groups wrap what one of their tasks raised.
        ours, others = group.split(CrashfoldError)
        if others is not None or ours is None:
            raise
        return _failed(_first(ours))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # whoever read the output has gone
        return 1


def _failed(error: CrashfoldError) -> int:
    note(f"crashfold: {error}")
    return error.exit_code


def _first(group: BaseExceptionGroup[CrashfoldError]) -> CrashfoldError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, CrashfoldError)
    return error
