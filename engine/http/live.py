"""The live routes: `GET /api/stream` (server-sent events) and `/ws` (WebSocket), as Litestar handlers.

Imports litestar and anyio. What is always true: a client is told what it lacks in order, or else the newest state;
nothing is written without a deadline; and a client leaves when it goes, when it is too slow, or on `Live.stop`.

The zone of the games is that of `X-Timezone` or, since browsers' own `EventSource` and `WebSocket` cannot send headers,
of `?tz=`; the header has the last word.
"""

from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Any, Final

import anyio
import msgspec
from litestar import Request, WebSocket, get, websocket
from litestar.handlers import HTTPRouteHandler, WebsocketRouteHandler
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from crashfold.engine.http import operations, problems
from crashfold.engine.http.problems import Problem, problem_of
from crashfold.engine.http.requests import ZONE_HEADER, read_query, read_terms, split_query
from crashfold.engine.meter import Transport
from crashfold.engine.ports import Cursor
from crashfold.engine.read.feed import Feed, Live
from crashfold.engine.read.live import CONNECTION_ESTABLISHED, HEARTBEAT, RETRY, EventName, Frame, newest_id
from crashfold.engine.read.questions import LIVE_GAMES, Question
from crashfold.engine.read.refusals import Refusal
from crashfold.engine.read.times import Zone

GOING_AWAY: Final = 1001
"""The close code of a server that stops (RFC 6455)."""
TRY_AGAIN_LATER: Final = 1013
ABORT: Final = "crashfold.abort"
"""The extension of a scope by which its connection ends at once, whatever was not sent: `{"abort": function}`."""
GONE_S: Final = 1.0
"""How long an aborted connection may take to be gone."""

_SSE_HEADERS: Final = (
    ("content-type", "text/event-stream"),
    ("cache-control", "no-store"),
    ("x-accel-buffering", "no"),
    ("vary", "X-Timezone"),
)
_DESCRIPTION: Final = """Server-sent events. On connecting `snapshot`, the newest 100 games; then `commit` after every
commit, with the games that it brought. The id of an event begins with `<generation>-<version>` and names one state:
sent back as `Last-Event-ID`, the events go on from there, or with a snapshot where that is too long ago or was lost.
A comment comes every 15 s."""
_EXAMPLE: Final = (
    "event: commit\nid: 6f1c-1742-91d3b6a70c25e84f-20117\n"
    'data: {"version":1742,"total_games":20000,"games":[{"gameId":"9007","hashValue":null,"crashPoint":2.07,'
    '"calculatedPoint":null,"crashedFloor":2,"endTime":"2026-01-15T12:34:56+00:00","prepareTime":null,'
    '"beginTime":null}],"skipped":0}\n\n'
)


class LiveQuestion(Question, frozen=True, kw_only=True):
    """Live events, with at most `limit` games each."""

    limit: int = LIVE_GAMES


class LiveEvent(msgspec.Struct, frozen=True):
    """One live event. `data` is JSON: `version`, `total_games`, `games` and `skipped`."""

    event: EventName
    id: str
    data: str


def live_routes(live: Live) -> Sequence[HTTPRouteHandler | WebsocketRouteHandler]:
    """The handlers, to be mounted within `live.running()`."""

    @get(
        "/api/stream",
        summary="Games as they come, as server-sent events",
        description=_DESCRIPTION,
        operation_id="stream",
        tags=["live"],
        status_code=200,
        responses={
            200: ResponseSpec(
                LiveEvent,
                generate_examples=False,
                description="Live events, until the client goes or the server stops",
                media_type="text/event-stream",
                examples=[Example(summary="A commit of one game", value=_EXAMPLE)],
            ),
            **{status: operations.refusal_of(status) for status in (400, 401, 404, 422, 429, 500, 503)},
        },
        operation_class=operations.LiveOperation,
    )
    async def stream(request: Request[Any, Any, Any]) -> ASGIResponse:
        try:
            asked = await _ask(live, "sse", request.scope)
            query = split_query(request.scope["query_string"].decode("latin-1"))
            question = read_query(LiveQuestion, query, LIVE_GAMES)
        except Refusal as refusal:
            return _problem_response(problem_of(refusal))
        known = Cursor.parse(request.headers.get("last-event-id"))
        return _LiveEvents(live, *asked, known, question.limit)

    @websocket("/ws")
    async def ws(socket: WebSocket[Any, Any, Any]) -> None:
        try:
            asked = await _ask(live, "websocket", socket.scope)
        except Refusal as refusal:
            await _deny(socket, problem_of(refusal))
        else:
            await _serve_websocket(socket, live, *asked)

    return stream, ws


class _LiveEvents(ASGIResponse):
    """The answer of `/api/stream`."""

    def __init__(self, live: Live, feed: Feed, zone: Zone, known: Cursor | None, games_max: int) -> None:
        super().__init__(headers=_SSE_HEADERS)
        del self.headers["content-length"]
        self._live = live
        self._feed = feed
        self._zone = zone
        self._known = known
        self._games_max = games_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell until the end."""

        async def body(part: bytes) -> None:
            await send({"type": "http.response.body", "body": part, "more_body": part != b""})

        async def write_frame(frame: Frame) -> bool:
            return await client.write(frame.event(self._zone, self._games_max))

        async def tell() -> bool:
            if not await client.write(RETRY):  # the headers go out with it
                return False
            if self._known is not None:
                await self._feed.catch_up(self._known)
            return await _tell(
                self._feed, self._known, write_frame, lambda: client.write(HEARTBEAT), self._live.limits.heartbeat_s
            )

        client = _Client(self._live, self._feed, "sse", scope, body)
        await self.start_response(send)
        await client.attend(receive, tell, last_word=b"")


async def _serve_websocket(socket: WebSocket[Any, Any, Any], live: Live, feed: Feed, zone: Zone) -> None:
    state = feed.state()
    told_id = newest_id(state)

    async def text(message: str | None) -> None:
        if message is None:
            await socket.send({"type": "websocket.close", "code": GOING_AWAY, "reason": "the server stops"})
        else:
            await socket.send({"type": "websocket.send", "text": message, "bytes": None})

    async def write_frame(frame: Frame) -> bool:
        nonlocal told_id
        for game, message in zip(frame.change.games, frame.messages(zone), strict=True):
            if frame.since is None and game.game_id <= told_id:
                continue  # A snapshot repeats what was told before.
            if not await client.write(message):
                return False
        told_id = max(told_id, newest_id(frame.change))
        return True

    async def tell() -> bool:
        return await client.write(CONNECTION_ESTABLISHED) and await _tell(feed, state.cursor, write_frame)

    client = _Client(live, feed, "websocket", socket.scope, text)
    await socket.accept()
    await client.attend(socket.receive, tell, last_word=None)


class _Client:
    """One client, over either transport. `send` takes what the transport writes."""

    def __init__(
        self, live: Live, feed: Feed, transport: Transport, scope: Any, send: Callable[[Any], Awaitable[None]]
    ) -> None:
        self._live = live
        self._feed = feed
        self._transport: Transport = transport
        self._scope = scope
        self._send = send

    async def write(self, message: Any) -> bool:
        """Send; False when the client did not take it, or what came before, in time."""
        with anyio.move_on_after(self._live.limits.write_s) as deadline:
            await self._send(message)
        return not deadline.cancelled_caught

    async def attend(
        self, receive: Callable[[], Awaitable[Any]], tell: Callable[[], Awaitable[bool]], last_word: Any
    ) -> None:
        """Serve it until `tell` is over, which says whether the client has kept up, or it goes."""
        with self._live.client(self._transport, self._feed) as whole:
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._watch, receive, tasks.cancel_scope)
                    if await tell() and await self.write(last_word):
                        tasks.cancel_scope.cancel()
                    else:
                        self._live.meter.live_client_dropped(self._transport)
                        aborted = _abort(self._scope)
                        tasks.cancel_scope.deadline = anyio.current_time() + (GONE_S if aborted else 0)
            except* OSError:
                pass  # It went while something was written.
        if whole.cancelled_caught:
            _abort(self._scope)

    async def _watch(self, receive: Callable[[], Awaitable[Any]], tasks: anyio.CancelScope) -> None:
        """Notice that the client goes. It has nothing else to say."""
        while (await receive())["type"] not in ("http.disconnect", "websocket.disconnect"):
            pass
        tasks.cancel()


async def _ask(live: Live, transport: Transport, scope: Any) -> tuple[Feed, Zone]:
    """The feed and the zone that a client asks for. Raises a Refusal."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    query = split_query(scope["query_string"].decode("latin-1"))
    if not headers.get(ZONE_HEADER):
        headers[ZONE_HEADER] = query.get("tz", "")
    terms = read_terms(query, headers, live.zones, takes_at=False)
    live.check_place(transport)
    return await live.feed(terms.stream or live.default_stream), terms.zone


async def _tell(
    feed: Feed,
    known: Cursor | None,
    write_frame: Callable[[Frame], Awaitable[bool]],
    beat: Callable[[], Awaitable[bool]] | None = None,
    heartbeat_s: float = inf,
) -> bool:
    """Write what the client lacks, and then what comes, until the feed ends; False when the client is too slow."""
    beat_at = anyio.current_time() + heartbeat_s
    while not feed.ended:
        changed = feed.changed
        frame = feed.next(known)
        if frame is not None:
            if not await write_frame(frame):
                return False
            known = frame.cursor
        else:
            with anyio.CancelScope(deadline=beat_at):
                await changed.wait()
        if beat is not None and anyio.current_time() >= beat_at:
            if not await beat():
                return False
            beat_at += heartbeat_s
    return True


def _abort(scope: Any) -> bool:
    """End the connection now; whether its server can do that."""
    extension = (scope.get("extensions") or {}).get(ABORT)
    if extension is not None:
        extension["abort"]()
    return extension is not None


async def _deny(socket: WebSocket[Any, Any, Any], problem: Problem) -> None:
    """Answer the upgrade with the problem or, through a server that cannot, close at once."""
    await socket.receive()
    if "websocket.http.response" not in (socket.scope.get("extensions") or {}):
        await socket.send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": problem.title})
        return
    headers = [(name.encode(), value.encode()) for name, value in _problem_headers(problem).items()]
    await socket.send({"type": "websocket.http.response.start", "status": problem.status, "headers": headers})
    await socket.send(
        {"type": "websocket.http.response.body", "body": msgspec.json.encode(problem), "more_body": False}
    )


def _problem_response(problem: Problem) -> ASGIResponse:
    return ASGIResponse(
        body=msgspec.json.encode(problem), status_code=problem.status, headers=_problem_headers(problem)
    )


def _problem_headers(problem: Problem) -> dict[str, str]:
    headers = {"content-type": problems.MEDIA_TYPE, "cache-control": "no-store"}
    if problem.retry_after_s is not None:
        headers["retry-after"] = str(problem.retry_after_s)
    return headers
