"""Batches of records that unpack to far more than they are, made by hand: a producer would have to hold all of it.

Every value is blanks, so that what is left of it would be harmless; the checksum is right, and so is whatever a broker
looks at before it takes a batch.
"""

import struct
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import cramjam
import lz4.frame  # type: ignore[import-untyped]  # it has no types
from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.util import calc_crc32c

from crashfold.engine.adapters.kafka.client import connected

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdCompressor
else:
    from backports.zstd import ZstdCompressor

CODECS: Final = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
_BLOCK: Final = b" " * (32 << 10)

Entry = tuple[bytes | None, bytes | int | None]
"""Key and value of a record; a number stands for a value of so many blanks."""


def packed_batch(codec: str, entries: Sequence[Entry]) -> bytes:
    """A batch of these records, written now, as a producer sends it."""
    now_ms = int(time.time() * 1000)
    body = _packed(codec, _blocks(_body(entries)))
    last = len(entries) - 1
    head = struct.pack(">hiqqqhii", CODECS[codec], last, now_ms, now_ms, -1, -1, -1, len(entries))
    checked = head + body
    front = struct.pack(">qiibI", 0, 9 + len(checked), 0, 2, calc_crc32c(checked))
    return front + checked


async def publish_batch(connection: dict[str, Any], topic: str, batch: bytes, partition: int = 0) -> int:
    """Put the batch on the topic as it stands; the offset of its first record."""
    async with connected(connection) as client:
        leader = await _leader(client, TopicPartition(topic, partition))
        request = ProduceRequest(None, -1, 60_000, [(topic, [(partition, batch)])])
        ((_, ((_, error, offset, *_),)),) = (await client.send(leader, request)).topics
        assert error == 0, f"the broker refused the batch: error {error}"
        return int(offset)


async def _leader(client: AIOKafkaClient, tp: TopicPartition) -> int:
    client.add_topic(tp.topic)
    while (leader := client.cluster.leader_for_partition(tp)) in (None, -1):
        await client.force_metadata_update()
    return int(leader)


def _body(entries: Sequence[Entry]) -> Iterator[bytes]:
    for delta, (key, value) in enumerate(entries):
        size = value if isinstance(value, int) else -1 if value is None else len(value)
        front = b"\0\0" + varint(delta) + varint(-1 if key is None else len(key)) + (key or b"") + varint(size)
        yield varint(len(front) + max(0, size) + 1) + front
        if isinstance(value, int):
            yield from (_BLOCK for _ in range(size // len(_BLOCK)))
            yield _BLOCK[: size % len(_BLOCK)]
        else:
            yield value or b""
        yield b"\0"


def _packed(codec: str, blocks: Iterator[bytes]) -> bytes:
    match codec:
        case "gzip":
            gzip = zlib.compressobj(9, zlib.DEFLATED, 31)
            return b"".join([gzip.compress(block) for block in blocks]) + gzip.flush()
        case "snappy":
            packed = [bytes(cramjam.snappy.compress_raw(block)) for block in blocks]
            return b"\x82SNAPPY\0\0\0\0\1\0\0\0\1" + b"".join(len(one).to_bytes(4, "big") + one for one in packed)
        case "lz4":
            with lz4.frame.LZ4FrameCompressor(block_linked=False, compression_level=9) as frame:
                return b"".join([frame.begin(), *[frame.compress(block) for block in blocks], frame.flush()])
        case "zstd":
            zstd = ZstdCompressor()
            return b"".join([zstd.compress(block) for block in blocks]) + zstd.flush()
    return b"".join(blocks)


def _blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes, at least a block at a time."""
    held = bytearray()
    for piece in pieces:
        held += piece
        if len(held) >= len(_BLOCK):
            yield bytes(held)
            held.clear()
    yield bytes(held)


def varint(number: int) -> bytes:
    """A number as it stands in a record."""
    zigzag, digits = number << 1 if number >= 0 else (-number << 1) - 1, bytearray()
    while zigzag >= 0x80:
        digits.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    return bytes([*digits, zigzag])
