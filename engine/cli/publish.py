"""`crashfold publish`: games from files into the topic."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from cyclopts import CycloptsError, Parameter, validators

from crashfold.engine.adapters.files.history import STANDARD_INPUT, Damaged, Format, Header, rows
from crashfold.engine.adapters.files.log import read_games_file
from crashfold.engine.adapters.files.sorting import Placed, SortedGames
from crashfold.engine.adapters.kafka.client import connection_options
from crashfold.engine.adapters.kafka.topics import ensure_topic
from crashfold.engine.cli import options, output
from crashfold.engine.cli.bootstrap import CLOCK, folding_of, only_stream
from crashfold.engine.cli.options import Common
from crashfold.engine.core.batch import sort_out
from crashfold.engine.errors import ConfigurationError
from crashfold.engine.games.history import FIELDS, DecimalMark, Interpreter, NotUnderstood, Spelling, TimeUnit
from crashfold.engine.games.survey import Surveyor
from crashfold.engine.ports import Record, Records
from crashfold.engine.publisher import open_sink
from crashfold.engine.settings import Settings
from crashfold.schemas.fields import REQUIRED
from crashfold.schemas.game import Game, decode
from crashfold.schemas.record import DEFAULT_STREAM, is_stream_name

SHOWN_LINES: Final = 20
KEPT_LINES: Final = 10_000
"""Lines left out that are named in the result; all are counted."""
CHECKED_AT_ONCE: Final = 5_000


def publish(
    *files: Path,
    stream: str | None = None,
    format_: Annotated[Format | None, Parameter(name="--format")] = None,
    column: tuple[str, ...] = (),
    table: str | None = None,
    zone: str | None = None,
    time_unit: TimeUnit | None = None,
    decimal: DecimalMark = "point",
    dry_run: bool = False,
    partitions: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 1,
    unchecked: bool = False,
    json: bool = False,
    common: Common | None = None,
) -> int:
    """Publish the games of files to the topic, keyed by stream, in the order of their ids.

    CSV, JSON lines, a JSON array, Parquet or a PostgreSQL dump, also packed by gzip or zstd. What the engine would make
    a dead letter is named by its line and left out, and the exit code is 1. Publishing games again is harmless.

    Parameters
    ----------
    files
        Files of games; `-` is standard input.
    stream
        The stream of games that name none.
    format_
        What the files hold, where their names do not say it.
    column
        FIELD=NAME: the column of that name holds this field: game_id, crash_point, end_time, hash, prepare_time,
        begin_time or stream. Usual names are known.
    table
        The table that holds the games, where a dump has several that could.
    zone
        The zone of moments that have no offset, such as UTC or Europe/Vienna.
    time_unit
        The unit of times that are numbers; by their magnitude if it is not given.
    decimal
        The decimal mark of crash points that are texts.
    dry_run
        Say all that would be said, and publish nothing.
    partitions
        How many partitions the topic gets if it has to be made.
    unchecked
        Publish every line of JSON lines or our own CSV as it stands and in its order, also those that are no games.
    json
        Print the result as JSON.
    """
    settings = options.settings(common)
    stream = stream or (DEFAULT_STREAM if settings.redis.many_streams else settings.engine.stream)
    if not is_stream_name(stream):
        raise ConfigurationError(f"--stream {stream}: a stream name is 1 to 64 of A-Z a-z 0-9 . _ -")
    if not files:
        raise CycloptsError(msg="name the files to publish, or - for standard input")
    if unchecked:
        published = options.run(_publish_unchecked, settings, files, stream, partitions)
        result: dict[str, Any] = {"topic": settings.kafka.topic, "published": published, "left_out": []}
        output.print_json(result) if json else output.print_line(_told(result, dry_run=False))
        return 0
    spelling = Spelling(_columns(column), _zone(zone), time_unit, decimal)
    with SortedGames() as games:
        history = History(settings, stream, games)
        for file in files:
            history.read(file, format_, spelling, table)
        if dry_run:
            published = sum(1 for _ in history.in_order())
        else:
            published = options.run(publish_games, settings, history.in_order(), partitions)
    result = {"topic": settings.kafka.topic, "published": 0 if dry_run else published, **history.result()}
    if json:
        output.print_json(result)
    else:
        show(history, _told({**result, "published": published}, dry_run=dry_run))
    return 1 if history.left_out else 0


class LeftOut(NamedTuple):
    """A line that is not published, and why."""

    file: str
    line: int
    reason: str
    detail: str


class History:
    """The games of some files: read, checked by what the engine checks records by, put in order, surveyed."""

    def __init__(self, settings: Settings, stream: str, games: SortedGames) -> None:
        self._settings = settings
        self._default_key = stream.encode()
        self._games = games
        self._folding = folding_of(settings)
        self._surveyor = Surveyor(settings.fairness.rules)
        self._files: list[str] = []
        self._units: list[tuple[str, str, TimeUnit]] = []
        self.left_out = 0
        self._faults: list[LeftOut] = []

    def read(self, file: Path, form: Format | None, spelling: Spelling, table: str | None = None) -> None:
        """Take in the games of a file. Raises ConfigurationError, CrashfoldError."""
        self._files.append("standard input" if file == STANDARD_INPUT else str(file))
        interpreter = Interpreter(spelling)
        tables = _Tables(self._files[-1], interpreter, spelling, table)
        events: list[tuple[int, bytes, bytes]] = []
        for row in rows(file, form):
            match row:
                case Header(names, None):
                    _check_columns(self._files[-1], names, interpreter, spelling)
                    continue
                case Header():
                    tables.begin(row)
                    continue
                case Damaged(number, detail):
                    if not tables.skips:
                        self._leave_out(number, "unreadable", detail)
                    continue
            if tables.skips:
                continue
            try:
                key, value = interpreter.event(row.values)
            except NotUnderstood as error:
                self._leave_out(row.number, "unreadable", str(error))
                continue
            events.append((row.number, key or self._default_key, value))
            if len(events) >= CHECKED_AT_ONCE:
                self._check(events)
                events = []
        self._check(events)
        tables.end()
        self._units += [(self._files[-1], field, unit) for field, unit in interpreter.units.items()]

    def in_order(self) -> Iterator[tuple[bytes, bytes]]:
        """Key and value of every game, by stream and id, each once. Once."""
        lines: dict[int, tuple[int, int]] = {}
        for placed in self._games:
            game = decode(placed.value)
            assert isinstance(game, Game)
            match self._surveyor.take(placed.stream, game):
                case None:
                    lines = {placed.game_id: (placed.file, placed.number)}
                    yield placed.stream.encode(), placed.value
                case "conflict":
                    file, number = lines[placed.game_id]
                    detail = f"game {placed.game_id} has other content in {self._files[file]}:{number}"
                    self._leave_out(placed.number, "conflict", detail, placed.file)

    def units(self) -> list[str]:
        """Print the unit that was taken for times."""
        return [f"{file}: {field} was taken for {unit}" for file, field, unit in self._units if unit != "ms"]

    @property
    def faults(self) -> list[LeftOut]:
        """The first lines that were left out, file by file and line by line."""
        return sorted(self._faults, key=lambda one: (self._files.index(one.file), one.line))

    def result(self) -> dict[str, Any]:
        """Everything for machines, once all games were read in order."""
        faults = self.faults
        return {
            "left_out": [one.line for one in faults],
            "left_out_lines": self.left_out,
            "faults": [one._asdict() for one in faults],
            "time_units": [{"file": file, "field": field, "unit": unit} for file, field, unit in self._units],
            "streams": list(self._surveyor.streams.values()),
        }

    def table(self) -> list[tuple[object, ...]]:
        """A row for each stream, for people."""
        return [
            (
                one.stream,
                one.games,
                one.first_id,
                one.last_id,
                one.missing,
                one.doubled,
                one.hash_mismatches,
                one.broken_links,
                _time(one.first_time),
                _time(one.last_time),
            )
            for one in self._surveyor.streams.values()
        ]

    def _check(self, events: Sequence[tuple[int, bytes, bytes]]) -> None:
        """Ask what the engine would say, if the records were written now."""
        now_ms = CLOCK.now_ms()
        records = Records.of(0, 0, [Record(at, now_ms, key, value) for at, (_, key, value) in enumerate(events)])
        batch = sort_out(records, self._folding, only_stream(self._settings))
        for row, reason, detail in batch.rejected:
            self._leave_out(events[row][0], reason, detail)
        for name, found in batch.streams.items():
            for row in found.rows.tolist():
                number, _, value = events[row]
                game = decode(value)
                assert isinstance(game, Game)
                self._games.add(Placed(name, game.game_id, len(self._files) - 1, number, value))

    def _leave_out(self, number: int, reason: str, detail: str, file: int = -1) -> None:
        self.left_out += 1
        if len(self._faults) < KEPT_LINES:
            self._faults.append(LeftOut(self._files[file], number, reason, detail))


async def publish_games(settings: Settings, games: Iterator[tuple[bytes, bytes]], partitions: int = 1) -> int:
    """Publish records in this order; how many."""
    kafka = settings.kafka
    await ensure_topic(connection_options(kafka), kafka.topic, partitions)
    async with open_sink(kafka) as sink:
        for key, value in games:
            await sink.send(kafka.topic, key, value)
        await sink.flush()
        return sink.acknowledged


def show(history: History, told: str) -> None:
    """The result for people."""
    columns = (
        *("stream", "games", "first id", "last id", "missing", "doubled", "hashes unfit", "links broken"),
        *("from", "to"),
    )
    output.print_table("history", columns, history.table())
    output.print_line(told)
    for unit in history.units():
        output.print_error(unit)
    for one in history.faults[:SHOWN_LINES]:
        output.print_error(f"{one.file}:{one.line}: {one.reason}: {one.detail}")
    if history.left_out > SHOWN_LINES:
        output.print_error(f"… and {history.left_out - SHOWN_LINES} more")
    if history.left_out:
        output.print_error(f"{history.left_out} lines were left out: mend them, and publish the file again")


def _told(result: dict[str, Any], *, dry_run: bool) -> str:
    return f"{result['published']} games {'would be ' if dry_run else ''}published to {result['topic']}"


async def _publish_unchecked(settings: Settings, files: Sequence[Path], stream: str, partitions: int) -> int:
    def records() -> Iterator[tuple[bytes, bytes]]:
        for file in files:
            for line in read_games_file(file):
                yield line.key or stream.encode(), line.value

    return await publish_games(settings, records(), partitions)


class _Tables:
    """Finds the one table of a dump that holds games: the one that was named, else the one that has their columns."""

    def __init__(self, file: str, interpreter: Interpreter, spelling: Spelling, wanted: str | None) -> None:
        self.skips = False
        """The rows that come now are no games."""
        self._file = file
        self._interpreter = interpreter
        self._spelling = spelling
        self._wanted = wanted
        self._chosen: str | None = None
        self._seen: dict[str, Sequence[str]] = {}

    def begin(self, header: Header) -> None:
        """Rows of that table come next. Raises ConfigurationError when two tables could hold the games."""
        name = header.table or ""
        self._seen[name] = header.names
        if self._wanted is not None:
            is_chosen = self._wanted in (name, name.rpartition(".")[2])
        else:
            found = self._interpreter.columns(header.names)
            is_chosen = all(field in found for field in REQUIRED)
        if is_chosen and self._wanted is not None:
            _check_columns(self._file, header.names, self._interpreter, self._spelling)
        self.skips = not is_chosen
        if is_chosen and self._chosen not in (None, name):
            raise ConfigurationError(
                f"{self._file}: {self._chosen} and {name} may both hold games: say which by --table"
            )
        self._chosen = name if is_chosen else self._chosen

    def end(self) -> None:
        """Raises ConfigurationError when no table held games."""
        if self._seen and self._chosen is None:
            unknown = "columns unknown: dump it by --column-inserts"
            known = "; ".join(f"{name} ({', '.join(columns) or unknown})" for name, columns in self._seen.items())
            what = f"has no table {self._wanted}" if self._wanted else "has no table with the columns of games"
            raise ConfigurationError(f"{self._file} {what}: {known}; --table and --column say where they are")


def _check_columns(file: str, names: Sequence[str], interpreter: Interpreter, spelling: Spelling) -> None:
    """Raise ConfigurationError when the columns of a table are not those of games."""
    if unknown := [name for name in spelling.columns.values() if name not in names]:
        raise ConfigurationError(f"--column: {file} has no column {unknown[0]!r}, but {', '.join(map(repr, names))}")
    found = interpreter.columns(names)
    if missing := [field for field in REQUIRED if field not in found]:
        raise ConfigurationError(
            f"{file}: no column is known to hold {' or '.join(missing)}; say which of these does by --column "
            f"{missing[0]}=NAME: {', '.join(map(repr, names))}"
        )


def _columns(given: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in given:
        field, equals, name = text.partition("=")
        if not equals or field not in FIELDS:
            raise ConfigurationError(f"--column {text}: write FIELD=NAME, where FIELD is one of {', '.join(FIELDS)}")
        found[field] = name
    return found


def _zone(name: str | None) -> ZoneInfo | None:
    try:
        return None if name is None else ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        raise ConfigurationError(f"--zone {name}: write a zone such as UTC or Europe/Vienna") from None


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds")
