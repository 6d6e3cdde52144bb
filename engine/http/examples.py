"""Examples for the reference: a few games, and what the routes answer on them.

Pure. What is always true: an example is an answer, made by the very function that answers, so it cannot be out of date.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from crashfold.engine.http.requests import ApiRequest
from crashfold.engine.http.routes import answer
from crashfold.engine.ports import ReadDeadLetter, Standing, StreamOverview
from crashfold.engine.read.aggregate import Route
from crashfold.engine.read.answer import Success
from crashfold.engine.read.deployment import deployment_of
from crashfold.engine.read.overview import Overview
from crashfold.engine.read.times import Zones
from crashfold.engine.settings import Settings
from crashfold.projections.games import Bands, Games
from crashfold.projections.settings import ProjectionSettings
from crashfold.schemas.game import Game
from crashfold.schemas.reports import EngineReport, PartitionReport, RebuildProgress, RedisReport, Verification

NEWEST_END_MS: Final = 1_768_480_491_000
"""2026-01-15T12:34:51Z."""
NOW_MS: Final = NEWEST_END_MS + 5_000

_CRASH_POINTS: Final = (1.32, 2.07, 1.0, 5.4, 1.88, 12.75, 1.15, 3.31, 1.01, 2.6, 1.49, 2.0)
_FIRST_ID: Final = 8_001_989

PARAMETERS: Final[Mapping[str, Any]] = {
    "value": 2,
    "game_id": _FIRST_ID + 5,
    "name": "hours",
    "values": [2, 10],
    "games": 10,
    "limit": 10,
    "per_page": 2,
    "total_games": 20,
    "start_date": "2026-01-15",
    "end_date": "2026-01-15",
}
"""Parameters of the examples; the others have their defaults."""


def window() -> Games:
    """The games of all examples."""
    return Games.of(
        Bands(()),
        [
            Game(
                game_id=_FIRST_ID + number,
                hash=None,
                crash_point=crash_point,
                prepare_time=end_ms - 19_000,
                begin_time=end_ms - 9_000,
                end_time=end_ms,
            )
            for number, crash_point in enumerate(_CRASH_POINTS)
            for end_ms in (NEWEST_END_MS - 20_000 * (len(_CRASH_POINTS) - 1 - number),)
        ],
    )


def overview() -> Overview:
    """The deployment of all examples."""
    games = window()
    standing = Standing("6f1c", 1742, "games", 0, 20_117, 20_000, int(games.ids[-1]), "91d3b6a70c25e84f")
    newest = msgspec.json.encode(games.to_games()[-1])
    started_ms = NEWEST_END_MS - 3_600_000
    partition = PartitionReport(0, 0, 20_117, 20_118, 1, 0.25, NEWEST_END_MS)
    redis = RedisReport(48_234_496, 268_435_456, 0, 91_402, 3_118, 7)
    told = EngineReport("host-1-c0ffee", started_ms, [partition], {"applied": 1742}, {"late": 3}, 0.05, [redis])
    return Overview(
        zone=Zones().utc,
        streams={"crash": StreamOverview(standing, newest, {"8001500": b"8001502"})},
        engines=[msgspec.json.encode(told)],
        rebuilds=[msgspec.json.encode(RebuildProgress("crash", 0.5, 10_000, 250_000.0, 0.04))],
        dead_letters=[
            ReadDeadLetter(
                *("games", 0, 20_090, "unreadable", "Object missing required field `end_time`"),
                *(NEWEST_END_MS - 600_000, "crash", '{"game_id":8001999,"crash_point":2.41}', False),
            )
        ],
        deployment=deployment_of(Settings()),
        verified=[msgspec.json.encode(Verification("crash", started_ms, "equal", 1700, 0))],
    )


def request_of(route: Route) -> ApiRequest:
    """A question that the route answers."""
    asked = {
        field.name: PARAMETERS[field.name]
        for field in msgspec.structs.fields(route.question)
        if field.name in PARAMETERS
    }
    path = re.sub(r"\{(\w+)\}", lambda parameter: str(PARAMETERS[parameter[1]]), route.path)
    if route.method == "POST":
        return ApiRequest("POST", path, body=msgspec.json.encode(asked))
    return ApiRequest("GET", path, "&".join(f"{name}={value}" for name, value in asked.items()))


def body_of(route: Route) -> Any:
    """The body of that question; None when it has none."""
    request = request_of(route)
    return msgspec.json.decode(request.body) if request.body else None


def answer_of(route: Route) -> Any:
    """Answer that question, as plain data."""
    if route.is_of_all:
        success = Success(data=route.answer(overview(), route.question()))
        return msgspec.json.decode(msgspec.json.encode(success))
    if route.example is not None:
        return msgspec.json.decode(msgspec.json.encode(Success(data=route.example)))
    settings = ProjectionSettings(window_games=10_000_000)
    status, body = answer(request_of(route), window(), NOW_MS, settings=settings, zones=Zones())
    assert status == 200, (route.path, body)
    return msgspec.json.decode(msgspec.json.encode(body))
