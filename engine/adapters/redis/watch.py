"""`Watch`: how long Redis takes over what it is asked. A debug line each, a warning for slow ones, scripts to a metric.

Imports redis' type of a command and structlog. What is always true: no key and no value is in a line, only commands'
names; and a Redis that is slow for long makes one warning a second.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any, Final

import structlog

SLOW_S: Final = 0.25
WARN_EVERY_S: Final = 1.0

ScriptTook = Callable[[str, float], None]
"""Is told of each call of a script: its name and the seconds until Redis answered."""
Asked = Sequence[tuple[Any, ...]] | str
"""A request: commands, or the name of a script."""

log = structlog.get_logger()


def _ignore(_script: str, _duration_s: float) -> None:
    """Nobody counts scripts."""


class Watch:
    """`slow_s` is how long an answer may take without a warning; 0: any time."""

    def __init__(self, slow_s: float = SLOW_S, script_took: ScriptTook = _ignore) -> None:
        self._slow_s = slow_s
        self._script_took = script_took
        self._is_debug = log.is_enabled_for(logging.DEBUG)
        self._warn_due_s = 0.0
        self._unsaid = 0

    def took(self, server: str, asked: Asked, duration_s: float) -> None:
        """Redis took so long over it; also over what it never answered."""
        if isinstance(asked, str):
            self._script_took(asked, duration_s)
        if 0 < self._slow_s <= duration_s:
            self._warn(server, asked, duration_s)
        elif self._is_debug:
            log.debug("redis_answered", server=server, operation=_name(asked), duration_ms=_ms(duration_s))

    def _warn(self, server: str, asked: Asked, duration_s: float) -> None:
        now_s = monotonic()
        if now_s < self._warn_due_s:
            self._unsaid += 1
            return
        self._warn_due_s = now_s + WARN_EVERY_S
        log.warning(
            "redis_slow", server=server, operation=_name(asked), duration_ms=_ms(duration_s), others=self._unsaid
        )
        self._unsaid = 0


def _name(asked: Asked) -> str:
    """A script's name, or the names of the commands, each once, in order."""
    return asked if isinstance(asked, str) else " ".join(dict.fromkeys(map(_command, asked)))


def _command(words: Iterable[Any]) -> str:
    name = next(iter(words))
    return name.decode() if isinstance(name, bytes) else str(name)


def _ms(duration_s: float) -> float:
    return round(duration_s * 1000, 3)
