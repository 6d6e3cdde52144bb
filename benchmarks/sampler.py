"""Samples of the running code, one every few milliseconds of CPU time, sorted into stages.

The kernel's profiling timer interrupts the process; what it does then is the innermost function on the stack that
belongs to a stage. The program is the one that is measured elsewhere, and goes on as it would: a sample costs some µs.
"""

import signal
from collections import Counter
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import msgspec

EVERY_S = 0.002

WRITES = {"delta", "_created", "keys"}
"""The methods of a `StreamState` below which everything is the making of writes."""
STAGES: tuple[tuple[str, str], ...] = (
    ("engine/adapters/kafka/records.py", "walk the records"),
    ("aiokafka/record/", "walk the records"),
    ("engine/adapters/kafka", "fetch"),
    ("aiokafka/", "fetch"),
    ("schemas/game.py", "decode"),
    ("projections/decoding.py", "decode"),
    ("engine/core/batch.py", "split by stream"),
    ("engine/games/fairness.py", "check hashes"),
    ("projections/sift.py", "sift"),
    ("projections/occurrences.py", "fold occurrences"),
    ("projections/intervals.py", "fold intervals"),
    ("projections/series.py", "fold series"),
    ("projections/last_games.py", "fold last games"),
    ("projections/gaps.py", "fold gaps"),
    ("projections/stream.py", "fold, what is shared"),
    ("engine/adapters/redis/packing.py", "pack"),
    ("engine/adapters/redis", "commit"),
    ("redis/", "commit"),
    ("importlib", "imports"),
    ("engine/runtime/", "the line itself"),
)
"""What the path of a module holds, and its stage. Modules that are in none (columns, packed bytes, sockets) count for
whoever called them; what nobody of these called is the event loop's."""

_PACKAGES = Path(__file__).parents[1]


class Profile(msgspec.Struct, frozen=True):
    """Samples by stage, and by function."""

    stages: dict[str, int]
    functions: dict[str, int]

    @property
    def samples(self) -> int:
        """All of them."""
        return sum(self.stages.values())


class Sampler:
    """Samples this process, whose main thread it has to be entered in, until it is left."""

    def __init__(self) -> None:
        self._stages: Counter[str] = Counter()
        self._functions: Counter[str] = Counter()

    def __enter__(self) -> Self:
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    @property
    def profile(self) -> Profile:
        """What has been sampled."""
        return Profile(dict(self._stages), dict(self._functions))

    def _sample(self, _signal: int, frame: FrameType | None) -> None:
        stage: str | None = None
        if frame is not None:
            self._functions[f"{_short(frame)}: {frame.f_code.co_name}"] += 1
        while frame is not None:
            path = frame.f_code.co_filename
            if path.endswith("projections/stream.py") and frame.f_code.co_name in WRITES:
                stage = "delta"
            elif stage is None:
                stage = next((stage for part, stage in STAGES if part in path), None)
            frame = frame.f_back
        self._stages[stage or "event loop"] += 1


def _short(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    if path.is_relative_to(_PACKAGES) and "site-packages" not in path.parts:
        return str(path.relative_to(_PACKAGES))
    return "/".join(path.parts[-2:])
