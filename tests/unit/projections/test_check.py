"""A projection that the engine could not keep is refused when it is registered, by its name, key and field."""

from typing import Any, Final

import msgspec
import numpy as np
import pytest

from crashfold.engine.testing import game, given
from crashfold.projections import ProjectionFault, ProjectionSettings, StreamState, plan
from crashfold.projections.check import check
from crashfold.projections.delta import Delta, SetString, SortedSet, Value, WriteHash
from crashfold.projections.games import Bands, Games
from crashfold.projections.plan import Plan, own_projections
from crashfold.projections.projection import Moment
from crashfold.projections.stored import decode_state, encode_state

SETTINGS: Final = ProjectionSettings(own=())
BANDS: Final = Bands(SETTINGS.predicates)


class Mean(msgspec.Struct, frozen=True):
    """Sums as they come."""

    sums: np.ndarray  # what some of the tests put here is none


class Loose(msgspec.Struct, frozen=True):
    """A state that does not say what it holds."""

    part: Any


class Own:
    """A projection of somebody's, whose parts a test replaces."""

    name: Any = "own"
    version: Any = 1
    aggregates: Any = ("floors",)

    def empty(self) -> Any:
        return Mean(np.zeros(1))

    def fold(self, state: Any, games: Games) -> Any:
        return Mean(state.sums + games.hundredths.sum() / 8)

    def keys(self, moment: Moment[Any]) -> Any:
        return {"floors:7": {"sum": repr(float(moment.state.sums[0])).encode()}}


def own(**parts: Any) -> Any:
    """An `Own` with other parts."""
    return type("Own", (Own,), parts)()


def gives(value: object) -> Any:
    return lambda _, moment: value


def test_one_that_keeps_the_rules_is_taken() -> None:
    check(own(), SETTINGS, BANDS)


FAULTS: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "a name of another kind": ({"name": 7}, "has the name 7"),
    "a name with a colon": ({"name": "my:own"}, "'my:own'"),
    "a version that is none": ({"version": "1"}, "projection own: its version is '1'"),
    "a version that is true": ({"version": True}, "projection own: its version is True"),
    "aggregates that are a text": ({"aggregates": "floors"}, "projection own: its aggregates are 'floors'"),
    "no aggregates": ({"aggregates": ()}, r"projection own: its aggregates are \(\)"),
    "an aggregate with a colon": ({"aggregates": ("my:floors",)}, "projection own: the aggregate 'my:floors'"),
    "an aggregate of Crashfold's": ({"aggregates": ("checkpoint",)}, "'checkpoint' is the name of a key"),
    "no fold": ({"fold": None}, "projection own: it has no method `fold`"),
    "an integer as a field's name": ({"keys": gives({"floors": {7: b"1"}})}, "key 'floors' has the field 7, a int"),
    "a text as a value": ({"keys": gives({"floors:7": "1"})}, "projection own: the key 'floors:7' is a str"),
    "a text in a hash": ({"keys": gives({"floors": {"a": "1"}})}, "the field 'a' of key 'floors' is a str"),
    "a number in a list": ({"keys": gives({"floors": [b"1", 2]})}, "element 1 of key 'floors' is a int"),
    "a set": ({"keys": gives({"floors": {b"1"}})}, "the key 'floors' is a set"),
    "a tuple": ({"keys": gives({"floors": (b"1",)})}, "the key 'floors' is a tuple"),
    "a score that is none": ({"keys": gives({"floors": SortedSet({1.5: b"1"})})}, "the score 1.5"),  # type: ignore[dict-item]
    "a score beyond doubles": ({"keys": gives({"floors": SortedSet({2**60: b"1"})})}, "the score 1152921504606846976"),
    "a key that is empty": ({"keys": gives({"floors": {}})}, "the key 'floors' is empty"),
    "a key that is not announced": ({"keys": gives({"roofs": b"1"})}, "does not announce the key 'roofs'"),
    "a key that is no text": ({"keys": gives({b"floors": b"1"})}, "the key b'floors' is a bytes"),
    "keys that are none": ({"keys": gives([b"1"])}, "`keys` gives a list"),
    "a numpy number in a state": (
        {"empty": lambda _: np.int64(0), "fold": lambda _, state, games: state},
        "a numpy int64: make it a plain value",
    ),
    "a set of numpy numbers": (
        {"empty": lambda _: {0}, "fold": lambda _, state, games: state | {games.hundredths[0]}},
        "projection own: its state cannot be stored: a numpy int64",
    ),
    "an array of narrow integers": ({"empty": lambda _: Mean(np.zeros(1, np.int32))}, "an array of int32"),
    "an array of texts": ({"fold": lambda *_: Mean(np.array(["a"]))}, "an array of <U1"),
    "an object": ({"empty": lambda _: [], "fold": lambda *_: [object()]}, "a object: a state holds"),
    "a field without a type": (
        {"empty": lambda _: Loose((0,)), "fold": lambda _, state, games: state},
        "its state is another one once it has been stored",
    ),
    "another type after a fold": ({"fold": lambda _, state, games: 1}, "`empty` gives a Mean, `fold` a int"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_one_that_breaks_a_rule_is_refused_by_name_key_and_field(name: str) -> None:
    parts, said = FAULTS[name]
    wrong = own(**{"keys": gives({"floors": b"1"}), **parts})
    with pytest.raises(ProjectionFault, match=said):
        check(wrong, SETTINGS, BANDS)
    with pytest.raises(AssertionError, match=said):  # the engine's words, in a test of one's own
        given(game(1)).with_projection(wrong).keys()


def test_a_delta_that_brings_something_else_is_refused_with_every_commit() -> None:
    late = own(
        empty=lambda _: 0,
        fold=lambda _, state, games: state + len(games),
        keys=lambda _, moment: {"floors": b"1"} if moment.state < 100 else {"floors": "much"},
    )
    check(late, SETTINGS, BANDS)
    folded = Plan(SETTINGS, (late,), BANDS, own=(late,))
    before = StreamState.empty(folded).fold([game(n) for n in range(99)]).state
    after = before.fold([game(200)])
    with pytest.raises(ProjectionFault, match="projection own: the key 'floors' is a str"):
        after.state.delta(before, after.kept)
    with pytest.raises(ProjectionFault, match="projection own: the key 'floors' is a str"):
        [*after.state.create()]


def test_a_wrong_delta_is_refused() -> None:
    def delta(_: Any, before: Moment[Any], after: Moment[Any], kept: int) -> Delta:
        return {"floors:7": WriteHash({"sum": b"0"})}

    with pytest.raises(ProjectionFault, match="`delta` does not turn the keys"):
        check(own(delta=delta), SETTINGS, BANDS)
    with pytest.raises(ProjectionFault, match="the key 'floors:7' is a int"):
        check(own(delta=lambda *_: {"floors:7": SetString(1)}), SETTINGS, BANDS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "array",
    [np.array([1.5, -0.0, 1e300, np.nan]), np.array([[1, 2], [3, -4]]), np.zeros(0), np.zeros((0, 3), np.int64)],
)
def test_arrays_come_back_bit_by_bit(array: np.ndarray) -> None:
    (again,) = msgspec.structs.astuple(decode_state(encode_state(Held(array)), Held))
    assert (again.dtype, again.shape, again.tobytes()) == (array.dtype, array.shape, array.tobytes())


class Held(msgspec.Struct):
    """A state that is one array."""

    array: np.ndarray


def test_sums_of_floats_are_the_same_after_a_restart() -> None:
    games = [game(n, 1 + n / 100) for n in range(1, 200)]
    given(*games, settings=SETTINGS).with_projection(own()).keys()


# --- how they are found ----------------------------------------------------------------------------------------------


def make_own(settings: ProjectionSettings) -> Any:
    """A factory that takes the settings."""
    aggregate = f"floors{settings.window_games}"
    return own(name="made", aggregates=(aggregate,), keys=gives({aggregate: b"1"}))


def fails() -> Any:
    """A factory that does not do."""
    raise RuntimeError("no such thing")


def test_a_projection_is_named_by_module_and_object_and_may_take_the_settings() -> None:
    settings = ProjectionSettings(window_games=70, samples_games=(), own=(f"{__name__}:make_own", f"{__name__}:Own"))
    made = plan(settings)
    assert set(made.aggregates[-2:]) == {"floors", "floors70"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "no installed package has the projection nowhere"),
        (f"{__name__}:Nothing", "cannot be made: AttributeError"),
        ("no.such.module:Own", "cannot be made: ModuleNotFoundError"),
        (f"{__name__}:fails", "cannot be made: RuntimeError: no such thing"),
        (f"{__name__}:FAULTS", "cannot be made: TypeError"),
    ],
)
def test_one_that_cannot_be_found_or_made_is_told(name: str, said: str) -> None:
    with pytest.raises(ProjectionFault, match=said):
        own_projections(ProjectionSettings(own=(name,)))


def test_the_fingerprint_changes_with_what_is_folded_and_not_with_how_it_was_named() -> None:
    without, installed = plan(ProjectionSettings(own=())), plan(ProjectionSettings())
    assert without.fingerprint == installed.fingerprint
    assert plan(ProjectionSettings(own=(f"{__name__}:Own",))).fingerprint != without.fingerprint


def test_a_value_is_had_as_the_kind_that_it_is() -> None:
    model = StreamState.empty(plan(SETTINGS)).fold([game(1, 2.5), game(2, 11.0)]).state.keys()
    assert model.hash("occurrences:min:10")["count"] == b"1"
    with pytest.raises(TypeError, match="holds a dict, not a list"):
        model.list("occurrences:min:10")
    with pytest.raises(KeyError):
        model.string("nothing")
    value: Value = model["games"]
    assert isinstance(value, SortedSet)
    assert sorted(model.sorted_set("games")) == [1, 2]
