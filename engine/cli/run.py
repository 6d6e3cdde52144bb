"""`crashfold run`: the engine as a service, in one process or in several."""

import sys
from pathlib import Path
from typing import Annotated

import structlog
from cyclopts import Parameter

from crashfold.engine.cli import options
from crashfold.engine.cli.bootstrap import run_engine, run_workers
from crashfold.engine.cli.options import Common
from crashfold.engine.errors import ConfigurationError


def run(
    *,
    workers: int = 1,
    until_caught_up: bool = False,
    accept_gap: bool = False,
    file: Path | None = None,
    worker: Annotated[int | None, Parameter(show=False)] = None,
    common: Common | None = None,
) -> int:
    """Fold games from the topic into Redis until told to stop (SIGTERM or Ctrl-C).

    Parameters
    ----------
    workers
        So many processes share the partitions, as engines of one group; at most one per partition has work.
    until_caught_up
        Commit all that stood on the topic at the start, then exit.
    accept_gap
        Go on although records that the stored state needs are gone.
    file
        Read games from this JSONL or CSV file instead of the topic.
    worker
        The number of this one among several, which reports to its parent on standard output.
    """
    settings = options.settings(common)
    if workers < 1:
        raise ConfigurationError("--workers must be 1 or more")
    if workers > 1 and file is not None:
        raise ConfigurationError("--workers share the partitions of a topic; a file has one reader")
    if workers > 1 and settings.kafka.assignment == "all":
        raise ConfigurationError(
            "--workers share the partitions of a group, and kafka.assignment = all gives every one to each: set it to"
            " group, or run one worker"
        )
    how = {"until_caught_up": until_caught_up, "accept_gap": accept_gap}
    if workers == 1 or worker is not None:
        structlog.contextvars.bind_contextvars(**({} if worker is None else {"worker": worker}))
        options.run(run_engine, settings, file=file, reports=worker is not None, **how)
        return 0
    flags = [f"--{name.replace('_', '-')}" for name, is_set in how.items() if is_set]
    command = [sys.executable, "-m", "crashfold.engine.cli", "run", *flags, *options.tokens_of(common)]

    def command_of(number: int) -> list[str]:
        """The command of one worker, which is a member of the group with a name of its own."""
        name = settings.kafka.group_instance_id
        own = ["--kafka.group_instance_id", f"{name}-{number}"] if name else []
        return [*command, *own, "--worker", str(number)]

    return options.run(run_workers, settings, workers, command_of, options.environment_of(common))
