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
    from engine.cli.main import main as run

    run()


def end_with_0_on_signal() -> None:
    """Until somebody else takes the signals over."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
