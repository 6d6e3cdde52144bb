package crashfold.peers;

import com.sun.management.OperatingSystemMXBean;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Locale;

/** What a run took, from when this class was loaded: the first thing that a program does. */
final class Outcome {
    private static final long STARTED_NS = System.nanoTime();
    private static final long CPU_BEFORE_NS = cpuNs();

    private Outcome() {}

    /** Begin to count. */
    static void begin() {}

    /** Print what the run took as JSON, and end the process. */
    static void finish(long records) {
        double seconds = (System.nanoTime() - STARTED_NS) / 1e9;
        double cpu = (cpuNs() - CPU_BEFORE_NS) / 1e9;
        System.out.printf(Locale.ROOT,
                "%n{\"records\":%d,\"duration_s\":%f,\"cpu_s\":%f,\"peak_mib\":%f}%n", records, seconds, cpu, peakMib());
        System.out.flush();
        Runtime.getRuntime().halt(0);
    }

    private static long cpuNs() {
        return ((OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean()).getProcessCpuTime();
    }

    private static double peakMib() {
        try {
            return Files.readAllLines(Path.of("/proc/self/status")).stream()
                    .filter(line -> line.startsWith("VmHWM:"))
                    .mapToDouble(line -> Double.parseDouble(line.replaceAll("[^0-9]", "")) / 1024)
                    .findFirst()
                    .orElse(0);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }
}
