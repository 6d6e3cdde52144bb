"""The job that every peer does, as its process is told of it, and how the process reports.

A topic of one partition holds `games` games of one stream, in order, one a record, at offsets 0 to `games` - 1. The
process reads them all, and writes the result into Redis at least once every `write_every_s` while it runs, and at the
end. The result is these strings, all of the same prefix of the topic:

    peer:samples                   JSON {"games:100": {"total_games", "first_game_time", "last_game_time"}, …}
    peer:occurrences:<predicate>   JSON {"count", "total_games", "first_game_time", "last_game_time", "games:100", …}
    peer:intervals:<predicate>     JSON {"bucket_<epoch seconds>": {"count", "total_games"}, …}
    peer:series:<predicate>        JSON [series, newest first]; none before the first
    peer:last_game:<predicate>     JSON game with `ordinal`; none before the first
    peer:next_offset               the offset after the last game counted

The values are those of the keys of the same names in docs/keys.md. A peer that keeps its state in Redis may use the
hashes and lists of that page instead of one document. Imports the standard library and msgspec only.
"""

import os
import sys
import time

import msgspec

from crashfold.schemas.game import Game

PREFIX = "peer:"
NEXT_OFFSET = PREFIX + "next_offset"

decode = msgspec.json.Decoder(Game).decode
"""A record's value as a game; every peer decodes with it, the floor too."""


class Sizes(msgspec.Struct, frozen=True):
    """What is counted: predicates by name as half-open ranges of hundredths, samples, and how much is kept."""

    predicates: dict[str, tuple[int, int | None]]
    samples_games: tuple[int, ...]
    samples_hours: tuple[int, ...]
    interval_ms: int
    intervals_kept: int
    series_kept: int
    follow_games_kept: int


class Job(msgspec.Struct, frozen=True):
    """One run of one peer. `directory` is for whatever it keeps on disk; `write_every_s` as above."""

    bootstrap_servers: str
    topic: str
    group: str
    redis_url: str
    games: int
    variant: str
    directory: str
    write_every_s: float
    sizes: Sizes

    @property
    def last_offset(self) -> int:
        """Of the game with which the job is done."""
        return self.games - 1


class Pace:
    """When it is time to write again: `every_s` after the last time."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next_s = time.monotonic() + every_s

    def is_due(self) -> bool:
        """Whether it is time; if so, the next time counts from now."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + self._every_s
        return True


class Stopwatch:
    """Times a run. Start it when everything is imported; `finish` when the result stands in Redis."""

    def __init__(self) -> None:
        self._started_s = time.perf_counter()
        self._cpu_before_s = time.process_time()

    def finish(self, records: int) -> None:
        """Print what the run took as JSON, and end the process: how gracefully a framework stops is not measured."""
        duration_s = time.perf_counter() - self._started_s
        cpu_s = time.process_time() - self._cpu_before_s
        outcome = {"records": records, "duration_s": duration_s, "cpu_s": cpu_s, "peak_mib": _peak_mib()}
        sys.stdout.write("\n" + msgspec.json.encode(outcome).decode() + "\n")  # some leave a line unfinished
        sys.stdout.flush()
        os._exit(0)


def told() -> Job:
    """The job that this process was started for: its only argument, as JSON."""
    return msgspec.json.decode(sys.argv[1], type=Job)


def _peak_mib() -> float:
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
