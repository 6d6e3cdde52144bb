"""Provable fairness: the crash point that follows from a game's hash, whether hashes form a chain, and the chances.

Imports msgspec and the standard library only. Every function is pure; doubles are used in the order in which the
formula is written, so that the last hundredth agrees with what the site's own verifier shows.

Crash tables publish their formula for their players: they commit to a chain of hashes by making its last one known,
play it from the far end, and turn each hash into a crash point by an HMAC with a salt that was fixed after the
commitment. The formulas differ from table to table; docs/rules.md lists them with their sources.
"""

import hashlib
import hmac
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_UP, Context
from typing import Final, Literal, assert_never

import msgspec

from crashfold.schemas.game import Game

Variant = Literal["exact", "nine_digits", "bustabit_v1", "stake"]

DEFAULT_SALT: Final = "0000000000000000000301e2801a9a9598bfb114e574a91a887f2132f33047e6"
DEFAULT_VARIANT: Final[Variant] = "exact"
DEFAULT_HOUSE_EDGE_PERCENT: Final = 1.0

_BITS: Final = 52
"""Thirteen hex digits: as many as the fraction of a double holds, so X is exact."""
_NINE_DIGITS: Final = Context(prec=9, rounding=ROUND_HALF_UP)
"""Halves go up, as in the verifier's JavaScript (`toPrecision`); Python's own formatting takes the even digit."""
_BUSTABIT_V1_PERCENT: Final = 101
"""Bustabit ended one game in 101 at once, for a house edge of about 1 %."""


class Rule(msgspec.Struct, frozen=True):
    """How a table turns a hash into a crash point, and what it keeps for the house."""

    salt: str = DEFAULT_SALT
    variant: Variant = DEFAULT_VARIANT
    house_edge_percent: float = DEFAULT_HOUSE_EDGE_PERCENT

    @property
    def instant_crash_every(self) -> int | None:
        """`bustabit_v1` ends one game in so many at once: 101 at 1 %, 33 at 3 %, 20 at 5 %. None for never."""
        if self.variant != "bustabit_v1" or not self.house_edge_percent:
            return None
        return int(_BUSTABIT_V1_PERCENT / self.house_edge_percent)


DEFAULT_RULE: Final = Rule()


class TableRules:
    """The rules of one crash table: each holds from a game on, until the next one does."""

    def __init__(self, first: Rule = DEFAULT_RULE, later: Iterable[tuple[int, Rule]] = ()) -> None:
        rules = dict(((1, first), *later))
        self.first_ids: tuple[int, ...] = tuple(sorted(rules))
        """The id of the first game of each rule."""
        self.rules: tuple[Rule, ...] = tuple(rules[first_id] for first_id in self.first_ids)

    def at(self, game_id: int) -> Rule:
        """The rule that holds for a game."""
        return self.rules[bisect_right(self.first_ids, game_id) - 1]

    def begins_anew(self, game_id: int) -> bool:
        """Whether another rule holds from this game on. A new salt means a new chain: its hash need not lead to the one
        before."""
        return game_id in self.first_ids[1:]


class RuleBook:
    """The rules of every table, by stream."""

    def __init__(self, others: Rule = DEFAULT_RULE, tables: Mapping[str, TableRules] | None = None) -> None:
        self._others = TableRules(others)
        self._tables = dict(tables or {})

    def of(self, stream: str) -> TableRules:
        """The rules of a stream."""
        return self._tables.get(stream, self._others)

    def listed(self) -> list[tuple[str | None, int, Rule]]:
        """Every rule with its stream, None for all others, and its first game."""
        tables = [(None, self._others), *sorted(self._tables.items())]
        return [
            (stream, first_id, rule)
            for stream, table in tables
            for first_id, rule in zip(table.first_ids, table.rules, strict=True)
        ]

    @property
    def name(self) -> str:
        """The same for the same rules, and another for others."""
        return "\n".join(
            _name(rule) if stream is None else f"{stream}:{first_id}:{_name(rule)}"
            for stream, first_id, rule in self.listed()
        )


class Match(msgspec.Struct, frozen=True, tag=True):
    """The crash point is the one that follows from the hash."""

    calculated: float


class Mismatch(msgspec.Struct, frozen=True, tag=True):
    """The crash point is not the one that follows from the hash; None when the hash has none at all."""

    calculated: float | None


class NoHash(msgspec.Struct, frozen=True, tag=True):
    """The game came without a hash, so nothing can be said."""


Fairness = Match | Mismatch | NoHash


def crash_point(digits: str, rule: Rule = DEFAULT_RULE) -> float | None:
    """The crash point that follows from a hash (64 hex digits) and the salt (ASCII text).

    With r the first 52 bits of an HMAC-SHA256, X = r / 2^52 and e the house edge in per cent:
    `exact`, HMAC(salt, hash's bytes): max(1, ⌊(100 − e) / (1 − X)⌋ / 100).
    `nine_digits`: the same with X rounded to nine significant decimal digits; an X that rounds to 1 has none: None.
    `bustabit_v1`, HMAC(hash's text, salt): 1 where the HMAC is divisible by `instant_crash_every`, else
    ⌊(100 · 2^52 − r) / (2^52 − r)⌋ / 100.
    `stake`, HMAC(hash's text, salt), i its first 32 bits: max(1, 2^32 / (i + 1) · (1 − e / 100)), cut to hundredths.
    Raises ValueError when `digits` are not hex or the salt is not ASCII.
    """
    salt, message = rule.salt.encode("ascii"), bytes.fromhex(digits)
    match rule.variant:
        case "exact" | "nine_digits":
            x = _first_bits(hmac.digest(salt, message, "sha256")) / (1 << _BITS)
            if rule.variant == "nine_digits":
                x = float(_NINE_DIGITS.create_decimal(x))
                if x == 1:
                    return None
            return max(1.0, math.floor((100 - rule.house_edge_percent) / (1 - x)) / 100)
        case "bustabit_v1":
            mac = hmac.digest(digits.encode("ascii"), salt, "sha256")
            every = rule.instant_crash_every
            if every is not None and int.from_bytes(mac) % every == 0:
                return 1.0
            r = _first_bits(mac)
            return math.floor((100 * float(1 << _BITS) - r) / ((1 << _BITS) - r)) / 100
        case "stake":
            mac = hmac.digest(digits.encode("ascii"), salt, "sha256")
            point = (1 << 32) / (int.from_bytes(mac[:4]) + 1) * (1 - rule.house_edge_percent / 100)
            return max(1.0, math.floor(point * 100) / 100)
        case _:
            assert_never(rule.variant)


def chance_of_reaching(value: float, rule: Rule = DEFAULT_RULE) -> float:
    """The chance of a crash point of at least `value`, from 0 to 1, whatever came before: rounds are independent."""
    if value <= 1:
        return 1.0
    match rule.variant:
        case "exact" | "nine_digits" | "stake":
            return (1 - rule.house_edge_percent / 100) / value
        case "bustabit_v1":
            every = rule.instant_crash_every
            return (1 if every is None else 1 - 1 / every) * 99 / (100 * value - 1)
        case _:
            assert_never(rule.variant)


def check(game: Game, rule: Rule = DEFAULT_RULE) -> Fairness:
    """Whether the game's crash point is the one that its hash, made known before, had fixed."""
    if game.hash is None:
        return NoHash()
    calculated = crash_point(game.hash, rule)
    return Match(calculated) if calculated == game.crash_point else Mismatch(calculated)


def _name(rule: Rule) -> str:
    edge = rule.house_edge_percent
    return f"{rule.variant}:{rule.salt}" + (f":{edge}" if edge != DEFAULT_HOUSE_EDGE_PERCENT else "")


def _first_bits(mac: bytes) -> int:
    return int.from_bytes(mac[:7]) >> 7 * 8 - _BITS


def previous_hash(digits: str) -> str:
    """The hash of the game before the one with this hash: SHA-256 of its 64 characters, not of its 32 bytes."""
    return hashlib.sha256(digits.encode("ascii")).hexdigest()


def chain_holds(older: Game, newer: Game) -> bool | None:
    """Whether the hashes of two games, one right after the other, are neighbours in one chain.

    None when either has no hash. Across a hole in the ids it cannot be expected to hold.
    """
    if older.hash is None or newer.hash is None:
        return None
    return previous_hash(newer.hash) == older.hash
