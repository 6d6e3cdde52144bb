"""The store against servers in trouble: what refuses, what is unknown, and what is never written by halves.

And real projections on real servers, commit by commit.
"""

import random
import shutil
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import anyio
import msgspec
import pytest
import redis.exceptions
from hypothesis import given, settings
from redis import Redis

from crashfold.engine.adapters.redis import packing
from crashfold.engine.adapters.redis.client import Call, Script
from crashfold.engine.adapters.redis.errors import code_of
from crashfold.engine.adapters.redis.parts import PART_BYTES, parts_in_turn
from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.errors import (
    ConfigurationError,
    StateError,
    StoreRefused,
    StoreUnavailable,
)
from crashfold.engine.games.folding import GameFolding
from crashfold.engine.ports import Applied, Checkpoint, Commit, Conflict, Duplicate, Mark, Position, Promoted
from crashfold.projections import Plan, StreamState, plan
from crashfold.projections.delta import Delta, SetString, Unfolding, Value, WriteHash, WriteList, Writes, apply
from crashfold.schemas import keys
from tests.contract.state_store import PATIENCE_S, at, commit, deltas, model, model_of, numbered
from tests.support.calls import Interposed, Send
from tests.support.games import SMALL, game
from tests.support.servers import RedisServer

STREAM = "crash"
PREFIX = "test:{stream}"

NewServer = Callable[..., RedisServer]


@pytest.fixture(params=["redis", "valkey"])
def new_server(request: pytest.FixtureRequest) -> NewServer:
    new: NewServer = request.getfixturevalue(f"new_{request.param}")
    return new


@pytest.fixture
async def store(each_redis_url: str) -> AsyncIterator[RedisStore]:
    async with RedisStore(each_redis_url, key_prefix=PREFIX) as store:
        yield store


@pytest.fixture
def client(each_redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(each_redis_url) as client:
        yield client


def store_of(server: RedisServer, **options: Any) -> RedisStore:
    return RedisStore(server.url, key_prefix=PREFIX, **options)


def big(number: int) -> Delta:
    """Some 2 MB, a list among it that two halves of a commit would spoil."""
    text = b"%d" % number * 500
    return {
        "elements:a": WriteList(1, [text, text + b"x"], 50),
        **{f"fields:{i}": WriteHash({f"f{j}": text * 8 for j in range(20)}) for i in range(25)},
    }


# --- what Redis refuses ----------------------------------------------------------------------------------------------


@contextmanager
def out_of_memory(client: "Redis") -> Iterator[None]:
    client.config_set("maxmemory", "1mb")
    yield
    client.config_set("maxmemory", "0")


@contextmanager
def read_only(client: "Redis") -> Iterator[None]:
    client.replicaof("127.0.0.1", "1")
    yield
    client.replicaof("NO", "ONE")


@contextmanager
def lost_primary(client: "Redis") -> Iterator[None]:
    client.config_set("replica-serve-stale-data", "no")
    with read_only(client):
        yield


@contextmanager
def too_few_replicas(client: "Redis") -> Iterator[None]:
    client.config_set("min-replicas-to-write", "1")
    yield
    client.config_set("min-replicas-to-write", "0")


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        (out_of_memory, "OOM"),
        (read_only, "READONLY"),
        (lost_primary, "MASTERDOWN"),
        (too_few_replicas, "NOREPLICAS"),
    ],
)
async def test_a_server_that_cannot_write_refuses_and_nothing_is_written(
    new_server: NewServer, trouble: Callable[["Redis"], Any], says: str
) -> None:
    server = new_server()
    async with store_of(server) as store:
        await store.commit([numbered(STREAM, 1)])
        shadow = store.shadow()
        await shadow.commit([commit(STREAM, None, 1, generation="g2")])
        with server.client() as client:
            with trouble(client):
                with pytest.raises(StoreRefused, match=says):
                    await store.commit([commit(STREAM, at(1), 2, big(2), newest_id=1)])
                if says != "OOM":  # a promotion needs no memory
                    with pytest.raises(StoreRefused, match=says):
                        await shadow.promote(STREAM)
            assert client.get("test:{crash}:version") == b"1"
        assert await model(store, STREAM) == model_of(1)
        assert await store.commit([numbered(STREAM, 2)]) == [Applied(2)]


async def test_a_promotion_is_possible_without_memory(new_server: NewServer) -> None:
    server = new_server()
    async with store_of(server) as store:
        await store.commit([numbered(STREAM, 1)])
        shadow = store.shadow()
        await shadow.commit([commit(STREAM, None, 1, generation="g2")])
        with server.client() as client, out_of_memory(client):
            assert await shadow.promote(STREAM) == Promoted(2)
        assert await model(store, STREAM) == {}


async def test_a_server_that_cannot_save_refuses_and_nothing_is_written(new_server: NewServer) -> None:
    server = new_server({"save": "3600 1000000"})
    async with store_of(server) as store:
        await store.commit([numbered(STREAM, 1)])
        with server.client() as client:
            shutil.rmtree(server.directory)
            client.bgsave()
            await until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
            with pytest.raises(StoreRefused, match="MISCONF"):
                await store.commit([numbered(STREAM, 2)])
            client.config_set("stop-writes-on-bgsave-error", "no")
        assert await store.commit([numbered(STREAM, 2)]) == [Applied(2)]


async def test_a_server_busy_with_a_script_refuses_and_is_waited_for(new_server: NewServer) -> None:
    server = new_server({"busy-reply-threshold": "20"})
    with server.client() as client, server.client() as other:

        def spin() -> None:
            with pytest.raises(redis.exceptions.ResponseError):
                client.eval("while true do end", 0)

        def is_busy() -> bool:
            try:
                return not other.ping()
            except redis.exceptions.ResponseError as error:
                return code_of(error) == "BUSY"

        async with store_of(server) as store:
            await store.commit([numbered(STREAM, 1)])
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, spin)
                await until(is_busy)
                with pytest.raises(StoreRefused, match="BUSY"):
                    await store.commit([numbered(STREAM, 2)])
                with pytest.raises(StoreRefused, match="BUSY"):
                    await store.load(STREAM)
                other.script_kill()
            assert await store.commit([numbered(STREAM, 2)]) == [Applied(2)]


async def test_a_server_that_loads_its_data_refuses(new_server: NewServer) -> None:
    options = {"save": "3600 1000000", "loading-process-events-interval-bytes": "1024"}
    server = new_server(options)
    async with store_of(server) as store:
        await store.commit([commit(STREAM, None, 1, big(1))])
        with server.client() as client:
            client.save()
        server.kill()
        server.options["key-load-delay"] = "100000"
        server._launch()
        try:
            with anyio.fail_after(PATIENCE_S):
                await anyio.sleep(0.01)  # the client notices that its old connection has ended
                while not server_listens(server):
                    await anyio.sleep(0.01)
            with pytest.raises(StoreRefused, match="LOADING"):
                await store.commit([numbered(STREAM, 1)])
            with pytest.raises(StoreRefused, match="LOADING"):
                await store.load(STREAM)
        finally:
            server.kill()


async def test_a_cluster_without_slots_refuses(new_server: NewServer) -> None:
    server = new_server({"cluster-enabled": "yes"})
    async with store_of(server) as store:
        with pytest.raises(StoreRefused, match="CLUSTERDOWN"):
            await store.commit([numbered(STREAM, 1)])


async def test_all_keys_of_a_script_share_a_slot_if_the_prefix_has_the_stream_in_it(new_server: NewServer) -> None:
    server = new_server({"cluster-enabled": "yes"})
    with server.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
    async with store_of(server) as store:
        await store.commit([numbered(STREAM, 1), numbered("other", 1)])
        shadow = store.shadow()
        await shadow.commit([commit(STREAM, None, 2, generation="g2")])
        assert await shadow.promote(STREAM) == Promoted(2)
    async with RedisStore(server.url, key_prefix="untagged") as store:
        with pytest.raises(ConfigurationError, match="key_prefix"):
            await store.commit([numbered(STREAM, 1)])


async def test_a_wrong_password_is_a_wrong_setting_and_is_printed_nowhere(new_server: NewServer) -> None:
    server = new_server({"requirepass": "right-password"})
    for password in ("", ":wrong-password@"):
        url = f"redis://{password}{server.address}/0"
        async with RedisStore(url) as store:
            with pytest.raises(ConfigurationError, match=r"redis\.url") as raised:
                await store.commit([numbered(STREAM, 1)])
            assert "password@" not in f"{store!r}{raised.value}{raised.value.__cause__}"
    async with store_of(server) as store:
        assert await store.commit([numbered(STREAM, 1)]) == [Applied(1)]
        assert "right-password" not in repr(store)


@pytest.mark.parametrize(
    "url", ["http://:secret@h", "redis://:secret@h:port", "redis://:secret@h/0?socket_timeout=x", "", "secret"]
)
def test_a_url_that_is_none_is_a_wrong_setting_and_is_printed_nowhere(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"redis\.url") as raised:
        RedisStore(url)
    assert "secret" not in str(raised.value)
    assert raised.value.__suppress_context__


# --- what is unknown -------------------------------------------------------------------------------------------------


async def test_a_server_that_does_not_answer_leaves_the_outcome_unknown_and_sending_again_is_safe(
    new_server: NewServer,
) -> None:
    server = new_server()
    async with store_of(server, timeout_s=0.2) as store:
        await store.commit([numbered(STREAM, 1)])
        server.pause()
        with pytest.raises(StoreUnavailable):
            await store.commit([numbered(STREAM, 2)])
        server.resume()
        with anyio.fail_after(PATIENCE_S):
            # The server had the command in its buffer, so most likely it was made.
            assert await again(store, [numbered(STREAM, 2)]) in ([Applied(2)], [Duplicate(2)])
        assert await model(store, STREAM) == model_of(2)


async def test_a_server_that_was_killed_and_lost_everything_conflicts_with_the_next_commit(
    new_server: NewServer,
) -> None:
    server = new_server()
    async with store_of(server) as store:
        await store.commit([numbered(STREAM, 1)])
        server.kill()
        with pytest.raises(StoreUnavailable):
            await store.commit([numbered(STREAM, 2)])
        await anyio.to_thread.run_sync(server.start)
        # The script is gone too: it is loaded again.
        assert await again(store, [numbered(STREAM, 1)]) == [Applied(1)]
        assert await model(store, STREAM) == model_of(1)


async def test_a_server_that_was_killed_comes_back_with_what_it_had_on_disk(new_server: NewServer) -> None:
    server = new_server({"appendonly": "yes", "appendfsync": "always"})
    async with store_of(server) as store:
        for number in (1, 2, 3):
            await store.commit([numbered(STREAM, number)])
        server.kill()
        await anyio.to_thread.run_sync(server.start)
        assert await again(store, [numbered(STREAM, 3)]) == [Duplicate(3)]
        assert await store.commit([numbered(STREAM, 4)]) == [Applied(4)]
        assert await model(store, STREAM) == model_of(4)


async def test_a_server_killed_in_the_middle_of_commits_has_each_whole_or_not_at_all(new_server: NewServer) -> None:
    server = new_server({"appendonly": "yes", "appendfsync": "always"})
    made = 0

    async def commit_on_and_on(store: RedisStore) -> None:
        nonlocal made
        while True:
            await store.commit([numbered(STREAM, made + 1)])
            made += 1

    async def kill_after(commits: int) -> None:
        while made < commits:
            await anyio.sleep(0)
        server.kill()

    async with store_of(server) as store:
        for _ in range(3):
            with anyio.fail_after(PATIENCE_S):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(kill_after, made + 15)
                    with pytest.raises(StoreUnavailable):
                        await commit_on_and_on(store)
            await anyio.to_thread.run_sync(server.start)
            stored = await read_again(store)
            assert stored in (made, made + 1)
            assert await model(store, STREAM) == model_of(stored)
            made = stored


async def test_scripts_that_were_forgotten_are_loaded_again(store: RedisStore, each_redis_url: str) -> None:
    with Redis.from_url(each_redis_url) as client:
        streams = [f"s{n}" for n in range(5)]
        for number in (1, 2, 3):
            client.script_flush()
            outcomes = await store.commit([numbered(stream, number) for stream in streams])
            assert outcomes == [Applied(number)] * 5
        client.script_flush()
        shadow = store.shadow()
        await shadow.commit([commit(STREAM, None, 1)])
        client.script_flush()
        assert await shadow.promote(STREAM) == Promoted(2)


async def test_commits_cancelled_at_any_moment_leave_the_connections_in_order(store: RedisStore) -> None:
    chance = random.Random(5)
    streams = [f"s{n}" for n in range(8)]
    for number in range(1, 30):
        commits = [numbered(stream, number) for stream in streams]
        with anyio.move_on_after(chance.random() * 0.004):
            await store.commit(commits)
        assert {type(outcome) for outcome in await store.commit(commits)} <= {Applied, Duplicate}
        assert await store.positions(streams) == [at(number)] * 8
    assert await model(store, "s3") == model_of(29)


# --- big commits -----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(before=deltas(), delta=deltas())
def test_the_parts_of_a_commit_do_together_what_it_does(before: Delta, delta: Delta) -> None:
    delta = {**delta, keys.CHECKPOINT: WriteHash({"base": b"x"})}
    made = [*parts_in_turn(commit(STREAM, None, 1, delta), part_bytes=150)]
    expected = apply({}, before)
    whole = apply(expected, delta)
    for part in made:
        expected = apply(expected, part.delta)
    assert expected == whole
    assert [part.is_last for part in made] == [False] * (len(made) - 1) + [True]
    assert all(keys.CHECKPOINT not in part.delta for part in made[:-1])


def test_parts_lead_from_one_position_to_the_next_by_way_of_their_own() -> None:
    made = [*parts_in_turn(commit(STREAM, at(5, "g"), 9, big(1), generation="g"))]
    assert len(made) > 3
    assert made[0].expected == ("g", "5", at(5, "g").commit)
    for number, (part, following) in enumerate(pairwise(made), 1):
        assert following.expected == ("g", part.next_offset, at(9, "g").commit)
        assert part.next_offset == f"5>9#{number}"
    assert made[-1].next_offset == "9"
    assert max(len(packing.call(keys.Keys("p"), commit(STREAM, None, 9, big(1)), part).args[-1]) for part in made) < (
        2 * PART_BYTES
    )


@pytest.mark.parametrize("made", [0, 1, 4, None], ids=["nothing", "a part", "some parts", "all"])
async def test_a_shadows_big_commit_goes_on_where_it_was_interrupted(store: RedisStore, made: int | None) -> None:
    first = commit(STREAM, None, 1, big(1), generation="g2")
    second = commit(STREAM, at(1, "g2"), 2, big(2))
    shadow = store.shadow()
    assert await shadow.commit([first, numbered("other", 1)]) == [Applied(1), Applied(1)]
    for part in [*parts_in_turn(second)][:made]:
        call = packing.call(shadow._keys(STREAM), second, part)
        (reply,) = await shadow._client.run(Script.named("commit"), [call])
        assert reply[0] == b"applied"
    outcome = Applied(2) if made is not None else Duplicate(2)
    assert await shadow.commit([second]) == [outcome]
    assert await shadow.commit([second]) == [Duplicate(2)]
    assert await model(shadow, STREAM) == apply(apply({}, big(1)), big(2))


def lists(number: int) -> Delta:
    """Nine parts, each of which makes another list longer: it shows when one is made twice."""
    delta: Delta = {f"elements:{i}": WriteList(0, [b"%d" % number * 250_000], 50) for i in range(8)}
    return delta | {"elements:8": WriteList(0, [b"%d" % number], 50), "text:a": SetString(b"x" * 250_000)}


@pytest.fixture
def three_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crashfold.engine.adapters.redis.staging.PARTS_AT_ONCE", 3)


@pytest.mark.usefixtures("three_at_once")
@pytest.mark.parametrize("run", [1, 2, 3], ids=["first", "second", "last"])
@pytest.mark.parametrize("made", [0, 1, 2, 3])
async def test_replies_that_are_lost_while_parts_are_on_their_way_apply_none_twice(
    store: RedisStore, run: int, made: int
) -> None:
    first, second = commit(STREAM, None, 1, lists(1), generation="g2"), commit(STREAM, at(1, "g2"), 2, lists(2))
    shadow = store.shadow()
    await shadow.commit([first])
    assert 6 < len([*parts_in_turn(second)]) <= 9

    async def lose(send: Send, calls: Sequence[Call]) -> list[Any]:
        await send(calls[:made])
        raise StoreUnavailable("the connection was lost")

    Interposed(shadow, lose, run)
    with pytest.raises(StoreUnavailable):
        await shadow.commit([second])
    assert await shadow.commit([second]) in ([Applied(2)], [Duplicate(2)])
    assert await shadow.commit([second]) == [Duplicate(2)]
    assert await model(shadow, STREAM) == apply(apply({}, lists(1)), lists(2))


@pytest.mark.usefixtures("three_at_once")
async def test_a_part_that_is_refused_keeps_those_behind_it_from_being_made(store: RedisStore, client: Redis) -> None:
    whole = commit(STREAM, None, 1, lists(1), generation="g2")
    shadow = store.shadow()

    async def refuse_one(send: Send, calls: Sequence[Call]) -> list[Any]:
        before, after = await send([calls[0], calls[2]])
        return [before, StoreRefused("it is out of memory"), after]

    Interposed(shadow, refuse_one, 2)
    with pytest.raises(StoreRefused):
        await shadow.commit([whole])
    assert client.hget("test:{crash}:shadow:checkpoint", "next_offset") == b">1#4"
    assert await shadow.commit([whole]) == [Applied(1)]
    assert await model(shadow, STREAM) == apply({}, lists(1))


@pytest.mark.usefixtures("three_at_once")
async def test_a_part_that_came_behind_its_followers_is_sent_again_with_them(store: RedisStore) -> None:
    """As when the script is forgotten and known again while parts are on their way."""
    whole = commit(STREAM, None, 1, lists(1), generation="g2")
    shadow = store.shadow()

    async def mix(send: Send, calls: Sequence[Call]) -> list[Any]:
        third, second, first = await send([calls[2], calls[1], calls[0]])
        return [first, second, third]

    Interposed(shadow, mix, 2)
    with pytest.raises(StoreUnavailable, match="made again"):
        await shadow.commit([whole])
    assert await shadow.commit([whole]) == [Applied(1)]
    assert await model(shadow, STREAM) == apply({}, lists(1))


@pytest.mark.usefixtures("three_at_once")
@pytest.mark.parametrize("sent", [0, 1, 3])
@pytest.mark.parametrize("run", [1, 2])
async def test_a_rival_that_comes_while_parts_are_on_their_way_is_a_conflict(
    store: RedisStore, run: int, sent: int
) -> None:
    shadow, rival = store.shadow(), store.shadow()

    async def meet(send: Send, calls: Sequence[Call]) -> list[Any]:
        replies = await send(calls[:sent])
        await rival.clear([STREAM])
        assert await rival.commit([commit(STREAM, None, 1, lists(7), generation="g7")]) == [Applied(1)]
        return replies + (await send(calls[sent:]) if sent < len(calls) else [])

    Interposed(shadow, meet, run)
    outcomes = await shadow.commit([commit(STREAM, None, 1, lists(1), generation="g2")])
    assert outcomes == [Conflict(at(1, "g7"))]
    assert await model(shadow, STREAM) == apply({}, lists(7))


@pytest.mark.usefixtures("three_at_once")
async def test_a_server_that_is_killed_while_parts_are_on_their_way_gets_the_rest(new_server: NewServer) -> None:
    server = new_server({"appendonly": "yes", "appendfsync": "always"})
    whole = commit(STREAM, None, 1, lists(1), generation="g2")
    async with store_of(server) as store:
        shadow = store.shadow()

        async def kill(send: Send, calls: Sequence[Call]) -> list[Any]:
            await send(calls[:1])
            server.kill()
            return await send(calls[1:])

        Interposed(shadow, kill, 2)
        with pytest.raises(StoreUnavailable):
            await shadow.commit([whole])
        await anyio.to_thread.run_sync(server.start)
        assert await again(shadow, [whole]) == [Applied(1)]
        assert await model(shadow, STREAM) == apply({}, lists(1))


async def test_big_commits_cancelled_at_any_moment_are_made_once(store: RedisStore) -> None:
    chance = random.Random(7)
    shadow, expected = store.shadow(), dict[str, Value]()
    for number in range(1, 16):
        before = at(number - 1, "g2") if number > 1 else None
        whole = commit(STREAM, before, number, lists(number), generation="g2")
        for _ in range(3):
            with anyio.move_on_after(chance.random() * 0.03):
                await shadow.commit([whole])
        assert await again(shadow, [whole]) in ([Applied(number)], [Duplicate(number)])
        expected = apply(expected, whole.delta)
    assert await model(shadow, STREAM) == expected


@pytest.mark.usefixtures("three_at_once")
async def test_the_first_parts_are_made_while_the_last_writes_are_not_there_yet(
    store: RedisStore, client: Redis
) -> None:
    def pieces() -> Iterator[Delta]:
        yield lists(1)
        deadline_s = time.monotonic() + PATIENCE_S
        while client.hget("test:{crash}:shadow:checkpoint", "next_offset") is None:
            assert time.monotonic() < deadline_s
        yield {"text:b": SetString(b"x"), keys.CHECKPOINT: WriteHash({"base": b"x"})}

    shadow = store.shadow()
    whole = msgspec.structs.replace(commit(STREAM, None, 1, generation="g2"), delta=Unfolding(pieces()))
    assert await shadow.commit([whole]) == [Applied(1)]
    assert await model(shadow, STREAM) == apply({}, lists(1)) | {"text:b": b"x"}
    stored = await shadow.load(STREAM)
    assert stored is not None
    assert stored.state == {"base": b"x"}


async def test_a_shadow_that_was_written_by_halves_is_not_read_and_can_be_cleared(store: RedisStore) -> None:
    shadow = store.shadow()
    half = commit(STREAM, None, 1, big(1), generation="g2")
    call = packing.call(shadow._keys(STREAM), half, next(parts_in_turn(half)))
    await shadow._client.run(Script.named("commit"), [call])
    for read in (shadow.load(STREAM), shadow.read_model(STREAM), shadow.positions([STREAM]), shadow.promote(STREAM)):
        with pytest.raises(StateError, match="replay"):
            await read
    with pytest.raises(StateError, match="replay"):
        await shadow.commit([commit(STREAM, None, 1, big(1), generation="g3")])
    await shadow.clear([STREAM])
    assert await shadow.commit([half]) == [Applied(1)]
    assert await shadow.promote(STREAM) == Promoted(2)
    assert await model(store, STREAM) == apply({}, big(1))


async def test_a_commit_of_more_values_than_lua_can_unpack_at_once_is_made(store: RedisStore) -> None:
    many = {f"{n}": b"x" for n in range(9_000)}
    delta: Delta = {
        "fields:a": WriteHash(many),
        "elements:a": WriteList(0, [b"%d" % n for n in range(9_000)], 8_500),
        keys.CHECKPOINT: WriteHash({f"before_window:{n}": b"x" for n in range(5_000)}),
    }
    first = commit(STREAM, None, 1, delta)
    assert await store.commit([first]) == [Applied(1)]
    fewer: Delta = {
        "fields:a": WriteHash({}, tuple(many)[:8_999]),
        "text:a": SetString(b"x"),
        keys.CHECKPOINT: WriteHash({}, tuple(f"before_window:{n}" for n in range(4_999))),
    }
    before = {name: write for name, write in delta.items() if name != keys.CHECKPOINT}
    assert await model(store, STREAM) == apply({}, before)
    assert await store.commit([commit(STREAM, first.checkpoint.position, 2, fewer)]) == [Applied(2)]
    stored = await store.load(STREAM)
    assert stored is not None
    assert stored.state == {"before_window:4999": b"x"}
    assert (await model(store, STREAM))["fields:a"] == {"8999": b"x"}


# --- real projections ------------------------------------------------------------------------------------------------


class Line:
    """An engine's way through random games: folds, commits, and what should stand in the store."""

    def __init__(self, plan: Plan, seed: int) -> None:
        self.plan = plan
        self.state = StreamState.empty(plan)
        self.next_offset = 0
        self._chance = random.Random(seed)
        self._newest = 0

    def advance(self, generation: str = "g1") -> Commit:
        before, expected = self.state, at(self.next_offset, generation) if self.next_offset else None
        folded = before.fold([self._game() for _ in range(self._chance.choice((1, 1, 2, 7, 40)))])
        self.state = folded.state
        self.next_offset += self._chance.randint(1, 50)
        return self._commit(expected, self.state.delta(before, folded.kept), generation)

    def whole(self, generation: str) -> Commit:
        return self._commit(None, self.state.create(), generation)

    def _game(self) -> Any:
        chance = self._chance
        late = self._newest > 5 and chance.random() < 0.1
        number = self._newest - chance.randint(1, 5) if late else self._newest + chance.choice((1, 1, 1, 3))
        self._newest = max(self._newest, number)
        return game(number, min(max(100, int(99 / (1 - chance.random()))), 10**11) / 100)

    def _commit(self, expected: Position | None, delta: Writes, generation: str) -> Commit:
        checkpoint = Checkpoint(
            next_offset=self.next_offset,
            generation=generation,
            commit=at(self.next_offset, generation).commit,
            writer="engine-1",
            topic="games",
            partition=0,
            first_offset=0,
            mark=Mark(self.next_offset - 1, 1, "0" * 16),
            fingerprint=self.plan.fingerprint,
            aggregates=self.plan.aggregates,
        )
        totals = self.state.totals
        return Commit(STREAM, expected, checkpoint, delta, totals.games, totals.newest_id)


async def test_folded_commit_by_commit_the_store_holds_what_the_state_says(store: RedisStore) -> None:
    line = Line(plan(SMALL, spacing=8), seed=1)
    for version in range(1, 80):
        assert await store.commit([line.advance()]) == [Applied(version)]
        expected = line.state.keys()
        assert await model(store, STREAM) == expected
        assert await restarted(store, line.plan) == expected


async def test_a_rebuilt_state_is_promoted_and_folded_on(store: RedisStore) -> None:
    line = Line(plan(SMALL, spacing=8), seed=2)
    for _ in range(20):
        await store.commit([line.advance()])
    shadow = store.shadow()
    await shadow.commit([line.whole("g2")])
    assert await model(shadow, STREAM) == await model(store, STREAM)
    assert await shadow.promote(STREAM) == Promoted(21)
    for version in range(22, 40):
        assert await store.commit([line.advance("g2")]) == [Applied(version)]
        assert await model(store, STREAM) == line.state.keys()
        assert await restarted(store, line.plan) == line.state.keys()


# --- helpers ---------------------------------------------------------------------------------------------------------


def server_listens(server: RedisServer) -> bool:
    """Whether the server takes connections, whatever it answers."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", server.port)) == 0


async def restarted(store: RedisStore, plan: Plan) -> dict[str, Value]:
    """The keys of the state that a restart makes of what is stored."""
    stored = await store.load(STREAM)
    assert stored is not None
    return GameFolding(plan).load(stored.state, stored.window).keys()


async def again(store: RedisStore, commits: Sequence[Commit]) -> Sequence[object]:
    """The outcomes, once the server answers again."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            try:
                return await store.commit(commits)
            except StoreUnavailable:
                await anyio.sleep(0.01)


async def read_again(store: RedisStore) -> int:
    """Where the stream stands, once the server answers again."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            try:
                (position,) = await store.positions([STREAM])
            except StoreUnavailable:
                await anyio.sleep(0.01)
            else:
                assert position is not None
                return position.next_offset


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds."""
    with anyio.fail_after(PATIENCE_S):
        while not condition():
            await anyio.sleep(0.01)
