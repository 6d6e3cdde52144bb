package crashfold.peers;

import java.net.URI;
import java.util.HashMap;
import java.util.Map;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.CheckpointListener;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.typeinfo.TypeHint;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.runtime.state.FunctionInitializationContext;
import org.apache.flink.runtime.state.FunctionSnapshotContext;
import org.apache.flink.streaming.api.checkpoint.CheckpointedFunction;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.ProcessFunction;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.util.Collector;
import redis.clients.jedis.Jedis;

/**
 * Apache Flink: one function, chained to the source, so that no game is copied or serialized on its way.
 *
 * The state is held as objects and becomes documents with each checkpoint, whose barrier also has the offset. They are
 * sent to Redis as one MSET when the checkpoint is completed: so Redis is never ahead of what a restart goes on from.
 */
public final class FlinkPeer {
    private FlinkPeer() {}

    public static void main(String[] arguments) throws Exception {
        Outcome.begin();
        Job job = Documents.JSON.readValue(arguments[0], Job.class);
        StreamExecutionEnvironment environment = Flink.environment(job);
        Flink.games(environment, job)
                .process(new FoldFunction(arguments[0]))
                .uid("fold")
                .sinkTo(new DiscardingSink<>());
        environment.execute();
    }

    private static final class FoldFunction extends ProcessFunction<Flink.Placed, Void>
            implements CheckpointedFunction, CheckpointListener {
        private final String told;
        private transient Job job;
        private transient Fold fold;
        private transient Jedis redis;
        private transient ListState<Tuple2<String, byte[]>> state;
        private transient Map<Long, Map<String, byte[]>> uncompleted;
        private transient long nextOffset;

        FoldFunction(String told) {
            this.told = told;
        }

        @Override
        public void initializeState(FunctionInitializationContext context) throws Exception {
            job = Documents.JSON.readValue(told, Job.class);
            fold = new Fold(job);
            uncompleted = new HashMap<>();
            state = context.getOperatorStateStore()
                    .getListState(new ListStateDescriptor<>("documents", new TypeHint<Tuple2<String, byte[]>>() {}.getTypeInfo()));
            Map<String, byte[]> kept = new HashMap<>();
            state.get().forEach(document -> kept.put(document.f0, document.f1));
            if (!kept.isEmpty()) {
                Documents.restore(fold, kept);
                nextOffset = Documents.nextOffset(kept);
            }
        }

        @Override
        public void open(OpenContext context) {
            redis = new Jedis(URI.create(job.redisUrl()));
        }

        @Override
        public void processElement(Flink.Placed placed, Context context, Collector<Void> out) {
            fold.fold(placed.game);
            nextOffset = placed.nextOffset;
            if (nextOffset == job.games()) {
                redis.mset(Documents.keysAndValues(Documents.of(fold, nextOffset)));
                Outcome.finish(fold.games);
            }
        }

        @Override
        public void snapshotState(FunctionSnapshotContext context) throws Exception {
            state.clear();
            if (fold.games == 0) {
                return;
            }
            Map<String, byte[]> documents = Documents.of(fold, nextOffset);
            uncompleted.put(context.getCheckpointId(), documents);
            for (Map.Entry<String, byte[]> document : documents.entrySet()) {
                state.add(Tuple2.of(document.getKey(), document.getValue()));
            }
            state.add(Tuple2.of(Documents.RECENT, Documents.recent(fold)));
        }

        @Override
        public void notifyCheckpointComplete(long checkpoint) {
            Map<String, byte[]> documents = uncompleted.remove(checkpoint);
            uncompleted.keySet().removeIf(before -> before < checkpoint);
            if (documents != null) {
                redis.mset(Documents.keysAndValues(documents));
            }
        }
    }
}
