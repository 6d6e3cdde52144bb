"""`crashfold publish`: games from a file into the topic."""

from collections.abc import Iterator
from pathlib import Path

from engine.adapters.files import FileLine, read_games_file
from engine.adapters.kafka_client import connection_options
from engine.adapters.kafka_topics import ensure_topic
from engine.cli import options, output
from engine.cli.bootstrap import CLOCK
from engine.cli.options import Common
from engine.core.batch import future_detail
from engine.errors import CrashfoldError
from engine.ports import Clock
from engine.publisher import open_sink
from engine.settings import Settings
from projections import ProjectionSettings, plain
from schemas.game import DEFAULT_STREAM, Unreadable, decode, is_stream_name

SHOWN_BAD_LINES = 20


def publish(
    file: Path,
    *,
    stream: str | None = None,
    partitions: int = 1,
    unchecked: bool = False,
    json: bool = False,
    common: Common | None = None,
) -> int:
    """Publish the games of a JSONL or CSV file (also .gz) to the topic, keyed by stream.

    Publishing a file again is harmless: the engine ignores games that it has. Lines that are no games are named and
    left out, and the exit code is 1.

    Parameters
    ----------
    file
        One game a line, with the fields of the event; a field `stream` names the game's stream.
    stream
        The stream of games that name none.
    partitions
        How many partitions the topic gets if it has to be made.
    unchecked
        Publish every line as it stands, also those that are no games.
    json
        Print the result as JSON.
    """
    settings = options.settings(common)
    stream = stream or (DEFAULT_STREAM if settings.redis.many_streams else settings.engine.stream)
    if not is_stream_name(stream):
        raise CrashfoldError(f"--stream {stream}: a stream name is 1 to 64 of A-Z a-z 0-9 . _ -")
    bad: list[tuple[int, str]] = []
    published = options.run(publish_file, settings, file, stream, partitions, None if unchecked else bad)
    if json:
        result = {"topic": settings.kafka.topic, "published": published, "left_out": [line for line, _ in bad]}
        output.print_json(result)
    else:
        output.print_line(f"{published} games published to {settings.kafka.topic}")
    for number, detail in bad[:SHOWN_BAD_LINES]:
        output.print_error(f"{file}:{number}: {detail}")
    if bad:
        output.print_error(f"{len(bad)} lines are no games and were left out; mend them, or publish all by --unchecked")
    return 1 if bad else 0


async def publish_file(
    settings: Settings,
    file: Path,
    stream: str,
    partitions: int = 1,
    bad: list[tuple[int, str]] | None = None,
    clock: Clock = CLOCK,
) -> int:
    """Publish a file; how many records. Lines that the engine would make dead letters, as far as one can tell, go to
    `bad`; when that is None, to the topic too."""
    kafka = settings.kafka
    lines = read_games_file(file)
    first = next(lines, None)  # a file that cannot be read says so before anything is made
    await ensure_topic(connection_options(kafka), kafka.topic, partitions)
    async with open_sink(kafka) as sink:
        for line in _all(first, lines):
            if bad is not None and (detail := _fault(settings.projections, line.value, clock.now_ms())) is not None:
                bad.append((line.number, detail))
                continue
            await sink.send(kafka.topic, line.key or stream.encode(), line.value)
        await sink.flush()
        return sink.acknowledged


def _fault(settings: ProjectionSettings, value: bytes, now_ms: int) -> str | None:
    """What the engine would say against the value, if its record were written now; None when that is nothing."""
    game = decode(value)
    if isinstance(game, Unreadable):
        return game.detail
    if plain.is_future(settings, game.end_time, now_ms):
        return future_detail(game.end_time, now_ms, settings.future_hours_max)
    return None


def _all(first: FileLine | None, rest: Iterator[FileLine]) -> Iterator[FileLine]:
    if first is not None:
        yield first
    yield from rest
