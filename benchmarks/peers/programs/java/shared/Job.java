package crashfold.peers;

import com.fasterxml.jackson.annotation.JsonProperty;
import java.util.LinkedHashMap;
import java.util.List;

/** The job as the process is told of it; benchmarks/peers/job.py says what each field means. */
record Job(
        @JsonProperty("bootstrap_servers") String bootstrapServers,
        @JsonProperty("topic") String topic,
        @JsonProperty("group") String group,
        @JsonProperty("redis_url") String redisUrl,
        @JsonProperty("games") long games,
        @JsonProperty("variant") String variant,
        @JsonProperty("directory") String directory,
        @JsonProperty("write_every_s") double writeEveryS,
        @JsonProperty("sizes") Sizes sizes) {

    /** The same job for one of its predicates. */
    Job of(String predicate) {
        LinkedHashMap<String, Long[]> one = new LinkedHashMap<>();
        one.put(predicate, sizes.predicates().get(predicate));
        Sizes its = new Sizes(
                one, sizes.samplesGames(), sizes.samplesHours(), sizes.intervalMs(), sizes.intervalsKept(),
                sizes.seriesKept(), sizes.followGamesKept());
        return new Job(bootstrapServers, topic, group, redisUrl, games, variant, directory, writeEveryS, its);
    }

    record Sizes(
            @JsonProperty("predicates") LinkedHashMap<String, Long[]> predicates,
            @JsonProperty("samples_games") List<Integer> samplesGames,
            @JsonProperty("samples_hours") List<Integer> samplesHours,
            @JsonProperty("interval_ms") long intervalMs,
            @JsonProperty("intervals_kept") int intervalsKept,
            @JsonProperty("series_kept") int seriesKept,
            @JsonProperty("follow_games_kept") int followGamesKept) {}
}
