"""Sources: which source answers a question, and the answer.

Imports the follower, the port for reading and everything pure of the read side. What is always true: an answer is of
one version and names it, and that version was held when the answer was made, so no answer of this process is older
than one before it.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import anyio.lowlevel
import anyio.to_thread
import structlog

from crashfold.engine.meter import ApiMeter, Source
from crashfold.engine.ports import Clock, LiveReader, Piece
from crashfold.engine.read.aggregate import Aggregate, Asked, Lack
from crashfold.engine.read.answer import Answer, body_of, encode
from crashfold.engine.read.fairness import fairness_by_stream
from crashfold.engine.read.follower import Follower
from crashfold.engine.read.held import HeldState
from crashfold.engine.read.past import NO_PAST, Past
from crashfold.engine.read.pieces import read_pieces
from crashfold.engine.read.refusals import NotFound, NotNow, Refusal
from crashfold.engine.read.shadow import built, compare
from crashfold.engine.read.shared_answers import SharedAnswers
from crashfold.engine.read.stored import SPOILED
from crashfold.engine.read.view import View
from crashfold.engine.settings import Settings

INLINE_ITEMS: Final = 3_000
"""Bigger answers are made in a thread, so that streams and other requests go on meanwhile."""
THREADS: Final = 2

NameOf = Callable[[HeldState], str]
"""The name of an answer to a request in the store, by the state that it is of."""

_log = structlog.get_logger()


class Sources:
    """Answers questions about one stream: from stored pieces, from the window, or from an answer that was shared."""

    def __init__(self, reader: LiveReader, settings: Settings, *, clock: Clock, meter: ApiMeter) -> None:
        self._reader = reader
        self._api = settings.api
        self._projections = settings.projections
        self._clock = clock
        self._meter = meter
        self.fairness_of = fairness_by_stream(settings)
        self.shared = SharedAnswers(reader, clock, meter, settings.api.cache_ttl_s)
        self._threads = anyio.CapacityLimiter(THREADS)
        self._turns = anyio.Lock(fast_acquire=True)

    async def answer(self, asked: Asked, follower: Follower, name_of: NameOf) -> Answer:
        """The answer, from the source that the settings choose for its aggregate."""
        aggregate = asked.aggregate
        assert aggregate is not None
        source = aggregate.source(self._api)
        if source == "precomputed" and not follower.is_replica:
            answer = await self._precomputed(asked, follower, aggregate)
            if answer is not None:
                return answer
        answer = await self._computed(asked, follower, name_of)
        if source == "shadow" and not follower.is_replica:
            await self._compare(asked, follower, aggregate)
        return answer

    async def _precomputed(self, asked: Asked, follower: Follower, aggregate: Aggregate) -> Answer | None:
        """The answer of the read model; None when it has none."""
        wanted = asked.stored(self._view(follower, asked, follower.held))
        read = None if wanted is None else await read_pieces(self._reader, follower, wanted.pieces)
        if wanted is None or read is None:
            return None
        held, pieces = read
        async with self._turn():
            data = built(wanted, pieces.values, pieces.standing, self._view(follower, asked, held))
        if data is Lack.UNSUITABLE:
            return None
        if data is Lack.MISSING:
            self._meter.precomputed_missing(aggregate.name)
            _log.error(
                "precomputed_missing", stream=follower.stream, version=held.version, pieces=_names(wanted.pieces)
            )
            return None
        if data is Lack.NO_MATCH:
            data = NotFound("no game matches")
        return _answer(asked, follower, held, data, "precomputed")

    async def _computed(self, asked: Asked, follower: Follower, name_of: NameOf) -> Answer:
        """The answer from the window; of a costly question the one that another process has shared."""
        held, shared = follower.held, self.shared
        shape = (asked.route.path, asked.question)
        may_share = self._may_share(asked, follower, held)
        if may_share and shared.is_costly(shape):
            body = await shared.get(follower.stream, held, name_of(held))
            if body is not None and follower.held is held:
                return _answer(asked, follower, held, body, "cached")
        began_s = self._clock.monotonic_s()
        held, past, is_whole = await self._past(asked, follower)
        try:
            data = await self._in_turn(asked, self._view(follower, asked, held, past))
        except Refusal as refusal:
            data = refusal
        answer = _answer(asked, follower, held, data, "computed", is_whole=is_whole)
        shared.note_cost(shape, self._clock.monotonic_s() - began_s)
        if may_share and answer.is_fixed and isinstance(answer.body, bytes):
            shared.put(follower.stream, held, name_of(held), answer.body)
        return answer

    async def _in_turn(self, asked: Asked, view: View) -> Any:
        """The data from a view; a big one is made in a thread."""
        if asked.question.cost(view) <= INLINE_ITEMS:
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

    async def _past(self, asked: Asked, follower: Follower) -> tuple[HeldState, Past, bool]:
        """The state held, its past where the answer needs that, and whether the two are all there is to know."""
        held, aggregate = follower.held, asked.aggregate
        assert aggregate is not None
        if aggregate.of_all_time:
            return held, NO_PAST, held.total_games == len(held.window)
        wanted = asked.past_wanted(self._view(follower, asked, held), held.total_games)
        if not wanted or aggregate.past is None:
            return held, NO_PAST, True
        pieces = aggregate.past.pieces(wanted)
        read = None if follower.is_replica else await read_pieces(self._reader, follower, pieces)
        if read is None:
            return follower.held, NO_PAST, False
        held, found = read
        try:
            return held, aggregate.past.read(wanted, found, held.window), True
        except SPOILED:
            _log.error("past_unreadable", stream=follower.stream, version=held.version)
            return held, NO_PAST, False

    async def _compare(self, asked: Asked, follower: Follower, aggregate: Aggregate) -> None:
        """Count whether the read model would have answered the same. Its pieces and the past are read at once, so that
        both are of one version."""
        held = follower.held
        view = self._view(follower, asked, held)
        stored, past_wanted = asked.stored(view), asked.past_wanted(view, held.total_games)
        if stored is None:
            return
        past_pieces = aggregate.past.pieces(past_wanted) if past_wanted and aggregate.past is not None else ()
        read = await read_pieces(self._reader, follower, (*stored.pieces, *past_pieces))
        if read is None or read[0] is not held:
            return  # a commit has come in between, which may need another past
        pieces, count = read[1], len(stored.pieces)
        theirs = built(stored, pieces.values[:count], pieces.standing, view)
        if past_pieces and aggregate.past is not None:
            found = type(pieces)(pieces.standing, pieces.values[count:])
            try:
                view = self._view(follower, asked, held, aggregate.past.read(past_wanted, found, held.window))
            except SPOILED:
                theirs = Lack.MISSING
        async with self._turn():
            comparison = compare(asked, theirs, view)
        if comparison is None:
            return
        self._meter.compared(aggregate.name, comparison)
        if comparison != "equal":
            _log.warning(
                "answers_differ",
                stream=follower.stream,
                version=held.version,
                pieces=_names(stored.pieces),
                at=asked.route.path,
            )

    def _view(self, follower: Follower, asked: Asked, held: HeldState, past: Past = NO_PAST) -> View:
        now_us, terms = self._clock.now_ms() * 1000, asked.terms
        return View.of(
            held.window, terms.zone, now_us, terms.at_us, past, self.fairness_of(follower.stream), self._projections
        )

    def _may_share(self, asked: Asked, follower: Follower, held: HeldState) -> bool:
        return bool(self.shared.is_on and not asked.by_clock and held.standing.commit) and not (
            follower.is_replica or held.is_beyond or asked.route.kind is None
        )


def _answer(
    asked: Asked, follower: Follower, held: HeldState, data: Any, source: Source, *, is_whole: bool = True
) -> Answer:
    """The answer that the data make; bytes are a body already."""
    if isinstance(data, Refusal):
        if isinstance(data, NotFound) and not is_whole:  # nobody knows, which is not the same as none
            data = NotNow("what lies before the window cannot be read now")
        source = "replica" if follower.is_replica or not is_whole else source
        return Answer(held, data, source, is_fixed=False, is_whole=is_whole)
    body = data if isinstance(data, bytes) else encode(body_of(data))
    is_fixed = not asked.by_clock and not held.is_beyond and is_whole and bool(held.standing.commit)
    if follower.is_replica or held.is_beyond or not is_whole:
        return Answer(held, body, "replica", is_fixed, is_whole, follower.age_s)
    return Answer(held, body, source, is_fixed, is_whole)


def _names(pieces: tuple[Piece, ...]) -> list[str]:
    return [piece.name for piece in pieces[:10]]
