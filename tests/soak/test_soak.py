"""A short soak: `make soak` runs a long one. And that it would see what is wrong."""

import os
from collections.abc import Callable
from random import Random

import httpx
import msgspec
import pytest

from crashfold.projections.settings import ProjectionSettings
from crashfold.schemas.game import Game, encode
from tests.soak.readers import PAGE, Asker, Contents, Findings, Instance, Listener
from tests.soak.soak import Soak
from tests.soak.truth import Truth
from tests.support.games import games_at
from tests.support.live import Event
from tests.support.servers import Missing

SETTINGS = ProjectionSettings(window_games=50, samples_games=(10,))
GAMES = games_at(*(2.0, 1.2, 7.5, 3.0) * 10)


@pytest.mark.fault(
    "Everything at once, for half a minute",
    user="answers of some version, all right; 503 at times",
    operator="nothing",
)
@pytest.mark.kafka
def test_through_faults_on_real_servers_nothing_is_ever_wrong() -> None:
    try:
        report = Soak(seed=1, minutes=0.4).run()
    except Missing as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))
    print(report)
    assert report.wrong == []
    assert sum(report.faults.values()) >= 5
    assert report.seen["answers compared"] > 50
    assert report.seen["events: commit"] > 50
    assert report.seen["comparisons of all keys"] >= 3


@pytest.fixture
def truth() -> Truth:
    """A topic with forty games, one of which came twice and one late."""
    truth = Truth(SETTINGS)
    arrived = [*GAMES[:10], GAMES[11], GAMES[10], GAMES[4], *GAMES[12:]]
    for offset, game in enumerate(arrived):
        truth.add(0, offset, b"crash", encode(game))
    return truth


def _event(name: str, offset: int, total: int, ids: range | list[int], skipped: int = 0, commit: int = 0) -> Event:
    games = [{"gameId": str(game_id)} for game_id in ids]
    data = {"version": offset, "total_games": total, "games": games, "skipped": skipped}
    return Event(name, f"g1-{offset}-{commit or offset:016x}-{offset}", data)


FIRST = GAMES[0].game_id
SNAPSHOT = _event("snapshot", 8, 8, range(FIRST, FIRST + 8))
LATE = _event("commit", 13, 12, range(FIRST + 8, FIRST + 12))
NEXT = _event("commit", 16, 15, range(FIRST + 12, FIRST + 15))


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        ([SNAPSHOT, LATE, NEXT], ""),
        ([SNAPSHOT, LATE, LATE], "do not make"),
        ([SNAPSHOT, NEXT], "do not make 15"),
        ([SNAPSHOT, LATE, SNAPSHOT], "after 12"),
        ([LATE], "before any snapshot"),
        ([_event("snapshot", 8, 9, range(FIRST, FIRST + 8))], "the topic has 8"),
        ([_event("snapshot", 8, 8, range(FIRST, FIRST + 7))], "it shows"),
        ([SNAPSHOT, _event("commit", 13, 12, [*range(FIRST + 8, FIRST + 10), FIRST + 11, FIRST + 10])], "it shows"),
        ([SNAPSHOT, _event("commit", 13, 12, range(FIRST + 9, FIRST + 12), skipped=1)], ""),
        ([SNAPSHOT, _event("commit", 99, 12, [])], "no state of the topic"),
        ([SNAPSHOT, _event("commit", 10, 10, [8, 9], commit=8)], "it shows"),
    ],
)
def test_a_listener_knows_what_is_wrong(truth: Truth, told: list[Event], wrong: str) -> None:
    findings = Findings(lambda: "nothing")
    listener = Listener(
        *("listener", Random(1), [], "crash", truth, Contents(findings), findings),
        is_excused=lambda: False,
        published_s=lambda stream, game_id: None,
    )
    for event in told:
        listener.take(event, "api-0")
    assert bool(findings.wrong) == bool(wrong), findings.wrong
    assert wrong in "".join(findings.wrong)


def test_one_event_id_with_two_contents_is_wrong(truth: Truth) -> None:
    findings = Findings(lambda: "nothing")
    contents = Contents(findings)
    contents.tell("events of crash", "g1-1-0-1", "7")
    contents.tell("events of crash", "g1-1-0-1", "7")
    assert findings.wrong == []
    contents.tell("events of crash", "g1-1-0-1", "8")
    assert "two contents" in findings.wrong[0]


def _page(truth: Truth, offset: int, spoil: Callable[[bytes], bytes] = lambda body: body) -> httpx.Response:
    page = truth.answer("crash", truth.total("crash", offset), PAGE.ask, "UTC", beyond=False)
    headers = {"etag": f'"g1-{offset}-{offset:016x}-{offset}-0"', "x-crashfold-source": "computed"}
    return httpx.Response(200, headers=headers, content=spoil(msgspec.json.encode(page)))


async def test_an_asker_knows_what_is_wrong(truth: Truth) -> None:
    cases: list[tuple[list[httpx.Response], str]] = [
        ([_page(truth, 20), _page(truth, 30)], ""),
        ([_page(truth, 20), _page(truth, 19)], "back to"),
        ([_page(truth, 20, lambda body: body.replace(b'"count":19', b'"count":18', 1))], "answers"),
        ([_page(truth, 20), _page(truth, 20, lambda body: body + b" ")], "two contents"),
        ([_page(truth, 20), httpx.Response(500, text="sorry")], "with 500"),
        ([httpx.Response(503, text="sorry")], "with 503"),
    ]
    for told, wrong in cases:
        findings = Findings(lambda: "nothing")
        answers = iter(told)
        transport = httpx.MockTransport(lambda request, answers=answers: next(answers))
        asker = Asker(Random(1), [], ["crash"], truth, Contents(findings), findings, lambda: False)
        async with httpx.AsyncClient(transport=transport) as client:
            for _ in told:
                await asker.ask(client, Instance("api-0", 1, lambda: 1), "crash", PAGE, "UTC")
        assert bool(findings.wrong) == bool(wrong), findings.wrong
        assert wrong in "".join(findings.wrong)


def test_the_keys_that_must_be_there_are_those_of_the_games_below_the_offset(truth: Truth) -> None:
    """The late game counts where it arrived; the one that came twice counts once."""
    games: list[Game] = truth.newest("crash", truth.total("crash", 12), 50)
    assert [game.game_id for game in games] == [game.game_id for game in GAMES[:12]]
    assert truth.total("crash", 11) == 11
    assert truth.total("crash", 13) == truth.total("crash", 12) == 12
    assert "series:min:2" in truth.read_model("crash", 13)
