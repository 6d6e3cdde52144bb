"""Freed memory is kept: a block as big as an answer is had again without a page fault for each of its pages."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np
from crashfold.engine.adapters.process.malloc import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(8 << 20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
print(faults(), faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps or returns memory as it likes")
def test_memory_that_was_freed_is_there_for_the_next_answer() -> None:
    first, second = subprocess.run(
        [sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True
    ).stdout.split()
    assert int(first) > 100
    assert int(second) < 10
