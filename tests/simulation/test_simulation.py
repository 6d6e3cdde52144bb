"""Whatever happens, the store ends up with what the topic says, or the engine says why not and `replay` mends it.

A few schedules; `make simulate` plays thousands.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation import schedule
from tests.simulation.play import Failed, play

ROOT = Path(__file__).parents[2]
DIGESTS = """
from tests.simulation import schedule
from tests.simulation.play import play
print(*(play(seed, schedule.DEFAULT).digest for seed in range(40, 60)))
"""


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_all_is_well_in_the_end(seed: int) -> None:
    play(seed, schedule.DEFAULT)


def test_a_seed_is_the_same_run_each_time_whatever_python_hashes() -> None:
    runs = [
        subprocess.run(
            [sys.executable, "-c", DIGESTS],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert len(set(runs[0].split())) == 20


def test_a_failure_says_what_happened_and_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulation.history.Told.total", lambda told, stream, next_offset: -1)

    with pytest.raises(Failed, match=r"(?s)commit.*seed 3: .*make simulate SEEDS=3"):
        play(3, schedule.DEFAULT)
