from collections.abc import Iterator

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from crashfold.projections.delta import (
    Delta,
    Remove,
    SetString,
    SortedSet,
    Unfolding,
    Value,
    Write,
    WriteHash,
    WriteList,
    WriteSortedSet,
    apply,
    changed_fields,
    create,
    diff,
)

BYTES = st.sampled_from((b"", b"0", b"1", b"2"))
FIELDS = st.sampled_from(("a", "b", "c"))
HASHES = st.dictionaries(FIELDS, BYTES, min_size=1)
VALUES: st.SearchStrategy[Value] = BYTES | HASHES | st.lists(BYTES, min_size=1, max_size=4)
MODELS = st.dictionaries(st.sampled_from(("x", "y", "z")), VALUES)


@given(MODELS, MODELS)
def test_the_difference_of_two_models_leads_from_one_to_the_other(
    before: dict[str, Value], after: dict[str, Value]
) -> None:
    # A key that changes its kind has to go first: no store turns a hash into a list.
    before = {k: v for k, v in before.items() if k not in after or type(v) is type(after[k])}
    assert apply(before, diff(before, after)) == after


@given(MODELS)
def test_there_is_no_difference_between_a_model_and_itself(model: dict[str, Value]) -> None:
    assert diff(model, model) == {}


@given(MODELS)
def test_create_makes_a_model_out_of_nothing(model: dict[str, Value]) -> None:
    assert apply({}, create(model)) == model


@given(MODELS, MODELS)
def test_lists_aside_writes_are_absolute_and_applied_twice_change_nothing_more(
    before: dict[str, Value], after: dict[str, Value]
) -> None:
    after = {name: value for name, value in after.items() if not isinstance(value, list)}
    before = {k: v for k, v in before.items() if k not in after or type(v) is type(after[k])}
    delta = diff(before, after)
    assert apply(apply(before, delta), delta) == after


@given(
    st.dictionaries(st.integers(1, 20), BYTES, min_size=1),
    st.integers(1, 20),
    st.dictionaries(st.integers(1, 40), BYTES, min_size=1),
)
def test_a_sorted_set_may_lose_its_lowest_members_and_gain_any(
    members: dict[int, bytes], first: int, more: dict[int, bytes]
) -> None:
    left = {score: member for score, member in (members | more).items() if score >= first}
    after = {score: left[score] for score in sorted(left)}
    assume(after)
    before: dict[str, Value] = {"games": SortedSet(members)}
    assert apply(before, diff(before, {"games": SortedSet(after)})) == {"games": SortedSet(after)}


@given(HASHES, HASHES)
def test_a_hash_is_written_by_the_fields_that_changed(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    write = changed_fields(before, after)
    assert all(before.get(field) != value for field, value in write.set.items())
    assert set(write.delete) == before.keys() - after.keys()
    assert apply({"h": before}, {"h": write}) == {"h": after}


def test_apply_does_not_touch_the_model_it_is_given() -> None:
    model: dict[str, Value] = {"h": {"a": b"1"}, "l": [b"1"], "s": SortedSet({1: b"1"})}
    delta: dict[str, Write] = {
        "h": WriteHash({"a": b"2"}),
        "l": WriteList(1, [b"2"], 5),
        "s": WriteSortedSet({2: b"2"}, 2),
    }
    assert apply(model, delta) == {"h": {"a": b"2"}, "l": [b"2"], "s": SortedSet({2: b"2"})}
    assert model == {"h": {"a": b"1"}, "l": [b"1"], "s": SortedSet({1: b"1"})}


@pytest.mark.parametrize(
    ("write", "after"),
    [
        (WriteList(drop=0, push=[b"9"], keep=10), [b"9", b"3", b"2", b"1"]),
        (WriteList(drop=1, push=[b"9", b"8"], keep=10), [b"9", b"8", b"2", b"1"]),
        (WriteList(drop=0, push=[b"9"], keep=3), [b"9", b"3", b"2"]),
        (WriteList(drop=5, push=[b"9"], keep=3), [b"9"]),
        (WriteList(drop=1, push=[], keep=10), [b"2", b"1"]),
        (WriteList(drop=0, push=[b"7", b"8", b"9"], keep=2), [b"7", b"8"]),
    ],
)
def test_a_list_changes_at_its_newest_end(write: WriteList, after: list[bytes]) -> None:
    assert apply({"l": [b"3", b"2", b"1"]}, {"l": write}) == {"l": after}


@pytest.mark.parametrize(
    ("value", "write"),
    [
        ({"a": b"1"}, WriteHash({}, ("a",))),
        ([b"1"], WriteList(1, [], 10)),
        ([b"1"], WriteList(0, [b"2"], 0)),
        (SortedSet({1: b"1"}), WriteSortedSet({}, 2)),
        (b"1", Remove()),
        ({"a": b"1"}, Remove()),
    ],
)
def test_what_has_no_elements_left_is_no_key(value: Value, write: Write) -> None:
    assert apply({"key": value}, {"key": write}) == {}


def test_removing_what_is_not_there_is_fine() -> None:
    assert apply({}, {"key": Remove()}) == {}
    assert apply({}, {"key": WriteHash({}, ("a",))}) == {}


@pytest.mark.parametrize("value", [b"1", {"a": b"1"}, [b"1"], SortedSet({1: b"1"})])
@pytest.mark.parametrize(
    "write", [SetString(b"2"), WriteHash({"a": b"2"}), WriteList(0, [b"2"], 5), WriteSortedSet({2: b"2"})]
)
def test_a_write_that_meets_a_value_of_another_kind_is_a_type_error(value: Value, write: Write) -> None:
    kinds = {SetString: bytes, WriteHash: dict, WriteList: list, WriteSortedSet: SortedSet}
    if type(value) is kinds[type(write)]:
        assert apply({"key": value}, {"key": write}).keys() == {"key"}
    else:
        with pytest.raises(TypeError, match="met a"):
            apply({"key": value}, {"key": write})


@given(MODELS)
def test_a_delta_that_unfolds_is_the_one_it_was_cut_from(model: dict[str, Value]) -> None:
    delta = create(model)
    pieces = [{}, *({name: write} for name, write in delta.items()), {}]
    assert Unfolding(pieces) == delta
    assert len(Unfolding(pieces)) == len(delta)
    unfolding = Unfolding(pieces)
    assert all(unfolding[name] == write for name, write in reversed(delta.items()))
    assert [*unfolding.items()] == [*unfolding.items()] == [*delta.items()]
    assert "none of them" not in unfolding


def test_a_delta_that_unfolds_makes_no_more_than_is_asked_for() -> None:
    made = []

    def pieces() -> Iterator[Delta]:
        for name in "abc":
            made.append(name)
            yield {name: SetString(b"x")}

    unfolding = Unfolding(pieces())
    assert made == []
    assert next(iter(unfolding)) == "a"
    assert made == ["a"]
    assert unfolding["b"] == SetString(b"x")
    assert [*unfolding] == made == ["a", "b", "c"]
