package crashfold.peers;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.URI;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;
import redis.clients.jedis.Jedis;

/**
 * Kafka Streams: one processor with a logged state store; exactly_once_v2.
 *
 * The state is held as objects. Every so often it is put into the store and sent to Redis as one MSET, and a commit is
 * asked for, which happens before the next record: so offsets and store always belong together. Redis has no part in
 * Kafka's transaction: what was sent since the last commit is sent again after a crash. (A get and a put for every
 * predicate and game, as small examples have it, would be slower by far.)
 * Tuned: large fetches and polls, the store in memory, no commits in between, a changelog compressed with lz4.
 */
public final class KafkaStreamsPeer {
    private static final String STORE = "state";

    private KafkaStreamsPeer() {}

    public static void main(String[] arguments) throws IOException {
        Outcome.begin();
        Job job = Documents.JSON.readValue(arguments[0], Job.class);
        Topology topology = new Topology();
        topology.addSource("games", Serdes.ByteArray().deserializer(), new GameDeserializer(), job.topic());
        topology.addProcessor("fold", () -> new FoldProcessor(job), "games");
        topology.addStateStore(
                Stores.keyValueStoreBuilder(
                                Stores.inMemoryKeyValueStore(STORE), Serdes.String(), Serdes.ByteArray())
                        .withLoggingEnabled(Map.of("max.message.bytes", "8388608")),
                "fold");
        KafkaStreams streams = new KafkaStreams(topology, properties(job));
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        streams.start();
    }

    private static Properties properties(Job job) {
        Properties properties = new Properties();
        properties.put(StreamsConfig.APPLICATION_ID_CONFIG, job.group());
        properties.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, job.bootstrapServers());
        properties.put(StreamsConfig.STATE_DIR_CONFIG, job.directory() + "/state");
        properties.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        // The processor asks for commits. One by the interval, should it come, finds the store up to a write behind.
        // A restart waits for the transaction of a killed process to time out, so the interval cannot be made longer.
        properties.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 25_000);
        properties.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        properties.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1); // there is one broker
        properties.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 40_000);
        properties.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        properties.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 20_000);
        properties.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG), 4_194_304);
        properties.put(StreamsConfig.producerPrefix(ProducerConfig.MAX_REQUEST_SIZE_CONFIG), 8_388_608);
        properties.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "lz4");
        properties.put(StreamsConfig.producerPrefix(ProducerConfig.TRANSACTION_TIMEOUT_CONFIG), 30_000);
        return properties;
    }

    private static final class GameDeserializer implements Deserializer<Game> {
        @Override
        public Game deserialize(String topic, byte[] value) {
            try {
                return Documents.GAME.readValue(value);
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }
    }

    private static final class FoldProcessor implements Processor<byte[], Game, Void, Void> {
        private final Job job;
        private final Fold fold;
        private final Jedis redis;
        private ProcessorContext<Void, Void> context;
        private KeyValueStore<String, byte[]> store;
        private long nextOffset;
        private long writtenOffset;
        private long writtenNs = System.nanoTime();

        FoldProcessor(Job job) {
            this.job = job;
            this.fold = new Fold(job);
            this.redis = new Jedis(URI.create(job.redisUrl()));
        }

        @Override
        public void init(ProcessorContext<Void, Void> context) {
            this.context = context;
            store = context.getStateStore(STORE);
            Map<String, byte[]> kept = new HashMap<>();
            try (var entries = store.all()) {
                entries.forEachRemaining(entry -> kept.put(entry.key, entry.value));
            }
            if (!kept.isEmpty()) {
                Documents.restore(fold, kept);
            }
            Duration every = Duration.ofMillis(Math.round(job.writeEveryS() * 1000));
            context.schedule(every, PunctuationType.WALL_CLOCK_TIME, now -> {
                // A write that took long is followed by others at once, unless they wait their turn.
                if (nextOffset > writtenOffset && System.nanoTime() - writtenNs > every.toNanos() * 9 / 10) {
                    write();
                }
            });
        }

        @Override
        public void process(Record<byte[], Game> record) {
            fold.fold(record.value());
            nextOffset = context.recordMetadata().orElseThrow().offset() + 1;
            if (nextOffset == job.games()) {
                write();
                Outcome.finish(fold.games);
            }
        }

        private void write() {
            Map<String, byte[]> documents = Documents.of(fold, nextOffset);
            documents.forEach(store::put);
            store.put(Documents.RECENT, Documents.recent(fold));
            redis.mset(Documents.keysAndValues(documents));
            context.commit();
            writtenOffset = nextOffset;
            writtenNs = System.nanoTime();
        }
    }
}
