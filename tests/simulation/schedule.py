"""A schedule: everything that will happen in one simulated run, drawn from one seed before it begins.

Imports the tests' games. To add a fault: an event here, with how often it happens; what it does in `play.py`; and, if
the engine may stop because of it, the excuse that it gives.
"""

from collections.abc import Callable, Collection
from random import Random
from typing import Final, NamedTuple

from crashfold.engine.adapters.memory.log import GROUP_ID
from crashfold.engine.runtime.pacing import EngineLimits
from crashfold.engine.runtime.streams import STREAM_GAMES
from crashfold.schemas.game import Game
from tests.simulation.servers import Server
from tests.support.games import json_game, random_arrivals

STREAMS: Final = ("a", "b", "c", "d")
OTHER_GROUP: Final = "another"
AWAITS_MAX: Final = 40
"""A process is killed up to so many turns of the loop after the moment that was drawn: so at every await."""


class Arrive(NamedTuple):
    """So many of the next games of a stream reach the topic."""

    stream: int
    games: int


class Litter(NamedTuple):
    """A record that is no game of ours."""

    partition: int
    key: bytes | None
    value: bytes | None


class Hole(NamedTuple):
    """Offsets without records, as transactions leave them."""

    partition: int


class Kill(NamedTuple):
    """An engine is killed (SIGKILL); it is started again some time later."""

    engine: int
    after: int
    back_s: float


class Stop(NamedTuple):
    """An engine is told to stop (SIGTERM); it is started again some time later."""

    engine: int
    after: int
    back_s: float


class Freeze(NamedTuple):
    """An engine gets no turn for a while (SIGSTOP), and becomes a zombie if its group waits for it no longer."""

    engine: int
    after: int
    for_s: float


class Rebalance(NamedTuple):
    """All partitions are dealt out anew, after so many turns of the loop."""

    after: int


class Evict(NamedTuple):
    """An engine is thrown out of the group and does not know."""

    engine: int


class EndReader(NamedTuple):
    """An instance of the read side is killed, and started again some time later; or it is only frozen for a while."""

    instance: int
    back_s: float
    only_frozen: bool


class Replay(NamedTuple):
    """A rebuild of a stream or of all; it is killed after so many turns of the loop, if at all."""

    stream: int | None
    killed_after: int | None
    to_offset: float | None
    """A share of what is there, if it is to go back."""
    dry_run: bool


class Trouble(NamedTuple):
    """For a while some calls are refused, lost, late, or lose their replies."""

    likely: float
    for_s: float


class Slow(NamedTuple):
    """For a while everything takes so many times as long."""

    times: float
    for_s: float


class Away(NamedTuple):
    """A server cannot be reached for a while."""

    server: Server
    for_s: float


class ReadOnly(NamedTuple):
    """For a while the store refuses every write: out of memory, a replica, loading."""

    for_s: float


class Forbid(NamedTuple):
    """For a while a server refuses for good: a right was taken away, and is given back."""

    server: Server
    for_s: float


class ListenerFails(NamedTuple):
    """Something goes wrong in an engine's rebalance listener: its log says so once, and connects anew."""

    engine: int


class AddPartition(NamedTuple):
    """The topic gets a partition more, with so many records of a stream of its own."""

    games: int


class Remember(NamedTuple):
    """A replica of the store stays behind: it has what the store has now."""


class RollBack(NamedTuple):
    """The store loses its last writes: it has again what a replica has that stayed behind."""

    replica: int


class Fork(NamedTuple):
    """The store fails over to another one that stayed behind or lived on by itself; what was there lives on by itself,
    to be failed back to."""

    replica: int


class Empty(NamedTuple):
    """The store loses everything."""


class Spoil(NamedTuple):
    """A key of a stream is lost or spoiled."""

    stream: int
    damage: str


class Truncate(NamedTuple):
    """Retention removes a share of a partition."""

    partition: int
    share: float


class Recreate(NamedTuple):
    """The topic is deleted and made anew, with this share of the same records at its beginning and some of others."""

    same: float
    others: int


Event = (
    Arrive
    | Litter
    | Hole
    | Kill
    | Stop
    | Freeze
    | Rebalance
    | Evict
    | EndReader
    | Replay
    | Trouble
    | Slow
    | Away
    | ReadOnly
    | Forbid
    | ListenerFails
    | AddPartition
    | Remember
    | RollBack
    | Fork
    | Empty
    | Spoil
    | Truncate
    | Recreate
)

DAMAGES: Final = ("no games", "half of the games", "a game that is none", "no base", "all of its keys")


class Schedule(NamedTuple):
    """One simulated run."""

    seed: int
    partitions: int
    only: str | None
    groups: tuple[str | None, ...]
    """The group of each engine; None: it holds everything, whoever else does."""
    instances: int
    """Of the read side; each stream has twice as many live clients."""
    limits: EngineLimits
    games: list[list[Game]]
    events: list[tuple[float, Event]]


def schedule_of(seed: int, kinds: Collection[str]) -> Schedule:
    """The schedule of that number. Only kinds of events that are named in `kinds` happen."""
    chance = Random(seed)
    only = STREAMS[0] if chance.random() < 0.4 else None
    engines = chance.choice((1, 1, 2, 2, 3))
    groups = tuple(GROUP_ID if n == 0 or chance.random() < 0.6 else OTHER_GROUP for n in range(engines))
    games = [random_arrivals(chance, chance.randint(5, 60)) for _ in STREAMS[: 1 if only else chance.randint(1, 4)]]
    limits = EngineLimits(
        batch_games_max=chance.choice((1, 3, 10, 100)),
        linger_ms=chance.choice((0, 0, 5)),
        games_held_max=chance.choice((2 * STREAM_GAMES, 10**9)),
        poll_wait_s=chance.choice((0.05, 0.5)),
        streams_at_once=chance.choice((16, 1, 2)),
    )
    names = [name for name in _EVENTS if name in kinds]
    # Each schedule is fond of some faults and knows nothing of others: so that they meet in every combination.
    weights = [_EVENTS[name][1] * (1 if name in WORK else chance.choice((0, 0, 1, 1, 3))) for name in names]
    length_s = chance.choice((3.0, 8.0, 15.0))
    moments = sorted(chance.uniform(0, length_s) for _ in range(chance.randint(5, 40)))
    drawn = chance.choices(names, weights, k=len(moments))
    events = [(at_s, _EVENTS[name][0](chance)) for at_s, name in zip(moments, drawn, strict=True)]
    partitions = chance.randint(1, 3)
    instances = chance.choice((0, 0, 1, 2)) if "read" in kinds else 0
    return Schedule(seed, partitions, only, groups, instances, limits, games, events)


def _after(chance: Random) -> int:
    return chance.choice((0, chance.randint(0, AWAITS_MAX)))


def _litter(chance: Random) -> Litter:
    key = chance.choice((b"", b"a b", b"\xff", b"x" * 65, None, b"a", b"z"))
    named = key in (None, b"a", b"z")
    values = (None, b"", b"{}", b'{"game_id":1}', json_game(crash_point=0.5), *(() if named else (json_game(),)))
    return Litter(chance.randint(0, 2), key, chance.choice(values))


def _replay(chance: Random) -> Replay:
    return Replay(
        chance.choice((None, chance.randrange(4))),
        chance.choice((None, None, chance.randint(0, 4 * AWAITS_MAX))),
        chance.choice((None, None, None, chance.random())),
        chance.random() < 0.1,
    )


_EVENTS: Final[dict[str, tuple[Callable[[Random], Event], int]]] = {
    "arrive": (lambda c: Arrive(c.randrange(4), c.randint(1, 12)), 40),
    "litter": (_litter, 6),
    "hole": (lambda c: Hole(c.randrange(3)), 3),
    "kill": (lambda c: Kill(c.randrange(3), _after(c), c.uniform(0, 1)), 8),
    "stop": (lambda c: Stop(c.randrange(3), _after(c), c.uniform(0, 1)), 4),
    "freeze": (lambda c: Freeze(c.randrange(3), _after(c), c.uniform(0.1, 4)), 6),
    "rebalance": (lambda c: Rebalance(_after(c)), 5),
    "evict": (lambda c: Evict(c.randrange(3)), 4),
    "end-reader": (lambda c: EndReader(c.randrange(2), c.uniform(0.1, 2), c.random() < 0.5), 4),
    "replay": (_replay, 5),
    "trouble": (lambda c: Trouble(c.choice((0.05, 0.3)), c.uniform(0.5, 4)), 8),
    "slow": (lambda c: Slow(c.choice((10.0, 60.0)), c.uniform(0.5, 3)), 4),
    "away": (lambda c: Away(c.choice(("store", "log", "letters")), c.uniform(0.2, 4)), 6),
    "read-only": (lambda c: ReadOnly(c.uniform(0.2, 4)), 4),
    "forbid": (lambda c: Forbid(c.choice(("store", "store", "log", "letters")), c.uniform(0.2, 3)), 3),
    "listener": (lambda c: ListenerFails(c.randrange(3)), 3),
    "add-partition": (lambda c: AddPartition(c.randint(0, 5)), 2),
    "remember": (lambda c: Remember(), 8),
    "roll-back": (lambda c: RollBack(c.randrange(8)), 6),
    "fork": (lambda c: Fork(c.randrange(8)), 8),
    "empty": (lambda c: Empty(), 2),
    "spoil": (lambda c: Spoil(c.randrange(4), c.choice(DAMAGES)), 3),
    "truncate": (lambda c: Truncate(c.randrange(3), c.random()), 3),
    "recreate": (lambda c: Recreate(c.choice((0.0, 0.0, c.random(), 1.0)), c.choice((0, 3, 30))), 2),
}
"""What happens: how it is drawn, and how often it happens in a schedule that is fond of it."""
WORK: Final = frozenset(("arrive", "litter", "hole"))

ALL: Final = frozenset((*_EVENTS, "read"))
"""All kinds of events, and that there are readers at all."""
PENDING: Final[frozenset[str]] = frozenset()
"""What the engine is known not to survive yet; it happens only when asked for by name."""
DEFAULT: Final = ALL - PENDING
