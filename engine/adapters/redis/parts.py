"""Big commits: as several calls of `commit.lua`, each of which keeps Redis busy for a moment.

Imports msgspec, the ports' facts, `projections.delta` and schemas; no client library, no I/O.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from operator import itemgetter
from typing import Final

import msgspec

from crashfold.engine.ports import Commit
from crashfold.projections.delta import Delta, Remove, SetString, Write, WriteHash, WriteList, Writes, WriteSortedSet
from crashfold.schemas import keys

PART_BYTES: Final = 256 * 1024
"""A part of a big commit: Redis is busy with it for some 2 ms."""

LAST_BYTES_MAX: Final = 512 * 1024
"""The writes of the last call of a staged commit, those of its checkpoint not counted."""

ALL_PARTS: Final = 2**31
"""More parts than a commit can have."""

WRITE_BYTES: Final = 64
"""The overhead of a write or an element, in bytes beside its own."""


class Part(msgspec.Struct, frozen=True):
    """One of the calls that a big commit is split into, each with a compare-and-set of its own.

    Between the parts the checkpoint's `next_offset` is a mark such as `100>200#3`: three parts are written of the
    commit that leads from 100 to 200. So several may be sent at once: they are made in order or not at all. Sent again
    after a lost reply, a commit goes on behind the last part that was made; no part is ever applied twice, which a list
    would show.
    """

    number: int
    expected: tuple[str, str, str]
    next_offset: str
    delta: Writes
    is_last: bool


def whole(commit: Commit) -> Part:
    """Make the commit one part."""
    return Part(1, expected_of(commit), str(commit.checkpoint.next_offset), commit.delta, True)


def parts_in_turn(commit: Commit, part_bytes: int = PART_BYTES) -> Iterator[Part]:
    """The commit in parts of about so many bytes, each made when it is asked for.

    The last one brings the checkpoint with all its fields.
    """
    expected, mark = expected_of(commit), _mark_of_parts(commit)
    deltas = _deltas(commit.delta, part_bytes)
    number, delta = 1, next(deltas)
    for following in deltas:
        offset = f"{mark}{number}"
        yield Part(number, expected, offset, delta, False)
        made = (commit.checkpoint.generation, offset, commit.checkpoint.commit)
        expected, number, delta = made, number + 1, following
    if keys.CHECKPOINT in commit.delta:
        delta[keys.CHECKPOINT] = commit.delta[keys.CHECKPOINT]
    yield Part(number, expected, str(commit.checkpoint.next_offset), delta, True)


def parts_made(commit: Commit, generation: bytes, next_offset: bytes, commit_id: bytes) -> int | None:
    """How many parts of the commit are made when the checkpoint stands there, `ALL_PARTS` when it is made whole; None
    when it stands where no part of this commit leads from or to."""
    found = (generation.decode(), next_offset.decode(), commit_id.decode())
    if found == expected_of(commit):
        return 0
    if (found[0], found[2]) != (commit.checkpoint.generation, commit.checkpoint.commit):
        return None
    if found[1] == str(commit.checkpoint.next_offset):
        return ALL_PARTS
    mark = _mark_of_parts(commit)
    return int(found[1].removeprefix(mark)) if found[1].startswith(mark) else None


def staged_parts(commit: Commit, delta: Writes, part_bytes: int = PART_BYTES) -> Iterator[Part]:
    """These writes of the commit in parts for the staged keys; the last one leads to the position of the commit."""
    generation, commit_id = commit.checkpoint.generation, commit.checkpoint.commit
    offset, deltas = stage_offset(commit), [*_deltas(delta, part_bytes)]
    for number, some in enumerate(deltas, 1):
        expected = (generation, offset, commit_id)
        is_last = number == len(deltas)
        offset = str(commit.checkpoint.next_offset) if is_last else f"{_mark_of_parts(commit)}{number}"
        yield Part(number, expected, offset, some, False)


def stage_offset(commit: Commit) -> str:
    """The `next_offset` of the staged checkpoint before the first part."""
    return f"{_mark_of_parts(commit)}0"


def parted(delta: Writes, last_bytes: int) -> tuple[Delta, Delta]:
    """The biggest writes of the delta, and the others: as many as come to `last_bytes`, and those of the checkpoint."""
    weights = {
        name: weight(write)
        for name, write in delta.items()
        if name != keys.CHECKPOINT and not isinstance(write, Remove)
    }
    biggest: Delta = {}
    left = sum(weights.values())
    for name in sorted(weights, key=weights.__getitem__, reverse=True):
        if left <= last_bytes:
            break
        biggest[name] = delta[name]
        left -= weights[name]
    return biggest, {name: write for name, write in delta.items() if name not in biggest}


def weight(write: Write) -> int:
    """About how many bytes the write is on its way."""
    match write:
        case WriteHash(fields, delete):
            pairs = len(fields) + len(delete)
            return sum(map(len, fields)) + sum(map(len, fields.values())) + WRITE_BYTES * (1 + pairs)
        case WriteList(_, push):
            return sum(map(len, push)) + WRITE_BYTES * (1 + len(push))
        case WriteSortedSet(add):
            return sum(map(len, add.values())) + WRITE_BYTES * (1 + len(add))
        case SetString(content):
            return WRITE_BYTES + len(content)
        case Remove():
            return WRITE_BYTES


def expected_of(commit: Commit) -> tuple[str, str, str]:
    """Generation, next offset and commit of the checkpoint that the commit expects; '' each when it expects none."""
    expected = commit.expected
    return ("", "", "") if expected is None else (expected.generation, str(expected.next_offset), expected.commit)


def _deltas(delta: Writes, part_bytes: int) -> Iterator[Delta]:
    """The delta without its checkpoint as smaller ones of about so many bytes: one at least."""
    some: Delta = {}
    room = part_bytes
    for name, write in delta.items():
        if name == keys.CHECKPOINT:
            continue
        for piece, weight in _pieces(write, room, part_bytes):
            if name in some or (weight > room and some):
                yield some
                some, room = {}, part_bytes
            some[name] = piece
            room -= weight
    yield some


def _pieces(write: Write, room: int, bytes_max: int) -> Iterator[tuple[Write, int]]:
    """The write as several smaller ones that do the same one after the other, each with what it weighs: the first about
    `room`, the others `bytes_max`."""
    match write:
        case WriteHash(fields, delete, known):
            named = [*fields.items()]
            for start, stop, weight in _chunks([len(name) + len(content) for name, content in named], room, bytes_max):
                gone = delete if stop == len(named) else ()
                yield WriteHash(dict(named[start:stop]), gone, known), weight + WRITE_BYTES * len(gone)
        case WriteList(drop, push, keep, known):
            for start, stop, weight in _chunks([*map(len, reversed(push))], room, bytes_max):
                yield WriteList(drop, push[len(push) - stop : len(push) - start], keep, known), weight
                drop = known = 0
        case WriteSortedSet(add, remove_below, known):
            members = sorted(add.items(), key=itemgetter(0))
            for start, stop, weight in _chunks([len(member) for _, member in members], room, bytes_max):
                yield (
                    WriteSortedSet(dict(members[start:stop]), remove_below if stop == len(members) else 0, known),
                    weight,
                )
        case SetString(content):
            yield write, WRITE_BYTES + len(content)
        case Remove():
            yield write, WRITE_BYTES


def _chunks(weights: Sequence[int], room: int, bytes_max: int) -> Iterator[tuple[int, int, int]]:
    """Elements of these weights in runs of at most about `room`, then `bytes_max`: at least one run, each with where it
    starts and stops (exclusive), and its weight."""
    ends = [*accumulate(map(WRITE_BYTES.__add__, weights))]
    start = passed = 0
    while True:
        stop = max(start + 1, bisect_right(ends, passed + room))
        if stop >= len(ends):
            yield start, len(ends), (ends[-1] if ends else 0) - passed
            return
        yield start, stop, ends[stop - 1] - passed
        start, passed, room = stop, ends[stop - 1], bytes_max


def _mark_of_parts(commit: Commit) -> str:
    """Prefix of the checkpoint's `next_offset` between parts; the number of parts made follows."""
    return f"{expected_of(commit)[1]}>{commit.checkpoint.next_offset}#"
