"""Verify: recompute a stream from the topic by the plain oracle, up to its stored checkpoint, and compare key by key.

Shares nothing with the line but decoding. Reads only.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from engine.core.facts import Stored
from engine.errors import StateError
from engine.ports import EventLog, StateReader
from projections import Plan, StreamState, plain
from projections.delta import SortedSet, Value
from projections.plain import Arrivals
from schemas.game import Game, Unreadable, decode, stream_name

BATCH_GAMES: Final = 20_000
POLL_WAIT_S: Final = 0.5
SHOWN_BYTES: Final = 200


class CannotCompare(StateError):
    """Stored state and topic cannot be compared; the message says why. `verify` ends with 2."""

    exit_code = 2


class Difference(msgspec.Struct, frozen=True):
    """A key, or a part of one, that is not as the topic says it should be. None stands for nothing at all."""

    stream: str
    key: str
    part: str | None
    expected: str | None
    stored: str | None


class Verified(msgspec.Struct, frozen=True):
    """One stream that was compared, all keys of one version."""

    stream: str
    version: int
    games: int
    keys: int
    next_offset: int
    duplicates: int
    rejected: int


class VerifyReport(msgspec.Struct, frozen=True):
    """What was compared, and every difference that was found."""

    streams: tuple[Verified, ...]
    differences: tuple[Difference, ...]


class _Recount:
    """A stream as the topic has it."""

    def __init__(self, stored: Stored, model: dict[str, Value], arrivals: Arrivals) -> None:
        self.stored = stored
        self.model = model
        self.arrivals = arrivals
        self.rejected = 0

    def take(self, offset: int, value: bytes | None) -> None:
        if offset < self.stored.checkpoint.next_offset:
            game = decode(value)
            if isinstance(game, Unreadable) or self.arrivals.arrive(game):
                self.rejected += 1


async def verify(
    event_log: EventLog,
    reader: StateReader,
    plan: Plan,
    streams: Sequence[str],
    progressed: Callable[[int, int], None] = lambda read, total: None,
) -> VerifyReport:
    """Compare each stream's keys with what the topic says. Raises CannotCompare when that cannot be done."""
    recounts = {stream: await _stored(reader, plan, event_log.topic, stream) for stream in streams}
    await _read_topic(event_log, recounts, progressed)
    verified, differences = [], []
    for stream, recount in recounts.items():
        games = recount.arrivals.accepted
        expected = _expected(plan, games)
        differences += differences_of(stream, expected, recount.model)
        differences += _restart_differences(stream, plan, expected, recount.stored)
        verified.append(
            Verified(
                stream,
                recount.stored.version,
                len(games),
                len(expected),
                recount.stored.checkpoint.next_offset,
                recount.arrivals.duplicates,
                recount.rejected,
            )
        )
    return VerifyReport(tuple(verified), tuple(differences))


def differences_of(stream: str, expected: Mapping[str, Value], stored: Mapping[str, Value]) -> list[Difference]:
    """Where two read models differ: by key, and within hashes, lists and sorted sets by field, index or id."""
    differences = []
    for key in sorted(expected.keys() | stored.keys()):
        want, have = _parts(expected.get(key)), _parts(stored.get(key))
        for part in [part for part in want | have if want.get(part) != have.get(part)]:
            differences.append(Difference(stream, key, part, _shown(want.get(part)), _shown(have.get(part))))
    return differences


async def _stored(reader: StateReader, plan: Plan, topic: str, stream: str) -> _Recount:
    read = await reader.read_model(stream)
    if read is None:
        raise CannotCompare(f"nothing is stored for stream {stream}: run `crashfold run` or `crashfold replay` first")
    stored, model = read
    checkpoint = stored.checkpoint
    if checkpoint.fingerprint != plan.fingerprint:
        raise CannotCompare(
            f"stream {stream} was folded with other predicates, sizes or projections than these settings have: verify "
            "with those, or rebuild by `crashfold replay`"
        )
    if checkpoint.topic != topic:
        raise CannotCompare(f"stream {stream} was folded from topic {checkpoint.topic}, not from {topic}")
    return _Recount(stored, model, Arrivals(plan.settings))


async def _read_topic(
    event_log: EventLog, recounts: dict[str, _Recount], progressed: Callable[[int, int], None]
) -> None:
    """Let every stream's games arrive, up to its checkpoint."""
    gained: frozenset[int] = frozenset()
    while not gained:
        gained = (await event_log.poll(BATCH_GAMES, POLL_WAIT_S)).gained
    positions, ends = {}, {}
    for number in gained:
        here = {
            stream: recount.stored.checkpoint
            for stream, recount in recounts.items()
            if recount.stored.checkpoint.partition == number
        }
        bounds = await event_log.bounds(number)
        for stream, checkpoint in here.items():
            if checkpoint.first_offset < bounds.begin:
                raise CannotCompare(
                    f"retention removed offsets {checkpoint.first_offset} to {bounds.begin - 1} of {event_log.topic}/"
                    f"{number}, which stream {stream} was folded from"
                )
            if checkpoint.mark is not None and checkpoint.mark.offset >= bounds.end:
                found = await event_log.record(number, checkpoint.mark.offset)
                if found is None:
                    raise CannotCompare(
                        f"{event_log.topic}/{number} ends at offset {bounds.end}, before the checkpoint of stream "
                        f"{stream}: was the topic recreated?"
                    )
        ends[number] = max((checkpoint.next_offset for checkpoint in here.values()), default=bounds.begin)
        positions[number] = bounds.begin
        await event_log.seek(number, bounds.begin)
    total = sum(ends[number] - positions[number] for number in gained)
    read = 0
    while any(positions[number] < ends[number] for number in gained):
        for records in (await event_log.poll(BATCH_GAMES, POLL_WAIT_S)).records:
            for offset, key, value in zip(records.offsets, records.keys, records.values, strict=True):
                name = stream_name(key)
                if isinstance(name, str) and name in recounts:
                    recounts[name].take(offset, value)
            positions[records.partition] = records.next_offset
            read += len(records.offsets)
        progressed(read, max(read, total))


def _expected(plan: Plan, games: list[Game]) -> dict[str, Value]:
    """What the keys should hold: by the plain recomputation, and for projections of one's own by one fold."""
    expected = plain.read_model(plan.settings, games)
    own = set(plan.aggregates) - plain.AGGREGATES
    if own and games:
        folded = StreamState.empty(plan).fold(games).state.keys()
        expected |= {name: value for name, value in folded.items() if name.partition(":")[0] in own}
    return expected


def _restart_differences(stream: str, plan: Plan, expected: Mapping[str, Value], stored: Stored) -> list[Difference]:
    """Whether a restart would find the same state in what is stored beside the keys."""
    try:
        restarted = StreamState.load(plan, stored.state, stored.window).keys()
    except (ValueError, KeyError) as error:
        return [Difference(stream, "checkpoint", None, "a state that can be loaded", str(error))]
    return [
        Difference(stream, f"checkpoint → {found.key}", found.part, found.expected, found.stored)
        for found in differences_of(stream, expected, restarted)
    ]


def _parts(value: Value | None) -> dict[str | None, bytes]:
    match value:
        case None:
            return {}
        case bytes():
            return {None: value}
        case dict():
            return {**value}
        case list():
            return {str(index): element for index, element in enumerate(value)}
        case SortedSet(members):
            return {str(score): member for score, member in members.items()}


def _shown(value: bytes | None) -> str | None:
    if value is None:
        return None
    text = value.decode("utf-8", "replace")
    return text if len(text) <= SHOWN_BYTES else f"{text[:SHOWN_BYTES]}…"
