"""Is the read side alive, is it ready: `crashfold.engine.core.health.Health` over what its followers know. No I/O.

It is ready while it can answer, from the store or not: taken out of a balancer it would answer nobody. What it answers
from is in the notes.
"""

from collections.abc import Callable

from crashfold.engine.read.followers import Followers


class ApiHealth:
    """Answers for the probes. `others` says why the processes that answer on the same port do not."""

    def __init__(self, followers: Followers, others: Callable[[], list[str]] = list) -> None:
        self._followers = followers
        self._others = others
        self.stopping = False

    def live(self) -> list[str]:
        """Return no reason: a process that answers is alive, and a restart does not bring a store back."""
        return []

    def ready(self) -> list[str]:
        """Why requests should go elsewhere."""
        if self.stopping:
            return ["it is about to stop"]
        return self.started() + self._others()

    def started(self) -> list[str]:
        """Why nothing can be answered yet."""
        if self._followers.is_started:
            return []
        return [f"the store was not reached yet: {self._followers.start_fault}"]

    def notes(self) -> list[str]:
        """Return the troubles that do not keep requests from being answered."""
        notes = [f"stream {stream} cannot be read: {why}" for stream, why in sorted(self._followers.unreadable.items())]
        for follower in self._followers.all():
            if follower.channel_fault is not None:
                notes.append(f"stream {follower.stream} is looked after, not told of: {follower.channel_fault}")
            if follower.is_replica:
                notes.append(
                    f"stream {follower.stream} is a replica, {follower.age_s:.1f} s old: the store:"
                    f" {follower.store_fault or 'does not answer'}"
                )
                if follower.log_fault is not None:
                    notes.append(f"nor is the topic followed: {follower.log_fault}")
        return notes
