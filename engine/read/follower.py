"""The follower: what one process holds of a stream to answer from, kept up with the read model.

Imports the ports, their facts, projections and schemas. What is always true: what is held is of exactly one version,
and is replaced by what is newer in one assignment, so whoever takes it once and asks it everything gets one version.
What was served never goes back: a store that has lost writes is waited for, and only after `HOLD_S` taken at its word.
States are told apart by their `Cursor`, never by a version alone: a store that lost writes gives its numbers again.

While the store is away, the topic takes its place where it can be reached: games are folded into the window as the
engine folds them, beyond the version that was last read. Versions are the store's own, so what is told of such a
moment is the last version known, that it is a replica, and a cursor of its own.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager
from typing import Final, Literal, Self

import anyio
import anyio.abc
import anyio.to_thread
import msgspec
import numpy as np
import structlog

from crashfold.engine.errors import CrashfoldError, StateError, StoreUnavailable, Unavailable
from crashfold.engine.ports import Clock, Cursor, EventLog, LiveReader, Standing, Updates, WindowPart
from crashfold.engine.read.questions import LIVE_GAMES
from crashfold.engine.read.replica import Replica
from crashfold.projections.columns import Ints
from crashfold.projections.games import Bands, Games, games_of
from crashfold.projections.stored import games_before
from crashfold.schemas.game import DEFAULT_STREAM, Game, Unreadable, decode

CHANGE_GAMES_MAX: Final = LIVE_GAMES
"""Games that a change brings along, at most: the newest."""
LOOK_EVERY_S: Final = 1.0
"""How often the store is asked although it said nothing: a connection may be dead without a word."""
CHANNEL_RETRY_S: Final = 30.0
"""How often a channel that was refused is tried again."""
SILENT_S: Final = 3.0
"""A store that has not answered for so long is as good as away."""
RETRY_S: Final = 0.25
HOLD_S: Final = 60.0
"""How long a store that went back is waited for. It loses a second at most, unless it was restored from an older
backup, and then its word must be taken."""
CATCH_UP_S: Final = 0.25
"""How long an answer waits for a version that was told of, or read from the store, to be held."""
LOG_AFTER_S: Final = 0.5
"""How long the store may be away before the topic is followed."""
INLINE_GAMES: Final = 1_000
"""More games than that are decoded in a thread, so that requests go on."""

STREAMS_MAX: Final = 64
"""Streams followed at once: each holds its window (some 5 MB) and a connection."""
IDLE_S: Final = 300.0
START_WAIT_S: Final = 3.0
"""How long a question waits for a stream that is not followed yet."""

Verdict = Literal["same", "ahead", "behind"]

_log = structlog.get_logger()
_NO_BANDS: Final = Bands([])


class Change(msgspec.Struct, frozen=True):
    """What is new in a state. `games` are those that came in since the change before, oldest first, the newest 100
    at most; `skipped` is how many more there were."""

    cursor: Cursor
    total_games: int
    games: tuple[Game, ...]
    skipped: int
    is_restart: bool = False
    """Whether it builds on nothing that was told before: another generation, or a store that has lost writes."""

    def then(self, later: "Change") -> "Change":
        """Both in one: the later state, with the games of both that still fit."""
        games = (*self.games, *later.games)
        dropped = max(0, len(games) - CHANGE_GAMES_MAX)
        return Change(
            later.cursor,
            later.total_games,
            games[dropped:],
            self.skipped + later.skipped + dropped,
            self.is_restart or later.is_restart,
        )


class Held(msgspec.Struct, frozen=True):
    """What is held of a stream, all of one state. `window` is in order of id."""

    standing: Standing
    window: Games
    base: Standing | None = None
    """What the store had, where games of the topic were folded in that it does not have; else None."""

    @property
    def is_beyond(self) -> bool:
        """Whether games of the topic were folded in that the version does not have."""
        return self.base is not None

    @property
    def cursor(self) -> Cursor:
        """What names this state and no other."""
        return self.standing.cursor

    @property
    def generation(self) -> str:
        """The build of the read model; empty before the first commit."""
        return self.standing.generation

    @property
    def version(self) -> int:
        """The version that was last read; 0 before the first commit."""
        return self.standing.version

    @property
    def total_games(self) -> int:
        """All games of the stream, those before the window included."""
        return self.standing.total_games

    def snapshot(self) -> Change:
        """The newest games, as the first change that a subscriber sees."""
        return _change(self, self.window.columns.cells, self.total_games)


class Ended(Exception):
    """The follower was stopped; nothing comes any more."""


class Subscription:
    """The changes for one subscriber. Holds one change at most: what is not taken in time is merged into it."""

    def __init__(self) -> None:
        self._pending: Change | None = None
        self._ended = False
        self._arrived = anyio.Event()

    async def next(self) -> Change:
        """The next change, as soon as there is one. Raises Ended when the follower was stopped. May be cancelled."""
        while self._pending is None:
            if self._ended:
                raise Ended
            self._arrived = anyio.Event()
            await self._arrived.wait()
        change, self._pending = self._pending, None
        return change

    def put(self, change: Change) -> None:
        """A change, from the follower."""
        self._pending = change if self._pending is None else self._pending.then(change)
        self._arrived.set()

    def end(self) -> None:
        """Nothing comes after this."""
        self._ended = True
        self._arrived.set()


class _News:
    """Whether there is something to read, or nothing to hear any more: `fault`."""

    def __init__(self) -> None:
        self.fault: CrashfoldError | None = None
        self._come = anyio.Event()

    def come(self) -> None:
        """There is."""
        self._come.set()

    async def wait(self) -> None:
        """Until there is."""
        await self._come.wait()
        self._come = anyio.Event()


class Follower:
    """One stream, as far as this process knows it. Made and run by `Followers`."""

    def __init__(
        self,
        stream: str,
        reader: LiveReader,
        clock: Clock,
        replica: Replica | None = None,
        new_log: Callable[[], EventLog] | None = None,
    ) -> None:
        self.stream = stream
        self._reader = reader
        self._clock = clock
        self._replica = replica
        self._new_log = new_log
        self._held = Held(Standing("", 0, "", 0, 0, 0, 0, ""), Games.empty(_NO_BANDS))
        self._subscriptions: set[Subscription] = set()
        self._changed = anyio.Event()
        self._told = 0
        self._reached = 0
        self._is_continuous = False
        self._fault: str | None = "it was not asked yet"
        self._log_fault: str | None = None
        self._log_scope: anyio.CancelScope | None = None
        self._behind_since_s: float | None = None
        self._confirmed_s = clock.monotonic_s()
        self._used_s = clock.monotonic_s()
        self._users = 0
        self._channel_fault: str | None = None
        self._ended = False

    @property
    def held(self) -> Held:
        """What is held now. Take it once for an answer: the next call may give a newer one."""
        return self._held

    @property
    def store_fault(self) -> str | None:
        """Why the store's word is not what is held: it is away, or has lost what is held. None while all is well."""
        return self._fault

    @property
    def log_fault(self) -> str | None:
        """Why the topic is not followed in the store's place; None while it is, or need not be."""
        return self._log_fault

    @property
    def is_replica(self) -> bool:
        """Whether what is held may not be what the store has."""
        return self._fault is not None or self.age_s > SILENT_S

    @property
    def age_s(self) -> float:
        """How long ago what is held was last known to be the newest."""
        return max(0.0, self._clock.monotonic_s() - self._confirmed_s)

    @property
    def channel_fault(self) -> str | None:
        """Why nothing is told of new versions, which are looked for instead; None while it is."""
        return self._channel_fault

    @property
    def is_used(self) -> bool:
        """Whether a live client is there."""
        return self._users > 0

    @property
    def idle_s(self) -> float:
        """For how long nobody has used it."""
        return 0.0 if self._users else self._clock.monotonic_s() - self._used_s

    def use(self) -> None:
        """Note that somebody does."""
        self._used_s = self._clock.monotonic_s()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Note that somebody does, as long as the block runs."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self.use()

    def snapshot(self) -> Change:
        """What a new subscriber is shown first: the newest games."""
        return self._held.snapshot()

    def subscribe(self) -> AbstractAsyncContextManager[Subscription]:
        """Every change from now on. Take a snapshot inside the block, before anything is awaited, to miss nothing."""
        return self._subscribed()

    @property
    def is_behind(self) -> bool:
        """Whether the store has told of a version that is still being read."""
        return self._told > self._held.version and self._fault is None

    def covers(self, known: Cursor) -> bool:
        """Whether what is held is that state or a later one, as far as can be told.

        Of one generation, the state that has read further in the topic is the later one, whatever their versions.
        """
        standing = self._held.standing
        if standing.generation != known.generation:
            return standing.version >= known.version
        return max(standing.next_offset, self._reached) >= known.next_offset

    async def catch_up(self, known: Iterable[Cursor] = (), timeout_s: float = CATCH_UP_S) -> None:
        """Return when all that was told is held, and these states are covered: another process may have shown them to
        somebody who asks here now. What does not come in time is done without: the store may have lost it."""
        told, cursors = self._told, [*known]
        with anyio.move_on_after(timeout_s):
            while (self._fault is None and self._held.version < told) or not all(map(self.covers, cursors)):
                await self._changed.wait()

    async def wait_for(self, version: int, timeout_s: float) -> bool:
        """Whether that version or a later one is held, now or before `timeout_s` is over."""
        if self._held.version >= version:
            return True
        with anyio.move_on_after(timeout_s):
            while self._held.version < version:
                await self._changed.wait()
        return self._held.version >= version

    async def load(self) -> bool:
        """Read what the store has; False when that is nothing. Raises CrashfoldError when it cannot be read."""
        await self._refresh()
        return self._held.generation != ""

    async def run(self) -> None:
        """Keep up, until cancelled. Whatever store and topic do, this goes on."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._follow_store)
                if self._replica is not None and self._new_log is not None:
                    tasks.start_soon(self._follow_log, self._replica, self._new_log)
        finally:
            self._ended = True
            for subscription in self._subscriptions:
                subscription.end()

    async def _follow_store(self) -> None:
        while True:
            fault: CrashfoldError | None
            self._is_continuous = False  # who knows what happened while nobody looked
            try:
                async with self._reader.updates(self.stream) as updates:
                    self._tells(None)
                    fault = await self._keep_up(updates)
            except CrashfoldError as error:
                fault = await self._look_for_updates(error)
            if fault is not None:
                self._is_away(str(fault))
                await self._clock.sleep(RETRY_S if isinstance(fault, Unavailable) else LOOK_EVERY_S)

    async def _look_for_updates(self, untold: CrashfoldError) -> CrashfoldError | None:
        """Look for new versions instead of being told, which `untold` keeps from us: a user may have the right to the
        keys and none to the channel. Why that came to an end; None when it is time to try the channel again."""
        lasts_s = LOOK_EVERY_S if isinstance(untold, Unavailable) else CHANNEL_RETRY_S
        try:
            for _ in range(int(lasts_s / RETRY_S)):
                await self._refresh()
                self._tells(str(untold))
                await self._clock.sleep(RETRY_S)
        except CrashfoldError as error:
            return error
        return None

    def _tells(self, fault: str | None) -> None:
        if fault is not None and self._channel_fault is None:
            _log.warning("channel_refused", stream=self.stream, fault=fault)
        self._channel_fault = fault

    async def _keep_up(self, updates: Updates) -> CrashfoldError:
        """Read whatever is told; why that came to an end."""
        news = _News()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._listen, updates, news)
            try:
                while news.fault is None:
                    await self._refresh()
                    with anyio.move_on_after(LOOK_EVERY_S):
                        await news.wait()
                        while self._told <= self._held.version and (self._fault or news.fault) is None:
                            await news.wait()  # it was read together with an earlier one
                fault = news.fault
            except CrashfoldError as error:
                fault = error
            tasks.cancel_scope.cancel()
        return fault

    async def _listen(self, updates: Updates, news: "_News") -> None:
        """Note what is told, also while something is read."""
        try:
            while True:
                told = await updates.next(LOOK_EVERY_S)
                if told is not None and told.version > max(self._told, self._held.version):
                    self._told = told.version
                    news.come()
                elif told is not None and self._fault is not None:
                    news.come()  # a store that went back counts up again
        except CrashfoldError as error:
            news.fault = error
            news.come()

    async def _follow_log(self, replica: Replica, new_log: Callable[[], EventLog]) -> None:
        """Follow the topic whenever the store is away."""
        while True:
            if self._fault is None or not self._held.generation:
                await self._changed.wait()
                continue
            await self._clock.sleep(LOG_AFTER_S)
            with anyio.CancelScope() as scope:
                self._log_scope = scope
                if self._fault is not None:
                    await self._follow_log_once(replica, new_log)

    async def _follow_log_once(self, replica: Replica, new_log: Callable[[], EventLog]) -> None:
        try:
            async with new_log() as event_log:
                held = self._held
                base = held.base or held.standing
                async with aclosing(replica.follow(event_log, held.standing, held.window)) as looks:
                    async for now in looks:
                        self._reached = now.next_offset
                        if now.standing != self._held.standing:
                            self._hold(Held(now.standing, now.window, base))
                        self._log_fault = None
                        self._confirm()
                        self._wake()
        except CrashfoldError as error:
            if self._log_fault is None:
                _log.warning("log_away", stream=self.stream, fault=str(error))
            self._log_fault = str(error)

    async def _refresh(self) -> None:
        """Read what is newer, and hold it."""
        held, told = self._held, self._told
        part = await self._reader.read_window(self.stream, held.standing.newest_id)
        if part is None:
            if held.generation:
                self._is_away("it has no such stream any more")
            else:
                self._is_there()
            return
        if self._told == told:
            self._told = min(told, part.standing.version)  # it is there, or the store has lost it since
        match self._compare(part.standing):
            case "same":
                self._is_there()
                return
            case "behind" if not self._gives_in(part.standing):
                return
        window = await _appended(held, part) if self._is_continuous else None
        if window is None:
            part = await self._reader.read_window(self.stream, 0)
            if part is None:
                return
            window = await _games(part.games)
            _prove(part, window)
        # Meanwhile the topic may have been folded further than the store was then.
        if self._held is held or self._compare(part.standing) == "ahead":
            self._reached = 0
            self._hold(Held(part.standing, window))
            self._is_there()

    def _compare(self, stored: Standing) -> Verdict:
        """How the store stands to what is held.

        Of one generation, a state is a function of the topic's prefix: what has read as far has all the games, even
        where a store that lost writes has counted up again to another version.
        """
        held, known = self._held, self._held.standing
        if not known.generation:
            return "ahead"
        if stored.cursor == known.cursor and not held.is_beyond:
            return "same"
        if stored.generation != known.generation and stored.version > known.version and self._is_continuous:
            return "ahead"  # it was promoted, be it to an earlier moment
        same_topic = (stored.topic, stored.partition) == (known.topic, known.partition)
        if same_topic and stored.next_offset >= known.next_offset:
            return "ahead"
        return "ahead" if stored.total_games > known.total_games else "behind"

    def _hold(self, held: Held) -> None:
        """Replace what is held, and tell."""
        before, self._held = self._held, held
        if self._subscriptions:
            change = change_between(before, held)
            for subscription in self._subscriptions:
                subscription.put(change)
        self._wake()

    def _is_there(self) -> None:
        if self._fault is not None:
            _log.info("store_followed", stream=self.stream, version=self._held.version)
        self._fault = self._log_fault = self._behind_since_s = None
        self._is_continuous = True
        if self._log_scope is not None:
            self._log_scope.cancel()
            self._log_scope = None
        self._confirm()

    def _is_away(self, fault: str) -> None:
        self._is_continuous = False
        if self._fault is None:
            _log.warning("store_away", stream=self.stream, fault=fault, version=self._held.version)
            self._fault = fault
            self._wake()
        self._fault = fault

    def _gives_in(self, standing: Standing) -> bool:
        """Whether the store, which is behind what is held, was waited for long enough.

        One that has lost nothing is only behind the topic: the engine will make it catch up.
        """
        base = self._held.base
        self._is_away(f"it is at version {standing.version}, behind what was read before")
        if base is not None and standing.generation == base.generation and standing.total_games >= base.total_games:
            self._behind_since_s = None
            return False
        now_s = self._clock.monotonic_s()
        if self._behind_since_s is None:
            self._behind_since_s = now_s
        return now_s - self._behind_since_s >= HOLD_S

    def _confirm(self) -> None:
        self._confirmed_s = self._clock.monotonic_s()

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    @asynccontextmanager
    async def _subscribed(self) -> AsyncIterator[Subscription]:
        subscription = Subscription()
        if self._ended:
            subscription.end()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)


def change_between(before: Held, after: Held) -> Change:
    """What is new in `after`."""
    ids, cells = after.window.ids, after.window.columns.cells
    is_restart = not _goes_on(before, after)
    first = int(ids.searchsorted(before.standing.newest_id, "right"))
    more = after.total_games - before.total_games
    if more == len(ids) - first and not is_restart:
        return _change(after, cells[:, first:], more)
    new = ~np.isin(ids, before.window.ids, assume_unique=True)
    return _change(after, cells[:, new], max(int(new.sum()), more), is_restart)


def _change(held: Held, cells: Ints, count: int, is_restart: bool = False) -> Change:
    games = tuple(games_of(cells[:, -CHANGE_GAMES_MAX:])) if cells.shape[1] else ()
    return Change(held.cursor, held.total_games, games, max(0, count - len(games)), is_restart)


def _goes_on(before: Held, after: Held) -> bool:
    """Whether `after` has all that `before` had, as far as its window reaches, and goes back in nothing."""
    if (
        before.generation != after.generation
        or before.version > after.version
        or before.total_games > after.total_games
    ):
        return False
    old, new = before.window, after.window
    if old.columns.shares_memory_with(new.columns):
        return True
    if not len(new):
        return not len(old)
    kept = old.part(int(old.ids.searchsorted(new.ids[0])), len(old))
    rows = new.ids.searchsorted(kept.ids)
    return bool((rows < len(new)).all() and (new.columns.cells[:, rows] == kept.columns.cells).all())


async def _appended(held: Held, part: WindowPart) -> Games | None:
    """The window with the newer games behind it; None when those alone do not make up the difference."""
    if part.standing.generation != held.generation or part.standing.version <= held.version or held.is_beyond:
        return None
    if part.standing.total_games - held.total_games != len(part.games):
        return None  # a late game took its place, or games went by that the window no longer has
    more = await _games(part.games)
    if len(more) and more.ids[-1] != part.standing.newest_id:
        return None
    window = held.window.append(more)
    return window.last(part.window_games) if len(held.window) <= part.window_games <= len(window) else None


def _prove(part: WindowPart, window: Games) -> None:
    """Raise StateError when the store has lost games of the window, or whatever else makes it another one."""
    ids, standing = window.ids, part.standing
    try:
        before = games_before(part.stored, int(ids[0]) if len(ids) else standing.newest_id + 1)
    except (msgspec.MsgspecError, ValueError):
        raise StateError("the state before the window cannot be read; `crashfold replay` rebuilds") from None
    if before + len(window) != standing.total_games:
        raise StateError(
            f"of {standing.total_games} games {before} came before the window, which has {len(window)}; some are lost, "
            "`crashfold replay` rebuilds"
        )
    if (int(ids[-1]) if len(ids) else 0) != standing.newest_id:
        raise StateError("the window does not end with the newest game; `crashfold replay` rebuilds")


async def _games(members: Sequence[bytes]) -> Games:
    """The games as columns."""
    if len(members) <= INLINE_GAMES:
        return _decoded(members)
    return await anyio.to_thread.run_sync(_decoded, members)


def _decoded(members: Sequence[bytes]) -> Games:
    games: list[Game] = []
    for member in members:
        game = decode(member)
        if isinstance(game, Unreadable):
            raise StateError(f"the window holds something that is no game ({game.detail}); `crashfold replay` rebuilds")
        games.append(game)
    found = Games.of(_NO_BANDS, games)
    if (np.diff(found.ids) <= 0).any():
        raise StateError("the window is out of order; `crashfold replay` rebuilds")
    return found


class TooManyStreams(Unavailable):
    """As many streams are followed as may be, and each has somebody who listens."""


class _Start:
    """A stream that is about to be followed, and what came of it: a follower, None when there is no such stream, or an
    error."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.follower: Follower | None = None
        self.error: CrashfoldError | None = StoreUnavailable("this process is about to end")


class _Running(msgspec.Struct, frozen=True):
    """A follower that runs; `scope` ends it."""

    follower: Follower
    scope: anyio.CancelScope


class Followers:
    """The followers of this process: one a stream that is asked for, `streams_max` at most. Made with `only_stream`,
    for a deployment of one stream, it knows no other, and that one even before its first game.

    `new_log` opens the topic, without a group; None leaves replicas without it.
    """

    def __init__(
        self,
        reader: LiveReader,
        clock: Clock,
        *,
        only_stream: str | None = None,
        replica: Callable[[str], Replica] | None = None,
        new_log: Callable[[], EventLog] | None = None,
        streams_max: int = STREAMS_MAX,
        idle_s: float = IDLE_S,
    ) -> None:
        self._reader = reader
        self._clock = clock
        self._only_stream = only_stream
        self._replica = replica
        self._new_log = new_log
        self._streams_max = streams_max
        self._idle_s = idle_s
        self._running: dict[str, _Running] = {}
        self._starting: dict[str, _Start] = {}
        self._tasks: anyio.abc.TaskGroup | None = None
        self.is_started = False
        """Whether the store has answered, so that there is something to answer from."""
        self.unreadable: dict[str, str] = {}
        """Why streams that were asked for cannot be read, by stream."""
        self.start_fault = "it was not asked yet"
        """Why not, as far as that is known."""

    @property
    def default_stream(self) -> str:
        """The stream of a question that names none."""
        return self._only_stream or DEFAULT_STREAM

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Follow what is asked for while the block runs."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._begin)
            tasks.start_soon(self._let_idle_go)
            try:
                yield self
            finally:
                self._tasks = None
                tasks.cancel_scope.cancel()

    def all(self) -> list[Follower]:
        """Those that run now."""
        return [running.follower for running in self._running.values()]

    def get(self, stream: str) -> Follower | None:
        """The follower of a stream that is followed already."""
        found = self._running.get(stream)
        if found is None:
            return None
        found.follower.use()
        return found.follower

    async def follow(self, stream: str) -> Follower | None:
        """The follower of a stream, with something to answer from; None when there is no such stream.

        A window that takes long to read is read on for those who ask again. Raises a CrashfoldError when the stream is
        not followed yet: Unavailable when the store is away or slow, TooManyStreams, or what the store refuses.
        """
        if self._only_stream is not None and stream != self._only_stream:
            return None
        if (follower := self.get(stream)) is not None:
            return follower
        start = self._starting.get(stream)
        if start is None:
            if self._tasks is None:
                raise StoreUnavailable("this process is about to end")
            start = self._starting[stream] = _Start()
            self._tasks.start_soon(self._start, stream, start)
        with anyio.move_on_after(START_WAIT_S):
            await start.done.wait()
        if not start.done.is_set():
            raise StoreUnavailable("the stream is still being read")
        if start.error is not None:
            raise start.error.with_traceback(None)
        return start.follower

    async def _begin(self) -> None:
        """Follow the default stream before anybody asks, as soon as the store answers."""
        fault = ""
        while True:
            try:
                await self.follow(self.default_stream)
                return
            except CrashfoldError as error:
                if str(error) != fault:
                    fault = str(error)
                    _log.warning("store_away", stream=self.default_stream, fault=fault)
                self.start_fault = fault
                await self._clock.sleep(LOOK_EVERY_S)

    async def _start(self, stream: str, start: _Start) -> None:
        """Read what the store has of a stream, and follow it."""
        try:
            start.follower = await self._started(stream)
            start.error = None
            self.unreadable.pop(stream, None)
        except StateError as error:
            start.error = error
            self._note_unreadable(stream, str(error))
        except CrashfoldError as error:
            start.error = error
        except Exception:  # whatever a stream holds is its own trouble
            _log.exception("follower_failed", stream=stream)
            start.error = StateError("the stream cannot be read; the log says why")
        finally:
            if self._starting.get(stream) is start:
                del self._starting[stream]
            start.done.set()

    def _note_unreadable(self, stream: str, fault: str) -> None:
        """The store has answered, so other streams may be answered from it; of this one it cannot be done."""
        if len(self.unreadable) < self._streams_max:
            self.unreadable[stream] = fault
        self.is_started = self.is_started or self._only_stream is None

    async def _started(self, stream: str) -> Follower | None:
        # Quicker to tell than a whole window, where the store is slow, or there is no such stream.
        if await self._reader.standing(stream) is None and stream != self._only_stream:
            self.is_started = True
            return None
        self._make_room()
        replica = None if self._replica is None else self._replica(stream)
        follower = Follower(stream, self._reader, self._clock, replica, self._new_log)
        await follower.load()
        self.is_started = True
        self._make_room()
        if self._tasks is None:
            raise StoreUnavailable("this process is about to end")
        running = self._running[stream] = _Running(follower, anyio.CancelScope())
        self._tasks.start_soon(self._run, running)
        return follower

    async def _run(self, running: _Running) -> None:
        stream = running.follower.stream
        try:
            with running.scope:
                await running.follower.run()
        except Exception:  # it is followed anew when somebody asks
            _log.exception("follower_failed", stream=stream)
        finally:
            if self._running.get(stream) is running:
                del self._running[stream]

    async def _let_idle_go(self) -> None:
        while True:
            await self._clock.sleep(self._idle_s / 4)
            for running in list(self._running.values()):
                follower = running.follower
                if follower.stream != self.default_stream and follower.idle_s > self._idle_s:
                    running.scope.cancel()

    def _make_room(self) -> None:
        """Let the follower go that was not used for longest, if there is no place. Raises TooManyStreams."""
        if len(self._running) < self._streams_max:
            return
        idle = [one for one in self.all() if one.stream != self.default_stream and not one.is_used]
        if not idle:
            raise TooManyStreams(f"{self._streams_max} streams are listened to already; try again later")
        longest = max(idle, key=lambda one: one.idle_s)
        self._running.pop(longest.stream).scope.cancel()
