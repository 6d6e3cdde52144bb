"""Where reading a partition begins, and whether it still holds what was read before. Decisions on facts, no I/O."""

from collections.abc import Mapping

import msgspec

from engine.core.facts import Bounds, Manifest, Mark, Record


class Begin(msgspec.Struct, frozen=True):
    """Read from `next_offset` on. Records that their streams' checkpoints have passed are skipped when they come."""

    next_offset: int


class Lost(msgspec.Struct, frozen=True):
    """The records from `first` up to `begin` (exclusive) are needed and gone."""

    first: int
    begin: int


class Recreated(msgspec.Struct, frozen=True):
    """The partition is not the one that was read: `evidence` says how that shows."""

    evidence: str


Start = Begin | Lost | Recreated


def where_to_begin(
    manifest: Manifest | None, stored: Mapping[str, int | None], bounds: Bounds, found: Record | None
) -> Start:
    """Where reading begins.

    `stored` holds what the checkpoints of the manifest's streams say now, None for one that has none (any more);
    `found` is the record at the offset of the manifest's mark, as the log has it now.
    """
    if manifest is None:
        return Begin(bounds.begin)
    if recreated := was_recreated(manifest.mark, bounds, found):
        return recreated
    if manifest.low_water > bounds.end:
        return Recreated(f"it ends at offset {bounds.end}, but it was read up to {manifest.low_water}")
    behind = [
        now for stream, known in manifest.streams.items() if (now := stored.get(stream)) is not None and now < known
    ]
    gone = [stream for stream in manifest.streams if stored.get(stream) is None]
    if gone and len(gone) == len(manifest.streams):
        return Begin(bounds.begin)  # nothing is left that could miss what retention removed
    next_offset = min(manifest.low_water, *behind) if behind else manifest.low_water
    if next_offset < bounds.begin:
        return Lost(next_offset, bounds.begin)
    # Only the whole topic brings back a stream whose keys are gone.
    return Begin(bounds.begin if gone else next_offset)


def was_recreated(mark: Mark | None, bounds: Bounds, found: Record | None) -> Recreated | None:
    """Whether the record that was read last is another one now."""
    if mark is None:
        return None
    if found is not None:
        if Mark.of(found) == mark:
            return None
        return Recreated(f"the record at offset {mark.offset} is not the one that was read there")
    if mark.offset >= bounds.end:
        return Recreated(f"it ends at offset {bounds.end}, but offset {mark.offset} had been read")
    return None  # retention or compaction removed it
