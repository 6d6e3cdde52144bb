"""Garbage collection for a process that holds millions of objects for long: it looks at what is new.

Imports the standard library. State is freed by reference counting, for it has no cycles; what has some (tasks,
exceptions) does not live long. But the collector looks at everything that is alive again and again: with 10,000 streams
it stopped the engine for half a second each time. So whatever outlives a full collection is set aside, and looked at
again only once in a while.
"""

import gc
import time
from collections.abc import Callable
from typing import Any, Final

YOUNG_MAX: Final = 10_000
"""So many objects more than were freed, and the youngest are looked at; 700 is what Python begins with."""
ALL_EVERY_S: Final = 3600.0
"""How often everything is looked at, for cycles that were set aside while they were in use."""


def look_at_what_is_new(monotonic_s: Callable[[], float] = time.monotonic) -> None:
    """Begin; objects that were made so far are set aside too."""
    all_due_s = monotonic_s() + ALL_EVERY_S

    def collecting(phase: str, info: dict[str, Any]) -> None:
        nonlocal all_due_s
        if info["generation"] < 2:
            return
        if phase == "start" and monotonic_s() >= all_due_s:
            all_due_s = monotonic_s() + ALL_EVERY_S
            gc.unfreeze()
        elif phase == "stop":
            gc.freeze()

    gc.set_threshold(YOUNG_MAX, *gc.get_threshold()[1:])
    gc.callbacks.append(collecting)
    gc.freeze()
