"""The entry point of the command: a signal that comes while Python still imports ends a service in good order.

Imports the standard library only, and the rest once it has done that. Nothing has been begun then, so nothing is lost:
`run` and `serve` end with 0, as they do later. Other commands did not do what they were asked, and end as any process.
"""

import os
import signal
import sys
from typing import Final

SERVICES: Final = ("run", "serve")


def main() -> None:
    """Run the command of `sys.argv`."""
    if sys.argv[1:2] and sys.argv[1] in SERVICES:
        end_with_0_on_signal()
    try:
        from crashfold.engine.cli.main import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "crashfold":
            raise
        sys.exit(f"crashfold: {error}. The commands need more than the library: pip install 'crashfold[server]'")
    run()


def end_with_0_on_signal() -> None:
    """Until somebody else takes the signals over."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
