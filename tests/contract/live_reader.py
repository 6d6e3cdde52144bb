"""The contract of `LiveReader`. A test module names a store, and a reader of what it holds; see `state_store.py`."""

from typing import Any

import anyio
import pytest

from crashfold.engine.errors import StateError
from crashfold.engine.ports import (
    AllFields,
    Applied,
    CachedAnswer,
    Fields,
    First,
    LiveReader,
    Pieces,
    Standing,
    Text,
    Whole,
    WindowPart,
)
from crashfold.projections.delta import Delta, SetString, SortedSet, WriteHash, WriteList, WriteSortedSet
from crashfold.schemas import keys
from crashfold.schemas.aggregates import Update
from crashfold.schemas.game import encode
from tests.contract.state_store import PATIENCE_S, TOPIC_ID, Store, StreamFixture, at, commit, numbered, rebuild
from tests.support.games import game


def standing(number: int, *, generation: str = "g1", version: int | None = None) -> Standing:
    """Where a stream stands after the commit of that number."""
    commit_id = at(number, generation).commit
    return Standing(generation, version or number, "games", 3, number, number, number, commit_id, TOPIC_ID)


class LiveReaderContract(StreamFixture):
    async def test_of_an_unknown_stream_there_is_nothing(self, reader: LiveReader, stream: str) -> None:
        assert await reader.standing(stream) is None
        assert await reader.read_pieces(stream, [Text("text:a")]) is None
        assert await reader.read_window(stream, 0) is None
        assert await reader.cached(stream, 1, "x") is None

    async def test_pieces_come_in_the_order_they_were_asked_for(
        self, store: Store, reader: LiveReader, stream: str
    ) -> None:
        delta: Delta = {
            "text:a": SetString(b"\xff"),
            "fields:a": WriteHash({"x": b"1", "y": b"2"}),
            "elements:a": WriteList(0, [b"c", b"b", b"a"], 9),
        }
        await store.commit([commit(stream, None, 7, delta, newest_id=7)])
        read = await reader.read_pieces(
            stream,
            [
                *(Fields("fields:a", ("y", "none")), First("elements:a", 2), AllFields("fields:a"), Text("text:a")),
                *(Fields("fields:none", ("y", "none")), First("elements:none", 2), AllFields("none"), Text("none")),
            ],
        )
        found: list[Any] = [[b"2", None], [b"c", b"b"], {"x": b"1", "y": b"2"}, b"\xff", [None, None], [], {}, None]
        assert read == Pieces(standing(7, version=1), found)
        assert await reader.standing(stream) == standing(7, version=1)

    async def test_a_key_of_any_kind_is_read_whole(self, store: Store, reader: LiveReader, stream: str) -> None:
        delta: Delta = {
            "text:a": SetString(b"x"),
            "fields:a": WriteHash({"x": b"1"}),
            "elements:a": WriteList(0, [b"b", b"a"], 9),
            "members:a": WriteSortedSet({2: b"b", 1: b"a"}),
        }
        await store.commit([commit(stream, None, 7, delta, newest_id=7)])
        names = ("members:a", "text:a", "none", "fields:a", "elements:a")
        read = await reader.read_pieces(stream, [*map(Whole, names), Text("text:a")])
        assert read is not None
        assert read.values == [SortedSet({1: b"a", 2: b"b"}), b"x", None, {"x": b"1"}, [b"b", b"a"], b"x"]

    async def test_a_piece_of_another_type_is_named(self, store: Store, reader: LiveReader, stream: str) -> None:
        await store.commit([numbered(stream, 1)])
        for piece in (Text("fields:a"), Fields("text:a", ("x",)), AllFields("elements:a"), First("text:a", 1)):
            with pytest.raises(StateError, match=piece.name):
                await reader.read_pieces(stream, [piece])

    async def test_the_window_is_read_from_an_id_on(self, store: Store, reader: LiveReader, stream: str) -> None:
        big = 2**53 - 1
        games = {number: encode(game(number)) for number in (3, 10, 200, big)}
        await store.commit([commit(stream, None, 9, {keys.GAMES: WriteSortedSet(games)}, newest_id=big)])
        found = Standing("g1", 1, "games", 3, 9, big, big, at(9).commit, TOPIC_ID)
        for above_id, expected in ((0, [3, 10, 200, big]), (10, [200, big]), (big - 1, [big]), (big, [])):
            read = await reader.read_window(stream, above_id)
            assert read == WindowPart(found, 4, [games[number] for number in expected])

    async def test_an_empty_window_has_no_newest_game(self, store: Store, reader: LiveReader, stream: str) -> None:
        await store.commit([commit(stream, None, 5)])
        found = Standing("g1", 1, "games", 3, 5, 0, 0, at(5).commit, TOPIC_ID)
        assert await reader.read_window(stream, 0) == WindowPart(found, 0, [])

    async def test_each_commit_and_each_promotion_is_told(self, store: Store, reader: LiveReader, stream: str) -> None:
        await store.check_rights(stream)  # which tells what stands
        with anyio.fail_after(PATIENCE_S):
            async with reader.updates(stream) as updates:
                assert await updates.next(0.01) is None
                await store.commit([numbered(stream, 1)])
                await store.commit([numbered(stream + ".other", 1)])
                await store.commit([numbered(stream, 2)])
                await (await rebuild(store, stream, 5)).promote(stream)
                told = [await updates.next(PATIENCE_S) for _ in range(3)]
                assert told == [Update(1, 1, 1), Update(2, 2, 2), Update(6, 5, 5)]
                assert await updates.next(0.01) is None
        assert await reader.standing(stream) == standing(5, generation="g2", version=6)

    async def test_what_is_read_is_of_one_version_while_another_writes(
        self, store: Store, reader: LiveReader, stream: str
    ) -> None:
        last = 60
        await store.commit([numbered(stream, 1)])
        seen = 0

        async def write() -> None:
            for number in range(2, last + 1):
                assert await store.commit([numbered(stream, number)]) == [Applied(number)]

        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(write)
                while seen < last:
                    read = await reader.read_pieces(stream, [Text("text:a"), Fields("fields:a", ("number",))])
                    assert read is not None
                    number = read.standing.version
                    assert read == Pieces(standing(number), [b"%d" % number, [b"%d" % number]])
                    window = await reader.read_window(stream, 0)
                    assert window is not None
                    assert window.games == [encode(game(window.standing.version))]
                    assert seen <= number <= window.standing.version
                    seen = number

    async def test_an_answer_is_kept_under_its_version_and_request(self, reader: LiveReader, stream: str) -> None:
        kept = CachedAnswer(stream, 3, "a:b", b"\x00answer", 60)
        await reader.keep([kept, CachedAnswer(stream, 4, "a:b", b"later", 60)])
        assert await reader.cached(stream, 3, "a:b") == b"\x00answer"
        assert await reader.cached(stream, 4, "a:b") == b"later"
        assert await reader.cached(stream, 5, "a:b") is None
        assert await reader.cached(stream + "x", 3, "a:b") is None
