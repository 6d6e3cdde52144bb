"""The answers of the API by plain loops over a list of games: docs/rules.md, once more and without any tricks.

Shares nothing with `crashfold.engine.read` and the fold. Crash points are compared as the doubles that they are, times
are datetimes, and a grid is found by looking at the wall clock at every single minute. The benchmarks hold answers
against it too, and serve it as the system before worked: nothing is kept, each request walks through the games.
"""

from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import cache
from itertools import compress, islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

from crashfold.schemas.fairness import crash_point
from crashfold.schemas.game import Game

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Json = dict[str, Any]


class Oracle:
    """The games that exist at a moment, seen from a zone."""

    def __init__(self, window: Sequence[Game], zone: str, now_us: int, at_us: int | None = None) -> None:
        self.window = window
        self.games = window if at_us is None else [game for game in window if game.end_time * 1000 <= at_us]
        self.now_us = now_us if at_us is None else at_us
        self.zone = UTC if zone == "UTC" else ZoneInfo(zone)

    def text(self, time_us: int) -> str:
        return (EPOCH + timedelta(microseconds=time_us)).astimezone(self.zone).isoformat()

    def time(self, game: Game) -> str:
        return self.text(game.end_time * 1000)

    def game_object(self, game: Game) -> Json:
        return {
            "gameId": str(game.game_id),
            "hashValue": game.hash,
            "crashPoint": game.crash_point,
            "calculatedPoint": crash_point(game.hash) if game.hash else None,
            "crashedFloor": int(game.crash_point),
            "endTime": self.time(game),
            "prepareTime": None if game.prepare_time is None else self.text(game.prepare_time * 1000),
            "beginTime": None if game.begin_time is None else self.text(game.begin_time * 1000),
        }

    def in_last_hours(self, hours: int, skip_hours: int = 0) -> list[bool]:
        """Whether each game ended in [now − H, now], or with hours skipped in [now − skip − H, now − skip)."""
        hour_us = 3600 * 1_000_000
        end = self.now_us - skip_hours * hour_us
        begin = end - hours * hour_us
        if skip_hours:
            return [begin <= game.end_time * 1000 < end for game in self.games]
        return [begin <= game.end_time * 1000 <= end for game in self.games]

    def last_hours(self, hours: int, skip_hours: int = 0) -> list[Game]:
        return [*compress(self.games, self.in_last_hours(hours, skip_hours))]

    def occurrences(self, kind: str, value: float, games: int, by_time: bool, hours: int) -> Json:
        return {
            f"{kind}_value": value,
            "by_time": by_time,
            "params": {"hours": hours} if by_time else {"games": games},
            "occurrences": self._counted(kind, value, games, by_time, hours, earlier=False),
        }

    def occurrences_batch(
        self, kind: str, values: Sequence[float], games: int, by_time: bool, hours: int, comparison: bool
    ) -> Json:
        results = {}
        for value in values:
            result = self._counted(kind, value, games, by_time, hours, earlier=False)
            before = self._counted(kind, value, games, by_time, hours, earlier=True)
            if comparison and before["total_games"] > 0:
                before["count_change"] = result["count"] - before["count"]
                before["percentage_change"] = result["percentage"] - before["percentage"]
                result["comparison"] = before
            results[str(value)] = result
        params = {"hours": hours} if by_time else {"games": games}
        return {"by_time": by_time, "params": params, "comparison": comparison, "results": results}

    def _counted(self, kind: str, value: float, games: int, by_time: bool, hours: int, *, earlier: bool) -> Json:
        if by_time:
            skipped = hours if earlier else 0
            sample = self.last_hours(hours, skipped)
            end = self.now_us - skipped * 3_600_000_000
            times = {"start_time": self.text(end - hours * 3_600_000_000), "end_time": self.text(end)}
            return {**count(sample, kind, value), **times}
        sample = [*(self.games[-2 * games : -games] if earlier else self.games[-games:])]
        first, last = (self.time(sample[0]), self.time(sample[-1])) if sample else (None, None)
        return {**count(sample, kind, value), "first_game_time": first, "last_game_time": last}

    def series(self, value: float, limit: int, sort_by: str) -> Json:
        games = len(self.games)
        found = self._series(value, [False] * (games - limit) + [True] * min(games, limit), sort_by)
        return {"min_value": value, "limit": limit, "sort_by": sort_by, "count": len(found), "series": found}

    def series_by_time(self, value: float, hours: int, sort_by: str) -> Json:
        found = self._series(value, self.in_last_hours(hours), sort_by)
        return {"min_value": value, "hours": hours, "sort_by": sort_by, "count": len(found), "series": found}

    def intervals(self, value: float, interval_minutes: int, hours: int) -> Json:
        found = self._buckets(value, self.utc_grid(interval_minutes, hours))
        return echoed(value, found, interval_minutes=interval_minutes, hours=hours)

    def intervals_batch(self, values: Sequence[float], interval_minutes: int, hours: int) -> Json:
        lines = self.utc_grid(interval_minutes, hours)
        found = [self._buckets(value, lines) for value in values]
        return echoed_batch(values, found, interval_minutes=interval_minutes, hours=hours)

    def date_range(self, value: float, first: date, last: date, interval_minutes: int) -> Json:
        found = self._buckets(value, self.zone_grid(first, last, interval_minutes))
        return echoed(value, found, **self._days(first, last), interval_minutes=interval_minutes)

    def date_range_batch(self, values: Sequence[float], first: date, last: date, interval_minutes: int) -> Json:
        lines = self.zone_grid(first, last, interval_minutes)
        found = [self._buckets(value, lines) for value in values]
        return echoed_batch(values, found, **self._days(first, last), interval_minutes=interval_minutes)

    def game_sets(self, value: float, games_per_set: int, total_games: int) -> Json:
        found = self._sets(value, games_per_set, total_games)
        return echoed(value, found, games_per_set=games_per_set, total_games=total_games)

    def game_sets_batch(self, values: Sequence[float], games_per_set: int, total_games: int) -> Json:
        found = [self._sets(value, games_per_set, total_games) for value in values]
        return echoed_batch(values, found, games_per_set=games_per_set, total_games=total_games)

    def _series(self, value: float, is_sampled: list[bool], sort_by: str) -> list[Json]:
        """A series ends with a game that reaches the value, and another begins; the last one may be open."""
        games = self.games
        ends = [row for row, game in enumerate(games) if game.crash_point >= value]
        if games and (not ends or ends[-1] < len(games) - 1):
            ends.append(len(games) - 1)
        firsts = [0, *(end + 1 for end in ends)]
        rows = [(first, last) for first, last in zip(firsts, ends, strict=False) if any(is_sampled[first : last + 1])]
        if sort_by == "time":
            rows.reverse()
        else:
            rows.sort(key=lambda row: (row[0] - row[1], row[0]))
        return [
            {
                "start_game_id": str(games[first].game_id),
                "start_time": self.time(games[first]),
                "end_game_id": str(games[last].game_id),
                "end_time": self.time(games[last]),
                "length": last - first + 1,
                "crash_point": games[last].crash_point if games[last].crash_point >= value else None,
            }
            for first, last in rows
        ]

    def utc_grid(self, interval_minutes: int, hours: int) -> list[int]:
        """Lines of the grid in epoch minutes."""
        end = self.now_us // 60_000_000
        while end % interval_minutes:
            end -= 1
        begin = end - hours * 60
        while begin % interval_minutes:
            begin -= 1
        return list(range(begin, end + interval_minutes + 1, interval_minutes))

    def zone_grid(self, first: date, last: date, interval_minutes: int) -> list[int]:
        """Lines of the grid in epoch minutes, from the first instant of `first` to that of the day after `last`."""
        return grid(self.zone, first, last, interval_minutes)

    def _days(self, first: date, last: date) -> Json:
        days = {"start_date": first, "end_date": last}
        return {name: self.text(first_minute(self.zone, day) * 60_000_000) for name, day in days.items()}

    def _buckets(self, value: float, lines: list[int]) -> list[Json]:
        starts = [line * 60_000 for line in lines]
        buckets: list[list[Game]] = [[] for _ in lines]
        for game in self.games:
            if starts[0] <= game.end_time < starts[-1]:
                buckets[bisect_right(starts, game.end_time) - 1].append(game)
        found = []
        for (begin, end), bucket in zip(pairwise(lines), buckets, strict=False):
            if bucket:
                times = {"interval_start": self.text(begin * 60_000_000), "interval_end": self.text(end * 60_000_000)}
                found.append({**times, **count(bucket, "min", value)})
        return found

    def _sets(self, value: float, games_per_set: int, total_games: int) -> list[Json]:
        sample = self.games[-total_games:]
        if not sample:
            return []
        sets: dict[int, list[Game]] = {}
        for game in sample:
            sets.setdefault(game.game_id // games_per_set, []).append(game)
        newest, oldest = max(sets), min(sets)
        numbers = range(newest, oldest - 1, -1) if newest - oldest + 1 <= 10_000 else sorted(sets, reverse=True)
        found = []
        for number in numbers:
            games = sets.get(number, [])
            found.append(
                {
                    "set_id": newest - number + 1,
                    "start_time": self.time(games[0]) if games else None,
                    "end_time": self.time(games[-1]) if games else None,
                    "start_game": number * games_per_set,
                    "end_game": number * games_per_set + games_per_set - 1,
                    **count(games, "min", value),
                    "is_current_interval": number == newest,
                    "actual_games": len(games),
                }
            )
        return found

    def last_game(self, kind: str, value: float) -> Json | None:
        for since, game in enumerate(reversed(self.games)):
            if matches(game, kind, value):
                chance = {"value": probability(kind, value), "games_since": since}
                return {"game": self.game_object(game), "games_since": since, "probability": chance}
        return None

    def last_game_batch(self, kind: str, values: Sequence[float]) -> Json:
        return {str(value): self.last_game(kind, value) for value in values}

    def last_games(self, kind: str, value: float, limit: int) -> Json:
        found = [*islice((game for game in reversed(self.games) if matches(game, kind, value)), limit)]
        objects = [self.game_object(game) for game in found]
        return {f"{kind}_value": value, "limit": limit, "count": len(found), "games": objects}

    def page(self, page: int, per_page: int) -> Json:
        total = len(self.window)
        total_pages = (total + per_page - 1) // per_page
        newest = total - (page - 1) * per_page
        found = self.window[max(0, newest - per_page) : max(0, newest)][::-1]
        return {
            "status": "success",
            "count": len(found),
            "pagination": {
                "page": page,
                "per_page": per_page,
                "total_items": total,
                "total_pages": total_pages,
                "has_next": page < total_pages,
                "has_prev": page > 1,
            },
            "data": [self.game_object(game) for game in found],
        }

    def one_game(self, game_id: int) -> Json | None:
        return next((self.game_object(game) for game in self.window if game.game_id == game_id), None)


def echoed(value: float, found: list[Json], **asked: Any) -> Json:
    return {"min_value": value, **asked, "count": len(found), "intervals": found}


def echoed_batch(values: Sequence[float], found: list[list[Json]], **asked: Any) -> Json:
    by_value = {str(value): items for value, items in zip(values, found, strict=True)}
    return {"values": [*values], **asked, "intervals_by_value": by_value}


def matches(game: Game, kind: str, value: float) -> bool:
    if kind == "min":
        return game.crash_point >= value
    if kind == "max":
        return game.crash_point <= value
    return int(game.crash_point) == value


def count(sample: Sequence[Game], kind: str, value: float) -> Json:
    found = sum(matches(game, kind, value) for game in sample)
    total = len(sample)
    return {"count": found, "total_games": total, "percentage": found / total * 100 if total else 0.0}


def probability(kind: str, value: float) -> float:
    def reaching(x: float) -> float:
        return 0.99 / x * 100 if x > 1 else 100.0

    if kind == "min":
        return round(reaching(value), 2)
    if kind == "max":
        return round(100 - reaching(value + 0.01), 2)
    return round(reaching(value) - reaching(value + 1), 2)


@cache
def grid(zone: tzinfo, first: date, last: date, interval_minutes: int) -> list[int]:
    begin, end = first_minute(zone, first), first_minute(zone, last + timedelta(days=1))
    starts = {first_minute(zone, first + timedelta(days=n)) for n in range((last - first).days + 2)}
    lines = []
    for minute in range(begin, end + 1):
        wall = wall_clock(zone, minute)
        if minute in starts or (wall.hour * 60 + wall.minute) % interval_minutes == 0 or minute == end:
            lines.append(minute)
    return lines


@cache
def first_minute(zone: tzinfo, day: date) -> int:
    """The first minute whose date is that day, or a later one when the day was left out."""
    minute = (datetime(day.year, day.month, day.day, tzinfo=UTC) - EPOCH) // timedelta(minutes=1) - 2 * 1440
    while wall_clock(zone, minute).date() < day:
        minute += 1
    return minute


@cache
def wall_clock(zone: tzinfo, minute: int) -> datetime:
    return (EPOCH + timedelta(minutes=minute)).astimezone(zone)
