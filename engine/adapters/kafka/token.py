"""The login by OAUTHBEARER, with tokens from the function that the setting `kafka.sasl_oauth_token_provider` names.

Imports aiokafka and the engine's errors. Always true: the function is called once for each connection, within a
deadline; every failure is an error of aiokafka, so that its background tasks go on; and no token stands in an error.

aiokafka 0.14 takes every answer of the broker for a success. A refusal is an answer with a text in it (RFC 7628,
3.2.2); the broker then answers the first request with an error, which aiokafka parses as that request's answer. So a
provider puts `Authenticator` in the place of aiokafka's.
"""

import importlib
import inspect
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import anyio.to_thread
from aiokafka import conn
from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import OAuthAuthenticator
from aiokafka.errors import KafkaConnectionError, SaslAuthenticationFailed

from crashfold.engine.errors import ConfigurationError

SETTING: Final = "kafka.sasl_oauth_token_provider"
TOKEN_S: Final = 10.0
"""For one call of the function. A client that waits for a token makes no other connection."""

Give = Callable[[], str | Awaitable[str]]
"""Takes nothing and returns a token. The function keeps a token as long as it holds, and then returns a fresh one."""


class TokenUnavailable(KafkaConnectionError):  # type: ignore[misc]  # aiokafka has no types
    """The function failed, which may pass: it is called again."""


class NoToken(KafkaConnectionError):  # type: ignore[misc]  # aiokafka has no types
    """The function returned something else than a token."""


class TokenRefused(SaslAuthenticationFailed):  # type: ignore[misc]  # aiokafka has no types
    """The broker does not accept the token: it has expired, or was issued for somebody else."""


class Authenticator(OAuthAuthenticator):  # type: ignore[misc]  # aiokafka has no types
    """aiokafka's, which also looks at the broker's answer."""

    async def step(self, payload: bytes | None) -> tuple[bytes, bool] | None:
        """The next message for the broker, after its answer; None when the login is done. Raises TokenRefused."""
        if payload:
            raise TokenRefused(f"the broker does not accept the token: {payload.decode(errors='replace')}")
        message: tuple[bytes, bool] | None = await super().step(payload)
        return message


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """The function as aiokafka calls it. A plain function runs in a thread, a coroutine function in the loop."""

    def __init__(self, name: str, give: Give) -> None:
        conn.OAuthAuthenticator = Authenticator
        self._name = name
        self._give = give

    @classmethod
    def named(cls, name: str) -> "TokenProvider":
        """The function `package.module:function`. Raises ConfigurationError when it cannot be imported."""
        module, _, function = name.partition(":")
        try:
            give = getattr(importlib.import_module(module), function)
        except Exception as error:  # a module of somebody else may raise anything
            why = f"{type(error).__name__}: {error}"
            raise ConfigurationError(f"{SETTING}: {name} cannot be imported ({why})") from error
        if not callable(give):
            raise ConfigurationError(f"{SETTING}: {name} is not a function")
        return cls(name, give)

    async def token(self) -> str:
        """A token. Raises TokenUnavailable or NoToken."""
        try:
            with anyio.fail_after(TOKEN_S):
                found = await self._given()
        except TimeoutError as error:
            raise TokenUnavailable(f"{self._name} timed out (at most {TOKEN_S:.0f} s)") from error
        except Exception as error:  # a function of somebody else may raise anything
            raise TokenUnavailable(f"{self._name} failed with {type(error).__name__}: {error}") from error
        if not isinstance(found, str) or not found or not found.isascii() or not found.isprintable() or " " in found:
            raise NoToken(f"{self._name} returned {type(found).__name__} that is no token: printable ASCII, no blanks")
        return found

    async def _given(self) -> object:
        if inspect.iscoroutinefunction(self._give):
            return await self._give()
        given = await anyio.to_thread.run_sync(self._give, abandon_on_cancel=True)
        return await given if inspect.isawaitable(given) else given
