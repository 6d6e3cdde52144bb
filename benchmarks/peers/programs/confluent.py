"""The floor of librdkafka: confluent-kafka's `consume` and the decoder, nothing done with what comes out."""

from confluent_kafka import Consumer, TopicPartition

from benchmarks.peers.job import Job, Stopwatch, decode, told

LIBRDKAFKA = {
    "fetch.queue.backoff.ms": 5,  # its default waits a second whenever its queue is full
    "queued.min.messages": 200_000,
    "queued.max.messages.kbytes": 131_072,
    "fetch.message.max.bytes": 4_194_304,
    "check.crcs": False,
    "enable.auto.commit": False,
    "auto.offset.reset": "earliest",
}


def main(job: Job) -> None:
    watch = Stopwatch()
    consumer = Consumer({"bootstrap.servers": job.bootstrap_servers, "group.id": job.group, **LIBRDKAFKA})
    consumer.assign([TopicPartition(job.topic, 0, 0)])
    seen = 0
    while seen < job.games:
        games = [decode(message.value()) for message in consumer.consume(20_000, timeout=0.1)]
        seen += len(games)
    watch.finish(seen)


if __name__ == "__main__":
    main(told())
