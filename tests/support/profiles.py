"""How thorough hypothesis is: `short` by default. `HYPOTHESIS_PROFILE=long pytest tests/property` takes its time, and
`few` is for `make coverage`, which asks only whether a line is run.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("short", deadline=None, print_blob=True)
settings.register_profile(
    "few",
    deadline=None,
    print_blob=True,
    max_examples=10,
    suppress_health_check=[HealthCheck.too_slow],  # counting lines makes everything slower
)
settings.register_profile(
    "long",
    deadline=None,
    print_blob=True,
    max_examples=5_000,
    suppress_health_check=[HealthCheck.too_slow],
)


def load() -> None:
    """Take the profile that the environment names. A deadline per example would fail on a busy machine only."""
    settings.load_profile(_named())


def takes_its_time() -> bool:
    """Whether that profile is another one than `short` and `few`."""
    return _named() not in ("short", "few")


def _named() -> str:
    return os.environ.get("HYPOTHESIS_PROFILE", "short")
