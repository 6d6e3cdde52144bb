"""Every aggregate by every source: the source that the settings choose is read, and all give the same answer."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple, get_args

import anyio
import msgspec
import pytest

from crashfold.engine.adapters.memory.reader import MemoryReader
from crashfold.engine.adapters.memory.store import MemoryStore
from crashfold.engine.adapters.process.clock import SystemClock
from crashfold.engine.http.answers import Answers
from crashfold.engine.http.replies import Reply
from crashfold.engine.http.requests import ApiRequest
from crashfold.engine.meter import ApiMeter, Comparison
from crashfold.engine.ports import Piece, Pieces
from crashfold.engine.read.aggregate import Aggregate, Route
from crashfold.engine.read.aggregates import AGGREGATES
from crashfold.engine.read.followers import Followers
from crashfold.engine.read.times import Zones
from crashfold.engine.settings import AnswerSource, ApiSettings, Settings
from tests.support.api_server import Writer
from tests.support.games import SMALL, games_at
from tests.support.own import EXAMPLE, OWN, importable

ROOT: Final = "/api/analytics"
GAMES: Final = [game for game in games_at(*(1.0, 2.0, 12.5, 1.4, 1.0, 3.0) * 4) if game.game_id != 9]
"""All of them in the window, with a hole among them. The first one begins a run."""
WINDOW: Final = msgspec.structs.replace(SMALL, window_games=100, own=OWN)
QUESTIONS: Final[dict[str, tuple[str, str, dict[str, object] | None]]] = {
    "occurrences": ("occurrences/{kind}/2", "games=7", None),
    "occurrences batch": ("occurrences/{kind}s/batch", "", {"values": [2], "games": 7, "comparison": False}),
    "last game": ("last-game/{kind}/2", "", None),
    "last games": ("last-games/{kind}/2", "limit=5", None),
    "last games batch": ("last-games/{kind}s", "", {"values": [2]}),
    "series": ("series/without-min-crash-point/2", "limit=10", None),
    "series by time": ("series/without-min-crash-point/2/time", "hours=24", None),
    "intervals": ("intervals/min-crash-point/2", "hours=2", None),
}
"""Questions that the stored keys answer."""
ELSEWHERE: Final = {"/api/gaps": "", "/api/records": "", "/api/projections/hours": ""}
"""The same, of aggregates that the window alone cannot answer for all time."""


class Case(NamedTuple):
    """A question to one route."""

    aggregate: Aggregate
    route: Route
    request: ApiRequest


class Noon(SystemClock):
    """A clock a second after the newest game."""

    def now_ms(self) -> int:
        return GAMES[-1].end_time + 1_000


class NotingReader(MemoryReader):
    """Notes which keys are read as pieces."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.keys: set[str] = set()

    async def read_pieces(self, stream: str, pieces: Sequence[Piece]) -> Pieces | None:
        self.keys.update(piece.name for piece in pieces)
        return await super().read_pieces(stream, pieces)


class NotingMeter(ApiMeter):
    """Notes how comparisons end."""

    def __init__(self) -> None:
        self.comparisons: Counter[tuple[str, Comparison]] = Counter()

    def compared(self, aggregate: str, comparison: Comparison) -> None:
        self.comparisons[aggregate, comparison] += 1


class Side(NamedTuple):
    """A read side in memory."""

    api: ApiSettings
    answers: Answers
    reader: NotingReader
    meter: NotingMeter


def requests() -> Iterator[ApiRequest]:
    """The questions, of each kind of predicate where there are several."""
    for path, query, body in QUESTIONS.values():
        for name in ("min-crash-point", "max-crash-point", "exact-floor") if "{kind}" in path else ("",):
            content = b"" if body is None else msgspec.json.encode(body)
            yield ApiRequest("GET" if body is None else "POST", f"{ROOT}/{path.format(kind=name)}", query, content)
    for path, query in ELSEWHERE.items():
        yield ApiRequest("GET", path, query)


def cases() -> Iterator[Case]:
    """A question to each route that stored keys answer."""
    asked = list(requests())
    for aggregate in AGGREGATES:
        for route in aggregate.routes:
            if route.stored is not None:
                found = [one for one in asked if one.method == route.method and route.pattern.fullmatch(one.path)]
                assert found, f"no question to {route.method} {route.path}: add one"
                yield Case(aggregate, route, found[0])


CASES: Final = list(cases())


@asynccontextmanager
async def reading(source: AnswerSource) -> AsyncIterator[Side]:
    """A read side whose aggregates all come from that source, over a stream that an engine has written."""
    store, meter, clock = MemoryStore(), NotingMeter(), Noon()
    names = [name for name in ApiSettings.__struct_fields__ if name.startswith("source_")]
    api = msgspec.structs.replace(ApiSettings(), **dict.fromkeys(names, source))
    with importable(EXAMPLE):
        await Writer(store, WINDOW).commit(GAMES)
        reader, settings = NotingReader(store), Settings(projections=WINDOW, api=api)
        async with Followers(reader, clock, only_stream="crash").running() as followers:
            answers = Answers(followers, reader, settings, clock=clock, meter=meter, zones=Zones())
            yield Side(api, answers, reader, meter)


async def ask(side: Side, request: ApiRequest) -> Reply:
    side.reader.keys.clear()
    with anyio.fail_after(10):
        return await side.answers.answer(request)


def of_aggregate(case: Case, keys: set[str]) -> bool:
    """Whether keys of that aggregate are among those."""
    names = {"last_games": ("last_game", "last_games"), "projections": ("hours",)}
    return any(key.partition(":")[0] in names.get(case.aggregate.name, (case.aggregate.name,)) for key in keys)


@pytest.mark.parametrize("source", get_args(AnswerSource))
async def test_the_source_that_is_chosen_is_read_and_gives_the_same_answer(source: AnswerSource) -> None:
    async with reading("computed") as computing, reading(source) as side:
        for case in CASES:
            expected, told = await ask(computing, case.request), await ask(side, case.request)
            chosen = case.aggregate.source(side.api)
            assert (told.status, told.body) == (200, expected.body), case.request.path
            assert told.source == ("precomputed" if chosen == "precomputed" else "computed"), case.request.path
            assert of_aggregate(case, side.reader.keys) == (chosen != "computed"), case.request.path
            compared = side.meter.comparisons.pop((case.aggregate.name, "equal"), 0)
            assert compared == (chosen == "shadow"), case.request.path
        assert not side.meter.comparisons


@pytest.mark.parametrize("source", get_args(AnswerSource))
async def test_what_stored_keys_cannot_answer_is_computed_whatever_is_chosen(source: AnswerSource) -> None:
    async with reading(source) as side:
        for path, query in (
            ("occurrences/min-crash-point/2", "games=4"),
            ("occurrences/min-crash-point/3.3", "games=7"),
            ("series/without-min-crash-point/3.3", "limit=10"),
            ("intervals/min-crash-point/2", "interval_minutes=5"),
            ("last-game/min-crash-point/2.5", ""),
        ):
            told = await ask(side, ApiRequest("GET", f"{ROOT}/{path}", query))
            assert (told.status, told.source, side.reader.keys) == (200, "computed", set()), path
        assert not side.meter.comparisons


def test_every_source_setting_is_that_of_an_aggregate() -> None:
    named = {f"source_{aggregate.name}" for aggregate in AGGREGATES}
    assert {name for name in ApiSettings.__struct_fields__ if name.startswith("source_")} <= named
