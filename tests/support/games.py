"""What all tests share: games, arrivals, small settings, and every family of values that are no game.

Strategies are for hypothesis; the tables are plain data. Everything is small on purpose: windows of a few games, hours
that pass within a few rounds, so that every edge of an aggregate is crossed again and again.
"""

import gzip
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final, Literal, NamedTuple

import msgspec
from hypothesis import strategies as st

from crashfold.engine.testing import START_MS, game
from crashfold.projections.settings import ProjectionSettings
from crashfold.schemas.game import (
    GAME_ID_MAX,
    HUNDREDTHS_MAX,
    HUNDREDTHS_MIN,
    TIME_MAX_MS,
    TIME_MIN_MS,
    VALUE_BYTES_MAX,
    Game,
)

__all__ = [
    "DATA",
    "GARBAGE",
    "SMALL",
    "START_MS",
    "Garbage",
    "any_game",
    "arrivals",
    "batches",
    "game",
    "games_at",
    "hashes",
    "json_game",
    "late_arrivals",
    "nested",
    "ordered_games",
    "random_arrivals",
    "sample_games",
    "small_settings",
]

DATA: Final = Path(__file__).parents[1] / "data"

# --- games -----------------------------------------------------------------------------------------------------------

CRASH_POINTS: Final = (1.0, 1.01, 1.2, 1.49, 1.5, 1.51, 1.99, 2.0, 2.01, 2.99, 3.0, 3.7, 9.99, 10.0, 11.0, 100.0)
"""On, just below and just above the thresholds of the small settings."""


def games_at(*crash_points: float, first_id: int = 1) -> list[Game]:
    """Games in order with these crash points, ids without holes, 20 seconds apart."""
    return [game(first_id + i, crash_point) for i, crash_point in enumerate(crash_points)]


@cache
def sample_games() -> tuple[Game, ...]:
    """The 20,000 games of the sample data, oldest first."""
    with gzip.open(DATA / "games.jsonl.gz") as lines:
        return tuple(msgspec.json.decode(line, type=Game) for line in lines)


def hashes() -> st.SearchStrategy[str]:
    """64 lower-case hex digits."""
    return st.binary(min_size=32, max_size=32).map(bytes.hex)


def any_game() -> st.SearchStrategy[Game]:
    """Any game at all, up to the bounds of every field."""
    times = st.none() | st.integers(TIME_MIN_MS, TIME_MAX_MS)
    return st.builds(
        Game,
        game_id=st.integers(1, GAME_ID_MAX),
        hash=st.none() | hashes(),
        crash_point=st.integers(HUNDREDTHS_MIN, HUNDREDTHS_MAX).map(lambda hundredths: hundredths / 100),
        prepare_time=times,
        begin_time=times,
        end_time=st.integers(1, TIME_MAX_MS),
    )


# --- arrivals --------------------------------------------------------------------------------------------------------

HOUR_MS: Final = 3_600_000
_STEPS_MS: Final = st.integers(-200_000, 900_000) | st.sampled_from(
    # Equal times, whole buckets and samples to the millisecond and one off, and clocks that jump.
    (0, 1, -1, 600_000, HOUR_MS - 1, HOUR_MS, HOUR_MS + 1, -HOUR_MS, 3 * HOUR_MS, 50 * HOUR_MS, -50 * HOUR_MS)
)
_KINDS: Final = ("next", "next", "next", "next", "skip", "late", "again", "other")


def ordered_games(games_max: int = 60) -> st.SearchStrategy[list[Game]]:
    """Games in order of id, with holes, their end times in some disorder."""
    return _moves(("next", "next", "next", "skip"), games_max).map(_played)


def arrivals(games_max: int = 120) -> st.SearchStrategy[list[Game]]:
    """Games as a topic may bring them: holes in the ids, duplicates, conflicts, late ones near and far, and end times
    in disorder. What becomes of each depends on the size of the window."""
    return _moves(_KINDS, games_max).map(_played)


def late_arrivals(games_max: int = 80) -> st.SearchStrategy[list[Game]]:
    """Games of which many arrive some games late, so that holes open and are filled and runs are cut in two again and
    again; a few ids never come."""
    delays = st.sampled_from((0, 0, 0, 1, 2, 3, 8, 20))
    steps = st.sampled_from((1, 1, 1, 1, 2, 4))
    points = st.sampled_from(CRASH_POINTS)
    sizes = st.sampled_from((0, games_max // 4, games_max // 2))
    lists = sizes.flatmap(
        lambda least: st.lists(st.tuples(delays, steps, points, _STEPS_MS), min_size=least, max_size=games_max)
    )

    def arrived(drawn: list[tuple[int, int, float, int]]) -> list[Game]:
        games, game_id, time = list[tuple[int, Game]](), 0, START_MS
        for number, (delay, step, crash_point, step_ms) in enumerate(drawn):
            game_id, time = game_id + step, min(max(1, time + step_ms), TIME_MAX_MS)
            games.append((number + delay, Game(game_id=game_id, crash_point=crash_point, end_time=time)))
        return [game for _, game in sorted(games, key=lambda one: one[0])]

    return lists.map(arrived)


def random_arrivals(chance: Random, games: int) -> list[Game]:
    """`arrivals` by a generator of one's own: cheaper where much else is drawn."""
    moves = [
        _Move(
            kind=chance.choice(_KINDS),
            distance=chance.randint(1, chance.choice((3, 12, 60))),
            crash_point=chance.choice(CRASH_POINTS),
            step_ms=chance.choice((20_000, 20_000, chance.randint(-200_000, 900_000), HOUR_MS, -HOUR_MS, 50 * HOUR_MS)),
            dressed=chance.random() < 0.5,
        )
        for _ in range(games)
    ]
    return _played(moves)


def batches(games: Sequence[Game]) -> st.SearchStrategy[list[list[Game]]]:
    """The same games in the same order, cut into batches, some of them empty."""
    cuts = st.lists(st.integers(0, len(games)), max_size=12).map(sorted)
    return cuts.map(lambda at: [list(games[a:b]) for a, b in zip([0, *at], [*at, len(games)], strict=True)])


class _Move(NamedTuple):
    kind: str
    distance: int
    crash_point: float
    step_ms: int
    dressed: bool


def _moves(kinds: Sequence[str], games_max: int) -> st.SearchStrategy[list[_Move]]:
    move = st.builds(
        _Move,
        kind=st.sampled_from(kinds),
        distance=st.integers(1, 12) | st.integers(1, 60),
        crash_point=st.sampled_from(CRASH_POINTS),
        step_ms=_STEPS_MS,
        dressed=st.booleans(),
    )
    # Left to itself hypothesis makes lists of about five; most of what can go wrong needs a full window.
    sizes = st.sampled_from((0, games_max // 4, games_max // 2))
    return sizes.flatmap(lambda games_min: st.lists(move, min_size=games_min, max_size=games_max))


def _played(moves: Sequence[_Move]) -> list[Game]:
    """The games that the moves stand for, in the order in which they arrive."""
    games: list[Game] = []
    newest, time = 30, START_MS
    for kind, distance, crash_point, step_ms, dressed in moves:
        if kind in ("again", "other") and games:
            known = games[-1 - distance % len(games)]
            changed = 1.0 if known.crash_point > 1 else 2.0
            games.append(known if kind == "again" else msgspec.structs.replace(known, crash_point=changed))
            continue
        if kind == "late":
            game_id = max(1, newest - distance)
        else:
            game_id = newest = newest + (distance if kind == "skip" else 1)
        time = min(max(1, time + step_ms), TIME_MAX_MS)
        games.append(
            Game(
                game_id=game_id,
                hash=f"{game_id * 2**200 + time:064x}" if dressed else None,
                crash_point=crash_point,
                prepare_time=time - 7_000 if dressed else None,
                begin_time=time - 2_000 if dressed else None,
                end_time=time,
            )
        )
    return games


# --- settings --------------------------------------------------------------------------------------------------------

SMALL: Final = ProjectionSettings(
    min=(1.5, 2, 10),
    max=(1, 2),
    floor=(1, 2),
    range=("1.5-3",),
    samples_games=(3, 7),
    samples_hours=(1, 2),
    interval_minutes=10,
    interval_hours=2,
    window_games=10,
)
"""A window of ten games and seven predicates."""


def small_settings() -> st.SearchStrategy[ProjectionSettings]:
    """Small windows, few predicates, odd thresholds, samples up to the whole window, buckets of any length."""

    def of_window(window_games: int) -> st.SearchStrategy[ProjectionSettings]:
        return st.builds(
            ProjectionSettings,
            min=_some((1, 1.01, 1.5, 1.505, 2, 2.999, 3.7, 10, 1e9)),
            max=_some((1, 1.01, 1.505, 2, 9.99, 1e9)),
            floor=_some((1, 2, 3, 11, 10**9)),
            samples_games=_some(tuple(sorted({1, min(2, window_games), max(1, window_games // 2), window_games}))),
            samples_hours=_some((1, 2, 168)),
            interval_minutes=st.sampled_from((1, 10, 45, 96, 1440)),
            interval_hours=st.sampled_from((1, 2, 25)),
            window_games=st.just(window_games),
        )

    return st.sampled_from((1, 2, 3, 7, 10, 30)).flatmap(of_window)


def _some(values: Sequence[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(st.sampled_from(values), unique=True, max_size=4).map(tuple)


# --- values that are no game -----------------------------------------------------------------------------------------


def json_game(**fields: object) -> bytes:
    """A game as JSON with some fields replaced, added, or (with `...`) left out. A value given as bytes stands as it
    is, whatever Python makes of it."""
    facts: dict[str, object] = {"game_id": 8, "hash": "ab" * 32, "crash_point": 2.5, "end_time": START_MS}
    facts |= fields
    members = [
        b"%s:%s" % (json.dumps(name).encode(), value if isinstance(value, bytes) else json.dumps(value).encode())
        for name, value in facts.items()
        if value is not ...
    ]
    return b"{" + b",".join(members) + b"}"


def nested(levels: int, shape: Literal["arrays", "objects", "mixed"]) -> bytes:
    """JSON of that many levels."""
    opening, closing = {
        "arrays": (b"[", b"]"),
        "objects": (b'{"a":', b"}"),
        "mixed": (b'[{"a":', b"}]"),
    }[shape]
    times = levels // 2 if shape == "mixed" else levels
    return opening * times + b"0" + closing * times


class Garbage(NamedTuple):
    """A value that is no game: what it is, its bytes, and a part of what `Unreadable.detail` must say."""

    name: str
    value: bytes | None
    detail: str


def _garbage() -> list[Garbage]:
    missing = [
        Garbage(f"no {name}", json_game(**{name: ...}), f"missing required field `{name}`")
        for name in ("game_id", "crash_point", "end_time")
    ]
    integers = [
        Garbage(f"{name} {text.decode()[:12]}", json_game(**{name: text}), name)
        for name in ("game_id", "end_time", "prepare_time", "begin_time")
        for text in (b"8.0", b"8.5", b"1e3", b"true", b'"8"', b"[]", b"{}", b"1e999", b"9" * 19, b"9" * 5_000)
    ]
    integers += [
        Garbage(f"{name} {text.decode()}", json_game(**{name: text}), name)
        for name, text in (
            ("game_id", b"null"),
            ("game_id", b"0"),
            ("game_id", b"-0"),
            ("game_id", b"-1"),
            ("game_id", b"%d" % 2**53),
            ("end_time", b"null"),
            ("end_time", b"0"),
            ("end_time", b"-1"),
            ("end_time", b"%d" % (TIME_MAX_MS + 1)),
            ("prepare_time", b"%d" % (TIME_MAX_MS + 1)),
            ("begin_time", b"%d" % (TIME_MAX_MS + 1)),
        )
    ]
    crash_points = [
        Garbage(f"crash_point {text.decode()[:16]}", json_game(crash_point=text), "crash_point")
        for text in (
            *(b"null", b"true", b'"2.5"', b"[]", b"0", b"-0", b"-2.5", b"0.99", b"0.999999", b"1.005", b"2.675"),
            *(b"1000000000.01", b"1e10", b"1e999", b"-1e999", b"9" * 5_000, b"2.5000000001"),
        )
    ]
    hashes = [
        Garbage(f"hash {text.decode()[:12]} of {len(text)}", json_game(hash=text), "hash")
        for text in (
            *(b"8", b"true", b"[]", b'""', b'"%s"' % (b"a" * 63), b'"%s"' % (b"a" * 65), b'"%s"' % (b"A" * 64)),
            *(b'"%sg%s"' % (b"a" * 31, b"a" * 32), b'"%s\\n"' % (b"a" * 63), b'" %s"' % (b"a" * 63)),
            *(b'"%s_%s"' % (b"a" * 31, b"a" * 32), '"{}"'.format("é" * 64).encode(), '"{}"'.format("１" * 64).encode()),
        )
    ]
    not_json = [
        Garbage("NaN", json_game(crash_point=b"NaN"), "malformed"),
        Garbage("Infinity", json_game(crash_point=b"Infinity"), "malformed"),
        Garbage("minus Infinity", json_game(crash_point=b"-Infinity"), "malformed"),
        Garbage("NaN in an unknown field", json_game(table=b"NaN"), "malformed"),
        Garbage("a byte order mark", b"\xef\xbb\xbf" + json_game(), "malformed"),
        Garbage("UTF-16", json_game().decode().encode("utf-16"), "not UTF-8"),
        Garbage("two values", json_game() + json_game(), "trailing characters"),
        Garbage("a trailing comma", json_game()[:-1] + b",}", "trailing comma"),
        Garbage("half a value", json_game()[:40], "truncated"),
        Garbage("a leading zero", json_game(game_id=b"08"), "invalid number"),
        Garbage("a control character in an unknown field", json_game(table=b'"\x00"'), "invalid character"),
        Garbage("text", b"game over", "malformed"),
        Garbage("nothing", b"", "truncated"),
        Garbage("blanks", b"  \n", "truncated"),
    ]
    other_json = [
        Garbage(f"just {text.decode()}", text, "Expected `object`")
        for text in (b"null", b"true", b"3", b'"game"', b"[]", b"[" + json_game() + b"]")
    ]
    encoding = [
        Garbage("bad UTF-8 in an unknown value", json_game(table=b'"\xff"'), "not UTF-8"),
        Garbage("bad UTF-8 in an unknown name", json_game()[:-1] + b',"\xc3":1}', "not UTF-8"),
        Garbage("a surrogate in UTF-8", json_game(table=b'"\xed\xa0\x80"'), "not UTF-8"),
        Garbage("an overlong form in UTF-8", json_game(table=b'"\xc0\xaf"'), "not UTF-8"),
        Garbage("bad UTF-8 in the hash", json_game(hash=b'"\xff"'), "not UTF-8"),
        Garbage("half a surrogate pair, low", json_game(table=b'"\\udc00 and more"'), "surrogate"),
        Garbage("half a surrogate pair, high", json_game(table=b'"\\ud800 and more"'), "malformed"),
    ]
    nesting = [
        Garbage(f"1,000 {shape}", json_game(table=nested(1_000, shape)), "nested deeper")
        for shape in ("arrays", "objects", "mixed")
    ]
    nesting += [
        Garbage("1,000 arrays for a value", nested(1_000, "arrays"), "nested deeper"),
        Garbage("10,000 arrays that never end", json_game(table=b"[" * 10_000), "nested deeper"),
    ]
    size = [Garbage("over 64 KiB", json_game().ljust(VALUE_BYTES_MAX + 1), "65537 bytes")]
    tombstone = [Garbage("a tombstone", None, "tombstone"), Garbage("an empty object", b"{}", "game_id")]
    return [
        *(*tombstone, *missing, *integers, *crash_points, *hashes),
        *(*not_json, *other_json, *encoding, *nesting, *size),
    ]


GARBAGE: Final = tuple(_garbage())
"""Every family of unreadable values of docs/rules.md, section 1."""
