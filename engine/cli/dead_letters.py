"""`crashfold dead-letters`: list, show, retry."""

from typing import Annotated

from cyclopts import App, Parameter

from engine.adapters.dead_letters import StoredDeadLetter
from engine.adapters.file_dead_letters import shown
from engine.adapters.kafka_sink import KafkaDeadLetters
from engine.cli import options, output
from engine.cli.bootstrap import open_log
from engine.cli.options import Common
from engine.errors import CrashfoldError
from engine.publisher import open_sink
from engine.settings import Settings

app = App(name="dead-letters", help="Look at the records that could not be folded, and publish them again.")

Origin = Annotated[str, Parameter(help="partition:offset of the record on its topic, as `list` shows it.")]


@app.command(name="list")
def list_(*, reason: str | None = None, json: bool = False, common: Common | None = None) -> None:
    """List the dead letters, oldest first; one that was handed over twice stands there once.

    Parameters
    ----------
    reason
        Only those with this reason.
    json
        Print them as JSON.
    """
    letters = [letter for letter in _read(common) if reason is None or letter.reason == reason]
    if json:
        output.print_json([shown(letter) for letter in letters])
        return
    rows = [
        (f"{one.partition}:{one.offset}", one.reason, one.detail, shown(one)["key"], one.value_bytes) for one in letters
    ]
    output.print_table(f"{len(letters)} dead letters", ("origin", "reason", "detail", "key", "bytes"), rows)


@app.command
def show(origin: Origin, *, json: bool = False, common: Common | None = None) -> None:
    """Show one dead letter with the beginning of its value (up to 4 KiB)."""
    letter = _find(_read(common), origin)
    if json:
        output.print_json(shown(letter))
        return
    output.print_table(origin, ("field", "value"), list(shown(letter).items()))


@app.command
def retry(
    *origins: Origin, all_: Annotated[bool, Parameter(name="--all")] = False, common: Common | None = None
) -> None:
    """Publish the records of dead letters again, whole, at the end of the topic, for example after settings changed.

    A record that still cannot be folded becomes a dead letter again.

    Parameters
    ----------
    all_
        Every dead letter.
    """
    if not origins and not all_:
        raise CrashfoldError("name the letters to retry as partition:offset, or all by --all")
    settings = options.settings(common)
    letters = options.run(_letters, settings)
    wanted = letters if all_ else [_find(letters, origin) for origin in origins]
    published = options.run(_retry, settings, wanted)
    output.print_line(f"{published} records published again to {settings.kafka.topic}")


def _read(common: Common | None) -> list[StoredDeadLetter]:
    return options.run(_letters, options.settings(common))


async def _letters(settings: Settings) -> list[StoredDeadLetter]:
    async with KafkaDeadLetters.from_settings(settings.kafka) as dead_letters:
        return [letter async for letter in dead_letters.read()]


async def _retry(settings: Settings, letters: list[StoredDeadLetter]) -> int:
    """Publish them again: the record as the topic still has it, or else the letter if it holds all of it."""
    topic = settings.kafka.topic
    lost = []
    async with open_log(settings) as event_log, open_sink(settings.kafka) as sink:
        for letter in letters:
            record = await event_log.record(letter.partition, letter.offset) if letter.topic == topic else None
            if record is not None:
                key, value = record.key, record.value
            else:
                key, value = letter.key, letter.value if letter.whole else None
            if value is None:
                lost.append(letter)
                continue
            await sink.send(topic, key, value)
        await sink.flush()
        published = sink.acknowledged
    if lost:
        names = ", ".join(f"{letter.partition}:{letter.offset}" for letter in lost)
        raise CrashfoldError(
            f"{published} records published again; not these: {names}. Nothing is left of them to publish: they are "
            "tombstones, or the topic no longer has them and they were longer than the letter."
        )
    return published


def _find(letters: list[StoredDeadLetter], origin: str) -> StoredDeadLetter:
    for letter in letters:
        if origin == f"{letter.partition}:{letter.offset}":
            return letter
    raise CrashfoldError(f"there is no dead letter {origin}; `crashfold dead-letters list` shows them")
