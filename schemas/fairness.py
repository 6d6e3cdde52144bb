"""Provable fairness: the crash point that follows from a game's hash, and whether hashes form a chain.

Imports msgspec and the standard library only. Every function is pure; doubles are used in the order in which the
formula is written, so that the last hundredth agrees with what the site's own verifier shows.

The formula is the one that crash tables publish for their players: they commit to a chain of hashes by making its last
one known, play it from the far end, and turn each hash into a crash point by an HMAC with a salt that was fixed after
the commitment. docs/rules.md has it in one place.
"""

import hashlib
import hmac
import math
from decimal import ROUND_HALF_UP, Context
from typing import Final, Literal, assert_never

import msgspec

from crashfold.schemas.game import Game

Variant = Literal["exact", "nine_digits"]

DEFAULT_SALT: Final = "0000000000000000000301e2801a9a9598bfb114e574a91a887f2132f33047e6"
DEFAULT_VARIANT: Final[Variant] = "exact"

_BITS: Final = 52
"""Thirteen hex digits: as many as the fraction of a double holds, so X is exact."""
_NINE_DIGITS: Final = Context(prec=9, rounding=ROUND_HALF_UP)
"""Halves go up, as in the verifier's JavaScript (`toPrecision`); Python's own formatting takes the even digit."""


class Match(msgspec.Struct, frozen=True, tag=True):
    """The crash point is the one that follows from the hash."""

    calculated: float


class Mismatch(msgspec.Struct, frozen=True, tag=True):
    """The crash point is not the one that follows from the hash; None when the hash has none at all."""

    calculated: float | None


class NoHash(msgspec.Struct, frozen=True, tag=True):
    """The game came without a hash, so nothing can be said."""


Fairness = Match | Mismatch | NoHash


def crash_point(digits: str, salt: str = DEFAULT_SALT, variant: Variant = DEFAULT_VARIANT) -> float | None:
    """The crash point that follows from a hash (64 hex digits) and the salt (ASCII text).

    With r the first 52 bits of HMAC-SHA256(salt, hash) and X = r / 2^52 it is max(1, ⌊99 / (1 − X)⌋ / 100): the chance
    to reach x is 0.99 / x. The variant `nine_digits` first rounds X to nine significant decimal digits, which shows at
    high crash points only; an X that rounds to 1 has no crash point: None. Raises ValueError when `digits` are not hex
    or the salt is not ASCII.
    """
    mac = hmac.digest(salt.encode("ascii"), bytes.fromhex(digits), "sha256")
    x = (int.from_bytes(mac[:7], "big") >> 7 * 8 - _BITS) / (1 << _BITS)
    match variant:
        case "exact":
            pass
        case "nine_digits":
            x = float(_NINE_DIGITS.create_decimal(x))
            if x == 1:
                return None
        case _:
            assert_never(variant)
    return max(1.0, math.floor(99 / (1 - x)) / 100)


def check(game: Game, salt: str = DEFAULT_SALT, variant: Variant = DEFAULT_VARIANT) -> Fairness:
    """Whether the game's crash point is the one that its hash, made known before, had fixed."""
    if game.hash is None:
        return NoHash()
    calculated = crash_point(game.hash, salt, variant)
    return Match(calculated) if calculated == game.crash_point else Mismatch(calculated)


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
