"""What the benchmarks ask of the read side: families of questions, each with its answer by plain loops.

Imports msgspec and the plain answers. The questions of a family cost about the same and share no answer, so that one
commit makes all of them new.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta
from operator import methodcaller
from typing import Any, Final

import msgspec

from benchmarks.api_client import request
from benchmarks.api_plain import Plain
from crashfold.projections.settings import ProjectionSettings

ROOT: Final = "/api/analytics"
WINDOW: Final = 50_000
DECK: Final = 64
"""Questions of a family, at most."""
BIG_DECK: Final = 16

_KEPT: Final = ProjectionSettings()
_NAMES: Final = {"min": "min-crash-point", "max": "max-crash-point", "floor": "exact-floor"}


class Question(msgspec.Struct, frozen=True):
    """A request, and what its answer must say by plain loops."""

    path: str
    plain: Callable[[Plain], Any]
    body: bytes | None = None

    @property
    def wire(self) -> bytes:
        """As it is sent."""
        return request(self.path, self.body)


class Family(msgspec.Struct, frozen=True):
    """Questions of one kind; `is_big` when an answer is so long that printing it takes most of the time."""

    name: str
    questions: tuple[Question, ...]
    is_big: bool = False


def families(today: date) -> list[Family]:
    """All of them. Those about hours come first: the more games a run has published, the longer their answers get."""
    return [*_by_hours(), *_by_days(today), *_by_games(), *_last_games(), *_pages()]


def _by_hours() -> list[Family]:
    series, one, many = "series/without-min-crash-point/{}/time", "intervals/min-crash-point/{}", "min-crash-points"
    hours_kept = [(f"{v}?hours={hours}", (v, 10, hours)) for hours in (24, 23, 22) for v in _KEPT.min]
    return [
        _gets("series, 24 hours", series, "series_by_time", _with(_KEPT.min, 24)),
        _gets("series, 168 hours", series + "?hours=168", "series_by_time", _with(_others(), 168), is_big=True),
        _gets(
            "occurrences, 24 hours",
            "occurrences/min-crash-point/{}?by_time=true&hours=24",
            "occurrences_by_time",
            _with(_KEPT.min, 24),
        ),
        _posts(
            "occurrences, 168 hours, 100 values",
            f"occurrences/{many}/batch",
            "occurrences_by_time_batch",
            _many(100),
            {"by_time": True, "hours": 168},
            168,
        ),
        _gets("intervals, kept threshold", one, "intervals", hours_kept),
        _gets("intervals, other threshold", one, "intervals", _with(_others(), 10, 24)),
        _gets(
            "intervals, 168 hours of 1 minute",
            one + "?hours=168&interval_minutes=1",
            "intervals",
            _with(_others(), 1, 168),
            is_big=True,
        ),
        _posts("intervals, 10 values", f"intervals/{many}", "intervals_batch", _many(10), {}, 10, 24),
        _posts("intervals, 100 values", f"intervals/{many}", "intervals_batch", _many(100), {}, 10, 24, is_big=True),
    ]


def _by_days(today: date) -> list[Family]:
    yesterday, week_ago = today - timedelta(days=1), today - timedelta(days=7)
    path = "intervals/min-crash-point/{}/date-range?start_date=%s&end_date=%s"
    week = {"start_date": str(week_ago), "end_date": str(yesterday)}
    return [
        _gets(
            "date range, 1 day",
            path % (yesterday, yesterday),
            "date_range",
            _with(_KEPT.min, yesterday, yesterday, 10),
        ),
        _gets(
            "date range, 7 days", path % (week_ago, yesterday), "date_range", _with(_KEPT.min, week_ago, yesterday, 10)
        ),
        _posts(
            "date range, 7 days, 10 values",
            "intervals/min-crash-points/date-range",
            "date_range_batch",
            _many(10),
            week,
            *(week_ago, yesterday, 10),
            is_big=True,
        ),
    ]


def _by_games() -> list[Family]:
    series, batch = "series/without-min-crash-point/{}", "occurrences/min-crash-points/batch"
    sets, many_sets = "intervals/min-crash-point/{}/game-sets", "intervals/min-crash-points/game-sets"
    kept = [(f"{_NAMES[kind]}/{v}?games={n}", (kind, v, n)) for n in (100, 500) for kind, v in _kept()]
    other = [(v, ("min", v, 5000)) for v in _others()]
    compared, not_compared = {"games": 5000}, {"games": 500, "comparison": False}
    return [
        _gets("occurrences, kept threshold", "occurrences/{}", "occurrences", kept),
        _gets("occurrences, other threshold", "occurrences/min-crash-point/{}?games=5000", "occurrences", other),
        _posts("occurrences, 25 kept thresholds", batch, "occurrences_batch", _turned(), not_compared, 500, False),
        _posts("occurrences, 100 values, compared", batch, "occurrences_batch", _many(100), compared, 5000, True),
        _gets("series, 1,000 games", series, "series", _with(_KEPT.min, 1000)),
        _gets("series, 50,000 games", f"{series}?limit={WINDOW}", "series", _with(_others(), WINDOW), is_big=True),
        _gets("game sets, 1,000 games", sets, "game_sets", _with(_KEPT.min, 10, 1000)),
        _gets(
            "game sets, 50,000 games",
            f"{sets}?total_games={WINDOW}",
            "game_sets",
            _with(_others(), 10, WINDOW),
            is_big=True,
        ),
        _posts("game sets, 10 values", many_sets, "game_sets_batch", _many(10), {}, 10, 1000),
        _posts("game sets, 100 values", many_sets, "game_sets_batch", _many(100), {}, 10, 1000, is_big=True),
    ]


def _last_games() -> list[Family]:
    one, many, batch = "last-game/{}", "last-games/{}", "last-games/min-crash-points"
    kept = [(f"{_NAMES[kind]}/{v}", (kind, v)) for kind, v in _kept()]
    other = [(f"min-crash-point/{v}", ("min", v)) for v in _others()]

    def limited(limit: int, asked: list[tuple[str, tuple[Any, ...]]]) -> list[tuple[str, tuple[Any, ...]]]:
        return [(f"{path}?limit={limit}", (*args, limit)) for path, args in asked]

    return [
        _gets("last game, kept threshold", one, "last_game", kept),
        _gets("last game, other threshold", one, "last_game", other),
        _posts("last game, 25 kept thresholds", batch, "last_game_batch", _turned(), {}),
        _posts("last game, 100 values", batch, "last_game_batch", _many(100), {}),
        _gets("last games, 10 of kept threshold", many, "last_games", limited(10, kept)),
        _gets("last games, 100 of kept threshold", many, "last_games", limited(100, kept)),
        _gets("last games, 10 of other threshold", many, "last_games", limited(10, other)),
        _gets("last games, 50,000 of other threshold", many, "last_games", limited(WINDOW, other), is_big=True),
    ]


def _pages() -> list[Family]:
    def pages(count: int, size: int) -> tuple[Question, ...]:
        numbers = range(1, count + 1)
        return tuple(Question(f"/api/games?page={n}&per_page={size}", methodcaller("page", n, size)) for n in numbers)

    return [Family("games, 10 a page", pages(DECK, 10)), Family("games, 100 a page", pages(DECK, 100))]


def _gets(
    name: str, path: str, method: str, asked: Iterable[tuple[object, tuple[Any, ...]]], *, is_big: bool = False
) -> Family:
    """Questions by GET: what stands in the path, and the arguments of the method of `Plain` that answers it."""
    questions = [Question(f"{ROOT}/{path.format(part)}", methodcaller(method, *args)) for part, args in asked]
    return Family(name, tuple(questions[: BIG_DECK if is_big else DECK]), is_big)


def _posts(
    name: str,
    path: str,
    method: str,
    asked: Iterable[Sequence[float]],
    members: dict[str, Any],
    *args: Any,
    is_big: bool = False,
) -> Family:
    """Questions by POST, with these values and members in their bodies."""
    questions = [
        Question(
            f"{ROOT}/{path}", methodcaller(method, values, *args), msgspec.json.encode({"values": values, **members})
        )
        for values in asked
    ]
    return Family(name, tuple(questions), is_big)


def _with(values: Iterable[float], *args: Any) -> list[tuple[float, tuple[Any, ...]]]:
    return [(value, (value, *args)) for value in values]


def _kept() -> list[tuple[str, float]]:
    """Predicates that the engine keeps, as kind and value. Every one of them has matched often within the games."""
    kinds: dict[str, Iterable[float]] = {
        "min": [v for v in _KEPT.min if v <= 100],
        "max": _KEPT.max,
        "floor": _KEPT.floor,
    }
    return [(kind, value) for kind, values in kinds.items() for value in values]


def _others() -> list[float]:
    """Thresholds that nothing is kept of."""
    return [round(1.91 + number / 50, 2) for number in range(DECK)]


def _turned() -> list[list[float]]:
    """All thresholds that are kept, in several orders."""
    return [[*_KEPT.min[turn:], *_KEPT.min[:turn]] for turn in range(BIG_DECK)]


def _many(count: int) -> list[list[float]]:
    """So many thresholds, in several ways."""
    return [[round(1.03 + number / 10 + start / 100, 2) for number in range(count)] for start in range(BIG_DECK)]
