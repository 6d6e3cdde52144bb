"""Events for live clients as bytes: of `/api/stream` and `/ws`, and which of them a client lacks.

Pure. Imports msgspec and the read side's own views. What is always true: a change is printed once a zone, however many
clients there are, and a client that is told everything in `Backlog.after` misses no game and sees none twice.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Final, Literal, TypeVar

import msgspec

from crashfold.engine.ports import Cursor
from crashfold.engine.read.aggregates.games import GameObject, shown
from crashfold.engine.read.fairness import TableFairness
from crashfold.engine.read.held import CHANGE_GAMES_MAX, Change
from crashfold.engine.read.times import Zone
from crashfold.engine.read.view import View
from crashfold.projections.games import Bands, Games

FRAMES_MAX: Final = 64
"""Changes kept for clients that come back or lag behind; who lacks more gets the newest state instead."""
FORMS_MAX: Final = 32
"""Forms (zones and limits) in which a change is kept printed. Further ones are printed for each client: slower, and
never more memory."""
RETRY: Final = b"retry: 2000\n\n"
"""After how many milliseconds browsers connect again."""
HEARTBEAT: Final = b":\n\n"
"""A comment: it keeps proxies from closing a quiet stream, and says that the server is still there."""
CONNECTION_ESTABLISHED: Final = '{"type":"connection_established"}'

_NO_GAMES: Final = Games.of(Bands([]), [])

EventName = Literal["commit", "snapshot"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class LiveState(msgspec.Struct, frozen=True):
    """The data of an event: games that are new since the event before, oldest first, at most the newest 100.

    `skipped` counts further new games that are left out. A snapshot has the newest games, whatever was told before.
    """

    version: int
    total_games: int
    games: list[GameObject]
    skipped: int


class NewGame(msgspec.Struct, frozen=True, tag_field="type", tag="new_game"):
    """A message of the WebSocket."""

    data: GameObject


class Frame:
    """A change as bytes for live clients: an event, or messages. Each form is printed once per zone."""

    def __init__(self, name: EventName, change: Change, since: Cursor | None, fairness: TableFairness) -> None:
        self.name = name
        self.change = change
        self.cursor = change.cursor
        self.since = since
        """The cursor of a client that lacks this change alone; None for a snapshot, which needs no cursor."""
        self._fairness = fairness
        self._events: dict[tuple[str, int], bytes] = {}
        self._messages: dict[str, tuple[str, ...]] = {}

    def event(self, zone: Zone, games_max: int = CHANGE_GAMES_MAX) -> bytes:
        """The event, with its blank line, and the newest `games_max` of its games."""
        return _kept(self._events, (zone.name, games_max), partial(self._print_event, zone, games_max))

    def messages(self, zone: Zone) -> tuple[str, ...]:
        """One message a game, in the order of `change.games`."""
        return _kept(self._messages, zone.name, partial(self._print_messages, zone))

    def _print_event(self, zone: Zone, games_max: int) -> bytes:
        change = self.change
        cut = max(0, len(change.games) - games_max)
        data = LiveState(change.cursor.version, change.total_games, self._shown(zone, cut), change.skipped + cut)
        head = f"event: {self.name}\nid: {self.cursor}\ndata: "
        return head.encode() + msgspec.json.encode(data) + b"\n\n"

    def _print_messages(self, zone: Zone) -> tuple[str, ...]:
        return tuple(msgspec.json.encode(NewGame(game)).decode() for game in self._shown(zone))

    def _shown(self, zone: Zone, cut: int = 0) -> list[GameObject]:
        """Its games but for the oldest `cut`."""
        return shown(View(_NO_GAMES, zone, 0, fairness=self._fairness), [*self.change.games[cut:]])


class Backlog:
    """The newest changes of a stream, oldest first, each building on the one before."""

    def __init__(self, fairness: TableFairness, frames_max: int = FRAMES_MAX) -> None:
        self._fairness = fairness
        self._frames_max = frames_max
        self._frames: list[Frame] = []
        self._newest: Cursor | None = None
        self._snapshot: Frame | None = None

    def begin(self, newest: Cursor) -> None:
        """Note that the changes added from here on build on `newest`."""
        self._frames.clear()
        self._newest = newest

    def add(self, change: Change) -> None:
        """Remember a change. One that does not build on the newest change starts a new backlog."""
        newest = self._newest
        if newest == change.cursor:
            return
        if newest is None or change.is_restart:
            self.begin(change.cursor)
            return
        self._frames.append(Frame("commit", change, newest, self._fairness))
        del self._frames[: -self._frames_max]
        self._newest = change.cursor

    def after(self, known: Cursor) -> Sequence[Frame] | None:
        """Return the events after the cursor `known`, oldest first; None when only a snapshot will do."""
        if self._newest == known:
            return ()
        for index in range(len(self._frames) - 1, -1, -1):
            if self._frames[index].since == known:
                return self._frames[index:]
        return None

    def snapshot(self, state: Change) -> Frame:
        """The newest state as a frame, the same one as long as it is the same state."""
        kept = self._snapshot
        if kept is None or kept.cursor != state.cursor:
            kept = self._snapshot = Frame("snapshot", state, None, self._fairness)
        return kept


def newest_id(change: Change) -> int:
    """The largest id among its games; 0 without games."""
    return max((game.game_id for game in change.games), default=0)


def _kept(printed: dict[K, T], key: K, make: Callable[[], T]) -> T:
    """Return the printed text, which is made once."""
    found = printed.get(key)
    if found is None:
        found = make()
        if len(printed) < FORMS_MAX:
            printed[key] = found
    return found
