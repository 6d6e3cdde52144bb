"""`crashfold replay`: rebuild beside the live state, and swap."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from time import monotonic
from typing import Annotated

from cyclopts import Parameter, validators
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from crashfold.engine.adapters.process.malloc import keep_freed_memory
from crashfold.engine.adapters.prometheus.engine import Metrics
from crashfold.engine.cli import options, output
from crashfold.engine.cli.bootstrap import (
    CLOCK,
    meanwhile,
    new_folder,
    only_stream,
    open_dead_letters,
    open_log,
    open_store,
    serve_metrics,
)
from crashfold.engine.cli.options import Common
from crashfold.engine.runtime.rebuild import Progress, Rebuild, RebuildReport, RebuildRequest
from crashfold.engine.runtime.reporting import RebuildNotes
from crashfold.engine.settings import Settings

PLAIN_EVERY_S = 2.0

Progressed = Callable[[int, int], None]


def replay(
    *,
    stream: str | None = None,
    to_offset: Annotated[int | None, Parameter(validator=validators.Number(gte=0))] = None,
    dry_run: bool = False,
    accept_gap: bool = False,
    drop_keys: bool = False,
    file: Path | None = None,
    port: int | None = None,
    json: bool = False,
    common: Common | None = None,
) -> None:
    """Rebuild the aggregates from the topic beside the live ones, and swap them in at once.

    A live engine may go on meanwhile. Killed or cancelled at any point, nothing live has changed.

    Parameters
    ----------
    stream
        Only this stream.
    to_offset
        Only the records before this offset; live state that is further goes back to it.
    dry_run
        Read and fold, but write nothing.
    accept_gap
        Swap in even if that has fewer games than the live state, or records that it was folded from are gone.
    drop_keys
        Swap in even if the live state has keys of a projection that is not installed or not in projections.own.
    file
        Read games from this JSONL or CSV file instead of the topic.
    port
        Serve metrics on this port of engine.host while it lasts, its progress among them; 0: a free one.
    json
        Print the result as JSON.
    """
    settings = options.settings(common)
    request = RebuildRequest(stream, to_offset, dry_run, accept_gap, drop_keys)
    keep_freed_memory()
    report = options.run(replay_topic, settings, request, file, port)
    if json:
        output.print_json(report)
        return
    rows = [(one.stream, one.games, one.next_offset, one.version) for one in report.streams]
    output.print_table(
        "rebuilt" if not dry_run else "would be rebuilt", ("stream", "games", "next_offset", "version"), rows
    )
    rate = report.records / max(report.duration_s, 1e-9)
    output.print_error(
        f"{report.records} records in {report.duration_s:.1f} s ({rate:,.0f} a second), {report.dead_letters} of them "
        "dead letters"
    )


async def replay_topic(
    settings: Settings, request: RebuildRequest, file: Path | None = None, port: int | None = None
) -> RebuildReport:
    """Rebuild as asked, showing how far it is."""
    metrics, notes = Metrics(), RebuildNotes(request.stream or only_stream(settings), CLOCK)

    def show(progress: Progress) -> None:
        progressed(progress.records, progress.records_total)
        metrics.replayed(progress.records, progress.records_total)
        notes.progressed(progress)

    with progress_bar("replay") as progressed:
        async with (
            serve_metrics(settings, metrics, port),
            open_store(settings, metrics) as store,
            open_log(settings, file) as event_log,
            open_dead_letters(settings, file) as dead_letters,
        ):
            shadow = store.shadow()
            rebuild = Rebuild(
                event_log,
                store,
                shadow,
                new_folder(settings, event_log.topic, shadow),
                request,
                CLOCK,
                show,
                dead_letters=dead_letters,
            )
            if request.dry_run:
                return await rebuild.run()
            reports = store.reports()
            async with meanwhile(notes.keep_telling, reports):
                result = await rebuild.run()
            await notes.tell_result(reports, result)
            return result


def progress_bar(title: str) -> AbstractContextManager[Progressed]:
    """A bar with rate and time left on standard error; plain lines when it is no terminal."""
    console = output.progress_console()
    return _bar(title, console) if console.is_terminal else _lines(title)


@contextmanager
def _bar(title: str, console: Console) -> Iterator[Progressed]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with ProgressBar(*columns, console=console) as progress:
        task = progress.add_task(title, total=None, rate="")
        started_s = monotonic()

        def progressed(done: int, total: int) -> None:
            rate = done / max(monotonic() - started_s, 1e-9)
            progress.update(task, completed=done, total=total, rate=f"{rate:,.0f}/s")

        yield progressed


@contextmanager
def _lines(title: str) -> Iterator[Progressed]:
    started_s = monotonic()
    due_s = started_s + PLAIN_EVERY_S

    def progressed(done: int, total: int) -> None:
        nonlocal due_s
        now_s = monotonic()
        if now_s < due_s:
            return
        due_s = now_s + PLAIN_EVERY_S
        rate = done / (now_s - started_s)
        left_s = (total - done) / rate if rate else 0
        output.print_error(f"{title}: {done}/{total} records, {rate:,.0f}/s, {left_s:,.0f} s left")

    yield progressed
