"""What the API prints is what `datetime` prints, and its grids are what a clock on the wall shows, in every zone."""

import struct
from datetime import date, timedelta
from importlib.resources import files
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashfold.engine.read.times import Zones
from crashfold.schemas.game import TIME_MAX_MS, TIME_MIN_MS
from tests.property.test_api_answers import CLOCK_CHANGES, DIVISORS
from tests.support.api_oracle import EPOCH, Oracle

ZONES = Zones()
names = st.sampled_from(sorted(ZONES.names))

around = st.one_of(
    st.integers(TIME_MIN_MS, TIME_MAX_MS),
    st.integers(0, 2_000_000_000_000),
    st.sampled_from([TIME_MIN_MS, TIME_MAX_MS, 0, -1, 999, 1000]),
)


def plainly(time_ms: int, zone: str) -> str:
    moment = EPOCH + timedelta(milliseconds=time_ms)
    try:
        return moment.astimezone(Oracle([], zone, 0, None).zone).isoformat()
    except OverflowError:
        return moment.isoformat()


@given(names, around, st.lists(st.integers(0, 4 * 86_400_000), min_size=1, max_size=60), st.sampled_from([1, 1000]))
def test_many_instants_are_printed_as_datetime_prints_each(
    name: str, near_ms: int, steps_ms: list[int], unit_ms: int
) -> None:
    away = 1 if near_ms < 0 else -1
    times = [near_ms // unit_ms * unit_ms + away * step // unit_ms * unit_ms for step in steps_ms]
    times = [max(time, TIME_MIN_MS) for time in times]
    zone = ZONES.get(name)
    assert zone is not None
    assert zone.isoformats(np.array(times, np.int64)) == [plainly(time, name) for time in times]


@given(names, st.dates(date(1973, 1, 1), date(2037, 12, 1)), st.integers(0, 2), st.sampled_from(DIVISORS))
def test_the_grid_of_any_zone_is_what_its_clock_shows(name: str, first: date, more_days: int, minutes: int) -> None:
    assert_grid(name, first, first + timedelta(days=more_days), minutes)


@pytest.mark.parametrize("minutes", [1, 15, 45, 60, 90, 180, 720, 1440])
@pytest.mark.parametrize(("name", "day"), CLOCK_CHANGES)
def test_the_grid_holds_where_clocks_change(name: str, day: date, minutes: int) -> None:
    assert_grid(name, day - timedelta(days=2), day + timedelta(days=2), minutes)
    assert_grid(name, day, day, minutes)


def assert_grid(name: str, first: date, last: date, minutes: int) -> None:
    zone = ZONES.get(name)
    assert zone is not None
    plain = Oracle([], name, 0, None).zone_grid(first, last, minutes)
    assert zone.lines_s(first, last, minutes) == [line * 60 for line in plain]


def test_a_day_whose_midnight_does_not_exist_begins_an_hour_later() -> None:
    zone = ZONES.get("America/Sao_Paulo")
    assert zone is not None
    first = zone.first_instant_s(date(2018, 11, 4))
    assert zone.isoformat(first * 1_000_000) == "2018-11-04T01:00:00-02:00"
    lines = [zone.isoformat(line * 1_000_000) for line in zone.lines_s(date(2018, 11, 4), date(2018, 11, 4), 720)]
    assert lines == ["2018-11-04T01:00:00-02:00", "2018-11-04T12:00:00-02:00", "2018-11-05T00:00:00-02:00"]


def test_an_hour_that_comes_twice_is_two_buckets() -> None:
    zone = ZONES.get("Europe/Vienna")
    assert zone is not None
    lines = [zone.isoformat(line * 1_000_000) for line in zone.lines_s(date(2026, 10, 25), date(2026, 10, 25), 60)]
    assert len(lines) == 26
    assert lines[2:5] == ["2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"]


def test_a_day_that_was_left_out_is_empty() -> None:
    zone = ZONES.get("Pacific/Apia")
    assert zone is not None
    assert len(zone.lines_s(date(2011, 12, 30), date(2011, 12, 30), 60)) == 1
    assert zone.isoformat(zone.first_instant_s(date(2011, 12, 30)) * 1_000_000) == "2011-12-31T00:00:00+14:00"


def test_no_zone_changes_its_offset_twice_within_two_days() -> None:
    """What looking at the clock once a day rests on, by the database itself."""
    closest = min(after - before for name in ZONES.names for before, after in pairwise(offset_changes_s(name)))
    assert closest > 2 * 86_400


def offset_changes_s(name: str) -> list[int]:
    """The instants at which the zone's file changes the offset (RFC 8536: the second block has 64-bit times)."""
    data = files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()
    size = 0
    for time_size in (4, 8):
        start = size
        utc, standard, leaps, times, types, letters = struct.unpack_from(">6l", data, start + 20)
        size = start + 44 + times * (time_size + 1) + types * 6 + letters + leaps * (time_size + 4) + standard + utc
    instants = struct.unpack_from(f">{times}q", data, start + 44)
    kinds = data[start + 44 + 8 * times : start + 44 + 9 * times]
    offsets = [struct.unpack_from(">l", data, start + 44 + 9 * times + 6 * kind)[0] for kind in kinds]
    return [instant for i, instant in enumerate(instants) if i == 0 or offsets[i] != offsets[i - 1]]
