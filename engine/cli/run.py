"""`crashfold run`: the engine as a service."""

from pathlib import Path

from engine.cli import options
from engine.cli.bootstrap import run_engine
from engine.cli.options import Common


def run(
    *, until_caught_up: bool = False, accept_gap: bool = False, file: Path | None = None, common: Common | None = None
) -> None:
    """Fold games from the topic into Redis until told to stop (SIGTERM or Ctrl-C).

    Parameters
    ----------
    until_caught_up
        Commit all that stood on the topic at the start, then exit.
    accept_gap
        Go on although records that the stored state needs are gone.
    file
        Read games from this JSONL or CSV file instead of the topic.
    """
    settings = options.settings(common)
    options.run(run_engine, settings, file=file, until_caught_up=until_caught_up, accept_gap=accept_gap)
