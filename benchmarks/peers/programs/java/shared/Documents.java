package crashfold.peers;

import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.type.TypeReference;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** The result as JSON documents by key (benchmarks/peers/job.py), and the state as it is taken up from them again. */
final class Documents {
    static final String PREFIX = "peer:";
    static final String NEXT_OFFSET = PREFIX + "next_offset";
    /** The games that the samples need; with them the documents are the whole state. */
    static final String RECENT = PREFIX + "recent";

    static final ObjectMapper JSON = new ObjectMapper();
    static final ObjectReader GAME = JSON.readerFor(Game.class);

    private Documents() {}

    static Map<String, byte[]> of(Fold fold, long nextOffset) {
        try {
            return make(fold, nextOffset);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    private static Map<String, byte[]> make(Fold fold, long nextOffset) throws IOException {
        fold.closeBucket();
        fold.forget();
        Map<String, byte[]> made = new LinkedHashMap<>();
        made.put(NEXT_OFFSET, Long.toString(nextOffset).getBytes(StandardCharsets.US_ASCII));
        Map<String, List<Game>> samples = samples(fold);
        ObjectNode sizes = JSON.createObjectNode();
        Map<String, long[]> hundredths = new LinkedHashMap<>();
        samples.forEach((name, sample) ->
                hundredths.put(name, sample.stream().mapToLong(Game::hundredths).toArray()));
        samples.forEach((name, sample) -> sizes.putObject(name)
                .put("total_games", sample.size())
                .put("first_game_time", sample.get(0).endTime)
                .put("last_game_time", sample.get(sample.size() - 1).endTime));
        made.put(PREFIX + "samples", JSON.writeValueAsBytes(sizes));
        for (Tally tally : fold.tallies) {
            ObjectNode occurrences = JSON.createObjectNode()
                    .put("count", tally.count)
                    .put("total_games", fold.games)
                    .put("first_game_time", fold.firstTime)
                    .put("last_game_time", fold.newest.endTime);
            hundredths.forEach((name, sample) -> occurrences.put(name, matching(tally, sample)));
            made.put(PREFIX + "occurrences:" + tally.name, JSON.writeValueAsBytes(occurrences));
            ObjectNode intervals = JSON.createObjectNode();
            fold.buckets.forEach((at, total) -> intervals.putObject("bucket_" + at * fold.sizes.intervalMs() / 1000)
                    .put("count", tally.buckets.getOrDefault(at, 0L))
                    .put("total_games", total));
            made.put(PREFIX + "intervals:" + tally.name, JSON.writeValueAsBytes(intervals));
            if (tally.start != null || !tally.series.isEmpty()) {
                made.put(PREFIX + "series:" + tally.name, series(fold, tally));
            }
            if (tally.last != null) {
                ObjectNode last = JSON.valueToTree(tally.last);
                made.put(PREFIX + "last_game:" + tally.name,
                        JSON.writeValueAsBytes(last.put("ordinal", tally.lastOrdinal)));
            }
        }
        return made;
    }

    /** The arguments of MSET. */
    static byte[][] keysAndValues(Map<String, byte[]> documents) {
        byte[][] arguments = new byte[documents.size() * 2][];
        int place = 0;
        for (Map.Entry<String, byte[]> document : documents.entrySet()) {
            arguments[place++] = document.getKey().getBytes(StandardCharsets.US_ASCII);
            arguments[place++] = document.getValue();
        }
        return arguments;
    }

    static long nextOffset(Map<String, byte[]> documents) {
        return Long.parseLong(new String(documents.get(NEXT_OFFSET), StandardCharsets.US_ASCII));
    }

    static byte[] recent(Fold fold) {
        try {
            return JSON.writeValueAsBytes(fold.recent);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    /** Take the state up again; the documents hold the recent games too. */
    static void restore(Fold fold, Map<String, byte[]> documents) {
        try {
            fold.recent.addAll(JSON.readValue(documents.get(RECENT), new TypeReference<List<Game>>() {}));
            fold.newest = fold.recent.peekLast();
            for (Tally tally : fold.tallies) {
                restore(fold, tally, documents);
            }
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    private static void restore(Fold fold, Tally tally, Map<String, byte[]> documents) throws IOException {
        JsonNode occurrences = JSON.readTree(documents.get(PREFIX + "occurrences:" + tally.name));
        fold.games = occurrences.get("total_games").longValue();
        fold.firstTime = occurrences.get("first_game_time").longValue();
        tally.count = occurrences.get("count").longValue();
        JSON.readTree(documents.get(PREFIX + "intervals:" + tally.name)).fields().forEachRemaining(field -> {
            long at = Long.parseLong(field.getKey().substring("bucket_".length())) * 1000 / fold.sizes.intervalMs();
            fold.buckets.put(at, field.getValue().get("total_games").longValue());
            tally.buckets.put(at, field.getValue().get("count").longValue());
        });
        byte[] last = documents.get(PREFIX + "last_game:" + tally.name);
        if (last != null) {
            tally.last = JSON.readValue(last, Game.class);
            tally.lastOrdinal = JSON.readTree(last).get("ordinal").longValue();
        }
        byte[] written = documents.get(PREFIX + "series:" + tally.name);
        List<JsonNode> series = new ArrayList<>();
        if (written != null) {
            JSON.readTree(written).forEach(series::add);
        }
        boolean isOpen = !tally.matches(fold.newest.hundredths());
        for (int place = series.size() - 1; place >= (isOpen ? 1 : 0); place--) {
            JsonNode one = series.get(place);
            Tally.Run run = new Tally.Run(
                    game(one, "start_game", "start_time"), game(one, "end_game", "end_time"),
                    one.get("length").longValue());
            run.count = one.get("follow_streak").get("count").longValue();
            for (JsonNode follow : one.get("follow_streak").get("games")) {
                run.follow.add(new Game(follow.get("game_id").longValue(),
                        follow.get("crash_point").doubleValue(), follow.get("time").longValue()));
            }
            tally.add(run);
        }
        if (isOpen) {
            tally.start = game(series.get(0), "start_game", "start_time");
            tally.startOrdinal = fold.games - series.get(0).get("length").longValue() + 1;
        }
    }

    private static Game game(JsonNode series, String id, String time) {
        return new Game(series.get(id).longValue(), 1.0, series.get(time).longValue());
    }

    private static Map<String, List<Game>> samples(Fold fold) {
        List<Game> recent = new ArrayList<>(fold.recent);
        Map<String, List<Game>> samples = new LinkedHashMap<>();
        for (int games : fold.sizes.samplesGames()) {
            samples.put("games:" + games, recent.subList(Math.max(0, recent.size() - games), recent.size()));
        }
        for (int hours : fold.sizes.samplesHours()) {
            long start = fold.newest.endTime - hours * 3_600_000L;
            samples.put("hours:" + hours, recent.stream().filter(game -> game.endTime >= start).toList());
        }
        return samples;
    }

    private static int matching(Tally tally, long[] sample) {
        int count = 0;
        for (long hundredths : sample) {
            count += tally.matches(hundredths) ? 1 : 0;
        }
        return count;
    }

    private static byte[] series(Fold fold, Tally tally) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        try (JsonGenerator out = JSON.createGenerator(bytes)) {
            int room = fold.sizes.seriesKept();
            out.writeStartArray();
            if (tally.start != null) {
                write(out, new Tally.Run(tally.start, fold.newest, fold.games - tally.startOrdinal + 1));
                room--;
            }
            Iterator<Tally.Run> newestFirst = tally.series.descendingIterator();
            while (room-- > 0 && newestFirst.hasNext()) {
                write(out, newestFirst.next());
            }
            out.writeEndArray();
        }
        return bytes.toByteArray();
    }

    private static void write(JsonGenerator out, Tally.Run run) throws IOException {
        out.writeStartObject();
        out.writeNumberField("start_game", run.start.id);
        out.writeNumberField("start_time", run.start.endTime);
        out.writeNumberField("end_game", run.end.id);
        out.writeNumberField("end_time", run.end.endTime);
        out.writeNumberField("length", run.length);
        out.writeObjectFieldStart("follow_streak");
        out.writeNumberField("count", run.count);
        out.writeArrayFieldStart("games");
        for (Game game : run.follow) {
            out.writeStartObject();
            out.writeNumberField("game_id", game.id);
            out.writeNumberField("crash_point", game.crashPoint);
            out.writeNumberField("time", game.endTime);
            out.writeEndObject();
        }
        out.writeEndArray();
        out.writeEndObject();
        out.writeEndObject();
    }
}
