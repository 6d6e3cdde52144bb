"""`MemoryRateLimits`: the twin of `RedisRateLimits`, by the clock it is given."""

from crashfold.engine.ports import Clock


class MemoryRateLimits:
    """`RateLimits` of one process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._full_s: dict[str, float] = {}

    async def take(self, client: str, per_minute: int) -> float:
        """See `RateLimits`."""
        now_s, each_s = self._clock.monotonic_s(), 60 / per_minute
        full_s = min(max(self._full_s.get(client, 0.0), now_s), now_s + 60)
        wait_s = full_s + each_s - now_s - 60
        if wait_s > 0:
            return wait_s
        self._full_s[client] = full_s + each_s
        return 0.0
