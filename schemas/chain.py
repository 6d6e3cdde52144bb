"""A provably fair chain of games out of a seed, for the demo, the tests and the benchmarks.

Imports the standard library only, beside schemas. The same arguments give the same games, on every machine.
"""

import math
from binascii import hexlify
from collections.abc import Iterator
from hashlib import sha256
from typing import Final

from crashfold.schemas.fairness import DEFAULT_RULE, Rule, crash_point
from crashfold.schemas.game import HUNDREDTHS_MAX, Game

FIRST_BEGIN_TIME_MS: Final = 1_767_225_605_000
"""Five seconds into the year 2026 (UTC): the first round is prepared at midnight."""
PREPARE_MS: Final = 5_000
"""From the start of a round's preparation to its take-off."""

_GROWTH_PER_S: Final = 0.06
"""The multiplier grows by e^(0.06 t), so a round that crashes at x is ln(x) / 0.06 seconds in the air."""
_PAUSE_MS: Final = 1_000
_JITTER_MS: Final = 512
_CRASH_POINT_MAX: Final = HUNDREDTHS_MAX / 100
_DIGEST_BYTES: Final = 32


def chain_of_games(
    seed: int,
    games: int,
    *,
    first_id: int = 1,
    first_begin_time_ms: int = FIRST_BEGIN_TIME_MS,
    rule: Rule = DEFAULT_RULE,
) -> Iterator[Game]:
    """`games` games with ids from `first_id` on, oldest first, whose hashes form a chain and fix their crash points.

    Every game ends after the one before. The chain is made from its newest hash backwards before the first
    game comes out: 32 bytes of memory a game. About one hash in 10^9 has a crash point above 10^9, or none at
    all: such a game ends at 10^9, which is no match.
    """
    hashes = _chain(seed, games)
    begin_time = first_begin_time_ms
    for game_id in range(first_id, first_id + games):
        start = (game_id - first_id) * _DIGEST_BYTES
        digest = hashes[start : start + _DIGEST_BYTES]
        digits = digest.hex()
        point = crash_point(digits, rule)
        if point is None or point > _CRASH_POINT_MAX:
            point = _CRASH_POINT_MAX
        # The hash is as good a source of chance as any, and ties the times to the seed.
        end_time = begin_time + 1 + round(math.log(point) / _GROWTH_PER_S * 1000) + digest[-1] * _JITTER_MS // 256
        yield Game(
            game_id=game_id,
            hash=digits,
            crash_point=point,
            prepare_time=begin_time - PREPARE_MS,
            begin_time=begin_time,
            end_time=end_time,
        )
        begin_time = end_time + _PAUSE_MS + digest[-2] * _JITTER_MS // 256 + PREPARE_MS


def _chain(seed: int, games: int) -> bytes:
    """The hashes of the games one after the other, oldest first. The one after the newest is the seed's own."""
    hashes = bytearray(games * _DIGEST_BYTES)
    digest = sha256(b"crashfold chain %d" % seed).digest()
    for stop in range(len(hashes), 0, -_DIGEST_BYTES):
        digest = sha256(hexlify(digest)).digest()
        hashes[stop - _DIGEST_BYTES : stop] = digest
    return bytes(hashes)
