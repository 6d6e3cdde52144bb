"""`crashfold dead-letters`: list, show, retry, discard."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal

from cyclopts import App, Parameter, validators

from crashfold.engine.adapters.dead_letters import (
    RETRY_OF,
    LetterMark,
    ListedDeadLetter,
    Origin,
    StoredDeadLetter,
    as_text,
)
from crashfold.engine.adapters.kafka.sink import KafkaDeadLetters, KafkaSink
from crashfold.engine.cli import options, output
from crashfold.engine.cli.bootstrap import CLOCK, open_dead_letters, open_log
from crashfold.engine.cli.options import Common
from crashfold.engine.errors import ConfigurationError, CrashfoldError
from crashfold.engine.games.folding import REASONS
from crashfold.engine.ports import EventLog
from crashfold.engine.publisher import open_sink
from crashfold.engine.settings import Settings
from crashfold.schemas.record import DEFAULT_STREAM

DETAIL_SHOWN: Final = 120
MARKED_AT_ONCE: Final = 1_000
"""Letters that are retried before their marks are written: how many a crash may cause to be retried twice."""

_ORIGIN: Final = re.compile(r"\d+:\d+", re.ASCII)
_AGO: Final = re.compile(r"(\d+)([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

app = App(name="dead-letters", help="Look at the records that could not be folded; publish them again or discard them.")

OriginText = Annotated[str, Parameter(help="partition:offset of the record on its topic, as `list` shows it.")]


@Parameter(name="*")
@dataclass(frozen=True)
class Which:
    """Flags that choose among letters; those that are given all hold."""

    reason: Annotated[str | None, Parameter(help=f"Only those with this reason: {', '.join(REASONS)}.")] = None
    stream: Annotated[str | None, Parameter(help="Only those of this stream.")] = None
    key: Annotated[str | None, Parameter(help="Only those whose record has this key, as `show --json` has it.")] = None
    since: Annotated[
        str | None, Parameter(help="Only those since a moment (2026-01-15T12:00Z) or for so long (30m, 24h, 7d).")
    ] = None
    limit: Annotated[int | None, Parameter(help="Only the newest so many.", validator=validators.Number(gte=1))] = None

    @property
    def is_given(self) -> bool:
        """Whether anything was chosen."""
        return self != Which()

    def of(self, letters: Sequence[ListedDeadLetter]) -> list[ListedDeadLetter]:
        """Those that are meant. Raises ConfigurationError for a moment that is none, and for a reason that is neither
        known nor that of a letter."""
        if self.reason is not None and self.reason not in {*REASONS, *(one.letter.reason for one in letters)}:
            raise ConfigurationError(f"--reason {self.reason}: there is no such reason, but {', '.join(REASONS)}")
        since_ms = None if self.since is None else _moment_ms(self.since)
        tests: list[tuple[object, Callable[[ListedDeadLetter], bool]]] = [
            (self.reason, lambda one: one.letter.reason == self.reason),
            (self.stream, lambda one: _stream_of(one.letter) == self.stream),
            (self.key, lambda one: as_text(one.letter.key) == self.key),
            (since_ms, lambda one: one.time_ms >= (since_ms or 0)),
        ]
        chosen = [one for one in letters if all(wanted is None or holds(one) for wanted, holds in tests)]
        return chosen if self.limit is None else chosen[-self.limit :]


@app.command(name="list")
def list_(
    *,
    which: Which | None = None,
    all_: Annotated[bool, Parameter(name="--all")] = False,
    counts: bool = False,
    json: bool = False,
    common: Common | None = None,
) -> None:
    """List the dead letters, oldest first; one that was handed over twice stands there once.

    Parameters
    ----------
    all_
        Those that were retried or discarded too, marked as such.
    counts
        Only how many there are of each reason.
    json
        Print them as JSON.
    """
    letters = _chosen(_read(common, values=json and not counts), which, everything=all_)
    reasons = dict(sorted(Counter(one.letter.reason for one in letters).items()))
    if counts:
        if json:
            output.print_json(reasons)
        else:
            output.print_table(_title(letters), ("reason", "letters"), list(reasons.items()))
        return
    if json:
        output.print_json([_shown(one) for one in letters])
        return
    rows = [
        (
            _name(one.letter.origin),
            _time(one.time_ms),
            one.letter.reason,
            _shortened(one.letter.detail),
            as_text(one.letter.key),
            one.letter.value_bytes,
            _became(one),
        )
        for one in letters
    ]
    columns = ("origin", "time", "reason", "detail", "key", "bytes", "what became of it")
    output.print_table(_title(letters), columns if all_ else columns[:-1], rows if all_ else [row[:-1] for row in rows])


@app.command
def show(origin: OriginText, *, json: bool = False, common: Common | None = None) -> None:
    """Show one dead letter with the beginning of its value (up to 4 KiB).

    Parameters
    ----------
    json
        Print it as JSON.
    """
    found = _find(_read(common), origin, options.settings(common))
    if json:
        output.print_json(_shown(found))
        return
    output.print_table(origin, ("field", "value"), list(_shown(found).items()))


@app.command
def retry(
    *origins: OriginText,
    which: Which | None = None,
    all_: Annotated[bool, Parameter(name="--all")] = False,
    common: Common | None = None,
) -> None:
    """Publish the records of dead letters again, whole, at the end of the topic, for example after settings changed.

    A letter that was retried is listed no more. A record that still cannot be folded becomes a new letter.

    Parameters
    ----------
    all_
        Every letter that was neither retried nor discarded.
    """
    settings = options.settings(common)
    wanted = _wanted(settings, origins, which, all_, "retry")
    published, kept = options.run(_retry, settings, wanted)
    output.print_line(f"{published} records published again to {settings.kafka.topic}")
    if kept:
        reasons = "\n".join(f"{_name(one.letter.origin)}: {why}" for one, why in kept)
        raise CrashfoldError(f"{len(kept)} records could not be published again and stay dead letters:\n{reasons}")


@app.command
def discard(
    *origins: OriginText,
    which: Which | None = None,
    all_: Annotated[bool, Parameter(name="--all")] = False,
    common: Common | None = None,
) -> None:
    """Mark dead letters as done with: they are listed no more and never retried. They stay where they are.

    Parameters
    ----------
    all_
        Every letter that was neither retried nor discarded.
    """
    settings = options.settings(common)
    wanted = _wanted(settings, origins, which, all_, "discard")
    options.run(_discard, settings, wanted)
    output.print_line(f"{len(wanted)} dead letters discarded")


# --- choosing ---------------------------------------------------------------------------------------------------------


def _read(common: Common | None, *, values: bool = True) -> list[ListedDeadLetter]:
    return options.run(_letters, options.settings(common), values)


async def _letters(settings: Settings, values: bool) -> list[ListedDeadLetter]:
    async with KafkaDeadLetters.from_settings(settings.kafka) as dead_letters:
        return await dead_letters.read(values=values)


def _chosen(letters: Sequence[ListedDeadLetter], which: Which | None, *, everything: bool) -> list[ListedDeadLetter]:
    return (which or Which()).of([one for one in letters if everything or one.is_open])


def _wanted(
    settings: Settings, origins: Sequence[str], which: Which | None, all_: bool, verb: str
) -> list[ListedDeadLetter]:
    """The open letters that are named, or chosen by flags. Raises CrashfoldError for none, and for one that is done."""
    chosen_by_flags = all_ or (which is not None and which.is_given)
    if bool(origins) == chosen_by_flags:
        raise CrashfoldError(
            f"name the letters to {verb} as partition:offset, or choose them by --reason, --stream, --key, --since, "
            "--limit, or all by --all"
        )
    letters = options.run(_letters, settings, True)
    if not origins:
        return _chosen(letters, which, everything=False)
    found = {origin: _find(letters, origin, settings) for origin in origins}
    done = [f"{origin} was {_became(one)}" for origin, one in found.items() if not one.is_open]
    if done:
        raise CrashfoldError("\n".join([*done, f"nothing was done; leave these out to {verb} the others"]))
    return list(found.values())


def _find(letters: Sequence[ListedDeadLetter], origin: str, settings: Settings) -> ListedDeadLetter:
    """The letter of that name: of the topic of now, if there are letters of several topics."""
    if _ORIGIN.fullmatch(origin) is None:
        raise ConfigurationError(f"{origin} names no dead letter: write partition:offset, such as 0:51")
    named = [one for one in letters if origin == _name(one.letter.origin)]
    if not named:
        raise CrashfoldError(f"there is no dead letter {origin}; `crashfold dead-letters list --all` shows them")
    return next((one for one in named if one.letter.topic == settings.kafka.topic), named[-1])


def _moment_ms(text: str) -> int:
    if (ago := _AGO.fullmatch(text)) is not None:
        return CLOCK.now_ms() - int(timedelta(**{_UNITS[ago[2]]: int(ago[1])}).total_seconds() * 1000)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"--since {text}: write a moment such as 2026-01-15T12:00Z, or how long ago, such as 30m, 24h or 7d"
        ) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _shortened(detail: str) -> str:
    return detail if len(detail) <= DETAIL_SHOWN else f"{detail[: DETAIL_SHOWN - 1]}…"


def _stream_of(letter: StoredDeadLetter) -> str | None:
    return DEFAULT_STREAM if letter.key is None else as_text(letter.key)


# --- doing ------------------------------------------------------------------------------------------------------------


async def _retry(
    settings: Settings, letters: Sequence[ListedDeadLetter]
) -> tuple[int, list[tuple[ListedDeadLetter, str]]]:
    """Publish them again and mark them; how many, and which could not be, with the reason."""
    kept: list[tuple[ListedDeadLetter, str]] = []
    published = 0
    async with AsyncExitStack() as stack:
        event_log = await stack.enter_async_context(open_log(settings))
        sink = await stack.enter_async_context(open_sink(settings.kafka))
        marks = await stack.enter_async_context(open_dead_letters(settings))
        assert isinstance(marks, KafkaDeadLetters)
        for begin in range(0, len(letters), MARKED_AT_ONCE):
            sent = []
            for one in letters[begin : begin + MARKED_AT_ONCE]:
                record = await _record(event_log, one.letter)
                if isinstance(record, str):
                    kept.append((one, record))
                    continue
                sent.append((one, await _publish(sink, event_log.topic, one.letter, *record)))
            await sink.flush()
            became = [
                (one, _mark(one, "retried", (event_log.topic, done.result().partition, done.result().offset)))
                for one, done in sent
            ]
            await marks.mark(became)
            published += len(became)
    return published, kept


async def _record(event_log: EventLog, letter: StoredDeadLetter) -> tuple[bytes | None, bytes] | str:
    """Key and value of the letter's record, as the topic still has it or else the letter, if that holds all of it; or
    why there are none."""
    if letter.value is None:
        return "it is a tombstone, which holds no game; discard it"
    if letter.topic == event_log.topic:
        record = await event_log.record(letter.partition, letter.offset)
        if record is not None and record.value is not None and letter.is_of(record):
            return record.key, record.value
    if letter.whole:
        return letter.key, letter.value
    return (
        f"the topic no longer has its record, and the letter holds only the beginnings of its key ({letter.key_bytes} "
        f"bytes) and value ({letter.value_bytes}); publish the game again from its source, and discard the letter"
    )


async def _publish(sink: KafkaSink, topic: str, letter: StoredDeadLetter, key: bytes | None, value: bytes) -> Any:
    """Send the record to the partition on which its stream lives, with the name of its letter."""
    partition = letter.partition if letter.topic == topic else None
    headers = [(RETRY_OF, ":".join(map(str, letter.origin)).encode())]
    return await sink.send(topic, key, value, headers=headers, partition=partition)


async def _discard(settings: Settings, letters: Sequence[ListedDeadLetter]) -> None:
    async with KafkaDeadLetters.from_settings(
        settings.kafka, idempotent=settings.kafka.enable_idempotence
    ) as dead_letters:
        await dead_letters.mark([(one, _mark(one, "discarded")) for one in letters])


def _mark(
    one: ListedDeadLetter, became: Literal["retried", "discarded"], retried_as: Origin | None = None
) -> LetterMark:
    return LetterMark(became, one.letter.origin, CLOCK.now_ms(), retried_as)


# --- showing ----------------------------------------------------------------------------------------------------------


def _shown(one: ListedDeadLetter) -> dict[str, Any]:
    """A letter as JSON can show it."""
    mark = one.mark
    return one.letter.shown() | {
        "time": _time(one.time_ms),
        "retried": mark is not None and mark.became == "retried",
        "discarded": mark is not None and mark.became == "discarded",
        "marked": None if mark is None else _time(mark.time_ms),
        "retried_as": None if mark is None or mark.retried_as is None else _name(mark.retried_as),
        "retry_of": None if one.retry_of is None else _name(one.retry_of),
    }


def _title(letters: Sequence[ListedDeadLetter]) -> str:
    reasons = Counter(one.letter.reason for one in letters)
    told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return f"{len(letters)} dead letters" + (f": {told}" if told else "")


def _became(one: ListedDeadLetter) -> str:
    again = "" if one.retry_of is None else f"a retry of {_name(one.retry_of)}"
    if one.mark is None:
        return again
    as_what = "" if one.mark.retried_as is None else f" as {_name(one.mark.retried_as)}"
    return f"{one.mark.became} {_time(one.mark.time_ms)}{as_what}" + (f"; {again}" if again else "")


def _name(origin: Origin) -> str:
    return f"{origin[1]}:{origin[2]}"


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds")
