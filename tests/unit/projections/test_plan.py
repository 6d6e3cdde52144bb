import msgspec
import pytest

from crashfold.projections import Plan, ProjectionSettings, StreamState, plan
from crashfold.projections.games import Bands
from crashfold.projections.gaps import Gaps
from crashfold.projections.series import SeriesProjection
from crashfold.schemas import keys
from crashfold.schemas.chain import chain_of_games
from tests.support.games import SMALL, game


class NewerGaps(Gaps):
    version = Gaps.version + 1


def planned(*projections: Gaps | SeriesProjection) -> Plan:
    return Plan(SMALL, projections, Bands(SMALL.predicates))


def test_the_fingerprint_is_the_same_for_the_same_settings_and_projections() -> None:
    assert plan(SMALL).fingerprint == plan(msgspec.structs.replace(SMALL)).fingerprint
    assert len(plan(SMALL).fingerprint) == 16


def test_the_keys_of_a_predicate_are_known_by_name() -> None:
    state = StreamState.empty(plan(SMALL)).fold(list(chain_of_games(seed=1, games=200))).state
    found = {name for name in [*state.keys()] if ":" in name}
    assert found == {name(predicate) for predicate in SMALL.predicates for name in keys.BY_PREDICATE}


@pytest.mark.parametrize(
    "change",
    [
        {"min": (1.5, 2)},
        {"max": (1, 2.5)},
        {"floor": ()},
        {"range": ("2-5",)},
        {"samples_games": (3,)},
        {"samples_hours": (1, 2, 3)},
        {"interval_minutes": 20},
        {"interval_hours": 3},
        {"window_games": 11},
        {"future_hours_max": 25},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_fingerprint_changes_with_every_setting(change: dict[str, object]) -> None:
    assert plan(msgspec.structs.replace(SMALL, **change)).fingerprint != plan(SMALL).fingerprint


def test_the_fingerprint_changes_with_the_projections_and_their_versions() -> None:
    series = SeriesProjection(SMALL)
    fingerprints = [
        planned(*projections).fingerprint for projections in ((Gaps(),), (NewerGaps(),), (series,), (Gaps(), series))
    ]
    assert len(set(fingerprints)) == 4


def test_the_fingerprint_does_not_depend_on_how_often_snapshots_are_taken() -> None:
    assert plan(SMALL, spacing=1).fingerprint == plan(SMALL).fingerprint


def test_the_fingerprint_does_not_tell_2_from_2_0() -> None:
    whole, decimal = ProjectionSettings(min=(2,)), ProjectionSettings(min=(2.0,))
    assert plan(whole).fingerprint == plan(decimal).fingerprint


def test_two_projections_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two projections have the name"):
        planned(Gaps(), NewerGaps())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"min": (2, 2.0)}, "min names a value twice"),
        ({"min": (0.5,)}, "min: min:0.5 is outside 1"),
        ({"max": (2e9,)}, "max: max:2000000000.0 is outside 1"),
        ({"floor": (0,)}, "floor: floor:0 is outside 1"),
        ({"window_games": 0}, "window_games is outside 1"),
        ({"window_games": 10**8}, "window_games is outside 1"),
        ({"samples_games": (0,)}, "samples_games has a size outside 1 to window_games"),
        ({"samples_games": (11,), "window_games": 10}, r"window_games \(10\)"),
        ({"samples_games": (5, 5)}, "samples_games names a size twice"),
        ({"samples_hours": (169,)}, "samples_hours has a size outside 1 to 168"),
        ({"samples_hours": (1, 1)}, "samples_hours names a size twice"),
        ({"interval_minutes": 7}, "interval_minutes is no divisor of 1440"),
        ({"interval_minutes": 0}, "interval_minutes is no divisor of 1440"),
        ({"future_hours_max": -1}, "future_hours_max is outside 0 to 1000000"),
        ({"interval_hours": 0}, "interval_hours is outside 1 to 168"),
        ({"interval_hours": 169}, "interval_hours is outside 1 to 168"),
    ],
)
def test_settings_out_of_bounds_are_refused_by_name(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        msgspec.convert(change, ProjectionSettings)


def test_the_streams_of_a_plan_begin_with_the_same_states_and_go_their_own_ways() -> None:
    shared = plan(SMALL)
    games = [[game(number, 1.0 + number * step) for number in range(1, 40)] for step in (1, 2, 3)]
    states = [StreamState.empty(shared).fold(some).state.settled() for some in games]
    alone = [StreamState.empty(plan(SMALL)).fold(some).state for some in games]
    assert [state.keys() for state in states] == [state.keys() for state in alone]
    assert StreamState.empty(shared).keys() == {}
    assert all(one is other for one, other in zip(shared.empty(), shared.empty(), strict=True))


def test_a_projection_of_ones_own_makes_a_state_for_each_stream() -> None:
    class Changing(Gaps):
        name, aggregates = "changing", ("changing",)

    own = Changing()
    made = Plan(SMALL, (Gaps(), own), Bands(SMALL.predicates), own=(own,))
    one, other = made.empty(), made.empty()
    assert one[0] is other[0]
    assert one[1] is not other[1]
