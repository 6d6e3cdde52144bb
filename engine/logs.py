"""Logs: constant event names with fields, JSON lines or a console for people, on standard error.

May import structlog, logging and `engine.settings`. The one thing that is always true: no secret is written. Values are
masked by the name of their key, and passwords in addresses wherever they stand, tracebacks included.

`configure` is called once, by the command line. Everything else says `structlog.get_logger()`, and logs a line per
commit at debug, per change of state at info.
"""

import logging
import os
import re
import sys
from collections.abc import Mapping
from typing import Final, TextIO

import structlog
from structlog.typing import EventDict, Processor

from engine.settings import MASK, LogSettings, masked_text

LIBRARY_EVENT: Final = "library_said"
"""The event of whatever a library logs by itself; its sentence is the field `message`."""

_SECRET_KEY: Final = re.compile(r"(.*[_-])?(password|passwd|token|secret|authorization|api[_-]?key)", re.IGNORECASE)


def configure(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Write from now on to `stream` (default: standard error), our own events from `settings.level` on.

    What libraries log through the standard library comes out in the same form, from WARNING on.
    """
    stream = stream or sys.stderr
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    as_json = settings.format == "json" or (settings.format == "auto" and not stream.isatty())
    renderer = _json() if as_json else _console(colors=stream.isatty() and not os.environ.get("NO_COLOR"))
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *_shared(), *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, _library_event, *_shared()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))


def mask_secrets(_logger: object, _method: str, event: EventDict) -> EventDict:
    """A structlog processor: every value as plain data, without secrets."""
    return {key: MASK if _is_secret(key) and value else _clean(value) for key, value in event.items()}


def _shared() -> list[Processor]:
    return [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        mask_secrets,
    ]


def _json() -> list[Processor]:
    return [_fixed_fields_first, structlog.processors.JSONRenderer()]


def _console(*, colors: bool) -> list[Processor]:
    return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]


def _fixed_fields_first(_logger: object, _method: str, event: EventDict) -> EventDict:
    return {key: event[key] for key in ("timestamp", "level", "event") if key in event} | dict(event)


def _library_event(_logger: object, _method: str, event: EventDict) -> EventDict:
    event["message"] = event.pop("event")
    event["event"] = LIBRARY_EVENT
    return event


def _is_secret(key: object) -> bool:
    return isinstance(key, str) and _SECRET_KEY.fullmatch(key) is not None


def _clean(value: object) -> object:
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return masked_text(value)
        case Mapping():
            return {str(key): MASK if _is_secret(key) and item else _clean(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_clean(item) for item in value]
        case _:
            return masked_text(repr(value))
