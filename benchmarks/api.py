"""The read side over HTTP: `crashfold serve` as a process of its own, over a history of games in a real Redis.

For each family of questions, at one client and at sixteen: how long a *new* answer takes, the first to its question
since the last commit, and one that was given before (*kept*). No figure of a wrong answer: every question is compared
with plain loops over the same games, and every answer that is timed must be of the version that was committed.
"""

import itertools
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from redis.asyncio import Redis

from benchmarks.api_client import Answer, Clients, request
from benchmarks.api_questions import Family, Question, families
from benchmarks.measure import Figure, announce
from crashfold.engine.adapters.embedded import free_port
from crashfold.engine.adapters.redis.store import RedisStore
from crashfold.engine.errors import CrashfoldError
from crashfold.engine.ports import Applied, Checkpoint, Commit, Position
from crashfold.projections import ProjectionSettings, StreamState, plan
from crashfold.schemas.game import Game
from crashfold.schemas.record import DEFAULT_STREAM
from tests.support.api_oracle import Oracle

CLIENTS: Final = 16
NEW_ALONE: Final = 60
"""Commits a run and family, each followed by one question of one client."""
NEW_ROUNDS: Final = 4
"""Commits a run and family, each followed by all questions of the family from all clients."""
KEPT_S: Final = 0.15
"""How long kept answers are asked for."""
START_S: Final = 60.0
MORE_GAMES: Final = 6_000
"""Beyond the history: enough for the commits of a run."""

_WINDOW: Final = re.compile(rb'"end_time":"([^"]+)"')


class Timed(msgspec.Struct, frozen=True):
    """Latencies of one run in seconds, and how long the clients took for all of them together."""

    latencies_s: list[float]
    duration_s: float

    @property
    def per_s(self) -> float:
        """Requests a second."""
        return len(self.latencies_s) / self.duration_s

    def quantile_ms(self, share: float) -> float:
        """The latency that this share of requests does not exceed, in ms."""
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3


class Committer:
    """Commits games to the store as the engine does, one a commit; offsets count the games."""

    def __init__(self, store: RedisStore, history: StreamState, more: Iterator[Game], generation: str) -> None:
        self._store = store
        self._state = history
        self._more = more
        self._generation = generation
        self._position: Position | None = None
        self.version = 0

    @property
    def window(self) -> list[Game]:
        """The games that questions are answered from."""
        return self._state.window.to_games()

    async def fill(self) -> None:
        """Commit the history."""
        await self._commit(self._state, self._state.create())

    async def commit(self) -> int:
        """Commit one more game, which ends now; the version."""
        game = msgspec.structs.replace(next(self._more), end_time=time.time_ns() // 1_000_000)
        folded = self._state.fold([game])
        await self._commit(folded.state, folded.state.delta(self._state, folded.kept))
        return self.version

    async def _commit(self, state: StreamState, delta: Any) -> None:
        checkpoint = Checkpoint(
            next_offset=state.totals.games,
            generation=self._generation,
            commit=secrets.token_hex(8),
            writer="bench",
            topic="games",
            partition=0,
            first_offset=0,
            mark=None,
            fingerprint=state.plan.fingerprint,
            aggregates=state.plan.aggregates,
        )
        made = Commit(DEFAULT_STREAM, self._position, checkpoint, delta, state.totals.games, state.totals.newest_id)
        (outcome,) = await self._store.commit([made])
        if not isinstance(outcome, Applied):
            raise CrashfoldError(f"a commit was not applied: {outcome}")
        self._state, self._position, self.version = state, checkpoint.position, outcome.version


class History(msgspec.Struct, frozen=True):
    """Games that end now, folded; and games that come after them."""

    state: StreamState
    more: list[Game]

    @classmethod
    def of(cls, games: Sequence[Game], count: int) -> "History":
        """The first `count` of the games are the history, moved in time so that its newest ends now."""
        moved = ending_now(games[:count])
        return cls(StreamState.empty(plan(ProjectionSettings())).fold(moved).state, [*games[count:]])


def ending_now(games: Sequence[Game]) -> list[Game]:
    """The games, moved in time so that the newest ends now."""
    later_ms = time.time_ns() // 1_000_000 - games[-1].end_time
    return [
        msgspec.structs.replace(
            game,
            end_time=game.end_time + later_ms,
            begin_time=(game.begin_time or 0) + later_ms,
            prepare_time=(game.prepare_time or 0) + later_ms,
        )
        for game in games
    ]


async def figures(redis_url: str, games: Sequence[Game], count: int, runs: int) -> list[Figure]:
    """All families and the peers, over a history of `count` games; the other games are committed meanwhile."""
    asked = families(datetime.now(UTC).date())
    found: dict[tuple[str, str], list[Timed]] = {}
    for run in range(runs + 1):
        history = History.of(games, count)
        async with filled(redis_url, history, f"run{run}") as committer:
            with serving(redis_url) as port, peers(redis_url) as peer_port:
                for family in asked:
                    announce(f"api, {family.name}", run, runs)
                    await _check(family, port, committer)
                    for kind, timed in (await _measure(family, port, committer)).items():
                        if run:
                            found.setdefault((family.name, kind), []).append(timed)
                for name, kind, timed in _peers(asked, peer_port):
                    if run:
                        found.setdefault((name, kind), []).append(timed)
    return [*_figures(found), *_ratios(found)]


async def _measure(family: Family, port: int, committer: Committer) -> dict[str, Timed]:
    deck = itertools.cycle(family.questions)
    found: dict[str, Timed] = {}
    with Clients(port, 1) as one, Clients(port, CLIENTS) as many, Clients(port, 1) as waiting:
        alone = []
        for _ in range(NEW_ALONE // 3 if family.is_big else NEW_ALONE):
            version = await _shown(committer, waiting)
            answer = one.ask_one(next(deck).wire)
            _is_of(answer, version)
            alone.append(answer.latency_s)
        found["new, 1 client"] = Timed(alone, sum(alone))
        together: list[float] = []
        lasted_s = 0.0
        for _ in range(1 if family.is_big else NEW_ROUNDS):
            version = await _shown(committer, waiting)
            wires = [question.wire for question in family.questions]
            began_s = time.perf_counter()
            answers = many.ask(wires)
            lasted_s += time.perf_counter() - began_s
            for answer in answers:
                _is_of(answer, version)
            together += [answer.latency_s for answer in answers]
        found[f"new, {CLIENTS} clients"] = Timed(together, lasted_s)
        wires = [question.wire for question in family.questions[:8]]
        for kind, clients in (("kept, 1 client", one), (f"kept, {CLIENTS} clients", many)):
            found[kind] = _for_a_while(clients, wires, committer.version)
    return found


def _for_a_while(clients: Clients, wires: Sequence[bytes], version: int) -> Timed:
    """The same questions again and again, which were all answered before."""
    clients.ask(wires)
    began_s = time.perf_counter()

    def until_late() -> Iterator[bytes]:
        for wire in itertools.cycle(wires):
            yield wire
            if time.perf_counter() - began_s > KEPT_S:
                return

    latencies_s = []
    for answer in clients.asking(until_late()):
        latencies_s.append(answer.latency_s)
        if not answer.head.startswith(b"HTTP/1.1 200"):
            raise _wrong(answer)
    duration_s = time.perf_counter() - began_s
    _is_of(answer, version)
    return Timed(latencies_s, duration_s)


async def _shown(committer: Committer, clients: Clients) -> int:
    """The version of one more commit, once the server answers from it."""
    version = await committer.commit()
    _is_of(clients.ask_one(request(f"/api/games?per_page=1&min_version={version}")), version)
    return version


async def _check(family: Family, port: int, committer: Committer) -> None:
    """Compare an answer to each of some questions with the one of plain loops."""
    window = committer.window
    with Clients(port, 1) as clients:
        for question in family.questions[:: 8 if family.is_big else 4]:
            compare(question, clients.ask_one(question.wire), window)


def compare(question: Question, answer: Answer, window: Sequence[Game]) -> None:
    """Raise CrashfoldError unless the answer is the one that plain loops over the window give at its moment."""
    if answer.status != 200:
        raise _wrong(answer)
    told = msgspec.json.decode(answer.body)["data"]
    moments_ms = [time.time() * 1e3, (time.time() - answer.latency_s) * 1e3]
    if (stated := _WINDOW.search(answer.body)) is not None:
        moments_ms.append(datetime.fromisoformat(stated[1].decode()).timestamp() * 1e3)
    if not any(_same(told, question.plain(Oracle(window, "UTC", int(moment_ms) * 1000))) for moment_ms in moments_ms):
        raise CrashfoldError(f"{question.path}: the answer is not that of plain loops, so no figure is worth anything")


def _same(told: Any, expected: Any) -> bool:
    return bool(told == msgspec.json.decode(msgspec.json.encode(expected)))


def _is_of(answer: Answer, version: int) -> None:
    if answer.status != 200 or answer.header("x-crashfold-version") != str(version):
        raise _wrong(answer)


def _wrong(answer: Answer) -> CrashfoldError:
    return CrashfoldError(f"this is not the answer that was to be timed: {answer.head.decode()}")


def _peers(asked: Sequence[Family], port: int) -> Iterator[tuple[str, str, Timed]]:
    """The floor, and the plain loops for one question of some families."""
    fixed = [request("/fixed")] * 8
    with Clients(port, 1) as one, Clients(port, CLIENTS) as many:
        for kind, clients in (("kept, 1 client", one), (f"kept, {CLIENTS} clients", many)):
            began_s = time.perf_counter()
            answers = clients.ask(fixed * (400 if clients is many else 100))
            yield FLOOR, kind, Timed([one.latency_s for one in answers], time.perf_counter() - began_s)
        for family in asked:
            if family.name in PLAIN:
                answers = one.ask([question.wire for question in family.questions[:8]])
                latencies_s = [answer.latency_s for answer in answers]
                yield f"{family.name} (plain loops)", "new, 1 client", Timed(latencies_s, sum(latencies_s))


FLOOR: Final = "bare uvicorn, fixed bytes"
PLAIN: Final = (
    "occurrences, kept threshold",
    "occurrences, other threshold",
    "series, 24 hours",
    "series, 1,000 games",
    "intervals, kept threshold",
    "game sets, 1,000 games",
    "last game, kept threshold",
)


def _figures(found: Mapping[tuple[str, str], Sequence[Timed]]) -> list[Figure]:
    made = []
    for (name, kind), timed in found.items():
        note = f"{len(timed[0].latencies_s)} answers a run"
        made += [
            Figure(f"{name}; {kind}; p50", "ms", tuple(one.quantile_ms(0.5) for one in timed), note),
            Figure(f"{name}; {kind}; p99", "ms", tuple(one.quantile_ms(0.99) for one in timed), note),
            Figure(f"{name}; {kind}; rate", "1/s", tuple(one.per_s for one in timed), note),
        ]
    return made


def _ratios(found: Mapping[tuple[str, str], Sequence[Timed]]) -> list[Figure]:
    made = []
    for name in PLAIN:
        ours, theirs = found[name, "new, 1 client"], found[f"{name} (plain loops)", "new, 1 client"]
        times = tuple(b.quantile_ms(0.5) / a.quantile_ms(0.5) for a, b in zip(ours, theirs, strict=True))
        made.append(Figure(f"{name}: plain loops / new", "×", times, "p50 of one client"))
    return made


COLUMNS: Final = (
    "question",
    *(f"{age}, {what}" for age in ("new", "kept") for what in ("1: p50", "p99", f"{CLIENTS}: p50", "p99", "rate")),
)


def has_row(figure: Figure) -> bool:
    """Whether the figure stands in a row of `rows`."""
    return figure.name.count("; ") == 2


def rows(figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    """A row a family for people: of new and of kept answers p50 and p99 of one client, the same and the rate of all."""
    medians = {tuple(one.name.split("; ")): one.median for one in figures if has_row(one)}
    columns = [
        (f"{age}, {clients}", what)
        for age in ("new", "kept")
        for clients, whats in (("1 client", ("p50", "p99")), (f"{CLIENTS} clients", ("p50", "p99", "rate")))
        for what in whats
    ]
    made = []
    for name in dict.fromkeys(name for name, _, _ in medians):
        found = [(medians.get((name, kind, what)), what) for kind, what in columns]
        cells = ["" if one is None else f"{one:,.0f}" if what == "rate" else f"{one:.2f}" for one, what in found]
        made.append((name, *cells))
    return made


@asynccontextmanager
async def filled(redis_url: str, history: History, generation: str) -> AsyncIterator[Committer]:
    """The store with the history alone; the server is the harness's own."""
    async with Redis.from_url(redis_url) as client:
        await client.flushdb()
    async with RedisStore(redis_url) as store:
        committer = Committer(store, history.state, iter(history.more), generation)
        await committer.fill()
        yield committer


@contextmanager
def serving(redis_url: str, *flags: str) -> Iterator[int]:
    """`crashfold serve` on that Redis, once it is ready; its port."""
    with served(redis_url, *flags) as (port, _):
        yield port


@contextmanager
def served(redis_url: str, *flags: str) -> Iterator[tuple[int, int]]:
    """The same; its port and its process id."""
    port = free_port()
    command = ("-m", "crashfold.engine.cli", "serve", "--redis.url", redis_url, "--api.port", str(port), *flags)
    with _process(command, port, "/readyz") as pid:
        yield port, pid


@contextmanager
def peers(redis_url: str) -> Iterator[int]:
    """The peers; their port."""
    port = free_port()
    with _process(("-m", "benchmarks.api_peers", redis_url, str(port)), port, "/fixed"):
        yield port


@contextmanager
def _process(arguments: Sequence[str], port: int, path: str) -> Iterator[int]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CRASHFOLD_")}
    environ["CRASHFOLD_LOG__LEVEL"] = "warning"
    with ExitStack() as stack:
        process = subprocess.Popen([sys.executable, *arguments], env=environ)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        deadline_s = time.monotonic() + START_S
        while not _answers(port, path):
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise CrashfoldError(f"{arguments[1]} did not start")
            time.sleep(0.05)
        yield process.pid


def _answers(port: int, path: str) -> bool:
    try:
        with Clients(port, 1) as clients:
            return clients.ask_one(request(path)).status == 200
    except OSError:
        return False
