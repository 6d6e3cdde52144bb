import decimal
from decimal import Decimal
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashfold.projections.settings import ProjectionSettings
from crashfold.schemas.predicate import Kind, Predicate


@pytest.mark.parametrize(
    ("kind", "value", "printed"),
    [
        ("min", 2, "min:2"),
        ("min", 2.0, "min:2"),
        ("min", 1.5, "min:1.5"),
        ("min", "2.50", "min:2.5"),
        ("min", "1.0", "min:1"),
        ("max", 1.01, "max:1.01"),
        ("max", 1, "max:1"),
        ("min", 1000, "min:1000"),
        ("min", 1e9, "min:1000000000"),
        ("min", "1e9", "min:1000000000"),
        ("min", "1E2", "min:100"),
        ("min", "250e-2", "min:2.5"),
        ("min", Decimal("1.10"), "min:1.1"),
        ("min", 0.1 + 1.2, "min:1.3"),
        ("min", 1.005, "min:1.005"),
        ("floor", 1, "floor:1"),
        ("floor", 10.0, "floor:10"),
        ("floor", "7.00", "floor:7"),
        ("min", "1." + "0" * 40 + "1", "min:1." + "0" * 40 + "1"),
        ("range", "2-5", "range:2-5"),
        ("range", "1.50-1e1", "range:1.5-10"),
        ("range", "200e-2-2.00", "range:2-2"),
    ],
)
def test_a_predicate_prints_its_value_as_the_shortest_decimal(
    kind: Kind, value: Decimal | float | str, printed: str
) -> None:
    predicate = Predicate.of(kind, value)
    assert str(predicate) == printed
    assert Predicate.parse(printed) == predicate
    assert hash(Predicate.parse(printed)) == hash(predicate)


def test_the_default_predicates_print_as_the_specification_lists_them() -> None:
    printed = [str(predicate) for predicate in ProjectionSettings().predicates]
    mins = "1.5 2 3 4 5 6 7 8 9 10 15 20 25 30 40 50 75 100 150 200 250 300 400 500 1000"
    maxes = "1 1.01 1.2 1.5 2 3 5 10"
    expected = [f"min:{value}" for value in mins.split()]
    expected += [f"max:{value}" for value in maxes.split()]
    expected += [f"floor:{value}" for value in range(1, 11)]
    assert printed == expected


@pytest.mark.parametrize(
    ("text", "matching", "others"),
    [
        ("min:2", (200, 201, 10**11), (100, 199)),
        ("min:1", (100, 101), ()),
        ("min:1.01", (101, 102), (100,)),
        ("max:1.01", (100, 101), (102, 10**11)),
        ("max:1", (100,), (101,)),
        ("max:2", (100, 199, 200), (201,)),
        ("floor:1", (100, 199), (200,)),
        ("floor:2", (200, 201, 299), (199, 300)),
        ("floor:1000000000", (10**11,), (10**11 - 1,)),
        ("min:1000000000", (10**11,), (10**11 - 1,)),
        # Between two hundredths: as the comparison of real numbers says.
        ("min:1.505", (151,), (150,)),
        ("max:1.505", (150,), (151,)),
        ("min:2.999", (300,), (299,)),
        ("max:2.999", (299,), (300,)),
        ("range:2-5", (200, 201, 499, 500), (100, 199, 501, 10**11)),
        ("range:2-2", (200,), (199, 201)),
        ("range:1.505-2.999", (151, 299), (150, 300)),
        ("range:1-1000000000", (100, 10**11), ()),
        ("min:1.0000000000000000000000000000000001", (101,), (100,)),
        ("max:1.9999999999999999999999999999999999", (199,), (200,)),
    ],
)
def test_bounds_are_inclusive_and_exact(text: str, matching: tuple[int, ...], others: tuple[int, ...]) -> None:
    predicate = Predicate.parse(text)
    assert [predicate.matches(hundredths) for hundredths in matching] == [True] * len(matching)
    assert [predicate.matches(hundredths) for hundredths in others] == [False] * len(others)


@given(
    st.sampled_from(get_args(Kind)),
    st.decimals(1, 1000, places=3),
    st.decimals("0.01", 1000, places=3),
    st.integers(100, 100_000),
)
def test_a_predicate_is_the_comparison_that_it_is_named_after(
    kind: Kind, value: Decimal, width: Decimal, hundredths: int
) -> None:
    if kind == "floor":
        value = value.to_integral_value(decimal.ROUND_FLOOR)
    crash_point = Decimal(hundredths) / 100
    expected = {
        "min": crash_point >= value,
        "max": crash_point <= value,
        "floor": int(crash_point) == value,
        "range": value <= crash_point <= value + width,
    }[kind]
    predicate = Predicate.of(kind, f"{value}-{value + width}" if kind == "range" else value)
    assert predicate.matches(hundredths) == expected
    assert Predicate.parse(str(predicate)) == predicate


def test_equality_does_not_see_what_has_been_computed() -> None:
    fresh, used = Predicate.parse("min:2"), Predicate.parse("min:2.0")
    assert used.matches(200)
    assert fresh == used
    assert hash(fresh) == hash(used)


def test_exactness_does_not_depend_on_the_decimal_context() -> None:
    with decimal.localcontext(prec=2):
        predicate = Predicate.parse("min:123.456")
        assert (str(predicate), predicate.low) == ("min:123.456", 12_346)


@pytest.mark.parametrize(
    "text",
    [
        *("", "min", "min:", ":2", "mid:2", "MIN:2", " min:2", "min: 2", "min:2 ", "min:2:3", "min=2"),
        *("min:nan", "min:inf", "min:Infinity", "min:-2", "min:0", "min:0.99", "min:1000000000.01", "min:1e10"),
        *("min:1_0", "min:+5", "min:０５", "min:.5", "min:5.", "min:05", "min:0x10", "min:two", "min:1e"),
        *("range:", "range:2", "range:2-", "range:-5", "range:5-2", "range:2-5-9", "range:2 - 5", "range:0.5-2"),
        *("range:1.001-1.009", "range:2-1e10", "range:2--5", "range:a-b"),
        *("floor:1.5", "floor:0", "floor:-1", "max:0.5", "min:1e999999999", "min:9" + "9" * 5_000),
    ],
)
def test_what_is_no_predicate_is_a_value_error_that_names_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"predicate|number|outside|crash point"):
        Predicate.parse(text)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.999, 1e9 + 1])
def test_a_float_that_is_no_threshold_is_a_value_error(value: float) -> None:
    with pytest.raises(ValueError, match="outside 1 to 1000000000"):
        Predicate.of("min", value)
