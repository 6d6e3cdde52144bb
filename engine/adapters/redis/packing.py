"""How commits and checkpoints look on their way to Redis and back: arguments of `commit.lua`, fields of a hash.

Imports msgspec, the ports' facts, `projections.delta` and schemas; no client library, no I/O. Every number that may
grow is text on the way, for in Lua it would be a double.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final
from zlib import crc32

import msgspec

from crashfold.engine.adapters.redis.client import Call
from crashfold.engine.adapters.redis.parts import Part, expected_of, stage_offset, weight, whole
from crashfold.engine.errors import CrashfoldError, StateError, StoreRefused, Unavailable
from crashfold.engine.ports import Checkpoint, Commit, Manifest, Mark, Position
from crashfold.projections.delta import (
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

WHOLE_VALUES_MAX: Final = 15_000
WHOLE_BYTES_MAX: Final = 2 * 1024 * 1024
"""The biggest commit that one call makes, the fields of its checkpoint not counted: Redis is busy with it for some 20
ms. A commit of some games is below 1,000 values and 50 kB."""

_NO_END: Final = 2**31

_BOOKKEEPING: Final = frozenset(
    (
        *("next_offset", "generation", "commit", "writer", "topic", "topic_id", "partition", "first_offset"),
        *("mark_offset", "mark_timestamp", "mark_digest", "fingerprint", "aggregates"),
        *("total_games", "newest", "proof", "begun", "made", "keys_created"),
    )
)
"""The fields of the checkpoint's hash that are not the state's."""

CHECKPOINT_FIELDS: Final = tuple(sorted(_BOOKKEEPING))
"""The fields of the hash that `checkpoint` reads."""

_PROVEN: Final = tuple(sorted(_BOOKKEEPING - {"proof", "begun", "made", "keys_created"}))

_STREAM: Final = "stream:"
_FIRST: Final = "first:"
"""Prefixes of the manifest's fields with the `next_offset` and the `first_offset` of a stream."""

_Packed = str | msgspec.Raw


class _Take(msgspec.Struct, frozen=True, gc=False):
    """The staged key, which is the key number `at` of the call, takes the place of the live one. It is of this kind
    and has so many elements at least."""

    kind: str
    at: int
    known: int


class Unfit(StateError):
    """A key is not what a commit expects there: of another type, missing, or without some of its elements."""


class _TooBig(Exception):
    """More values than one call takes."""


def whole_call(names: Keys, commit: Commit, values_max: int = WHOLE_VALUES_MAX) -> Call | None:
    """The call of `commit.lua` that makes the whole commit; None when Redis would be busy with it for too long."""
    try:
        made = call(names, commit, whole(commit), values_max)
    except _TooBig:
        return None
    size = len(made.args[-1])
    if size > WHOLE_BYTES_MAX and keys.CHECKPOINT in commit.delta:
        size -= weight(commit.delta[keys.CHECKPOINT])
    return made if size <= WHOLE_BYTES_MAX else None


def stage_call(names: Keys, commit: Commit, staged: Writes, left_over: Collection[str]) -> Call:
    """The call of `stage.lua` that begins a staged commit: with the writes that it stages, and the names of keys that
    another one has left behind."""
    stage, checkpoint = names.stage, commit.checkpoint
    pairs = chain.from_iterable((names.key(name), stage.key(name)) for name in staged)
    return Call(
        [
            *(names.checkpoint, names.version, stage.checkpoint, stage.version, names.staged),
            *pairs,
            *(stage.key(name) for name in left_over if name not in staged),
        ],
        [
            *expected_of(commit),
            *(checkpoint.generation, str(checkpoint.next_offset), checkpoint.commit),
            stage_offset(commit),
            msgspec.json.encode([*staged]),
            *chain.from_iterable(_pair(write) for write in staged.values()),
        ],
    )


def _pair(write: Write) -> tuple[str, str, str]:
    """What `stage.lua` is told of the live key of a write."""
    least = write.remove_below if isinstance(write, WriteSortedSet) else 0
    return _take(write, 0).kind, str(0 if isinstance(write, Remove) else write.known), str(least)


def staged_names(listing: bytes | None) -> list[str]:
    """The names of staged keys, as `stage.lua` has noted them; none for what is no list of names."""
    try:
        return [] if listing is None else msgspec.json.decode(listing, type=list[str])
    except msgspec.MsgspecError:
        return []


def last_call(names: Keys, commit: Commit, staged: Writes, others: Writes) -> Call:
    """The call of `commit.lua` that puts the staged keys in the place of the live ones, and makes the other writes."""
    stage = names.stage
    first = 6 + len(staged) + len(others) - (keys.CHECKPOINT in others)
    takes = {name: _take(write, at) for at, (name, write) in enumerate(staged.items(), first)}
    part = Part(1, expected_of(commit), str(commit.checkpoint.next_offset), {**takes, **others}, True)  # type: ignore[dict-item]
    made = call(names, commit, part)
    return Call(
        [*made.keys, stage.checkpoint, stage.version, names.staged, *(stage.key(name) for name in staged)],
        [*made.args],
    )


def call(names: Keys, commit: Commit, part: Part, values_max: int = _NO_END) -> Call:
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
        places, writes = _packed(delta, bytes.decode, values_max)
    except UnicodeDecodeError:
        places, writes = _packed(delta, _text, values_max)
    start = names.key("")
    touched = [names.checkpoint, names.version, *(start + name for name in delta if name != keys.CHECKPOINT)]
    if keys.CHECKPOINT in delta:
        write = delta[keys.CHECKPOINT]
        if not isinstance(write, WriteHash) or not write.set.keys().isdisjoint(_BOOKKEEPING):
            raise TypeError(f"the checkpoint takes the fields of a state, not {type(write).__name__}")
        packed += flattened((field, _text(value)) for field, value in write.set.items())
        gone = write.delete
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
    """The bookkeeping fields of the checkpoint's hash, but for those that the script counts."""
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


def _proof(fields: Mapping[str, str]) -> str:
    """The checksum of what one commit writes into the checkpoint. A field that was edited, lost or left over from
    another commit shows by it; the counters that the script keeps are no part of it."""
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


def _packed(delta: Writes, text: Callable[[bytes], _Packed], values_max: int) -> tuple[list[int], list[object]]:
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
                if len(writes) > values_max:
                    raise _TooBig
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
    elif isinstance(write, _Take):
        writes += ("take", write.at, write.kind, write.known, 0)
    else:
        assert isinstance(write, Remove)
        writes += ("remove", 0, 0, 0, 0)


def _take(write: Write, at: int) -> _Take:
    """What the last call finds in the stage when the write was made there, on as many elements as are `known`."""
    match write:
        case WriteHash(fields, delete, known):
            return _Take("hash", at, max(len(fields.keys() - {*delete}), known - len(delete)))
        case WriteList(drop, push, keep, known):
            return _Take("list", at, min(max(0, known - drop) + len(push), keep))
        case WriteSortedSet(add, remove_below, known):
            kept = sum(score >= remove_below for score in add)
            return _Take("zset", at, kept if remove_below else max(kept, known))
        case SetString(content):
            return _Take("string", at, min(1, len(content)))
    raise TypeError(f"{type(write).__name__} is never staged")


def _text(content: bytes) -> _Packed:
    """The bytes as a msgpack string, whatever they are: the unpacker in Redis knows no binary type."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return msgspec.Raw(b"\xdb" + len(content).to_bytes(4, "big") + content)


def raise_worst(replies: Sequence[Any]) -> None:
    """Raise what must be known first: a state that does not fit, then an unknown outcome, then a refusal."""
    errors: list[CrashfoldError] = []
    for reply in replies:
        match reply:
            case CrashfoldError():
                errors.append(reply)
            case [b"unfit", key, fault]:
                errors.append(Unfit(f"{key.decode()} {fault.decode()}: {WAY_OUT}"))
    if errors:
        raise min(errors, key=lambda error: (isinstance(error, Unavailable), isinstance(error, StoreRefused)))
