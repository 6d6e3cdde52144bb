"""The contract of `DeadLetters`, on Tansu and Apache Kafka; and what only real brokers do."""

from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from crashfold.engine.adapters.dead_letters import LetterMark, StoredDeadLetter
from crashfold.engine.adapters.kafka import sink as kafka_sink
from crashfold.engine.adapters.kafka.sink import KafkaDeadLetters, KafkaSink
from crashfold.engine.adapters.kafka.topics import ensure_topic, topic_exists
from crashfold.engine.adapters.kafka.waiting import WaitingLetters
from crashfold.engine.errors import LogRefused, LogUnavailable
from tests.contract.dead_letters import DeadLettersContract, Shelf, letter
from tests.contract.event_log import DEADLINE_S, Reader, numbered
from tests.contract.test_event_log_kafka import KafkaTopic
from tests.support.clients import consuming, producing
from tests.support.servers import KafkaCluster, TansuBroker

Unique = Callable[[str], str]


def connection(bootstrap_servers: str, timeout_ms: int = 20_000) -> dict[str, Any]:
    return {"bootstrap_servers": bootstrap_servers, "client_id": "contract", "request_timeout_ms": timeout_ms}


class _Shelf(Shelf):
    def __init__(self, bootstrap_servers: str, topic: str, *, idempotent: bool) -> None:
        self.connection = connection(bootstrap_servers)
        self.topic = topic
        self._idempotent = idempotent

    def opened(self) -> KafkaDeadLetters:
        return KafkaDeadLetters(self.topic, self.connection, idempotent=self._idempotent)

    async def stored(self) -> list[StoredDeadLetter]:
        async with self.opened() as dead_letters:
            return [listed.letter for listed in await dead_letters.read()]


class TestTansu(DeadLettersContract):
    @pytest.fixture
    def shelf(self, tansu: TansuBroker, unique: Unique) -> _Shelf:
        return _Shelf(tansu.bootstrap_servers, unique("games.dead"), idempotent=False)


class TestApacheKafka(DeadLettersContract):
    @pytest.fixture
    def shelf(self, kafka: KafkaCluster, unique: Unique) -> _Shelf:
        return _Shelf(kafka.bootstrap_servers, unique("games.dead"), idempotent=True)

    async def test_those_that_wait_are_counted_by_reason_until_they_are_marked(self, shelf: _Shelf) -> None:
        waiting = WaitingLetters(shelf.topic, shelf.connection)
        assert await waiting.count() == {}
        async with shelf.opened() as dead_letters:
            await dead_letters.put([letter(1), letter(2), letter(2), letter(3)])
            assert await waiting.count() == {"unreadable": 3}
            first, second, _ = await dead_letters.read()
            marks = [
                (first, LetterMark("retried", first.letter.origin, 5)),
                (second, LetterMark("discarded", second.letter.origin, 6)),
            ]
            await dead_letters.mark(marks)
            assert await waiting.count() == {"unreadable": 1}
            await dead_letters.put([letter(1), letter(4)])  # one that was dealt with, handed over once more
            assert await waiting.count() == {"unreadable": 2}
        assert await WaitingLetters(shelf.topic, shelf.connection).count() == {"unreadable": 2}
        assert await WaitingLetters(shelf.topic, shelf.connection, records_max=1).count() == {"unreadable": 1}

    async def test_other_records_on_the_topic_are_passed_over(self, shelf: _Shelf) -> None:
        async with shelf.opened() as dead_letters:
            await dead_letters.put([letter(1)])
            async with producing(**shelf.connection) as producer:
                await producer.send_and_wait(shelf.topic, b"hello", headers=[("offset", b"no number")])
            await dead_letters.put([letter(2)])
        assert [stored.offset for stored in await shelf.stored()] == [1, 2]

    async def test_headers_can_be_read_by_any_client(self, shelf: _Shelf) -> None:
        async with shelf.opened() as dead_letters:
            await dead_letters.put([letter(7)])
        async with consuming(shelf.topic, **shelf.connection, auto_offset_reset="earliest") as consumer:
            with anyio.fail_after(DEADLINE_S):
                record = await consumer.getone()
        assert dict(record.headers) == {
            "reason": b"unreadable",
            "detail": b"Object missing required field `game_id`",
            "topic": b"games",
            "partition": b"0",
            "offset": b"7",
            "timestamp_ms": b"1700000000007",
            "value_bytes": b"2",
            "key_bytes": b"5",
        }

    async def test_the_newest_letters_are_read_from_the_end_with_what_became_of_them(
        self, shelf: _Shelf, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(kafka_sink, "_BLOCK_RECORDS", 3)
        async with shelf.opened() as dead_letters:
            assert await dead_letters.newest(5) == []
            await dead_letters.put([letter(offset) for offset in range(10)])
            stored = await dead_letters.read()
            retried = LetterMark("retried", stored[8].letter.origin, 1_700_000_000_000, ("games", 0, 77))
            discarded = LetterMark("discarded", stored[7].letter.origin, 1_700_000_000_000)
            await dead_letters.mark([(stored[8], retried), (stored[7], discarded)])
            await dead_letters.put([letter(8), letter(77)])
            newest = await dead_letters.newest(5)
            assert [(one.offset, one.retried) for one in newest] == [
                *((77, False), (8, True), (9, False), (6, False), (5, False))
            ]
            assert (newest[0].key, newest[0].value) == ("crash", "{}")
            assert len(await dead_letters.newest(500)) == 10
            every = {one.letter.offset: one for one in await dead_letters.read(values=False)}
        assert len(every) == 11, "a letter that stands there twice is one, marked as it was"
        assert every[8].mark == retried
        assert every[77].retry_of == ("games", 0, 8)
        assert [offset for offset, one in every.items() if not one.is_open] == [7, 8]


async def test_letters_go_on_when_the_broker_is_back(new_kafka: Callable[..., KafkaCluster]) -> None:
    cluster = new_kafka(properties={"auto.create.topics.enable": "true"})
    async with KafkaDeadLetters("games.dead", connection(cluster.bootstrap_servers, 5_000)) as dead_letters:
        assert (await dead_letters.newest(1), await dead_letters.read()) == ([], [])
        assert not await topic_exists(connection(cluster.bootstrap_servers), "games.dead"), "made by looking for it"
        await dead_letters.put([letter(1)])
        await anyio.to_thread.run_sync(cluster.kill)
        with pytest.raises(LogUnavailable), anyio.fail_after(DEADLINE_S):
            await dead_letters.put([letter(2)])
        await anyio.to_thread.run_sync(cluster.start)
        with anyio.fail_after(DEADLINE_S):
            while not await _is_put(dead_letters):
                pass
        assert {listed.letter.offset for listed in await dead_letters.read()} == {1, 2}


async def _is_put(dead_letters: KafkaDeadLetters) -> bool:
    try:
        await dead_letters.put([letter(2)])
    except LogUnavailable:
        return False
    return True


async def test_a_sink_has_everything_on_the_topic_after_a_flush(each_kafka: str, unique: Unique) -> None:
    topic = KafkaTopic(each_kafka, unique("games"), groups=False)
    await ensure_topic(topic.connection, topic.name, replication_factor=1)
    async with KafkaSink(topic.connection, idempotent=False, in_flight_max=7) as sink:
        for value in numbered(500):
            await sink.send(topic.name, b"crash", value)
        await sink.flush()
        assert sink.acknowledged == 500
    async with topic.log() as log:
        await Reader(log).until_read(*numbered(500))


async def test_records_of_one_key_share_a_partition(kafka: KafkaCluster, unique: Unique) -> None:
    topic = KafkaTopic(kafka.bootstrap_servers, unique("games"), groups=False)
    await ensure_topic(topic.connection, topic.name, 5, replication_factor=1)
    async with KafkaSink(topic.connection) as sink:
        for value in numbered(100):
            await sink.send(topic.name, b"crash", value)
        await sink.send(topic.name, b"crash", b"last", partition=4)
        await sink.flush()
    async with topic.log() as log:
        reader = Reader(log)
        with anyio.fail_after(DEADLINE_S):
            while sum(map(len, reader.values.values())) < 101:
                await reader.poll()
    reader.values[4].remove(b"last")
    assert [values for values in reader.values.values() if values] == [numbered(100)]


async def test_a_record_that_is_too_large_is_an_error_that_says_so(kafka: KafkaCluster, unique: Unique) -> None:
    name = unique("games")
    options = connection(kafka.bootstrap_servers)
    await ensure_topic(options, name, replication_factor=1)
    async with KafkaSink(options) as sink:
        with pytest.raises(LogRefused, match="larger than"):
            await sink.send(name, None, b"x" * 2**21)


async def test_a_broker_that_cannot_do_idempotence_is_noticed_at_once(tansu: TansuBroker) -> None:
    with pytest.raises(LogRefused, match=r"kafka\.enable_idempotence"):
        async with KafkaSink(connection(tansu.bootstrap_servers)):
            pass


async def test_a_topic_is_made_once_and_stays_as_it_is(each_kafka: str, unique: Unique) -> None:
    name = unique("games")
    options = connection(each_kafka)
    assert not await topic_exists(options, name)
    assert await ensure_topic(options, name, 3)
    assert await topic_exists(options, name)
    assert not await ensure_topic(options, name, 5)
    async with KafkaTopic(each_kafka, name, groups=False).log() as log:
        assert await log.partitions() == {0, 1, 2}
