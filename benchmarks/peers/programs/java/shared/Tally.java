package crashfold.peers;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** Everything that is kept of one predicate: crash points from low up to high (exclusive), in hundredths. */
final class Tally {
    /** A closed series, and the streak of matches after it. */
    static final class Run {
        final Game start;
        final Game end;
        final long length;
        long count;
        final List<Game> follow = new ArrayList<>(2);

        Run(Game start, Game end, long length) {
            this.start = start;
            this.end = end;
            this.length = length;
        }
    }

    final String name;
    final long low;
    final long high;
    private final int seriesKept;
    private final int followKept;

    long count;
    /** Matches in the bucket that is being filled; those before it are in `buckets`. */
    long inBucket;
    final Map<Long, Long> buckets = new HashMap<>();
    Game last;
    long lastOrdinal;
    /** The first game of the open series; null when none is open. */
    Game start;
    long startOrdinal;
    /** The series that the next match belongs to; before the first one, a dummy. */
    Run run = new Run(null, null, 0);
    final ArrayDeque<Run> series = new ArrayDeque<>();

    Tally(String name, long low, long high, Job.Sizes sizes) {
        this.name = name;
        this.low = low;
        this.high = high;
        this.seriesKept = sizes.seriesKept();
        this.followKept = sizes.followGamesKept();
    }

    boolean matches(long hundredths) {
        return low <= hundredths && hundredths < high;
    }

    void match(Game game, long ordinal, Game previous) {
        count++;
        inBucket++;
        last = game;
        lastOrdinal = ordinal;
        if (start != null) {
            add(new Run(start, previous, ordinal - startOrdinal));
            start = null;
        }
        if (run.count++ < followKept) {
            run.follow.add(game);
        }
    }

    void miss(Game game, long ordinal) {
        if (start == null) {
            start = game;
            startOrdinal = ordinal;
        }
    }

    void add(Run closed) {
        run = closed;
        series.addLast(closed);
        if (series.size() > seriesKept) {
            series.removeFirst();
        }
    }
}
