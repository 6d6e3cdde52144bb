"""Where reading a partition begins, and whether it still holds what was read before. Decisions on facts, no I/O."""

from collections.abc import Mapping

import msgspec

from crashfold.engine.ports import Bounds, Manifest, Mark, Record


class Begin(msgspec.Struct, frozen=True):
    """The decision to read from `next_offset` on. Records that their streams' checkpoints have passed are skipped."""

    next_offset: int


class Lost(msgspec.Struct, frozen=True):
    """The finding that records from `first` up to `begin` (exclusive) are needed, and that the topic has lost them.

    `stream` needs them when its keys are gone, None says that others do. `first` is -1 when that stream had games of an
    earlier topic of the name.
    """

    first: int
    begin: int
    stream: str | None = None


class Recreated(msgspec.Struct, frozen=True):
    """The finding that the partition is not the one that was read; `evidence` says how that shows."""

    evidence: str


Start = Begin | Lost | Recreated


def where_to_begin(
    manifest: Manifest | None,
    stored: Mapping[str, int | None],
    topic_id: str | None,
    bounds: Bounds,
    found: Record | None,
) -> Start:
    """Decide where reading begins.

    `stored` holds what the checkpoints of the manifest's streams say now, None for one that has none (any more);
    `topic_id` is the id that the topic has now, `found` the record at the offset of the manifest's mark.
    """
    if manifest is None:
        return Begin(bounds.begin)
    if recreated := was_recreated(manifest.topic_id, manifest.mark, topic_id, bounds, found):
        return recreated
    if manifest.low_water > bounds.end:
        return Recreated(f"it ends at offset {bounds.end}, but it was read up to {manifest.low_water}")
    behind = [
        now for stream, known in manifest.streams.items() if (now := stored.get(stream)) is not None and now < known
    ]
    next_offset = min(manifest.low_water, *behind) if behind else manifest.low_water
    # Only the whole topic brings back a stream whose keys are gone, and the dead letters before its first game.
    gone = {stream: manifest.first_offsets.get(stream, 0) for stream in manifest.streams if stored.get(stream) is None}
    if gone:
        stream = min(gone, key=lambda name: (gone[name], name))
        if gone[stream] < min(next_offset, bounds.begin):
            return Lost(gone[stream], bounds.begin, stream)
    if next_offset < bounds.begin:
        return Lost(next_offset, bounds.begin)
    return Begin(bounds.begin if gone else next_offset)


def was_recreated(
    known_id: str | None, mark: Mark | None, topic_id: str | None, bounds: Bounds, found: Record | None
) -> Recreated | None:
    """Whether the topic is another one now, or the record that was read last.

    The ids decide where both are known. The record says it where they are not; and where they are it shows that a
    partition lost records and got others, as with an unclean election of its leader.
    """
    if known_id is not None and topic_id is not None and known_id != topic_id:
        return Recreated(f"the topic's id is {topic_id}, and was {known_id}")
    if mark is None:
        return None
    if found is not None:
        if Mark.of(found) == mark:
            return None
        return Recreated(f"the record at offset {mark.offset} is not the one that was read there")
    if mark.offset >= bounds.end:
        return Recreated(f"it ends at offset {bounds.end}, but offset {mark.offset} had been read")
    return None  # retention or compaction removed it
