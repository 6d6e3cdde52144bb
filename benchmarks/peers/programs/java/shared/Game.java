package crashfold.peers;

import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.annotation.JsonProperty;

/** One finished round, as it stands on the topic; times are epoch milliseconds. */
@JsonIgnoreProperties(ignoreUnknown = true)
final class Game {
    @JsonProperty("game_id") public long id;
    @JsonProperty("hash") public String hash;
    @JsonProperty("crash_point") public double crashPoint;
    @JsonProperty("prepare_time") public Long prepareTime;
    @JsonProperty("begin_time") public Long beginTime;
    @JsonProperty("end_time") public long endTime;

    Game() {}

    Game(long id, double crashPoint, long endTime) {
        this.id = id;
        this.crashPoint = crashPoint;
        this.endTime = endTime;
    }

    long hundredths() {
        return Math.round(crashPoint * 100);
    }
}
