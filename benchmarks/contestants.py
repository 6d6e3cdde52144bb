"""What is run from the topic to a result, each in a process of its own: `python -m benchmarks.contestants NAME`.

Prints one JSON object: records, seconds, CPU seconds and peak memory. The clock starts when the process has imported
what it needs, and stops when the result stands: the last record decoded, or the last game committed in Redis.
"""

import gc
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext

import anyio
import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.sampler import Profile, Sampler
from crashfold.engine import logs
from crashfold.engine.adapters.process.malloc import keep_freed_memory
from crashfold.engine.cli import options
from crashfold.engine.cli.bootstrap import CLOCK, new_folder, open_log, open_store, run_engine
from crashfold.engine.runtime.rebuild import Rebuild, RebuildRequest
from crashfold.engine.settings import Settings, load
from crashfold.projections.decoding import decode_cells
from crashfold.projections.games import Bands
from crashfold.schemas.game import Game

BATCH_RECORDS = 20_000
PROFILED = "--profiled"


class Outcome(msgspec.Struct, frozen=True):
    """What one run took."""

    records: int
    duration_s: float
    cpu_s: float
    peak_mib: float
    profile: Profile | None = None


async def bare(settings: Settings, records: int) -> None:
    """The floor: aiokafka's `getmany` and msgspec's decoder, nothing done with what comes out."""
    decode = msgspec.json.Decoder(Game).decode
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap_servers,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=settings.kafka.max_partition_fetch_bytes,
    )
    consumer.assign([TopicPartition(settings.kafka.topic, 0)])
    await consumer.start()
    try:
        seen = 0
        while seen < records:
            for batch in (await consumer.getmany(timeout_ms=1000, max_records=BATCH_RECORDS)).values():
                games = [decode(record.value) for record in batch]
                seen += len(games)
    finally:
        await consumer.stop()


async def batches(settings: Settings, records: int) -> None:
    """Our fetch path without a fold: record batches walked into columns, and every value decoded."""
    async with open_log(settings) as event_log:
        seen = 0
        while seen < records:
            polled = await event_log.poll(BATCH_RECORDS, 1.0)
            for partition in polled.gained:
                await event_log.seek(partition, 0)
            for some in polled.records:
                seen += len(decode_cells(Bands(()), some.values).rows)


async def replay(settings: Settings, records: int) -> None:
    """`crashfold replay`: everything folded, written to a shadow, promoted."""
    await _rebuild(settings, records, RebuildRequest())


async def replay_to(settings: Settings, records: int) -> None:
    """`crashfold replay --to-offset`: the same of the first so many records of a longer topic."""
    await _rebuild(settings, records, RebuildRequest(to_offset=records))


async def _rebuild(settings: Settings, records: int, request: RebuildRequest) -> None:
    keep_freed_memory()  # as `crashfold replay` does
    async with open_store(settings) as store, open_log(settings) as event_log:
        shadow = store.shadow()
        folder = new_folder(settings, event_log.topic, shadow)
        report = await Rebuild(event_log, store, shadow, folder, request, CLOCK, lambda _: None).run()
    assert sum(one.games for one in report.streams) == records, report


async def run(settings: Settings, records: int) -> None:
    """`crashfold run --until-caught-up` from nothing: the live engine behind by the whole topic."""
    await run_engine(settings, until_caught_up=True)


CONTESTANTS: dict[str, Callable[[Settings, int], Awaitable[None]]] = {
    "bare": bare,
    "batches": batches,
    "replay": replay,
    "replay_to": replay_to,
    "run": run,
}


def main() -> None:
    """Run the contestant named by the first argument over as many records as the second says; the rest are settings.

    With `--profiled` before them the outcome has a profile.
    """
    profiled = sys.argv[1] == PROFILED
    name, records, *assignments = sys.argv[1 + profiled :]
    settings = load(None, {}, dict(assignment.split("=", 1) for assignment in assignments)).settings
    logs.configure(settings.log)

    async def measured() -> float:
        started_s = time.perf_counter()
        await CONTESTANTS[name](settings, int(records))
        return time.perf_counter() - started_s

    sampler = Sampler()
    cpu_before = time.process_time()
    with sampler if profiled else nullcontext():
        duration_s = _run_plain(measured) if name == "bare" else options.run(measured)
    cpu_s = time.process_time() - cpu_before
    outcome = Outcome(int(records), duration_s, cpu_s, _peak_mib(), sampler.profile if profiled else None)
    sys.stdout.write(msgspec.json.encode(outcome).decode() + "\n")


def _run_plain(measured: Callable[[], Awaitable[float]]) -> float:
    """On the same event loop, but with Python's collector as it comes: what the engine asks of it is its own."""
    gc.freeze()
    return anyio.run(measured, backend_options={"use_uvloop": sys.platform != "win32"})


def _peak_mib() -> float:
    """Peak memory of this process; `ru_maxrss` would start at what the parent had when it forked."""
    try:
        with open("/proc/self/status", encoding="ascii") as lines:
            return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
