"""Kafka clients of tests, closed however they end.

aiokafka's own `async with` leaves a client open that does not get through to a broker. The warning of it fails whatever
test runs when it is collected.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from crashfold.engine.adapters.kafka.client import close_consumer, close_producer


@asynccontextmanager
async def producing(**options: Any) -> AsyncIterator[AIOKafkaProducer]:
    """A producer with these options, started."""
    producer = AIOKafkaProducer(**options)
    try:
        await producer.start()
        yield producer
    finally:
        await close_producer(producer)


@asynccontextmanager
async def consuming(*topics: str, **options: Any) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of these topics with these options, started."""
    consumer = AIOKafkaConsumer(*topics, **options)
    try:
        await consumer.start()
        yield consumer
    finally:
        await close_consumer(consumer)
