"""Random windows, questions, zones and moments: the API answers what plain loops over the same games answer."""

import math
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from crashfold.engine.http.requests import ApiRequest
from crashfold.engine.http.routes import answer
from crashfold.engine.read.aggregate import NAMES
from crashfold.engine.read.questions import SET_SIZES
from crashfold.engine.read.times import Zones
from crashfold.projections.games import Bands, Games
from crashfold.projections.settings import ProjectionSettings
from crashfold.schemas.game import Game
from crashfold.schemas.predicate import Kind
from tests.support.api_oracle import EPOCH, Oracle

ZONES = Zones()
SETTINGS = ProjectionSettings(window_games=200, samples_games=(100,))

CLOCK_CHANGES = [
    ("UTC", date(2026, 1, 14)),
    ("Europe/Vienna", date(2026, 10, 25)),
    ("Europe/Vienna", date(2026, 3, 29)),
    ("America/Sao_Paulo", date(2018, 11, 4)),
    ("America/Sao_Paulo", date(2019, 2, 16)),
    ("Asia/Beirut", date(2023, 3, 30)),
    ("Africa/Cairo", date(2023, 4, 28)),
    ("Africa/Cairo", date(2023, 10, 26)),
    ("America/Havana", date(2026, 11, 1)),
    ("America/St_Johns", date(2010, 11, 7)),
    ("Australia/Lord_Howe", date(2026, 4, 5)),
    ("Australia/Lord_Howe", date(2026, 10, 4)),
    ("Asia/Kathmandu", date(1986, 1, 1)),
    ("Asia/Kolkata", date(2026, 6, 1)),
    ("Pacific/Chatham", date(2026, 4, 5)),
    ("Pacific/Apia", date(2011, 12, 30)),
    ("America/Bogota", date(2026, 1, 1)),
]
"""Zones, and days around which something is special about their clocks."""

DIVISORS = [minutes for minutes in range(1, 1441) if 1440 % minutes == 0]

hundredths = st.one_of(
    st.integers(100, 110), st.integers(195, 205), st.integers(100, 3000), st.sampled_from([100, 10**11, 10**11 - 1])
)
numbers = st.one_of(
    hundredths.map(lambda n: n / 100),
    hundredths.map(lambda n: math.nextafter(n / 100, 0) if n > 100 else 1.0),
    hundredths.map(lambda n: math.nextafter(n / 100, math.inf) if n < 10**11 else 1e9),
    hundredths.map(lambda n: n / 100 + 0.005 if n < 10**11 else 1e9),
    st.floats(1, 30),
)
kinds = st.sampled_from(list(NAMES))


def values_of(kind: Kind) -> st.SearchStrategy[float]:
    return st.integers(1, 30) if kind == "floor" else numbers


@st.composite
def windows(draw: st.DrawFn, centre_ms: int) -> list[Game]:
    games: list[Game] = []
    game_id, end_time = draw(st.integers(1, 200)), centre_ms
    rising = draw(st.booleans())
    steps = st.integers(0 if rising else -3_600_000, 3_600_000)
    gaps = st.sampled_from([1, 1, 1, 1, 1, 2, 7, 30, draw(st.sampled_from([40, 1_000_000]))])
    for _ in range(draw(st.integers(0, 60))):
        crash_point = draw(hundredths) / 100
        # A few end on the very lines of a grid.
        end_time += draw(steps)
        ended = end_time // 60_000 * 60_000 if draw(st.integers(0, 5)) == 0 else end_time
        games.append(
            Game(
                game_id=game_id,
                hash=draw(st.sampled_from([None, "0123456789abcdef" * 4, "f" * 64])),
                crash_point=crash_point,
                prepare_time=draw(st.sampled_from([None, ended - 20_000])),
                begin_time=draw(st.sampled_from([None, ended - 15_000])),
                end_time=ended,
            )
        )
        game_id += draw(gaps)
    return games


class Case:
    """A window, a zone and a moment, from which questions are asked both ways."""

    def __init__(self, data: st.DataObject) -> None:
        zone, self.day = data.draw(st.sampled_from(CLOCK_CHANGES), "zone and day")
        noon_ms = (datetime(self.day.year, self.day.month, self.day.day, 12, tzinfo=UTC) - EPOCH) // timedelta(
            milliseconds=1
        )
        self.games = data.draw(windows(noon_ms - data.draw(st.integers(0, 72)) * 3_600_000), "games")
        self.now_us = (noon_ms + data.draw(st.integers(-100_000_000, 100_000_000))) * 1000
        self.at_us = data.draw(st.one_of(st.none(), st.integers(-(10**11), 10**11).map(self._moment)), "at")
        self.headers = {"x-timezone": zone} if zone != "UTC" else {}
        self.oracle = Oracle(self.games, zone, self.now_us, self.at_us)
        self.window = Games.of(Bands([]), self.games)

    def _moment(self, away_us: int) -> int:
        """Sometimes exactly when a game ended, or whole hours after that."""
        if away_us % 3 and self.games:
            hours = away_us % 7 if away_us % 3 == 1 else 0
            return self.games[away_us % len(self.games)].end_time * 1000 + hours * 3_600_000_000
        return self.now_us + away_us

    def get(self, path: str, **parameters: Any) -> Any:
        return self._ask("GET", path, parameters, b"")

    def post(self, path: str, **members: Any) -> Any:
        return self._ask("POST", path, {}, msgspec.json.encode(members))

    def _ask(self, method: str, path: str, parameters: dict[str, Any], body: bytes) -> Any:
        query = {name: str(value).lower() for name, value in parameters.items()}
        if self.at_us is not None:
            query["at"] = (EPOCH + timedelta(microseconds=self.at_us)).isoformat()
        request = ApiRequest(method, path, urlencode(query), body, self.headers)
        status, served = answer(request, self.window, self.now_us // 1000, settings=SETTINGS, zones=ZONES)
        if status == 404:
            return None
        assert status == 200, served
        decoded = msgspec.json.decode(msgspec.json.encode(served))
        return decoded if "pagination" in decoded else decoded["data"]


@given(st.data())
def test_occurrences_are_those_that_plain_loops_count(data: st.DataObject) -> None:
    case = Case(data)
    kind = data.draw(kinds)
    values = data.draw(st.lists(values_of(kind), min_size=1, max_size=12))
    games, hours = data.draw(st.integers(1, 80)), data.draw(st.integers(1, 6) | st.integers(1, 168))
    by_time, comparison = data.draw(st.booleans()), data.draw(st.booleans())
    name = NAMES[kind]
    served = case.get(f"/api/analytics/occurrences/{name}/{values[0]}", games=games, hours=hours, by_time=by_time)
    assert served == case.oracle.occurrences(kind, values[0], games, by_time, hours)
    served = case.post(
        f"/api/analytics/occurrences/{name}s/batch",
        values=values,
        games=games,
        hours=hours,
        by_time=by_time,
        comparison=comparison,
    )
    assert served == case.oracle.occurrences_batch(kind, values, games, by_time, hours, comparison)


@given(st.data())
def test_series_are_those_that_plain_loops_find(data: st.DataObject) -> None:
    case = Case(data)
    value, sort_by = data.draw(numbers), data.draw(st.sampled_from(["time", "length"]))
    path = f"/api/analytics/series/without-min-crash-point/{value}"
    limit, hours = data.draw(st.integers(1, 80)), data.draw(st.integers(1, 168))
    assert case.get(path, limit=limit, sort_by=sort_by) == case.oracle.series(value, limit, sort_by)
    by_time = case.get(f"{path}/time", hours=hours, sort_by=sort_by)
    assert by_time == case.oracle.series_by_time(value, hours, sort_by)


@given(st.data())
def test_intervals_are_those_that_plain_loops_count(data: st.DataObject) -> None:
    case = Case(data)
    values = data.draw(st.lists(numbers, min_size=1, max_size=3))
    minutes, hours = data.draw(st.sampled_from(DIVISORS)), data.draw(st.integers(1, 72))
    asked = {"interval_minutes": minutes, "hours": hours}
    path = "/api/analytics/intervals/min-crash-point"
    assert case.get(f"{path}/{values[0]}", **asked) == case.oracle.intervals(values[0], minutes, hours)
    assert case.post(f"{path}s", values=values, **asked) == case.oracle.intervals_batch(values, minutes, hours)


@given(st.data())
def test_date_ranges_follow_the_wall_clock_of_the_zone(data: st.DataObject) -> None:
    case = Case(data)
    values = data.draw(st.lists(numbers, min_size=1, max_size=3))
    minutes = data.draw(st.sampled_from(DIVISORS))
    first = case.day + timedelta(days=data.draw(st.integers(-3, 2)))
    last = first + timedelta(days=data.draw(st.integers(0, 2)))
    asked = {"start_date": str(first), "end_date": str(last), "interval_minutes": minutes}
    path = "/api/analytics/intervals/min-crash-point"
    served = case.get(f"{path}/{values[0]}/date-range", **asked)
    assert served == case.oracle.date_range(values[0], first, last, minutes)
    served = case.post(f"{path}s/date-range", values=values, **asked)
    assert served == case.oracle.date_range_batch(values, first, last, minutes)


@given(st.data())
def test_game_sets_are_those_that_plain_loops_count(data: st.DataObject) -> None:
    case = Case(data)
    values = data.draw(st.lists(numbers, min_size=1, max_size=3))
    asked = {"games_per_set": data.draw(st.sampled_from(SET_SIZES)), "total_games": data.draw(st.integers(1, 80))}
    path = "/api/analytics/intervals/min-crash-point"
    assert case.get(f"{path}/{values[0]}/game-sets", **asked) == case.oracle.game_sets(values[0], **asked)
    served = case.post(f"{path}s/game-sets", values=values, **asked)
    assert served == case.oracle.game_sets_batch(values, **asked)


@given(st.data())
def test_last_games_are_those_that_plain_loops_find(data: st.DataObject) -> None:
    case = Case(data)
    kind = data.draw(kinds)
    values = data.draw(st.lists(values_of(kind), min_size=1, max_size=4))
    limit, name = data.draw(st.integers(1, 80)), NAMES[kind]
    last_game = case.get(f"/api/analytics/last-game/{name}/{values[0]}")
    assert last_game == case.oracle.last_game(kind, values[0])
    last_games = case.get(f"/api/analytics/last-games/{name}/{values[0]}", limit=limit)
    assert last_games == case.oracle.last_games(kind, values[0], limit)
    batch = case.post(f"/api/analytics/last-games/{name}s", values=values)
    assert batch == {str(value): case.oracle.last_game(kind, value) for value in values}


@given(st.data())
def test_pages_and_single_games_are_those_of_the_whole_window_whatever_the_moment(data: st.DataObject) -> None:
    case = Case(data)
    page, per_page = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 100))
    assert case.get("/api/games", page=page, per_page=per_page) == case.oracle.page(page, per_page)
    game_id = data.draw(st.sampled_from([1, *(game.game_id for game in case.games)]))
    assert case.get(f"/api/games/{game_id}") == case.oracle.one_game(game_id)
