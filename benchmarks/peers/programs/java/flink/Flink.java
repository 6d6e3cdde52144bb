package crashfold.peers;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.Optional;
import java.util.stream.Stream;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.ExternalizedCheckpointRetention;
import org.apache.flink.configuration.RestartStrategyOptions;
import org.apache.flink.configuration.StateBackendOptions;
import org.apache.flink.configuration.StateRecoveryOptions;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.core.execution.CheckpointingMode;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;

/**
 * What both programs share: a cluster inside the process, checkpoints, the games of the topic.
 *
 * Tuned: objects are reused, state on the heap, large fetches and polls. A checkpoint is made as often as a result is
 * due; a process that is started again goes on from the newest one that was completed.
 */
final class Flink {
    private Flink() {}

    /** A game and the offset after it. */
    public static final class Placed {
        public Game game;
        public long nextOffset;
    }

    static StreamExecutionEnvironment environment(Job job) throws IOException {
        Path checkpoints = Path.of(job.directory(), "checkpoints");
        Configuration configuration = new Configuration();
        configuration.set(StateBackendOptions.STATE_BACKEND, "hashmap");
        configuration.set(CheckpointingOptions.CHECKPOINT_STORAGE, "filesystem");
        configuration.set(CheckpointingOptions.CHECKPOINTS_DIRECTORY, checkpoints.toUri().toString());
        configuration.set(
                CheckpointingOptions.EXTERNALIZED_CHECKPOINT_RETENTION,
                ExternalizedCheckpointRetention.RETAIN_ON_CANCELLATION);
        configuration.set(RestartStrategyOptions.RESTART_STRATEGY, "none");
        newest(checkpoints).ifPresent(path -> configuration.set(StateRecoveryOptions.SAVEPOINT_PATH, path));
        StreamExecutionEnvironment environment = StreamExecutionEnvironment.createLocalEnvironment(1, configuration);
        environment.getConfig().enableObjectReuse();
        environment.enableCheckpointing(Math.round(job.writeEveryS() * 1000), CheckpointingMode.EXACTLY_ONCE);
        return environment;
    }

    static DataStream<Placed> games(StreamExecutionEnvironment environment, Job job) {
        KafkaSource<Placed> source = KafkaSource.<Placed>builder()
                .setBootstrapServers(job.bootstrapServers())
                .setTopics(job.topic())
                .setGroupId(job.group())
                .setStartingOffsets(OffsetsInitializer.earliest())
                .setDeserializer(new Schema())
                .setProperty(ConsumerConfig.MAX_POLL_RECORDS_CONFIG, "20000")
                .setProperty(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG, "4194304")
                .build();
        return environment.fromSource(source, WatermarkStrategy.noWatermarks(), "games").uid("games");
    }

    private static Optional<String> newest(Path checkpoints) throws IOException {
        if (!Files.isDirectory(checkpoints)) {
            return Optional.empty();
        }
        try (Stream<Path> found = Files.walk(checkpoints, 3)) {
            return found.filter(path -> path.endsWith("_metadata"))
                    .max(Comparator.comparingLong(Flink::modifiedMs))
                    .map(path -> path.getParent().toUri().toString());
        }
    }

    private static long modifiedMs(Path path) {
        try {
            return Files.getLastModifiedTime(path).toMillis();
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    private static final class Schema implements KafkaRecordDeserializationSchema<Placed> {
        @Override
        public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<Placed> out) throws IOException {
            Placed placed = new Placed();
            placed.game = Documents.GAME.readValue(record.value());
            placed.nextOffset = record.offset() + 1;
            out.collect(placed);
        }

        @Override
        public TypeInformation<Placed> getProducedType() {
            return TypeInformation.of(Placed.class);
        }
    }
}
