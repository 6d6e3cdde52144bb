"""Topics for benchmarks: the same games in the same order every time, in any compression, however many.

Records go out in batches that are built once, without an object and a future per record, so that a topic of millions is
there in seconds.
"""

import time
from collections.abc import Iterable, Iterator
from itertools import chain, zip_longest
from typing import Literal

from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder

from benchmarks.servers import Assignments
from crashfold.engine.adapters.kafka.client import connection_options
from crashfold.engine.adapters.kafka.topics import ensure_topic
from crashfold.engine.settings import load
from crashfold.schemas.chain import chain_of_games
from crashfold.schemas.game import Game, encode
from crashfold.schemas.record import DEFAULT_STREAM

Codec = Literal["none", "gzip", "lz4", "zstd", "snappy"]
CODECS: tuple[Codec, ...] = ("none", "gzip", "lz4", "zstd", "snappy")

BATCH_BYTES = 128 * 1024
"""As the project's own producer makes them."""
IN_FLIGHT_MAX = 64

Placed = tuple[str, Game]
"""A game and its stream."""


def one_stream(games: Iterable[Game]) -> Iterator[Placed]:
    """The games as games of the default stream."""
    return ((DEFAULT_STREAM, game) for game in games)


def many_streams(seed: int, games: int, streams: int) -> Iterator[Placed]:
    """`games` games of `streams` streams in turn, each stream a chain of its own."""
    names = [f"table-{number}" for number in range(streams)]
    chains = [chain_of_games(seed + number, -(-games // streams)) for number in range(streams)]
    turns = chain.from_iterable(zip_longest(*chains))
    return (placed for placed, _ in zip(zip(_in_turn(names), turns, strict=False), range(games), strict=False))


async def make_topic(settings: Assignments, partitions: int = 1) -> None:
    """The topic, empty."""
    kafka = load(None, {}, settings).settings.kafka
    await ensure_topic(connection_options(kafka), kafka.topic, partitions)


async def fill(settings: Assignments, placed: Iterable[Placed], *, codec: Codec = "none", partitions: int = 1) -> None:
    """Make the topic with these games on it, the streams dealt out to the partitions in turn."""
    await make_topic(settings, partitions)
    kafka = load(None, {}, settings).settings.kafka
    async with AIOKafkaProducer(
        **connection_options(kafka),
        acks="all",
        compression_type=None if codec == "none" else codec,
        max_batch_size=BATCH_BYTES,
        enable_idempotence=kafka.enable_idempotence,
    ) as producer:
        flying = []
        for partition, batch in _batches(producer, placed, partitions):
            flying.append(await producer.send_batch(batch, kafka.topic, partition=partition))
            if len(flying) >= IN_FLIGHT_MAX:
                await flying.pop(0)
        for sent in flying:
            await sent


def _batches(
    producer: AIOKafkaProducer, placed: Iterable[Placed], partitions: int
) -> Iterator[tuple[int, BatchBuilder]]:
    """Full batches, and at the end those that are not."""
    timestamp_ms = int(time.time() * 1000)  # by which a broker would remove them, had they the games' own times
    homes: dict[str, tuple[int, bytes]] = {}
    open_batches = [producer.create_batch() for _ in range(partitions)]
    for stream, game in placed:
        home = homes.get(stream)
        if home is None:
            home = homes[stream] = len(homes) % partitions, stream.encode()
        partition, key = home
        value = encode(game)
        if open_batches[partition].append(timestamp=timestamp_ms, key=key, value=value) is None:
            yield partition, open_batches[partition]
            open_batches[partition] = producer.create_batch()
            open_batches[partition].append(timestamp=timestamp_ms, key=key, value=value)
    yield from ((partition, batch) for partition, batch in enumerate(open_batches) if batch.record_count())


def _in_turn(names: list[str]) -> Iterator[str]:
    while True:
        yield from names
