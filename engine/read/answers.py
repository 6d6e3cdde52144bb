"""Answers: a request in, status, headers and bytes out. Which source answers, from which version, and what is kept.

Imports the follower, the port for reading and everything pure of the read side; no HTTP library. What is always true:
an answer is of one version and names it, and that version was held when the answer was made, so no answer of this
process is older than one before it. `ETag` stands only on answers that follow from the version alone.
"""

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Final
from weakref import WeakKeyDictionary

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec
import structlog

from crashfold.engine.errors import CrashfoldError, StateError, Unavailable
from crashfold.engine.ports import (
    CachedAnswer,
    Clock,
    Cursor,
    DeadLetterReader,
    LiveReader,
    Piece,
    Pieces,
    Reports,
    StreamOverview,
)
from crashfold.engine.read import problems, questions
from crashfold.engine.read.aggregates.games import GamesPage
from crashfold.engine.read.dead_letters import SharedDeadLetters
from crashfold.engine.read.deployment import deployment_of
from crashfold.engine.read.fairness import FairnessOf, fairness_by_stream
from crashfold.engine.read.follower import CATCH_UP_S, Follower, Followers, Held, TooManyStreams
from crashfold.engine.read.meter import Aggregate, ApiMeter, Source
from crashfold.engine.read.overview import Overview, deployment, streams
from crashfold.engine.read.past import NO_PAST, Past
from crashfold.engine.read.precomputed import (
    Lack,
    Precomputed,
    aggregate_of,
    past_of,
    past_pieces,
    past_wanted,
    precomputed,
    thresholds_of,
)
from crashfold.engine.read.problems import Problem
from crashfold.engine.read.questions import ZONE_HEADER, Limits
from crashfold.engine.read.routes import Asked, Request, Success, find, methods_of
from crashfold.engine.read.times import MINUTE_S, Zones
from crashfold.engine.read.view import View
from crashfold.engine.settings import AnswerSource, Settings
from crashfold.schemas.reports import ReportKind

FULL_RETRY_S: Final = 10
"""When to come again where all places for streams are taken."""
OVERVIEW_WAIT_S: Final = 10.0
OVERVIEWS_AT_ONCE: Final = 64
MIN_VERSION_WAIT_S: Final = 5.0
READS_MAX: Final = 3
"""How often pieces are read anew because a commit came in between."""
KEPT_BYTES_MAX: Final = 32 << 20
"""Answers kept in memory of one version of a stream."""
KEPT_BYTES_IN_ALL_MAX: Final = 96 << 20
"""Of all streams."""
SEAL_BYTES: Final = 8
"""Of the digest that shows when a kept answer was spoiled."""
SHARED_BYTES_MAX: Final = 256 << 10
"""A bigger answer is not kept in the store."""
SHARED_BYTES_PER_S: Final = 128 << 10
"""What this process adds to the store per second, at most: whoever asks for ever new thresholds must not fill it."""
SHARE_EVERY_S: Final = 0.05
COSTLY_S: Final = 0.002
"""A question that took longer is looked up in the store the next time: asking it takes a tenth of that."""
COSTLY_KNOWN: Final = 1_024
INLINE_ITEMS: Final = 3_000
"""Bigger answers are made in a thread, so that streams and other requests go on meanwhile."""
THREADS: Final = 2
SPOILED: Final = (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError)
"""What reading a stored value raises when no engine has written it."""

JSON: Final = b"application/json"
PROBLEM: Final = problems.MEDIA_TYPE.encode()
VARY_CODING: Final = (b"vary", b"Accept-Encoding")
VARY: Final = (b"vary", b"X-Timezone, Accept-Encoding")

Headers = tuple[tuple[bytes, bytes], ...]
_Key = tuple[str, str, str, str, bytes]
"""Method, path, query, zone and body."""

_log = structlog.get_logger()
_encode = msgspec.json.Encoder().encode


class Reply(msgspec.Struct, frozen=True):
    """What goes over the wire."""

    status: int
    headers: Headers
    body: bytes
    source: Source = "none"
    etag: bytes | None = None
    route: str = "other"
    """The path of the route, with its parameters' names."""
    coded: dict[str, "Reply"] = {}
    """The same answer in content codings, as they were asked for."""

    def unless_known(self, if_none_match: str | None) -> "Reply":
        """304 when the client has it already."""
        if if_none_match is None or self.etag is None or not _matches(if_none_match, self.etag.decode()):
            return self
        kept = tuple((name, value) for name, value in self.headers if not name.startswith(b"content-"))
        return Reply(304, kept, b"", self.source, self.etag, self.route)


class _Kept(msgspec.Struct, frozen=True):
    """An answer kept in memory, until that moment; one that was computed says afterwards that it was kept."""

    reply: Reply
    until_us: int | None


class _Shelf:
    """The answers kept of what is held."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self.answers: dict[_Key, _Kept] = {}
        self.weight = 0

    def put(self, key: _Key, kept: _Kept) -> None:
        """Keep it, in the place of what it replaces, and of the oldest ones where there is no room."""
        weight = _weight(key, kept)
        if weight > KEPT_BYTES_MAX:
            return
        self._take(key)
        while self.weight + weight > KEPT_BYTES_MAX:
            self._take(next(iter(self.answers)))
        self.answers[key] = kept
        self.weight += weight

    def _take(self, key: _Key) -> None:
        kept = self.answers.pop(key, None)
        if kept is not None:
            self.weight -= _weight(key, kept)


class _Shelves:
    """The answers kept of all streams. Those of a follower go with it, or when it holds something else."""

    def __init__(self) -> None:
        self._by_follower: WeakKeyDictionary[Follower, _Shelf] = WeakKeyDictionary()

    def of(self, follower: Follower) -> _Shelf | None:
        """The answers of what is held now; None when there are none."""
        shelf = self._by_follower.get(follower)
        return shelf if shelf is not None and shelf.held is follower.held else None

    def put(self, follower: Follower, key: _Key, kept: _Kept) -> None:
        """Keep an answer of what is held now."""
        shelf = self.of(follower) or _Shelf(follower.held)
        self._by_follower.pop(follower, None)  # the dictionary is in order of use
        self._by_follower[follower] = shelf
        shelf.put(key, kept)
        shelves = [*self._by_follower.items()]
        total = sum(shelf.weight for _, shelf in shelves)
        for other, stale in shelves[:-1]:
            if total > KEPT_BYTES_IN_ALL_MAX or stale.held is not other.held:
                total -= stale.weight
                del self._by_follower[other]


def _weight(key: _Key, kept: _Kept) -> int:
    return len(kept.reply.body) + len(key[2]) + len(key[4]) + 1_000


class Answers:
    """Answers every question of `crashfold.engine.read.routes`, by these settings."""

    def __init__(
        self,
        followers: Followers,
        reader: LiveReader,
        settings: Settings,
        *,
        clock: Clock,
        meter: ApiMeter,
        zones: Zones,
        reports: Reports | None = None,
        dead_letters: DeadLetterReader | None = None,
    ) -> None:
        self._followers = followers
        self._reader = reader
        self._reports = reports
        self._dead_letters = None if dead_letters is None else SharedDeadLetters(dead_letters)
        self._deployment = deployment_of(settings)
        self._topic = settings.kafka.topic
        self._only_stream = None if settings.redis.many_streams else settings.engine.stream
        self._settings = settings.projections
        self._limits = Limits(settings.projections.window_games)
        self._clock = clock
        self._meter = meter
        self._zones = zones
        self._cache_ttl_s = settings.api.cache_ttl_s
        self._sources: dict[Aggregate | None, AnswerSource] = {
            "occurrences": settings.api.source_occurrences,
            "intervals": settings.api.source_intervals,
            "series": settings.api.source_series,
            "last_games": settings.api.source_last_games,
            "gaps": "precomputed",
            None: "computed",
        }
        self.fairness_of: FairnessOf = fairness_by_stream(settings)
        self._settings_digest = _settings_digest(settings)
        self._shelves = _Shelves()
        self._making: dict[tuple[str, *_Key], anyio.Event] = {}
        self._costly: dict[tuple[str, Any], None] = {}
        self._to_share: list[CachedAnswer] = []
        self._shared_bytes, self._shared_s = 0.0, clock.monotonic_s()
        self._share_due = anyio.Event()
        self._threads = anyio.CapacityLimiter(THREADS)
        self._turns = anyio.Lock(fast_acquire=True)

    def kept(self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Reply | None:
        """The answer to a request that was answered before from what is held now. Quick, and never waits."""
        stream = self._followers.default_stream
        if "stream=" in query or "%" in query:
            stream = questions.split_query(query).get("stream", stream)
        follower = self._followers.get(stream)
        shelf = None if follower is None else self._shelves.of(follower)
        if follower is None or shelf is None or follower.is_replica:
            return None
        known = headers.get("if-none-match")
        if follower.is_behind or (known is not None and not all(map(follower.covers, Cursor.all_in(known)))):
            return None
        found = shelf.answers.get((method, path, query, headers.get(ZONE_HEADER, ""), body))
        if found is None or (found.until_us is not None and self._clock.now_ms() * 1000 >= found.until_us):
            self._meter.cache_asked("process", hit=False)
            return None
        self._meter.cache_asked("process", hit=True)
        return found.reply

    async def follower_of(self, stream: str) -> Follower | Problem:
        """The follower of a stream, or what is against it."""
        try:
            follower = await self._followers.follow(stream)
        except TooManyStreams:
            return problems.unavailable("as many streams are listened to here as may be", FULL_RETRY_S)
        except Unavailable:
            return problems.unavailable("the store cannot be reached, and nothing is held of this stream", 1)
        except CrashfoldError:
            return problems.unavailable("the store refuses or has no state of this stream that can be read", 1)
        return follower or problems.not_found("there is no such stream")

    async def answer(self, request: Request) -> Reply:
        """The answer to a request: never an exception for anything that a client or a server can do."""
        found = find(request)
        if isinstance(found, Problem):
            return refusal(found, request)
        asked = found.ask(request, self._limits, self._zones)
        if isinstance(asked, Problem):
            reply = problem_reply(asked)
        elif found.route.is_of_all:
            reply = await self._answer_of_all(asked)
        else:
            reply = await self._answer_asked(asked, request)
        return reply if reply.route == found.route.path else msgspec.structs.replace(reply, route=found.route.path)

    async def share(self) -> None:
        """Put computed answers into the store for other processes, until cancelled. What cannot be put is lost."""
        while True:
            await self._share_due.wait()
            self._share_due = anyio.Event()
            batch, self._to_share = self._to_share, []
            try:
                await self._reader.keep(batch)
            except CrashfoldError as error:
                _log.debug("answers_not_shared", fault=str(error))
            except Exception:  # nobody waits for it
                _log.exception("answers_not_shared")
            await self._clock.sleep(SHARE_EVERY_S)

    async def _answer_asked(self, asked: Asked, request: Request) -> Reply:
        stream = asked.terms.stream or self._followers.default_stream
        found = await self.follower_of(stream)
        if isinstance(found, Problem):
            return problem_reply(found)
        least = asked.terms.min_version
        if least is not None and not await found.wait_for(least, MIN_VERSION_WAIT_S):
            return problem_reply(problems.unavailable("that version is not there yet", 1))
        known = request.headers.get("if-none-match")
        if found.is_behind or known is not None:
            await found.catch_up(() if known is None else Cursor.all_in(known))
        return await self._answer_once(asked, request, found)

    async def _answer_of_all(self, asked: Asked) -> Reply:
        """The answer about the deployment, read anew each time."""
        try:
            with anyio.fail_after(OVERVIEW_WAIT_S):
                overview = await self._overview(asked)
        except (CrashfoldError, TimeoutError) as error:
            _log.debug("overview_unreadable", path=asked.route.path, fault=str(error))
            of_kafka = isinstance(asked.question, questions.DeadLettersQuestion)
            detail = "the dead letters cannot be read from Kafka" if of_kafka else "the store cannot be reached"
            return problem_reply(problems.unavailable(detail, 1))
        body = _encode(Success(data=asked.route.answer(overview, asked.question)))
        fixed = [(b"content-type", JSON), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
        return Reply(200, (*fixed, VARY), body, "computed", None, asked.route.path)

    async def _overview(self, asked: Asked) -> Overview:
        zone = asked.terms.zone
        if isinstance(asked.question, questions.DeadLettersQuestion):
            letters = self._dead_letters
            return Overview(
                zone=zone, dead_letters=[] if letters is None else await letters.newest(asked.question.limit)
            )
        if asked.route.answer is deployment:
            return Overview(zone=zone, deployment=self._deployment)
        if asked.route.answer is not streams:
            reports = self._reports
            kinds: tuple[ReportKind, ...] = ("engine", "rebuild", "verified")
            told = [[] if reports is None else await reports.told(kind) for kind in kinds]
            return Overview(zone=zone, engines=told[0], rebuilds=told[1], verified=told[2])
        if self._only_stream is not None:
            names = [self._only_stream]
        else:
            names = await self._reader.streams(self._topic)
        found: dict[str, StreamOverview | None] = {}
        faults: list[CrashfoldError] = []
        limit = anyio.CapacityLimiter(OVERVIEWS_AT_ONCE)

        async def look(name: str) -> None:
            async with limit:
                try:
                    read = await self._reader.overview(name)
                except StateError:
                    found[name] = None
                except CrashfoldError as error:
                    faults.append(error)
                    tasks.cancel_scope.cancel()
                else:
                    if read is not None:
                        found[name] = read

        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(look, name)
        if faults:
            raise faults[0]
        return Overview(zone=zone, streams=found)

    async def _answer_once(self, asked: Asked, request: Request, follower: Follower) -> Reply:
        """The answer; when somebody else has just asked the same, the one that is being made for them.

        After every commit all clients ask anew, and most of them the same.
        """
        if not _is_kept(asked):
            return await self._answer(asked, request, follower)
        key = (follower.stream, *_key(request))
        while (making := self._making.get(key)) is not None:
            await making.wait()
            shelf = self._shelves.of(follower)
            if shelf is not None and (kept := shelf.answers.get(key[1:])) is not None:
                return kept.reply
        made = self._making[key] = anyio.Event()
        try:
            return await self._answer(asked, request, follower)
        finally:
            del self._making[key]
            made.set()

    async def _answer(self, asked: Asked, request: Request, follower: Follower) -> Reply:
        aggregate = aggregate_of(asked)
        mode = self._sources[aggregate]
        if aggregate is not None and mode == "precomputed" and not follower.is_replica:
            reply = await self._precomputed(asked, request, follower, aggregate)
            if reply is not None:
                return reply
        reply, data = await self._computed(asked, request, follower)
        if aggregate is not None and mode == "shadow" and not follower.is_replica:
            await self._compare(asked, follower, aggregate, data)
        return reply

    async def _precomputed(
        self, asked: Asked, request: Request, follower: Follower, aggregate: Aggregate
    ) -> Reply | None:
        """The answer of the read model; None when it has none."""
        wanted = precomputed(asked, self._settings)
        if wanted is None:
            return None
        read = await self._read(follower, wanted.pieces)
        if read is None:
            return None
        held, pieces = read
        async with self._turn():
            data = _built(wanted, pieces, self._view(follower.stream, asked, held))
        if data is Lack.UNSUITABLE:
            return None
        if data is Lack.MISSING:
            self._meter.precomputed_missing(aggregate)
            _log.error(
                "precomputed_missing", stream=follower.stream, version=held.version, pieces=_names(wanted.pieces)
            )
            return None
        if data is Lack.NO_MATCH:
            data = problems.not_found("no game matches")
        return self._reply(asked, request, follower, held, data, "precomputed")

    async def _computed(self, asked: Asked, request: Request, follower: Follower) -> tuple[Reply, Any]:
        """The answer from the window, and its data (None when it came from the cache)."""
        held = follower.held
        shape = (asked.route.path, asked.question)
        shared = self._request_name(asked, request, held) if self._may_share(asked, follower, held) else None
        if shared is not None and shape in self._costly:
            body = await self._cached(follower.stream, held, shared)
            if body is not None and follower.held is held:
                return self._body_reply(asked, request, follower, held, body, "cached"), None
        began_s = self._clock.monotonic_s()
        held, past, is_whole = await self._past(asked, follower)
        if isinstance(asked.question, questions.GapsQuestion):
            is_whole = held.total_games == len(held.window)
        view = self._view(follower.stream, asked, held, past)
        data = await self._in_turn(asked, view)
        reply = self._reply(asked, request, follower, held, data, "computed", is_whole=is_whole)
        if self._clock.monotonic_s() - began_s > COSTLY_S:
            self._note_costly(shape)
        if shared is not None and is_whole and reply.status == 200 and reply.etag is not None:
            self._share(follower.stream, held, self._request_name(asked, request, held), reply.body)
        return reply, data

    async def _in_turn(self, asked: Asked, view: View) -> Any:
        """The answer from a view; a big one in a thread."""
        if _items(asked, view) <= INLINE_ITEMS:
            async with self._turn():
                return asked.answer(view)
        return await anyio.to_thread.run_sync(asked.answer, view, limiter=self._threads)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One answer is made in a turn of the event loop. Were it as many as clients ask, a new version, which takes
        several turns on its way to live clients, would wait for all of them each time."""
        async with self._turns:
            yield
            await anyio.lowlevel.checkpoint()

    async def _past(self, asked: Asked, follower: Follower) -> tuple[Held, Past, bool]:
        """What is held, and what is known of the time before it where the answer needs that; and whether it is all."""
        held = follower.held
        wanted = past_wanted(asked, self._view(follower.stream, asked, held), self._settings, held.total_games)
        if not wanted:
            return held, NO_PAST, True
        read = None if follower.is_replica else await self._read(follower, past_pieces(asked, wanted))
        if read is None:
            return follower.held, NO_PAST, False
        held, pieces = read
        try:
            return held, past_of(asked, wanted, pieces, held.window), True
        except SPOILED:
            _log.error("past_unreadable", stream=follower.stream, version=held.version)
            return held, NO_PAST, False

    async def _read(self, follower: Follower, pieces: tuple[Piece, ...]) -> tuple[Held, Pieces] | None:
        """Pieces of the read model together with what is held, both of one version; None when that cannot be had.

        A commit may come between: then the follower is waited for, or the pieces are read again.
        """
        for _ in range(READS_MAX):
            try:
                read = await self._reader.read_pieces(follower.stream, pieces)
            except CrashfoldError as error:
                _log.warning("precomputed_unreadable", stream=follower.stream, fault=str(error))
                return None
            if read is None or not await follower.wait_for(read.standing.version, CATCH_UP_S):
                return None
            held = follower.held
            if held.standing == read.standing:
                return held, read
        return None

    async def _compare(self, asked: Asked, follower: Follower, aggregate: Aggregate, data: Any) -> None:
        """Count whether the read model would have answered the same."""
        wanted = precomputed(asked, self._settings)
        read = None if wanted is None else await self._read(follower, wanted.pieces)
        if wanted is None or read is None:
            return
        held, pieces = read
        view = self._view(follower.stream, asked, held)
        theirs, ours = _built(wanted, pieces, view), asked.answer(view)
        if theirs is Lack.UNSUITABLE:
            return
        if theirs is Lack.MISSING:
            self._meter.compared(aggregate, "missing")
        elif isinstance(ours, Problem) == (theirs is Lack.NO_MATCH) and (
            isinstance(ours, Problem) or _encode(ours) == _encode(theirs)
        ):
            self._meter.compared(aggregate, "equal")
            return
        else:
            self._meter.compared(aggregate, "different")
        _log.warning(
            "answers_differ",
            stream=follower.stream,
            version=held.version,
            pieces=_names(wanted.pieces),
            at=asked.route.path,
        )

    def _view(self, stream: str, asked: Asked, held: Held, past: Past = NO_PAST) -> View:
        now_us = self._clock.now_ms() * 1000
        return View.of(held.window, asked.terms.zone, now_us, asked.terms.at_us, past, self.fairness_of(stream))

    def _reply(
        self,
        asked: Asked,
        request: Request,
        follower: Follower,
        held: Held,
        data: Any,
        source: Source,
        *,
        is_whole: bool = True,
    ) -> Reply:
        if isinstance(data, Problem):
            if data.status == 404 and not is_whole:  # nobody knows, which is not the same as none
                data = problems.unavailable("what lies before the window cannot be read now", 1)
            source = "replica" if follower.is_replica or not is_whole else source
            return problem_reply(data, *_version_headers(held, source))
        body = _encode(data if isinstance(data, GamesPage) else Success(data=data))
        return self._body_reply(asked, request, follower, held, body, source, is_whole=is_whole)

    def _body_reply(
        self,
        asked: Asked,
        request: Request,
        follower: Follower,
        held: Held,
        body: bytes,
        source: Source,
        *,
        is_whole: bool = True,
    ) -> Reply:
        """The reply, kept for the next who asks if it is worth it."""
        is_replica = follower.is_replica or held.is_beyond or not is_whole
        etag = None
        if not asked.by_clock and not held.is_beyond and is_whole and held.standing.commit:
            zone = asked.terms.zone.name
            etag = f'"{held.cursor}-{self._settings_digest}{"" if zone == "UTC" else f"-{zone}"}"'.encode()
        route = asked.route.path
        reply = _success(held, body, "replica" if is_replica else source, etag, route)
        if is_replica:
            return _aged(reply, follower.age_s)
        if held is follower.held and _is_kept(asked) and (etag is not None or asked.by_clock):
            later = reply if source == "precomputed" else _success(held, body, "cached", etag, route)
            self._shelves.put(follower, _key(request), _Kept(later, self._valid_until_us(asked)))
        return reply

    def _valid_until_us(self, asked: Asked) -> int | None:
        """When the server's clock makes the answer another one: intervals of the last hours, at the next line."""
        if not asked.by_clock:
            return None
        step_us = asked.question.interval_minutes * MINUTE_S * 1_000_000
        return int((self._clock.now_ms() * 1000 // step_us + 1) * step_us)

    def _may_share(self, asked: Asked, follower: Follower, held: Held) -> bool:
        return bool(self._cache_ttl_s and not asked.by_clock and held.standing.commit) and not (
            follower.is_replica or held.is_beyond or asked.route.kind is None
        )

    def _request_name(self, asked: Asked, request: Request, held: Held) -> str:
        """What the answer is called in the store: its route, for people, and a digest of all it depends on."""
        parts = (
            str(held.cursor),
            self._settings_digest,
            request.method,
            request.path,
            request.query,
            asked.terms.zone.name,
        )
        digest = hashlib.sha256(b"\0".join([*(part.encode() for part in parts), request.body])).hexdigest()[:32]
        return f"{aggregate_of(asked) or 'games'}:{digest}"

    async def _cached(self, stream: str, held: Held, name: str) -> bytes | None:
        try:
            kept = await self._reader.cached(stream, held.version, name)
        except CrashfoldError:
            return None
        body = None if kept is None else _unsealed(kept)
        self._meter.cache_asked("store", hit=body is not None)
        return body

    def _share(self, stream: str, held: Held, name: str, body: bytes) -> None:
        now_s = self._clock.monotonic_s()
        self._shared_bytes = max(0.0, self._shared_bytes - (now_s - self._shared_s) * SHARED_BYTES_PER_S)
        self._shared_s = now_s
        if len(body) > SHARED_BYTES_MAX or self._shared_bytes > SHARED_BYTES_PER_S:
            return
        self._shared_bytes += len(body) + 200
        self._to_share.append(CachedAnswer(stream, held.version, name, _sealed(body), self._cache_ttl_s))
        self._share_due.set()

    def _note_costly(self, shape: tuple[str, Any]) -> None:
        if len(self._costly) >= COSTLY_KNOWN:
            self._costly.pop(next(iter(self._costly)))
        self._costly[shape] = None


def _built(wanted: Precomputed, pieces: Pieces, view: View) -> Any:
    """The answer from the pieces. One that cannot be read is as good as missing."""
    try:
        return wanted.build(pieces.values, pieces.standing, view)
    except SPOILED:
        return Lack.MISSING


def _sealed(body: bytes) -> bytes:
    """An answer as it is kept in the store: its digest, a line feed, and itself."""
    return hashlib.blake2b(body, digest_size=SEAL_BYTES).hexdigest().encode() + b"\n" + body


def _unsealed(kept: bytes) -> bytes | None:
    """The answer that was kept; None when it is no longer what was kept, so that it is computed again."""
    body = kept[2 * SEAL_BYTES + 1 :]
    return body if _sealed(body) == kept else None


def problem_reply(problem: Problem, *headers: tuple[bytes, bytes]) -> Reply:
    """A problem as it goes over the wire."""
    body = _encode(problem)
    fixed = [(b"content-type", PROBLEM), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
    if problem.retry_after_s is not None:
        fixed.append((b"retry-after", b"%d" % problem.retry_after_s))
    return Reply(problem.status, (*fixed, *headers), body)


def refusal(problem: Problem, request: Request) -> Reply:
    """The reply to what no route answers, with the methods of its path if there are any; who asks for these, gets them.

    404, 405, or 204 for OPTIONS.
    """
    if problem.status != 405:
        return problem_reply(problem)
    allow = (b"allow", b"GET, HEAD, OPTIONS" if "GET" in methods_of(request.path) else b"OPTIONS, POST")
    return Reply(204, (allow,), b"") if request.method == "OPTIONS" else problem_reply(problem, allow)


def _success(held: Held, body: bytes, source: Source, etag: bytes | None, route: str) -> Reply:
    headers = [
        (b"content-type", JSON),
        (b"content-length", b"%d" % len(body)),
        *_version_headers(held, source),
        VARY,
        (b"cache-control", b"no-store" if etag is None else b"no-cache"),
    ]
    if etag is not None:
        headers.append((b"etag", etag))
    return Reply(200, tuple(headers), body, source, etag, route)


def _version_headers(held: Held, source: Source) -> Headers:
    return ((b"x-crashfold-version", b"%d" % held.version), (b"x-crashfold-source", source.encode()))


def _aged(reply: Reply, age_s: float) -> Reply:
    age = ((b"age", b"%d" % age_s), (b"x-crashfold-age-s", b"%.3f" % age_s))
    return msgspec.structs.replace(reply, headers=(*reply.headers, *age))


def _matches(if_none_match: str, etag: str) -> bool:
    """Whether the header names the tag, compared weakly as RFC 9110 says."""
    if if_none_match.strip() == "*":
        return True
    return any(tag.strip().removeprefix("W/") == etag for tag in if_none_match.split(","))


def _items(asked: Asked, view: View) -> int:
    """About how many items the answer has: what it costs."""
    question, values = asked.question, max(1, len(thresholds_of(asked)))
    match question:
        case questions.SeriesQuestion() | questions.LastGamesQuestion():
            return min(question.limit, len(view.games))
        case questions.SeriesByTimeQuestion():
            return len(view.games) * question.hours // 168
        case questions.GameSetsQuestion():
            return int(values * question.total_games // question.games_per_set)
        case questions.IntervalsQuestion():
            return int(values * question.hours * 60 // question.interval_minutes)
        case questions.DateRangeQuestion():
            days = (question.end_date - question.start_date).days + 1
            return int(values * days * 1440 // question.interval_minutes)
    return 0


def _is_kept(asked: Asked) -> bool:
    """Whether the answer stays the same for a while: until the next version, or the next line of the grid."""
    return not asked.by_clock or isinstance(asked.question, questions.IntervalsQuestion)


def _key(request: Request) -> _Key:
    return (request.method, request.path, request.query, request.headers.get(ZONE_HEADER, ""), request.body)


def _names(pieces: tuple[Piece, ...]) -> list[str]:
    return [piece.name for piece in pieces[:10]]


def _settings_digest(settings: Settings) -> str:
    """Names what answers depend on beside the state: another process may have other settings, or be another release."""
    parts = (version("crashfold"), settings.projections, settings.fairness.rules.name)
    return hashlib.sha256(_encode(parts)).hexdigest()[:8]
