"""The function that gives tokens: imported by name, plain or not, and what it does wrong is an error of aiokafka."""

import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from crashfold.engine.adapters.kafka import token
from crashfold.engine.adapters.kafka.errors import verdict_on
from crashfold.engine.adapters.kafka.token import NoToken, TokenProvider, TokenUnavailable
from crashfold.engine.errors import ConfigurationError, LogRefused, LogUnavailable


async def later() -> str:
    return "a.b."


def returns_a_coroutine() -> Any:
    return later()


@pytest.mark.parametrize("give", [lambda: "a.b.", later, returns_a_coroutine])
async def test_a_function_gives_its_token_at_once_or_later(give: Callable[[], Any]) -> None:
    assert await TokenProvider("m:f", give).token() == "a.b."


@pytest.mark.parametrize("what", [None, 1, b"a.b.", "", "a b", "a\x01auth=Bearer b", "ä", "a\n"])
async def test_what_is_no_token_is_refused_and_not_shown(what: object) -> None:
    with pytest.raises(NoToken, match="m:f returned") as raised:
        await TokenProvider("m:f", lambda: what).token()  # type: ignore[arg-type,return-value]
    assert verdict_on(raised.value).kind is LogRefused
    assert "Bearer" not in str(raised.value)


@pytest.mark.parametrize("error", [OSError("away"), ValueError("away"), TimeoutError("away")])
async def test_a_function_that_fails_is_asked_again(error: Exception) -> None:
    def fails() -> str:
        raise error

    with pytest.raises(TokenUnavailable, match="m:f") as raised:
        await TokenProvider("m:f", fails).token()
    assert verdict_on(raised.value).kind is LogUnavailable


async def test_a_function_that_never_returns_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token, "TOKEN_S", 0.01)
    with pytest.raises(TokenUnavailable, match="timed out"):
        await TokenProvider("m:f", slow).token()
    with pytest.raises(TokenUnavailable, match="timed out"):
        await TokenProvider("m:f", anyio.sleep_forever).token()  # type: ignore[arg-type]


def slow() -> str:
    time.sleep(0.2)
    return "a.b."


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("tests.support.tokens:nowhere", "cannot be imported"),
        ("tests.support.nowhere:good", "cannot be imported"),
        ("tests.support.tokens:number", "is not a function"),
    ],
)
def test_a_name_that_leads_nowhere_names_the_setting(name: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=r"kafka\.sasl_oauth_token_provider: .* " + why):
        TokenProvider.named(name)
