"""What people's files say of a game becomes the event; what is not understood is left to the engine's own checker."""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from crashfold.engine.errors import ConfigurationError
from crashfold.engine.games.history import Interpreter, NotUnderstood, Spelling
from crashfold.engine.games.survey import Surveyor
from crashfold.schemas.chain import chain_of_games
from crashfold.schemas.fairness import Rule, RuleBook, TableRules
from crashfold.schemas.game import Game, decode
from crashfold.schemas.record import Unreadable

TIME = 1_768_480_301_337


def game(row: dict[str, Any], spelling: Spelling | None = None) -> Game | Unreadable:
    return decode(Interpreter(spelling or Spelling()).event(row)[1])


def read(**values: Any) -> Game:
    """The game of a row that has all that is needed besides."""
    found = game({"game_id": 7, "crash_point": 2.41, "end_time": TIME} | values)
    assert isinstance(found, Game), found
    return found


@pytest.mark.parametrize(
    "row",
    [
        {"game_id": 7, "crash_point": 2.41, "end_time": TIME},
        {"gameId": "7", "hashValue": None, "crashPoint": "2.41x", "endTime": TIME, "prepareTime": "", "beginTime": ""},
        {"id": 7, "multiplier": "2.41", "created_at": "2026-01-15T12:31:41.337Z"},
        {"Round": "7", "Bust": "2.41×", "Timestamp": "2026-01-15 12:31:41.337+00"},
        {"ID": 7.0 and 7, "result": 2.41, "time": 1_768_480_301.337},
        {"Game ID": "7", "Crash-Point": "2.410", "END_TIME": str(TIME)},
        {"id": 99, "game_id": 7, "result": "won", "crash_point": 2.41, "end_time": TIME, "created_at": 5},
    ],
    ids=lambda row: " ".join(row),
)
def test_columns_go_by_many_names(row: dict[str, Any]) -> None:
    assert game(row) == Game(game_id=7, crash_point=2.41, end_time=TIME)


@pytest.mark.parametrize(
    ("text", "decimal", "number"),
    [
        ("2.41x", "point", 2.41),
        ("1,234.56", "point", 1234.56),
        ("1,234,567", "point", 1234567.0),
        (" 2.41 X ", "point", 2.41),
        ("007.50", "point", 7.5),
        ("+3", "point", 3.0),
        ("2,41", "comma", 2.41),
        ("1e3", "point", 1000.0),
        ("1.5E+06x", "point", 1_500_000.0),
        ("1,5e1", "comma", 15.0),
        ("1.234,56x", "comma", 1234.56),
        ("1234,5", "comma", 1234.5),
        ("2.41", "comma", 2.41),
    ],
)
def test_crash_points_are_read_as_people_write_them(text: str, decimal: Any, number: float) -> None:
    row = {"game_id": 7, "crash_point": text, "end_time": TIME}
    found = game(row, Spelling(decimal=decimal))
    assert isinstance(found, Game), found
    assert found.crash_point == number


@pytest.mark.parametrize("text", ["2.415", "abc", "0.5", "1e999", "2.4.1", "--2", "1,23,4.5", "٣", "infinity"])
def test_what_is_no_crash_point_is_left_to_the_checker(text: str) -> None:
    assert isinstance(game({"game_id": 7, "crash_point": text, "end_time": TIME}), Unreadable)


@pytest.mark.parametrize("text", ["2,41", "1.234,56", "2,4"])
def test_a_comma_that_groups_nothing_asks_for_the_decimal_mark(text: str) -> None:
    with pytest.raises(NotUnderstood, match="--decimal comma"):
        game({"game_id": 7, "crash_point": text, "end_time": TIME})


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (TIME // 1000, "s"),
        (str(TIME), "ms"),
        (TIME * 1000 + 999, "us"),
        (f"{TIME / 1000:.3f}", "s"),
        (TIME / 1000, "s"),
    ],
)
def test_numbers_are_times_by_their_magnitude_and_the_choice_is_told(value: Any, told: str) -> None:
    interpreter = Interpreter(Spelling())
    found = decode(interpreter.event({"game_id": 7, "crash_point": 2, "end_time": value})[1])
    assert isinstance(found, Game)
    assert found.end_time in (TIME, TIME // 1000 * 1000)
    assert interpreter.units == {"end_time": told}


def test_one_magnitude_is_not_mixed_with_another() -> None:
    interpreter = Interpreter(Spelling())
    interpreter.event({"game_id": 1, "crash_point": 2, "end_time": TIME})
    with pytest.raises(NotUnderstood, match="--time-unit"):
        interpreter.event({"game_id": 2, "crash_point": 2, "end_time": TIME // 1000})
    fixed = Interpreter(Spelling(time_unit="ms"))
    assert decode(fixed.event({"game_id": 2, "crash_point": 2, "end_time": 5})[1]) == Game(
        game_id=2, crash_point=2.0, end_time=5
    )


@pytest.mark.parametrize(
    ("text", "zone", "moment"),
    [
        ("2026-01-15T12:31:41Z", None, datetime(2026, 1, 15, 12, 31, 41, tzinfo=UTC)),
        ("2026-01-15 12:31:41 UTC", None, datetime(2026, 1, 15, 12, 31, 41, tzinfo=UTC)),
        ("2026-01-15T13:31:41.123456789+01:00", None, datetime(2026, 1, 15, 12, 31, 41, 123000, tzinfo=UTC)),
        ("2026-07-15 12:31:41", "Europe/Vienna", datetime(2026, 7, 15, 10, 31, 41, tzinfo=UTC)),
        (datetime(2026, 7, 15, 12, 31, 41), "UTC", datetime(2026, 7, 15, 12, 31, 41, tzinfo=UTC)),
    ],
)
def test_moments_have_an_offset_or_a_zone(text: Any, zone: str | None, moment: datetime) -> None:
    found = game({"game_id": 7, "crash_point": 2, "end_time": text}, Spelling(zone=ZoneInfo(zone) if zone else None))
    assert isinstance(found, Game)
    assert found.end_time == round(moment.timestamp() * 1000)


@pytest.mark.parametrize("text", ["2026-01-15 12:31:41", "yesterday", "2026-13-01T00:00Z", float("nan"), float("inf")])
def test_a_moment_that_cannot_be_known_is_named(text: Any) -> None:
    with pytest.raises(NotUnderstood, match="end_time"):
        game({"game_id": 7, "crash_point": 2, "end_time": text})


def test_hashes_come_in_any_case_and_what_is_nothing_is_null() -> None:
    assert read(hash="AB" * 32).hash == "ab" * 32
    for nothing in ("", "NULL", "\\N", "none", None):
        assert read(hash=nothing, prepare_time=nothing, begin_time=nothing) == read()
    assert isinstance(game({"game_id": 7, "crash_point": 2, "end_time": TIME, "hash": "xyz"}), Unreadable)


@pytest.mark.parametrize("row", [{"game_id": "8.0"}, {"game_id": True}, {"game_id": 0}, {"end_time": True}, {}])
def test_what_is_no_game_is_found_so_by_the_engines_own_checker(row: dict[str, Any]) -> None:
    whole = {"game_id": 7, "crash_point": 2, "end_time": TIME} | row
    if not row:
        del whole["crash_point"]
    assert isinstance(game(whole), Unreadable)


def test_a_column_that_was_named_is_taken_and_two_likely_ones_are_asked_about() -> None:
    named = Spelling(columns={"game_id": "nr", "end_time": "id"})
    found = game({"nr": 7, "id": TIME, "bust": 2}, named)
    assert found == Game(game_id=7, crash_point=2.0, end_time=TIME)
    with pytest.raises(ConfigurationError, match="--column game_id="):
        Interpreter(Spelling()).columns(["game_id", "GameId"])


def test_a_column_names_the_stream() -> None:
    row = {"game_id": 7, "crash_point": 2, "end_time": TIME}
    interpreter = Interpreter(Spelling())
    assert interpreter.event(row)[0] is None
    assert interpreter.event({**row, "stream": "other"})[0] == b"other"
    assert interpreter.event({**row, "stream": ""})[0] is None
    assert interpreter.event({**row, "stream": {"a": 1}})[0] == b'{"a":1}'


def test_a_survey_asks_each_game_by_the_rule_of_its_time() -> None:
    new = Rule("another salt")
    games = [*chain_of_games(seed=1, games=5), *chain_of_games(seed=2, games=5, first_id=6, rule=new)]
    for begins, faults in ((6, (0, 0)), (11, (5, 1))):
        surveyor = Surveyor(RuleBook(Rule(), {"crash": TableRules(Rule(), [(begins, new)])}))
        for game in games:
            surveyor.take("crash", game)
        crash = surveyor.streams["crash"]
        assert (crash.hash_mismatches, crash.broken_links) == faults


def test_a_survey_counts_what_is_missing_doubled_unfit_and_broken() -> None:
    games = list(chain_of_games(seed=1, games=10))
    surveyor = Surveyor(RuleBook())
    assert surveyor.take("crash", games[0]) is None
    assert surveyor.take("crash", games[0]) == "doubled"
    other = Game(game_id=2, crash_point=games[1].crash_point + 1, end_time=games[1].end_time, hash=games[1].hash)
    assert surveyor.take("crash", other) is None
    assert surveyor.take("crash", games[1]) == "conflict"
    assert surveyor.take("crash", games[6]) is None
    broken = Game(game_id=8, crash_point=1.5, end_time=games[7].end_time + 1, hash="00" * 32)
    assert surveyor.take("crash", broken) is None
    assert surveyor.take("other", games[9]) is None
    crash, one = surveyor.streams.values()
    assert (crash.games, crash.first_id, crash.last_id, crash.missing, crash.doubled) == (4, 1, 8, 4, 2)
    assert (crash.hash_mismatches, crash.broken_links) == (2, 1)
    assert (crash.first_time, crash.last_time) == (games[0].end_time, broken.end_time)
    assert (one.games, one.first_id, one.last_id, one.missing, one.broken_links) == (1, 10, 10, 0, 0)
