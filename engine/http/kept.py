"""Kept replies: what was answered before from the state that is held now.

Imports the follower and replies. What is always true: a kept reply is of the state held now, and all kept replies
together have a bound of bytes.
"""

from typing import Final
from weakref import WeakKeyDictionary

import msgspec

from crashfold.engine.http.replies import Reply
from crashfold.engine.http.requests import ZONE_HEADER, ApiRequest
from crashfold.engine.read.follower import Follower
from crashfold.engine.read.held import HeldState

KEPT_BYTES_MAX: Final = 32 << 20
"""Of one version of a stream."""
KEPT_BYTES_IN_ALL_MAX: Final = 96 << 20
"""Of all streams."""

RequestKey = tuple[str, str, str, str, bytes]
"""Method, path, query, zone and body."""


def key_of(request: ApiRequest) -> RequestKey:
    """Everything of a request that its answer depends on."""
    return (request.method, request.path, request.query, request.headers.get(ZONE_HEADER, ""), request.body)


class KeptReply(msgspec.Struct, frozen=True):
    """An answer kept in memory, until that moment; one that was computed says afterwards that it was kept."""

    reply: Reply
    until_us: int | None


class _StateReplies:
    """The replies kept of one state."""

    def __init__(self, held: HeldState) -> None:
        self.held = held
        self.replies: dict[RequestKey, KeptReply] = {}
        self.weight = 0

    def put(self, key: RequestKey, kept: KeptReply) -> None:
        """Keep it, in the place of what it replaces, and of the oldest ones where there is no room."""
        weight = _weight(key, kept)
        if weight > KEPT_BYTES_MAX:
            return
        self._take(key)
        while self.weight + weight > KEPT_BYTES_MAX:
            self._take(next(iter(self.replies)))
        self.replies[key] = kept
        self.weight += weight

    def _take(self, key: RequestKey) -> None:
        kept = self.replies.pop(key, None)
        if kept is not None:
            self.weight -= _weight(key, kept)


class KeptReplies:
    """The replies kept of all streams. Those of a follower go with it, or when it holds something else."""

    def __init__(self) -> None:
        self._by_follower: WeakKeyDictionary[Follower, _StateReplies] = WeakKeyDictionary()

    def has_any(self, follower: Follower) -> bool:
        """Whether there is a reply of what is held now."""
        return self._of(follower) is not None

    def get(self, follower: Follower, key: RequestKey) -> KeptReply | None:
        """The reply to that request from what is held now; None when there is none."""
        replies = self._of(follower)
        return None if replies is None else replies.replies.get(key)

    def put(self, follower: Follower, key: RequestKey, kept: KeptReply) -> None:
        """Keep a reply of what is held now."""
        replies = self._of(follower) or _StateReplies(follower.held)
        self._by_follower.pop(follower, None)  # the dictionary is in order of use
        self._by_follower[follower] = replies
        replies.put(key, kept)
        all_replies = [*self._by_follower.items()]
        total = sum(replies.weight for _, replies in all_replies)
        for other, stale in all_replies[:-1]:
            if total > KEPT_BYTES_IN_ALL_MAX or stale.held is not other.held:
                total -= stale.weight
                del self._by_follower[other]

    def _of(self, follower: Follower) -> _StateReplies | None:
        replies = self._by_follower.get(follower)
        return replies if replies is not None and replies.held is follower.held else None


def _weight(key: RequestKey, kept: KeptReply) -> int:
    return len(kept.reply.body) + len(key[2]) + len(key[4]) + 1_000
