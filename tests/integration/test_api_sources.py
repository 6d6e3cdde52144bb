"""Random games and random questions over HTTP, on a real Redis: the answer is the oracle's, whatever it comes from.

Two processes answer, one as it would anywhere, one that computes everything. Every example is a stream of its own, that
comes in in batches, some of its games late. What is asked of the server's clock is compared at the moment it names.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import anyio
import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.read.aggregate import NAMES
from crashfold.engine.read.questions import SET_SIZES
from crashfold.projections.settings import ProjectionSettings
from crashfold.schemas.game import Game
from crashfold.schemas.predicate import Kind, Predicate
from tests.conftest import enter
from tests.property.test_api_answers import CLOCK_CHANGES, DIVISORS, kinds, values_of, windows
from tests.support import profiles, servers
from tests.support.api_oracle import EPOCH, Oracle
from tests.support.api_server import Writer, api_server
from tests.support.games import batches
from tests.support.servers import RedisServer

SETTINGS = ProjectionSettings(
    min=(1.5, 2, 3, 10),
    max=(1, 1.01, 2),
    floor=(1, 2, 3),
    samples_games=(3, 7, 20),
    samples_hours=(1, 2),
    window_games=24,
)
FLAGS = [
    *("--projections.min=[1.5, 2, 3, 10]", "--projections.max=[1, 1.01, 2]", "--projections.floor=[1, 2, 3]"),
    *("--projections.samples_games=[3, 7, 20]", "--projections.samples_hours=[1, 2]", "--projections.window_games=24"),
]
PREFIX = "p:{stream}"
ROOT = "/api/analytics"
HOUR_MS = 3_600_000
PATIENCE_S = 30
NOW = datetime.now(UTC).replace(microsecond=0)
"""One moment for the whole run: what hypothesis draws must not change under its hands."""
NO_KAFKA = "--kafka.bootstrap_servers=127.0.0.1:1"
COMPUTED = [f"--api.source_{name}=computed" for name in ("occurrences", "intervals", "series", "last_games")]

Expected = Callable[[Oracle], Any]
streams = count(1)
sources: set[str] = set()


class Question(NamedTuple):
    """A request, and what the oracle has to say to it: `data`, or None for 404."""

    path: str
    query: dict[str, Any]
    body: dict[str, Any] | None
    expected: Expected
    by_clock: bool = False
    predicates: tuple[Predicate, ...] = ()
    """Those whose past before the window matters."""

    def ask(self, client: httpx.Client, headers: dict[str, str], **more: Any) -> httpx.Response:
        query = {name: str(value).lower() if value is True else value for name, value in self.query.items()}
        url = f"{self.path}?{urlencode({**query, **more}, quote_via=quote)}"
        if self.body is None:
            return client.get(url, headers=headers)
        return client.post(url, headers=headers, json=self.body)


@st.composite
def thresholds(draw: st.DrawFn, kind: Kind) -> float:
    """As often as not one that is configured."""
    configured = [predicate.value for predicate in SETTINGS.predicates if predicate.kind == kind]
    if draw(st.booleans()):
        return draw(values_of(kind))
    value = draw(st.sampled_from(configured))
    return int(value) if kind == "floor" else float(value)


@st.composite
def occurrences(draw: st.DrawFn) -> Question:
    kind = draw(kinds)
    games = draw(st.sampled_from(SETTINGS.samples_games) | st.integers(1, SETTINGS.window_games))
    hours, by_time = draw(st.integers(1, 6)), draw(st.integers(0, 3)) == 0
    asked: dict[str, Any] = {"games": games, "hours": hours}
    if by_time:
        asked["by_time"] = True
    if draw(st.booleans()):
        value = draw(thresholds(kind))
        path = f"{ROOT}/occurrences/{NAMES[kind]}/{value}"
        return Question(path, asked, None, lambda o: o.occurrences(kind, value, games, by_time, hours), by_time)
    values, comparison = draw(st.lists(thresholds(kind), min_size=1, max_size=4)), draw(st.booleans())
    return Question(
        f"{ROOT}/occurrences/{NAMES[kind]}s/batch",
        {},
        {**asked, "values": values, "comparison": comparison},
        lambda o: o.occurrences_batch(kind, values, games, by_time, hours, comparison),
        by_time,
    )


@st.composite
def series(draw: st.DrawFn) -> Question:
    value, sort_by = draw(thresholds("min")), draw(st.sampled_from(["time", "length"]))
    path, of = f"{ROOT}/series/without-min-crash-point/{value}", (Predicate.of("min", value),)
    if draw(st.booleans()):
        limit = draw(st.integers(1, SETTINGS.window_games))
        return Question(
            path, {"limit": limit, "sort_by": sort_by}, None, lambda o: o.series(value, limit, sort_by), False, of
        )
    hours = draw(st.integers(1, 168))
    return Question(
        f"{path}/time",
        {"hours": hours, "sort_by": sort_by},
        None,
        lambda o: o.series_by_time(value, hours, sort_by),
        True,
        of,
    )


@st.composite
def intervals(draw: st.DrawFn) -> Question:
    value, path = draw(thresholds("min")), f"{ROOT}/intervals/min-crash-point"
    asked = {
        "interval_minutes": draw(st.sampled_from([10, *DIVISORS])),
        "hours": draw(st.sampled_from([24]) | st.integers(1, 72)),
    }

    if draw(st.booleans()):
        return Question(f"{path}/{value}", asked, None, lambda o: o.intervals(value, **asked), True)
    body = {"values": [value], **asked}
    return Question(f"{path}s", {}, body, lambda o: o.intervals_batch([value], **asked), True)


@st.composite
def date_ranges(draw: st.DrawFn, day: date) -> Question:
    value, minutes = draw(thresholds("min")), draw(st.sampled_from(DIVISORS))
    first = day + timedelta(days=draw(st.integers(-2, 2)))
    last = first + timedelta(days=draw(st.integers(0, 2)))
    asked = {"start_date": str(first), "end_date": str(last), "interval_minutes": minutes}
    path = f"{ROOT}/intervals/min-crash-point/{value}/date-range"
    return Question(path, asked, None, lambda o: o.date_range(value, first, last, minutes))


@st.composite
def game_sets(draw: st.DrawFn) -> Question:
    value = draw(thresholds("min"))
    asked = {
        "games_per_set": draw(st.sampled_from(SET_SIZES)),
        "total_games": draw(st.integers(1, SETTINGS.window_games)),
    }
    path = f"{ROOT}/intervals/min-crash-point/{value}/game-sets"
    return Question(path, asked, None, lambda o: o.game_sets(value, **asked))


@st.composite
def last_games(draw: st.DrawFn) -> Question:
    kind = draw(kinds)
    value, limit = draw(thresholds(kind)), draw(st.integers(1, SETTINGS.window_games))
    name, of = NAMES[kind], (Predicate.of(kind, value),)
    match draw(st.integers(0, 2)):
        case 0:
            path = f"{ROOT}/last-game/{name}/{value}"
            return Question(path, {}, None, lambda o: o.last_game(kind, value), False, of)
        case 1:
            path = f"{ROOT}/last-games/{name}/{value}"
            return Question(path, {"limit": limit}, None, lambda o: o.last_games(kind, value, limit), False, of)
        case _:
            path, body = f"{ROOT}/last-games/{name}s", {"values": [value]}
            return Question(path, {}, body, lambda o: o.last_game_batch(kind, [value]), False, of)


@st.composite
def pages(draw: st.DrawFn) -> Question:
    page, per_page = draw(st.integers(1, 4)), draw(st.integers(1, 30))
    asked = {"page": page, "per_page": per_page}
    return Question("/api/games", asked, None, lambda o: o.page(page, per_page))


def questions(day: date) -> st.SearchStrategy[Question]:
    return st.one_of(
        occurrences(), series(), intervals(), date_ranges(day), game_sets(), last_games(), pages(), occurrences()
    )


class Played(NamedTuple):
    """Games as they arrive, in batches; the zone they are asked about in, and a day in their midst."""

    arrivals: list[list[Game]]
    zone: str
    day: date

    def games(self) -> list[Game]:
        """Those that count, by id."""
        counted: dict[int, Game] = {}
        for game in (game for batch in self.arrivals for game in batch):
            oldest = sorted(counted)[-SETTINGS.window_games :]
            is_below = len(oldest) == SETTINGS.window_games and game.game_id < oldest[0]
            if game.game_id not in counted and not is_below:
                counted[game.game_id] = game
        return [counted[game_id] for game_id in sorted(counted)]


@st.composite
def played(draw: st.DrawFn, games_max: int = 60) -> Played:
    """Games about now, or about a day on which something is special about a zone's clocks."""
    zone, day = draw(st.sampled_from(CLOCK_CHANGES))
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    if draw(st.booleans()):
        noon, day = NOW, NOW.date()
    centre_ms = (noon - EPOCH) // timedelta(milliseconds=1) - draw(st.integers(0, 48)) * HOUR_MS
    games = draw(windows(centre_ms))[:games_max]
    for at in draw(st.lists(st.integers(0, 59), max_size=5)):  # they come late
        if at < len(games):
            games.insert(min(len(games), at + 1 + at % 9), games.pop(at))
    return Played(draw(batches(games)) or [[]], zone, day)


async def _commit(url: str, stream: str, arrivals: Sequence[Sequence[Game]]) -> int:
    async with RedisStore(url, key_prefix=PREFIX) as store:
        writer = Writer(store, SETTINGS, stream=stream)
        for batch in arrivals:
            await writer.commit(batch)
    return writer.version


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with ExitStack() as stack:
        yield enter(stack, servers.redis_server({"appendonly": "yes"}))


@pytest.fixture(scope="module")
def clients(redis: RedisServer) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    with ExitStack() as stack:
        running, found = [], []
        for more in (["--api.source_series=precomputed"], COMPUTED):
            server = stack.enter_context(
                api_server(redis.url, f"--redis.key_prefix={PREFIX}", NO_KAFKA, *FLAGS, *more, ready=False)
            )
            client = httpx.Client(base_url=server.url, trust_env=False, timeout=20)
            running.append(server)
            found.append(stack.enter_context(client))
        yield found[0], found[1]
        for server in running:
            assert server.process.poll() is None, server.log()[-20_000:]


def check(
    question: Question, told: httpx.Response, asked_ms: tuple[int, int], games: list[Game], zone: str, at_us: int | None
) -> None:
    """Hold the answer against the oracle's."""
    before, window = games[: -SETTINGS.window_games], games[-SETTINGS.window_games :]
    seen = window
    if question.predicates and set(question.predicates) <= set(SETTINGS.predicates):
        seen = games  # what the window has lost sight of is remembered
        if at_us is not None and any(game.end_time * 1000 > at_us for game in before):
            return  # but not what it would have been without some of it

    def oracle(now_us: int) -> Any:
        found = question.expected(Oracle(seen, zone, now_us, at_us))
        if found is not None and "series" in found:  # each has a game in the window
            found["series"] = [one for one in found["series"] if int(one["end_game_id"]) >= window[0].game_id]
            found["count"] = len(found["series"])
        return found

    if question.path == "/api/games":
        assert told.json() == oracle(0)
        return
    answer: Any = None if told.status_code == 404 else told.json()["data"]
    possible = [oracle(ms * 1000) for ms in asked_ms]
    if question.by_clock and at_us is None and "occurrences" in question.path:
        named = answer["occurrences"] if question.body is None else next(iter(answer["results"].values()))
        now_us = (datetime.fromisoformat(named["end_time"]) - EPOCH) // timedelta(microseconds=1)
        assert asked_ms[0] * 1000 <= now_us <= asked_ms[1] * 1000
        possible = [oracle(now_us)]
    assert answer in possible


thorough = settings(
    deadline=None,
    max_examples=400 if profiles.takes_its_time() else 40,
    derandomize=not profiles.takes_its_time(),
    # Every example is a stream with two processes that follow it: shrinking one would take minutes.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@thorough
@given(data=st.data())
def test_every_source_gives_the_answer_of_plain_loops(
    data: st.DataObject, redis: RedisServer, clients: tuple[httpx.Client, httpx.Client]
) -> None:
    given_games = data.draw(played(), "games")
    stream, games = f"s{next(streams)}", given_games.games()
    version = anyio.run(_commit, redis.url, stream, given_games.arrivals)
    headers = {} if given_games.zone == "UTC" else {"X-Timezone": given_games.zone}
    for question in data.draw(st.lists(questions(given_games.day), min_size=6, max_size=10), "questions"):
        ended = [game.end_time for game in games[-SETTINGS.window_games :]] or [1_768_478_400_000]
        at_ms = data.draw(st.none() | st.sampled_from(ended) | st.integers(min(ended), max(ended)), "at")
        at_us = None if at_ms is None or question.path == "/api/games" else at_ms * 1000
        terms = {"stream": stream, "min_version": version}
        if at_us is not None:
            terms["at"] = (EPOCH + timedelta(microseconds=at_us)).isoformat()
        etags, answers = set(), set()
        for client in (*clients, *clients):  # the second time it may have been kept
            before_ms = time.time_ns() // 1_000_000
            told = question.ask(client, headers, **terms)
            after_ms = -(-time.time_ns() // 1_000_000)
            assert told.status_code in (200, 404), told.text
            assert told.headers["x-crashfold-version"] == str(version)
            sources.add(told.headers["x-crashfold-source"])
            etags.add(told.headers.get("etag"))
            answers.add(told.content)
            check(question, told, (before_ms, after_ms), games, given_games.zone, at_us)
        assert len(etags) == 1
        assert len(answers) == 1 or (question.by_clock and at_us is None)


def test_all_sources_had_their_say() -> None:
    assert sources == {"precomputed", "computed", "cached"}


@settings(thorough, max_examples=4)
@given(
    played(games_max=SETTINGS.window_games),
    st.lists(questions(date(2026, 1, 14)), min_size=15, max_size=25),
)
def test_a_replica_gives_the_same_answers(
    redis: RedisServer, clients: tuple[httpx.Client, httpx.Client], given_games: Played, asked: list[Question]
) -> None:
    """Of everything that the window holds; asked of both processes before Redis is killed and after."""
    stream, page = f"r{next(streams)}", Question("/api/games", {}, None, lambda o: o.page(1, 10))
    asked = [page, *(question for question in asked if not question.by_clock)]
    version = anyio.run(_commit, redis.url, stream, given_games.arrivals)
    headers = {"X-Timezone": given_games.zone}
    terms = {"stream": stream, "min_version": version}
    before = [[question.ask(client, headers, **terms) for question in asked] for client in clients]
    redis.kill()
    try:
        for client, known in zip(clients, before, strict=True):
            _until_replica(client, stream)
            for question, answer in zip(asked, known, strict=True):
                told = question.ask(client, headers, stream=stream)
                assert (told.status_code, told.content) == (answer.status_code, answer.content)
                assert told.headers["x-crashfold-source"] == "replica"
                assert told.headers["x-crashfold-version"] == str(version)
                assert told.headers.get("etag") == answer.headers.get("etag")
    finally:
        redis.start()


def _until_replica(client: httpx.Client, stream: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while client.get(f"/api/games?stream={stream}").headers["x-crashfold-source"] != "replica":
        assert time.monotonic() < deadline_s
