"""Answers: a request in, a reply out.

Imports routes, replies and the read side; no HTTP library. A request that was answered before from the state that is
held now gets the same reply; of equal requests at one time one is answered.
"""

import hashlib
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from typing import Final

import msgspec

from crashfold.engine.http.kept import KeptReplies, KeptReply, RequestKey, key_of
from crashfold.engine.http.problems import Problem, problem_of
from crashfold.engine.http.replies import Reply, aged, problem_reply, success, unversioned, version_headers
from crashfold.engine.http.requests import ZONE_HEADER, ApiRequest, split_query
from crashfold.engine.http.routes import find, methods_of
from crashfold.engine.meter import ApiMeter
from crashfold.engine.ports import Clock, Cursor, DeadLetterReader, LiveReader, Reports
from crashfold.engine.read.aggregate import Asked
from crashfold.engine.read.answer import Success, encode
from crashfold.engine.read.coalescing import Coalescing
from crashfold.engine.read.follower import Follower
from crashfold.engine.read.followers import Followers
from crashfold.engine.read.held import HeldState
from crashfold.engine.read.overview import Overviews
from crashfold.engine.read.refusals import NotNow, Refusal
from crashfold.engine.read.sources import Sources
from crashfold.engine.read.times import Zones
from crashfold.engine.settings import Settings

MIN_VERSION_WAIT_S: Final = 5.0


class Answers:
    """Answers every request of `crashfold.engine.http.routes`, by these settings."""

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
        self._window_games = settings.projections.window_games
        self._clock = clock
        self._meter = meter
        self._zones = zones
        self._sources = Sources(reader, settings, clock=clock, meter=meter)
        self.fairness_of = self._sources.fairness_of
        self._overviews = Overviews(reader, settings, reports, dead_letters)
        self._digest = settings_digest(settings)
        self._kept = KeptReplies()
        self._coalescing: Coalescing[tuple[str, RequestKey]] = Coalescing()

    def kept(self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Reply | None:
        """The reply to a request that was answered before from what is held now. Quick, and never waits."""
        stream = self._followers.default_stream
        if "stream=" in query or "%" in query:
            stream = split_query(query).get("stream", stream)
        follower = self._followers.get(stream)
        if follower is None or not self._kept.has_any(follower) or follower.is_replica:
            return None
        known = headers.get("if-none-match")
        if follower.is_behind or (known is not None and not all(map(follower.covers, Cursor.all_in(known)))):
            return None
        found = self._kept.get(follower, (method, path, query, headers.get(ZONE_HEADER, ""), body))
        if found is None or (found.until_us is not None and self._clock.now_ms() * 1000 >= found.until_us):
            self._meter.cache_asked("process", hit=False)
            return None
        self._meter.cache_asked("process", hit=True)
        return found.reply

    async def answer(self, request: ApiRequest) -> Reply:
        """The reply to a request: never an exception for anything that a client or a server can do."""
        found = find(request)
        if isinstance(found, Problem):
            return _no_route(found, request)
        try:
            asked = found.ask(request, self._window_games, self._zones)
            if found.route.is_of_all:
                reply = await self._of_deployment(asked)
            else:
                reply = await self._of_stream(asked, request)
        except Refusal as refusal:
            reply = problem_reply(problem_of(refusal))
        return reply if reply.route == found.route.path else msgspec.structs.replace(reply, route=found.route.path)

    async def share(self) -> None:
        """Put computed answers into the store for other processes, until cancelled."""
        await self._sources.shared.run()

    async def _of_deployment(self, asked: Asked) -> Reply:
        """The reply about the deployment, read anew each time."""
        assert asked.route.overview is not None
        overview = await asked.route.overview(self._overviews, asked.terms.zone, asked.question)
        return unversioned(encode(Success(data=asked.route.answer(overview, asked.question))), asked.route.path)

    async def _of_stream(self, asked: Asked, request: ApiRequest) -> Reply:
        follower = await self._followers.required(asked.terms.stream or self._followers.default_stream)
        least = asked.terms.min_version
        if least is not None and not await follower.wait_for(least, MIN_VERSION_WAIT_S):
            raise NotNow("that version is not there yet")
        known = request.headers.get("if-none-match")
        if follower.is_behind or known is not None:
            await follower.catch_up(() if known is None else Cursor.all_in(known))
        if not asked.is_kept:
            return await self._made(asked, request, follower)
        key = key_of(request)

        def kept() -> Reply | None:
            found = self._kept.get(follower, key)
            return None if found is None else found.reply

        make = partial(self._made, asked, request, follower)
        return await self._coalescing.once((follower.stream, key), kept, make)

    async def _made(self, asked: Asked, request: ApiRequest, follower: Follower) -> Reply:
        """The reply, kept for the next who asks if it is worth it."""
        answer = await self._sources.answer(asked, follower, partial(self._name_of, asked, request))
        held, source, route = answer.held, answer.source, asked.route.path
        if isinstance(answer.body, Refusal):
            return problem_reply(problem_of(answer.body), *version_headers(held, source))
        etag = self._etag_of(asked, held) if answer.is_fixed else None
        reply = success(held, answer.body, source, etag, route)
        if answer.age_s is not None:
            return aged(reply, answer.age_s)
        if held is follower.held and asked.is_kept and (etag is not None or asked.by_clock):
            later = reply if source == "precomputed" else success(held, answer.body, "cached", etag, route)
            self._kept.put(follower, key_of(request), KeptReply(later, self._valid_until_us(asked)))
        return reply

    def _etag_of(self, asked: Asked, held: HeldState) -> bytes:
        zone = asked.terms.zone.name
        return f'"{held.cursor}-{self._digest}{"" if zone == "UTC" else f"-{zone}"}"'.encode()

    def _valid_until_us(self, asked: Asked) -> int | None:
        """When the server's clock makes the answer another one: at the next line of its grid."""
        if not asked.by_clock:
            return None
        step_us = asked.question.changes_every_us
        return int((self._clock.now_ms() * 1000 // step_us + 1) * step_us)

    def _name_of(self, asked: Asked, request: ApiRequest, held: HeldState) -> str:
        """What the answer is called in the store: its aggregate, for people, and a digest of all it depends on."""
        assert asked.aggregate is not None
        parts = (str(held.cursor), self._digest, request.method, request.path, request.query, asked.terms.zone.name)
        digest = hashlib.sha256(b"\0".join([*(part.encode() for part in parts), request.body])).hexdigest()[:32]
        return f"{asked.aggregate.name}:{digest}"


def _no_route(problem: Problem, request: ApiRequest) -> Reply:
    """The reply to a request without a route, with the methods of its path if there are any; OPTIONS asks for these.

    404, 405, or 204 for OPTIONS.
    """
    if problem.status != 405:
        return problem_reply(problem)
    allow = (b"allow", b"GET, HEAD, OPTIONS" if "GET" in methods_of(request.path) else b"OPTIONS, POST")
    return Reply(204, (allow,), b"") if request.method == "OPTIONS" else problem_reply(problem, allow)


def settings_digest(settings: Settings) -> str:
    """Names what answers depend on beside the state: another process may have other settings, or be another release."""
    parts = (version("crashfold"), settings.projections, settings.fairness.rules.name)
    return hashlib.sha256(encode(parts)).hexdigest()[:8]
