"""The aggregates as they are stored in Redis, as JSON or as hash fields.

Imports msgspec and the standard library only. Times are epoch milliseconds. `docs/keys.md` shows where each stands.
"""

import msgspec

from crashfold.schemas.game import Game


class Sample(msgspec.Struct, frozen=True, gc=False):
    """A field of `P:samples`: the size of a sample, and the end times of its oldest and newest game by id."""

    total_games: int
    first_game_time: int | None
    last_game_time: int | None


class Interval(msgspec.Struct, frozen=True, gc=False):
    """A field of `P:intervals:<predicate>`: of `total_games` that ended in the bucket, `count` match."""

    count: int
    total_games: int


class FollowGame(msgspec.Struct, frozen=True, gc=False):
    """A matching game right after a series."""

    game_id: int
    crash_point: float
    time: int


class FollowStreak(msgspec.Struct, frozen=True, gc=False):
    """The run of `count` matching games right after a series; `games` are the first 1,000, oldest first."""

    count: int
    games: list[FollowGame]


class Series(msgspec.Struct, frozen=True, gc=False):
    """An element of `P:series:<predicate>`: a maximal run of `length` games that do not match."""

    start_game: int
    start_time: int
    end_game: int
    end_time: int
    length: int
    follow_streak: FollowStreak


class LastGame(Game, frozen=True, kw_only=True, gc=False):
    """`P:last_game:<predicate>`: the newest match and its position in the stream, from 1."""

    ordinal: int


class LongestRun(msgspec.Struct, frozen=True, gc=False):
    """The field `longest_run` of `P:records:<predicate>`: the longest run of games that do not match."""

    start_game: int
    start_time: int
    end_game: int
    end_time: int
    length: int


class Update(msgspec.Struct, frozen=True, gc=False):
    """A message on the channel `P:updates`: the commit that was just made; `newest` is a game id."""

    version: int
    total_games: int
    newest: int | None
