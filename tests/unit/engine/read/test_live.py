"""What live clients are told, as bytes."""

import msgspec
import pytest

from crashfold.engine.ports import Cursor
from crashfold.engine.read.fairness import DEFAULT, TableFairness
from crashfold.engine.read.held import Change
from crashfold.engine.read.live import FORMS_MAX, FRAMES_MAX, Backlog, Frame
from crashfold.engine.read.times import Zone, Zones
from crashfold.schemas.fairness import Rule, TableRules
from tests.support.games import games_at

UTC = Zone("UTC")
HASH = "ab" * 32
FIXED = TableFairness(TableRules(), lambda digits, rule: 1.5)


def change(version: int, *crash_points: float, generation: str = "g", history: int = 0) -> Change:
    games = tuple(games_at(*crash_points, first_id=version))
    return Change(moment(version, generation, history), 100 + version, games, 0)


def moment(version: int, generation: str = "g", history: int = 0) -> Cursor:
    """The moment of a version; in another history the same version is another moment."""
    return Cursor(generation, version, f"{history:08x}{version:08x}", 100 + version)


def versions(backlog: Backlog, known: Cursor) -> list[int] | None:
    frames = backlog.after(known)
    return None if frames is None else [frame.cursor.version for frame in frames]


@pytest.fixture
def backlog() -> Backlog:
    """From version 1 of `g`, with 2 and, two commits in one, 4."""
    backlog = Backlog(DEFAULT)
    backlog.begin(moment(1))
    backlog.add(change(2, 2.0))
    backlog.add(change(4, 2.0, 3.0))
    return backlog


def test_an_event_is_a_name_an_id_and_one_line_of_json() -> None:
    game = msgspec.structs.replace(games_at(12.34)[0], hash=HASH, end_time=1_768_480_500_000)
    frame = Frame("commit", Change(Cursor("6f1c", 7, "ab" * 8, 9), 20_000, (game,), 3), moment(6), FIXED)
    assert frame.event(Zone("Europe/Vienna")).decode() == (
        "event: commit\nid: 6f1c-7-abababababababab-9\n"
        'data: {"version":7,"total_games":20000,"games":[{"gameId":"1","hashValue":"' + HASH + '","crashPoint":12.34,'
        '"calculatedPoint":1.5,"crashedFloor":12,"endTime":"2026-01-15T13:35:00+01:00",'
        '"prepareTime":null,"beginTime":null}],"skipped":3}\n\n'
    )


def test_an_event_has_as_many_of_the_newest_games_as_are_asked_for_and_counts_the_others() -> None:
    frame = Frame("commit", msgspec.structs.replace(change(1, 2.0, 3.5, 7.0), skipped=4), None, DEFAULT)
    data = [msgspec.json.decode(frame.event(UTC, limit).split(b"data: ")[1]) for limit in (2, 3, 100)]
    assert [[game["crashPoint"] for game in one["games"]] for one in data] == [
        [3.5, 7.0],
        [2.0, 3.5, 7.0],
        [2.0, 3.5, 7.0],
    ]
    assert [one["skipped"] for one in data] == [5, 4, 4]
    assert {one["total_games"] for one in data} == {101}


def test_a_message_is_a_game() -> None:
    first, second = Frame("commit", change(1, 2.0, 3.5), None, DEFAULT).messages(UTC)
    assert msgspec.json.decode(first)["type"] == msgspec.json.decode(second)["type"] == "new_game"
    assert [msgspec.json.decode(message)["data"]["crashPoint"] for message in (first, second)] == [2.0, 3.5]


def test_a_change_is_printed_once_a_zone_and_never_for_more_zones_than_are_kept() -> None:
    calculated: list[str] = []

    def calculate(digits: str, rule: Rule) -> float:
        calculated.append(digits)
        return 1.0

    game = msgspec.structs.replace(games_at(2.0)[0], hash=HASH)
    frame = Frame("commit", Change(moment(1), 1, (game,), 0), None, TableFairness(TableRules(), calculate))
    names = sorted(Zones().names)[: FORMS_MAX + 2]
    for name in names:
        assert frame.event(Zone(name)) == frame.event(Zone(name))
    assert len(calculated) == FORMS_MAX + 2 * 2
    assert frame.event(Zone(names[0])) is frame.event(Zone(names[0]))


def test_a_client_that_knows_a_version_lacks_what_came_after(backlog: Backlog) -> None:
    assert versions(backlog, moment(1)) == [2, 4]
    assert versions(backlog, moment(2)) == [4]
    assert versions(backlog, moment(4)) == []


def test_games_beyond_the_last_version_are_changes_too(backlog: Backlog) -> None:
    beyond = msgspec.structs.replace(change(4, 5.0), cursor=moment(4, history=1))
    backlog.add(beyond)
    assert versions(backlog, moment(4)) == [4]
    assert versions(backlog, beyond.cursor) == []
    backlog.add(change(6, 2.0))
    assert versions(backlog, moment(4)) == [4, 6]
    assert versions(backlog, beyond.cursor) == [6]


@pytest.mark.parametrize(
    "known", [moment(0), moment(3), moment(5), moment(2, "h"), moment(2, history=1), moment(4, history=1)]
)
def test_who_knows_what_no_change_builds_on_needs_the_newest_state(backlog: Backlog, known: Cursor) -> None:
    assert versions(backlog, known) is None


def test_a_change_that_is_known_already_changes_nothing(backlog: Backlog) -> None:
    backlog.add(change(4, 2.0, 3.0))
    assert versions(backlog, moment(1)) == [2, 4]


@pytest.mark.parametrize(
    "new",
    [change(5, generation="h"), change(3, history=1), change(4, history=1), change(9, history=1)],
    ids=["another generation", "an earlier version", "the same version", "a later version of another history"],
)
def test_what_builds_on_nothing_kept_starts_over(backlog: Backlog, new: Change) -> None:
    backlog.add(msgspec.structs.replace(new, is_restart=True))
    for known in (1, 2, 4):
        assert versions(backlog, moment(known)) is None
    assert versions(backlog, new.cursor) == []


def test_only_the_newest_changes_are_kept(backlog: Backlog) -> None:
    for version in range(5, 5 + FRAMES_MAX):
        backlog.add(change(version, 2.0))
    assert versions(backlog, moment(2)) is None
    assert versions(backlog, moment(4)) == [*range(5, 5 + FRAMES_MAX)]


def test_the_newest_state_is_one_frame_as_long_as_it_is_the_same(backlog: Backlog) -> None:
    frame = backlog.snapshot(change(4, 2.0))
    assert frame.name == "snapshot"
    assert backlog.snapshot(change(4, 2.0)) is frame
    assert backlog.snapshot(change(5, 2.0)) is not frame


CURSORS = [Cursor("6f1c", 0, "0" * 16, 0), Cursor("with-dashes", 2**53, "0123456789abcdef", 2**63 - 1)]


@pytest.mark.parametrize("cursor", CURSORS)
def test_a_cursor_is_read_back_from_an_event_id_and_from_tags(cursor: Cursor) -> None:
    assert Cursor.parse(str(cursor)) == cursor
    tags = f'"x", W/"{cursor}-0badcafe-Etc/GMT-5", "{cursor}-0badcafe", *'
    assert [*Cursor.all_in(tags)] == [cursor, cursor]


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "-", "g", "g-", "-1", "g-x", "g-1", "g-1.0", "g-٣", "g-" + "9" * 17),
        *("g-1-0123456789abcdef", "g-1--7", "g-1-0123456789ABCDEF-7", "g-1-0123456789abcdef-٣", "\n" * 10_000),
        *("-1-0123456789abcdef-7", "g-1-0123456789abcdef-" + "9" * 20),
    ],
)
def test_what_is_no_event_id_of_ours_says_nothing(text: str | None) -> None:
    assert Cursor.parse(text) is None
