"""The command line: `crashfold COMMAND`. How errors end it, and with which exit code.

0 done · 1 failed · 2 usage · 75 try again · 78 configuration or state. `verify`: 0 equal, 1 differs, 2 cannot compare.
"""

import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Literal

from cyclopts import App, CycloptsError, Parameter

from crashfold.engine.cli.config import app as config_app
from crashfold.engine.cli.dead_letters import app as dead_letters_app
from crashfold.engine.cli.demo import demo
from crashfold.engine.cli.doctor import doctor
from crashfold.engine.cli.options import with_settings_as_flags
from crashfold.engine.cli.output import help_console, print_error, print_script, print_traceback, standard_streams
from crashfold.engine.cli.publish import publish
from crashfold.engine.cli.replay import replay
from crashfold.engine.cli.run import run
from crashfold.engine.cli.serve import serve
from crashfold.engine.cli.status import status
from crashfold.engine.cli.verify import verify
from crashfold.engine.errors import CrashfoldError, StateError, Unavailable
from crashfold.engine.settings import masked_text
from crashfold.projections import ProjectionFault

USAGE = 2


def _default_shown(value: object) -> str | None:
    """A default in the help; none that says no more than that a flag was not given."""
    return None if value in (None, False, ()) else str(value)


app = App(
    name="crashfold",
    help="Precomputed analytics for crash games: Kafka in, exactly-once aggregates in Redis out.",
    version=version("crashfold"),
    help_format="plaintext",
    result_action="return_value",
    console=help_console(),
    default_parameter=Parameter(negative=(), show_default=_default_shown),
)


def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print the completion script of a shell: `eval "$(crashfold completion bash)"`, or write it where the shell looks.

    Parameters
    ----------
    shell
        bash, zsh or fish.
    """
    print_script(app.generate_completion(shell=shell))


for command in (run, serve, replay, verify, publish, demo, status, doctor, completion):
    app.command(command)
app.command(dead_letters_app)
app.command(config_app)


def no_bench(*_: str) -> int:
    """Measure: the benchmarks are in a checkout of Crashfold, not in what is installed."""
    print_error("crashfold: the benchmarks are not installed: clone the repository and run `make bench` there")
    return USAGE


if (Path(__file__).resolve().parents[2] / "benchmarks" / "harness.py").exists():
    app.command("benchmarks.harness:app", name="bench", help="Measure, compare and draw. See docs/performance.md.")
else:
    app.command(no_bench, name="bench")


def main(tokens: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code."""
    with standard_streams():
        sys.excepthook = _defect
        sys.exit(exit_code(sys.argv[1:] if tokens is None else tokens))


def exit_code(tokens: Sequence[str]) -> int:
    """Run a command; the exit code. What went wrong is said on standard error."""
    try:
        return app(with_settings_as_flags(tokens), exit_on_error=False, print_error=False) or 0
    except CycloptsError as error:
        print_error(f"crashfold: {error}")
        print_error("`crashfold --help` lists the commands, `crashfold COMMAND --help` what each takes")
        return USAGE
    except (CrashfoldError, ProjectionFault) as error:
        return _failed(error)
    except BaseExceptionGroup as group:
        # Task groups wrap what one of their tasks raised.
        ours, others = group.split((CrashfoldError, ProjectionFault))
        if others is not None or ours is None:
            raise
        return _failed(_first(ours))
    except KeyboardInterrupt:
        return 130


def _failed(error: CrashfoldError | ProjectionFault) -> int:
    print_error(f"crashfold: {error}")
    if isinstance(error, ProjectionFault):
        return StateError.exit_code
    if isinstance(error, Unavailable):
        print_error("the command has ended and does not wait for it: run it again once it answers")
    return error.exit_code


def _first(group: BaseException) -> CrashfoldError | ProjectionFault:
    error = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, CrashfoldError | ProjectionFault)
    return error


def _defect(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print what nobody expected: without secrets, and with no control characters from whatever data caused it."""
    print_traceback(masked_text("".join(traceback.format_exception(kind, error, trace))))
