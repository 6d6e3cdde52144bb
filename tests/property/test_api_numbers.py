"""Every parameter of every route against the rule for numbers, by a reading of JSON that is not ours.

A number that JSON's own reader takes is within bounds or 422, all else is 400; nothing is ever an exception.
"""

import json
from typing import Any, Final, get_type_hints
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashfold.engine.http.problems import Problem
from crashfold.engine.http.requests import ApiRequest
from crashfold.engine.http.routes import ROUTES, ask
from crashfold.engine.read.aggregate import Route
from crashfold.engine.read.times import Zones

ZONES: Final = Zones()
WINDOW_GAMES: Final = 50_000
DATES: Final = {"start_date": "2026-01-14", "end_date": "2026-01-15"}

ODD: Final = [
    *(
        "",
        " ",
        "nan",
        "NaN",
        "Infinity",
        "-Infinity",
        "inf",
        "1_0",
        "+5",
        "-5",
        "-0",
        "0",
        "00",
        "01",
        "-01",
        "1.",
        ".5",
    ),
    *(
        "5 ",
        " 5",
        "5\n",
        "\t5",
        "5\0",
        "٣",
        "²",
        "Ⅷ",
        "５",
        "1٣",
        "0x10",
        "0b1",
        "1e2",
        "1E2",
        "1e+2",
        "1e-2",
        "1e",
        "1.0",
    ),
    *("1.5", "100.0", "--1", "1-", "2,5", "2;5", "1e400", "-1e400", "1e-400", "9" * 30, "9" * 5_000, "-" + "9" * 5_000),
    *(
        "1" + "0" * 400,
        "1." + "0" * 5_000,
        "0." + "0" * 400 + "1",
        "1e" + "9" * 400,
        "2" * 20 + "e0",
        "\ufeff5",
        "\ud7ff",
    ),
    *(
        "true",
        "false",
        "null",
        '"5"',
        "[5]",
        "{}",
        "5 5",
        "1000000000",
        "1000000001",
        "999999999.995",
        "50000",
        "50001",
    ),
]
texts = st.sampled_from(ODD) | st.text("0123456789+-.eE_ xN", max_size=8) | st.text(max_size=4) | st.floats().map(repr)
texts |= st.integers().map(str)


class _Token(str):
    """A number as it was written."""


def token(text: str) -> Any:
    """What JSON's own reader makes of a text without blanks: a number stays a token. Raises ValueError."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    if text != text.strip(" \t\r\n"):
        raise ValueError("blanks")
    return json.loads(text, parse_int=_Token, parse_float=_Token, parse_constant=refuse)


def is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, _Token) and (kind is float or not any(mark in value for mark in ".eE"))


def asked(route: Route, value: str = "2", query: str = "", body: bytes = b"") -> int:
    path = route.path.replace("{value}", quote(value, safe="")).replace("{game_id}", quote(value, safe=""))
    found = ask(ApiRequest(route.method, path, query, body), WINDOW_GAMES, ZONES)
    if isinstance(found, Problem):
        assert value not in found.detail or value in ("", " ") or len(value) < 3
        return found.status
    return 200


def is_allowed(status: int, text: str, kind: Any, within: Any = None) -> bool:
    try:
        number = is_number(token(text), kind)
    except (ValueError, RecursionError):
        number = False
    return status in (200, 422) if number else status == 400


SINGLE = [route for route in ROUTES if "{" in route.path and "{name}" not in route.path]
GETS = [
    (route, field.name)
    for route in ROUTES
    if route.method == "GET"
    for field in msgspec.structs.fields(route.question)
    if get_type_hints(route.question)[field.name] is int
]
POSTS = [route for route in ROUTES if route.method == "POST"]


@given(st.sampled_from(SINGLE), texts)
def test_a_number_in_a_path_is_a_json_number(route: Route, text: str) -> None:
    kind = int if route.kind in (None, "floor") else float
    query = "&".join(f"{name}={day}" for name, day in DATES.items())
    if "/" in text:
        return
    assert is_allowed(asked(route, text, query), text, kind), text
    if route.kind is not None and is_allowed(400, text, kind) is False:
        assert (asked(route, text, query) == 200) == (1 <= float(text) <= 1e9)


@given(st.sampled_from(GETS), texts)
def test_a_number_in_a_query_is_a_json_integer(asking: tuple[Route, str], text: str) -> None:
    route, name = asking
    days = "&".join(f"{name}={day}" for name, day in DATES.items())
    assert is_allowed(asked(route, "2", f"{days}&{name}={quote(text)}"), text, int), text


json_tokens = st.sampled_from([text for text in ODD if text and text.isascii() and "\0" not in text]) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
).map(json.dumps)


@given(st.sampled_from(POSTS), st.data())
def test_a_member_of_a_body_is_of_its_type_or_400(route: Route, data: st.DataObject) -> None:
    hints = get_type_hints(route.question)
    name = data.draw(st.sampled_from(sorted(hints)))
    text = data.draw(json_tokens)
    text = text.strip(" \t\r\n")  # blanks between tokens are JSON's
    members = {"values": "[2]", **{day: f'"{text}"' for day, text in DATES.items() if day in hints}, name: text}
    status = asked(route, body=("{" + ",".join(f'"{key}":{value}' for key, value in members.items()) + "}").encode())
    try:
        value = token(text)
    except ValueError:
        assert status == 400, text
        return
    kind = hints[name]
    if name == "values":
        item = int if route.kind == "floor" else float
        fits = isinstance(value, list) and all(is_number(one, item) for one in value)
        out = [one for one in value if not 1 <= float(one) <= 1e9] if fits else []
        expected = 400 if not fits else 200 if 1 <= len(value) <= 100 and not out else 422
        assert status == expected, text
    elif kind is int:
        assert is_allowed(status, text, int), text
    elif kind is bool:
        assert status == (200 if isinstance(value, bool) else 400), text


@pytest.mark.parametrize("route", POSTS, ids=lambda route: route.path)
@pytest.mark.parametrize(
    "body",
    [
        b'\xef\xbb\xbf{"values":[2]}',
        '{"values":[2]}'.encode("utf-16"),
        '{"values":[2]}'.encode("utf-32-le"),
        b'{"values":[2],"x":"\xed\xa0\x80"}',
        b'{"values":[2],"x":"\xc0\xaf"}',
        b'{"values":[2],"x":"\x01"}',
        b'{"values":[2],}',
        b'{"values":[2,]}',
        b'{"values":[2]}{}',
        b'{"values":[2]} x',
        b"{'values':[2]}",
        b'{"values":[2]/**/}',
        b'{"values":' + b"[" * 60_000,
        b'{"values":[2],"x":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
        b"\0",
        b'{"values":[2]}\0',
    ],
    ids=range(16),
)
def test_a_body_that_is_no_json_object_in_utf_8_is_malformed(route: Route, body: bytes) -> None:
    days = ",".join(f'"{name}":"{day}"' for name, day in DATES.items()).encode()
    assert asked(route, body=body.replace(b'"values"', days + b',"values"', 1)) == 400


@pytest.mark.parametrize("route", POSTS, ids=lambda route: route.path)
def test_of_a_member_that_comes_twice_the_last_counts(route: Route) -> None:
    days = ",".join(f'"{name}":"{day}"' for name, day in DATES.items())
    assert asked(route, body=f'{{{days},"values":[0],"values":[2]}}'.encode()) == 200
    assert asked(route, body=f'{{{days},"values":[2],"values":[0]}}'.encode()) == 422
    assert asked(route, body=f' \r\n\t{{{days} , "values" : [ 2 ] }} \n'.encode()) == 200
