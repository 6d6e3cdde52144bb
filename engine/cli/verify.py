"""`crashfold verify`: recompute from the topic and compare with Redis, key by key."""

from pathlib import Path

from crashfold.engine.cli import options, output
from crashfold.engine.cli.bootstrap import CLOCK, folding_of, open_log, open_store, streams_of
from crashfold.engine.cli.options import Common
from crashfold.engine.cli.replay import progress_bar
from crashfold.engine.errors import CrashfoldError, Unavailable
from crashfold.engine.runtime.reporting import tell_verified
from crashfold.engine.runtime.verify import CannotCompare, VerifyReport
from crashfold.engine.runtime.verify import verify as verify_streams
from crashfold.engine.settings import Settings

SHOWN_DIFFERENCES = 50


def verify(
    *, stream: str | None = None, file: Path | None = None, json: bool = False, common: Common | None = None
) -> int:
    """Recompute from the topic by the plain oracle, up to the stored checkpoint, and compare with Redis key by key.

    Exit code 0: equal. 1: differs; each difference is named. 2: could not compare.

    Parameters
    ----------
    stream
        Only this stream.
    file
        Read games from this JSONL or CSV file instead of the topic.
    json
        Print the result as JSON.
    """
    settings = options.settings(common)
    try:
        report = options.run(verify_topic, settings, stream, file)
    except CrashfoldError as error:
        if isinstance(error, Unavailable) or error.exit_code == CrashfoldError.exit_code:  # 1 is for differences
            raise CannotCompare(str(error)) from error
        raise
    if json:
        output.print_json(report)
    else:
        show(report)
    return 1 if report.differences else 0


async def verify_topic(settings: Settings, stream: str | None = None, file: Path | None = None) -> VerifyReport:
    """Verify the stream, or all that are known."""
    with progress_bar("verify") as progressed:
        async with open_store(settings) as store, open_log(settings, file) as event_log:
            streams = await streams_of(settings, store, event_log, stream)
            result = await verify_streams(event_log, store, folding_of(settings), streams, progressed)
            await tell_verified(store.reports(), result, CLOCK)
            return result


def show(report: VerifyReport) -> None:
    """The report for people."""
    rows = [(one.stream, one.version, one.games, one.keys, one.next_offset, one.rejected) for one in report.streams]
    output.print_table("compared", ("stream", "version", "games", "keys", "next_offset", "rejected"), rows)
    for found in report.differences[:SHOWN_DIFFERENCES]:
        part = "" if found.part is None else f" {found.part}"
        output.print_line(f"{found.stream}: {found.key}{part}: expected {found.expected}, stored {found.stored}")
    if len(report.differences) > SHOWN_DIFFERENCES:
        output.print_line(f"… and {len(report.differences) - SHOWN_DIFFERENCES} more")
    output.print_line("equal" if not report.differences else f"{len(report.differences)} differences")
