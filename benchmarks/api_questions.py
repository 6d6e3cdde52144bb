"""What the benchmarks ask of the read side: families of questions, each with its answer by plain loops.

Imports msgspec and the oracle of the tests. The questions of a family cost about the same and share no answer, so that
one commit makes all of them new.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta
from functools import partial
from typing import Any, Final

import msgspec

from benchmarks.api_client import request
from crashfold.projections.settings import ProjectionSettings
from tests.support.api_oracle import Oracle

ROOT: Final = "/api/analytics"
WINDOW: Final = 50_000
DECK: Final = 64
"""Questions of a family, at most."""
BIG_DECK: Final = 16

_KEPT: Final = ProjectionSettings()
_KEPT_MIN: Final = tuple(map(float, _KEPT.min))
_NAMES: Final = {"min": "min-crash-point", "max": "max-crash-point", "floor": "exact-floor"}


class Question(msgspec.Struct, frozen=True):
    """A request, and what its answer must say by plain loops."""

    path: str
    plain: Callable[[Oracle], Any]
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
    by_time = {"by_time": True, "hours": 168}
    hours_kept = [(f"{v}?hours={hours}", (v, hours)) for hours in (24, 23, 22) for v in _KEPT_MIN]
    return [
        _gets("series, 24 hours", series, lambda o, v: o.series_by_time(v, 24, "time"), _each(_KEPT_MIN)),
        _gets(
            "series, 168 hours",
            series + "?hours=168",
            lambda o, v: o.series_by_time(v, 168, "time"),
            _each(_others()),
            is_big=True,
        ),
        _gets(
            "occurrences, 24 hours",
            "occurrences/min-crash-point/{}?by_time=true&hours=24",
            lambda o, v: o.occurrences("min", v, 0, True, 24),
            _each(_KEPT_MIN),
        ),
        _posts(
            "occurrences, 168 hours, 100 values",
            f"occurrences/{many}/batch",
            lambda o, values: o.occurrences_batch("min", values, 0, True, 168, True),
            _many(100),
            by_time,
        ),
        _gets("intervals, kept threshold", one, lambda o, v, hours: o.intervals(v, 10, hours), hours_kept),
        _gets("intervals, other threshold", one, lambda o, v: o.intervals(v, 10, 24), _each(_others())),
        _gets(
            "intervals, 168 hours of 1 minute",
            one + "?hours=168&interval_minutes=1",
            lambda o, v: o.intervals(v, 1, 168),
            _each(_others()),
            is_big=True,
        ),
        _posts("intervals, 10 values", f"intervals/{many}", lambda o, vs: o.intervals_batch(vs, 10, 24), _many(10)),
        _posts(
            "intervals, 100 values",
            f"intervals/{many}",
            lambda o, values: o.intervals_batch(values, 10, 24),
            _many(100),
            is_big=True,
        ),
    ]


def _by_days(today: date) -> list[Family]:
    yesterday, week_ago = today - timedelta(days=1), today - timedelta(days=7)
    path = "intervals/min-crash-point/{}/date-range?start_date=%s&end_date=%s"
    week = {"start_date": str(week_ago), "end_date": str(yesterday)}
    return [
        _gets(
            "date range, 1 day",
            path % (yesterday, yesterday),
            lambda o, v: o.date_range(v, yesterday, yesterday, 10),
            _each(_KEPT_MIN),
        ),
        _gets(
            "date range, 7 days",
            path % (week_ago, yesterday),
            lambda o, v: o.date_range(v, week_ago, yesterday, 10),
            _each(_KEPT_MIN),
        ),
        _posts(
            "date range, 7 days, 10 values",
            "intervals/min-crash-points/date-range",
            lambda o, values: o.date_range_batch(values, week_ago, yesterday, 10),
            _many(10),
            week,
            is_big=True,
        ),
    ]


def _by_games() -> list[Family]:
    series, batch = "series/without-min-crash-point/{}", "occurrences/min-crash-points/batch"
    sets, many_sets = "intervals/min-crash-point/{}/game-sets", "intervals/min-crash-points/game-sets"
    kept = [(f"{_NAMES[kind]}/{v}?games={n}", (kind, v, n)) for n in (100, 500) for kind, v in _kept()]
    compared, not_compared = {"games": 5000}, {"games": 500, "comparison": False}
    return [
        _gets(
            "occurrences, kept threshold",
            "occurrences/{}",
            lambda o, kind, v, games: o.occurrences(kind, v, games, False, 0),
            kept,
        ),
        _gets(
            "occurrences, other threshold",
            "occurrences/min-crash-point/{}?games=5000",
            lambda o, v: o.occurrences("min", v, 5000, False, 0),
            _each(_others()),
        ),
        _posts(
            "occurrences, 25 kept thresholds",
            batch,
            lambda o, values: o.occurrences_batch("min", values, 500, False, 0, False),
            _turned(),
            not_compared,
        ),
        _posts(
            "occurrences, 100 values, compared",
            batch,
            lambda o, values: o.occurrences_batch("min", values, 5000, False, 0, True),
            _many(100),
            compared,
        ),
        _gets("series, 1,000 games", series, lambda o, v: o.series(v, 1000, "time"), _each(_KEPT_MIN)),
        _gets(
            "series, 50,000 games",
            f"{series}?limit={WINDOW}",
            lambda o, v: o.series(v, WINDOW, "time"),
            _each(_others()),
            is_big=True,
        ),
        _gets("game sets, 1,000 games", sets, lambda o, v: o.game_sets(v, 10, 1000), _each(_KEPT_MIN)),
        _gets(
            "game sets, 50,000 games",
            f"{sets}?total_games={WINDOW}",
            lambda o, v: o.game_sets(v, 10, WINDOW),
            _each(_others()),
            is_big=True,
        ),
        _posts("game sets, 10 values", many_sets, lambda o, values: o.game_sets_batch(values, 10, 1000), _many(10)),
        _posts(
            "game sets, 100 values",
            many_sets,
            lambda o, values: o.game_sets_batch(values, 10, 1000),
            _many(100),
            is_big=True,
        ),
    ]


def _last_games() -> list[Family]:
    one, many, batch = "last-game/{}", "last-games/{}", "last-games/min-crash-points"
    kept = [(f"{_NAMES[kind]}/{v}", (kind, v)) for kind, v in _kept()]
    other: list[Asked] = [(f"min-crash-point/{v}", ("min", v)) for v in _others()]

    def limited(limit: int, asked: Sequence[Asked]) -> list[Asked]:
        return [(f"{path}?limit={limit}", (*args, limit)) for path, args in asked]

    return [
        _gets("last game, kept threshold", one, Oracle.last_game, kept),
        _gets("last game, other threshold", one, Oracle.last_game, other),
        _posts("last game, 25 kept thresholds", batch, lambda o, vs: o.last_game_batch("min", vs), _turned()),
        _posts("last game, 100 values", batch, lambda o, values: o.last_game_batch("min", values), _many(100)),
        _gets("last games, 10 of kept threshold", many, Oracle.last_games, limited(10, kept)),
        _gets("last games, 100 of kept threshold", many, Oracle.last_games, limited(100, kept)),
        _gets("last games, 10 of other threshold", many, Oracle.last_games, limited(10, other)),
        _gets("last games, 50,000 of other threshold", many, Oracle.last_games, limited(WINDOW, other), is_big=True),
    ]


def _pages() -> list[Family]:
    def page(number: int, size: int, oracle: Oracle) -> Any:
        return oracle.page(number, size)["data"]

    def pages(count: int, size: int) -> tuple[Question, ...]:
        numbers = range(1, count + 1)
        return tuple(Question(f"/api/games?page={n}&per_page={size}", partial(page, n, size)) for n in numbers)

    return [Family("games, 10 a page", pages(DECK, 10)), Family("games, 100 a page", pages(DECK, 100))]


Asked = tuple[object, tuple[Any, ...]]
"""The part of a path that differs, and the arguments of the function that answers by plain loops."""


def _gets(name: str, path: str, ask: Callable[..., Any], asked: Sequence[Asked], *, is_big: bool = False) -> Family:
    """Questions by GET; `ask` answers each from an oracle and the arguments."""

    def plain(args: tuple[Any, ...], oracle: Oracle) -> Any:
        return ask(oracle, *args)

    questions = [Question(f"{ROOT}/{path.format(part)}", partial(plain, args)) for part, args in asked]
    return Family(name, tuple(questions[: BIG_DECK if is_big else DECK]), is_big)


def _posts(
    name: str,
    path: str,
    ask: Callable[[Oracle, Sequence[float]], Any],
    asked: Iterable[Sequence[float]],
    members: dict[str, Any] | None = None,
    *,
    is_big: bool = False,
) -> Family:
    """Questions by POST, with these values and members in their bodies."""

    def plain(values: Sequence[float], oracle: Oracle) -> Any:
        return ask(oracle, values)

    questions = [
        Question(f"{ROOT}/{path}", partial(plain, values), msgspec.json.encode({"values": values, **(members or {})}))
        for values in asked
    ]
    return Family(name, tuple(questions), is_big)


def _each(values: Iterable[float]) -> list[Asked]:
    return [(value, (value,)) for value in values]


def _kept() -> list[tuple[str, float]]:
    """Predicates that the engine keeps, as kind and value. Every one of them has matched often within the games."""
    kinds: dict[str, Iterable[float]] = {
        "min": [v for v in _KEPT_MIN if v <= 100],
        "max": map(float, _KEPT.max),
        "floor": _KEPT.floor,
    }
    return [(kind, value) for kind, values in kinds.items() for value in values]


def _others() -> list[float]:
    """Thresholds that nothing is kept of."""
    return [round(1.91 + number / 50, 2) for number in range(DECK)]


def _turned() -> list[list[float]]:
    """All thresholds that are kept, in several orders."""
    return [[*_KEPT_MIN[turn:], *_KEPT_MIN[:turn]] for turn in range(BIG_DECK)]


def _many(count: int) -> list[list[float]]:
    """So many thresholds, in several ways."""
    return [[round(1.03 + number / 10 + start / 100, 2) for number in range(count)] for start in range(BIG_DECK)]
