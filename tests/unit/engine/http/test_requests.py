"""How requests are read: JSON numbers and nothing else, strict bodies, bounds, zones and moments."""

from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from crashfold.engine.http.problems import Problem
from crashfold.engine.http.requests import ApiRequest, read_query
from crashfold.engine.http.routes import ROUTES, answer, ask
from crashfold.engine.read.aggregate import Asked
from crashfold.engine.read.aggregates.games import PageQuestion
from crashfold.engine.read.aggregates.intervals import IntervalsQuestion
from crashfold.engine.read.aggregates.occurrences import OccurrencesBatch, OccurrencesQuestion
from crashfold.engine.read.aggregates.series import SeriesQuestion
from crashfold.engine.read.questions import Threshold
from crashfold.engine.read.times import Zones
from crashfold.projections.games import Bands, Games
from crashfold.projections.settings import ProjectionSettings
from crashfold.schemas.game import Game

ZONES = Zones()
SETTINGS = ProjectionSettings()
GAMES = SETTINGS.window_games
OCCURRENCES = "/api/analytics/occurrences"
ONE = f"{OCCURRENCES}/min-crash-point/2"
BATCH = f"{OCCURRENCES}/min-crash-points/batch"
DATES = "/api/analytics/intervals/min-crash-point/2/date-range"


def get(path: str, query: str = "", headers: dict[str, str] | None = None) -> Asked | Problem:
    return ask(ApiRequest("GET", path, query, b"", headers or {}), GAMES, ZONES)


def post(path: str, body: bytes | dict[str, Any]) -> Asked | Problem:
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return ask(ApiRequest("POST", path, "", content), GAMES, ZONES)


def status(asked: Asked | Problem) -> int:
    return asked.status if isinstance(asked, Problem) else 200


NO_NUMBERS = [
    *("", " ", "two", "nan", "NaN", "Infinity", "-inf", "1_0", "+5", " 5", "5 ", "01", "1.", ".5", "0x10"),
    *("1e", "1e+", "--1", "2,5", "٣", "²", "1.5.2", "5\n", "true", "null", '"2"'),
]


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_is_no_json_number_is_malformed(text: str) -> None:
    assert status(get(f"{OCCURRENCES}/min-crash-point/{quote(text)}")) == 400
    assert status(get(f"{OCCURRENCES}/exact-floor/{quote(text)}")) == 400
    assert status(get(ONE, f"games={quote(text)}")) == 400
    assert status(get("/api/games", f"page={quote(text)}")) == 400


@pytest.mark.parametrize(
    ("text", "value"),
    [("2", 2.0), ("2.50", 2.5), ("1e3", 1000.0), ("1.5E+2", 150.0), ("1000000000", 1e9), ("10e-1", 1.0)],
)
def test_a_threshold_is_any_json_number(text: str, value: float) -> None:
    asked = get(f"{OCCURRENCES}/max-crash-point/{text}")
    assert isinstance(asked, Asked)
    assert asked.subject == Threshold("max", value)
    assert isinstance(asked.subject, Threshold)
    assert asked.subject.label == repr(value)


@pytest.mark.parametrize(
    "text", ["0.99", "0", "-0", "-2", "1000000000.01", "1e10", "1e400", "-1e400", "1e-400", "9" * 5000]
)
def test_a_threshold_outside_of_1_to_a_billion_is_out_of_bounds(text: str) -> None:
    assert status(get(f"{OCCURRENCES}/min-crash-point/{text}")) == 422


@pytest.mark.parametrize("text", ["2.0", "2.5", "1e2", "2E0"])
def test_an_integer_has_no_fraction_and_no_exponent(text: str) -> None:
    assert status(get(f"{OCCURRENCES}/exact-floor/{text}")) == 400
    assert status(get(ONE, f"games={text}")) == 400
    assert status(get(f"/api/games/{text}")) == 400


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (ONE, "games=0"),
        (ONE, "games=-1"),
        (ONE, "games=50001"),
        (ONE, "games=" + "9" * 5000),
        (ONE, "hours=0"),
        (ONE, "hours=169"),
        ("/api/analytics/series/without-min-crash-point/2", "limit=50001"),
        ("/api/analytics/series/without-min-crash-point/2/time", "hours=169"),
        ("/api/analytics/intervals/min-crash-point/2", "interval_minutes=0"),
        ("/api/analytics/intervals/min-crash-point/2", "interval_minutes=-10"),
        ("/api/analytics/intervals/min-crash-point/2", "interval_minutes=7"),
        ("/api/analytics/intervals/min-crash-point/2", "interval_minutes=2880"),
        ("/api/analytics/intervals/min-crash-point/2/game-sets", "games_per_set=1"),
        ("/api/analytics/intervals/min-crash-point/2/game-sets", "total_games=0"),
        (DATES, "start_date=2026-01-02&end_date=2026-01-01"),
        (DATES, "start_date=2026-01-01&end_date=2026-01-08"),
        (DATES, "start_date=0001-01-01&end_date=0001-01-02"),
        (DATES, "start_date=9999-12-31&end_date=9999-12-31"),
        ("/api/analytics/last-games/min-crash-point/2", "limit=0"),
        ("/api/games", "page=0"),
        ("/api/games", "per_page=101"),
        (ONE, "at=9999-12-31T23:59:59Z"),
        (ONE, "min_version=-1"),
    ],
)
def test_what_is_out_of_bounds_is_422(path: str, query: str) -> None:
    assert status(get(path, query)) == 422


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (ONE, "by_time=True"),
        (ONE, "by_time=1"),
        (ONE, "by_time="),
        ("/api/analytics/series/without-min-crash-point/2", "sort_by=size"),
        ("/api/analytics/series/without-min-crash-point/2", "sort_by="),
        (DATES, ""),
        (DATES, "start_date=2026-01-01"),
        (DATES, "start_date=2026-1-1&end_date=2026-01-01"),
        (DATES, "start_date=20260101&end_date=2026-01-01"),
        (DATES, "start_date=2026-02-30&end_date=2026-03-01"),
        (DATES, "start_date=2026-01-01T00:00:00Z&end_date=2026-01-01"),
        (DATES, "start_date=2026-W01-1&end_date=2026-01-01"),
        (ONE, "at="),
        (ONE, "at=2026-01-15"),
        (ONE, "at=2026-01-15T12:34:56"),
        (ONE, "at=2026-01-15t12:34:56Z"),
        (ONE, "at=2026-01-15%2012:34:56Z"),
        (ONE, "at=2026-01-15T25:00:00Z"),
        (ONE, "at=2026-02-30T12:00:00Z"),
        (ONE, "at=1768480496"),
        (ONE, "stream="),
        (ONE, "stream=a%20b"),
        (ONE, "stream=" + "a" * 65),
        (ONE, "min_version=new"),
    ],
)
def test_what_is_not_well_written_is_400(path: str, query: str) -> None:
    assert status(get(path, query)) == 400


@pytest.mark.parametrize(
    ("text", "at_us"),
    [
        ("2026-01-15T12:34:56Z", 1_768_480_496_000_000),
        ("2026-01-15T12:34Z", 1_768_480_440_000_000),
        ("2026-01-15T12:34:56.789Z", 1_768_480_496_789_000),
        ("2026-01-15T12:34:56,7891239Z", 1_768_480_496_789_123),
        ("2026-01-15T13:34:56%2B01:00", 1_768_480_496_000_000),
        ("2026-01-15T13:34:56+01:00", 1_768_480_496_000_000),
        ("2026-01-15T07:04:56-0530", 1_768_480_496_000_000),
        ("20260115T123456Z", 1_768_480_496_000_000),
    ],
)
def test_a_moment_is_iso_8601_with_an_offset(text: str, at_us: int) -> None:
    asked = get(ONE, f"at={text}")
    assert isinstance(asked, Asked)
    assert asked.terms.at_us == at_us


def test_games_do_not_even_look_at_the_moment() -> None:
    assert status(get("/api/games", "at=nonsense")) == 200
    assert status(get("/api/games/17", "at=nonsense")) == 200


@pytest.mark.parametrize(
    "name", ["europe/vienna", "Europe/vienna", "CET+1", "+01:00", "../UTC", "Europe", "localtime", " UTC"]
)
def test_a_zone_that_is_not_spelled_as_iana_does_is_malformed(name: str) -> None:
    asked = get(ONE, headers={"x-timezone": name})
    assert isinstance(asked, Problem)
    assert (asked.status, asked.parameter) == (400, "X-Timezone")


@pytest.mark.parametrize(
    ("headers", "name"), [({}, "UTC"), ({"x-timezone": ""}, "UTC"), ({"x-timezone": "Asia/Beirut"}, "Asia/Beirut")]
)
def test_without_a_zone_it_is_utc(headers: dict[str, str], name: str) -> None:
    asked = get(ONE, headers=headers)
    assert isinstance(asked, Asked)
    assert asked.terms.zone.name == name


def test_the_defaults_are_those_of_the_contract() -> None:
    assert read_query(OccurrencesQuestion, {}, GAMES) == OccurrencesQuestion(games=100, by_time=False, hours=1)
    assert read_query(SeriesQuestion, {}, GAMES) == SeriesQuestion(limit=1000, sort_by="time")
    assert read_query(IntervalsQuestion, {}, GAMES) == IntervalsQuestion(interval_minutes=10, hours=24)
    assert read_query(PageQuestion, {}, GAMES) == PageQuestion(page=1, per_page=10)
    asked = post(BATCH, {"values": [2]})
    assert isinstance(asked, Asked)
    assert asked.question == OccurrencesBatch(values=(2.0,), games=100, hours=1, by_time=False, comparison=True)


def test_unknown_parameters_and_members_are_ignored_and_of_two_the_last_counts() -> None:
    asked = get(ONE, "games=x&games=30&colour=red&limit=-1")
    assert isinstance(asked, Asked)
    assert asked.question == OccurrencesQuestion(games=30)
    assert status(post(BATCH, {"values": [2], "colour": {"deep": [1, 2, 3]}})) == 200


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"null", b"[]", b"{}", b"{", b'{"values": 2}', b'{"values": null}', b'{"values": ["2"]}'),
        *(b'{"values": [true]}', b'{"values": [null]}', b'{"values": [NaN]}', b'{"values": [01]}'),
        *(b'{"values": [2], "games": "5"}', b'{"values": [2], "games": 5.0}', b'{"values": [2], "games": true}'),
        *(b'{"values": [2], "games": null}', b'{"values": [2], "by_time": 1}', b'{"values": [2], "by_time": "true"}'),
        *(b'{"values": [2], "x": "\xff"}', b'{"values": [2], "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ],
)
def test_a_body_that_is_not_strictly_typed_is_malformed(body: bytes) -> None:
    asked = post(BATCH, body)
    assert isinstance(asked, Problem)
    assert asked.status == 400


@pytest.mark.parametrize(
    "body",
    [
        *(b'{"values": []}', b'{"values": [0.5]}', b'{"values": [1e400]}', b'{"values": [2, 1e10]}'),
        *(b'{"values": [' + b"2," * 100 + b"2]}", b'{"values": [2], "games": 50001}', b'{"values": [2], "hours": 0}'),
        *(b'{"values": [2], "games": 1' + b"0" * 40 + b"}", b'{"values": [2], "games": 1' + b"0" * 5000 + b"}"),
    ],
)
def test_a_body_with_a_number_out_of_bounds_is_422(body: bytes) -> None:
    assert status(post(BATCH, body)) == 422


@pytest.mark.parametrize("member", ["games", "by_time", "values"])
def test_a_number_beyond_all_doubles_is_still_of_a_type(member: str) -> None:
    for number in ("1e400", "-1e400", "1" + "0" * 400):
        members = {"values": "[2]", member: number}
        body = ",".join(f'"{name}":{value}' for name, value in members.items())
        fits = member == "games" and "e" not in number
        assert status(post(BATCH, b"{%s}" % body.encode())) == (422 if fits else 400)
    assert status(post(BATCH, b'{"values":[2],"other":1e400}')) == 200
    assert status(post(f"{OCCURRENCES}/exact-floors/batch", b'{"values":[1e400]}')) == 400


INTERVALS = "/api/analytics/intervals/min-crash-points"


@pytest.mark.parametrize(
    ("path", "body", "items"),
    [
        (INTERVALS, {"values": [2] * 100, "hours": 168, "interval_minutes": 10}, 100_800),
        (INTERVALS, {"values": [2] * 99, "hours": 168, "interval_minutes": 10}, 99_792),
        (INTERVALS, {"values": [2] * 100, "hours": 1, "interval_minutes": 1440}, 100),
        (f"{INTERVALS}/game-sets", {"values": [2] * 20, "total_games": 50_000}, 100_000),
        (f"{INTERVALS}/game-sets", {"values": [2] * 21, "total_games": 50_000}, 105_000),
        (
            f"{INTERVALS}/date-range",
            {"values": [2] * 10, "start_date": "2026-01-01", "end_date": "2026-01-07", "interval_minutes": 1},
            100_800,
        ),
    ],
)
def test_a_question_asks_for_so_many_items_and_no_more(path: str, body: dict[str, Any], items: int) -> None:
    asked = post(path, body)
    assert status(asked) == (422 if items > 100_000 else 200)
    if isinstance(asked, Problem):
        assert str(items) in asked.detail


def test_games_count_as_items_where_each_may_be_one() -> None:
    window_games = 1_000_000
    for path, name, is_listed in (
        ("/api/analytics/series/without-min-crash-point/2", "limit", True),
        ("/api/analytics/last-games/min-crash-point/2", "limit", True),
        (ONE, "games", False),
    ):
        assert status(ask(ApiRequest("GET", path, f"{name}=100000"), window_games, ZONES)) == 200
        assert status(ask(ApiRequest("GET", path, f"{name}=100001"), window_games, ZONES)) == (
            422 if is_listed else 200
        )


def test_sets_that_only_the_ids_show_count_too() -> None:
    window = Games.of(Bands([]), [Game(game_id=id_, crash_point=2.0, end_time=id_) for id_ in (1, 49_999)])
    for values, expected in ((20, 200), (21, 422)):
        body = msgspec.json.encode({"values": [2] * values, "total_games": 1_000})
        found, _ = answer(
            ApiRequest("POST", f"{INTERVALS}/game-sets", "", body), window, 0, settings=SETTINGS, zones=ZONES
        )
        assert found == expected


def test_series_of_hours_that_only_the_games_show_count_too() -> None:
    rows = [Game(game_id=id_, crash_point=2.0, end_time=1_768_480_000_000 + id_) for id_ in range(1, 100_002)]
    path = "/api/analytics/series/without-min-crash-point/2/time"
    for games, expected in ((100_000, 200), (100_001, 422)):
        window = Games.of(Bands([]), rows[:games])
        found, _ = answer(ApiRequest("GET", path), window, 1_768_480_500_000, settings=SETTINGS, zones=ZONES)
        assert found == expected


def test_floors_in_a_body_are_integers() -> None:
    path = f"{OCCURRENCES}/exact-floors/batch"
    assert status(post(path, b'{"values": [2.0]}')) == 400
    asked = post(path, b'{"values": [2, 13]}')
    assert isinstance(asked, Asked)
    assert asked.subject == (Threshold("floor", 2), Threshold("floor", 13))


def test_an_unknown_path_is_404_and_another_method_405() -> None:
    for path in ("/api", "/api/analytics/occurrences/min-crash-points/2", "/api/analytics/last-game/min/2", f"{ONE}/x"):
        assert status(get(path)) == 404
    assert status(post(ONE, {"values": [2]})) == 405
    assert status(get(BATCH)) == 405


def test_every_route_answers_an_empty_window() -> None:
    window = Games.empty(Bands([]))
    body = b'{"values": [2, 3], "start_date": "2026-01-14", "end_date": "2026-01-15"}'
    for route in (route for route in ROUTES if not route.is_of_all):
        path = route.path.replace("{value}", "2").replace("{game_id}", "2")
        request = ApiRequest(route.method, path, "start_date=2026-01-14&end_date=2026-01-15", body)
        found, served = answer(request, window, 1_768_480_500_000, settings=SETTINGS, zones=ZONES)
        missing = any(part in route.path for part in ("/last-game/", "{game_id}", "{name}"))
        assert found == (404 if missing else 200), path
        assert msgspec.json.encode(served)


@pytest.mark.parametrize("game_id", ["0", "-1", "18", str(2**64), "9" * 5000])
def test_an_id_that_the_window_does_not_hold_is_404_however_large(game_id: str) -> None:
    rows = [Game(game_id=id_, crash_point=2.0, end_time=id_) for id_ in (17, 19)]
    window = Games.of(Bands([]), rows)
    found, _ = answer(ApiRequest("GET", f"/api/games/{game_id}"), window, 0, settings=SETTINGS, zones=ZONES)
    assert found == 404


def test_only_questions_by_hours_without_a_moment_depend_on_the_clock() -> None:
    by_clock = {
        f"{ONE}?by_time=true": True,
        f"{ONE}?hours=3": False,
        f"{ONE}?by_time=true&at=2026-01-15T12:34:56Z": False,
        "/api/analytics/series/without-min-crash-point/2?": False,
        "/api/analytics/series/without-min-crash-point/2/time?": True,
        "/api/analytics/intervals/min-crash-point/2?": True,
        f"{DATES}?start_date=2026-01-01&end_date=2026-01-01": False,
        "/api/analytics/last-game/min-crash-point/2?": False,
        "/api/games?": False,
    }
    for url, expected in by_clock.items():
        path, _, query = url.partition("?")
        asked = get(path, query)
        assert isinstance(asked, Asked)
        assert asked.by_clock is expected, url


def test_a_problem_never_repeats_what_was_sent() -> None:
    secret = "tr0ub4dor"
    for asked in (
        get(f"/{secret}"),
        get(f"{OCCURRENCES}/min-crash-point/{secret}"),
        get(ONE, f"games={secret}&at={secret}"),
        get(ONE, f"sort_by=time&at={secret}"),
        get(ONE, headers={"x-timezone": secret}),
        post(BATCH, b'{"values": ["%s"]}' % secret.encode()),
    ):
        assert isinstance(asked, Problem)
        assert secret.encode() not in msgspec.json.encode(asked)
