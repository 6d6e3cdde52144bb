"""`crashfold status`: how far every stream is."""

from pathlib import Path

from crashfold.engine.cli import options, output
from crashfold.engine.cli.bootstrap import folding_of, known_stream, only_stream, open_log, open_store, streams_of
from crashfold.engine.cli.options import Common
from crashfold.engine.errors import LogUnavailable
from crashfold.engine.runtime.status import Status
from crashfold.engine.runtime.status import status as status_of
from crashfold.engine.settings import Settings


def status(
    *, stream: str | None = None, file: Path | None = None, json: bool = False, common: Common | None = None
) -> None:
    """Show how far every stream is folded, and how far the topic is ahead.

    Parameters
    ----------
    stream
        Only this stream.
    file
        Compare with this JSONL or CSV file instead of the topic.
    json
        Print the result as JSON.
    """
    found = options.run(read_status, options.settings(common), stream, file)
    if json:
        output.print_json(found)
        return
    if found.log_error:
        output.print_error(f"the topic cannot be read: {found.log_error}")
    output.print_table(
        f"topic {found.topic}",
        ("partition", "begin", "end", "committed to"),
        [(one.partition, one.begin, one.end, one.next_offset) for one in found.partitions],
    )
    output.print_table(
        "streams",
        ("stream", "version", "games", "newest id", "window", "partition", "next_offset", "lag", "settings match"),
        [
            (
                one.stream,
                one.version,
                one.games,
                one.newest_id,
                one.window_games,
                one.partition,
                one.next_offset,
                one.lag_records,
                "yes" if one.settings_match else "no: rebuild by `crashfold replay`",
            )
            for one in found.streams
        ],
    )


async def read_status(settings: Settings, stream: str | None = None, file: Path | None = None) -> Status:
    """Return the positions in the store, and those of the topic if it answers."""
    folding, only = folding_of(settings), only_stream(settings)
    async with open_store(settings) as store:
        try:
            async with open_log(settings, file) as event_log:
                streams = await streams_of(settings, store, event_log, stream)
                return await status_of(store, event_log, event_log.topic, folding, streams, None)
        except LogUnavailable as error:
            wanted = None if stream is None else await known_stream(settings, store, stream)
            named = [name for name in (wanted or only,) if name is not None]
            return await status_of(store, None, settings.kafka.topic, folding, named, str(error))
