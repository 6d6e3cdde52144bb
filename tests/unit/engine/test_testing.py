"""`crashfold.engine.testing`: what is right passes, and each law that is broken is named."""

import subprocess
import sys
from dataclasses import dataclass

import msgspec
import pytest

from crashfold.engine.testing import game, given
from crashfold.projections import ProjectionSettings
from crashfold.projections.delta import Delta, SetString, SortedSet, Value
from crashfold.projections.games import Games
from crashfold.projections.projection import Moment
from crashfold.schemas.game import encode

GAMES = [game(i, crash_point) for i, crash_point in enumerate((2.0, 1.0, 11.5, 1.01, 3.0, 40.0, 1.5, 2.0, 9.0), 1)]


class Sum(msgspec.Struct):
    """A state that can be changed in place."""

    hundredths: int = 0
    batches: int = 0


class Sums:
    """The key `sum`: all crash points added up, in hundredths. Right as it stands; the others each break one law."""

    name = "sum"
    version = 1
    aggregates: tuple[str, ...] = ("sum",)

    def empty(self) -> Sum:
        return Sum()

    def fold(self, state: Sum, games: Games) -> Sum:
        return Sum(state.hundredths + int(games.hundredths.sum()), state.batches + 1)

    def keys(self, moment: Moment[Sum]) -> dict[str, Value]:
        return {"sum": b"%d" % moment.state.hundredths}


class ChangesItsStateInPlace(Sums):
    def fold(self, state: Sum, games: Games) -> Sum:
        state.hundredths += int(games.hundredths.sum())
        return state


class CountsBatches(Sums):
    def keys(self, moment: Moment[Sum]) -> dict[str, Value]:
        return {"sum": b"%d" % moment.state.batches}


class RemembersOutsideItsState(Sums):
    def __init__(self) -> None:
        self.total = 0

    def fold(self, state: Sum, games: Games) -> Sum:
        self.total += int(games.hundredths.sum())
        return state

    def keys(self, moment: Moment[Sum]) -> dict[str, Value]:
        return {"sum": b"%d" % self.total}


class TakesTheBatchForTheStream(Sums):
    def fold(self, state: Sum, games: Games) -> Sum:
        return Sum(int(games.hundredths.sum()))


class Forgetful(msgspec.Struct):
    """A state with a part that is not stored."""

    stored: int = 0

    def __post_init__(self) -> None:
        self.stored = min(self.stored, 500)


class LosesItsStateInARestart:
    name = "sum"
    version = 1
    aggregates = ("sum",)

    def empty(self) -> Forgetful:
        return Forgetful()

    def fold(self, state: Forgetful, games: Games) -> Forgetful:
        after = Forgetful()
        after.stored = state.stored + int(games.hundredths.sum())
        return after

    def keys(self, moment: Moment[Forgetful]) -> dict[str, Value]:
        return {"sum": b"%d" % moment.state.stored}


class HasAWrongDelta(Sums):
    def delta(self, before: Moment[Sum], after: Moment[Sum], kept: int) -> Delta:
        return {"sum": SetString(b"%d" % (after.state.hundredths - before.state.hundredths))}


class TrustsThatNothingComesLate(Sums):
    def delta(self, before: Moment[Sum], after: Moment[Sum], kept: int) -> Delta:
        """Right only as long as the newest game is the one that changed something."""
        if after.totals.newest_id == before.totals.newest_id:
            return {}
        return {"sum": SetString(b"%d" % after.state.hundredths)}


@pytest.mark.parametrize(
    ("projection", "complaint"),
    [
        (ChangesItsStateInPlace(), "is a state changed in place"),
        (CountsBatches(), "how games are cut into batches"),
        (RemembersOutsideItsState(), "kept elsewhere"),
        (TakesTheBatchForTheStream(), "how games are cut into batches"),
        (LosesItsStateInARestart(), "another one once it has been stored"),
        (HasAWrongDelta(), "`delta` does not turn"),
        (TrustsThatNothingComesLate(), "the deltas do not add up"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_a_projection_that_breaks_a_law_is_told_which(projection: Sums, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        given(*GAMES).with_projection(projection).expect("sum", sum(game.hundredths for game in GAMES))


def test_a_projection_that_keeps_the_laws_is_only_asked_for_its_value() -> None:
    given(*GAMES).with_projection(Sums()).expect("sum", sum(game.hundredths for game in GAMES))


@dataclass
class Holds:
    """A projection with one key that always holds the same."""

    value: object
    key: str = "fixed"
    name = "fixed"
    version = 1
    aggregates = ("fixed", "other")

    def empty(self) -> int:
        return 0

    def fold(self, state: int, games: Games) -> int:
        return state + len(games)

    def keys(self, moment: Moment[int]) -> dict[str, Value]:
        return {self.key: self.value} if moment.state else {}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (b"17", 17),
        (b"17", b"17"),
        (b"1.5", 1.5),
        (b"hello", "hello"),
        (b'{"a":[1,2],"b":null}', {"a": [1, 2], "b": None}),
        (encode(game(1)), game(1)),
        ({"count": b"3", "game": encode(game(1))}, {"count": 3, "game": game(1)}),
        ([b"2", encode(game(1))], [2, game(1)]),
        ([b"2", b"1"], (2, 1)),
        (SortedSet({1: b"10", 2: b"20"}), {1: 10, 2: 20}),
    ],
)
def test_values_are_compared_as_python_objects(stored: object, expected: object) -> None:
    given(game(1)).with_projection(Holds(stored)).expect("fixed", expected)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (b"17", 18),
        (b"17", b"17.0"),
        (b"17", "17"),
        ({"count": b"3"}, {"count": 4}),
        ({"count": b"3"}, {}),
        ({"count": b"3"}, {"count": 3, "total": 4}),
        ({"count": b"3"}, 3),
        ([b"2", b"1"], [1, 2]),
        ([b"2", b"1"], [2]),
        (SortedSet({1: b"10"}), {2: 10}),
    ],
)
def test_another_value_is_an_assertion_that_shows_both(stored: object, expected: object) -> None:
    with pytest.raises(AssertionError, match=r"(?s)'fixed' is not as expected.*expected: .*stored: "):
        given(game(1)).with_projection(Holds(stored)).expect("fixed", expected)


@pytest.mark.parametrize(
    ("projection", "complaint"),
    [
        (Holds(17), "is a int: encode it"),
        (Holds("text"), "is a str"),
        (Holds({"count": 3}), "is a int: encode it"),
        (Holds([b"1", "2"]), "is a str: encode it"),
        (Holds({}), "is empty: leave it out"),
        (Holds([]), "is empty: leave it out"),
        (Holds(SortedSet({})), "is empty: leave it out"),
        (Holds(b"1", key="elsewhere"), "does not announce the key 'elsewhere'"),
    ],
)
def test_a_value_that_redis_cannot_hold_is_refused(projection: Holds, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        given(game(1)).with_projection(projection).expect("fixed", 17)


def test_keys_of_an_announced_family_may_have_any_ending() -> None:
    given(game(1)).with_projection(Holds(b"1", key="other:min:2")).expect("other:min:2", 1)


def test_a_key_that_is_missing_is_an_assertion_that_lists_those_there_are() -> None:
    with pytest.raises(AssertionError, match="there is no key 'sun'; the keys are: sum"):
        given(*GAMES).with_projection(Sums()).expect("sun", 1)


def test_a_key_can_be_expected_to_be_missing() -> None:
    given().with_projection(Holds(b"1")).expect_none("fixed")
    with pytest.raises(AssertionError, match="should not be there"):
        given(game(1)).with_projection(Holds(b"1")).expect_none("fixed")


def test_without_a_projection_the_built_in_ones_are_looked_at() -> None:
    settings = ProjectionSettings(min=(2,), max=(), floor=(), samples_games=(2,), samples_hours=(1,), window_games=5)
    stream = given(game(1, 2.0), game(4, 1.5), game(3, 3.0), game(3, 3.0), settings=settings)
    stream.expect("gaps", {"2": 2}).expect("last_games:min:2", [game(3, 3.0), game(1, 2.0)])
    assert stream.keys()["occurrences:min:2"] == {
        "count": 2,
        "total_games": 3,
        "first_game_time": game(1).end_time,
        "last_game_time": game(4).end_time,
        "games:2": 1,
        "hours:1": 2,
    }


def test_games_end_twenty_seconds_apart_unless_told_otherwise() -> None:
    assert game(5).end_time - game(4).end_time == 20_000
    assert game(5, 1.5, end_time=7).end_time == 7
    assert (game(5).crash_point, game(5).hash) == (2.0, None)


def test_importing_it_brings_no_client_and_no_event_loop() -> None:
    code = "import sys, crashfold.engine.testing; print([name for name in sys.argv[1:] if name in sys.modules])"
    clients = ["redis", "aiokafka", "asyncio", "anyio", "litestar", "hypothesis", "pytest"]
    output = subprocess.run(
        [sys.executable, "-c", code, *clients], capture_output=True, text=True, check=True, timeout=60
    )
    assert output.stdout.strip() == "[]"
