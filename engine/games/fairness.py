"""Do games fit their hashes? Which are dead letters for it, and how many are only counted. No I/O.

Imports projections and schemas. `schemas.fairness` has the formula for one game; here stands the same for columns, for
it runs on every game of a live engine.
"""

import hashlib
from binascii import hexlify
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from crashfold.projections.columns import Ints
from crashfold.projections.games import HASH, HUNDREDTHS, ID, Games, games_of
from crashfold.schemas import fairness
from crashfold.schemas.fairness import Match, Mismatch, NoHash, Rule, RuleBook, TableRules
from crashfold.schemas.game import Game

_HASH_BYTES: Final = 32
_BLOCK_BYTES: Final = 64
_BITS: Final = 52


class Faults(msgspec.Struct, frozen=True):
    """How many games have a crash point that does not follow from their hash, and how many pairs of neighbours have
    hashes of which the newer does not lead to the older."""

    hash: int = 0
    chain: int = 0

    def __add__(self, other: "Faults") -> "Faults":
        return Faults(self.hash + other.hash, self.chain + other.chain)


class Arrival(msgspec.Struct, frozen=True):
    """Games of a stream that were accepted beside the `known` ones, none of which is among them."""

    stream: str
    known: Games
    accepted: Games


class FairnessCheck:
    """The rules of one deployment. With `rejects` a game that does not fit its hash is a dead letter, otherwise it is
    folded and counted. Games without a hash are neither.

    The verdict on a game follows from its record alone, so that live, rebuild and verify agree on it. A broken chain is
    a verdict on two games and does not say which of them is wrong, so it is never more than counted.
    """

    def __init__(self, rules: RuleBook, *, rejects: bool) -> None:
        self.rejects = rejects
        self._rules = rules
        self._keyed: dict[Rule, _Keyed] = {}

    @classmethod
    def of(cls, check: Literal["off", "count", "reject"], rules: RuleBook) -> "FairnessCheck | None":
        """The check that the settings ask for; None for none."""
        return None if check == "off" else cls(rules, rejects=check == "reject")

    @property
    def rule(self) -> str:
        """Return the value of `Plan.rule`: the rules decide which games are folded, unless they only count."""
        return f"fairness:{self._rules.name}" if self.rejects else ""

    def rejection(self, stream: str, game: Game) -> str | None:
        """Why the game is a dead letter, or None."""
        if not self.rejects:
            return None
        match fairness.check(game, self._rules.of(stream).at(game.game_id)):
            case Match() | NoHash():
                return None
            case Mismatch(calculated):
                follows = "no crash point" if calculated is None else f"the crash point {calculated}"
                return f"{follows} follows from the hash, not {game.crash_point}"

    def faults(self, arrivals: Iterable[Arrival]) -> Faults:
        """The faults among games that were accepted.

        Streams with the same rules are looked at together: a hundred that have one game each take a fifth of the time.
        """
        by_rules: dict[TableRules, list[Arrival]] = {}
        for arrival in arrivals:
            by_rules.setdefault(self._rules.of(arrival.stream), []).append(arrival)
        return sum((self._faults(rules, some) for rules, some in by_rules.items()), Faults())

    def _faults(self, rules: TableRules, arrivals: Sequence[Arrival]) -> Faults:
        found = [_with_neighbours(one.known, one.accepted) for one in arrivals]
        cells = np.concatenate([piece for pieces, _ in found for piece in pieces], axis=1)
        is_new = np.concatenate([mask for _, mask in found])
        begins = np.cumsum([len(mask) for _, mask in found[:-1]], dtype=np.int64)
        hashed = cells[HASH] != 0
        return Faults(
            self._mismatches(rules, cells[:, is_new & hashed]), _broken_links(rules, cells, is_new, hashed, begins)
        )

    def _mismatches(self, rules: TableRules, cells: Ints) -> int:
        if len(rules.rules) == 1:
            return self._mismatches_by(rules.rules[0], cells)
        which = np.searchsorted(rules.first_ids, cells[ID], "right") - 1
        return sum(self._mismatches_by(rule, cells[:, which == at]) for at, rule in enumerate(rules.rules))

    def _mismatches_by(self, rule: Rule, cells: Ints) -> int:
        if rule.variant != "exact":
            return sum(isinstance(fairness.check(game, rule), Mismatch) for game in games_of(cells))
        keyed = self._keyed.get(rule)
        if keyed is None:
            keyed = self._keyed[rule] = _Keyed(rule.salt.encode("ascii"))
        macs = b"".join(map(keyed.mac, _hashes(cells)))
        first_bits = np.frombuffer(macs, ">u8").astype(np.int64, copy=False) >> 64 - _BITS & (1 << _BITS) - 1
        calculated = np.floor((100 - rule.house_edge_percent) / (1 - first_bits / (1 << _BITS)))
        return int((np.maximum(calculated, 100) != cells[HUNDREDTHS]).sum())


class _Keyed:
    """HMAC-SHA256 with the key's half of the work done once; a third of the time of hmac.digest."""

    def __init__(self, key: bytes) -> None:
        block = (hashlib.sha256(key).digest() if len(key) > _BLOCK_BYTES else key).ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def mac(self, message: bytes) -> bytes:
        """The first eight bytes of the HMAC."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()[:8]


def _with_neighbours(known: Games, accepted: Games) -> tuple[tuple[Ints, ...], NDArray[np.bool_]]:
    """The accepted games with the known ones that stand right before and behind them: cells in order of ids, in pieces,
    and which of the games are accepted."""
    cells, ids = accepted.columns.cells, accepted.ids
    if not len(known):
        return (cells,), np.ones(len(ids), np.bool_)
    if ids[0] > known.ids[-1]:  # in order, as nearly always
        is_new = np.ones(len(ids) + 1, np.bool_)
        is_new[0] = False
        return (known.columns.cells[:, -1:], cells), is_new
    at = np.searchsorted(known.ids, ids)
    near = np.unique(np.concatenate((at - 1, at)))
    near = near[(near >= 0) & (near < len(known))]
    together = np.concatenate((known.columns.cells[:, near], cells), axis=1)
    order = np.argsort(together[ID], kind="stable")
    return (together[:, order],), order >= len(near)


def _broken_links(
    rules: TableRules, cells: Ints, is_new: NDArray[np.bool_], hashed: NDArray[np.bool_], begins: Ints
) -> int:
    """How many games do not lead to the game before them, where one of the two is new. The games of another stream
    begin at each of `begins`; the game with which a rule begins leads to none."""
    ids = cells[ID]
    are_linked = (ids[1:] - ids[:-1] == 1) & (is_new[1:] | is_new[:-1]) & hashed[1:] & hashed[:-1]
    are_linked[begins - 1] = False
    if len(rules.first_ids) > 1:
        are_linked &= ~np.isin(ids[1:], rules.first_ids[1:])
    older = np.flatnonzero(are_linked)
    pairs = zip(_hashes(cells[:, older]), _hashes(cells[:, older + 1]), strict=True)
    return sum(hashlib.sha256(hexlify(later)).digest() != earlier for earlier, later in pairs)


def _hashes(cells: Ints) -> Iterator[bytes]:
    """The hashes of the games, all of which have one."""
    raw = np.ascontiguousarray(cells[HASH + 1 : HASH + 5].T).tobytes()
    return (raw[start : start + _HASH_BYTES] for start in range(0, len(raw), _HASH_BYTES))
