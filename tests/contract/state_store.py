"""The contract of `StateStore`, `StateReader` and `ShadowStore`. A test module names the store to run it on:

    class TestMemory(StateStoreContract, ShadowStoreContract):
        @pytest.fixture
        def store(self) -> MemoryStore: ...

Every test has a stream of its own, so one server serves them all.
"""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import anyio
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crashfold.engine.errors import StateError
from crashfold.engine.ports import (
    Applied,
    Behind,
    Checkpoint,
    Commit,
    Conflict,
    Duplicate,
    Manifest,
    Mark,
    Position,
    Promoted,
    ShadowStore,
    StateReader,
    StateStore,
)
from crashfold.projections.delta import (
    Delta,
    Remove,
    SetString,
    SortedSet,
    Value,
    Write,
    WriteHash,
    WriteList,
    Writes,
    WriteSortedSet,
    apply,
    create,
)
from crashfold.schemas import keys
from crashfold.schemas.game import encode
from tests.support.games import game

TOPIC_ID = "kWGQW01gQBaZw13HBuEc2g"
AGGREGATES: Final = ("text", "fields", "elements", "scores", keys.GAMES)
PATIENCE_S: Final = 20
KEY_COMMITS: Final = 20
"""A numbered commit in so many creates a key."""


class Shadow(ShadowStore, StateReader, Protocol):
    """What is tested as a shadow."""


class Store(StateStore, StateReader, Protocol):
    """What is tested."""

    def shadow(self) -> Shadow:
        """The generation beside it."""


def at(next_offset: int, generation: str = "g1", history: str = "") -> Position:
    """Where the commit of these tests stands that leads there: its id follows from place and `history`."""
    commit_id = hashlib.sha256(f"{generation}/{next_offset}/{history}".encode()).hexdigest()[:16]
    return Position(generation, next_offset, commit_id)


def commit(
    stream: str,
    expected: Position | None,
    next_offset: int,
    delta: Writes | None = None,
    *,
    generation: str | None = None,
    history: str = "",
    newest_id: int | None = None,
) -> Commit:
    """A commit on top of `expected`; by default of the same generation."""
    if generation is None:
        generation = "g1" if expected is None else expected.generation
    checkpoint = Checkpoint(
        next_offset=next_offset,
        generation=generation,
        commit=at(next_offset, generation, history).commit,
        writer="engine-1",
        topic="games",
        topic_id=TOPIC_ID,
        partition=3,
        first_offset=7,
        mark=Mark(next_offset - 1, 1_700_000_000_000, "0123456789abcdef"),
        fingerprint="fedcba9876543210",
        aggregates=AGGREGATES,
    )
    return Commit(stream, expected, checkpoint, delta or {}, newest_id or 0, newest_id)


def numbered(stream: str, number: int, before: Position | None = None) -> Commit:
    """The commit that turns everything to `number`, a game of that id included: readers see at once what is mixed.

    Now and then it creates a key and removes another.
    """
    text = b"%d" % number
    delta: Delta = {
        "text:a": SetString(text),
        "fields:a": WriteHash({"number": text}),
        "elements:a": WriteList(0, [text], 5),
        f"scores:{number // KEY_COMMITS}": WriteSortedSet({number: text}, remove_below=number),
        keys.GAMES: WriteSortedSet({number: encode(game(number))}, remove_below=number),
        keys.CHECKPOINT: WriteHash({"base": text}),
    }
    if number > 1:
        before = before or at(number - 1)
    if number % KEY_COMMITS == 0:
        delta[f"scores:{number // KEY_COMMITS - 1}"] = Remove()
    return commit(stream, before, number, delta, newest_id=number)


def model_of(number: int) -> dict[str, Value]:
    """What the commits up to number `number` make."""
    newest = [b"%d" % n for n in range(number, max(0, number - 5), -1)]
    return {
        "text:a": newest[0],
        "fields:a": {"number": newest[0]},
        "elements:a": list(newest),
        f"scores:{number // KEY_COMMITS}": SortedSet({number: newest[0]}),
        keys.GAMES: SortedSet({number: encode(game(number))}),
    }


async def model(store: StateReader, stream: str) -> dict[str, Value]:
    """The read model, which must be there."""
    read = await store.read_model(stream)
    assert read is not None
    return read[1]


_SCORES: Final = st.integers(1, 12)
_BYTES: Final = st.binary(max_size=12)
_FIELDS: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)


def _members(scores: set[int], content: bytes) -> dict[int, bytes]:
    return {score: b"%d:" % score + content for score in scores}


WRITES: Final[Mapping[str, st.SearchStrategy[Write]]] = {
    "text": st.builds(SetString, _BYTES),
    "fields": st.builds(
        WriteHash,
        st.dictionaries(_FIELDS, _BYTES, max_size=4),
        st.lists(_FIELDS | st.sampled_from(["", "a", "b"]), max_size=3).map(tuple),
    ),
    "elements": st.builds(
        WriteList,
        st.integers(0, 4) | st.just(2**31 - 1),
        st.lists(_BYTES, max_size=12),
        st.integers(0, 9) | st.just(2**31 - 1),
    ),
    "scores": st.builds(
        WriteSortedSet, st.builds(_members, st.sets(_SCORES, max_size=6), _BYTES), st.just(0) | _SCORES
    ),
}
"""Every kind of write, under the aggregate whose keys take it."""


def deltas() -> st.SearchStrategy[Delta]:
    """Any delta over a few keys."""
    writes = [
        st.tuples(st.sampled_from([f"{name}:{i}" for i in "ab"]), write | st.just(Remove()))
        for name, write in WRITES.items()
    ]
    return st.lists(st.one_of(writes), max_size=6).map(dict)


ANY_STORE: Final = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


class StreamFixture:
    """A stream of one's own."""

    @pytest.fixture
    def stream(self) -> str:
        return uuid.uuid4().hex


class StateStoreContract(StreamFixture):
    """`StateStore` and `StateReader`."""

    async def test_a_stream_without_a_commit_has_nothing(self, store: Store, stream: str) -> None:
        assert await store.load(stream) is None
        assert await store.checkpoint(stream) is None
        assert await store.read_model(stream) is None
        assert await store.positions([stream]) == [None]

    async def test_a_commit_stores_all_that_a_restart_needs(self, store: Store, stream: str) -> None:
        first = numbered(stream, 1)
        assert await store.commit([first]) == [Applied(1)]
        stored = await store.load(stream)
        assert stored is not None
        assert stored.checkpoint == first.checkpoint == await store.checkpoint(stream)
        assert stored.version == 1
        assert stored.state == {"base": b"1"}
        assert stored.window == [encode(game(1))]
        assert await store.read_model(stream) == (stored, model_of(1))
        assert await store.positions(["other", stream]) == [None, at(1)]

    async def test_several_streams_are_read_as_each_is(self, store: Store) -> None:
        streams = ["a", "ab", "b", "a.b", "none"]
        await store.commit([numbered(stream, 1) for stream in streams[:4]])
        await store.commit([numbered("ab", 2)])
        read = await store.read_models([*streams, "a"])
        assert read == [await store.read_model(stream) for stream in [*streams, "a"]]
        assert [None if one is None else one[1] for one in read[:5]] == [
            *(model_of(1), model_of(2), model_of(1), model_of(1), None)
        ]
        assert await store.read_models(["none"]) == [None]
        assert await store.read_models([]) == []

    async def test_a_checkpoint_of_a_partition_of_which_nothing_was_read_has_no_mark(
        self, store: Store, stream: str
    ) -> None:
        made = commit(stream, None, 5, numbered(stream, 1).delta, newest_id=1)
        unmarked = msgspec.structs.replace(made, checkpoint=msgspec.structs.replace(made.checkpoint, mark=None))
        await store.commit([unmarked])
        stored = await store.load(stream)
        assert stored is not None
        assert stored.checkpoint == unmarked.checkpoint == await store.checkpoint(stream)

    async def test_fields_of_the_state_come_and_go(self, store: Store, stream: str) -> None:
        blocks = WriteHash({"base": b"\xff\x00", "before_window:1": b"x", "before_window:2": b"y"})
        first = commit(stream, None, 5, {keys.CHECKPOINT: blocks})
        await store.commit([first])
        gone = WriteHash({"before_window:3": b"z"}, ("before_window:1", "before_window:2"))
        await store.commit([commit(stream, first.checkpoint.position, 6, {keys.CHECKPOINT: gone})])
        stored = await store.load(stream)
        assert stored is not None
        assert stored.state == {"base": b"\xff\x00", "before_window:3": b"z"}

    async def test_each_commit_is_one_version(self, store: Store, stream: str) -> None:
        for number in range(1, 8):
            assert await store.commit([numbered(stream, number)]) == [Applied(number)]
            assert await model(store, stream) == model_of(number)

    async def test_a_lost_reply_does_not_apply_the_commit_twice(self, store: Store, stream: str) -> None:
        await store.commit([numbered(stream, 1)])
        for _ in range(3):
            outcomes = await store.commit([numbered(stream, 2)])
        assert outcomes == [Duplicate(2)]
        assert await model(store, stream) == model_of(2)

    async def test_another_commit_of_the_same_offsets_conflicts(self, store: Store, stream: str) -> None:
        await store.commit([numbered(stream, 1)])
        other = commit(stream, None, 1, {"text:a": SetString(b"other")}, history="of another engine")
        assert await store.commit([other]) == [Conflict(at(1))]
        assert await model(store, stream) == model_of(1)

    @pytest.mark.parametrize(
        "expected",
        [None, at(1), at(3), at(2, "g0"), at(2, history="before a failover"), Position("g1", 2, "")],
        ids=["none", "behind", "ahead", "another generation", "another history", "no commit"],
    )
    async def test_a_commit_on_another_position_writes_nothing(
        self, store: Store, stream: str, expected: Position | None
    ) -> None:
        await store.commit([numbered(stream, 1)])
        await store.commit([numbered(stream, 2)])
        before = await store.read_model(stream)
        delta: Delta = {keys.CHECKPOINT: WriteHash({"base": b"?"})}
        delta.update((name, Remove()) for name in model_of(2))
        assert await store.commit([commit(stream, expected, 9, delta)]) == [Conflict(at(2))]
        assert await store.read_model(stream) == before

    async def test_a_commit_on_a_checkpoint_that_is_gone_conflicts_with_none(self, store: Store, stream: str) -> None:
        assert await store.commit([numbered(stream, 2)]) == [Conflict(None)]
        assert await store.load(stream) is None

    async def test_offsets_beyond_what_a_double_holds_are_told_apart(self, store: Store, stream: str) -> None:
        big = 2**62
        await store.commit([commit(stream, None, big)])
        here = commit(stream, None, big).checkpoint.position
        late = commit(stream, msgspec.structs.replace(here, next_offset=big + 1), big + 2)
        assert await store.commit([late]) == [Conflict(here)]
        assert await store.commit([commit(stream, here, big + 1)]) == [Applied(2)]
        assert await store.commit([commit(stream, here, big + 1)]) == [Duplicate(2)]
        assert await store.positions([stream]) == [at(big + 1)]

    async def test_commits_of_several_streams_are_made_each_for_itself(self, store: Store, stream: str) -> None:
        others = [f"{stream[:20]}.{n}" for n in range(5)]
        await store.commit([numbered(others[1], 1), numbered(others[3], 1)])
        outcomes = await store.commit([numbered(other, 1) for other in others[:3]] + [numbered(others[3], 2)])
        assert outcomes == [Applied(1), Duplicate(1), Applied(1), Applied(2)]
        assert await store.positions(others) == [at(1), at(1), at(1), at(2), None]
        assert [await store.commit([]), await store.positions([])] == [[], []]

    @ANY_STORE
    @given(changes=st.lists(deltas(), min_size=1, max_size=6))
    async def test_any_delta_does_what_its_definition_says(self, store: Store, changes: Sequence[Delta]) -> None:
        stream, position = uuid.uuid4().hex, None
        expected: dict[str, Value] = {}
        for number, delta in enumerate(changes, 1):
            expected = apply(expected, delta)
            made = commit(stream, position, number, delta)
            assert await store.commit([made]) == [Applied(number)]
            assert await model(store, stream) == expected
            position = made.checkpoint.position

    @pytest.mark.parametrize("name", ["text:a", "fields:a", "elements:a", "scores:0"])
    async def test_a_write_to_a_value_of_another_kind_refuses_before_anything_is_written(
        self, store: Store, stream: str, name: str
    ) -> None:
        await store.commit([numbered(stream, 1)])
        await store.commit([numbered(stream, 2)])
        before = await store.read_model(stream)
        misfit: Write = SetString(b"?") if name != "text:a" else WriteHash({"?": b"?"})
        delta: Delta = {"text:b": SetString(b"new"), "fields:b": WriteHash({"a": b"new"}), name: misfit}
        with pytest.raises(StateError, match="replay"):
            await store.commit([commit(stream, at(2), 3, delta, newest_id=2)])
        assert await store.read_model(stream) == before

    @pytest.mark.parametrize(
        ("name", "write"),
        [
            ("text:new", SetString(b"?", known=1)),
            ("fields:a", WriteHash({"?": b"?"}, known=2)),
            ("elements:a", WriteList(1, [b"?"], 5, known=3)),
            ("scores:0", WriteSortedSet({9: b"?"}, known=2)),
        ],
    )
    async def test_a_write_to_a_key_that_has_lost_elements_refuses_before_anything_is_written(
        self, store: Store, stream: str, name: str, write: Write
    ) -> None:
        await store.commit([numbered(stream, 1)])
        await store.commit([numbered(stream, 2)])
        before = await store.read_model(stream)
        delta: Delta = {"text:b": SetString(b"new"), "fields:b": WriteHash({"a": b"new"}), name: write}
        with pytest.raises(StateError, match="replay"):
            await store.commit([commit(stream, at(2), 3, delta, newest_id=2)])
        assert await store.read_model(stream) == before

    async def test_what_is_loaded_is_of_one_version_while_another_writes(self, store: Store, stream: str) -> None:
        last = 60
        await store.commit([numbered(stream, 1)])
        seen = set()

        async def write() -> None:
            for number in range(2, last + 1):
                assert await store.commit([numbered(stream, number)]) == [Applied(number)]

        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(write)
                while last not in seen:
                    stored = await store.load(stream)
                    assert stored is not None
                    number = stored.version
                    assert stored.checkpoint == numbered(stream, number).checkpoint
                    assert (stored.state, stored.window) == ({"base": b"%d" % number}, [encode(game(number))])
                    seen.add(number)
                    read = await store.read_model(stream)
                    assert read is not None
                    assert read[1] == model_of(read[0].version)

    async def test_a_cancelled_commit_was_made_or_not_and_can_be_sent_again(self, store: Store, stream: str) -> None:
        for number in range(1, 40):
            made = numbered(stream, number)
            with anyio.move_on_after(0.0002 * (number % 8)):
                await store.commit([made])
            assert await store.commit([made]) in ([Applied(number)], [Duplicate(number)])
            assert await model(store, stream) == model_of(number)

    async def test_a_manifest_is_kept_as_given_and_takes_the_place_of_the_one_before(
        self, store: Store, stream: str
    ) -> None:
        topic = stream
        assert await store.read_manifest(topic, 0) is None
        first = Manifest(
            low_water=2**60,
            streams={"a": 2**60 + 1, "b": 5},
            first_offsets={"a": -1},
            topic_id=TOPIC_ID,
            mark=Mark(2**60 - 1, 17, "00ff00ff00ff00ff"),
        )
        await store.write_manifest(topic, 0, first)
        assert await store.read_manifest(topic, 0) == first
        assert await store.read_manifest(topic, 1) is None
        second = Manifest(low_water=4, streams={"b": 6, "c.d-e_f": 7}, first_offsets={"b": 2**60}, mark=None)
        await store.write_manifest(topic, 0, second)
        assert await store.read_manifest(topic, 0) == second


class ShadowStoreContract(StreamFixture):
    """`ShadowStore`, beside a live store."""

    async def test_a_shadow_and_the_live_state_know_nothing_of_each_other(self, store: Store, stream: str) -> None:
        shadow = store.shadow()
        await store.commit([numbered(stream, 1)])
        assert await shadow.load(stream) is None
        assert await shadow.commit([rebuilt(stream, 1)]) == [Applied(1)]
        assert await shadow.commit([rebuilt(stream, 2)]) == [Applied(2)]
        assert await shadow.commit([rebuilt(stream, 2)]) == [Duplicate(2)]
        assert await model(store, stream) == model_of(1)
        assert await model(shadow, stream) == model_of(2)
        assert [await store.positions([stream]), await shadow.positions([stream])] == [[at(1)], [at(2, "g2")]]

    async def test_promote_puts_the_shadow_in_the_place_of_the_live_state(self, store: Store, stream: str) -> None:
        left_over: Delta = {"text:left": SetString(b"x"), "scores:left": WriteSortedSet({1: b"x"})}
        first = numbered(stream, 1)
        await store.commit([first])
        await store.commit([commit(stream, first.checkpoint.position, 2, left_over, newest_id=1)])
        shadow = await rebuild(store, stream, 3)
        assert await shadow.promote(stream) == Promoted(4)
        stored = await store.load(stream)
        assert stored is not None
        assert stored.checkpoint == rebuilt(stream, 3).checkpoint
        assert stored.state == {"base": b"3"}
        assert stored.version == 4
        assert await store.read_model(stream) == (stored, model_of(3))
        assert await shadow.load(stream) is None
        assert await shadow.read_model(stream) is None

    @pytest.mark.parametrize(("live", "shadow", "version"), [(1, 4, 5), (4, 4, 5), (0, 3, 4)])
    async def test_the_version_never_falls(
        self, store: Store, stream: str, live: int, shadow: int, version: int
    ) -> None:
        for number in range(1, live + 1):
            await store.commit([numbered(stream, number)])
        beside = await rebuild(store, stream, shadow)
        assert await beside.promote(stream) == Promoted(version)
        stored = await store.load(stream)
        assert stored is not None
        assert stored.version == version

    async def test_the_version_does_not_fall_when_an_older_state_is_put_back(self, store: Store, stream: str) -> None:
        for number in range(1, 6):
            await store.commit([numbered(stream, number)])
        shadow = await rebuild(store, stream, 2)
        before = await store.read_model(stream)
        assert await shadow.promote(stream) == Behind(at(5))
        assert await store.read_model(stream) == before
        assert await model(shadow, stream) == model_of(2)
        assert await shadow.promote(stream, allow_back=True) == Promoted(6)
        assert await model(store, stream) == model_of(2)

    async def test_a_position_with_more_digits_is_ahead(self, store: Store, stream: str) -> None:
        await store.commit([commit(stream, None, 100)])
        shadow = store.shadow()
        await shadow.commit([commit(stream, None, 99, generation="g2")])
        assert await shadow.promote(stream) == Behind(at(100))

    async def test_the_live_engine_learns_of_the_swap_by_a_conflict(self, store: Store, stream: str) -> None:
        await store.commit([numbered(stream, 1)])
        shadow = await rebuild(store, stream, 1)
        await shadow.promote(stream)
        assert await store.commit([numbered(stream, 2)]) == [Conflict(at(1, "g2"))]
        assert await store.commit([rebuilt(stream, 2)]) == [Applied(3)]
        assert await model(store, stream) == model_of(2)

    async def test_promoting_again_after_a_lost_reply_says_that_it_was_done(self, store: Store, stream: str) -> None:
        await store.commit([numbered(stream, 1)])
        shadow = await rebuild(store, stream, 1)
        assert [await shadow.promote(stream), await shadow.promote(stream)] == [Promoted(2), Promoted(2)]

    async def test_without_a_shadow_there_is_nothing_to_promote(self, store: Store, stream: str) -> None:
        await store.commit([numbered(stream, 1)])
        with pytest.raises(StateError, match="no shadow"):
            await store.shadow().promote(stream)
        assert await model(store, stream) == model_of(1)

    async def test_clear_removes_the_shadows_named_and_nothing_else(self, store: Store, stream: str) -> None:
        streams = [f"{stream[:20]}.{n}" for n in range(3)]
        shadow = store.shadow()
        for name in streams:
            await store.commit([numbered(name, 1)])
            await shadow.commit([rebuilt(name, 1)])
        await shadow.clear([])
        await shadow.clear(streams[:1])
        assert await shadow.positions(streams) == [None, at(1, "g2"), at(1, "g2")]
        await shadow.clear(streams[:2])
        assert await shadow.positions(streams) == [None, None, at(1, "g2")]
        assert await store.positions(streams) == [at(1)] * 3
        assert await shadow.read_model(streams[0]) is None
        assert await model(store, streams[0]) == model_of(1)

    async def test_a_cleared_shadow_begins_anew(self, store: Store, stream: str) -> None:
        shadow = await rebuild(store, stream, 3)
        await shadow.clear([stream])
        assert await shadow.commit([rebuilt(stream, 1)]) == [Applied(1)]
        assert await model(shadow, stream) == model_of(1)

    async def test_a_shadow_keeps_no_manifests(self, store: Store, stream: str) -> None:
        live = Manifest(low_water=5, streams={stream: 5}, mark=None)
        await store.write_manifest(stream, 0, live)
        shadow = store.shadow()
        await shadow.write_manifest(stream, 0, Manifest(low_water=1, streams={}, mark=None))
        assert await shadow.read_manifest(stream, 0) is None
        assert await store.read_manifest(stream, 0) == live

    @ANY_STORE
    @given(live=deltas(), rebuilt=deltas())
    async def test_after_promote_the_live_state_is_what_the_shadow_was(
        self, store: Store, live: Delta, rebuilt: Delta
    ) -> None:
        stream, shadow = uuid.uuid4().hex, store.shadow()
        await store.commit([commit(stream, None, 1, live)])
        await shadow.commit([commit(stream, None, 1, rebuilt, generation="g2")])
        assert await shadow.promote(stream) == Promoted(2)
        assert await model(store, stream) == apply({}, rebuilt)

    async def test_readers_see_the_old_state_or_the_new_one(self, store: Store, stream: str) -> None:
        await store.commit([numbered(stream, 1)])
        rounds = 12
        seen = set()

        async def swap_again_and_again() -> None:
            for number in range(2, rounds + 2):
                shadow = store.shadow()
                await shadow.commit([whole(stream, number)])
                assert await shadow.promote(stream) == Promoted(number)

        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(swap_again_and_again)
                while rounds + 1 not in seen:
                    read = await store.read_model(stream)
                    assert read is not None
                    number = read[0].version
                    assert read[1] == model_of(number)
                    assert read[0].checkpoint.next_offset == number
                    seen.add(number)


def rebuilt(stream: str, number: int) -> Commit:
    """`numbered` in another generation."""
    made = numbered(stream, number, at(number - 1, "g2") if number > 1 else None)
    return commit(stream, made.expected, number, made.delta, generation="g2", newest_id=number)


def whole(stream: str, number: int) -> Commit:
    """The state after so many numbered commits, made in one, in a generation of its own."""
    delta: Delta = {keys.CHECKPOINT: WriteHash({"base": b"%d" % number})}
    delta |= create(model_of(number))
    return commit(stream, None, number, delta, generation=f"g{number}", newest_id=number)


async def rebuild(store: Store, stream: str, number: int) -> Shadow:
    """A shadow with so many numbered commits."""
    shadow = store.shadow()
    for made in range(1, number + 1):
        assert await shadow.commit([rebuilt(stream, made)]) == [Applied(made)]
    return shadow
