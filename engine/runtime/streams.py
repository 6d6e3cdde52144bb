"""The streams that an engine has in memory: loaded when one is met, let go when memory is wanted for others.

Imports ports and core. What is always true: the state of a stream is the fold of exactly the records below
its `next_offset`, and `committed` what the store has of it.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from crashfold.engine.errors import FingerprintMismatch, StateError, StreamMoved, TopicRecreated
from crashfold.engine.ports import Checkpoint, Folding, Position, State, StateStore, Stored
from crashfold.engine.runtime.retry import Retry
from crashfold.schemas import keys

GAME_BYTES: Final = 88
"""Bytes that a game of the window takes in memory."""
STREAM_GAMES: Final = 120
"""As many games the objects of a stream take that has hardly any."""
WEIGHED_EVERY: Final = 8
"""Games at least between two looks at what a stream takes: a look at each game takes 2 % of a commit of one."""


class CommitConflict(msgspec.Struct, frozen=True):
    """A stream that does not stand where it was committed here last: at `stored`."""

    stream: str
    partition: int
    stored: Position | None


class Stream:
    """A stream in memory: what is committed, and what is folded beyond it but not yet committed."""

    def __init__(self, name: str, partition: int, state: State, checkpoint: Checkpoint | None) -> None:
        self.name = name
        self.partition = partition
        self.committed = self.state = state
        self.checkpoint = checkpoint
        self.kept = state.games
        self.next_offset = 0 if checkpoint is None else checkpoint.next_offset
        self.generation = None if checkpoint is None else checkpoint.generation
        self.first_offset = None if checkpoint is None else checkpoint.first_offset
        self._weigh()

    @property
    def weight(self) -> int:
        """The memory of a stream, in games of the window: series and last games often take more than the window."""
        return self._weight + self.state.games_held - self._games_weighed

    def stands_at(self, position: Position | None) -> bool:
        """Whether this is the stream as it is stored at that position, with nothing folded that must be read again."""
        if position is None:
            return self.checkpoint is None
        return self.checkpoint is not None and (
            self.checkpoint.position == position and self.next_offset <= position.next_offset
        )

    def _weigh(self) -> None:
        """Look at what it takes, behind the first commit and then each time that it has grown by an eighth."""
        state = self.committed
        self._weight, self._games_weighed = STREAM_GAMES + state.bytes_held // GAME_BYTES, state.games_held
        self._weigh_at = state.games + state.games // 8 + WEIGHED_EVERY if state.games else 1

    def settle(self, checkpoint: Checkpoint) -> None:
        """Note that the folded games are committed."""
        self.committed, self.checkpoint, self.kept = self.state, checkpoint, self.state.games
        self.generation = checkpoint.generation
        if self.state.games >= self._weigh_at:
            self._weigh()


def restored(name: str, folding: Folding, stored: Stored) -> State:
    """The state that is stored of the stream. Raises StateError when it does not prove itself: the base, the blocks and
    the window must come to as many games as the checkpoint says, and the window must be as long as it can be."""
    try:
        state = folding.load(stored.state, stored.window)
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, msgspec.MsgspecError) as error:
        fault = f"cannot be read ({error or type(error).__name__})"
    else:
        total, window = stored.total_games, min(stored.total_games, folding.window_games)
        if len(stored.window) != window:
            fault = f"has {len(stored.window)} games in `{keys.GAMES}`, not {window}"
        elif state.games != total:
            fault = f"has {state.games} games in `{keys.CHECKPOINT}` and `{keys.GAMES}`, not {total}"
        else:
            return state
    raise StateError(f"the stored state of stream {name} {fault}. Rebuild it by `crashfold replay --stream {name}`.")


class Streams:
    """Those in memory, the one used longest ago first; those in `touched` are folded beyond what is committed."""

    def __init__(self, store: StateStore, retry: Retry, folding: Folding, topic: str) -> None:
        self._store = store
        self._retry = retry
        self._folding = folding
        self._topic = topic
        self._held: dict[str, Stream] = {}
        self._weights: dict[str, int] = {}
        self.weight = 0
        """Of all of them, in games."""
        self.touched: dict[str, Stream] = {}
        self.fallen: dict[str, CommitConflict] = {}
        """Those of which the store has less than was committed."""

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._held.values())

    def __len__(self) -> int:
        return len(self._held)

    def get(self, name: str) -> Stream | None:
        """The stream, if it is in memory."""
        return self._held.get(name)

    def use(self, stream: Stream) -> None:
        """Hold the stream, as the one used last."""
        self._held.pop(stream.name, None)
        self._held[stream.name] = stream
        self._weigh(stream)

    def move(self, stream: Stream, next_offset: int) -> None:
        """Let the stream's checkpoint stand there with the next commit; never further back than it is."""
        if next_offset > stream.next_offset:
            stream.next_offset = next_offset
            self.touched[stream.name] = stream
            self._weigh(stream)

    def forget(self, name: str) -> None:
        """Drop the stream from memory; it is loaded again when its next record comes."""
        self._held.pop(name, None)
        self.touched.pop(name, None)
        self.weight -= self._weights.pop(name, 0)

    def take_fallen(self) -> list[CommitConflict]:
        """Those that have fallen behind; the caller has them read again."""
        fallen, self.fallen = list(self.fallen.values()), {}
        return fallen

    def forget_partition(self, number: int) -> None:
        """Drop the streams of that partition."""
        for name in [name for name, stream in self._held.items() if stream.partition == number]:
            self.forget(name)
        for name in [name for name, conflict in self.fallen.items() if conflict.partition == number]:
            del self.fallen[name]

    def forget_idle(self, games_held_max: int) -> None:
        """Let go of the streams that were used longest ago when too many games are held; the store has them."""
        for name in list(self._held)[:-1]:
            if self.weight <= games_held_max:
                return
            if name not in self.touched:
                self.forget(name)

    def _weigh(self, stream: Stream) -> None:
        """Bring the sum up to date: the stream has grown, or is met for the first time."""
        if self._held.get(stream.name) is stream:
            weight = stream.weight
            self.weight += weight - self._weights.get(stream.name, 0)
            self._weights[stream.name] = weight

    def new(self, name: str, number: int) -> Stream:
        """A stream of which nothing is stored."""
        return Stream(name, number, self._folding.empty(), None)

    async def load(self, name: str, number: int) -> Stream:
        """The stream as it is stored, or empty. Raises a StateError when it does not fit."""
        stored = await self._retry.with_store(lambda: self._store.load(name))
        if stored is None:
            return self.new(name, number)
        self.check(name, stored.checkpoint)
        if stored.checkpoint.partition != number:
            self.refuse_to_move(name, stored.checkpoint.partition, number)
        return Stream(name, number, restored(name, self._folding, stored), stored.checkpoint)

    def refuse_to_move(self, name: str, home: int, number: int) -> None:
        """Raise StreamMoved."""
        raise StreamMoved(
            f"stream {name} lives on partition {home} of {self._topic} but turned up on partition {number}: were "
            "partitions added? Its order is lost across partitions. Publish it to one partition of a new topic, set "
            "kafka.topic to that, and rebuild by `crashfold replay`."
        )

    def check(self, name: str, checkpoint: Checkpoint) -> None:
        """Raise a StateError when the checkpoint is of other settings or of another topic."""
        if checkpoint.fingerprint != self._folding.fingerprint:
            raise FingerprintMismatch(
                f"stream {name} was folded with other predicates, sizes, projections or rules than these settings "
                "have. Rebuild it with them by `crashfold replay`, or put the settings back."
            )
        if checkpoint.topic != self._topic:
            raise TopicRecreated(
                f"stream {name} was folded from topic {checkpoint.topic}, not from {self._topic}. Rebuild it from "
                "this one by `crashfold replay`, or set kafka.topic back."
            )
