"""Times as the API reads and prints them: zones, isoformat, moments, and the grid of a zone's days.

Imports numpy and the standard library. Instants are epoch milliseconds in columns, microseconds (`_us`) for moments and
seconds (`_s`) on grids. What is printed is always exactly what `datetime.isoformat` prints.
"""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache, cached_property
from typing import Annotated, Final
from zoneinfo import ZoneInfo, available_timezones

import msgspec
import numpy as np
from numpy.typing import NDArray

from crashfold.projections.columns import Ints

Instant = Annotated[str, msgspec.Meta(description="ISO 8601 with offset, in the zone that was asked for")]
"""No `date-time` of JSON Schema: before zones were introduced, offsets have seconds."""

YEAR_MIN: Final = 2
YEAR_MAX: Final = 9998
"""Years that may be asked about: those around which every instant of an answer can be printed in every zone."""

DAY_S: Final = 86_400
MINUTE_S: Final = 60
HOUR_US: Final = 3_600_000_000

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()
_US: Final = timedelta(microseconds=1)
_FIRST_US: Final = (datetime(1, 1, 1, tzinfo=UTC) - _EPOCH) // _US
_LAST_US: Final = (datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC) - _EPOCH) // _US
_TWO_DAYS_S: Final = 2 * DAY_S
_FEW: Final = 32
"""Fewer instants than that are printed faster one by one. Printed at once, one question of occurrences takes 2.9 times
the CPU; printed one by one, a page of 100 games takes 2.1 times and a series of 1,000 games 4.7 times."""

_PAIRS: Final = np.array([[ord(digit) for digit in f"{number:02}"] for number in range(100)], np.uint8)
"""The characters of numbers with two digits."""

_FRACTIONS: Final = np.array([[*f".{number:03}000".encode()] for number in range(1000)], np.uint8)
"""The characters of each millisecond of a second."""

_MOMENT: Final = re.compile(
    r"(?:\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?|\d{8}T\d{4}(?:\d\d(?:[.,]\d+)?)?)"
    r"(?:Z|[+ -]\d\d(?::?\d\d)?)",
    re.ASCII,
)
"""The extended and the basic format. `datetime.fromisoformat` alone would take almost anything for the T."""


def parse_moment(text: str) -> int | None:
    """Epoch microseconds of an ISO 8601 date and time with offset or Z; None when `text` is none.

    A blank before the offset counts as the plus that it was before the query was decoded. Digits beyond the microsecond
    are cut off.
    """
    if _MOMENT.fullmatch(text) is None:
        return None
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        return None
    return (moment - _EPOCH) // _US


def is_askable(moment_us: int) -> bool:
    """Whether the moment lies in the years that may be asked about."""
    first, last = datetime(YEAR_MIN, 1, 1, tzinfo=UTC), datetime(YEAR_MAX + 1, 1, 1, tzinfo=UTC)
    return (first - _EPOCH) // _US <= moment_us < (last - _EPOCH) // _US


class Zone:
    """A time zone by its IANA name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._info = ZoneInfo(name)

    def isoformat(self, moment_us: int) -> str:
        """The moment in this zone; in UTC when its year here has other than four digits."""
        moment = _EPOCH + timedelta(microseconds=moment_us)
        try:
            return moment.astimezone(self._info).isoformat()
        except OverflowError:
            return moment.isoformat()

    def isoformats(self, times_ms: Ints) -> list[str]:
        """Many instants in this zone, in the same order."""
        if len(times_ms) < _FEW:
            return [self.isoformat(moment_us) for moment_us in (times_ms * 1000).tolist()]
        characters = self.characters(times_ms)
        return characters.astype(np.uint32).view(f"U{characters.shape[1]}").ravel().tolist()

    def characters(self, times_ms: Ints) -> NDArray[np.uint8]:
        """`isoformats` as characters, a row an instant, and NUL behind the shorter ones."""
        offsets_s = self._offsets_s(times_ms)
        local_ms = times_ms + offsets_s * 1000
        if len(local_ms) and local_ms.min() * 1000 >= _FIRST_US and local_ms.max() * 1000 <= _LAST_US:
            return _printed(local_ms, offsets_s)
        printed = np.array([self.isoformat(moment_us).encode() for moment_us in (times_ms * 1000).tolist()], np.bytes_)
        return printed.view(np.uint8).reshape(len(printed), -1)

    def first_instant_s(self, day: date) -> int:
        """The first instant that the calendar here shows that day, or a later one where that day was left out."""
        return self._first_instant_s(day.toordinal() - _EPOCH_ORDINAL)

    def lines_s(self, first: date, last: date, interval_minutes: int) -> list[int]:
        """The grid from the first instant of `first` to that of the day after `last`, both included; ascending.

        A line is an instant whose wall clock shows a multiple of the interval (a divisor of a day) past midnight, or
        the first instant of a day. Where clocks are put back, a wall time that comes twice is two lines.
        """
        first_day, last_day = (day.toordinal() - _EPOCH_ORDINAL for day in (first, last))
        lines = {self._first_instant_s(day) for day in range(first_day, last_day + 2)}
        step_s = interval_minutes * MINUTE_S
        for begin, end, offset in self._spans(min(lines), max(lines)):
            lines.update(range(-(-(begin + offset) // step_s) * step_s - offset, end, step_s))
        return sorted(lines)

    def _first_instant_s(self, day: int) -> int:
        midnight = day * DAY_S
        for begin, end, offset in self._spans(midnight - _TWO_DAYS_S, midnight + _TWO_DAYS_S):
            instant = max(begin, midnight - offset)
            if instant < end:
                return instant
        raise AssertionError("no zone is two days away from UTC")

    def _spans(self, begin_s: int, end_s: int) -> Iterator[tuple[int, int, int]]:
        """The time from `begin_s` to `end_s` (exclusive) as spans of one offset: begin, end, offset in seconds.

        Looks once a day: no zone has ever changed its offset twice within one.
        """
        span, offset = begin_s, self._offset_s(begin_s)
        for day in range(begin_s, end_s, DAY_S):
            day_end = min(day + DAY_S, end_s)
            if self._offset_s(day_end) == offset:
                continue
            low, change = day, day_end
            while low < change:
                middle = (low + change) // 2
                if self._offset_s(middle) == offset:
                    low = middle + 1
                else:
                    change = middle
            if change < end_s:
                yield span, change, offset
                span, offset = change, self._offset_s(change)
        yield span, end_s, offset

    def _offset_s(self, instant_s: int) -> int:
        """Seconds ahead of UTC. Days around the first and the last one that can be printed go by their neighbours."""
        inside = min(max(instant_s, _FIRST_US // 1_000_000 + _TWO_DAYS_S), _LAST_US // 1_000_000 - _TWO_DAYS_S)
        offset = datetime.fromtimestamp(inside, self._info).utcoffset()
        assert offset is not None
        return offset.days * DAY_S + offset.seconds

    def _offsets_s(self, times_ms: Ints) -> Ints:
        """The offset of each moment, looked up once for all moments of one UTC day."""
        if self.name == "UTC":
            return np.zeros(len(times_ms), np.int64)
        seconds = times_ms // 1000
        days = seconds // DAY_S
        changes = np.flatnonzero(days[1:] != days[:-1]) + 1
        begins, ends = [0, *changes.tolist()], [*changes.tolist(), len(days)]
        offsets = np.empty(len(days), np.int64)
        known: dict[int, int | None] = {}
        for begin, end in zip(begins, ends, strict=True):
            day = int(days[begin])
            if day not in known:
                offset = self._offset_s(day * DAY_S)
                known[day] = offset if offset == self._offset_s((day + 1) * DAY_S) else None
            offset_of_day = known[day]
            if offset_of_day is None:
                offsets[begin:end] = [self._offset_s(second) for second in seconds[begin:end].tolist()]
            else:
                offsets[begin:end] = offset_of_day
        return offsets


class Zones:
    """The zones that may be asked for, by exact IANA name. Make one and keep it: the first look-up reads the disk."""

    def __init__(self) -> None:
        self.utc = Zone("UTC")
        self._used: dict[str, Zone] = {"UTC": self.utc}

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name. `localtime` is none: it is a machine's own setting among the files of its database."""
        return frozenset(available_timezones() - {"localtime"})

    def get(self, name: str) -> Zone | None:
        """The zone of that name; None when there is none."""
        known = self._used.get(name)
        if known is None and name in self.names:
            known = self._used[name] = Zone(name)
        return known


def _printed(local_ms: Ints, offsets_s: Ints) -> NDArray[np.uint8]:
    """Print wall times and their offsets as `isoformat` does."""
    seconds, fractions = np.divmod(local_ms, 1000)
    days, of_day = np.divmod(seconds, DAY_S)
    offsets = [int(offsets_s[0])] if (offsets_s == offsets_s[0]).all() else np.unique(offsets_s).tolist()
    suffixes = {offset: [ord(character) for character in _suffix(offset)] for offset in offsets}
    characters = np.zeros((len(local_ms), 26 + max(map(len, suffixes.values()))), np.uint8)
    characters[:, :10] = _dates(days)
    characters[:, 10] = ord("T")
    characters[:, 11:19] = _clock()[of_day]
    characters[:, 19:26] = _FRACTIONS[fractions]
    whole = fractions == 0
    any_whole = bool(whole.any())
    for offset, codes in suffixes.items():
        here = offsets_s == offset
        characters[slice(None) if len(suffixes) == 1 else here, 26 : 26 + len(codes)] = codes
        if any_whole:
            here &= whole
            characters[here, 19:] = 0
            characters[here, 19 : 19 + len(codes)] = codes
    return characters


@cache
def _clock() -> NDArray[np.uint8]:
    """The wall clock at each second of a day, eight characters."""
    seconds = np.arange(DAY_S)
    clock = np.full((DAY_S, 8), ord(":"), np.uint8)
    for place, number in ((0, seconds // 3600), (3, seconds // 60 % 60), (6, seconds % 60)):
        clock[:, place : place + 2] = _PAIRS[number]
    return clock


def _dates(days: Ints) -> NDArray[np.uint8]:
    """The dates of those days since 1970, ten characters each."""
    first = int(days.min())
    span = int(days.max()) - first + 1
    printed = np.arange(first, first + span) if span <= len(days) else days  # print each day once, if that is less
    codes = (
        np.datetime_as_string(printed.view("M8[D]")).view(np.uint32).reshape(len(printed), -1)[:, :10].astype(np.uint8)
    )
    return codes[days - first] if span <= len(days) else codes


def _suffix(offset_s: int) -> str:
    """The offset as isoformat prints it; seconds only where there are some, as in local mean times."""
    sign, rest = ("-", -offset_s) if offset_s < 0 else ("+", offset_s)
    text = f"{sign}{rest // 3600:02}:{rest // 60 % 60:02}"
    return f"{text}:{rest % 60:02}" if rest % 60 else text
