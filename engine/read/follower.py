"""The follower: keeps what one process holds of one stream up with the read model.

Imports the ports, their facts, projections and schemas. What is always true: the state held is of exactly one version
and is replaced in one assignment, so an answer that takes it once is of one version. Reads are monotonic: a store that
has lost writes is waited for, and only after `HOLD_S` taken at its word.

While the store is away the follower reads the topic instead, where it can be reached: games are folded into the window
as the engine folds them, beyond the version that was last read. Versions are the store's own, so such a state names the
last version known, says that it is a replica, and has a cursor of its own.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from typing import Final, Literal

import anyio
import anyio.abc
import structlog

from crashfold.engine.errors import CrashfoldError, Unavailable
from crashfold.engine.ports import Clock, Cursor, EventLog, LiveReader, Standing, Updates
from crashfold.engine.read.held import NO_BANDS, Change, HeldState, change_between
from crashfold.engine.read.replica import Replica
from crashfold.engine.read.subscription import Subscribers, Subscription
from crashfold.engine.read.window import appended, decoded_games, prove
from crashfold.projections.games import Games

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

Verdict = Literal["same", "ahead", "behind"]

_log = structlog.get_logger()


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
        self._held = HeldState(Standing("", 0, "", 0, 0, 0, 0, ""), Games.empty(NO_BANDS))
        self._subscribers = Subscribers()
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

    @property
    def held(self) -> HeldState:
        """Return the window held now. Take it once for an answer: the next call may give a newer one."""
        return self._held

    @property
    def store_fault(self) -> str | None:
        """Why the state held is not that of the store: the store is away, or has lost it. None while all is well."""
        return self._fault

    @property
    def log_fault(self) -> str | None:
        """Why the topic cannot be followed in place of the store; None while it is followed, or need not be."""
        return self._log_fault

    @property
    def is_replica(self) -> bool:
        """Whether the state held may differ from that of the store."""
        return self._fault is not None or self.age_s > SILENT_S

    @property
    def age_s(self) -> float:
        """The seconds since the state held was last known to be the newest."""
        return max(0.0, self._clock.monotonic_s() - self._confirmed_s)

    @property
    def channel_fault(self) -> str | None:
        """Why no updates arrive, so that the follower looks for new versions by itself; None while they arrive."""
        return self._channel_fault

    @property
    def is_used(self) -> bool:
        """Whether a live client uses the follower."""
        return self._users > 0

    @property
    def idle_s(self) -> float:
        """The seconds since somebody used the follower."""
        return 0.0 if self._users else self._clock.monotonic_s() - self._used_s

    def use(self) -> None:
        """Note that somebody uses the follower."""
        self._used_s = self._clock.monotonic_s()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Note that somebody uses the follower while the block runs."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self.use()

    def snapshot(self) -> Change:
        """Return the first change for a new subscriber: the newest games."""
        return self._held.snapshot()

    def subscribe(self) -> AbstractAsyncContextManager[Subscription]:
        """Subscribe to changes. To miss none, take a snapshot inside the block before you await anything."""
        return self._subscribers.subscribed()

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
        """Keep up with the read model until cancelled. No fault of the store or the topic ends this."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._follow_store)
                if self._replica is not None and self._new_log is not None:
                    tasks.start_soon(self._follow_log, self._replica, self._new_log)
        finally:
            self._subscribers.end()

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
                            self._hold(HeldState(now.standing, now.window, base))
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
        window = await appended(held, part) if self._is_continuous else None
        if window is None:
            part = await self._reader.read_window(self.stream, 0)
            if part is None:
                return
            window = await decoded_games(part.games)
            prove(part, window)
        # Meanwhile the topic may have been folded further than the store was then.
        if self._held is held or self._compare(part.standing) == "ahead":
            self._reached = 0
            self._hold(HeldState(part.standing, window))
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

    def _hold(self, held: HeldState) -> None:
        """Replace what is held, and tell."""
        before, self._held = self._held, held
        if self._subscribers:
            self._subscribers.put(change_between(before, held))
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
