"""The answers of the read side by plain loops over a list of games: what the benchmarks hold its answers against.

Imports msgspec and schemas; shares nothing with `crashfold.engine.read`. It is the way of the system before: nothing is
kept, and every request walks through the games, each loop once. `benchmarks.api_peers` serves it so.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from crashfold.schemas.fairness import crash_point
from crashfold.schemas.game import Game

Json = dict[str, Any]
Match = Callable[[float], bool]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR_MS: Final = 3_600_000
_LETTERS: Final = {"min": "min_value", "max": "max_value", "floor": "floor_value"}


class Plain:
    """The window, oldest first, at a moment; all in UTC."""

    def __init__(self, window: Sequence[Game], now_ms: float) -> None:
        self.window = window
        self.now_ms = now_ms

    def occurrences(self, kind: str, value: float, games: int) -> Json:
        """By games."""
        found = _counted(self.window[-games:], match(kind, value))
        return {_LETTERS[kind]: value, "by_time": False, "params": {"games": games}, "occurrences": found}

    def occurrences_by_time(self, value: float, hours: int) -> Json:
        """By hours."""
        found = self._counted_hours(match("min", value), hours, 0)
        return {"min_value": value, "by_time": True, "params": {"hours": hours}, "occurrences": found}

    def occurrences_batch(self, values: Sequence[float], games: int, comparison: bool) -> Json:
        """By games, for several thresholds."""
        results = {}
        for value in values:
            one = _counted(self.window[-games:], match("min", value))
            earlier = self.window[-2 * games : -games]
            if comparison and earlier:
                one["comparison"] = _compared(one, _counted(earlier, match("min", value)))
            results[str(float(value))] = one
        return {"by_time": False, "params": {"games": games}, "comparison": comparison, "results": results}

    def occurrences_by_time_batch(self, values: Sequence[float], hours: int) -> Json:
        """By hours, for several thresholds, compared."""
        results = {}
        for value in values:
            one = self._counted_hours(match("min", value), hours, 0)
            earlier = self._counted_hours(match("min", value), hours, hours)
            if earlier["total_games"]:
                one["comparison"] = _compared(one, earlier)
            results[str(float(value))] = one
        return {"by_time": True, "params": {"hours": hours}, "comparison": True, "results": results}

    def series(self, value: float, limit: int) -> Json:
        """By games, newest first."""
        found = self._series(value, len(self.window) - limit, None)
        return {"min_value": value, "limit": limit, "sort_by": "time", "count": len(found), "series": found}

    def series_by_time(self, value: float, hours: int) -> Json:
        """By hours, newest first."""
        found = self._series(value, 0, self.now_ms - hours * _HOUR_MS)
        return {"min_value": value, "hours": hours, "sort_by": "time", "count": len(found), "series": found}

    def intervals(self, value: float, minutes: int, hours: int) -> Json:
        """Of the last hours."""
        items = self._interval_items(value, minutes, hours)
        return {
            "min_value": value,
            "interval_minutes": minutes,
            "hours": hours,
            "count": len(items),
            "intervals": items,
        }

    def intervals_batch(self, values: Sequence[float], minutes: int, hours: int) -> Json:
        """The same for several thresholds."""
        items = {str(float(value)): self._interval_items(value, minutes, hours) for value in values}
        return {"values": [*values], "interval_minutes": minutes, "hours": hours, "intervals_by_value": items}

    def date_range(self, value: float, first: date, last: date, minutes: int) -> Json:
        """Of calendar days."""
        items = self._date_items(value, first, last, minutes)
        return {
            "min_value": value,
            "start_date": _midnight(first).isoformat(),
            "end_date": _midnight(last).isoformat(),
            "interval_minutes": minutes,
            "count": len(items),
            "intervals": items,
        }

    def date_range_batch(self, values: Sequence[float], first: date, last: date, minutes: int) -> Json:
        """The same for several thresholds."""
        return {
            "values": [*values],
            "start_date": _midnight(first).isoformat(),
            "end_date": _midnight(last).isoformat(),
            "interval_minutes": minutes,
            "intervals_by_value": {
                str(float(value)): self._date_items(value, first, last, minutes) for value in values
            },
        }

    def game_sets(self, value: float, size: int, total: int) -> Json:
        """Sets of ids."""
        items = self._sets(value, size, total)
        return {
            "min_value": value,
            "games_per_set": size,
            "total_games": total,
            "count": len(items),
            "intervals": items,
        }

    def game_sets_batch(self, values: Sequence[float], size: int, total: int) -> Json:
        """The same for several thresholds."""
        items = {str(float(value)): self._sets(value, size, total) for value in values}
        return {"values": [*values], "games_per_set": size, "total_games": total, "intervals_by_value": items}

    def last_game(self, kind: str, value: float) -> Json | None:
        """The newest match."""
        is_match = match(kind, value)
        for since, game in enumerate(reversed(self.window)):
            if is_match(game.crash_point):
                chance = {"value": _probability(kind, value), "games_since": since}
                return {"game": _shown(game), "games_since": since, "probability": chance}
        return None

    def last_game_batch(self, values: Sequence[float]) -> Json:
        """The newest match of several thresholds."""
        return {str(float(value)): self.last_game("min", value) for value in values}

    def last_games(self, kind: str, value: float, limit: int) -> Json:
        """The newest matches."""
        is_match, found = match(kind, value), []
        for game in reversed(self.window):
            if is_match(game.crash_point):
                found.append(_shown(game))
                if len(found) == limit:
                    break
        return {_LETTERS[kind]: value, "limit": limit, "count": len(found), "games": found}

    def page(self, page: int, per_page: int) -> list[Json]:
        """Games, newest first."""
        newest = len(self.window) - (page - 1) * per_page
        return [_shown(self.window[row]) for row in range(newest - 1, max(0, newest - per_page) - 1, -1)]

    def _counted_hours(self, is_match: Match, hours: int, skipped: int) -> Json:
        end = self.now_ms - skipped * _HOUR_MS
        begin = end - hours * _HOUR_MS
        last = end - 1 if skipped else end  # a game right between two periods belongs to the later one
        sample = [game for game in self.window if begin <= game.end_time <= last]
        found = _counted(sample, is_match)
        del found["first_game_time"], found["last_game_time"]
        return {**found, "start_time": _text(begin), "end_time": _text(end)}

    def _series(self, value: float, first_row: int, first_ms: float | None) -> list[Json]:
        """Every series with a game from that row and that moment on, newest first."""
        found: list[Json] = []
        start: Game | None = None
        length, is_inside = 0, False
        for row, game in enumerate(self.window):
            if start is None:
                start, length, is_inside = game, 0, False
            length += 1
            is_inside = is_inside or (row >= first_row and (first_ms is None or first_ms <= game.end_time))
            ends = game.crash_point >= value
            if (ends or row == len(self.window) - 1) and is_inside:
                found.append(
                    {
                        "start_game_id": str(start.game_id),
                        "start_time": _text(start.end_time),
                        "end_game_id": str(game.game_id),
                        "end_time": _text(game.end_time),
                        "length": length,
                        "crash_point": game.crash_point if ends else None,
                    }
                )
            if ends:
                start = None
        found.reverse()
        return found

    def _interval_items(self, value: float, minutes: int, hours: int) -> list[Json]:
        step_ms = minutes * 60_000
        newest = self.now_ms // step_ms * step_ms
        return self._buckets(value, (newest - hours * _HOUR_MS) // step_ms * step_ms, newest + step_ms, step_ms)

    def _date_items(self, value: float, first: date, last: date, minutes: int) -> list[Json]:
        begin, end = _midnight(first), _midnight(last) + timedelta(days=1)
        return self._buckets(value, begin.timestamp() * 1000, end.timestamp() * 1000, minutes * 60_000)

    def _buckets(self, value: float, begin_ms: float, end_ms: float, step_ms: int) -> list[Json]:
        buckets: dict[int, list[int]] = {}
        for game in self.window:
            if begin_ms <= game.end_time < end_ms:
                bucket = buckets.setdefault(game.end_time // step_ms * step_ms, [0, 0])
                bucket[0] += game.crash_point >= value
                bucket[1] += 1
        return [
            {
                "interval_start": _text(start),
                "interval_end": _text(start + step_ms),
                "count": count,
                "total_games": total,
                "percentage": count / total * 100,
            }
            for start, (count, total) in sorted(buckets.items())
        ]

    def _sets(self, value: float, size: int, total: int) -> list[Json]:
        sets: dict[int, list[Game]] = {}
        for game in self.window[-total:]:
            sets.setdefault(game.game_id // size, []).append(game)
        newest = max(sets)
        items = []
        for number in range(newest, min(sets) - 1, -1):
            games = sets.get(number, [])
            count = sum(game.crash_point >= value for game in games)
            items.append(
                {
                    "set_id": newest - number + 1,
                    "start_time": _text(games[0].end_time) if games else None,
                    "end_time": _text(games[-1].end_time) if games else None,
                    "start_game": number * size,
                    "end_game": number * size + size - 1,
                    "count": count,
                    "total_games": len(games),
                    "percentage": count / len(games) * 100 if games else 0.0,
                    "is_current_interval": number == newest,
                    "actual_games": len(games),
                }
            )
        return items


def match(kind: str, value: float) -> Match:
    """Whether a crash point matches."""
    if kind == "min":
        return lambda point: point >= value
    if kind == "max":
        return lambda point: point <= value
    return lambda point: int(point) == value


def _counted(sample: Sequence[Game], is_match: Match) -> Json:
    count, total = sum(is_match(game.crash_point) for game in sample), len(sample)
    return {
        "count": count,
        "total_games": total,
        "percentage": count / total * 100 if total else 0.0,
        "first_game_time": _text(sample[0].end_time) if sample else None,
        "last_game_time": _text(sample[-1].end_time) if sample else None,
    }


def _compared(now: Json, earlier: Json) -> Json:
    return {
        **earlier,
        "count_change": now["count"] - earlier["count"],
        "percentage_change": now["percentage"] - earlier["percentage"],
    }


def _shown(game: Game) -> Json:
    return {
        "gameId": str(game.game_id),
        "hashValue": game.hash,
        "crashPoint": game.crash_point,
        "calculatedPoint": crash_point(game.hash) if game.hash else None,
        "crashedFloor": int(game.crash_point),
        "endTime": _text(game.end_time),
        "prepareTime": None if game.prepare_time is None else _text(game.prepare_time),
        "beginTime": None if game.begin_time is None else _text(game.begin_time),
    }


def _probability(kind: str, value: float) -> float:
    def reaching(x: float) -> float:
        return 0.99 / x * 100 if x > 1 else 100.0

    if kind == "min":
        return round(reaching(value), 2)
    if kind == "max":
        return round(100 - reaching(value + 0.01), 2)
    return round(reaching(value) - reaching(value + 1), 2)


def _text(time_ms: float) -> str:
    return (_EPOCH + timedelta(milliseconds=time_ms)).isoformat()


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
