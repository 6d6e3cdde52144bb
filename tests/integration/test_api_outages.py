"""The API while Redis is away, while Kafka is away too, and when they are back."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, aclosing, asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest

from crashfold.engine.adapters.embedded import create_topic
from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.schemas.game import Game, encode
from tests.conftest import enter
from tests.support import servers
from tests.support.api_server import ApiServer, Writer, api_server
from tests.support.clients import producing
from tests.support.games import game
from tests.support.live import Event, parse_events
from tests.support.servers import RedisServer, TansuBroker

ROOT = "/api/analytics"
DURABLE = {"appendonly": "yes", "appendfsync": "always"}
PATIENCE_S = 30
NO_KAFKA = "--kafka.bootstrap_servers=127.0.0.1:1"


@pytest.fixture(params=["redis", "valkey"])
def durable(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server of the test's own that keeps its data when it is killed."""
    start = servers.redis_server if request.param == "redis" else servers.valkey_server
    with ExitStack() as stack:
        yield enter(stack, start(DURABLE))


@pytest.mark.fault(
    "The API without Redis",
    user="answers as `replica`, with their age",
    operator="bring Redis back",
)
async def test_answers_go_on_without_redis_and_say_how_old_they_are(durable: RedisServer) -> None:
    async with _running(durable, NO_KAFKA) as (writer, _, client):
        await writer.commit([game(1, 2.0), game(2, 7.5)])
        url = f"{ROOT}/occurrences/min-crash-point/2"
        fresh = await client.get(f"{url}?min_version=1")
        assert fresh.headers["x-crashfold-source"] == "precomputed"
        assert "age" not in fresh.headers
        durable.kill()
        told = await _until(client, url, _is_replica)
        assert told.content == fresh.content
        assert (told.headers["x-crashfold-version"], told.headers["etag"]) == ("1", fresh.headers["etag"])
        ages = [float((await client.get(url)).headers["x-crashfold-age-s"]) for _ in range(2)]
        assert 0 < ages[0] <= ages[1]
        for other in (f"{ROOT}/last-game/min-crash-point/2", f"{ROOT}/intervals/min-crash-point/2", "/api/games"):
            told = await client.get(other)
            assert (told.status_code, told.headers["x-crashfold-source"]) == (200, "replica")
        told = await client.get(f"{url}?min_version=2")
        assert told.status_code == 503
        ready = await client.get("/readyz")
        assert ready.status_code == 200
        assert "replica" in ready.json()["notes"][0]
        assert (await client.get("/livez")).status_code == 200
        await _until(client, "/readyz", lambda ready: len(ready.json()["notes"]) == 2)  # nor is Kafka there

        await anyio.to_thread.run_sync(durable.start)
        await writer.commit([game(3, 2.0)])
        told = await _until(client, url, lambda told: told.headers["x-crashfold-source"] == "precomputed")
        assert told.headers["x-crashfold-version"] == "2"
        assert told.json()["data"]["occurrences"]["total_games"] == 3
        assert (await client.get("/readyz")).json()["notes"] == []


@pytest.mark.fault(
    "The API with a Redis that hangs",
    user="answers as `replica`",
    operator="look after Redis",
)
async def test_a_silent_redis_is_as_good_as_away(durable: RedisServer) -> None:
    async with _running(durable, NO_KAFKA) as (writer, _, client):
        await writer.commit([game(1, 2.0)])
        await client.get("/api/games?min_version=1")
        durable.pause()
        try:
            told = await _until(client, f"{ROOT}/occurrences/min-crash-point/2", _is_replica)
            assert told.json()["data"]["occurrences"]["total_games"] == 1
        finally:
            durable.resume()
        await _until(client, "/api/games", lambda told: not _is_replica(told))


@pytest.mark.fault(
    "The API starts without Redis",
    user="503 with `Retry-After`",
    operator="bring Redis back",
)
async def test_a_process_that_starts_without_redis_waits_for_it(durable: RedisServer) -> None:
    async with _store(durable) as store:
        await Writer(store).commit([game(1, 2.0)])
        durable.kill()
        with api_server(durable.url, NO_KAFKA, ready=False) as server:
            async with server.client() as client:
                for url, status in (("/readyz", 503), ("/startupz", 503), ("/livez", 200), ("/api/games", 503)):
                    told = await client.get(url)
                    assert told.status_code == status
                assert int((await client.get("/api/games")).headers["retry-after"]) >= 1
                await anyio.to_thread.run_sync(durable.start)
                await _until(client, "/readyz", lambda told: told.status_code == 200)
                told = await client.get("/api/games")
                assert (told.status_code, told.headers["x-crashfold-version"]) == (200, "1")


async def test_a_redis_that_lost_everything_is_waited_for_until_it_has_caught_up(
    new_valkey: Callable[..., RedisServer],
) -> None:
    """The total never falls: what was held stays, as a replica, until the rebuilt state reaches as far."""
    server = await anyio.to_thread.run_sync(new_valkey)
    games = [game(number, 2.0) for number in range(1, 41)]
    async with _running(server, NO_KAFKA) as (writer, store, client):
        for number in range(0, 40, 10):
            await writer.commit(games[number : number + 10])
        await client.get("/api/games?min_version=4")
        server.kill()
        await anyio.to_thread.run_sync(server.start)
        again = Writer(store, generation="g2")
        for number in range(0, 40, 20):
            told = await _until(client, "/api/games", _is_replica)
            assert told.json()["pagination"]["total_items"] == 40
            await again.commit(games[number : number + 20])
        told = await _until(client, "/api/games", lambda told: not _is_replica(told))
        assert told.json()["pagination"]["total_items"] == 40
        assert told.headers["etag"].startswith('"g2-2-')


@pytest.mark.fault(
    "The API without Redis, with Kafka",
    user="new games all the same, without a tag",
    operator="bring Redis back",
)
async def test_the_topic_is_followed_while_redis_is_away(
    durable: RedisServer, tansu: TansuBroker, unique: Callable[[str], str]
) -> None:
    topic = unique("games")
    await create_topic(tansu.bootstrap_servers, topic)
    flags = [f"--kafka.bootstrap_servers={tansu.bootstrap_servers}", f"--kafka.topic={topic}"]
    async with (
        _running(durable, *flags, topic=topic) as (writer, _, client),
        producing(bootstrap_servers=tansu.bootstrap_servers) as producer,
    ):

        async def publish(*games: Game) -> int:
            sent = [await producer.send_and_wait(topic, encode(one), key=b"crash") for one in games]
            return int(sent[-1].offset) + 1

        first = [game(1, 2.0), game(2, 9.0), game(4, 1.0)]
        await writer.commit(first, offset=await publish(*first))
        known = (await client.get("/api/games?min_version=1")).headers["etag"]
        durable.kill()
        await _until(client, "/api/games", _is_replica)
        later = [game(5, 3.0), game(3, 4.0), game(5, 3.0), game(6, 20.0)]  # a late one, and one that comes twice
        offset = await publish(*later)
        told = await _until(client, "/api/games", lambda told: told.json()["pagination"]["total_items"] == 6)
        assert [one["gameId"] for one in told.json()["data"]] == ["6", "5", "4", "3", "2", "1"]
        assert _is_replica(told)
        assert (told.headers["x-crashfold-version"], told.headers.get("etag")) == ("1", None)
        assert (await client.get("/api/games", headers={"If-None-Match": known})).status_code == 200
        told = await client.get(f"{ROOT}/last-game/min-crash-point/20")
        assert (told.json()["data"]["game"]["gameId"], told.json()["data"]["games_since"]) == ("6", 0)
        assert float(told.headers["x-crashfold-age-s"]) < PATIENCE_S

        await anyio.to_thread.run_sync(durable.start)
        told = await client.get("/api/games")  # Redis stands further back: what was told stays told
        assert told.json()["pagination"]["total_items"] == 6
        await writer.commit([later[0], later[1], later[3]], offset=offset)
        told = await _until(client, "/api/games", lambda told: not _is_replica(told))
        assert (told.headers["etag"][:6], told.json()["pagination"]["total_items"]) == ('"g1-2-', 6)


@pytest.mark.fault(
    "Version numbers come again with other games",
    user="tags and event ids are others",
    operator="nothing",
)
async def test_versions_that_come_again_are_not_taken_for_those_that_were_lost(
    new_redis: Callable[..., RedisServer],
) -> None:
    """Redis loses its last seconds, and the engine makes the games up in other commits, until it has reached the very
    same version. Neither a process that saw it all nor one that did not takes one history for the other."""
    redis = await anyio.to_thread.run_sync(new_redis)
    games = [game(number, 2.0) for number in range(1, 20)]
    async with _running(redis, NO_KAFKA) as (writer, _, old), _events(old) as live:
        await writer.commit(games[:3])
        await old.get("/api/games?min_version=1")
        dump, again = await anyio.to_thread.run_sync(_dump, redis), writer.saved()
        told = [await anext(live)]
        for number in range(3, 6):
            await writer.commit([games[number]])
        while told[-1].data["total_games"] < 6:
            told.append(await anext(live))
        page = await old.get("/api/games")
        assert page.headers["x-crashfold-version"] == "4"
        await anyio.to_thread.run_sync(_restore, redis, dump)
        assert (await again.commit(games[3:7]), await again.commit([games[7]])) == (2, 3)
        now = await _until(old, "/api/games", lambda told: not _is_replica(told))
        assert (now.headers["x-crashfold-version"], now.json()["pagination"]["total_items"]) == ("3", 8)
        assert await again.commit([games[8]]) == 4
        with api_server(redis.url, NO_KAFKA) as fresh_server:
            async with _client(fresh_server) as fresh:
                tags = set()
                for client in (old, fresh):
                    url = "/api/games?min_version=4"
                    now = await client.get(url, headers={"If-None-Match": page.headers["etag"]})
                    assert (now.status_code, now.json()["pagination"]["total_items"]) == (200, 9)
                    tags.add(now.headers["etag"])
                    for event in told:
                        async with _events(client, event.id) as events:
                            first = await anext(events)
                            assert (first.name, first.data["total_games"]) == ("snapshot", 9)
                assert len(tags) == 1
                assert page.headers["etag"] not in tags
        since = [await anext(live)]
        assert since[0].name == "snapshot"
        while since[-1].data["total_games"] < 9:
            since.append(await anext(live))
        totals = [event.data["total_games"] for event in (*told, *since)]
        assert totals == sorted(totals)
        assert {event.id for event in told}.isdisjoint(event.id for event in since)


@pytest.mark.fault(
    "Live clients change instances during an outage",
    user="every game once and in order, or a snapshot",
    operator="nothing",
)
async def test_a_client_goes_on_with_another_process_in_the_outage_and_misses_nothing(
    durable: RedisServer, tansu: TansuBroker, unique: Callable[[str], str]
) -> None:
    """What two replicas tell under one id is the same, and what another time tells is another id."""
    topic = unique("games")
    await create_topic(tansu.bootstrap_servers, topic)
    flags = [f"--kafka.bootstrap_servers={tansu.bootstrap_servers}", f"--kafka.topic={topic}"]
    games = [game(number, 2.0) for number in range(1, 60)]
    async with (
        _running(durable, *flags, topic=topic) as (writer, _, one),
        producing(bootstrap_servers=tansu.bootstrap_servers) as producer,
    ):

        async def publish(*games: Game) -> int:
            sent = [await producer.send_and_wait(topic, encode(one), key=b"crash") for one in games]
            return int(sent[-1].offset) + 1

        with api_server(durable.url, *flags) as second:
            async with _client(second) as two:
                await writer.commit(games[:2], offset=await publish(*games[:2]))
                for client in (one, two):
                    await client.get("/api/games?min_version=1")
                async with _events(one) as from_one, _events(two) as from_two:
                    told = [[await anext(from_one)], [await anext(from_two)]]
                    durable.kill()
                    for number in range(2, 12):
                        await publish(games[number])
                    for events, seen in zip((from_one, from_two), told, strict=True):
                        while seen[-1].data["total_games"] < 12:
                            seen.append(await anext(events))
                totals: dict[str, int] = {}
                for event in (*told[0], *told[1]):
                    assert totals.setdefault(event.id, event.data["total_games"]) == event.data["total_games"]
                assert told[0][-1].id == told[1][-1].id
                left_at = told[0][-1].id
                async with _events(two, left_at) as events:
                    await publish(games[12])
                    event = await anext(events)
                    assert (event.name, event.ids) == ("commit", [13])
                offset = await publish(*games[13:40])
                await anyio.to_thread.run_sync(durable.start)
                await writer.commit(games[2:40], offset=offset)
                for client in (one, two):
                    await _until(client, "/api/games", lambda told: not _is_replica(told))
                async with _events(two, left_at) as events:
                    seen = [await anext(events)]
                    while seen[-1].data["total_games"] < 40:
                        seen.append(await anext(events))
                    came = [game_id for event in seen for game_id in event.ids]
                    if seen[0].name == "commit":
                        assert came == [*range(13, 41)]
                    else:
                        assert came[-28:] == [*range(13, 41)]


def _dump(redis: RedisServer) -> bytes:
    """All that it holds, as a file."""
    with redis.client() as client:
        client.save()
    return (redis.directory / "dump.rdb").read_bytes()


def _restore(redis: RedisServer, dump: bytes) -> None:
    """Crash it, and start it again with that file."""
    redis.kill()
    (redis.directory / "dump.rdb").write_bytes(dump)
    redis.start()


@asynccontextmanager
async def _events(client: httpx.AsyncClient, last_event_id: str | None = None) -> AsyncIterator[AsyncIterator[Event]]:
    """The live stream of one who knows that much."""
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    async with (
        client.stream("GET", "/api/stream", headers=headers) as response,
        aclosing(parse_events(response.aiter_lines())) as events,
    ):
        yield events


def _is_replica(told: httpx.Response) -> bool:
    return bool(told.headers.get("x-crashfold-source") == "replica")


@asynccontextmanager
async def _store(server: RedisServer) -> AsyncIterator[RedisStore]:
    async with RedisStore(server.url) as store:
        yield store


@asynccontextmanager
async def _running(
    server: RedisServer, *flags: str, topic: str = "games"
) -> AsyncIterator[tuple[Writer, RedisStore, httpx.AsyncClient]]:
    """The API on that server, somebody who commits to it, and a client."""
    async with _store(server) as store:
        with api_server(server.url, *flags) as api:
            async with _client(api) as client:
                yield Writer(store, topic=topic), store, client


@asynccontextmanager
async def _client(api: ApiServer) -> AsyncIterator[httpx.AsyncClient]:
    async with api.client() as client:
        try:
            yield client
        except BaseException:
            print(api.log()[-4_000:])
            raise


async def _until(client: httpx.AsyncClient, url: str, condition: Callable[[httpx.Response], Any]) -> httpx.Response:
    """The first answer for which the condition holds."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            told = await client.get(url)
            if condition(told):
                return told
            await anyio.sleep(0.02)
