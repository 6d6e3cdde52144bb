"""How the loop is paced: how much one turn takes in, and when what was folded is committed. No I/O."""

from typing import Final

import msgspec

BEHIND_RECORDS: Final = 500
"""So many records at once do not come from tables that are played on: the engine is behind."""
FLOOD_LETTERS: Final = 500
"""A turn with so many dead letters is followed by a short one, for a letter takes many times as long as a game."""
FLOOD_RECORDS: Final = 2_000
"""Records of a short turn. Partitions take turns in filling one, so one that is full of what cannot be folded holds
the others up for two turns at most."""
STEP_BYTES: Final = 32 << 20
"""So many bytes of records are enough for a turn, however few the records are."""

FOLDING_PER_COMMIT: Final = 16
"""Far behind, so much more time is spent folding than committing."""
COMMITTED_AT_LEAST_EVERY_S: Final = 5.0


class EngineLimits(msgspec.Struct, frozen=True):
    """How much an engine takes at once: records a turn, milliseconds to wait for more of them, games held in memory,
    how long a poll waits while nothing comes, of how many streams the commits go at once, and how many games of the
    window may wait for a commit: some 40 MB, for Redis has limits for what it takes at once.

    While the commits of some streams are on their way, those of the next ones are made. Smaller groups let the end of a
    turn wait less for Redis: with 16 a turn of 25 or 50 games took a tenth less time, and one of 100 a tenth more CPU,
    which is what lacks when there is much to do.
    """

    batch_games_max: int = 20_000
    linger_ms: int = 0
    games_held_max: int = 10_000_000
    poll_wait_s: float = 0.5
    streams_at_once: int = 50
    commit_games_max: int = 200_000


class CommitPacing:
    """Decides when to commit. Caught up: after every turn. Far behind, when the next batch stands ready, a commit may
    cost more than folding what is in it, and the next commit replaces most of what it writes: then it waits."""

    def __init__(self, limits: EngineLimits, window_games: int) -> None:
        self._commit_games_max = limits.commit_games_max
        self._window_games = window_games
        self._committed_s = self._commit_took_s = 0.0
        self._waiting_games = 0

    def folded(self, records: int) -> None:
        """So many records more wait for a commit."""
        self._waiting_games += records

    def committed(self, started_s: float, ended_s: float) -> None:
        """All that waited was committed, between these two moments."""
        self._waiting_games = 0
        self._committed_s, self._commit_took_s = ended_s, ended_s - started_s

    def is_due(self, now_s: float) -> bool:
        """Whether a commit may wait no longer, though more records stand ready."""
        due_s = min(COMMITTED_AT_LEAST_EVERY_S, FOLDING_PER_COMMIT * self._commit_took_s)
        waiting = min(self._waiting_games, self._window_games)
        return now_s - self._committed_s >= due_s or waiting >= self._commit_games_max
