"""Server-sent events over real sockets on loopback."""

import resource
import socket
from collections.abc import Iterator

import anyio
import pytest

from crashfold.engine.read.live import FRAMES_MAX
from tests.support.games import games_at
from tests.support.live import DEADLINE_S, ToldFollower, eventually, parse_events, serving

LOST = "0123456789abcdef"
"""A commit that nobody remembers."""


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    """As many open files as a server and a thousand clients in one process need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_new_client_gets_the_newest_hundred_games_and_then_every_commit_in_order() -> None:
    follower = ToldFollower(*games_at(*[2.0] * 150))
    with anyio.fail_after(DEADLINE_S):
        async with serving(follower) as running, running.events() as events:
            snapshot = await anext(events)
            assert (snapshot.name, snapshot.version) == ("snapshot", "6f1c-1")
            assert snapshot.ids == [*range(51, 151)]
            assert (snapshot.data["version"], snapshot.data["total_games"]) == (1, 150)
            assert running.meter.clients["sse"] == 1
            for version in range(2, 20):
                assert follower.commit_more(version) == version
                commit = await anext(events)
                assert (commit.name, commit.version) == ("commit", f"6f1c-{version}")
                assert commit.ids == [game.game_id for game in follower.games[-version:]]
                assert commit.data["total_games"] == len(follower.games)
                assert commit.data["skipped"] == 0


async def test_a_commit_of_many_games_shows_the_newest_hundred_and_counts_the_others() -> None:
    follower = ToldFollower(*games_at(2.0))
    with anyio.fail_after(DEADLINE_S):
        async with serving(follower) as running, running.events() as events:
            await anext(events)
            follower.commit_more(130)
            commit = await anext(events)
            assert commit.ids == [*range(32, 132)]
            assert commit.data["skipped"] == 30


async def test_a_late_game_comes_with_its_commit() -> None:
    first, late, last = games_at(2.0, 3.0, 4.0)
    follower = ToldFollower(first, last)
    with anyio.fail_after(DEADLINE_S):
        async with serving(follower) as running, running.events() as events:
            await anext(events)
            follower.commit(late)
            assert (await anext(events)).ids == [2]


async def test_a_client_gets_as_many_games_an_event_as_it_asked_for() -> None:
    follower = ToldFollower(*games_at(2.0, 3.0, 4.0))
    with anyio.fail_after(DEADLINE_S):
        async with serving(follower) as running, running.events("limit=2") as events, running.events() as others:
            assert (await anext(events)).ids == [2, 3]
            assert (await anext(others)).ids == [1, 2, 3]
            follower.commit_more(3)
            assert (await anext(events)).ids == [5, 6]
            assert (await anext(others)).ids == [4, 5, 6]


async def test_a_client_that_comes_back_gets_what_it_missed() -> None:
    follower = ToldFollower(*games_at(2.0))
    with anyio.fail_after(DEADLINE_S):
        async with serving(follower) as running:
            async with running.events() as events:
                await anext(events)
                follower.commit_more()
                known = await anext(events)
            follower.commit_more(2)
            follower.commit_more(3)
            async with running.events(**{"Last-Event-ID": known.id}) as events:
                missed: list[int] = []
                while 7 not in missed:
                    event = await anext(events)
                    assert event.name == "commit"
                    missed += event.ids
                assert missed == [3, 4, 5, 6, 7]
                newest = event.id
            async with running.events(**{"Last-Event-ID": newest}) as events:
                follower.commit_more()
                assert (await anext(events)).ids == [8]


@pytest.mark.parametrize(
    "last_event_id",
    [
        *("0000-2", "6f1c-7", "6f1c-x", "6f1c", "-1", "", "6f1c-٣"),
        *(f"0000-2-{LOST}-1", f"6f1c-7-{LOST}-1", f"6f1c-6-{LOST}-0", f"6f1c-7-{LOST}", f"6f1c-7-{LOST}-٣"),
    ],
)
async def test_a_client_that_knows_what_nobody_remembers_gets_a_snapshot(last_event_id: str) -> None:
    follower = ToldFollower(*games_at(2.0), version=7)
    with anyio.fail_after(DEADLINE_S):
        async with serving(follower) as running:
            headers = [(b"Last-Event-ID", last_event_id.encode())]
            async with running.client.stream("GET", "/api/stream", headers=headers) as response:
                event = await anext(parse_events(response.aiter_lines()))
            assert (event.name, event.version, event.ids) == ("snapshot", "6f1c-7", [1])


async def test_a_client_that_missed_more_than_is_kept_gets_a_snapshot() -> None:
    follower = ToldFollower(*games_at(2.0))
    with anyio.fail_after(DEADLINE_S):
        async with serving(follower) as running, running.events() as events:
            known = await anext(events)
            for _ in range(FRAMES_MAX + 1):
                follower.commit_more()
                await anext(events)
            async with running.events(**{"Last-Event-ID": known.id}) as again:
                assert (await anext(again)).name == "snapshot"


async def test_a_new_generation_and_a_store_that_lost_its_last_writes_start_over_with_a_snapshot() -> None:
    follower = ToldFollower(*games_at(2.0, 3.0), version=10)
    with anyio.fail_after(DEADLINE_S):
        async with serving(follower) as running, running.events() as events:
            await anext(events)
            follower.promote("aa00")
            promoted = await anext(events)
            assert (promoted.name, promoted.version, promoted.ids) == ("snapshot", "aa00-11", [1, 2])
            follower.lose(9)
            lost = await anext(events)
            assert (lost.name, lost.version) == ("snapshot", "aa00-9")
            follower.commit_more()
            assert (await anext(events)).ids == [3]


async def test_games_of_the_topic_come_while_the_store_is_away_and_none_comes_again() -> None:
    follower = ToldFollower(*games_at(2.0), version=10)
    with anyio.fail_after(DEADLINE_S):
        async with serving(follower) as running, running.events() as events:
            await anext(events)
            follower.go_beyond(2)
            beyond = await anext(events)
            assert (beyond.name, beyond.version, beyond.ids) == ("commit", "6f1c-10", [2, 3])
            follower.commit_more()
            back = await anext(events)
            assert (back.name, back.version, back.ids) == ("commit", "6f1c-11", [4])


async def test_what_is_told_of_a_replica_has_an_id_of_its_own_each_time() -> None:
    """A client that leaves in the outage goes on where it was, or hears of the newest state; it misses nothing."""
    follower = ToldFollower(*games_at(2.0), version=10)
    with anyio.fail_after(DEADLINE_S):
        async with serving(follower) as running, running.events() as events:
            told = [await anext(events)]
            for _ in range(3):
                follower.go_beyond(2)
                told.append(await anext(events))
            assert len({event.id for event in told}) == 4
            assert {event.version for event in told} == {"6f1c-10"}
            async with running.events(**{"Last-Event-ID": told[1].id}) as again:
                assert [(await anext(again)).ids for _ in range(2)] == [[4, 5], [6, 7]]
            for _ in range(FRAMES_MAX + 1):
                follower.commit_more()
                await anext(events)
            async with running.events(**{"Last-Event-ID": told[1].id}) as again:
                assert (await anext(again)).name == "snapshot"


async def test_a_client_that_has_seen_more_elsewhere_waits_until_this_process_has_it_too() -> None:
    """No snapshot of what it knows, and then the same version once more."""
    ahead, follower = ToldFollower(*games_at(2.0)), ToldFollower(*games_at(2.0))
    for _ in range(3):
        ahead.commit_more()
    known = str(ahead.held.cursor)
    with anyio.fail_after(DEADLINE_S):
        async with serving(follower) as running, running.events() as other:
            await anext(other)
            async with running.events(**{"Last-Event-ID": known}) as events:
                for _ in range(4):
                    follower.commit_more()
                    await anext(other)
                event = await anext(events)
                assert (event.name, event.ids) == ("commit", [5])


async def test_a_quiet_stream_and_a_busy_one_have_a_heartbeat() -> None:
    follower = ToldFollower(*games_at(2.0))
    with anyio.fail_after(DEADLINE_S):
        async with serving(follower, heartbeat_s=0.05) as running, running.events() as events:
            names = [(await anext(events)).name for _ in range(3)]
            assert names == ["snapshot", ":", ":"]
            while ":" in names:
                follower.commit_more()
                names = [(await anext(events)).name]
            while ":" not in names:
                follower.commit_more()
                names = [(await anext(events)).name]


async def test_times_are_in_the_zone_of_the_header_or_else_of_the_query() -> None:
    follower = ToldFollower(*games_at(2.0))
    asked = [("", {}), ("tz=Asia/Tokyo", {}), ("tz=Asia/Tokyo", {"X-Timezone": "America/Lima"})]
    with anyio.fail_after(DEADLINE_S):
        async with serving(follower) as running:
            offsets = []
            for query, headers in asked:
                async with running.events(query, **headers) as events:
                    offsets.append((await anext(events)).data["games"][0]["endTime"][-6:])
            assert offsets == ["+00:00", "+09:00", "-05:00"]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("tz=Mars/Base", 400),
        ("stream=a%20b", 400),
        ("stream=other", 404),
        ("tz=utc", 400),
        ("limit=0", 422),
        ("limit=101", 422),
        ("limit=5.0", 400),
    ],
)
async def test_what_cannot_be_streamed_is_a_problem(query: str, status: int) -> None:
    with anyio.fail_after(DEADLINE_S):
        async with serving(ToldFollower()) as running:
            answer = await running.client.get(f"/api/stream?{query}")
            assert answer.status_code == answer.json()["status"] == status
            assert answer.headers["content-type"] == "application/problem+json"


async def test_when_all_places_are_taken_the_next_client_is_told_when_to_come_again() -> None:
    with anyio.fail_after(DEADLINE_S):
        async with serving(ToldFollower(), clients_max=1) as running:
            async with running.events() as events:
                await anext(events)
                refused = await running.client.get("/api/stream")
                assert refused.status_code == 503
                assert int(refused.headers["retry-after"]) > 0
                assert running.meter.refused["sse"] == 1
            await eventually(lambda: running.meter.clients["sse"] == 0)
            async with running.events() as events:
                await anext(events)


async def test_a_client_that_goes_is_forgotten() -> None:
    with anyio.fail_after(DEADLINE_S):
        async with serving(ToldFollower()) as running:
            async with running.events() as events:
                await anext(events)
            await eventually(lambda: running.meter.clients["sse"] == 0)
            assert running.meter.dropped["sse"] == 0


async def test_a_client_that_takes_nothing_is_dropped_and_the_others_go_on() -> None:
    follower = ToldFollower(*games_at(2.0))
    with anyio.fail_after(DEADLINE_S):
        async with serving(follower, write_s=0.2) as running, running.events() as events:
            await anext(events)
            slow = await running.open_without_reading()
            await eventually(lambda: running.meter.clients["sse"] == 2)
            while running.meter.dropped["sse"] == 0:
                version = follower.commit_more(100)
                assert (await anext(events)).data["version"] == version
            await eventually(lambda: running.meter.clients["sse"] == 1)
            follower.commit_more()
            assert len((await anext(events)).ids) == 1
            assert await was_cut_off(slow)


async def test_a_client_that_falls_behind_gets_the_newest_state_and_no_longer_queue() -> None:
    follower = ToldFollower(*games_at(2.0))
    commits = 10 * FRAMES_MAX
    with anyio.fail_after(DEADLINE_S):
        async with serving(follower, write_s=60) as running:
            slow = await running.open_without_reading()
            await eventually(lambda: running.meter.clients["sse"] == 1)
            for _ in range(commits):
                follower.commit_more(10)
                await anyio.sleep(0)
            text = await read_until(slow, f"id: {follower.held.cursor}\n")
            ids = [line.split("-")[1] for line in text.splitlines() if line.startswith("id: ")]
            assert [int(number) for number in ids] == sorted({int(number) for number in ids})
            assert len(ids) < commits
            assert text.count("event: snapshot") >= 2
            slow.close()


async def test_a_thousand_slow_clients_do_not_keep_the_server_from_stopping() -> None:
    follower = ToldFollower(*games_at(*[2.0] * 100))
    async with serving(follower, write_s=60) as running:
        with anyio.fail_after(DEADLINE_S):
            clients = [await running.open_without_reading() for _ in range(1000)]
            await eventually(lambda: running.meter.clients["sse"] == 1000)
            for _ in range(10):
                follower.commit_more(100)
                await anyio.sleep(0)
            assert await running.stop() < 10
            assert running.meter.clients["sse"] == 0
            for client in clients:
                assert await was_cut_off(client)


async def test_a_stop_ends_every_stream_with_its_last_chunk() -> None:
    with anyio.fail_after(DEADLINE_S):
        async with serving(ToldFollower()) as running, running.events() as events:
            await anext(events)
            assert await running.stop() < 3
            assert [event async for event in events] == []


async def test_when_the_follower_ends_clients_are_sent_away_and_may_come_back() -> None:
    follower = ToldFollower(*games_at(2.0))
    with anyio.fail_after(DEADLINE_S):
        async with serving(follower) as running:
            async with running.events() as events:
                await anext(events)
                await eventually(lambda: follower._subscribers)
                follower.end()
                assert [event async for event in events] == []
            async with running.events() as events:
                assert (await anext(events)).name == "snapshot"


async def was_cut_off(client: socket.socket) -> bool:
    """Whether the server has ended the connection, whatever it had sent before."""
    try:
        while await received(client):
            pass
    except ConnectionError:
        pass
    client.close()
    return True


async def read_until(client: socket.socket, wanted: str) -> str:
    text = b""
    while wanted.encode() not in text:
        part = await received(client)
        assert part, "the stream has ended"
        text += part
    return text.decode()


async def received(client: socket.socket) -> bytes:
    while True:
        try:
            return client.recv(1 << 20)
        except BlockingIOError:
            await anyio.wait_readable(client)
