"""Status: how far every stream is, and what stands behind it on the topic. Reads only."""

from collections.abc import Sequence

import msgspec

from crashfold.engine.errors import StateError
from crashfold.engine.ports import Bounds, EventLog, Folding, StateStore, Stored, StreamTotals
from crashfold.engine.runtime.streams import restored


class StreamStatus(msgspec.Struct, frozen=True):
    """One stream. Times are epoch milliseconds; `lag_records` counts offsets behind the checkpoint, of this stream or
    of others on its partition that came after its last record."""

    stream: str
    version: int
    generation: str
    games: int
    newest_id: int | None
    newest_end_time: int | None
    event_time: int | None
    window_games: int
    partition: int
    next_offset: int
    lag_records: int | None
    settings_match: bool
    """Whether the engine would take this state under these settings, or ask for a rebuild."""


class PartitionStatus(msgspec.Struct, frozen=True):
    """One partition: the records it holds, and up to where all streams are committed."""

    partition: int
    begin: int
    end: int
    next_offset: int | None


class Status(msgspec.Struct, frozen=True):
    """Everything that `crashfold status` shows. `log_error` says why nothing is known of the topic."""

    topic: str
    streams: tuple[StreamStatus, ...]
    partitions: tuple[PartitionStatus, ...]
    log_error: str | None


async def known_streams(store: StateStore, topic: str, partitions: Sequence[int], only_stream: str | None) -> list[str]:
    """The streams that an engine has met on the topic: the only one, or those in the partitions' manifests."""
    if only_stream is not None:
        return [only_stream]
    found: set[str] = set()
    for number in partitions:
        manifest = await store.read_manifest(topic, number)
        found.update(manifest.streams if manifest else ())
    return sorted(found)


def stream_status(
    folding: Folding, stream: str, stored: Stored, bounds: Bounds | None, low_water: int | None
) -> StreamStatus:
    """The numbers of one stream; an idle stream of many stands where its partition stands."""
    checkpoint = stored.checkpoint
    matches = checkpoint.fingerprint == folding.fingerprint
    totals = _totals(folding, stream, stored) if matches else None
    newest = folding.newest(stored.window)
    position = max(checkpoint.next_offset, low_water or 0)
    return StreamStatus(
        stream=stream,
        version=stored.version,
        generation=checkpoint.generation,
        games=totals.games if totals else len(stored.window),
        newest_id=None if newest is None else newest.id,
        newest_end_time=None if newest is None else newest.time_ms,
        event_time=totals.event_time if totals else None,
        window_games=len(stored.window),
        partition=checkpoint.partition,
        next_offset=checkpoint.next_offset,
        lag_records=None if bounds is None else max(0, bounds.end - position),
        settings_match=matches and totals is not None,
    )


def _totals(folding: Folding, stream: str, stored: Stored) -> StreamTotals | None:
    """Return the stream's numbers; None when its state cannot be read, which is for the engine to refuse."""
    try:
        return restored(stream, folding, stored).totals
    except StateError:
        return None


async def status(
    store: StateStore,
    event_log: EventLog | None,
    topic: str,
    folding: Folding,
    streams: Sequence[str],
    log_error: str | None,
) -> Status:
    """The status of `streams`; without a log only what the store knows."""
    partitions = []
    bounds: dict[int, Bounds] = {}
    low_water: dict[int, int] = {}
    for number in sorted(await event_log.partitions()) if event_log else ():
        bounds[number] = await event_log.bounds(number) if event_log else Bounds(0, 0)
        manifest = await store.read_manifest(topic, number)
        if manifest is not None:
            low_water[number] = manifest.low_water
        partitions.append(PartitionStatus(number, bounds[number].begin, bounds[number].end, low_water.get(number)))
    rows = []
    for stream in streams:
        stored = await store.load(stream)
        if stored is not None:
            number = stored.checkpoint.partition
            rows.append(stream_status(folding, stream, stored, bounds.get(number), low_water.get(number)))
    return Status(topic, tuple(rows), tuple(partitions), log_error)
