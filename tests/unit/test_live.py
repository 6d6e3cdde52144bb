"""What live clients are told, as bytes."""

import msgspec
import pytest

from engine.api.follower import Change
from engine.api.live import FRAMES_MAX, ZONES_MAX, Backlog, Cursor, Frame
from engine.api.times import Zone, Zones
from schemas import fairness
from tests.games import games_at

UTC = Zone("UTC")
HASH = "ab" * 32


def change(version: int, *crash_points: float, generation: str = "g") -> Change:
    return Change(generation, version, 100 + version, tuple(games_at(*crash_points, first_id=version)), 0)


def moment(version: int, total_games: int) -> Cursor:
    return Cursor("g", version, total_games)


def versions(backlog: Backlog, known: Cursor) -> list[int] | None:
    frames = backlog.after(known)
    return None if frames is None else [frame.cursor.version for frame in frames]


@pytest.fixture
def backlog() -> Backlog:
    """From version 1 of `g`, with 2 and, two commits in one, 4."""
    backlog = Backlog(fairness.crash_point)
    backlog.begin(moment(1, 101))
    backlog.add(change(2, 2.0))
    backlog.add(change(4, 2.0, 3.0))
    return backlog


def test_an_event_is_a_name_an_id_and_one_line_of_json() -> None:
    game = msgspec.structs.replace(games_at(12.34)[0], hash=HASH, end_time=1_768_480_500_000)
    frame = Frame("commit", Change("6f1c", 7, 20_000, (game,), 3), Cursor("6f1c", 6), lambda _: 1.5)
    assert frame.event(Zone("Europe/Vienna")).decode() == (
        "event: commit\nid: 6f1c-7\n"
        'data: {"version":7,"total_games":20000,"games":[{"gameId":"1","hashValue":"' + HASH + '","crashPoint":12.34,'
        '"calculatedPoint":1.5,"crashedFloor":12,"endTime":"2026-01-15T13:35:00+01:00",'
        '"prepareTime":null,"beginTime":null}],"skipped":3}\n\n'
    )


def test_a_message_is_a_game() -> None:
    first, second = Frame("commit", change(1, 2.0, 3.5), None, fairness.crash_point).messages(UTC)
    assert msgspec.json.decode(first)["type"] == msgspec.json.decode(second)["type"] == "new_game"
    assert [msgspec.json.decode(message)["data"]["crashPoint"] for message in (first, second)] == [2.0, 3.5]


def test_a_change_is_printed_once_a_zone_and_never_for_more_zones_than_are_kept() -> None:
    calculated: list[str] = []

    def calculate(digits: str) -> float:
        calculated.append(digits)
        return 1.0

    game = msgspec.structs.replace(games_at(2.0)[0], hash=HASH)
    frame = Frame("commit", Change("g", 1, 1, (game,), 0), None, calculate)
    names = sorted(Zones().names)[: ZONES_MAX + 2]
    for name in names:
        assert frame.event(Zone(name)) == frame.event(Zone(name))
    assert len(calculated) == ZONES_MAX + 2 * 2
    assert frame.event(Zone(names[0])) is frame.event(Zone(names[0]))


def test_a_client_that_knows_a_version_lacks_what_came_after(backlog: Backlog) -> None:
    assert versions(backlog, Cursor("g", 1)) == [2, 4]
    assert versions(backlog, Cursor("g", 2)) == [4]
    assert versions(backlog, Cursor("g", 4)) == []
    assert versions(backlog, moment(2, 102)) == [4]


def test_games_beyond_the_last_version_are_changes_too(backlog: Backlog) -> None:
    beyond = msgspec.structs.replace(change(4, 5.0), total_games=105)
    backlog.add(beyond)
    assert versions(backlog, moment(4, 104)) == [4]
    assert versions(backlog, Cursor.of(beyond)) == []
    backlog.add(change(6, 2.0))
    assert versions(backlog, moment(4, 104)) == [4, 6]
    assert versions(backlog, Cursor.of(beyond)) == [6]


def test_an_id_that_may_mean_two_moments_needs_the_newest_state(backlog: Backlog) -> None:
    backlog.add(msgspec.structs.replace(change(4, 5.0), total_games=105))
    assert versions(backlog, Cursor("g", 4)) is None
    assert versions(backlog, Cursor("g", 2)) == [4, 4]


@pytest.mark.parametrize("known", [Cursor("g", 0), Cursor("g", 3), Cursor("g", 5), Cursor("h", 2), moment(2, 103)])
def test_who_knows_what_no_change_builds_on_needs_the_newest_state(backlog: Backlog, known: Cursor) -> None:
    assert versions(backlog, known) is None


def test_a_change_that_is_known_already_changes_nothing(backlog: Backlog) -> None:
    backlog.add(change(4, 2.0, 3.0))
    assert versions(backlog, Cursor("g", 1)) == [2, 4]


@pytest.mark.parametrize(
    "new", [change(5, generation="h"), change(3)], ids=["another generation", "an earlier version"]
)
def test_what_builds_on_nothing_kept_starts_over(backlog: Backlog, new: Change) -> None:
    backlog.add(new)
    assert versions(backlog, Cursor("g", 2)) is None
    assert versions(backlog, Cursor.of(new)) == []


def test_only_the_newest_changes_are_kept(backlog: Backlog) -> None:
    for version in range(5, 5 + FRAMES_MAX):
        backlog.add(change(version, 2.0))
    assert versions(backlog, moment(2, 102)) is None
    assert versions(backlog, moment(4, 104)) == [*range(5, 5 + FRAMES_MAX)]


def test_the_newest_state_is_one_frame_as_long_as_it_is_the_same(backlog: Backlog) -> None:
    frame = backlog.snapshot(change(4, 2.0))
    assert frame.name == "snapshot"
    assert backlog.snapshot(change(4, 2.0)) is frame
    assert backlog.snapshot(change(5, 2.0)) is not frame


@pytest.mark.parametrize("cursor", [Cursor("6f1c", 0), Cursor("with-dashes", 2**53)])
def test_an_event_id_is_read_back(cursor: Cursor) -> None:
    assert Cursor.parse(cursor.event_id) == cursor


@pytest.mark.parametrize("text", [None, "", "-", "g", "g-", "-1", "g-x", "g-1.0", "g-٣", "g-" + "9" * 17])
def test_what_is_no_event_id_of_ours_says_nothing(text: str | None) -> None:
    assert Cursor.parse(text) is None
