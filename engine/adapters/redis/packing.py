"""How commits and checkpoints look on their way to Redis and back: arguments of `commit.lua`, fields of a hash.

Imports msgspec, the ports' facts, `projections.delta` and schemas; no client library, no I/O. Every number that may
grow is text on the way, for in Lua it would be a double.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain
from operator import itemgetter
from typing import Final
from zlib import crc32

import msgspec

from crashfold.engine.adapters.redis.client import Call
from crashfold.engine.errors import StateError
from crashfold.engine.ports import Checkpoint, Commit, Manifest, Mark, Position
from crashfold.projections.delta import (
    Delta,
    Remove,
    SetString,
    SortedSet,
    Value,
    Write,
    WriteHash,
    WriteList,
    Writes,
    WriteSortedSet,
)
from crashfold.schemas import keys
from crashfold.schemas.keys import Keys
from crashfold.schemas.record import is_stream_name

WAY_OUT: Final = "`crashfold replay` rebuilds it"

PART_BYTES: Final = 256 * 1024
"""A part of a shadow's commit: Redis is busy with it for some 2 ms."""

ALL_PARTS: Final = 2**31
"""More parts than a commit can have."""

_WRITE_BYTES: Final = 64
"""The overhead of a write or an element, in bytes beside its own."""

_BOOKKEEPING: Final = frozenset(
    (
        *("next_offset", "generation", "commit", "writer", "topic", "topic_id", "partition", "first_offset"),
        *("mark_offset", "mark_timestamp", "mark_digest", "fingerprint", "aggregates"),
        *("total_games", "newest", "proof", "begun", "keys_created"),
    )
)
"""The fields of the checkpoint's hash that are not the state's."""

CHECKPOINT_FIELDS: Final = tuple(sorted(_BOOKKEEPING))
"""The fields of the hash that `checkpoint` reads."""

_PROVEN: Final = tuple(sorted(_BOOKKEEPING - {"proof", "begun", "keys_created"}))

_STREAM: Final = "stream:"
_FIRST: Final = "first:"
"""Prefixes of the manifest's fields with the `next_offset` and the `first_offset` of a stream."""

_Packed = str | msgspec.Raw


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
    """The commit in one part."""
    return Part(1, _expected(commit), str(commit.checkpoint.next_offset), commit.delta, True)


def parts(commit: Commit, part_bytes: int = PART_BYTES) -> list[Part]:
    """The commit in parts of about so many bytes; the last brings the checkpoint with all its fields."""
    return [*parts_in_turn(commit, part_bytes)]


def parts_in_turn(commit: Commit, part_bytes: int = PART_BYTES) -> Iterator[Part]:
    """`parts`, each made when it is asked for."""
    expected, mark = _expected(commit), _mark_of_parts(commit)
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
    if found == _expected(commit):
        return 0
    if (found[0], found[2]) != (commit.checkpoint.generation, commit.checkpoint.commit):
        return None
    if found[1] == str(commit.checkpoint.next_offset):
        return ALL_PARTS
    mark = _mark_of_parts(commit)
    return int(found[1].removeprefix(mark)) if found[1].startswith(mark) else None


def call(names: Keys, commit: Commit, part: Part) -> Call:
    """The call of `commit.lua` that makes this part of the commit. Raises TypeError for a delta that is none."""
    checkpoint, delta = commit.checkpoint, part.delta
    if part.is_last:
        fields = checkpoint_fields(commit)
        tail = f',"total_games":{commit.total_games},"newest":{_json(commit.newest_id)}}}'
    else:
        fields = {
            "generation": checkpoint.generation,
            "next_offset": part.next_offset,
            "commit": checkpoint.commit,
        }
        tail = ""
    packed: list[object] = [*flattened(fields.items())]
    gone: tuple[str, ...] = ()
    try:
        places, writes = _packed(delta, bytes.decode)
    except UnicodeDecodeError:
        places, writes = _packed(delta, _text)
    start, touched = names.key(""), [names.checkpoint, names.version]
    for name, write in delta.items():
        if name != keys.CHECKPOINT:
            touched.append(start + name)
        elif isinstance(write, WriteHash) and write.set.keys().isdisjoint(_BOOKKEEPING):
            packed += flattened((field, _text(value)) for field, value in write.set.items())
            gone = write.delete
        else:
            raise TypeError(f"the checkpoint takes the fields of a state, not {type(write).__name__}")
    return Call(
        touched,
        (
            *part.expected,
            checkpoint.generation,
            part.next_offset,
            checkpoint.commit,
            names.updates,
            tail,
            msgspec.msgpack.encode((packed, gone, places, writes)),
        ),
    )


def checkpoint_fields(commit: Commit) -> dict[str, str]:
    """The bookkeeping fields of the checkpoint's hash, but for `begun` and `keys_created`, which the script counts."""
    checkpoint = commit.checkpoint
    fields = {
        "next_offset": str(checkpoint.next_offset),
        "generation": checkpoint.generation,
        "commit": checkpoint.commit,
        "writer": checkpoint.writer,
        "topic": checkpoint.topic,
        "topic_id": checkpoint.topic_id or "",
        "partition": str(checkpoint.partition),
        "first_offset": str(checkpoint.first_offset),
        **_mark_fields(checkpoint.mark),
        "fingerprint": checkpoint.fingerprint,
        "aggregates": ",".join(checkpoint.aggregates),
        "total_games": str(commit.total_games),
        "newest": "" if commit.newest_id is None else str(commit.newest_id),
    }
    return {**fields, "proof": _proof(fields)}


def checkpoint(key: str, fields: Mapping[bytes, bytes]) -> Checkpoint:
    """The checkpoint whose hash that is. Raises StateError, naming the key, when it cannot be read."""
    try:
        text = {field.decode(): fields[field].decode() for field in _present(fields)}
        read = Checkpoint(
            next_offset=offset(key, text["next_offset"]),
            generation=text["generation"],
            commit=text.get("commit", ""),
            writer=text["writer"],
            topic=text["topic"],
            topic_id=text.get("topic_id") or None,
            partition=int(text["partition"]),
            first_offset=int(text["first_offset"]),
            mark=_mark(text),
            fingerprint=text["fingerprint"],
            aggregates=split_aggregates(text["aggregates"]),
        )
    except (KeyError, ValueError) as error:
        raise StateError(f"{key} is no checkpoint ({error!r}): {WAY_OUT}") from None
    if read.commit and text.get("proof") != _proof(text):
        raise StateError(f"{key} has a field that no commit wrote there: {WAY_OUT}")
    return read


def total_games(key: str, fields: Mapping[bytes, bytes]) -> int:
    """How many games the checkpoint whose hash that is has. Raises StateError, naming the key, for no number."""
    try:
        return int(fields[b"total_games"])
    except (KeyError, ValueError) as error:
        raise StateError(f"{key} is no checkpoint ({error!r}): {WAY_OUT}") from None


def state(fields: Mapping[bytes, bytes]) -> dict[str, bytes]:
    """The fields of the checkpoint's hash that belong to the state."""
    named = ((field.decode("utf-8", "replace"), content) for field, content in fields.items())
    return {field: content for field, content in named if field not in _BOOKKEEPING}


def split_aggregates(text: str) -> tuple[str, ...]:
    """The field `aggregates` of a checkpoint."""
    return tuple(name for name in text.split(",") if name)


def offset(key: str, text: str) -> int:
    """A checkpoint's `next_offset`. Raises StateError for the mark of a shadow that was not written to its end."""
    if ">" in text:
        raise StateError(f"{key} belongs to a rebuild that was not finished: run `crashfold replay` again")
    try:
        return int(text)
    except ValueError:
        raise StateError(f"{key} has the next_offset {text!r}, which is none: {WAY_OUT}") from None


def position(key: str, generation: bytes, next_offset: bytes, commit_id: bytes) -> Position | None:
    """The position whose fields these are; all empty when there is no checkpoint."""
    if not generation and not next_offset:
        return None
    try:
        return Position(generation.decode(), offset(key, next_offset.decode()), commit_id.decode())
    except UnicodeDecodeError as error:
        raise StateError(f"{key} is no checkpoint ({error!r}): {WAY_OUT}") from None


def value(kind: bytes, reply: object) -> Value:
    """The value of a key, from the reply to the command that reads its type whole."""
    match kind, reply:
        case b"string", bytes():
            return reply
        case b"hash", dict():
            return {field.decode(): content for field, content in reply.items()}
        case b"list", list():
            return reply
        case b"zset", list():
            return SortedSet({int(score): member for member, score in reply})
    raise TypeError(f"a {kind.decode()} came as {type(reply).__name__}")


def manifest_fields(manifest: Manifest) -> dict[str, str]:
    """The fields of a manifest's hash."""
    mark = _mark_fields(manifest.mark)
    streams = {_STREAM + stream: str(next_offset) for stream, next_offset in manifest.streams.items()}
    firsts = {_FIRST + stream: str(first_offset) for stream, first_offset in manifest.first_offsets.items()}
    return {"low_water": str(manifest.low_water), "topic_id": manifest.topic_id or "", **mark, **streams, **firsts}


def manifest(key: str, fields: Mapping[bytes, bytes]) -> Manifest:
    """The manifest whose hash that is. Raises StateError, naming the key, when it cannot be read."""
    try:
        text = {field.decode(): content.decode() for field, content in fields.items()}
        return Manifest(
            low_water=int(text["low_water"]),
            streams=_numbers(text, _STREAM),
            first_offsets=_numbers(text, _FIRST),
            topic_id=text.get("topic_id") or None,
            mark=_mark(text),
        )
    except (KeyError, ValueError) as error:
        raise StateError(f"{key} is no manifest ({error!r}): `crashfold replay` writes it anew") from None


def _numbers(text: Mapping[str, str], start: str) -> dict[str, int]:
    return {field.removeprefix(start): int(number) for field, number in text.items() if field.startswith(start)}


def streams_of_manifest(fields: Iterable[bytes]) -> Iterator[str]:
    """The streams that a manifest with these fields names."""
    return (
        name.removeprefix(_STREAM)
        for name in (field.decode(errors="replace") for field in fields)
        if name.startswith(_STREAM) and is_stream_name(name.removeprefix(_STREAM))
    )


def flattened(pairs: Iterable[tuple[str, _Packed]]) -> Iterator[_Packed]:
    """Names and values one after the other."""
    return chain.from_iterable(pairs)


def _expected(commit: Commit) -> tuple[str, str, str]:
    expected = commit.expected
    return ("", "", "") if expected is None else (expected.generation, str(expected.next_offset), expected.commit)


def _proof(fields: Mapping[str, str]) -> str:
    """The checksum of what one commit writes into the checkpoint. A field that was edited, lost or left over from
    another commit shows by it; the counters that the script keeps (`begun`, `keys_created`) are no part of it."""
    text = "\n".join(f"{name}={fields[name]}" for name in _PROVEN if name in fields)
    return f"{crc32(text.encode()):08x}"


def _present(fields: Mapping[bytes, bytes]) -> Iterator[bytes]:
    return (field for field in fields if field.decode("utf-8", "replace") in _BOOKKEEPING)


def _mark_fields(mark: Mark | None) -> dict[str, str]:
    if mark is None:
        return {"mark_offset": "", "mark_timestamp": "", "mark_digest": ""}
    return {
        "mark_offset": str(mark.offset),
        "mark_timestamp": str(mark.timestamp_ms),
        "mark_digest": mark.digest,
    }


def _mark(text: Mapping[str, str]) -> Mark | None:
    if not text["mark_offset"]:
        return None
    return Mark(int(text["mark_offset"]), int(text["mark_timestamp"]), text["mark_digest"])


def _json(number: int | None) -> str:
    return "null" if number is None else str(number)


def _packed(delta: Writes, text: Callable[[bytes], _Packed]) -> tuple[list[int], list[object]]:
    """For each key but the checkpoint where its write stands, and the writes, one after the other, each once."""
    places: list[int] = []
    writes: list[object] = []
    known: dict[int, int] = {}
    for name, write in delta.items():
        if name != keys.CHECKPOINT:
            place = known.get(id(write))
            if place is None:
                place = known[id(write)] = len(writes) + 1
                _pack(write, writes, text)
            places.append(place)
    return places, writes


def _pack(write: Write, writes: list[object], text: Callable[[bytes], _Packed]) -> None:
    """Put the write behind the others as `commit.lua` takes it: kind, two parameters, elements known, how many
    values, the values.

    A commit has some 150 writes, of which most are hashes and lists: `isinstance` takes half the time of `match`.
    """
    if isinstance(write, WriteHash):
        writes += ("hash", len(write.delete), 0, write.known, 2 * len(write.set) + len(write.delete))
        writes += flattened(zip(write.set, map(text, write.set.values()), strict=True))
        writes += write.delete
    elif isinstance(write, WriteList):
        writes += ("list", write.drop, write.keep, write.known, len(write.push), *map(text, reversed(write.push)))
    elif isinstance(write, SetString):
        writes += ("string", 0, 0, write.known, 1, text(write.value))
    elif isinstance(write, WriteSortedSet):
        members = flattened(zip(map(str, write.add), map(text, write.add.values()), strict=True))
        writes += ("zset", str(write.remove_below), 0, write.known, 2 * len(write.add), *members)
    else:
        assert isinstance(write, Remove)
        writes += ("remove", 0, 0, 0, 0)


def _text(content: bytes) -> _Packed:
    """The bytes as a msgpack string, whatever they are: the unpacker in Redis knows no binary type."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return msgspec.Raw(b"\xdb" + len(content).to_bytes(4, "big") + content)


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
                yield WriteHash(dict(named[start:stop]), gone, known), weight + _WRITE_BYTES * len(gone)
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
            yield write, _WRITE_BYTES + len(content)
        case Remove():
            yield write, _WRITE_BYTES


def _chunks(weights: Sequence[int], room: int, bytes_max: int) -> Iterator[tuple[int, int, int]]:
    """Elements of these weights in runs of at most about `room`, then `bytes_max`: at least one run, each with where it
    starts and stops (exclusive), and its weight."""
    ends = [*accumulate(map(_WRITE_BYTES.__add__, weights))]
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
    return f"{_expected(commit)[1]}>{commit.checkpoint.next_offset}#"
