package crashfold.peers;

import java.net.URI;
import java.util.List;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.api.common.typeinfo.TypeHint;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.util.Collector;
import redis.clients.jedis.Jedis;

/**
 * Apache Flink as its own documentation would have it: keyed state and timers. Every game goes to every predicate, each
 * of which is a key with a state of its own, and writes its documents by a timer.
 *
 * The state is a value on the heap, which Flink serializes for its checkpoints.
 */
public final class FlinkNativePeer {
    private FlinkNativePeer() {}

    public static void main(String[] arguments) throws Exception {
        Outcome.begin();
        Job job = Documents.JSON.readValue(arguments[0], Job.class);
        List<String> names = List.copyOf(job.sizes().predicates().keySet());
        StreamExecutionEnvironment environment = Flink.environment(job);
        Flink.games(environment, job)
                .flatMap((Flink.Placed placed, Collector<Tuple2<String, Flink.Placed>> out) -> {
                    for (String name : names) {
                        out.collect(Tuple2.of(name, placed));
                    }
                })
                .returns(new TypeHint<Tuple2<String, Flink.Placed>>() {})
                .uid("predicates")
                .keyBy(pair -> pair.f0, Types.STRING)
                .process(new PredicateFunction(arguments[0]))
                .uid("fold")
                .sinkTo(new DiscardingSink<>());
        environment.execute();
    }

    /** The state of one key: a fold of one predicate. */
    public static final class State {
        public Fold fold;
        public long nextOffset;
    }

    private static final class PredicateFunction
            extends KeyedProcessFunction<String, Tuple2<String, Flink.Placed>, Void> {
        private final String told;
        private transient Job job;
        private transient Jedis redis;
        private transient ValueState<State> state;
        private transient int finished;

        PredicateFunction(String told) {
            this.told = told;
        }

        @Override
        public void open(OpenContext context) throws Exception {
            job = Documents.JSON.readValue(told, Job.class);
            redis = new Jedis(URI.create(job.redisUrl()));
            state = getRuntimeContext().getState(new ValueStateDescriptor<>("fold", State.class));
        }

        @Override
        public void processElement(Tuple2<String, Flink.Placed> pair, Context context, Collector<Void> out)
                throws Exception {
            State mine = state.value();
            if (mine == null) {
                mine = new State();
                mine.fold = new Fold(job.of(pair.f0));
                wake(context);
            }
            mine.fold.fold(pair.f1.game);
            mine.nextOffset = pair.f1.nextOffset;
            state.update(mine);
            if (mine.nextOffset == job.games()) {
                write(mine);
                if (++finished == job.sizes().predicates().size()) {
                    Outcome.finish(mine.fold.games);
                }
            }
        }

        @Override
        public void onTimer(long timestamp, OnTimerContext context, Collector<Void> out) throws Exception {
            State mine = state.value();
            write(mine);
            state.update(mine);
            wake(context);
        }

        private void wake(Context context) {
            long everyMs = Math.round(job.writeEveryS() * 1000);
            long nowMs = context.timerService().currentProcessingTime();
            context.timerService().registerProcessingTimeTimer(nowMs + everyMs);
        }

        private void write(State mine) {
            redis.mset(Documents.keysAndValues(Documents.of(mine.fold, mine.nextOffset)));
        }
    }
}
