"""Logs: constant event names with fields, JSON lines or a console for people, on standard error.

May import structlog, logging, `engine.settings` and `crashfold.engine.terminal`. What is always true: no secret is
written, for values are masked by the name of their key, and passwords in addresses wherever they stand, tracebacks
included. And whoever logs goes on: a line is one write, and one that cannot be written is counted (`lines_lost`).

`configure` is called once, by the command line. Everything else says `structlog.get_logger()`, and logs a line per
commit at debug, per change of state at info.
"""

import logging
import os
import re
import sys
import time
from collections.abc import Mapping
from typing import Final, TextIO

import structlog
from structlog.typing import EventDict, Processor

from crashfold.engine.settings import MASK, LogSettings, masked_text
from crashfold.engine.terminal import Lines, shortened, visible

LIBRARY_EVENT: Final = "library_said"
"""The event of whatever a library logs by itself; its sentence is the field `message`."""

_FIXED: Final = ("timestamp", "level", "event")
_VALUE_LEFT: Final = 64
"""How much of a value is left at least when a line is too long."""
LIBRARY_EVERY_S: Final = 30.0
LIBRARY_KINDS_MAX: Final = 1_000

_SECRET_KEY: Final = re.compile(r"(.*[_-])?(password|passwd|token|secret|authorization|api[_-]?key)", re.IGNORECASE)


def configure(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Configure logging to `stream` (default: standard error), with our own events from `settings.level` upwards.

    What libraries log or warn of through the standard library comes out in the same form, from WARNING on.
    """
    closed = stream is None and sys.__stderr__ is None
    stream = stream or sys.stderr
    lines = Lines(None if closed else stream)
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    as_json = settings.format == "json" or (settings.format == "auto" and not stream.isatty())
    renderer = (
        _json(lines.bytes_max) if as_json else _console(colors=stream.isatty() and not os.environ.get("NO_COLOR"))
    )
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *_shared(), *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Loggers(lines),
        cache_logger_on_first_use=False,
    )
    handler = _Handler(lines)
    handler.addFilter(Seldom())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, _library_event, *_shared()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))
    logging.captureWarnings(capture=True)


def lines_lost() -> int:
    """How many lines could not be written since logs were configured."""
    loggers = structlog.get_config()["logger_factory"]
    return loggers.lines.lost if isinstance(loggers, _Loggers) else 0


class _Loggers:
    """Makes the loggers at the end of structlog's chain, which take finished lines."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines

    def __call__(self, *_: object) -> "_Logger":
        return _Logger(self.lines)


class _Logger:
    """Takes a finished line by the name of any level."""

    def __init__(self, lines: Lines) -> None:
        self.msg = self.debug = self.info = self.warning = self.error = self.critical = self.exception = lines.write


class _Handler(logging.Handler):
    """Writes what libraries log; a record that cannot be printed is told by its unfilled message."""

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record as one line."""
        try:
            line = self.format(record)
        except Exception:
            record.msg, record.args, record.exc_info = f"{record.msg!r} % {record.args!r}", (), None
            line = self.format(record)
        self._lines.write(line)


class Seldom(logging.Filter):
    """Lets a library say one thing, and aiokafka anything, once in `every_s`: it says with each try, dozens a second,
    that a broker is away, which our own lines tell, with the reason."""

    def __init__(self, every_s: float = LIBRARY_EVERY_S) -> None:
        super().__init__()
        self._every_s = every_s
        self._due_s: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        library = record.name.partition(".")[0]
        what = (library, "") if library == "aiokafka" else (record.name, str(record.msg))
        now_s = time.monotonic()
        if now_s < self._due_s.get(what, now_s):
            return False
        if len(self._due_s) >= LIBRARY_KINDS_MAX:
            self._due_s.clear()
        self._due_s[what] = now_s + self._every_s
        return True


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


def _json(bytes_max: int | None) -> list[Processor]:
    render = structlog.processors.JSONRenderer()
    fitting = [] if bytes_max is None else [_Fitting(bytes_max, render)]
    return [_fixed_fields_first, *fitting, render]


def _console(*, colors: bool) -> list[Processor]:
    render = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
    return [_visible_values, render]


class _Fitting:
    """Shortens the longest values of an event until its line is one write to a pipe, and still JSON."""

    def __init__(self, bytes_max: int, render: structlog.processors.JSONRenderer) -> None:
        self._bytes_max = bytes_max - len("\n")
        self._render = render

    def __call__(self, logger: object, method: str, event: EventDict) -> EventDict:
        def size(value: object) -> int:
            return len(self._render(None, method, {"": value}))  # ASCII, so characters are bytes

        while (excess := len(self._render(None, method, event)) - self._bytes_max) > 0:
            longest = max(event, key=lambda key: size(event[key]))
            text = event[longest] if isinstance(event[longest], str) else str(event[longest])
            if len(text) <= _VALUE_LEFT:
                event.popitem()  # so many fields that no value is to blame
                continue
            # Escapes count several times, so it may take a few rounds.
            event[longest] = shortened(text, max(_VALUE_LEFT, min(len(text) - excess, len(text) * 3 // 4)))
        return event


def _visible_values(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Texts as they may be shown on a terminal; an exception and a stack keep their lines."""
    return {
        key: visible(value, keep="\n" if key in ("exception", "stack") else "") if isinstance(value, str) else value
        for key, value in event.items()
    }


def _fixed_fields_first(_logger: object, _method: str, event: EventDict) -> EventDict:
    return {key: event[key] for key in _FIXED if key in event} | dict(event)


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
