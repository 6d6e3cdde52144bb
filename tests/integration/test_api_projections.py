"""`GET /api/projections/<name>`: the keys of the examples' projections, and of one with keys of every kind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.projections import ProjectionSettings
from tests.support.api_server import Writer, api_server
from tests.support.games import game
from tests.support.own import EXAMPLE, OWN, importable

ALL = (*OWN, "every_kind:EveryKind")
EVERY_KIND = """
from crashfold.projections.delta import SortedSet

class EveryKind:
    name, version, aggregates = "kinds", 3, ("newest", "floors", "scores", "text")

    def empty(self):
        return 0

    def fold(self, state, games):
        return state + len(games)

    def keys(self, moment):
        ids = moment.window.ids.tolist()
        return {
            "newest": [b"%d" % one for one in reversed(ids)],
            "floors:7": {"a": b"[1, 1.10]", "b": b"no json"},
            "scores": SortedSet({one: b'{"id":%d}' % one for one in ids}),
            "text": b"\\xff",
        }
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ProjectionSettings]:
    (tmp_path / "every_kind.py").write_text(EVERY_KIND)
    with importable(EXAMPLE, tmp_path):
        yield ProjectionSettings(own=ALL)


async def test_keys_of_ones_own_projections_are_answered_like_all_others(
    redis_url: str, own: ProjectionSettings
) -> None:
    async with RedisStore(redis_url) as store, Redis.from_url(redis_url) as redis:
        writer = Writer(store, own)
        await writer.commit([game(1, 2.0, end_time=3_600_000), game(2, 11.5, end_time=3_600_001)])
        with api_server(redis_url, f"--projections.own={','.join(ALL)}") as server:
            async with server.client() as client:

                async def data(path: str) -> Any:
                    told = await client.get(f"/api/projections/{path}")
                    assert told.status_code == 200, told.text
                    assert told.headers["x-crashfold-source"] == "precomputed"
                    return told.json()["data"]

                async def detail(path: str, status: int = 404) -> str:
                    told = await client.get(f"/api/projections/{path}")
                    assert told.status_code == status, told.text
                    assert told.headers["content-type"] == "application/problem+json"
                    return str(told.json()["detail"])

                assert await data("hours") == {
                    "projection": "hours",
                    "version": 1,
                    "keys": {"hours": {"1970-01-01T01": 2}},
                }
                assert (await data("highest"))["keys"]["highest"]["crash_point"] == 11.5
                assert await data("kinds") == {
                    "projection": "kinds",
                    "version": 3,
                    "keys": {
                        "newest": [2, 1],
                        "scores": [{"score": 1, "member": {"id": 1}}, {"score": 2, "member": {"id": 2}}],
                        "text": "\\xff",
                    },
                }
                assert (await data("kinds?key=floors:7"))["keys"] == {"floors:7": {"a": [1, 1.1], "b": "no json"}}
                assert (await data("kinds?key=newest"))["keys"] == {"newest": [2, 1]}

                assert "no such key" in await detail("kinds?key=floors:8")
                assert "its aggregates are newest, floors" in await detail("kinds?key=series:min:2")
                assert "highest, hours, kinds" in await detail("occurrences")
                assert "stream" in await detail("hours?stream=none")

                await a_version_is_known_again_and_waited_for(client, writer)

                await redis.set("analytics:hours", "spoiled")
                assert (await data("hours?key=hours"))["keys"] == {"hours": "spoiled"}


async def a_version_is_known_again_and_waited_for(client: httpx.AsyncClient, writer: Writer) -> None:
    first = await client.get("/api/projections/highest")
    known = {"If-None-Match": first.headers["etag"]}
    assert (await client.get("/api/projections/highest", headers=known)).status_code == 304
    assert await writer.commit([game(3, 40.0, end_time=3_600_002)]) == 2
    told = await client.get("/api/projections/highest?min_version=2", headers=known)
    assert told.status_code == 200
    assert told.headers["x-crashfold-version"] == "2"
    assert told.json()["data"]["keys"]["highest"]["game_id"] == 3


async def test_a_key_without_elements_is_left_out_and_the_reference_describes_the_route(
    redis_url: str, own: ProjectionSettings
) -> None:
    async with RedisStore(redis_url) as store:
        await Writer(store, own).commit([game(1, end_time=3_600_000)])
        async with Redis.from_url(redis_url) as redis:
            await redis.delete("analytics:hours")
        with api_server(redis_url, f"--projections.own={','.join(ALL)}") as server:
            async with server.client() as client:
                assert (await client.get("/api/projections/hours")).json()["data"]["keys"] == {}
                described = (await client.get("/schema/openapi.json")).json()["paths"]["/api/projections/{name}"]["get"]
    named = {parameter.get("name") for parameter in described["parameters"]}
    assert {"name", "key", "min_version", "stream", "If-None-Match"} <= named
