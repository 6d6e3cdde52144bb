package crashfold.peers;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;

/**
 * The state of a stream. Plain: for every game a loop over the thresholds. Best: the crash point is looked up among
 * the sorted thresholds, and only the predicates are touched that it matches, or that the game before it matched.
 */
final class Fold {
    final Job.Sizes sizes;
    final List<Tally> tallies = new ArrayList<>();
    long games;
    long firstTime;
    Game newest;
    long bucket = -1;
    long inBucket;
    final Map<Long, Long> buckets = new HashMap<>();
    final ArrayDeque<Game> recent = new ArrayDeque<>();

    private final boolean best;
    private final long[] cuts;
    /** By band: the predicates that match there. */
    private final Tally[][] matching;
    /** By the band before and the band now: the predicates that matched there and do not match here. */
    private final Tally[][][] ending;

    Fold(Job job) {
        sizes = job.sizes();
        best = job.variant().equals("best");
        sizes.predicates().forEach((name, range) -> {
            long high = range[1] == null ? Long.MAX_VALUE : range[1];
            tallies.add(new Tally(name, range[0], high, sizes));
        });
        TreeSet<Long> edges = new TreeSet<>();
        for (Tally tally : tallies) {
            edges.add(tally.low);
            edges.add(tally.high);
        }
        cuts = edges.stream().mapToLong(Long::longValue).toArray();
        matching = new Tally[cuts.length + 1][];
        ending = new Tally[cuts.length + 1][cuts.length + 1][];
        for (int band = 0; band <= cuts.length; band++) {
            matching[band] = among(tallies, band, true);
        }
        for (int before = 0; before <= cuts.length; before++) {
            for (int now = 0; now <= cuts.length; now++) {
                ending[before][now] = among(List.of(matching[before]), now, false);
            }
        }
    }

    private Tally[] among(List<Tally> some, int band, boolean matches) {
        long inside = band == 0 ? Long.MIN_VALUE : cuts[band - 1];
        return some.stream().filter(tally -> tally.matches(inside) == matches).toArray(Tally[]::new);
    }

    void fold(Game game) {
        long now = game.endTime / sizes.intervalMs();
        if (now != bucket) {
            closeBucket();
            bucket = now;
        }
        inBucket++;
        games++;
        recent.addLast(game);
        long hundredths = game.hundredths();
        if (newest == null) {
            firstTime = game.endTime;
        }
        if (!best || newest == null) {
            for (Tally tally : tallies) {
                if (tally.matches(hundredths)) {
                    tally.match(game, games, newest);
                } else {
                    tally.miss(game, games);
                }
            }
        } else {
            int band = band(hundredths);
            for (Tally tally : ending[band(newest.hundredths())][band]) {
                tally.miss(game, games);
            }
            for (Tally tally : matching[band]) {
                tally.match(game, games, newest);
            }
        }
        newest = game;
    }

    /** Put the counts of the bucket that is being filled to the others; it may be filled further. */
    void closeBucket() {
        if (inBucket == 0) {
            return;
        }
        buckets.merge(bucket, inBucket, Long::sum);
        inBucket = 0;
        for (Tally tally : tallies) {
            if (tally.inBucket > 0) {
                tally.buckets.merge(bucket, tally.inBucket, Long::sum);
                tally.inBucket = 0;
            }
        }
    }

    /** Let go what no sample and no interval needs any more. */
    void forget() {
        long hours = sizes.samplesHours().stream().mapToInt(Integer::intValue).max().orElse(0);
        int kept = sizes.samplesGames().stream().mapToInt(Integer::intValue).max().orElse(0);
        while (recent.size() > kept && recent.peekFirst().endTime < newest.endTime - hours * 3_600_000) {
            recent.removeFirst();
        }
        long oldest = newest.endTime / sizes.intervalMs() - sizes.intervalsKept();
        buckets.keySet().removeIf(at -> at < oldest);
        for (Tally tally : tallies) {
            tally.buckets.keySet().removeIf(at -> at < oldest);
        }
    }

    private int band(long hundredths) {
        int place = Arrays.binarySearch(cuts, hundredths);
        return place >= 0 ? place + 1 : -place - 1;
    }
}
