"""Do games fit their hashes? Which are dead letters for it, and how many are only counted. No I/O.

Imports projections and schemas. `schemas.fairness` has the formula for one game; here stands the same for columns, for
it runs on every game of a live engine.
"""

import hashlib
from binascii import hexlify
from collections.abc import Iterator
from itertools import pairwise
from typing import Final, Literal

import msgspec
import numpy as np

from crashfold.projections.columns import Ints
from crashfold.projections.games import HASH, Games
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

    def faults(self, stream: str, known: Games, accepted: Games) -> Faults:
        """The faults among games of a stream that were accepted beside the `known` ones, none of which is among
        them."""
        rules = self._rules.of(stream)
        return Faults(self._mismatches(rules, accepted), _broken_links(rules, known, accepted))

    def _mismatches(self, rules: TableRules, games: Games) -> int:
        cuts = [*np.searchsorted(games.ids, rules.first_ids).tolist(), len(games)]
        cuts[0] = 0
        return sum(
            self._mismatches_by(rule, games.part(start, stop))
            for rule, (start, stop) in zip(rules.rules, pairwise(cuts), strict=True)
            if start < stop
        )

    def _mismatches_by(self, rule: Rule, games: Games) -> int:
        hashed = np.flatnonzero(games.columns.cells[HASH])
        if rule.variant != "exact":
            suspects = games.where(games.columns.cells[HASH] != 0).to_games()
            return sum(isinstance(fairness.check(game, rule), Mismatch) for game in suspects)
        keyed = self._keyed.get(rule)
        if keyed is None:
            keyed = self._keyed[rule] = _Keyed(rule.salt.encode("ascii"))
        macs = b"".join(map(keyed.mac, _hashes(games, hashed)))
        first_bits = np.frombuffer(macs, ">u8").astype(np.int64, copy=False) >> 64 - _BITS & (1 << _BITS) - 1
        calculated = np.floor((100 - rule.house_edge_percent) / (1 - first_bits / (1 << _BITS)))
        return int((np.maximum(calculated, 100) != games.hundredths[hashed]).sum())


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


def _broken_links(rules: TableRules, known: Games, accepted: Games) -> int:
    """How many games that have an accepted game for a neighbour, or are one, do not lead to the game before them."""
    first_ids = np.array(rules.first_ids[1:], np.int64)
    ids = accepted.ids
    after = np.flatnonzero(ids[1:] - ids[:-1] == 1) + 1
    among = _broken(first_ids, accepted, after - 1, accepted, after) if len(after) else 0
    if not len(known):
        return among
    if ids[0] > known.ids[-1]:  # in order, as nearly always
        joins = ids[0] == known.ids[-1] + 1
        return among + (_broken(first_ids, known, np.array([len(known) - 1]), accepted, np.array([0])) if joins else 0)
    below, newer = _neighbours(known, ids - 1)
    above, older = _neighbours(known, ids + 1)
    return among + _broken(first_ids, known, below, accepted, newer) + _broken(first_ids, accepted, older, known, above)


def _neighbours(known: Games, wanted: Ints) -> tuple[Ints, Ints]:
    """Where `known` has a wanted id: the positions there, and those in `wanted`."""
    at = np.searchsorted(known.ids, wanted)
    inside = np.flatnonzero(at < len(known))
    found = inside[known.ids[at[inside]] == wanted[inside]]
    return at[found], found


def _broken(first_ids: Ints, older: Games, older_rows: Ints, newer: Games, newer_rows: Ints) -> int:
    """How many of those pairs of neighbours do not fit; the games with which a rule begins need not."""
    same_rule = ~np.isin(newer.ids[newer_rows], first_ids)
    older_rows, newer_rows = older_rows[same_rule], newer_rows[same_rule]
    both = (
        ~np.isin(newer.ids[newer_rows], first_ids)
        & (older.columns.cells[HASH, older_rows] != 0)
        & (newer.columns.cells[HASH, newer_rows] != 0)
    )
    pairs = zip(_hashes(older, older_rows[both]), _hashes(newer, newer_rows[both]), strict=True)
    return sum(hashlib.sha256(hexlify(later)).digest() != earlier for earlier, later in pairs)


def _hashes(games: Games, rows: Ints) -> Iterator[bytes]:
    """The hashes of the games in those rows, all of which have one."""
    raw = np.ascontiguousarray(games.columns.cells[HASH + 1 : HASH + 5, rows].T).tobytes()
    return (raw[start : start + _HASH_BYTES] for start in range(0, len(raw), _HASH_BYTES))
